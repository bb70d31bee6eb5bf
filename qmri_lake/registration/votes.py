"""Compiled loop that carries labels to another grid: the voxels of one vote on those of the other.

Importing this module imports numba.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["vote"]


@njit(cache=True, nogil=True)
def vote(labels, matrix, index, steps, half, mixed, out):  # type: ignore[no-untyped-def]
    """Fill `out` (slice, row, column) with the labels that sub-samples of each voxel meet.

    Parameters
    ----------
    labels : (slice, row, column) uint8
        0 is background; values at most 15.
    matrix : (3, 4) float64
        Target voxel index to the index in `labels`.
    index : tuple of three (n,) float64
        Target voxel indices along each axis of `out`.
    steps : (m, 3) float64
        Sub-sample positions about a voxel's centre, target voxels.
    half : int
        Votes that make a tissue, of m.
    mixed : int
        Labels 1 ... mixed win together, and the largest of them names the voxel; one above wins
        alone.
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
                    # Checked before the cast: int() rounds towards 0, and -0.3 is outside.
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
