"""GPUs and threads available to this process."""

from __future__ import annotations

import sys

__all__ = ["gpu_count", "threads_of_worker"]


def gpu_count() -> int:
    """Return the number of GPUs that NVML finds; 0 without NVML.

    A successful import of a GPU library does not show that there is a GPU.
    """
    try:
        import pynvml
    except ImportError:
        return 0
    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0


def threads_of_worker() -> int | None:
    """Return the number of threads of this process' Dask worker, or None outside a worker.

    Libraries with a separate thread pool use this number; by default, they would use all cores in
    each worker.
    """
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return int(get_worker().state.nthreads)
    except ValueError:  # this process is not a worker
        return None
