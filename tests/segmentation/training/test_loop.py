"""Training of a network: learning, stopping, bitwise identical resuming, and errors."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import qmri_lake as ql
from qmri_lake.core.model_folder import CARD, CHECKPOINT
from qmri_lake.errors import DiskFullError, InputError, QmriLakeError, Reason, RunError
from qmri_lake.segmentation.models.losses import loss
from qmri_lake.segmentation.models.network import WEIGHTS, Network, load_model
from qmri_lake.segmentation.models.network_view import NetworkView
from qmri_lake.segmentation.models.recipes import Recipe, recipes
from qmri_lake.segmentation.models.vnet import build_vnet
from qmri_lake.segmentation.training.dataset import SampleSet
from qmri_lake.segmentation.training.loop import LOG, train
from qmri_lake.training.events import EpochDone
from tests.conftest import Judge
from tests.segmentation.scored_lake import lake_of
from tests.segmentation.trainings import largest_file, saved_arrays, split_of, tiny_recipe

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(
    training_lake: ql.Lake, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[EpochDone], list[str]]:
    """A finished training: its folder, its events, and the digest of the weights at each epoch."""
    folder = tmp_path_factory.mktemp("trained") / "bone"
    said: list[EpochDone] = []
    digests: list[str] = []

    def listen(done: EpochDone) -> None:
        said.append(done)
        digests.append(hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest())

    train(
        training_lake, tiny_recipe(), split_of(training_lake), folder, cache=cache, progress=listen
    )
    return folder, said, digests


def quick(lake: ql.Lake, folder: Path, cache: Path, **options: Any) -> Network:
    recipe = options.pop("recipe", None) or tiny_recipe(steps=1, epochs=2)
    split = options.pop("split", None) or split_of(lake)
    return train(lake, recipe, split, folder, cache=cache, **options)


def test_train__learns_and_reports_each_epoch(
    trained: tuple[Path, list[EpochDone], list[str]],
) -> None:
    folder, said, _ = trained
    assert [(done.name, done.epoch, done.epochs) for done in said] == [
        ("bone", n, 6) for n in range(1, 7)
    ]
    assert said[-1].loss < said[0].loss
    log = pd.read_csv(folder / LOG)
    assert list(log.columns) == ["epoch", "loss", "validation_loss", "learning_rate"]
    assert log["loss"].to_numpy() == pytest.approx([done.loss for done in said])
    assert log["validation_loss"].to_numpy() == pytest.approx([d.validation_loss for d in said])
    assert [done.best for done in said] == list(
        log["validation_loss"] < log["validation_loss"].cummin().shift(fill_value=np.inf)
    )
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [CARD, CHECKPOINT, "curves.png", LOG, WEIGHTS]
    )


def test_train__card_describes_the_training(
    trained: tuple[Path, list[EpochDone], list[str]], training_lake: ql.Lake
) -> None:
    card = json.loads((trained[0] / CARD).read_text())
    assert Recipe.from_dict(card["recipe"]) == tiny_recipe()
    assert card["classes"] == {"background": 0, "femur": 1, "tibia": 2, "patella": 3}
    assert card["split"] == split_of(training_lake)
    assert card["lake"] == {"name": "oai.lake", "snapshot": training_lake.snapshot}
    assert (card["seed"], card["target"], card["epochs"]) == (0, "reference_bone", 6)
    assert {"qmri_lake", "keras", "tensorflow", "numpy"} <= card["versions"].keys()
    affine = training_lake.load("dess").affine.values[0]
    assert card["spacing"] == pytest.approx(np.linalg.norm(affine[:3, :3], axis=0), abs=1e-4)
    voxels = np.array(card["voxels"])
    assert voxels.sum() == 2 * 16 * 24 * 24
    weights = voxels.min() / voxels
    assert card["class_weights"] == pytest.approx(weights / weights.mean())
    assert card["validation_dsc"].keys() == {"femur", "tibia", "patella"}
    assert all(0 <= value <= 1 for value in card["validation_dsc"].values())
    assert card["validation_loss"] == min(done.validation_loss for done in trained[1])
    assert card["best_epoch"] == max(done.epoch for done in trained[1] if done.best)


def test_train__keeps_the_weights_of_the_best_epoch(
    training_lake: ql.Lake, cache: Path, tmp_path: Path
) -> None:
    # Steps so large that the network gets worse soon.
    recipe = tiny_recipe(learning_rate=0.5, epochs=5)
    said: list[EpochDone] = []
    network = quick(training_lake, tmp_path / "a", cache, recipe=recipe, progress=said.append)
    losses = [done.validation_loss for done in said]
    best = int(np.argmin(losses))
    assert losses[-1] > losses[best]
    assert network.card["best_epoch"] == best + 1
    model = load_model(network)
    model.compile(loss=loss(recipe.loss, network.card["class_weights"]))
    found = SampleSet(
        training_lake, split_of(training_lake)["validation"], recipe, "reference_bone", cache
    )
    again = np.mean([float(model.test_on_batch(*pair)) for pair in found.batches(None)])
    assert again == pytest.approx(losses[best], rel=1e-4)


def test_train__stops_without_a_lower_validation_loss(
    training_lake: ql.Lake, cache: Path, tmp_path: Path
) -> None:
    # Steps so small that no weight changes: the first epoch stays the best one.
    recipe = tiny_recipe(learning_rate=1e-30, epochs=9, patience=2, steps=1)
    said: list[EpochDone] = []
    network = quick(training_lake, tmp_path / "a", cache, recipe=recipe, progress=said.append)
    assert (network.card["epochs"], network.card["best_epoch"]) == (3, 1)
    assert len(said) == 3
    # Resumed, it is finished.
    again = quick(
        training_lake, tmp_path / "a", cache, recipe=recipe, resume=True, progress=said.append
    )
    assert (again, len(said)) == (network, 3)


RESUMED = """
import os, signal, sys
import qmri_lake as ql
from qmri_lake.segmentation.training.loop import train
from tests.segmentation.trainings import split_of, tiny_recipe

