"""Geometry and values of an image file, in the axis order of the file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qmri_lake.core.array_api import Values
from qmri_lake.core.text import format_shape
from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.grids import Affine

__all__ = ["FileGeometry", "FileImage", "as_images", "split_shape"]


@dataclass(frozen=True, eq=False, slots=True)
class FileGeometry:
    """Header of an image file, read without its values."""

    images: int
    """Number of images, such as echoes."""
    shape: tuple[int, int, int]
    """Number of voxels along (i, j, k), the axes of the file."""
    affine: Affine
    """(4, 4) float64, voxel (i, j, k, 1) to LPS mm, voxel centres."""
    times_ms: tuple[float, ...] = ()
    """Echo times of the images [ms], if the format stores them."""


@dataclass(frozen=True, eq=False, slots=True)
class FileImage:
    """Values of an image file."""

    values: Values
    """(image, i, j, k), scaled as the file says."""
    affine: Affine
    """(4, 4) float64, voxel (i, j, k, 1) to LPS mm, voxel centres."""


def split_shape(shape: tuple[int, ...], where: str) -> tuple[int, tuple[int, int, int]]:
    """Return the number of images and the shape of a volume, of an array (i, j, k[, image]).

    Raises
    ------
    InputError
        If the array has fewer than three axes, or further axes (``unreadable_value``).
    """
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) in (3, 4) and min(shape) > 0:
        i, j, k, images = (*shape, 1)[:4]
        return images, (i, j, k)
    raise InputError(
        f"an array of {format_shape(shape) or 'one number'}",
        expected="a volume, or several volumes along a fourth axis",
        where=where,
        todo="Save one volume, or the images of one scan.",
        reason=Reason.UNREADABLE_VALUE,
    )


def as_images(values: Values, where: str) -> Values:
    """Return an array (i, j, k[, image]) of numbers as (image, i, j, k).

    Raises
    ------
    InputError
        If the array has other axes, or values that are not real numbers (``unreadable_value``,
        ``colour_pixels``).
    """
    images, shape = split_shape(values.shape, where)
    if values.dtype.kind not in "iuf":
        is_colour = values.dtype.kind == "V"
        raise InputError(
            "colour values" if is_colour else f"values of type {values.dtype}",
            expected="one number in each voxel",
            where=where,
            todo="Export the signal" + (" without colours." if is_colour else " (the magnitude)."),
            reason=Reason.COLOUR_PIXELS if is_colour else Reason.UNREADABLE_VALUE,
        )
    return np.moveaxis(values.reshape(*shape, images, order="A"), -1, 0)
