"""A lake for trainings, and recipes that take seconds."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import qmri_lake as ql
from qmri_lake.core.model_folder import CHECKPOINT
from qmri_lake.phantom import write_archive
from qmri_lake.segmentation.models.network_view import NetworkView
from qmri_lake.segmentation.models.recipes import TASKS, Recipe, recipes
from qmri_lake.segmentation.models.vnet import Architecture

SHAPE = (16, 48, 48)


def lake_with_references(folder: Path) -> ql.Lake:
    """Six knees of three patients, two each, with reference masks."""
    archive = write_archive(folder / "archive", exams=6, shape=SHAPE, seed=3)
    lake = ql.ingest(archive.path, str(folder / "oai.lake")).lake
    return ql.ingest_masks(archive.truth, lake, labels="qmri-lake").lake.refresh()


def tiny_recipe(task: str = "bones", rank: int = 3, **changes: object) -> Recipe:
    """Two channels, one stride, half the resolution; dropout, flips and rotations as published."""
    first = recipes(task)[0]
    recipe = replace(
        first,
        architecture=Architecture(rank, len(TASKS[task]), 2, (1,), 1, 3, 0.05),
        frame=NetworkView(medial_first=True, crop=None, shrink=(1, 2, 2)),
        loss="combined",
        learning_rate=5e-3,
        epochs=6,
        steps=3,
        copies=0,
        augment=True,
    )
    return replace(recipe, **changes)


def few_steps(*args: Any) -> list[Recipe]:
    """The recipes of an ensemble, with three steps in an epoch."""
    return [replace(recipe, steps=3) for recipe in recipes(*args)]


def split_of(lake: ql.Lake) -> dict[str, list[str]]:
    """Two exams each: a patient to train, one to validate, one to test."""
    keys = [str(key) for key in lake.exams["exam"]]
    return {"train": keys[:2], "validation": keys[2:4], "test": keys[4:]}


def saved_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Weights and optimiser of a checkpoint."""
    with np.load(folder / CHECKPOINT) as saved:
        return {name: saved[name] for name in saved.files if name != "known"}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limit the size of files of this process [bytes], to simulate a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores the signal that comes with this limit, so that the write fails.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
