"""Keras with the right backend: TensorFlow where there is one, else torch; never the whole GPU."""

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

from qmri_lake.compute import threads_of_worker
from qmri_lake.errors import RunError

__all__ = ["backend_name", "channel_axis", "keras", "make_deterministic", "wanted_backend"]

_CHATTER = re.compile(rb"WARNING: All log messages before absl|[IW]\d{4} ")
"""How lines begin that TensorFlow prints while it is imported, before any level is obeyed."""
_ABSENT_GPU = re.compile(rb"E\d{4} .*(cuda|cuInit)", re.IGNORECASE)
"""What it calls an error on a machine that has no GPU at all."""


@cache
def keras() -> Any:
    """Import Keras and return it.

    The backend is what ``KERAS_BACKEND`` says, else TensorFlow where it is installed, else torch.
    It is fixed by the first import in a process. In a Dask worker it computes on as many threads
    as the worker has. Under torch, channels come first: that is the
    layout that its convolutions are fast in.

    Raises
    ------
    RunError
        Keras, or the backend, is not installed.
    """
    wanted = wanted_backend()
    os.environ["KERAS_BACKEND"] = wanted
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with _without_chatter():
            if wanted == "tensorflow":
                _share_machine()
            import keras as module
    except ImportError as error:
        raise RunError(
            f"no Keras with {wanted} ({error})",
            expected="both installed",
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
    """Name of the backend that Keras runs on, "tensorflow" or "torch"."""
    return str(keras().backend.backend())


def wanted_backend() -> str:
    """Name of the backend that `keras` takes, without the seconds that importing it takes."""
    return os.environ.get("KERAS_BACKEND") or _installed()


def channel_axis() -> int:
    """Axis of the channels in a batch: -1, or 1 where channels come first."""
    return 1 if keras().config.image_data_format() == "channels_first" else -1


def make_deterministic() -> None:
    """Let every operation of this process give the same bits for the same input; it is slower.

    For the whole process, and for good. The number of threads must be the same too.
    """
    if backend_name() == "tensorflow":
        import tensorflow

        tf: Any = tensorflow
        tf.config.experimental.enable_op_determinism()
    else:
        import torch

        torch.use_deterministic_algorithms(True)


def _installed() -> str:
    found = [n for n in ("tensorflow", "torch") if importlib.util.find_spec(n) is not None]
    return found[0] if found else "tensorflow"


def _share_machine() -> None:
    """Leave others their part: of a GPU's memory CuPy and torch, of the cores the other workers."""
    import tensorflow

    tf: Any = tensorflow  # its stubs export little

    if threads := threads_of_worker():
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        # Operations side by side as well: half as many threads as cores would wait for each other.
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Keep what TensorFlow says about itself from the error stream; pass on everything else.

    It writes to the file descriptor, past `sys.stderr`, and obeys no level until it is loaded.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            said.seek(0)
            gpu = Path("/proc/driver/nvidia").exists()
            for line in said:
                absent = not gpu and _ABSENT_GPU.match(line)
                if failed or not (_CHATTER.match(line) or absent):
                    os.write(2, line)
