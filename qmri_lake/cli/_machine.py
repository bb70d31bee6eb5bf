"""A one-line description of the machine: instruction set, cores, GPUs and network libraries."""

from __future__ import annotations

import os

from qmri_lake.core.devices import gpu_count
from qmri_lake.core.processor import has_bfloat16, instruction_set, onednn_enabled
from qmri_lake.segmentation.models.backend import wanted_backend

__all__ = ["describe"]


def describe() -> str:
    """Describe the hardware for networks in one line, without importing network libraries.

    >>> print(describe())  # doctest: +SKIP
    CPU with AVX2, 8 cores, no bfloat16; segmentation by tensorflow + oneDNN, classifiers by torch
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    backend = wanted_backend()
    if backend == "tensorflow":
        backend += " + oneDNN" if onednn_enabled() else " without oneDNN"
    gpus = f", {gpu_count()} GPU" if gpu_count() else ""
    return (
        f"CPU with {instruction_set()}, {cores} cores, {'' if has_bfloat16() else 'no '}bfloat16"
        f"{gpus}; segmentation by {backend}, classifiers by torch"
    )
