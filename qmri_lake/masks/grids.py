"""Grids of masks: the lake's order of axes, and an exact reordering onto an exam's own grid.

A mask is only ever permuted and flipped, never interpolated: a label that was interpolated is not
what somebody drew.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.errors import InputError, NotFoundError, Reason

__all__ = ["GRID_TOLERANCE_MM", "Grid", "as_grid", "corner_distance", "in_lake_order", "onto"]

GRID_TOLERANCE_MM = 0.01
"""Largest distance of the corners of mask and image: far below a voxel, above rounding."""

_SMALLEST_VOXEL_MM3 = 1e-9
_TOWARDS = np.array([[-1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
"""LPS directions in which slice, row and column of a sagittal image count: right, down, back."""

Affine = NDArray[np.float64]


class Grid(NamedTuple):
    """Where the voxels of an exam lie."""

    shape: tuple[int, int, int]
    """(slice, row, column)."""
    affine: Affine
    """(4, 4) voxel (slice, row, column, 1) to LPS mm, voxel centres."""
    knee: str = ""
    """``left`` or ``right``, where it is known."""


def as_grid(like: xr.Dataset | Grid) -> Grid:
    """Return the grid of one exam: a Dataset of group dess with `affine` and `extent`."""
    if isinstance(like, Grid):
        return like
    one = like.isel(exam=0) if like.sizes.get("exam") == 1 else like
    if "exam" in one.dims or not {"affine", "extent"} <= set(one.variables):
        raise NotFoundError(
            f"a Dataset with {like.sizes.get('exam', 0)} exams and {', '.join(map(str, like))}",
            expected="one exam with `affine` and `extent`",
            where="like",
            todo="lake.load('dess', patient=..., timepoint=..., knee=...).",
        )
    slices, rows, columns = (int(n) for n in one["extent"].values)
    knee = str(one["knee"].values) if "knee" in one.coords else ""
    return Grid((slices, rows, columns), np.asarray(one["affine"].values, np.float64), knee)


def in_lake_order(labels: NDArray[Any], affine: Affine) -> tuple[NDArray[Any], Affine]:
    """Reorder a volume so that its axes are slice, row and column as a lake has them.

    Slice is the axis nearest to left-right and counts towards the right of the patient, row the
    one nearest to the body's axis and counts down, column the one left over and counts back.

    Parameters
    ----------
    labels : array, (i, j, k)
    affine : (4, 4)
        Voxel (i, j, k, 1) to LPS mm.

    Returns
    -------
    labels, affine
        A view, and its affine.
    """
    check_affine(affine, "affine")
    return _reorder(labels, affine, *_order(_TOWARDS @ _directions(affine)))


def onto(labels: NDArray[Any], affine: Affine, grid: Grid, where: str) -> NDArray[Any]:
    """Reorder a volume exactly onto a grid.

    Raises
    ------
    InputError
        ``grid_mismatch``: no order of its axes lies on the grid, to 0.01 mm at its corners.
    """
    check_affine(affine, where)
    along = _directions(grid.affine).T @ _directions(affine)
    ordered, moved = _reorder(labels, affine, *_order(along))
    spacings = [np.linalg.norm(one[:3, :3], axis=0) for one in (moved, grid.affine)]
    if ordered.shape != grid.shape or not np.allclose(spacings[0], spacings[1], rtol=1e-3):
        mine, theirs = (" x ".join(f"{n:.4g}" for n in one) for one in spacings)
        raise _mismatch(
            f"a mask of {_by(ordered.shape)} voxels of {mine} mm",
            f"{_by(grid.shape)} of {theirs} mm, as the exam's image",
            where,
            "Resample the mask on the image's grid (nearest neighbour).",
        )
    if (distance := corner_distance(grid.shape, moved, grid.affine)) > GRID_TOLERANCE_MM:
        raise _mismatch(
            f"a grid that is {distance:.2f} mm off",
            f"the image's, to {GRID_TOLERANCE_MM} mm",
            where,
            "Check that the mask belongs to this series; a file that lost its position needs the "
            "image's affine copied into it.",
        )
    return ordered


def corner_distance(shape: Any, mine: NDArray[Any], theirs: NDArray[Any]) -> float:
    """Return the largest distance in any world axis of the corner voxels of two grids, in mm."""
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
    corners[:, :3] *= np.asarray(shape) - 1
    return float(np.abs(corners @ (mine - theirs).T).max())


def check_affine(affine: Affine, where: str) -> None:
    """Refuse an affine that puts no volume into the world."""
    finite = np.isfinite(affine).all()
    if not finite or abs(np.linalg.det(affine[:3, :3])) < _SMALLEST_VOXEL_MM3:
        raise _mismatch(
            "an affine with values that are not finite" if not finite else "voxels without volume",
            "directions and spacing of three axes",
            where,
            "Copy the affine of the image into the file.",
        )


def _directions(affine: Affine) -> Affine:
    """Return unit vectors of the axes, as columns."""
    return np.asarray(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))


def _order(along: Affine) -> tuple[list[int], list[bool]]:
    """Return which array axis each wanted axis is, and whether it runs backwards.

    `along` holds cosines (wanted axis, array axis). The first axis chooses first: an oblique
    sagittal mask is still the sagittal one that it is nearest.
    """
    axes: list[int] = []
    for wanted in along:
        left = [axis for axis in range(3) if axis not in axes]
        axes.append(max(left, key=lambda axis: abs(wanted[axis])))
    return axes, [bool(along[index, axis] < 0) for index, axis in enumerate(axes)]


def _reorder(
    labels: NDArray[Any], affine: Affine, axes: list[int], flips: list[bool]
) -> tuple[NDArray[Any], Affine]:
    """Permute and flip axes, and the affine with them: every voxel stays where it is."""
    ordered = labels.transpose(axes)
    moved = affine[:, [*axes, 3]].copy()
    for index, flip in enumerate(flips):
        if flip:
            ordered = np.flip(ordered, index)
            moved[:3, 3] += (ordered.shape[index] - 1) * moved[:3, index]
            moved[:3, index] = 0.0 - moved[:3, index]
    return ordered, moved


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)


def _mismatch(found: str, expected: str, where: str, todo: str) -> InputError:
    return InputError(found, expected=expected, where=where, todo=todo, reason=Reason.GRID_MISMATCH)
