"""Connected pieces of labels, and removal of small pieces that anatomy does not explain."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from qmri_lake.errors import InputError, Reason
from qmri_lake.tissues import NO_MASK

__all__ = ["CleanedMask", "piece_volumes", "remove_small"]

_CONNECTIVITY = np.ones((3, 3, 3), bool)
"""Voxels that share a corner are connected, so that a thin oblique sheet is one piece."""


class CleanedMask(NamedTuple):
    """Labels without small pieces, and the numbers of voxels and pieces removed."""

    labels: NDArray[np.uint8]
    """(slice, row, column) uint8, a copy."""
    voxels: int
    """Number of voxels that became background."""
    pieces: int
    """Number of removed pieces."""


def remove_small(
    labels: NDArray[np.uint8], *, spacing: ArrayLike, fraction: float = 0.05, min_mm3: float = 0.0
) -> CleanedMask:
    """Replace small pieces of each label by background.

    The largest piece of each label is kept, and so is every other piece that is not small. Tibial
    cartilage and the menisci have two pieces, medial and lateral, and worn cartilage may have more.

    Parameters
    ----------
    labels : (slice, row, column) uint8
        0 is background; no voxel may be 255.
    spacing : (3,)
        Distance between voxel centres along the array axes, mm.
    fraction : float
        Pieces below this fraction of the largest piece of their label are small. [assumption]
    min_mm3 : float
        Pieces below this volume are small, mm3. [assumption]

    Returns
    -------
    CleanedMask
        labels, voxels, pieces; the argument `labels` is not modified.

    Examples
    --------
    >>> labels = np.zeros((4, 9, 9), np.uint8)
    >>> labels[:, 1:5, 1:5], labels[0, 8, 8] = 2, 2
    >>> remove_small(labels, spacing=(1, 1, 1))[1:]
    (1, 1)
    """
    voxel = _voxel_volume(spacing)
    if (labels == NO_MASK).any():
        raise InputError(
            "voxels that are 255 (not segmented)",
            expected="a label in every voxel",
            where="remove_small",
            reason=Reason.ABSENT_EXAM,
        )
    out, voxels, pieces = labels.copy(), 0, 0
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if not box:
            continue
        numbers, count = ndimage.label(labels[box] == value, _CONNECTIVITY)
        if count == 1:
            continue
        sizes = np.bincount(numbers.ravel())[1:]
        small = sizes * voxel < max(fraction * sizes.max() * voxel, min_mm3)
        small[sizes.argmax()] = False
        if small.any():
            out[box][np.concatenate([[False], small])[numbers]] = 0
            voxels += int(sizes[small].sum())
            pieces += int(small.sum())
    return CleanedMask(out, voxels, pieces)


def piece_volumes(mask: NDArray[np.bool_], spacing: ArrayLike) -> NDArray[np.float64]:
    """Return the volumes of the connected pieces of a mask, mm3, in descending order."""
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    if not boxes:
        return np.empty(0)
    box = boxes[0]
    numbers, _ = ndimage.label(mask[box], _CONNECTIVITY)
    sizes = np.sort(np.bincount(numbers.ravel())[1:])[::-1]
    return np.asarray(sizes * _voxel_volume(spacing), np.float64)


def _voxel_volume(spacing: ArrayLike) -> float:
    lengths = np.asarray(spacing, float)
    if lengths.shape != (3,) or not (np.isfinite(lengths) & (lengths > 0)).all():
        raise InputError(
            f"spacing {lengths.tolist()}", expected="three lengths above 0, mm", where="components"
        )
    return float(lengths.prod())
