"""Connected pieces of labels: drop the small ones, which no anatomy explains."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qmri_lake.errors import InputError, Reason
from qmri_lake.tissues import NO_MASK

__all__ = ["Cleaned", "piece_volumes", "remove_small"]

_WHOLE = np.ones((3, 3, 3), bool)
"""Voxels that share a corner are connected: a thin oblique sheet must not fall apart."""


class Cleaned(NamedTuple):
    """Labels without small pieces, and how much went."""

    labels: NDArray[np.uint8]
    """(slice, row, column) uint8, a copy."""
    voxels: int
    """Voxels that became background."""
    pieces: int
    """Pieces that they were."""


def remove_small(
    labels: NDArray[np.uint8], *, spacing: Any, fraction: float = 0.05, min_mm3: float = 0.0
) -> Cleaned:
    """Make small pieces of each label background.

    Of each label the largest piece stays, and every other that is not small: tibial cartilage and
    the menisci are two pieces, medial and lateral, and worn cartilage may be more.

    Parameters
    ----------
    labels : (slice, row, column) uint8
        0 is background; no voxel may be 255.
    spacing : (3,)
        Distance of voxel centres along the array axes, mm.
    fraction : float
        A piece below this part of its label's largest one is small. [assumption]
    min_mm3 : float
        So is one below this volume, mm3. [assumption]

    Returns
    -------
    Cleaned
        labels, voxels, pieces; `labels` that came in are not modified.

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
            "voxels that are 255, which is no mask", expected="a label in every voxel",
            where="remove_small", reason=Reason.ABSENT_EXAM,
        )  # fmt: skip
    out, voxels, pieces = labels.copy(), 0, 0
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if not box:
            continue
        found, count = ndimage.label(labels[box] == value, _WHOLE)
        if count == 1:
            continue
        sizes = np.bincount(found.ravel())[1:]
        small = sizes * voxel < max(fraction * sizes.max() * voxel, min_mm3)
        small[sizes.argmax()] = False
        if small.any():
            out[box][np.concatenate([[False], small])[found]] = 0
            voxels += int(sizes[small].sum())
            pieces += int(small.sum())
    return Cleaned(out, voxels, pieces)


def piece_volumes(mask: NDArray[np.bool_], spacing: Any) -> NDArray[np.float64]:
    """Return the volumes of the connected pieces of a mask, mm3, the largest first."""
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    if not boxes:
        return np.empty(0)
    box = boxes[0]
    found, _ = ndimage.label(mask[box], _WHOLE)
    sizes = np.sort(np.bincount(found.ravel())[1:])[::-1]
    return np.asarray(sizes * _voxel_volume(spacing), np.float64)


def _voxel_volume(spacing: Any) -> float:
    lengths = np.asarray(spacing, float)
    if lengths.shape != (3,) or not (np.isfinite(lengths) & (lengths > 0)).all():
        raise InputError(
            f"spacing {lengths.tolist()}", expected="three lengths above 0, mm", where="components"
        )
    return float(lengths.prod())
