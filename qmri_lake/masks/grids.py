"""Grids of masks: the axis order of a lake, and exact reordering to the grid of an exam.

Masks are permuted and flipped. They are never interpolated, which would change the labels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.core.geometry import GRID_TOLERANCE_MM, VoxelGrid, corner_distance
from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, NotFoundError, Reason

__all__ = [
    "Affine",
    "Crop",
    "ExamGrid",
    "as_grid",
    "check_affine",
    "format_index",
    "reorder_onto",
    "to_lake_axes",
]


_SMALLEST_VOXEL_MM3 = 1e-9
_LAKE_DIRECTIONS = np.array([[-1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
"""LPS directions of slice, row and column of a sagittal image: right, down, back."""

Affine = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class ExamGrid(VoxelGrid):
    """The voxel grid of an exam's image, and the side of the knee."""

    knee: str = ""
    """``left`` or ``right``; "" if unknown."""


@dataclass(frozen=True, eq=False, slots=True)
class Crop:
    """The declaration of a file that it contains a part of an image; the rest is background."""

    offset: tuple[int, int, int] | None
    """Voxel of the image that is the first voxel of the file, in the axis order of the file; None
    if the file does not store it."""
    whole: VoxelGrid | None = None
    """Grid of the image, in the axis order of the file; None if the file does not store it."""


def as_grid(like: xr.Dataset | ExamGrid) -> ExamGrid:
    """Return the grid of one exam, from a Dataset of group dess with `affine` and `extent`."""
    if isinstance(like, ExamGrid):
        return like
    one = like.isel(exam=0) if like.sizes.get("exam") == 1 else like
    if "exam" in one.dims or not {"affine", "extent"} <= set(one.variables):
        raise NotFoundError(
            f"a Dataset of {like.sizes.get('exam', 0)} exams with {', '.join(map(str, like))}",
            expected="one exam with `affine` and `extent`",
            where="like",
            todo="Use lake.load('dess', patient=..., timepoint=..., knee=...).",
        )
    slices, rows, columns = (int(n) for n in one["extent"].values)
    knee = str(one["knee"].values) if "knee" in one.coords else ""
    return ExamGrid((slices, rows, columns), np.asarray(one["affine"].values, np.float64), knee)


def to_lake_axes(labels: Values, affine: Affine) -> tuple[Values, Affine]:
    """Reorder a volume so that its axes are slice, row and column as in a lake.

    The slice axis is the axis nearest to left-right and increases towards the right of the patient.
    The row axis is the axis nearest to the long axis of the body and increases downwards. The
    column axis is the remaining axis and increases backwards.

    Parameters
    ----------
    labels : array, (i, j, k)
    affine : (4, 4)
        Voxel (i, j, k, 1) to LPS mm.

    Returns
    -------
    labels, affine
        A view of the volume, and the affine of the view.
    """
    check_affine(affine, "affine")
    return _reorder(
        labels, affine, *_match_axes(_LAKE_DIRECTIONS @ VoxelGrid(labels.shape, affine).directions)
    )


def reorder_onto(
    labels: Values, affine: Affine, grid: VoxelGrid, where: str, crop: Crop | None = None
) -> Values:
    """Reorder a volume exactly to a grid.

    Parameters
    ----------
    labels : array, (i, j, k)
    affine : (4, 4)
        Voxel (i, j, k, 1) to LPS mm.
    grid : VoxelGrid
    where : str
        Path of the file, for errors.
    crop : Crop, optional
        Declares that the volume is a part of an image. It is then put into its place in the grid,
        and all other voxels are background.

    Raises
    ------
    InputError
        If no order of the axes matches the grid within 0.01 mm at its corners, or labelled voxels
        lie outside the grid (``grid_mismatch``), or if the offset of `crop` contradicts the affine
        (``contradictory_affines``).
    """
    check_affine(affine, where)
    along = grid.directions.T @ VoxelGrid(labels.shape, affine).directions
    axes, flips = _match_axes(along)
    ordered, moved = _reorder(labels, affine, axes, flips)
    mine = VoxelGrid(ordered.shape, moved)
    if crop is not None and np.allclose(mine.spacing, grid.spacing, rtol=1e-3):
        declared = None
        if crop.whole is None and crop.offset is not None:
            declared = _reorder_offset(crop.offset, mine.shape, grid, axes, flips)
        return _put_into(ordered, mine, grid, declared, where)
    if ordered.shape != grid.shape or not np.allclose(mine.spacing, grid.spacing, rtol=1e-3):
        raise _mismatch(
            f"a mask of {mine}",
            f"{grid}, like the image of the exam",
            where,
            "Resample the mask to the grid of the image by nearest neighbour.",
        )
    if (distance := corner_distance(grid.shape, moved, grid.affine)) > GRID_TOLERANCE_MM:
        raise _mismatch(
            f"the grid of the mask is {distance:.2f} mm off",
            f"the grid of the image, within {GRID_TOLERANCE_MM} mm",
            where,
            "Check that the mask belongs to this series. If the file lost its position, copy the "
            "affine of the image into it.",
        )
    return ordered


