"""Untrained networks with random weights, in folders like those of a training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from qmri_lake.core.devices import gpu_count
from qmri_lake.core.model_folder import CARD
from qmri_lake.core.processor import has_bfloat16
from qmri_lake.segmentation.models.network import WEIGHTS
from qmri_lake.segmentation.models.network_view import NetworkView
from qmri_lake.segmentation.models.recipes import TASKS, Recipe, recipes
from qmri_lake.segmentation.models.vnet import Architecture, build_vnet

HAS_BFLOAT16 = has_bfloat16() or bool(gpu_count())
needs_bfloat16 = pytest.mark.skipif(not HAS_BFLOAT16, reason="no hardware for bfloat16")
WHOLE = NetworkView(medial_first=False, crop=None)


def tiny(
    task: str = "bones", rank: int = 3, frame: NetworkView = WHOLE, channels: int = 2
) -> Recipe:
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
