"""Checkpoints: everything needed to resume a training, in one file."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from qmri_lake.core.atomic_write import atomic_write
from qmri_lake.core.disk_full import disk_full_errors
from qmri_lake.core.model_folder import CHECKPOINT
from qmri_lake.errors import Reason, RunError
from qmri_lake.segmentation.models.backend import keras
from qmri_lake.segmentation.models.keras_types import KerasModel
from qmri_lake.training.state import State, refuse_difference

__all__ = ["read_state", "restore", "save"]


def save(path: Path, model: KerasModel, state: State, configuration: Mapping[str, object]) -> None:
    """Write a checkpoint; if this fails, the previous one remains.

    `configuration` consists of plain values that describe the training. `read_state` raises an
    error if it is called with other values.

    Raises
    ------
    DiskFullError
        If the disk is full.
    """
    convert = keras().ops.convert_to_numpy
    arrays = {f"model_{n}": convert(v) for n, v in enumerate(model.trainable_variables)}
    arrays |= {f"optimizer_{n}": convert(v) for n, v in enumerate(model.optimizer.variables)}
    known = json.dumps({"state": asdict(state), "configuration": configuration})
    with (
        disk_full_errors(path.parent, "a checkpoint"),
        atomic_write(path) as unfinished,
        open(unfinished, "wb") as stream,
    ):
        np.savez(stream, known=np.array(known), **arrays)


def read_state(path: Path, configuration: Mapping[str, object]) -> State:
    """Read the state from a checkpoint, without weights and optimiser.

    Raises
    ------
    RunError
        If the checkpoint cannot be read, or has another configuration.
    """
    try:
        with np.load(path) as saved:
            known = json.loads(str(saved["known"]))
        state, found = State(**known["state"]), known["configuration"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(
            f"a {CHECKPOINT} that can't be read ({type(error).__name__})",
            expected="a checkpoint written by a training",
            where=path.parent.name,
            todo="Remove the file, and train again.",
            reason=Reason.UNREADABLE_FILE,
        ) from error
    refuse_difference(path, found, configuration)
    return state


def restore(path: Path, model: KerasModel) -> None:
    """Set the variables of model and optimiser to the values in a checkpoint."""
    with np.load(path) as saved:
        for n, variable in enumerate(model.trainable_variables):
            variable.assign(saved[f"model_{n}"])
        for n, variable in enumerate(model.optimizer.variables):
            variable.assign(saved[f"optimizer_{n}"])
