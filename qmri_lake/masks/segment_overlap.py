"""Combination of segments into one label map, in which no voxel may be of two of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, Reason

__all__ = ["add_segment"]


def add_segment(
    labels: NDArray[np.uint8],
    inside: NDArray[np.bool_],
    number: int,
    name: str,
    owners: dict[int, str],
    where: str,
    todo: str,
) -> None:
    """Write the number of a segment into a label map.

    Parameters
    ----------
    labels : array of uint8
        The label map, which is changed.
    inside : array of bool
        Voxels of the segment.
    number, name : int, str
        Label and name of the segment. Segments with the same number may overlap.
    owners : dict of int to str
        Name of each number, which is extended.
    where, todo : str
        Path of the file and what to do, for errors.

    Raises
    ------
    InputError
        If a voxel belongs to a segment with another number (``overlapping_labels``).
    """
    shared = labels[inside]
    shared = shared[(shared > 0) & (shared != number)]
    if shared.size:
        others = [owners[n] for n in np.unique(shared).tolist()]
        raise InputError(
            f"{counted(shared.size, 'voxel')} both in {name!r} and in "
            + " or ".join(map(repr, others)),
            expected="one segment for each voxel",
            where=where,
            todo=todo,
            reason=Reason.OVERLAPPING_LABELS,
        )
    labels[inside] = number
    owners[number] = name
