"""How much memory an ensemble needs for one exam: to refuse a run before it starts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qmri_lake.segmentation.backend import wanted_backend
from qmri_lake.segmentation.ensemble import Member
from qmri_lake.segmentation.network import SLICES, Network
from qmri_lake.segmentation.recipes import TASKS

__all__ = ["projected_bytes"]

_PROCESS = 2**30
"""Python with Keras and a backend, before a network is read (0.7 to 0.8 GiB)."""
_ACTIVATIONS = {"tensorflow": 5.5, "torch": 8.5}
"""Arrays of the size of the top level's output that are there at once: two that are joined, the
joined one that is as large as both, what comes of it, and what a convolution takes for itself.
Measured at 0.4 to 24 million voxels, the logits taken off: 4.3 to 5.4, and 5.2 to 7.7."""


def projected_bytes(members: Sequence[Member], shape: Sequence[int]) -> int:
    """Return the peak memory of a process that segments an exam of this shape.

    Of a network of your own only the image that it gets and the probabilities that it returns are
    counted. Workers are taken to have the Keras backend of this process.

    Parameters
    ----------
    members : sequence of Member
        All of one task.
    shape : (3,)
        Slices, rows, columns.
    """
    classes = len(TASKS[members[0].task])
    voxels = math.prod(shape)
    frames = {member.frame for member in members}
    # The image as stored and as read, the votes, and what the frames before have added up to.
    held = 8 * voxels + (len(members) > 1) * classes * voxels
    held += (len(frames) > 1) * 4 * classes * voxels
    # Labels are found by 64-bit arg-max; uncertainty and its terms are float32.
    peak = 4 * classes * voxels + 20 * voxels
    for member in members:
        seen = member.frame.size(shape)
        n = math.prod(seen)
        total = 4 * classes * n
        logits = 3 * total  # as they come, cropped, and their softmax
        if isinstance(member, Network):
            logits += _activations(member, seen)
        copies = 2 if np.prod(member.frame.shrink) == 1 else 6  # interpolated axis by axis
        peak = max(peak, 4 * n + total + logits, total + copies * 4 * classes * voxels)
    # A file of weights is read into arrays of its own before they become the model's.
    weights = [member.weights_bytes for member in members if isinstance(member, Network)]
    return int(_PROCESS + 2 * sum(weights) + held + peak)


def _activations(network: Network, seen: Sequence[int]) -> int:
    architecture = network.recipe.architecture
    sizes = list(seen)
    if architecture.rank == 2:
        sizes[0] = min(sizes[0], SLICES)
    else:
        sizes[0] += -sizes[0] % architecture.stride
    sizes[1:] = [n + -n % architecture.stride for n in sizes[1:]]
    itemsize = np.dtype(np.float32).itemsize if network.dtype == "float32" else 2
    arrays = _ACTIVATIONS.get(wanted_backend(), max(_ACTIVATIONS.values()))
    return int(arrays * math.prod(sizes) * architecture.channels * itemsize)
