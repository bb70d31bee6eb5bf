"""Compiled loops of the surface distance: surface voxels, and search for the nearest voxel."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["border", "search"]


@njit(cache=True, nogil=True)
def border(mask, box, edge):  # type: ignore[no-untyped-def]
    """Return a bool array of the shape of the box that is True in the border voxels of a mask.

    A border voxel has a face neighbour outside the mask. Voxels beyond the array count as outside
    if `edge` is True, and as inside otherwise.
    """
    first, last = box[:, 0], box[:, 1]
    out = np.zeros((last[0] - first[0], last[1] - first[1], last[2] - first[2]), np.bool_)
    for i in range(first[0], last[0]):
        for j in range(first[1], last[1]):
            for k in range(first[2], last[2]):
                if not mask[i, j, k]:
                    continue
                found = edge and (
                    i == 0
                    or j == 0
                    or k == 0
                    or i == mask.shape[0] - 1
                    or j == mask.shape[1] - 1
                    or k == mask.shape[2] - 1
                )
                found = found or (i > 0 and not mask[i - 1, j, k])
                found = found or (j > 0 and not mask[i, j - 1, k])
                found = found or (k > 0 and not mask[i, j, k - 1])
                found = found or (i < mask.shape[0] - 1 and not mask[i + 1, j, k])
                found = found or (j < mask.shape[1] - 1 and not mask[i, j + 1, k])
                found = found or (k < mask.shape[2] - 1 and not mask[i, j, k + 1])
                if found:
                    out[i - first[0], j - first[1], k - first[2]] = True
    return out


@njit(cache=True, nogil=True)
def search(target, points, offsets, lengths):  # type: ignore[no-untyped-def]
    """Return for each point the length of the first offset that leads to `target`, or NaN."""
    out = np.full(points.shape[0], np.nan)
    for p in range(points.shape[0]):
        for n in range(offsets.shape[0]):
            i = points[p, 0] + offsets[n, 0]
            j = points[p, 1] + offsets[n, 1]
            k = points[p, 2] + offsets[n, 2]
            if (
                0 <= i < target.shape[0]
                and 0 <= j < target.shape[1]
                and 0 <= k < target.shape[2]
                and target[i, j, k]
            ):
                out[p] = lengths[n]
                break
    return out
