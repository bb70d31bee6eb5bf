"""Training a classifier: what it learns, writes, resumes and refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from qmri_lake.diagnosis.data.sphere_images import SphereImages
from qmri_lake.diagnosis.models.classifier import Classifier
from qmri_lake.diagnosis.models.recipes import recipe
from qmri_lake.diagnosis.training.loop import train_classifier
from qmri_lake.errors import InputError, NotFoundError, RunError
from qmri_lake.lake import Lake
from tests.diagnosis.map_lake import SIZE, make_map_lake, maps_of

COUNT = 24
SMALL = replace(recipe("oa", "small"), batch=8, epochs=2)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return make_map_lake(tmp_path_factory.mktemp("train") / "oai.lake", COUNT)


@pytest.fixture(scope="module")
def labels(lake: Lake) -> dict[str, int]:
    """Present where the map ends farther out: rims lie at 150 + row."""
    return {str(exam): int(row >= COUNT // 2) for row, exam in enumerate(lake.exams["exam"])}


@pytest.fixture(scope="module")
def sets(lake: Lake, labels: dict[str, int]) -> tuple[SphereImages, SphereImages]:
    keys = lake.exams
    patients = keys["patient"].unique()
    held = set(patients[::3])
    found = []
    for wanted in (False, True):
        chosen = [
            str(e)
            for e, p in zip(keys["exam"], keys["patient"], strict=True)
            if (p in held) == wanted
        ]
        cohort = lake.cohort().of_exams(chosen, "half")
        found.append(SphereImages(cohort, labels, strategy="thickness", bone="femur", size=64))
    return found[0], found[1]


def test_train__learns_writes_and_predicts(sets, tmp_path: Path) -> None:
    seen = []
    longer = replace(SMALL, epochs=8, learning_rate=3e-3)
    found = train_classifier(*sets, longer, tmp_path / "femur", progress=seen.append)
    assert {p.name for p in (tmp_path / "femur").iterdir()} == {
        "card.json",
        "curves.png",
        "log.csv",
        "model.pth",
    }
    assert [done.epoch for done in seen] == list(range(1, len(seen) + 1))
    assert seen[-1].loss < 0.5 * seen[0].loss
    for images in sets:
        present = found.predict(images)
        assert present.shape == (len(images),)
        label = images.label
        assert present[label == 1].min() > present[label == 0].max() - 0.2
    card = found.card
    assert card["exams"]["train"] == np.bincount(sets[0].label).tolist()
    assert card["lake"]["snapshot"] == sets[0].snapshot
    assert found.identity == f"femur@{card['digest'][:12]}"
    best = min(seen, key=lambda done: done.validation_loss)
    assert card["best_epoch"] == best.epoch


def test_train__killed_and_resumed_equals_an_uninterrupted_one(sets, tmp_path: Path) -> None:
    whole = train_classifier(*sets, SMALL, tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(done) -> None:
        if done.epoch == 1:
            raise Killed

    with pytest.raises(Killed):
        train_classifier(*sets, SMALL, tmp_path / "part", progress=kill)
    seen = []
    part = train_classifier(*sets, SMALL, tmp_path / "part", resume=True, progress=seen.append)
    assert [done.epoch for done in seen] == [2]
    for name, value in whole.model().state_dict().items():
        assert torch.equal(value, part.model().state_dict()[name]), name
    again = []
    train_classifier(*sets, SMALL, tmp_path / "part", resume=True, progress=again.append)
    assert again == []


def test_train__pain_starts_from_oa(sets, tmp_path: Path) -> None:
    oa = train_classifier(*sets, replace(SMALL, epochs=1), tmp_path / "oa")
    weights = Path(oa.folder) / "model.pth"
    pain = replace(SMALL, task="pain", start="oa", frozen="all", epochs=1)
    found = train_classifier(*sets, pain, tmp_path / "pain", weights=weights)
    before, after = oa.model().state_dict(), found.model().state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"fc.weight", "fc.bias"}
    assert found.card["started_from"] == oa.card["digest"]


def test_train__patience_ends_it(sets, tmp_path: Path) -> None:
    steep = replace(SMALL, learning_rate=0.0, epochs=5, patience=2)
    found = train_classifier(*sets, steep, tmp_path / "still")
    # Weights stay; batch norm's averages move, so that a later epoch may still be better.
    card = found.card
    assert card["epochs"] == min(5, card["best_epoch"] + 2)


def test_train__refuses(lake, labels, sets, tmp_path: Path) -> None:
    training, _ = sets
    once = replace(SMALL, epochs=1)
    train_classifier(*sets, once, tmp_path / "a")
    with pytest.raises(RunError, match=r"contains a card.json \(expected an empty folder"):
        train_classifier(*sets, once, tmp_path / "a")
    with pytest.raises(RunError, match=r"another seed: 0 instead of 1"):
        train_classifier(*sets, once, tmp_path / "a", seed=1, resume=True)
    with pytest.raises(InputError, match=r"patients in both training and validation"):
        train_classifier(training, training, once, tmp_path / "b")
    with pytest.raises(InputError, match=r"images of 64 pixels \(expected 224"):
        train_classifier(*sets, replace(once, size=224), tmp_path / "b")
    other = SphereImages(lake.cohort(), labels, strategy="t2", bone="femur", size=64)
    with pytest.raises(InputError, match=r"strategy 'thickness' in training, 't2'"):
        train_classifier(training, other, once, tmp_path / "b")
    bare = SphereImages(lake.cohort(), strategy="thickness", bone="femur", size=64)
    with pytest.raises(InputError, match=r"validation images without labels"):
        train_classifier(training, bare, once, tmp_path / "b")
    with pytest.raises(RunError, match=r"loss nan in epoch 1 \(expected a finite number"):
        train_classifier(*sets, replace(once, learning_rate=1e30), tmp_path / "c")
    assert not (tmp_path / "b").exists()


def test_classifier__refuses(sets, tmp_path: Path) -> None:
    once = replace(SMALL, epochs=1)
    found = train_classifier(*sets, once, tmp_path / "a")
    with pytest.raises(NotFoundError, match=r"no card.json \(expected a trained classifier"):
        Classifier.open(tmp_path)
    weights, card = (tmp_path / "a" / name for name in ("model.pth", "card.json"))
    saved = json.loads(card.read_text())
    card.write_text(json.dumps({**saved, "digest": "0" * 64}))
    with pytest.raises(InputError, match=r"weights with SHA-256 .* \(expected 000000000000"):
        Classifier.open(weights.parent)
    card.write_text(json.dumps({**saved, "bone": "tibia"}))
    with pytest.raises(InputError, match=r"images of bone 'femur' \(expected 'tibia'"):
        Classifier.open(weights.parent).predict(sets[1])
    assert found.card["bone"] == "tibia"


def test_maps__differ_between_labels() -> None:
    ends = [int(np.isfinite(maps_of(row)[2, 1, 0]).sum()) for row in range(COUNT)]
    assert ends == sorted(ends)
    assert ends[-1] < SIZE
