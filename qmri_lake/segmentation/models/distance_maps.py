"""Distance maps of labels, used by losses to give more weight to voxels near a boundary.

The map phi is 1 at the boundary of a label and decreases to 0 at the voxel farthest from the
boundary. The inside and the outside of the label are each normalised by their own maximum (Caliva
2019) [group]. Losses weight a voxel by D = 1 + phi.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.errors import InputError, Reason

__all__ = ["distance_maps"]


def distance_maps(
    labels: Values, n_classes: int, spacing: Sequence[float], *, parallel: int = 1
) -> NDArray[np.float32]:
    """Return phi of every class: 1 at the boundary of its label, 0 at the farthest voxel.

    The boundary consists of the voxels on both sides that have a face neighbour on the other side.
    phi is exactly 1 there. All voxels of a sheet that is one voxel thick are boundary voxels. The
    edge of the array is not a boundary.

    Parameters
    ----------
    labels : array of integers, (slice, row, column) or (row, column)
        0 to n_classes - 1. Distances of a volume are three-dimensional; for a 2D network, pass the
        slices one by one.
    n_classes : int
        Number of classes, including background, which is class 0 and also has a map.
    spacing : (3,) or (2,)
        Distance between voxel centres along the axes of `labels`, mm.
    parallel : int
        Number of threads.

    Returns
    -------
    array of float32, (class, slice, row, column) or (class, row, column)
        phi, 0 to 1, no unit: 1 - d / max(d) for the distance d (mm) to the nearest boundary voxel,
        with the maximum over the voxels of the same side. phi is 0 everywhere for a class without a
        boundary, that is, a class that is absent or fills the array.

    Raises
    ------
    InputError
        If a label is not in the range, such as 255 ("no mask"), or if `spacing` does not have one
        length above 0 for each axis.

    Examples
    --------
    >>> import numpy as np
    >>> distance_maps(np.array([[0, 0, 0, 1, 1]]), 2, (1.0, 1.0))[1, 0].tolist()
    [0.0, 0.5, 1.0, 1.0, 0.0]
    """
    import edt

    from qmri_lake.segmentation.models.distance_maps_numba import mark_away, normalise

    labels = _checked(labels, n_classes)
    step = _steps(labels, spacing)
    # The compiled loops need a volume: a 2D array becomes a volume with one slice.
    volume = np.ascontiguousarray(labels.reshape((-1, *labels.shape[-2:])))
    maps = np.zeros((n_classes, *volume.shape), np.float32)
    away = np.empty(volume.shape, np.bool_)
    for value, phi in enumerate(maps):
        if not mark_away(volume, value, away):
            continue
        # One transform serves both sides: the nearest boundary voxel is on the same side.
        # For a single slice, the 2D transform is forty times faster than the 3D one.
        flat = len(volume) == 1
        distance = edt.edt(
            away[0] if flat else away, anisotropy=step[1:] if flat else step, parallel=parallel
        ).reshape(volume.shape)
        normalise(volume, value, distance, phi)
    return maps.reshape((n_classes, *labels.shape))


def _checked(labels: Values, n_classes: int) -> Values:
    labels = np.asarray(labels)
    if labels.ndim not in (2, 3) or labels.dtype.kind not in "iu" or not labels.size:
        raise InputError(
            f"labels of dtype {labels.dtype} and shape {labels.shape}",
            expected="integers, (slice, row, column) or (row, column)",
            where="distance_maps",
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= n_classes:
        raise InputError(
            f"label {low if low < 0 else high}",
            expected=f"0 to {n_classes - 1}",
            where="distance_maps",
            todo="Label 255 means that the voxel was not segmented: exclude such exams.",
            reason=Reason.UNKNOWN_LABEL,
        )
    return labels


def _steps(labels: Values, spacing: Sequence[float]) -> tuple[float, ...]:
    step = np.asarray(spacing, np.float64)
    if step.shape != (labels.ndim,) or not (np.isfinite(step) & (step > 0)).all():
        raise InputError(
            f"spacing {step.tolist()}",
            expected=f"{labels.ndim} lengths above 0, mm",
            where="distance_maps",
        )
    return (1.0,) * (3 - labels.ndim) + tuple(step.tolist())
