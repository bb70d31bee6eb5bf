"""Values of a mask file as label numbers, exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.core.text import counted, format_shape
from qmri_lake.errors import InputError, Reason

__all__ = ["as_numbers", "as_volume"]

_ROUNDING = 1e-3
"""Largest distance of a label from a whole number that is rounding: labels that a library scaled to
16 bits are up to 0.002 % of the largest label off. [assumption]"""

_COARSEST = 0.1
"""Largest step between stored values with which labels can be recovered. A library that scales
whole numbers to 8 bits stores each one to half a step; fractions are further off. [assumption]"""


def as_volume(values: Values, where: str) -> Values:
    """Return the only volume of an array, without trailing axes of length 1.

    Raises
    ------
    InputError
        If there are several volumes, or fewer than three axes (``unreadable_value``).
    """
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim == 3 and values.size:
        return values
    several = values.ndim > 3 and values.size > 0
    raise _unreadable(
        f"{counted(int(np.prod(values.shape[3:])), 'volume')} ({format_shape(values.shape)})"
        if several
        else f"an array of {format_shape(values.shape) or 'one number'}",
        where,
        "If the volumes are channels of tissues, combine them into one label map by argmax."
        if several
        else "Use the mask of the whole volume.",
    )


def as_numbers(values: Values, where: str, step: float = 0.0) -> NDArray[np.uint8]:
    """Return labels as uint8, if every value is a label.

    Parameters
    ----------
    values : array
        Labels of any dtype. Floating-point values may be rounded: 1.0000153 is 1.
    where : str
        Path of the file, for errors.
    step : float
        Distance between stored values, if they are scaled. Labels may then be half a step off.

    Raises
    ------
    InputError
        If there are fractions (``fractional_labels``), or values that are no numbers from 0 to 255
        (``unreadable_value``).
    """
    if values.dtype.kind not in "fiub":
        raise _unreadable(f"values of type {values.dtype}", where, "Save the labels as integers.")
    if values.dtype.kind == "f":
        values = _rounded(values, where, step)
    elif values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.size and (values.min() < 0 or values.max() > 255):
        outside = values[(values < 0) | (values > 255)]
        labels, counts = np.unique(outside, return_counts=True)
        named = [
            f"{label:.0f} ({counted(int(count), 'voxel')})"
            for label, count in zip(labels[:3], counts[:3], strict=True)
        ]
        more = [f"{len(labels) - 3} more"] if len(labels) > 3 else []
        raise _unreadable(
            f"label {', '.join(named + more)}",
            where,
            "Use the mask instead of the image, and renumber the labels.",
        )
    return values.astype(np.uint8)


def _rounded(values: Values, where: str, step: float) -> Values:
    finite = np.isfinite(values)
    if not finite.all():
        raise _unreadable(
            f"{counted(int((~finite).sum()), 'voxel')} without a value (NaN or infinite)",
            where,
            "Write 0 for background.",
        )
    whole = np.rint(values)
    off = np.abs(values - whole)
    # Half a step is rounding only if the steps are fine: with coarse steps, a fraction is near.
    allowed = max(_ROUNDING, 0.501 * step if step <= _COARSEST else 0.0)
    if (fractional := off > allowed).any():
        examples = ", ".join(f"{value:.4g}" for value in np.unique(values[fractional])[:3])
        coarse = step > _COARSEST and bool((off <= 0.501 * step).all())
        raise InputError(
            f"{counted(int(fractional.sum()), 'voxel')} with fractions, such as {examples}"
            + (f": stored in steps of {step:.3g}" if coarse else ""),
            expected="a label map: whole numbers from 0 to 255",
            where=where,
            todo="Save the labels as integers, without a scale factor."
            if coarse
            else "Threshold a probability map, and resample labels only by nearest neighbour.",
            reason=Reason.FRACTIONAL_LABELS,
        )
    return whole


def _unreadable(found: str, where: str, todo: str) -> InputError:
    return InputError(
        found,
        expected="a label map: three dimensions, whole numbers from 0 to 255",
        where=where,
        todo=todo,
        reason=Reason.UNREADABLE_VALUE,
    )
