"""Compiled loops of distance maps: voxels on a boundary, and normalisation of distances."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["mark_away", "normalise"]


@njit(cache=True, nogil=True)
def mark_away(labels, value, away):  # type: ignore[no-untyped-def]
    """Mark the voxels off the boundary of a label; return whether the label has boundary voxels."""
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
def normalise(labels, value, distance, phi):  # type: ignore[no-untyped-def]
    """Write 1 - distance / maximum to `phi`, with the maximum on the same side of the boundary."""
    inside, outside = np.float32(0), np.float32(0)
    for i in range(labels.shape[0]):
        for j in range(labels.shape[1]):
            for k in range(labels.shape[2]):
                if labels[i, j, k] == value:
                    inside = max(inside, distance[i, j, k])
                else:
                    outside = max(outside, distance[i, j, k])
    one = np.float32(1)
    # If all voxels of a side are boundary voxels, its maximum is 0: phi is then 1 throughout.
    by_inside = one / inside if inside > 0 else np.float32(0)
    by_outside = one / outside if outside > 0 else np.float32(0)
    for i in range(labels.shape[0]):
        for j in range(labels.shape[1]):
            for k in range(labels.shape[2]):
                by = by_inside if labels[i, j, k] == value else by_outside
                phi[i, j, k] = max(one - distance[i, j, k] * by, np.float32(0))