def _reorder_offset(
    first: tuple[int, ...],
    shape: tuple[int, ...],
    grid: VoxelGrid,
    axes: list[int],
    flips: list[bool],
) -> list[int]:
    """Return the offset in the axes of a grid, if the image of the file has this grid."""
    offset = [first[axis] for axis in axes]
    return [
        whole - start - size if flip else start
        for start, size, whole, flip in zip(offset, shape, grid.shape, flips, strict=True)
    ]


def _put_into(
    labels: Values, mine: VoxelGrid, grid: VoxelGrid, declared: list[int] | None, where: str
) -> Values:
    """Return the labels in an empty volume of a grid."""
    start = np.rint(grid.to_index(mine.affine[:3, 3])).astype(int)
    placed = grid.affine.copy()
    placed[:3, 3] = grid.to_world(start)
    if (distance := corner_distance(labels.shape, mine.affine, placed)) > GRID_TOLERANCE_MM:
        raise _mismatch(
            f"the cropped mask lies {distance:.2f} mm beside the voxels of the image",
            f"the grid of the image, within {GRID_TOLERANCE_MM} mm",
            where,
            "Check that the mask was drawn on this image.",
        )
    if declared is not None and declared != start.tolist():
        raise InputError(
            f"the mask begins at voxel {format_index(declared)} of the image by its offset, and "
            f"at voxel {format_index(start)} by its origin",
            expected="the same position",
            where=where,
            todo="Export the segmentation with the image of the exam as its source geometry.",
            reason=Reason.CONTRADICTORY_AFFINES,
        )
    stop = start + labels.shape
    first, last = np.maximum(start, 0), np.maximum(np.minimum(stop, grid.shape), 0)
    target = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    source = tuple(slice(a, max(a, b)) for a, b in zip(first - start, last - start, strict=True))
    placed_labels = np.zeros(grid.shape, labels.dtype)
    inside = labels[source]
    if outside := int(np.count_nonzero(labels) - np.count_nonzero(inside)):
        raise _mismatch(
            f"{counted(outside, 'labelled voxel')} outside the image",
            f"a mask inside {grid}",
            where,
            "Check that the mask was drawn on this image.",
        )
    if inside.size:
        placed_labels[target] = inside
    return placed_labels


def format_index(index: Iterable[int]) -> str:
    """Return voxel indices as text: ``(4, 6, 2)``."""
    return f"({', '.join(str(int(value)) for value in index)})"


def check_affine(affine: Affine, where: str, *, smallest: float = _SMALLEST_VOXEL_MM3) -> None:
    """Raise an error for an affine that is not finite or whose voxels have no volume."""
    finite = np.isfinite(affine).all()
    if not finite or not abs(np.linalg.det(affine[:3, :3])) > smallest:
        raise _mismatch(
            "an affine with values that are not finite" if not finite else "voxels without volume",
            "directions and spacing of three axes",
            where,
            "Copy the affine of the image into the file.",
        )


def _match_axes(along: Affine) -> tuple[list[int], list[bool]]:
    """Return the array axis of each target axis, and whether its direction is reversed.

    `along` contains cosines (target axis, array axis). Axes are assigned in order, so that for an
    oblique sagittal mask, the slice axis is the axis nearest to left-right.
    """
    axes: list[int] = []
    for wanted in along:
        left = [axis for axis in range(3) if axis not in axes]
        axes.append(max(left, key=lambda axis: abs(wanted[axis])))
    return axes, [bool(along[index, axis] < 0) for index, axis in enumerate(axes)]


def _reorder(
    labels: Values, affine: Affine, axes: list[int], flips: list[bool]
) -> tuple[Values, Affine]:
    """Permute and flip axes and the affine, so that voxels keep their positions."""
    ordered = labels.transpose(axes)
    moved = affine[:, [*axes, 3]].copy()
    for index, flip in enumerate(flips):
        if flip:
            ordered = np.flip(ordered, index)
            moved[:3, 3] += (ordered.shape[index] - 1) * moved[:3, index]
            moved[:3, index] = 0.0 - moved[:3, index]
    return ordered, moved


def _mismatch(found: str, expected: str, where: str, todo: str) -> InputError:
    return InputError(found, expected=expected, where=where, todo=todo, reason=Reason.GRID_MISMATCH)
