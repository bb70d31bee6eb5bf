"""A store with a lake of small exams, deliveries and steps, which many writers change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.execution.step import Step, temporary_steps
from qmri_lake.lake import pruning
from qmri_lake.lake.cohort import Cohort
from qmri_lake.store.snapshot import Snapshot
from tests.oai.conftest import write
from tests.object_store import ObjectStore, Stored

PATIENTS = range(9000001, 9000005)
KEYS = [f"{patient}-000m-right" for patient in PATIENTS]
SEEDED = 2
"""Exams with which each sequence begins."""
STEPS = ("ingest_dess", "amplified", "shifted")
PRODUCTS = ("dess/image", "dess/amplified", "dess/gain", "dess/shifted")


@dataclass
class World:
    """What all sequences share: the store, the deliveries, the steps and the counts."""

    store: ObjectStore
    folder: Path
    images: dict[tuple[str, int], np.ndarray]
    """By exam and version of its delivery."""
    amplified: Step
    shifted: Step
    seed: dict[str, Stored] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    names: int = 0

    def new_name(self) -> str:
        self.names += 1
        return f"writer-{self.names}"


def make_steps() -> tuple[Step, Step]:
    @ql.step(
        reads={"dess": ["image"]},
        writes=[
            ql.Variable("dess", "amplified", ("slice", "row", "column"), "float32", "Image x gain"),
            ql.Variable("dess", "gain", (), "float32", "The gain, if it is not 1"),
        ],
    )
    def amplified(dess, *, gain=1.0):
        if gain < 0:
            raise ValueError("negative gain")
        made = {"amplified": dess["image"].values * np.float32(gain)}
        return made if gain == 1 else made | {"gain": np.float32(gain)}

    @ql.step(
        reads={"dess": ["amplified"]},
        writes=[ql.Variable("dess", "shifted", (), "float32", "Largest value + offset")],
    )
    def shifted(dess, *, offset=0.0):
        return {"shifted": dess["amplified"].values.max() + np.float32(offset)}

    return amplified, shifted


@contextmanager
def new_world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Start a store with a lake of the seeded exams."""
    # Commits of this test are seconds old. It removes only what is older than active operations.
    monkeypatch.setattr(pruning, "_SHORTEST_ON_OBJECT_STORE", timedelta(0))
    # In Python 3.11, a cached property has one lock for all objects. A writer that waits in it for
    # the store would stop the writer that acts meanwhile, as no writer in another process could.
    for kind in (Snapshot, Cohort):
        for found in vars(kind).values():
            if isinstance(found, cached_property) and hasattr(found, "lock"):
                monkeypatch.setattr(found, "lock", nullcontext())
    images = {}
    for at, (patient, key) in enumerate(zip(PATIENTS, KEYS, strict=True)):
        for version in (0, 1):
            place = folder / f"{key}-{version}" / f"00m/0.C.2/{patient}/20040824/1"
            series = write(
                place,
                patient=str(patient),
                seed=2 * at + version,
                slices=2,
                shape=(4, 4),
                uid=f"1.2.{patient}.{version}",
            )
            images[key, version] = series.image[0]
    with temporary_steps(), ObjectStore() as store:
        store.set_environment(monkeypatch)
        world = World(store, folder, images, *make_steps())
        lake = ql.create_lake("s3://seed/x")
        for key in KEYS[:SEEDED]:
            ql.ingest(folder / f"{key}-0", lake)
        world.seed = dict(store.objects)
        yield world


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to an operation, at one of its requests."""

    kind: str
    at: int


@dataclass(frozen=True, slots=True)
class Run:
    """What a run writes: its step, and its parameter or the version of its delivery."""

    step: str
    value: float
