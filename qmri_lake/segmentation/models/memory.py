"""Projected memory of an ensemble for one exam, which is checked before a run starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from qmri_lake.core.devices import gpu_count
from qmri_lake.core.text import format_bytes
from qmri_lake.errors import RunError
from qmri_lake.segmentation.models.backend import backend_name, wanted_backend
from qmri_lake.segmentation.models.members import Member
from qmri_lake.segmentation.models.network import SLICES, Network
from qmri_lake.segmentation.models.recipes import TASKS

__all__ = ["check_gpu", "gpu_bytes", "projected_bytes", "projected_gpu_bytes"]

_PROCESS = 2**30
"""Memory of Python with Keras and a backend, before a network is read (0.7 to 0.8 GiB)."""
_CONTEXT = 2**30
"""GPU memory of a process without its arrays: kernels of CUDA and cuDNN. [assumption]"""
_ACTIVATIONS = {"tensorflow": 5.5, "torch": 8.5}
"""Peak memory of the activations, as a multiple of the size of the top level's output. The memory
holds two inputs of a concatenation, its result (as large as both inputs), the output, and the
workspace of a convolution. Measured multiples for 0.4 to 24 million voxels, without the logits: 4.3
to 5.4 (TensorFlow), 5.2 to 7.7 (torch)."""


def projected_bytes(
    members: Sequence[Member], shape: Sequence[int], *, on_gpu: bool = False
) -> int:
    """Return the peak memory of a process that segments an exam of this shape, bytes.

    For other networks (`OwnNetwork`), only the image and the probabilities are counted. Workers are
    assumed to have the same Keras backend as this process.

    Parameters
    ----------
    members : sequence of Member
        All of one task.
    shape : (3,)
        Slices, rows, columns.
    on_gpu : bool
        Whether activations are in GPU memory. They are then counted by `projected_gpu_bytes`
        instead.
    """
    classes = len(TASKS[members[0].task])
    voxels = math.prod(shape)
    frames = {member.frame for member in members}
    # The image as stored and as read, the votes, and the sum over previous network views.
    held = 8 * voxels + (len(members) > 1) * classes * voxels
    held += (len(frames) > 1) * 4 * classes * voxels
    # The arg-max of the labels is 64-bit; the uncertainty and its terms are float32.
    peak = 4 * classes * voxels + 20 * voxels
    for member in members:
        size = member.frame.size(shape)
        n = math.prod(size)
        total = 4 * classes * n
        logits = 3 * total  # the output, its crop, and the softmax
        if isinstance(member, Network) and not on_gpu:
            logits += _activations(member, size)
        copies = 2 if np.prod(member.frame.shrink) == 1 else 6  # interpolated axis by axis
        peak = max(peak, 4 * n + total + logits, total + copies * 4 * classes * voxels)
    # The weights are read into separate arrays before they are assigned to the model.
    weights = [member.weights_bytes for member in members if isinstance(member, Network)]
    return int(_PROCESS + 2 * sum(weights) + held + peak)


def projected_gpu_bytes(members: Sequence[Member], shape: Sequence[int]) -> int:
    """Return the peak GPU memory of those members that are networks of this package, bytes.

    The factors were measured on a CPU, not on a GPU.
    """
    networks = [member for member in members if isinstance(member, Network)]
    peak = 0
    for network in networks:
        size = network.frame.size(shape)
        # The image, the logits in both precisions, and the activations.
        peak = max(
            peak, (4 + 8 * len(network.labels)) * math.prod(size) + _activations(network, size)
        )
    weights = sum(network.weights_bytes for network in networks)
    return int(_CONTEXT + weights + peak) if networks else 0


def gpu_bytes() -> int | None:
    """Return the memory of the GPU that the backend uses, bytes; None if it uses the CPU.

    The total memory is returned rather than the free memory, since running workers reuse the memory
    that they have allocated. The backend is only imported if NVML finds a GPU.
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

    tf: Any = tensorflow  # TensorFlow's type stubs export few names

    if not tf.config.list_physical_devices("GPU"):
        return None
    # TensorFlow does not report the size. With the largest GPU, no run is rejected by mistake.
    pynvml.nvmlInit()
    handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
    return max(int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) for handle in handles)


def check_gpu(members: Sequence[Member], shape: Sequence[int], available: int) -> None:
    """Check that the members fit into the memory of a GPU.

    Raises
    ------
    RunError
        If the projected memory is larger than `available`, bytes.
    """
    needed = projected_gpu_bytes(members, shape)
    if needed > available:
        raise RunError(
            f"{format_bytes(needed)} of GPU memory projected for one exam",
            expected=f"at most {format_bytes(available)}, the memory of the GPU",
            where=f"segment_{members[0].task}",
            todo='Use dtype="bfloat16", a larger GPU, or CUDA_VISIBLE_DEVICES="" for the CPU.',
        )


def _activations(network: Network, size: Sequence[int]) -> int:
    architecture = network.recipe.architecture
    sizes = list(size)
    if architecture.rank == 2:
        sizes[0] = min(sizes[0], SLICES)
    else:
        sizes[0] += -sizes[0] % architecture.stride
    sizes[1:] = [n + -n % architecture.stride for n in sizes[1:]]
    itemsize = np.dtype(np.float32).itemsize if network.dtype == "float32" else 2
    arrays = _ACTIVATIONS.get(wanted_backend(), max(_ACTIVATIONS.values()))
    return int(arrays * math.prod(sizes) * architecture.channels * itemsize)
