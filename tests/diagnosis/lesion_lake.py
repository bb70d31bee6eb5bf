"""Lakes of maps with a known lesion: the cartilage of cases is thin in one medial patch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from qmri_lake.core.digest import sha256_of
from qmri_lake.core.model_folder import CARD
from qmri_lake.diagnosis.data.sphere_images import SphereImages
from qmri_lake.diagnosis.models.classifier import WEIGHTS, Classifier
from qmri_lake.diagnosis.models.recipes import recipe
from qmri_lake.diagnosis.models.resnet import make_resnet
from qmri_lake.diagnosis.training.loop import train_classifier
from qmri_lake.fusion import SCALES
from qmri_lake.lake import Lake, create_lake
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.transaction import Transaction, append_exams, declare
from qmri_lake.surface.spherical_grid import SIZE, azimuths, polar_angles
from tests.fixtures import add_clinical, add_maps

ARTICULAR_TO = 70.0
"""Degrees of polar angle up to which there is cartilage."""


def make_lesion_lake(
    path: Path, count: int, *, seed: int = 0, maps: bool = True
) -> tuple[Lake, pd.Series]:
    """`count` patients with one right knee each, and their labels by exam key.

    Cartilage is 2.2 mm thick with random variation; that of cases is up to 1.2 mm thinner around an
    azimuth of 90 degrees, which is medial. There is no T2, and without `maps` no map at all.
    """
    rng = np.random.default_rng(seed)
    case = (rng.permutation(count) < count // 2).astype(int)
    lake = _lake_of_knees(path, count)
    if maps:
        made = (
            lesion_maps(np.random.default_rng([seed, row]), thin) for row, thin in enumerate(case)
        )
        lake = _with_maps(lake, made)
    return lake, pd.Series(case, index=[str(exam) for exam in lake.exams["exam"]])


def make_pain_lake(path: Path, count: int, *, seed: int = 0) -> tuple[Lake, pd.Series]:
    """`count` patients with one right knee each; local thickness explains pain better than a mean.

    The medial half is up to 1.2 mm thinner around two azimuths, 45 (anterior) and 135 degrees
    (posterior), by independent random depths. Only the anterior depth determines the log odds of
    pain. Group ``region`` has means of the femur: 15 degrees around 0 (TrF), medial and lateral.
    """
    rng = np.random.default_rng([seed, 1])
    front, back = rng.uniform(0, 1, (2, count))
    hurts = (rng.random(count) < 1 / (1 + np.exp(-8 * (front - 0.5)))).astype(int)
    lake = _lake_of_knees(path, count)
    made = [
        lesion_maps(np.random.default_rng([seed, row]), (front[row], back[row]), at=(45, 135))
        for row in range(count)
    ]
    lake = _with_maps(lake, iter(made))
    femur = np.stack([maps[2, 1] for maps, _ in made])
    parts = {"TrF": abs(azimuths()) < 15, "MF": azimuths() >= 15, "LF": azimuths() <= -15}
    means = {name: np.nanmean(femur[:, rows], axis=(1, 2)) for name, rows in parts.items()}
    return add_regions(lake, means), pd.Series(hurts, index=[str(e) for e in lake.exams["exam"]])


def _lake_of_knees(path: Path, count: int) -> Lake:
    lake = create_lake(str(path))
    keys = pd.DataFrame(
        {"patient": 9000001 + np.arange(count), "timepoint": 0, "knee": ["right"] * count}
    )
    commit(lake.repo, lambda session: append_exams(session, keys), "Add exams")
    return add_maps(lake.refresh())


def _with_maps(lake: Lake, made: Iterator[tuple[np.ndarray, np.ndarray]]) -> Lake:
    def build(session):
        root = open_root(session.store, "r+")
        change = Transaction(runs={4: {"step": "sphere", "parameters": {}, "version": "1"}})
        for row, (knee, status) in enumerate(made):
            root["sphere/map"][row] = knee
            root["sphere/surface_status"][row] = status
            change.set_small("sphere/map_status", row, np.zeros(3, np.uint8))
            change.set_state("sphere", row, "done", 4)
        change(session)

    commit(lake.repo, build, "Add maps")
    return lake.refresh()


def lesion_maps(
    rng: np.random.Generator, thin: float | Sequence[float], *, at: float | Sequence[float] = 90
) -> tuple[np.ndarray, np.ndarray]:
    """Return maps (bone, biomarker, azimuth, polar) and surface status; `thin` is 0 to 1."""
    hills = ndimage.gaussian_filter(rng.normal(size=(SIZE, SIZE)), 12, mode=("wrap", "nearest"))
    hills = 2.2 + rng.normal(0, 0.15) + 0.25 * hills / hills.std()
    maps = np.full((3, 3, SIZE, SIZE), np.nan, np.float32)
    status = np.full((3, SIZE, SIZE), 3, np.uint8)
    for k, bone in enumerate(("patella", "tibia", "femur")):
        around, down = azimuths()[:, None], polar_angles(bone)[None, :]
        wide = 45 if np.ndim(at) == 0 else 25
        thickness = np.array(hills)
        for depth, place in zip(np.atleast_1d(thin), np.atleast_1d(at), strict=True):
            patch = np.exp(-(((around - place) / wide) ** 2) - ((down - 40) / 20) ** 2)
            thickness -= depth * 1.2 * patch
        thickness = np.clip(thickness, 0.1, None)
        status[k, :, down[0] < ARTICULAR_TO] = 1
        maps[k, 0] = 30.0
        maps[k, 1] = np.where(status[k] == 1, thickness, np.nan)
    return maps, status


def add_regions(
    lake: Lake, thickness: dict[str, np.ndarray], total: dict[str, np.ndarray] | None = None
) -> Lake:
    """Add the mean thickness [mm] of some regions, one value per exam; others are NaN.

    `thickness` is over the covered area, `total` over the articular area.
    """
    variables = REGISTRY.variables_of("region")
    names = list(next(v for v in variables if v.name == "thickness").coordinates[0].values)

    def build(session):
        declare(open_root(session.store, "r+"), variables, {"region": len(names)})
        change = Transaction(runs={5: {"step": "region", "parameters": {}, "version": "1"}})
        for row in range(len(lake)):
            for variable, means in (("thickness", thickness), ("thickness_total", total or {})):
                values = np.full(len(names), np.nan, np.float32)
                for name, column in means.items():
                    values[names.index(name)] = column[row]
                change.set_small(f"region/{variable}", row, values)
            change.set_state("region", row, "done", 5)
        change(session)

    commit(lake.repo, build, "Add averages of regions")
    return lake.refresh()


def add_people(lake: Lake, seed: int = 0) -> Lake:
    """Add age, sex and BMI."""
    rng = np.random.default_rng(seed)
    count = len(lake)
    return add_clinical(
        lake,
        age=rng.normal(60, 8, count),
        sex=rng.integers(1, 3, count),
        bmi=rng.normal(28, 3, count),
    )


def train_on(
    lake: Lake, label: pd.Series, folder: Path, *, seed: int, epochs: int, bone: str = "femur"
) -> tuple[Classifier, SphereImages]:
    """Train on half of the exams, validate on 20 %; return the classifier and the test exams."""
    exams, count = list(label.index), len(label)
    parts = np.split(np.array(exams), [count // 2, int(0.7 * count)])
    sets = [
        SphereImages(
            lake.cohort().of_exams(list(part), "part"),
            label,
            strategy="thickness",
            bone=bone,
            size=64,
            cache=folder.parent / "cache",
        )
        for part in parts
    ]
    small = replace(recipe("oa", "small"), epochs=epochs)
    return train_classifier(sets[0], sets[1], small, folder, seed=seed), sets[2]


def random_classifier(
    folder: Path,
    *,
    bone: str = "femur",
    size: int = 64,
    seed: int = 0,
    head: np.ndarray | None = None,
    learned_from: tuple[str, ...] = (),
) -> Classifier:
    """Write a classifier with random weights; `head`: weights of its linear layer."""
    model = make_resnet(18, seed=seed)
    if head is not None:
        model.fc.weight.data = torch.from_numpy(head.astype(np.float32))
    folder.mkdir(parents=True)
    torch.save(model.state_dict(), folder / WEIGHTS)
    card = {
        "recipe": replace(recipe("pain", "small"), size=size).to_dict(),
        "bone": bone,
        "strategy": "thickness",
        "scales": dict(SCALES),
        "digest": sha256_of(folder / WEIGHTS),
        "split": {"train": list(learned_from), "validation": []},
    }
    (folder / CARD).write_text(json.dumps(card), encoding="utf-8")
    return Classifier.open(folder)