def kill(done):
    if done.epoch == 3:
        os.kill(os.getpid(), signal.SIGKILL)

url, cache, folder, *modes = sys.argv[1:]
lake = ql.open_lake(url, mode="r")
for mode in modes:
    train(
        lake, tiny_recipe(), split_of(lake), folder + ("/whole" if mode == "whole" else "/cut"),
        cache=cache, deterministic=True, resume=mode == "resumed", seed=5,
        progress=kill if mode == "killed" else None,
    )
"""


def run_script(lake: ql.Lake, cache: Path, folder: Path, *modes: str, **environment: str) -> Any:
    one = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", RESUMED, lake.url, str(cache), str(folder), *modes],
        cwd=ROOT,
        env={**os.environ, **one, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def differing(folder: Path) -> list[str]:
    """Names of the arrays that differ to the bit between the two trainings of a folder."""
    whole, cut = saved_arrays(folder / "whole"), saved_arrays(folder / "cut")
    assert whole.keys() == cut.keys()
    assert len(whole) > 20
    return [name for name in whole if whole[name].tobytes() != cut[name].tobytes()]


@pytest.mark.slow
def test_train__killed_and_resumed_equals_uninterrupted(
    training_lake: ql.Lake, cache: Path, tmp_path: Path, judge: Judge
) -> None:
    first = run_script(training_lake, cache, tmp_path, "killed")
    assert first.returncode == -signal.SIGKILL
    assert (tmp_path / "cut" / CHECKPOINT).is_file()
    assert not (tmp_path / "cut" / CARD).exists()
    second = run_script(training_lake, cache, tmp_path, "resumed", "whole")
    assert second.returncode == 0, second.stderr
    assert second.stderr == first.stderr == ""  # TensorFlow keeps quiet, too
    different = differing(tmp_path)
    logs = [pd.read_csv(tmp_path / name / LOG) for name in ("whole", "cut")]
    same_log = logs[0].equals(logs[1]) and len(logs[0]) == 6
    kept = [load_model(Network.open(tmp_path / name)).get_weights() for name in ("whole", "cut")]
    same_kept = all(np.array_equal(a, b) for a, b in zip(*kept, strict=True))
    judge(
        "segmentation / training killed after epoch 3 and resumed, dropout and augmentation on",
        required="weights, optimiser and log of 6 epochs bit-identical to an uninterrupted one",
        measured=f"{len(different)} arrays differ; log {'the same' if same_log else 'differs'}",
        passed=not different and same_log and same_kept,
    )


@pytest.mark.accept
def test_train__resumes_with_torch(training_lake: ql.Lake, cache: Path, tmp_path: Path) -> None:
    killed = run_script(training_lake, cache, tmp_path, "killed", KERAS_BACKEND="torch")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = run_script(training_lake, cache, tmp_path, "resumed", "whole", KERAS_BACKEND="torch")
    assert done.returncode == 0, done.stderr
    assert differing(tmp_path) == []
    card = json.loads((tmp_path / "cut" / CARD).read_text())
    assert "torch" in card["versions"]
    log = pd.read_csv(tmp_path / "cut" / LOG)
    assert log["loss"].iloc[-1] < log["loss"].iloc[0]
    # Its weights are read by TensorFlow, and mean the same there.
    network = Network.open(tmp_path / "cut")
    model = load_model(network)
    recipe = network.recipe
    model.compile(loss=loss(recipe.loss, card["class_weights"]))
    found = SampleSet(
        training_lake, split_of(training_lake)["validation"], recipe, "reference_bone", cache
    )
    mean = np.mean([float(model.test_on_batch(*pair)) for pair in found.batches(None)])
    assert mean == pytest.approx(card["validation_loss"], rel=1e-3)


@pytest.mark.accept
def test_train__resumes_from_fewer_epochs(
    training_lake: ql.Lake, cache: Path, tmp_path: Path
) -> None:
    said: list[EpochDone] = []
    first = quick(training_lake, tmp_path / "a", cache, epochs=1, progress=said.append)
    assert (first.card["epochs"], said[-1].epochs) == (1, 1)
    second = quick(training_lake, tmp_path / "a", cache, resume=True, progress=said.append)
    assert [done.epoch for done in said] == [1, 2]
    assert second.card["epochs"] == 2
    assert len(pd.read_csv(tmp_path / "a" / LOG)) == 2


def test_train__restores_weights_lost_after_the_checkpoint(
    training_lake: ql.Lake, cache: Path, tmp_path: Path
) -> None:
    # Killed between an epoch's checkpoint and its weights, the best so far.
    before = load_model(quick(training_lake, tmp_path / "a", cache, epochs=1)).get_weights()
    for name in (CARD, WEIGHTS):
        (tmp_path / "a" / name).unlink()
    again = quick(training_lake, tmp_path / "a", cache, epochs=1, resume=True)
    after = load_model(again).get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"recipe": tiny_recipe(steps=1, epochs=2, learning_rate=1e-3)},
            "with another recipe, in learning_rate: 0.005 instead of 0.001",
        ),
        ({"seed": 1}, "with another seed: 0 instead of 1"),
        ({"target": "reference_bone__mine"}, "with another target"),
        ({"split": "swapped"}, "with another split, in train"),
        ({"resume": False}, "expected an empty folder, or one with a checkpoint"),
    ],
)
def test_train__rejects_another_checkpoint(
    training_lake: ql.Lake, cache: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    quick(training_lake, tmp_path / "a", cache, epochs=1)
    before = {p: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    if changes.get("split") == "swapped":
        split = split_of(training_lake)
        changes = {"split": {**split, "train": split["validation"], "validation": split["train"]}}
    with pytest.raises(RunError) as caught:
        quick(training_lake, tmp_path / "a", cache, **{"resume": True, **changes})
    assert words in str(caught.value)
    assert {p: p.read_bytes() for p in (tmp_path / "a").iterdir()} == before


def test_train__does_not_overwrite_a_network_without_checkpoint(
    training_lake: ql.Lake, cache: Path, tmp_path: Path
) -> None:
    first = quick(training_lake, tmp_path / "a", cache, epochs=1)
    (tmp_path / "a" / CHECKPOINT).unlink()
    before = {p: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    again = quick(training_lake, tmp_path / "a", cache, epochs=1, resume=True)
    assert again.digest == first.digest
    with pytest.raises(RunError, match=r"contains card\.json"):  # more epochs need the checkpoint
        quick(training_lake, tmp_path / "a", cache, epochs=2, resume=True)
    assert {p: p.read_bytes() for p in (tmp_path / "a").iterdir()} == before


def test_train__rejects_a_damaged_checkpoint(
    training_lake: ql.Lake, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / CHECKPOINT).write_bytes(b"half a checkpoint")
    with pytest.raises(RunError) as caught:
        quick(training_lake, tmp_path / "a", cache, resume=True)
    assert caught.value.reason is Reason.UNREADABLE_FILE


def test_train__raises_if_the_loss_is_not_finite(
    training_lake: ql.Lake, cache: Path, tmp_path: Path
) -> None:
    recipe = tiny_recipe(learning_rate=3e38, steps=9)
    with pytest.raises(RunError) as caught:
        quick(training_lake, tmp_path / "a", cache, recipe=recipe)
    assert "a loss of nan in epoch 1" in str(caught.value)
    assert "lower learning rate" in caught.value.todo
    assert not (tmp_path / "a" / CARD).exists()


def test_train__rejects_a_split_that_leaks(
    training_lake: ql.Lake, cache: Path, tmp_path: Path
) -> None:
    keys = [str(key) for key in training_lake.exams["exam"]]

    def refused(split: dict[str, list[str]], **options: Any) -> QmriLakeError:
        with pytest.raises(InputError) as caught:
            quick(training_lake, tmp_path / "a", cache, split=split, **options)
        assert not (tmp_path / "a").exists()
        return caught.value

    # Both knees of a patient, one in each split.
    error = refused({"train": [keys[0]], "validation": [keys[1]]})
    assert f"the patient of {keys[1]} in train and in validation" in str(error)
    assert "in test" in str(refused({"train": keys[:2], "validation": keys[2:4], "test": keys[:1]}))
    assert "no exam in validation" in str(refused({"train": keys[:2], "validation": []}))
    assert "no exam 1-000m-left" in str(refused({"train": ["1-000m-left"], "validation": keys}))
    good = split_of(training_lake)
    assert "0 epochs" in str(refused(good, epochs=0))
    assert "target reference_cartilage" in str(refused(good, target="reference_cartilage"))


def test_train__rejects_an_exam_without_labels(tmp_path: Path) -> None:
    lake = lake_of(tmp_path / "l.lake", 9, ("bone",))
    keys = [str(key) for key in lake.exams["exam"]]
    recipe = tiny_recipe(frame=NetworkView(False, None))
    with pytest.raises(InputError) as caught:
        train(lake, recipe, {"train": keys[:4], "validation": keys[8:]}, tmp_path / "m" / "a")
    assert (caught.value.where, caught.value.reason) == (keys[8], Reason.ABSENT_EXAM)
    assert not (tmp_path / "m").exists()


@pytest.mark.accept
def test_train__full_disk_keeps_checkpoint_and_weights(
    training_lake: ql.Lake, cache: Path, tmp_path: Path
) -> None:
    recipe = tiny_recipe(learning_rate=1e-30, epochs=9, patience=9, steps=1)  # the first stays best
    options: dict[str, Any] = {"recipe": recipe, "resume": True}
    quick(training_lake, tmp_path / "a", cache, **options, epochs=1)
    for epochs, what in ((2, "weights"), (3, "a checkpoint")):
        before = [(tmp_path / "a" / name).read_bytes() for name in (CHECKPOINT, WEIGHTS)]
        with largest_file(len(before[0]) // 2), pytest.raises(DiskFullError) as caught:
            quick(training_lake, tmp_path / "a", cache, **options, epochs=epochs)
        assert f"expected space for {what}" in str(caught.value)
        after = [(tmp_path / "a" / name).read_bytes() for name in (CHECKPOINT, WEIGHTS)]
        assert after == before
        network = quick(training_lake, tmp_path / "a", cache, **options, epochs=epochs)
        assert network.card["epochs"] == epochs
        assert not list((tmp_path / "a").glob("part.*"))


MEMBERS = [(task, n) for task in ("bones", "cartilage") for n in range(len(recipes(task)))]


@pytest.mark.parametrize(("task", "n"), MEMBERS)
def test_train__two_steps_of_each_member(
    training_lake: ql.Lake, cache: Path, tmp_path: Path, task: str, n: int
) -> None:
    recipe = replace(recipes(task, "small")[n], steps=2, epochs=1)
    network = quick(training_lake, tmp_path / "a", cache, recipe=recipe, seed=n)
    log = pd.read_csv(tmp_path / "a" / LOG)
    assert np.isfinite(log[["loss", "validation_loss"]].to_numpy()).all()
    before = build_vnet(recipe.architecture, seed=n).get_weights()
    after = load_model(network).get_weights()
    changed = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert np.mean(changed) > 0.8
    assert all(np.isfinite(values).all() for values in after)
