"""The largest piece of a mask: compiled loops over runs of voxels.

Importing this module imports numba.
"""

from __future__ import annotations

import numpy as np
from numba import njit, uintp

__all__ = ["largest_piece"]


@njit(cache=True, nogil=True)
def largest_piece(mask):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the largest piece of a mask, bool, and the voxel counts (n,) of the other pieces.

    Voxels that share a corner belong to one piece. If several pieces have the largest size, the
    first of them is returned. If the mask is one piece, the mask itself is returned. The mask must
    not be empty.
    """
    n0, n1, n2 = mask.shape
    first = np.zeros(n0 * n1 + 1, np.intp)  # index of the first run in each row of voxels
    for row in range(n0 * n1):
        voxels = mask[row // n1, row % n1]
        count = int(voxels[0])
        for k in range(uintp(n2 - 1)):
            count += voxels[k + uintp(1)] > voxels[k]
        first[row + 1] = first[row] + count
    start, stop = np.empty(first[-1], np.intp), np.empty(first[-1], np.intp)
    parent = np.arange(first[-1])
    for row in range(n0 * n1):
        here = slice(first[row], first[row + 1])
        i, j = row // n1, row % n1
        _find_runs(mask[i, j], start[here], stop[here])
        if j > 0:
            _join(first, start, stop, parent, row, row - 1)
        for other in range(max(j - 1, 0), min(j + 2, n1) if i > 0 else 0):
            _join(first, start, stop, parent, row, (i - 1) * n1 + other)
    size = np.zeros(len(parent), np.intp)
    for run in range(len(parent)):
        size[_root(parent, run)] += stop[run] - start[run]
    chosen = size.argmax()
    others = size[size > 0]
    if len(others) == 1:
        return mask, others[:0]
    largest = np.zeros(mask.shape, np.bool_)
    for row in range(n0 * n1):
        for run in range(first[row], first[row + 1]):
            if _root(parent, run) == chosen:
                largest[row // n1, row % n1, start[run] : stop[run]] = True
    size[chosen] = 0
    return largest, size[size > 0]


@njit(cache=True, nogil=True)
def _find_runs(voxels, start, stop):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Fill `start` and `stop` with the first and the end index of each run in a row."""
    n, inside = 0, False
    for k in range(len(voxels)):
        if voxels[k] and not inside:
            start[n] = k
        elif inside and not voxels[k]:
            stop[n] = k
            n += 1
        inside = voxels[k]
    if inside:
        stop[n] = len(voxels)


@njit(cache=True, nogil=True)
def _join(first, start, stop, parent, row, other):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Join runs of two rows into one piece if they share at least a corner."""
    a, b = first[row], first[other]
    while a < first[row + 1] and b < first[other + 1]:
        if start[a] <= stop[b] and start[b] <= stop[a]:
            u, v = _root(parent, a), _root(parent, b)
            parent[max(u, v)] = min(u, v)
        if stop[a] < stop[b]:
            a += 1
        else:
            b += 1


@njit(cache=True, nogil=True)
def _root(parent, run):  # type: ignore[no-untyped-def]  # pragma: no cover
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run
