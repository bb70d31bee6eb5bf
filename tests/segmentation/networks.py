"""Networks that nobody has trained: random weights, in folders as training leaves them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from qmri_lake.segmentation.frame import Frame
from qmri_lake.segmentation.network import CARD, WEIGHTS
from qmri_lake.segmentation.recipes import TASKS, Recipe, recipes
from qmri_lake.segmentation.vnet import Architecture, build_vnet

WHOLE = Frame(medial_first=False, crop=None)


def tiny(task: str = "bones", rank: int = 3, frame: Frame = WHOLE, channels: int = 2) -> Recipe:
    """A recipe with one stride and few channels."""
    architecture = Architecture(rank, len(TASKS[task]), channels, (1,), 1, 3)
    return replace(recipes(task)[0], architecture=architecture, frame=frame)


def write_network(folder: Path, recipe: Recipe, seed: int = 0) -> Path:
    """A folder with a card and random weights."""
    folder.mkdir(parents=True)
    build_vnet(recipe.architecture, seed=seed).save_weights(folder / WEIGHTS)
    card = {"name": folder.name, "classes": dict(recipe.labels), "recipe": recipe.to_dict()}
    (folder / CARD).write_text(json.dumps(card))
    return folder
