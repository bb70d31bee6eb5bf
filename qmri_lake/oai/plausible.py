"""Ranges of lengths and echo times that a whole-body MR scanner can produce."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qmri_lake.errors import InputError, Reason

__all__ = [
    "ECHO_TIME",
    "FIELD_OF_VIEW",
    "PIXEL_SPACING",
    "SLICE_STEP",
    "Range",
    "check_field_of_view",
    "check_ranges",
]

_LENGTHS = {"metres": 1e3, "centimetres": 10.0, "micrometres": 1e-3}
_TIMES = {"seconds": 1e3, "microseconds": 1e-3}


@dataclass(frozen=True, slots=True)
class Range:
    """Range of one header element.

    A value in another unit is recognised by the usual range: 0.01 ms is out of range, and 0.01 s is
    a usual echo time.
    """

    element: str
    low: float
    high: float
    usual: tuple[float, float]
    unit: str = "mm"

    def fault(self, value: float, where: str) -> InputError | None:
        """Return an error if `value` is out of range, with a guess of its unit."""
        if self.low <= value <= self.high:
            return None
        guess = self.guess(value)
        return InputError(
            f"{self.element} = {value:g}{f': {guess}?' if guess else ''}",
            expected=f"{self.low:g} to {self.high:g} {self.unit}",
            where=where,
            todo="Correct the header, or export the series again.",
            reason=Reason.IMPLAUSIBLE_VALUE,
        )

    def guess(self, value: float) -> str:
        """Return the unit in which `value` would be usual, or an empty string."""
        units = _TIMES if self.unit == "ms" else _LENGTHS
        low, high = self.usual
        return next((name for name, f in units.items() if low <= value * f <= high), "")


# Gradients of whole-body scanners resolve about 0.1 mm; spectroscopic maps have voxels of 10 to
# 20 mm. Slabs of projections are up to 80 mm thick, and sparse localizers have slices 40 mm apart.
# Ultrashort echo times (0.03 ms) exist, but an echo time of a spin echo or gradient echo
# below 0.3 ms must be in seconds. Tables move by 2 m. [assumption]
PIXEL_SPACING = Range("PixelSpacing", 0.05, 20, (0.1, 5))
SLICE_THICKNESS = Range("SliceThickness", 0.1, 100, (0.3, 20))
SPACING_BETWEEN_SLICES = Range("SpacingBetweenSlices", 0.1, 200, (0.3, 20))
SLICE_STEP = Range("the distance between slices", 0.05, 200, (0.3, 20))
POSITION = Range("ImagePositionPatient", -3000, 3000, (-500, 500))
ECHO_TIME = Range("EchoTime", 0.3, 2000, (1, 500), "ms")

FIELD_OF_VIEW = (18.0, 600.0)
"""Range of the width and height of an image [mm]: from coils for fingers to bores of 700 mm.
[assumption]"""
_MAX_RATIO = 3.0
"""Largest ratio of the sides of a pixel. Scanners store nearly square pixels. [assumption]"""
_WHOLE_IMAGE = 64
"""Smallest number of pixels for which the width is checked for a minimum: images with fewer pixels
can be crops. [assumption]"""


def check_ranges(values: Iterable[tuple[Range, float]], where: str) -> InputError | None:
    """Return an error for the first value out of its range. NaN is an absent value."""
    faults = (known.fault(value, where) for known, value in values if value == value)
    return next((fault for fault in faults if fault is not None), None)


def check_field_of_view(
    pixels: tuple[int, int], spacing: tuple[float, ...], where: str
) -> InputError | None:
    """Return an error if the size of an image or the shape of its pixels is implausible.

    Parameters
    ----------
    pixels : (rows, columns)
        Size of the image.
    spacing : tuple of float
        Distance between rows and between columns [mm]; empty if unknown.
    where : str
        Name of the file.
    """
    if spacing and max(spacing) > _MAX_RATIO * min(spacing):
        return InputError(
            f"PixelSpacing = {spacing[0]:g} and {spacing[1]:g} mm",
            expected=f"pixels at most {_MAX_RATIO:g} times as long as wide",
            where=where,
            todo="Correct the header, or export the series again.",
            reason=Reason.IMPLAUSIBLE_VALUE,
        )
    low, high = FIELD_OF_VIEW
    for count, step in zip(pixels, spacing, strict=False):
        width = count * step
        if width > high or (width < low and count >= _WHOLE_IMAGE):
            guess = PIXEL_SPACING.guess(step)
            return InputError(
                f"an image of {width:g} mm (PixelSpacing = {step:g}"
                f"{f': {guess}?' if guess else ''})",
                expected=f"{low:g} to {high:g} mm",
                where=where,
                todo="Correct the header, or export the series again.",
                reason=Reason.IMPLAUSIBLE_VALUE,
            )
    return None
