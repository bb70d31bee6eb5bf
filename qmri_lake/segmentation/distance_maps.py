"""Distance maps of labels: where a loss weighs a voxel more, because a boundary is near.

phi is 1 at the boundary of a label and falls to 0 at the voxel farthest from it, inside and outside
each normalised by its own maximum (Caliva 2019) [G]. Losses weigh a voxel by D = 1 + phi.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from qmri_lake.errors import InputError, Reason

__all__ = ["distance_maps"]


def distance_maps(
    labels: NDArray[Any], n_classes: int, spacing: Sequence[float], *, parallel: int = 1
) -> NDArray[np.float32]:
    """Return phi of every class: 1 at the boundary of its label, 0 at the farthest voxel.

    The boundary is made of the voxels on either side of it, those with a face neighbour on the
    other side: there phi is exactly 1, so that a sheet of one voxel counts as boundary and not as
    its own far inside. The edge of the array is no boundary.

    Parameters
    ----------
    labels : array of integers, (slice, row, column) or (row, column)
        0 to n_classes - 1. Distances of a volume are three-dimensional; for a network that sees
        slices, pass them one by one.
    n_classes : int
        Background is class 0 and has a map of its own.
    spacing : (3,) or (2,)
        Distance of voxel centres along the axes of `labels`, mm.
    parallel : int
        Threads.

    Returns
    -------
    array of float32, (class, slice, row, column) or (class, row, column)
        phi, 0 to 1, no unit: 1 - d / max(d) for the distance d (mm) to the nearest boundary voxel,
        with the maximum over the voxels of the same side. 0 everywhere for a class without a
        boundary: one that is absent, or fills the array.

    Raises
    ------
    InputError
        Labels of other classes, such as "no mask"; a spacing that doesn't fit the array.

    Examples
    --------
    >>> import numpy as np
    >>> distance_maps(np.array([[0, 0, 0, 1, 1]]), 2, (1.0, 1.0))[1, 0].tolist()
    [0.0, 0.5, 1.0, 1.0, 0.0]
    """
    import edt

    labels = _checked(labels, n_classes)
    step = _steps(labels, spacing)
    # The compiled loops and the transform know volumes: a slice is one of a single slice.
    volume = np.ascontiguousarray(labels.reshape((-1, *labels.shape[-2:])))
    maps = np.zeros((n_classes, *volume.shape), np.float32)
    away = np.empty(volume.shape, np.bool_)
    for value, phi in enumerate(maps):
        if not _mark_away(volume, value, away):
            continue
        # One transform serves both sides: of all boundary voxels the nearest one is on one's own.
        # As a volume of one slice it would take forty times as long.
        flat = len(volume) == 1
        distance = edt.edt(
            away[0] if flat else away, anisotropy=step[1:] if flat else step, parallel=parallel
        ).reshape(volume.shape)
        _normalise(volume, value, distance, phi)
    return maps.reshape((n_classes, *labels.shape))


@njit(cache=True, nogil=True)
def _mark_away(labels, value, away):  # type: ignore[no-untyped-def]
    """Mark the voxels that are not on the boundary of a label; return whether others are."""
    slices, rows, columns = labels.shape
    found = False
    for i in range(slices):
        for j in range(rows):
            for k in range(columns):
                own = labels[i, j, k] == value
                border = (
                    (i > 0 and (labels[i - 1, j, k] == value) != own)
                    or (j > 0 and (labels[i, j - 1, k] == value) != own)
                    or (k > 0 and (labels[i, j, k - 1] == value) != own)
                    or (i < slices - 1 and (labels[i + 1, j, k] == value) != own)
                    or (j < rows - 1 and (labels[i, j + 1, k] == value) != own)
                    or (k < columns - 1 and (labels[i, j, k + 1] == value) != own)
                )
                away[i, j, k] = not border
                found = found or border
    return found


@njit(cache=True, nogil=True)
def _normalise(labels, value, distance, phi):  # type: ignore[no-untyped-def]
    """Write 1 - distance / its maximum over the same side of a label's boundary."""
    inside, outside = np.float32(0), np.float32(0)
    for i in range(labels.shape[0]):
        for j in range(labels.shape[1]):
            for k in range(labels.shape[2]):
                if labels[i, j, k] == value:
                    inside = max(inside, distance[i, j, k])
                else:
                    outside = max(outside, distance[i, j, k])
    one = np.float32(1)
    # A side that is all boundary has no maximum above 0: it is 1 throughout.
    by_inside = one / inside if inside > 0 else np.float32(0)
    by_outside = one / outside if outside > 0 else np.float32(0)
    for i in range(labels.shape[0]):
        for j in range(labels.shape[1]):
            for k in range(labels.shape[2]):
                by = by_inside if labels[i, j, k] == value else by_outside
                phi[i, j, k] = max(one - distance[i, j, k] * by, np.float32(0))


def _checked(labels: NDArray[Any], n_classes: int) -> NDArray[Any]:
    labels = np.asarray(labels)
    if labels.ndim not in (2, 3) or labels.dtype.kind not in "iu" or not labels.size:
        raise InputError(
            f"labels of {labels.dtype} and shape {labels.shape}",
            expected="integers, (slice, row, column) or (row, column)",
            where="distance_maps",
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= n_classes:
        raise InputError(
            f"label {low if low < 0 else high}",
            expected=f"0 to {n_classes - 1}",
            where="distance_maps",
            todo="255 means that there is no mask: leave such exams out.",
            reason=Reason.UNKNOWN_LABEL,
        )
    return labels


def _steps(labels: NDArray[Any], spacing: Sequence[float]) -> tuple[float, ...]:
    step = np.asarray(spacing, np.float64)
    if step.shape != (labels.ndim,) or not (np.isfinite(step) & (step > 0)).all():
        raise InputError(
            f"spacing {step.tolist()}",
            expected=f"{labels.ndim} lengths above 0, mm",
            where="distance_maps",
        )
    return (1.0,) * (3 - labels.ndim) + tuple(step.tolist())
