"""Sequence of a series: its properties, and the differences between two series."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.geometry import voxel_spacing
from qmri_lake.core.text import format_shape
from qmri_lake.oai.header import Header
from qmri_lake.oai.protocol import plain_name

__all__ = [
    "Sequence",
    "describe",
    "differences",
    "geometry_differences",
    "make_sequence",
    "scan_name",
    "spin_lock_time",
]

ECHO_TOLERANCE = 0.01
"""Relative tolerance of echo times, at least 0.1 ms. Rounding of headers is smaller, and
differences between sequences are larger."""
REPETITION_TOLERANCE = 0.05
"""Relative tolerance of the repetition time. Scanners lengthen it to adapt to the heart rate or the
power limit."""
FLIP_TOLERANCE = 1.0
"""Tolerance of flip angles [degrees], which headers round to whole degrees."""
ANGLE_TOLERANCE = 15.0
"""Largest angle between the axes of two scans [degrees]: a knee may be repositioned, but is not
turned."""
SPACING_TOLERANCE = 0.01
"""Relative tolerance of voxel sizes."""


@dataclass(frozen=True, slots=True)
class Sequence:
    """Properties that identify the sequence of a series; empty or NaN if the header lacks them."""

    description: str
    protocol_name: str
    sequence_name: str
    scanning: tuple[str, ...]
    """ScanningSequence and SequenceVariant."""
    image_type: tuple[str, ...]
    echo_times: tuple[float, ...]
    """Milliseconds, ascending; spin-lock times for T1rho."""
    repetition_time: float
    """Milliseconds."""
    flip_angle: float
    """Degrees."""
    axes: tuple[tuple[float, float, float], ...]
    """Unit vectors of slice, row and column, LPS."""
    spacing: tuple[float, float, float]
    """Distances between slices, rows and columns [mm]."""
    origin: tuple[float, float, float]
    """Centre of the first voxel, LPS [mm]."""
    shape: tuple[int, int, int]
    """Slices, rows and columns."""

    @property
    def size(self) -> int:
        """Number of slices of all echoes."""
        return self.shape[0] * len(self.echo_times)

    @property
    def plane(self) -> str:
        """``sagittal``, ``coronal`` or ``axial``; preceded by ``oblique`` beyond 15 degrees."""
        normal = np.abs(self.axes[0])
        name = ("sagittal", "coronal", "axial")[int(normal.argmax())]
        tilt = math.degrees(math.acos(min(normal.max(), 1.0)))
        return f"oblique {name}" if tilt > ANGLE_TOLERANCE else name


def make_sequence(
    header: Header,
    name: str,
    echo_times: Iterable[float],
    affine: NDArray[np.float64],
    shape: tuple[int, int, int],
) -> Sequence:
    """Return the sequence of a series.

    Parameters
    ----------
    header : Header
        Header of the first file of the series.
    name : str
        SeriesDescription, of the header or of the listing.
    echo_times : iterable of float
        Milliseconds, ascending.
    affine : (4, 4) float64
        Voxel (slice, row, column) to LPS mm.
    shape : tuple of int
        Slices, rows and columns.
    """
    acquired = header.acquisition
    spacing = voxel_spacing(affine)
    axes = (affine[:3, :3] / spacing).T
    return Sequence(
        description=name,
        protocol_name=acquired.protocol_name,
        sequence_name=acquired.sequence_name,
        scanning=(*acquired.scanning_sequence, *acquired.sequence_variant),
        image_type=tuple(header.image_type.split("\\")),
        echo_times=tuple(echo_times),
        repetition_time=acquired.repetition_time,
        flip_angle=acquired.flip_angle,
        axes=tuple((float(x), float(y), float(z)) for x, y, z in axes),
        spacing=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        origin=(float(affine[0, 3]), float(affine[1, 3]), float(affine[2, 3])),
        shape=shape,
    )


_ECHO_NUMBER = re.compile(
    r"[ ,;:(\[-]*(?<![A-Z])((ECHO|TE|E|TSL|SL|SPIN[ -]?LOCK)[ =:#-]*\d+([.,]\d+)?( ?MS)?"
    r"|(1ST|2ND|FIRST|SECOND)[ -]?ECHO(?![A-Z])|S[12](?!\w))[)\]]?"
)
_SPIN_LOCK_TIME = re.compile(
    r"(?<![A-Z])(?:TSL|SL|SPIN[ -]?LOCK)[ =:-]*(\d+(?:[.,]\d+)?)(?: ?MS)?(?![\d.])"
)


def scan_name(text: str) -> str:
    """Return a description without the numbers of an echo: equal for the series of one scan.

    >>> scan_name("t2_map_sag_TE30") == scan_name("t2_map_sag_TE40")
    True
    """
    return _ECHO_NUMBER.sub("", plain_name(text)).strip()


def spin_lock_time(text: str) -> float:
    """Return the spin-lock time [ms] in a description such as ``t1rho TSL10``; NaN if none."""
    found = _SPIN_LOCK_TIME.search(plain_name(text))
    return float(found[1].replace(",", ".")) if found else math.nan


def differences(new: Sequence, old: Sequence, *, echoes: bool = True) -> list[str]:
    """Return the differences between the sequences `new` and `old`; empty if there are none.

    Names are compared without the side, case and blanks. Numbers of slices are not compared, since
    they only show whether a scan is complete. Values are compared with the tolerances of this
    module.

    Parameters
    ----------
    new, old : Sequence
        Sequences of two series of one knee.
    echoes : bool
        Whether echo times, and their numbers in names, count. False for series that may be parts of
        one scan.
    """
    found = []
    plain = plain_name if echoes else scan_name
    for field in ("description", "protocol_name", "sequence_name"):
        a, b = getattr(new, field), getattr(old, field)
        if plain(a) != plain(b):
            found.append(_not(field.replace("_", " "), repr(a), repr(b)))
    if new.scanning != old.scanning:
        found.append(_not("ScanningSequence", _joined(new.scanning), _joined(old.scanning)))
    if new.image_type != old.image_type:
        found.append(_not("ImageType", _joined(new.image_type), _joined(old.image_type)))
    if not _near(new.flip_angle, old.flip_angle, 0, FLIP_TOLERANCE):
        found.append(_not("flip angle", _number(new.flip_angle), f"{_number(old.flip_angle)} deg"))
    if not _near(new.repetition_time, old.repetition_time, REPETITION_TOLERANCE):
        times = _number(new.repetition_time), f"{_number(old.repetition_time)} ms"
        found.append(_not("repetition time", *times))
    return found + geometry_differences(new, old, echoes=echoes)


def geometry_differences(new: Sequence, old: Sequence, *, echoes: bool = True) -> list[str]:
    """Return the differences of two series in echo times, orientation, matrix and voxel size."""
    found = []
    a, b = new.echo_times, old.echo_times
    same = len(a) == len(b) and all(
        _near(x, y, ECHO_TOLERANCE, 0.1) for x, y in zip(a, b, strict=True)
    )
    if echoes and not same:
        found.append(_not("echo times", _times(a), f"{_times(b)} ms"))
    angle = max(map(_angle, new.axes, old.axes))
    if angle > ANGLE_TOLERANCE:
        turned = new.plane == old.plane
        found.append(
            f"turned by {angle:.0f} degrees" if turned else f"{new.plane}, not {old.plane}"
        )
    if new.shape[1:] != old.shape[1:]:
        found.append(_not("matrix", format_shape(new.shape[1:]), format_shape(old.shape[1:])))
    if not all(
        _near(x, y, SPACING_TOLERANCE) for x, y in zip(new.spacing, old.spacing, strict=True)
    ):
        found.append(_not("voxels", _voxel(new), f"{_voxel(old)} mm"))
    return found


def describe(sequence: Sequence, times: str = "echo") -> str:
    """Describe a sequence for users, in one line.

    `times` is the kind of its times, ``echo`` or ``spin-lock``.
    """
    absent = []
    known = [f"{sequence.plane}, {format_shape(sequence.shape)} voxels of {_voxel(sequence)} mm"]
    for name, value, unit in (
        ("flip angle", sequence.flip_angle, "degrees"),
        ("repetition time", sequence.repetition_time, "ms"),
    ):
        if math.isnan(value):
            absent.append(name)
        else:
            known.append(f"{name} {_number(value)} {unit}")
    echoes = _times(sequence.echo_times)
    if any(map(math.isnan, sequence.echo_times)):
        absent.append(f"{times} time")
    else:
        plural = "s" if len(sequence.echo_times) > 1 else ""
        known.insert(0, f"{times} time{plural} {echoes} ms")
    for name, text in (
        ("sequence name", sequence.sequence_name),
        ("ScanningSequence", _joined(sequence.scanning)),
        ("ImageType", _joined(sequence.image_type)),
    ):
        if text and text != "none":
            known.append(f"{name} {text}")
        else:
            absent.append(name)
    return ", ".join(known) + (f"; not stated: {', '.join(absent)}" if absent else "")


def _near(a: float, b: float, relative: float, absolute: float = 0.0) -> bool:
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return math.isclose(a, b, rel_tol=relative, abs_tol=absolute)


def _angle(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return math.degrees(math.acos(min(max(float(np.dot(a, b)), -1.0), 1.0)))


def _not(what: str, new: str, old: str) -> str:
    return f"{what} {new}, not {old}"


def _joined(parts: tuple[str, ...]) -> str:
    return "\\".join(filter(None, parts)) or "none"


def _number(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:g}"


def _times(values: tuple[float, ...]) -> str:
    shown = [_number(value) for value in values]
    return ", ".join(shown if len(shown) <= 8 else [*shown[:3], "...", shown[-1]]) or "none"


def _voxel(sequence: Sequence) -> str:
    return " x ".join(f"{size:.3g}" for size in sequence.spacing)
