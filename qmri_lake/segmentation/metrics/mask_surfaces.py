"""Surface voxels of masks, and the distances between them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from qmri_lake.errors import InputError, Reason

__all__ = ["FieldOfViewEdge", "Mask", "borders", "checked_masks", "nearest"]

FieldOfViewEdge = Literal["ignore", "surface"]
Mask = NDArray[Any]

_SEARCH_MM = 2.0
"""Distances up to this length are found by testing neighbours. Larger distances are rare and are
found with a search tree."""


def borders(
    a: Mask, b: Mask, spacing: ArrayLike, fov_edge: FieldOfViewEdge
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float64]]:
    """Check the input, and return the surface voxels of both masks and the spacing.

    The surface voxels are arrays of the common box of both masks.
    """
    from qmri_lake.segmentation.metrics.mask_surfaces_numba import border

    where = "mean_surface_distance"
    a, b = checked_masks(a, b, where)
    step = _check_spacing(spacing, where)
    if fov_edge not in ("ignore", "surface"):
        raise InputError(f"fov_edge={fov_edge!r}", expected="ignore or surface", where=where)
    boxes = [_box(mask) for mask in (a, b)]
    for name, box in zip(("first", "second"), boxes, strict=True):
        if box is None:
            raise InputError(
                f"no voxel in the {name} mask",
                expected="at least one voxel",
                where=where,
                todo="Exclude the structure: it has no surface.",
                reason=Reason.EMPTY_MASK,
            )
    first, last = (np.array(boxes)[:, :, end] for end in (0, 1))
    common = np.stack([first.min(axis=0), last.max(axis=0)], axis=-1)
    surface_a, surface_b = (border(mask, common, fov_edge == "surface") for mask in (a, b))
    if not surface_a.any() or not surface_b.any():
        raise InputError(
            "a mask that fills the field of view",
            expected="a surface inside the field of view",
            where=where,
            reason=Reason.EMPTY_MASK,
        )
    return surface_a, surface_b, step


def nearest(
    source: NDArray[np.bool_], target: NDArray[np.bool_], step: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the distance of each voxel of `source` to the nearest voxel of `target`, mm."""
    from qmri_lake.segmentation.metrics.mask_surfaces_numba import search

    points = np.argwhere(source)
    distances: NDArray[np.float64] = search(target, points, *_neighbourhood(step))
    far = np.flatnonzero(np.isnan(distances))
    if far.size:
        # For few queries, a tree that is built quickly is faster than a balanced tree.
        tree = cKDTree(np.argwhere(target) * step, compact_nodes=False, balanced_tree=False)
        distances[far] = tree.query(points[far] * step)[0]
    return distances


def checked_masks(a: Mask, b: Mask, where: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return both masks as arrays; raise an InputError for different shapes or another dtype."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        raise InputError(
            f"masks of shape {a.shape} and {b.shape}",
            expected="the same shape",
            where=where,
            todo="Resample one of them to the grid of the other.",
            reason=Reason.GRID_MISMATCH,
        )
    for mask in (a, b):
        if mask.dtype != bool:
            raise InputError(
                f"a mask of dtype {mask.dtype}",
                expected="bool",
                where=where,
                todo="Select one label: labels == value.",
            )
    return a, b


def _check_spacing(spacing: ArrayLike, where: str) -> NDArray[np.float64]:
    step = np.asarray(spacing, np.float64)
    if step.shape != (3,) or not (np.isfinite(step) & (step > 0)).all():
        raise InputError(
            f"spacing {np.asarray(spacing).tolist()}",
            expected="three lengths above 0, mm",
            where=where,
        )
    return step


def _box(mask: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """Return (axis, (first, last + 1)) of the smallest box around a mask; None for an empty one."""
    slices = np.flatnonzero(np.any(mask, axis=(1, 2)))
    if not slices.size:
        return None
    flat = np.any(mask[slices[0] : slices[-1] + 1], axis=0)
    axes = slices, np.flatnonzero(flat.any(axis=1)), np.flatnonzero(flat.any(axis=0))
    return np.array([(index[0], index[-1] + 1) for index in axes], np.int64)


def _neighbourhood(step: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return offsets (n, 3) up to `_SEARCH_MM`, sorted by length, and their lengths, mm."""
    reach = np.floor(_SEARCH_MM / step).astype(int)
    grid = np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij")
    offsets = np.stack([g.ravel() for g in grid], axis=-1)
    lengths = np.sqrt(((offsets * step) ** 2).sum(axis=-1))
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] <= _SEARCH_MM]
    return offsets[order], lengths[order]
