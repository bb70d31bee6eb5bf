"""Images in the axes of a lake: slices to the right, rows downwards, columns backwards."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.geometry import checked_affine
from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, Reason
from qmri_lake.image_files.content import FileGeometry
from qmri_lake.image_files.formats import read_geometry, read_values
from qmri_lake.masks.content import Form
from qmri_lake.masks.grids import Affine, to_lake_axes

__all__ = ["LARGEST_OFFSET_MM", "check_side", "lake_geometry", "read_lake_image"]

LARGEST_OFFSET_MM = 30.0
"""Distance of the centre of an image from the isocentre, on the side of the other knee, up to which
the image can show this knee. Knees lie about 100 mm beside the middle of the body, and a patient is
moved sideways at most until the knee is in the isocentre. [assumption]"""


def lake_geometry(path: str | os.PathLike[str], form: Form | None = None) -> FileGeometry:
    """Read the header of an image file; shape and affine are in the axes of a lake.

    Raises
    ------
    InputError
        As in `read_geometry`, or if the axes are not at right angles (``inconsistent_geometry``).
    """
    found = read_geometry(path, form)
    _check_angles(found.affine, os.fspath(path))
    voxels, affine = to_lake_axes(np.broadcast_to(np.uint8(0), found.shape), found.affine)
    slices, rows, columns = voxels.shape
    return FileGeometry(found.images, (slices, rows, columns), affine, found.times_ms)


def read_lake_image(
    path: str | os.PathLike[str], form: Form | None = None
) -> tuple[NDArray[np.float32], Affine]:
    """Read an image file in the axes of a lake: axes are permuted and flipped, never resampled.

    Returns
    -------
    image : (image, slice, row, column) float32
        Values scaled as the file says.
    affine : (4, 4) float64
        Voxel (slice, row, column, 1) to LPS mm, voxel centres.

    Raises
    ------
    InputError
        As in `read_values`, or if voxels have no value: NaN or infinite (``unreadable_value``).
    """
    where = os.fspath(path)
    found = read_values(where, form)
    _check_angles(found.affine, where)
    first, affine = to_lake_axes(found.values[0], found.affine)
    image = np.empty((len(found.values), *first.shape), np.float32)
    for number, values in enumerate(found.values):
        with np.errstate(over="ignore"):
            image[number] = to_lake_axes(values, found.affine)[0]
        _check_values(image[number], where)
    return image, affine


def _check_angles(affine: Affine, where: str) -> None:
    """Raise an error if the axes of an image are not at right angles."""
    try:
        checked_affine(affine, where)
    except InputError as error:
        raise InputError(
            error.found,
            expected="axes at right angles",
            where=where,
            todo="Resample the image to such a grid, or export it again from the DICOM series.",
            reason=error.reason,
        ) from None


def _check_values(image: NDArray[np.float32], where: str) -> None:
    without = image.size - int(np.isfinite(image).sum())
    constant = bool((image == image.flat[0]).all())
    if not (without or constant):
        return
    raise InputError(
        f"{counted(without, 'voxel')} without a value (NaN, infinite, or beyond float32)"
        if without
        else f"all voxels are {image.flat[0]:g}",
        expected="a number in every voxel" if without else "an image",
        where=where,
        todo="Export the image again; write 0 where there is no signal.",
        reason=Reason.UNREADABLE_VALUE,
    )


def check_side(
    knee: str, shape: tuple[int, int, int], affine: Affine, *, where: Callable[[], str]
) -> None:
    """Raise an error if an image lies on the side of the other knee.

    A position that a program has replaced by 0 says nothing about the side, and is not used.

    Parameters
    ----------
    knee : str
        ``left`` or ``right``.
    shape, affine
        Grid of the image, in LPS mm.
    where : callable
        Returns the location, for errors.

    Raises
    ------
    InputError
        With reason ``side_conflict``.
    """
    centre = affine[:3, :3] @ ((np.asarray(shape) - 1) / 2) + affine[:3, 3]
    if _is_without_position(shape, affine):
        return
    towards_left = float(centre[0])
    offset = -towards_left if knee == "left" else towards_left
    if offset <= LARGEST_OFFSET_MM:
        return
    other = "right" if knee == "left" else "left"
    raise InputError(
        f"a {knee} knee whose centre is {offset:.0f} mm to the {other} of the isocentre",
        expected=f"at most {LARGEST_OFFSET_MM:g} mm",
        where=where(),
        todo="Check the side in the name or the list. If the position in the file is not that of "
        "the scanner, use --any-position (any_position=True).",
        reason=Reason.SIDE_CONFLICT,
    )


def _is_without_position(shape: tuple[int, int, int], affine: Affine) -> bool:
    """Return whether a corner of the volume is at 0, as programs write it without a position."""
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    places = (corners * (np.asarray(shape) - 1)) @ affine[:3, :3].T + affine[:3, 3]
    return bool((np.abs(places).max(axis=1) < 1e-3).any())
