"""Lookup of 8-bit labels: other labels for all voxels, and the labels that a volume contains.

NumPy converts the indices of a lookup to 64 bits, and sorts to find distinct values. A volume of
24 million voxels then takes a second and eight times its memory. Bytes are translated in one pass.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["has_label", "labels_besides", "relabel"]

_Labels = NDArray[np.uint8]


def relabel(labels: _Labels, table: _Labels) -> _Labels:
    """Return ``table[labels]`` for 8-bit labels.

    Parameters
    ----------
    labels : array of uint8
        Of any shape and memory order, which the result has too.
    table : (256,) uint8
        New label of each label.
    """
    result = np.empty_like(labels)
    if not (labels.flags.c_contiguous or labels.flags.f_contiguous):
        result[...] = relabel(np.ascontiguousarray(labels), table)
        return result
    moved = bytearray(labels.ravel(order="K")).translate(table.tobytes())
    result.ravel(order="K")[...] = np.frombuffer(moved, np.uint8)
    return result


def labels_besides(labels: _Labels, known: Iterable[int]) -> list[int]:
    """Return the labels that occur, except the known ones, in ascending order.

    Parameters
    ----------
    labels : array of uint8
        Of any shape and memory order.
    known : iterable of int
        Labels to leave out; numbers that are not 8-bit labels have no effect.
    """
    left_out = bytes(sorted({int(n) for n in known if 0 <= n <= 255}))
    rest = bytearray(labels.ravel(order="K")).translate(None, left_out)
    return [int(n) for n in np.unique(np.frombuffer(rest, np.uint8))]


def has_label(labels: _Labels, wanted: Iterable[int]) -> bool:
    """Return whether any of the wanted labels, 0 to 255, occurs."""
    content = bytearray(labels.ravel(order="K"))
    return any(content.find(n) >= 0 for n in wanted)
