"""How much memory an ensemble needs for one exam: to refuse a run before it starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from qmri_lake.compute import gpu_count
from qmri_lake.errors import RunError
from qmri_lake.segmentation.backend import backend_name, wanted_backend
from qmri_lake.segmentation.ensemble import Member
from qmri_lake.segmentation.network import SLICES, Network
from qmri_lake.segmentation.recipes import TASKS

__all__ = ["check_gpu", "gpu_bytes", "projected_bytes", "projected_gpu_bytes"]

_PROCESS = 2**30
"""Python with Keras and a backend, before a network is read (0.7 to 0.8 GiB)."""
_CONTEXT = 2**30
"""What a GPU holds for a process beside its arrays: kernels of CUDA and cuDNN. [assumption]"""
_ACTIVATIONS = {"tensorflow": 5.5, "torch": 8.5}
"""Arrays of the size of the top level's output that are there at once: two that are joined, the
joined one that is as large as both, what comes of it, and what a convolution takes for itself.
Measured at 0.4 to 24 million voxels, the logits taken off: 4.3 to 5.4, and 5.2 to 7.7."""


def projected_bytes(
    members: Sequence[Member], shape: Sequence[int], *, on_gpu: bool = False
) -> int:
    """Return the peak memory of a process that segments an exam of this shape.

    Of a network of your own only the image that it gets and the probabilities that it returns are
    counted. Workers are taken to have the Keras backend of this process.

    Parameters
    ----------
    members : sequence of Member
        All of one task.
    shape : (3,)
        Slices, rows, columns.
    on_gpu : bool
        Whether activations are in the memory of a GPU, where `projected_gpu_bytes` counts them.
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
        if isinstance(member, Network) and not on_gpu:
            logits += _activations(member, seen)
        copies = 2 if np.prod(member.frame.shrink) == 1 else 6  # interpolated axis by axis
        peak = max(peak, 4 * n + total + logits, total + copies * 4 * classes * voxels)
    # A file of weights is read into arrays of its own before they become the model's.
    weights = [member.weights_bytes for member in members if isinstance(member, Network)]
    return int(_PROCESS + 2 * sum(weights) + held + peak)


def projected_gpu_bytes(members: Sequence[Member], shape: Sequence[int]) -> int:
    """Return the peak memory that our networks among the members take of a GPU.

    The factors of a CPU are taken; they were not measured on a GPU.
    """
    ours = [member for member in members if isinstance(member, Network)]
    peak = 0
    for member in ours:
        seen = member.frame.size(shape)
        # The image, logits as they are computed and in float32, and all activations before.
        peak = max(
            peak, (4 + 8 * len(member.labels)) * math.prod(seen) + _activations(member, seen)
        )
    return int(_CONTEXT + sum(member.weights_bytes for member in ours) + peak) if ours else 0


def gpu_bytes() -> int | None:
    """Return the size of the GPU that the backend computes on; None where that is the CPU.

    All of its memory, not what is free: workers that are warm already hold some, and use it again.
    Where NVML sees no GPU, no backend is imported to ask.
    """
    if not gpu_count():
        return None
    if backend_name() == "torch":
        import torch

        if not torch.cuda.is_available():
            return None
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    import pynvml
    import tensorflow

    tf: Any = tensorflow  # its stubs export little

    if not tf.config.list_physical_devices("GPU"):
        return None
    # TensorFlow does not say how large its GPU is: the largest, so that no run is refused wrongly.
    pynvml.nvmlInit()
    handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
    return max(int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) for handle in handles)


def check_gpu(members: Sequence[Member], shape: Sequence[int], available: int) -> None:
    """Refuse members whose activations of one exam a GPU can't hold.

    Raises
    ------
    RunError
        More is projected than there is.
    """
    needed = projected_gpu_bytes(members, shape)
    if needed > available:
        raise RunError(
            f"{needed / 2**30:.1f} GiB of GPU memory projected for one exam",
            expected=f"at most the {available / 2**30:.1f} GiB that the GPU has",
            where=f"segment_{members[0].task}",
            todo='Use dtype="bfloat16", a larger GPU, or CUDA_VISIBLE_DEVICES="" for the CPU.',
        )


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
