"""Compiled loop for the transfer of labels to another grid by majority.

Importing this module imports numba.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["majority_labels"]


@njit(cache=True, nogil=True)
def majority_labels(labels, matrix, index, steps, half, mixed, out):  # type: ignore[no-untyped-def]
    """Fill `out` (slice, row, column) with the majority label of the sub-samples of each voxel.

    Parameters
    ----------
    labels : (slice, row, column) uint8
        0 is background; values at most 15.
    matrix : (3, 4) float64
        Transform from the target voxel index to the index in `labels`.
    index : tuple of three (n,) float64
        Target voxel indices along each axis of `out`.
    steps : (m, 3) float64
        Positions of the sub-samples relative to the centre of a voxel, in target voxels.
    half : int
        Smallest number of sub-samples (of all m) that a label needs.
    mixed : int
        Labels from 1 to `mixed` are counted together, and the voxel gets the most frequent of them.
        Each larger label is counted separately.
    out : (slice, row, column) uint8
        Zeros on entry.
    """
    n0, n1, n2 = labels.shape
    moved = np.empty((steps.shape[0], 3))
    for m in range(steps.shape[0]):
        for a in range(3):
            moved[m, a] = 0.5  # floor(x + 0.5) is the nearest voxel
            for b in range(3):
                moved[m, a] += matrix[a, b] * steps[m, b]
    votes = np.zeros(16, np.int64)
    for s in range(out.shape[0]):
        for r in range(out.shape[1]):
            for c in range(out.shape[2]):
                i, j, k = index[0][s], index[1][r], index[2][c]
                x = matrix[0, 0] * i + matrix[0, 1] * j + matrix[0, 2] * k + matrix[0, 3]
                y = matrix[1, 0] * i + matrix[1, 1] * j + matrix[1, 2] * k + matrix[1, 3]
                z = matrix[2, 0] * i + matrix[2, 1] * j + matrix[2, 2] * k + matrix[2, 3]
                votes[:] = 0
                for m in range(steps.shape[0]):
                    # Checked before the cast, since int() would round -0.3, which is outside, to 0.
                    p, q, t = x + moved[m, 0], y + moved[m, 1], z + moved[m, 2]
                    if p >= 0 and q >= 0 and t >= 0 and p < n0 and q < n1 and t < n2:
                        votes[labels[int(p), int(q), int(t)]] += 1
                together, best = 0, 1
                for v in range(1, mixed + 1):
                    together += votes[v]
                    if votes[v] > votes[best]:
                        best = v
                if together >= half:
                    out[s, r, c] = best
                    continue
                for v in range(mixed + 1, votes.size):
                    if votes[v] >= half:
                        out[s, r, c] = v
