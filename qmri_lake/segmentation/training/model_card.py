"""Files that a training writes to the folder of its network: model card and weights."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qmri_lake.core.atomic_write import atomic_write
from qmri_lake.core.disk_full import disk_full_errors
from qmri_lake.core.json_types import JsonMapping, JsonObject
from qmri_lake.core.model_folder import CARD, CHECKPOINT
from qmri_lake.core.version import __version__
from qmri_lake.errors import RunError
from qmri_lake.segmentation.models.backend import backend_name
from qmri_lake.segmentation.models.keras_types import KerasModel
from qmri_lake.segmentation.models.network import WEIGHTS
from qmri_lake.segmentation.models.recipes import Recipe
from qmri_lake.segmentation.training.dataset import SampleSet
from qmri_lake.training.state import State

if TYPE_CHECKING:
    from qmri_lake.lake.lake import Lake

__all__ = ["finished_card", "is_trained", "make_card", "refuse_existing", "save_weights"]


def finished_card(folder: Path) -> JsonObject:
    """Return the card of a finished network, or an empty dict.

    The card is complete when it has its last entry, the validation DSC.
    """
    path = folder / CARD
    if not path.is_file():
        return {}
    card: JsonObject = json.loads(path.read_text(encoding="utf-8"))
    return card if "validation_dsc" in card else {}


def is_trained(folder: Path, configuration: JsonMapping, last: int) -> bool:
    """Return whether the folder holds a finished network of this configuration.

    The large checkpoint of the network may have been removed. The weights must not be overwritten.
    """
    card = finished_card(folder)
    if not (card and (folder / WEIGHTS).is_file()):
        return False
    expected = json.loads(json.dumps(configuration))  # JSON turns tuples into lists
    equal = all(card.get(name) == value for name, value in expected.items())
    stopped = card["epochs"] - card["best_epoch"] >= card["recipe"]["patience"]
    return equal and (card["epochs"] >= last or stopped)


def refuse_existing(folder: Path) -> None:
    """Raise a RunError if a folder holds a network or part of a network."""
    for name in (CHECKPOINT, CARD, WEIGHTS):
        if (folder / name).is_file():
            raise RunError(
                f"the folder contains {name}",
                expected="an empty folder, or one with a checkpoint to resume from",
                where=folder.name,
                todo="Resume with --resume (resume=True), or train into another folder.",
            )


def make_card(
    folder: Path,
    lake: Lake,
    configuration: JsonMapping,
    recipe: Recipe,
    state: State,
    training: SampleSet,
) -> JsonObject:
    """Return the model card: recipe, data, result and versions of the training."""
    spacing = np.mean([sample.spacing for sample in training.samples], axis=0)
    packages = {name: import_module(name).__version__ for name in ("keras", backend_name())}
    return {
        "name": folder.name,
        "classes": dict(recipe.labels),
        **configuration,
        "spacing": [round(float(mm), 4) for mm in spacing / recipe.frame.shrink],
        "lake": {"name": Path(lake.url).name, "snapshot": lake.snapshot},
        "epochs": state.epoch,
        "best_epoch": state.best_epoch,
        "validation_loss": state.best,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"qmri_lake": __version__, "numpy": np.__version__, **packages},
    }


def save_weights(model: KerasModel, folder: Path) -> None:
    """Write the weights; if this fails, the previous weights remain.

    Raises
    ------
    DiskFullError
        If the disk is full.
    """
    variables = (*model.variables, *model.optimizer.variables)
    size = sum(math.prod(variable.shape) * 4 for variable in variables)
    with atomic_write(folder / WEIGHTS) as unfinished:
        with disk_full_errors(folder, "weights"):
            # HDF5 aborts the process if the disk is full. Therefore a file of this size is written
            # first, which raises an error instead.
            unfinished.write_bytes(bytes(size + 2**20))
        model.save_weights(unfinished)
