"""Import of Keras with TensorFlow or torch, without reserving the whole memory of a GPU."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from qmri_lake.core.devices import threads_of_worker
from qmri_lake.core.processor import has_bfloat16, instruction_set
from qmri_lake.errors import RunError

__all__ = [
    "backend_name",
    "channel_axis",
    "check_dtype",
    "keras",
    "make_deterministic",
    "wanted_backend",
]

_IMPORT_LOG = re.compile(rb"WARNING: All log messages before absl|[IW]\d{4} ")
"""Start of lines that TensorFlow logs during its import, whatever the log level."""
_ABSENT_GPU = re.compile(rb"E\d{4} .*(cuda|cuInit)", re.IGNORECASE)
"""Lines that TensorFlow logs as errors on a machine without a GPU."""


@cache
def keras() -> Any:
    """Import Keras and return it.

    The environment variable ``KERAS_BACKEND`` selects the backend. By default, the backend is
    TensorFlow if it is installed, else torch. The first import in a process determines the backend.
    In a Dask worker, Keras uses as many threads as the worker has. With torch, the channel axis is
    1, since the convolutions of torch are fast with this axis.

    Raises
    ------
    RunError
        If Keras or the backend is not installed.
    """
    wanted = wanted_backend()
    os.environ["KERAS_BACKEND"] = wanted
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with _without_import_log():
            if wanted == "tensorflow":
                _limit_resources()
            import keras as module
    except ImportError as error:
        raise RunError(
            f"no Keras with {wanted} ({error})",
            expected="both packages installed",
            where="segmentation",
            todo="pip install 'qmri-lake[segmentation]'",
        ) from error
    if module.backend.backend() == "torch":
        module.config.set_image_data_format("channels_first")
        if threads := threads_of_worker():
            import torch

            torch.set_num_threads(threads)
    return module


def backend_name() -> str:
    """Return the name of the backend of Keras, "tensorflow" or "torch"."""
    return str(keras().backend.backend())


def wanted_backend() -> str:
    """Return the name of the backend that `keras` would use, without importing it."""
    return os.environ.get("KERAS_BACKEND") or _installed()


def channel_axis() -> int:
    """Return the axis of the channels in a batch: -1, or 1 if channels come first."""
    return 1 if keras().config.image_data_format() == "channels_first" else -1


def make_deterministic() -> None:
    """Make all operations of this process bitwise reproducible, which makes them slower.

    This cannot be undone. Results are equal only with the same number of threads.
    """
    if backend_name() == "tensorflow":
        import tensorflow

        tf: Any = tensorflow
        tf.config.experimental.enable_op_determinism()
    else:
        import torch

        torch.use_deterministic_algorithms(True)


def check_dtype(dtype: str) -> None:
    """Check that the hardware supports a dtype policy.

    Raises
    ------
    RunError
        If the policy is bfloat16, there is no GPU, and the CPU would have to emulate bfloat16.
    """
    if dtype != "float32" and not _on_gpu() and not has_bfloat16():
        raise RunError(
            f"bfloat16 on a CPU with {instruction_set()} only, which would emulate bfloat16 slowly",
            expected="avx512_bf16, amx_bf16 or a GPU",
            where="segmentation",
            todo='Use dtype="float32".',
        )


def _on_gpu() -> bool:
    if backend_name() == "torch":
        import torch

        return torch.cuda.is_available()
    import tensorflow

    tf: Any = tensorflow
    return bool(tf.config.list_physical_devices("GPU"))


def _installed() -> str:
    found = [n for n in ("tensorflow", "torch") if importlib.util.find_spec(n) is not None]
    return found[0] if found else "tensorflow"


def _limit_resources() -> None:
    """Leave GPU memory that is not needed to CuPy and torch; use only the worker's threads."""
    import tensorflow

    tf: Any = tensorflow  # TensorFlow's type stubs export few names

    if threads := threads_of_worker():
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        # Limit parallel operations as well: too many threads would compete for the cores.
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)


@contextmanager
def _without_import_log() -> Iterator[None]:
    """Remove from standard error the messages that TensorFlow logs during its import.

    All other messages are kept. TensorFlow writes to the file descriptor rather than to
    `sys.stderr`, whatever the log level.
    """
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
            captured.seek(0)
            gpu = Path("/proc/driver/nvidia").exists()
            for line in captured:
                absent = not gpu and _ABSENT_GPU.match(line)
                if failed or not (_IMPORT_LOG.match(line) or absent):
                    os.write(2, line)
