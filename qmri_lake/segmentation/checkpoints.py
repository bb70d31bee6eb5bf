"""Checkpoints: all that a training needs to go on, in one file that is whole or not there."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qmri_lake.errors import Reason, RunError
from qmri_lake.segmentation.backend import keras
from qmri_lake.segmentation.room import told_when_full

__all__ = ["CHECKPOINT", "State", "read_state", "refuse_difference", "restore", "save"]

CHECKPOINT = "checkpoint.npz"


@dataclass
class State:
    """Where a training is, apart from weights and optimiser."""

    epoch: int = 0
    """Epochs that are done."""
    best: float = math.inf
    """The lowest validation loss, after `best_epoch` epochs."""
    best_epoch: int = 0
    log: list[dict[str, float]] = field(default_factory=list)
    """A row an epoch."""


def save(path: Path, model: Any, state: State, configuration: Mapping[str, Any]) -> None:
    """Write a checkpoint: whole, or the one before stays.

    `configuration`, of plain values, says what is being trained; `read_state` compares it.

    Raises
    ------
    DiskFullError
        No room for it.
    """
    convert = keras().ops.convert_to_numpy
    arrays = {f"model_{n}": convert(v) for n, v in enumerate(model.trainable_variables)}
    arrays |= {f"optimizer_{n}": convert(v) for n, v in enumerate(model.optimizer.variables)}
    known = json.dumps({"state": asdict(state), "configuration": configuration})
    part = path.with_name(f"part.{path.name}")
    with told_when_full(path.parent, "a checkpoint"), open(part, "wb") as stream:
        np.savez(stream, known=np.array(known), **arrays)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)


def read_state(path: Path, configuration: Mapping[str, Any]) -> State:
    """Return where a checkpoint is; weights and optimiser stay on disk.

    Raises
    ------
    RunError
        A checkpoint of another configuration, or one that can't be read.
    """
    try:
        with np.load(path) as saved:
            known = json.loads(str(saved["known"]))
        state, of = State(**known["state"]), known["configuration"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(
            f"a {CHECKPOINT} that can't be read ({type(error).__name__})",
            expected="one that a training wrote",
            where=path.parent.name,
            todo="Remove it, and train again.",
            reason=Reason.UNREADABLE_FILE,
        ) from error
    refuse_difference(path, of, configuration)
    return state


def refuse_difference(
    path: Path, found: Mapping[str, Any], configuration: Mapping[str, Any]
) -> None:
    """Refuse a checkpoint whose configuration is not the one that is asked for."""
    # As JSON has them: tuples are lists there.
    for name, value in json.loads(json.dumps(configuration)).items():
        if found.get(name) != value:
            raise RunError(
                f"a {path.name} of another {name}{_difference(found.get(name), value)}",
                expected="the one that is asked for",
                where=path.parent.name,
                todo="Resume with what it was started with, or train into another folder.",
            )


def restore(path: Path, model: Any) -> None:
    """Give model and optimiser the values that they had when the checkpoint was written."""
    with np.load(path) as saved:
        for n, variable in enumerate(model.trainable_variables):
            variable.assign(saved[f"model_{n}"])
        for n, variable in enumerate(model.optimizer.variables):
            variable.assign(saved[f"optimizer_{n}"])


def _difference(found: Any, wanted: Any) -> str:
    """Spell two values, or the first entry in which two mappings differ, where it is short."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        name = next(n for n in {**found, **wanted} if found.get(n) != wanted.get(n))
        return f", in {name}{_difference(found.get(name), wanted.get(name))}"
    text = f": {found} instead of {wanted}"
    return text if len(text) < 80 else ""
