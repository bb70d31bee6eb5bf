"""What a training leaves in the folder of its network: card, weights, curves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from qmri_lake import __version__
from qmri_lake.errors import RunError
from qmri_lake.segmentation.backend import backend_name
from qmri_lake.segmentation.checkpoints import CHECKPOINT, State
from qmri_lake.segmentation.network import CARD, WEIGHTS
from qmri_lake.segmentation.recipes import Recipe
from qmri_lake.segmentation.room import told_when_full
from qmri_lake.segmentation.samples import SampleSet

if TYPE_CHECKING:
    from qmri_lake.lake import Lake

__all__ = [
    "draw_curves",
    "finished_card",
    "make_card",
    "refuse_another",
    "save_weights",
    "trained_alike",
    "write_card",
]

CURVES = "curves.png"


def finished_card(folder: Path) -> dict[str, Any]:
    """Return the card of a network that is finished, by its last entry; empty if it isn't."""
    path = folder / CARD
    if not path.is_file():
        return {}
    card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return card if "validation_dsc" in card else {}


def trained_alike(folder: Path, configuration: Mapping[str, Any], last: int) -> bool:
    """Tell whether a network without a checkpoint is the finished one that is asked for.

    Checkpoints are large, and may have been removed: its weights must not be trained over.
    """
    card = finished_card(folder)
    if not (card and (folder / WEIGHTS).is_file()):
        return False
    asked = json.loads(json.dumps(configuration))  # as JSON has them: tuples are lists there
    alike = all(card.get(name) == value for name, value in asked.items())
    stopped = card["epochs"] - card["best_epoch"] >= card["recipe"]["patience"]
    return alike and (card["epochs"] >= last or stopped)


def refuse_another(folder: Path) -> None:
    """Refuse a folder that holds a network, or part of one."""
    for name in (CHECKPOINT, CARD, WEIGHTS):
        if (folder / name).is_file():
            raise RunError(
                f"a {name}",
                expected="an empty folder, or one with a checkpoint to go on from",
                where=folder.name,
                todo="Go on with --resume, or train into another folder.",
            )


def make_card(
    folder: Path,
    lake: Lake,
    configuration: Mapping[str, Any],
    recipe: Recipe,
    state: State,
    training: SampleSet,
) -> dict[str, Any]:
    """Return what a reader needs to judge a network, and to train it again."""
    seen = np.mean([sample.spacing for sample in training.samples], axis=0)
    packages = {name: import_module(name).__version__ for name in ("keras", backend_name())}
    return {
        "name": folder.name,
        "classes": dict(recipe.labels),
        **configuration,
        "spacing": [round(float(mm), 4) for mm in seen / recipe.frame.shrink],
        "lake": {"name": Path(lake.url).name, "snapshot": lake.snapshot},
        "epochs": state.epoch,
        "best_epoch": state.best_epoch,
        "validation_loss": state.best,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"qmri_lake": __version__, "numpy": np.__version__, **packages},
    }


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write a card: whole, or the one before stays."""
    part = folder / f"part.{CARD}"
    part.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    part.replace(folder / CARD)


def save_weights(model: Any, folder: Path) -> None:
    """Write the weights: whole, or those before stay."""
    part = folder / f"part.{WEIGHTS}"
    kept = (*model.variables, *model.optimizer.variables)
    size = sum(math.prod(variable.shape) * 4 for variable in kept)
    with told_when_full(folder, "weights"):
        # Where HDF5 runs out of room it ends the process: whether there is some is tried first.
        part.write_bytes(bytes(size + 2**20))
    model.save_weights(part)
    part.replace(folder / WEIGHTS)


def draw_curves(state: State, folder: Path) -> None:
    """Draw the losses by epoch."""
    from qmri_lake.report.training import curves_figure

    figure = curves_figure(pd.DataFrame(state.log), state.best_epoch, folder.name)
    figure.savefig(folder / CURVES, dpi=110)
