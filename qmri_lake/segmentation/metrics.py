"""How well two masks agree: overlap (DSC) and the distance of their surfaces (MPTS)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from qmri_lake.errors import InputError, Reason

__all__ = ["dice", "mean_surface_distance", "surface_distances"]

FieldOfViewEdge = Literal["ignore", "surface"]
Mask = NDArray[Any]

_REACH_MM = 2.0
"""Distances up to here are found by trying neighbours; rarer, larger ones in a tree of points."""


def dice(a: Mask, b: Mask) -> float:
    """Return the Dice similarity coefficient of two masks, 2 |a and b| / (|a| + |b|).

    Parameters
    ----------
    a, b : array of bool, one shape
        Choose a label by ``labels == value``.

    Returns
    -------
    float
        0 to 1; NaN if both masks are empty, which is no agreement and no disagreement.

    Raises
    ------
    InputError
        Masks of different shapes, or of labels instead of bool.

    Examples
    --------
    >>> import numpy as np
    >>> dice(np.array([True, True, False]), np.array([True, False, False]))
    0.6666666666666666
    """
    a, b = _checked(a, b, "dice")
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else float("nan")


def mean_surface_distance(
    a: Mask, b: Mask, spacing: Any, *, fov_edge: FieldOfViewEdge = "ignore"
) -> float:
    """Return the mean point-to-surface distance (MPTS) of two masks, in mm.

    The mean, over both directions, of the mean distance from the surface voxels of one mask to the
    nearest surface voxel of the other.

    Parameters
    ----------
    a, b : array of bool, (slice, row, column)
        Neither may be empty.
    spacing : (3,)
        Distance of voxel centres along the array axes, mm.
    fov_edge : {"ignore", "surface"}
        Whether voxels on the edge of the array count as surface where the mask goes on to it.
        A shaft that the field of view cuts is not anatomy, and two masks cut alike agree there for
        nothing: so they don't, by default.

    Returns
    -------
    float
        mm. A surface voxel is one with a face neighbour outside the mask, measured at its centre.

    Raises
    ------
    InputError
        An empty mask, different shapes, labels instead of bool, a spacing that is not above 0.

    Notes
    -----
    With ``fov_edge="surface"`` each direction equals MONAI's ``compute_average_surface_distance``
    (``symmetric=False``).

    Examples
    --------
    >>> import numpy as np
    >>> a = np.zeros((9, 9, 9), bool)
    >>> a[2:7, 2:7, 2:7] = True
    >>> mean_surface_distance(a, a, (0.7, 0.4, 0.4))
    0.0
    """
    ours, theirs, step = _borders(a, b, spacing, fov_edge)
    there, back = _nearest(ours, theirs, step), _nearest(theirs, ours, step)
    return (float(there.mean()) + float(back.mean())) / 2


def surface_distances(
    a: Mask, b: Mask, spacing: Any, *, fov_edge: FieldOfViewEdge = "ignore"
) -> NDArray[np.float64]:
    """Return the distance of each surface voxel of `a` to the nearest surface voxel of `b`.

    Parameters are those of `mean_surface_distance`.

    Returns
    -------
    array of float64, (surface voxel of a,)
        mm, in the order of the array.
    """
    ours, theirs, step = _borders(a, b, spacing, fov_edge)
    return _nearest(ours, theirs, step)


def _borders(
    a: Mask, b: Mask, spacing: Any, fov_edge: FieldOfViewEdge
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float64]]:
    """Check the input; return the border voxels of both masks in their common box, and mm."""
    from qmri_lake.segmentation.surface_search import border

    where = "mean_surface_distance"
    a, b = _checked(a, b, where)
    step = _check_spacing(spacing, where)
    if fov_edge not in ("ignore", "surface"):
        raise InputError(f"fov_edge={fov_edge!r}", expected="ignore or surface", where=where)
    boxes = [_box(mask) for mask in (a, b)]
    for name, box in zip(("first", "second"), boxes, strict=True):
        if box is None:
            raise InputError(
                f"no voxel in the {name} mask",
                expected="a mask",
                where=where,
                todo="Leave the structure out: there is no surface to measure.",
                reason=Reason.EMPTY_MASK,
            )
    first, last = (np.array(boxes)[:, :, end] for end in (0, 1))
    common = np.stack([first.min(axis=0), last.max(axis=0)], axis=-1)
    ours, theirs = (border(mask, common, fov_edge == "surface") for mask in (a, b))
    if not ours.any() or not theirs.any():
        raise InputError(
            "a mask that fills the field of view", expected="a surface inside it", where=where,
            reason=Reason.EMPTY_MASK,
        )  # fmt: skip
    return ours, theirs, step


def _nearest(
    ours: NDArray[np.bool_], theirs: NDArray[np.bool_], step: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the distance of each voxel of `ours` to the nearest of `theirs`, mm."""
    from qmri_lake.segmentation.surface_search import search

    points = np.argwhere(ours)
    distances: NDArray[np.float64] = search(theirs, points, *_neighbourhood(step))
    far = np.flatnonzero(np.isnan(distances))
    if far.size:
        # Few points ask: a tree that is built quickly serves them better than a balanced one.
        tree = cKDTree(np.argwhere(theirs) * step, compact_nodes=False, balanced_tree=False)
        distances[far] = tree.query(points[far] * step)[0]
    return distances


def _checked(a: Mask, b: Mask, where: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        raise InputError(
            f"masks of {a.shape} and {b.shape}",
            expected="one shape",
            where=where,
            todo="Resample one of them on the other's grid.",
            reason=Reason.GRID_MISMATCH,
        )
    for mask in (a, b):
        if mask.dtype != bool:
            raise InputError(
                f"a mask of {mask.dtype}", expected="bool", where=where,
                todo="Choose one label: labels == value.",
            )  # fmt: skip
    return a, b


def _check_spacing(spacing: Any, where: str) -> NDArray[np.float64]:
    step = np.asarray(spacing, np.float64)
    if step.shape != (3,) or not (np.isfinite(step) & (step > 0)).all():
        raise InputError(
            f"spacing {np.asarray(spacing).tolist()}", expected="three lengths above 0, mm",
            where=where,
        )  # fmt: skip
    return step


def _box(mask: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """Return (axis, (first, last + 1)) of the smallest box that holds a mask; None if empty."""
    slices = np.flatnonzero(np.any(mask, axis=(1, 2)))
    if not slices.size:
        return None
    flat = np.any(mask[slices[0] : slices[-1] + 1], axis=0)
    found = slices, np.flatnonzero(flat.any(axis=1)), np.flatnonzero(flat.any(axis=0))
    return np.array([(index[0], index[-1] + 1) for index in found], np.int64)


def _neighbourhood(step: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return offsets (n, 3) within reach, nearest first, and their lengths in mm."""
    reach = np.floor(_REACH_MM / step).astype(int)
    grid = np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij")
    offsets = np.stack([g.ravel() for g in grid], axis=-1)
    lengths = np.sqrt(((offsets * step) ** 2).sum(axis=-1))
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] <= _REACH_MM]
    return offsets[order], lengths[order]
