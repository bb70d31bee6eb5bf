"""Keras with the right backend: TensorFlow where there is one, else torch; never the whole GPU."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from typing import Any

from qmri_lake.errors import RunError

__all__ = ["backend_name", "channel_axis", "keras"]


@cache
def keras() -> Any:
    """Import Keras and return it.

    The backend is what ``KERAS_BACKEND`` says, else TensorFlow where it is installed, else torch.
    It is fixed by the first import in a process. Under torch, channels come first: that is the
    layout that its convolutions are fast in.

    Raises
    ------
    RunError
        Keras, or the backend, is not installed.
    """
    wanted = os.environ.get("KERAS_BACKEND") or _installed()
    os.environ["KERAS_BACKEND"] = wanted
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        if wanted == "tensorflow":
            _share_gpus()
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
    return module


def backend_name() -> str:
    """Name of the backend that Keras runs on, "tensorflow" or "torch"."""
    return str(keras().backend.backend())


def channel_axis() -> int:
    """Axis of the channels in a batch: -1, or 1 where channels come first."""
    return 1 if keras().config.image_data_format() == "channels_first" else -1


def _installed() -> str:
    found = [n for n in ("tensorflow", "torch") if importlib.util.find_spec(n) is not None]
    return found[0] if found else "tensorflow"


def _share_gpus() -> None:
    """Let TensorFlow take GPU memory as it needs it: CuPy and torch want some of the card too."""
    import tensorflow

    tf: Any = tensorflow  # its stubs export little

    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)
