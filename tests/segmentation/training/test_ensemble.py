"""Training of an ensemble, by the function and by the command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pandas as pd
import pytest

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.core.model_folder import CHECKPOINT
from qmri_lake.errors import InputError, QmriLakeError, RunError
from qmri_lake.segmentation.models.network import find_networks
from qmri_lake.segmentation.models.recipes import recipes
from qmri_lake.segmentation.training import ensemble as training
from qmri_lake.segmentation.training.ensemble import SPLIT, TABLE, train_ensemble
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.training.events import EpochDone
from tests.fixtures import interruptible
from tests.segmentation.scored_lake import lake_of
from tests.segmentation.trainings import few_steps

Capture = pytest.CaptureFixture[str]


def patients(lake: ql.Lake, keys: list[str]) -> set[int]:
    return set(lake.exams.set_index("exam").loc[keys, "patient"])


def test_train_ensemble__cartilage_draws_for_each_member(
    training_lake: ql.Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "recipes", few_steps)
    said: list[EpochDone] = []
    ready: list[tuple[str, int, int]] = []
    (network,) = train_ensemble(
        training_lake,
        "cartilage",
        preset="small",
        out=tmp_path / "m",
        members=1,
        epochs=1,
        progress=said.append,
        preparing=lambda *done: ready.append(done),
    )
    assert network.name == "cartilage_2d-1"
    assert [(done.name, done.epoch, done.epochs) for done in said] == [("cartilage_2d-1", 1, 1)]
    trained, validated = 2, 1  # the recipe validates on one exam only
    total = trained + validated
    assert ready == [("cartilage_2d-1", n, total) for n in range(total + 1)]
    known = json.loads((tmp_path / "m" / SPLIT).read_text())
    assert (known["task"], known["preset"], known["seed"]) == ("cartilage", "small", 0)
    assert (known["target"], known["cohort"]) == ("reference_cartilage", ["all exams"])
    assert list(known["members"]) == [
        "cartilage_2d-1",
        "cartilage_3d-2",
        "cartilage_2d-3",
        "cartilage_3d-4",
        "cartilage_2d-5",
        "cartilage_3d-6",
    ]
    assert len({tuple(split["test"]) for split in known["members"].values()}) == 1
    for split in known["members"].values():
        who = [patients(training_lake, keys) for keys in split.values()]
        assert not set.intersection(who[0], who[1] | who[2])
        assert not who[1] & who[2]
    assert network.card["split"] == known["members"]["cartilage_2d-1"]
    # A split that was lost is drawn again, though what is finished prepares nothing.
    (tmp_path / "m" / SPLIT).unlink()
    train_ensemble(
        training_lake,
        "cartilage",
        preset="small",
        out=tmp_path / "m",
        members=1,
        epochs=1,
        resume=True,
    )
    assert json.loads((tmp_path / "m" / SPLIT).read_text()) == known
    table = pd.read_csv(tmp_path / "m" / TABLE)
    assert len(table) == 13  # training and validation of six, and one test set
    assert not table["split"].str.contains("paper").any()


@pytest.mark.accept
def test_train_ensemble__trains_members_in_parallel(
    training_lake: ql.Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # workers have a folder of their own: a relative path is of here
    monkeypatch.setattr(training, "recipes", few_steps)
    said: list[EpochDone] = []
    ready: list[tuple[str, int, int]] = []
    options: dict[str, Any] = {
        "preset": "small",
        "out": "m",
        "members": 2,
        "epochs": 1,
        "progress": said.append,
        "preparing": lambda *done: ready.append(done),
    }
    with ql.cluster("cpu") as client:
        networks = train_ensemble(training_lake, "bones", cluster=client, **options)
        threads = client.run(_threads_of_tensorflow)
        assert set(threads.values()) == {(1, 1)}
        names = ["bone_3d-1", "bone_3d-2"]
        assert [network.name for network in networks] == names
        assert sorted(done.name for done in said) == names
        for name in names:
            counts = [(done, total) for who, done, total in ready if who == name]
            assert counts == [(n, counts[0][1]) for n in range(counts[0][1] + 1)]
        assert all(network.card["validation_dsc"]["femur"] is not None for network in networks)
        assert (tmp_path / "m" / SPLIT).is_file()
        said.clear()
        again = train_ensemble(training_lake, "bones", cluster=client, resume=True, **options)
        assert [n.digest for n in again] == [n.digest for n in networks]
        assert said == []
        (tmp_path / "m" / SPLIT).unlink()
        with pytest.raises(RunError, match=r"bone_3d-1: the folder contains checkpoint\.npz"):
            train_ensemble(training_lake, "bones", cluster=client, **options)


def _threads_of_tensorflow() -> tuple[int, int]:
    import tensorflow

    threading: Any = tensorflow.config.threading
    return (
        threading.get_intra_op_parallelism_threads(),
        threading.get_inter_op_parallelism_threads(),
    )


def test_train_ensemble__rejects_exams_without_references(tmp_path: Path) -> None:
    lake = lake_of(tmp_path / "l.lake", 6)  # two patients

    def refused(task: str = "bones", **options: object) -> QmriLakeError:
        with pytest.raises(QmriLakeError) as caught:
            train_ensemble(lake, task, out=tmp_path / "m", **options)
        assert not (tmp_path / "m").exists()
        return caught.value

    error = refused()
    assert isinstance(error, InputError)
    assert "image and dess/reference_bone in 5 of 6 exams, of 2 patients" in str(error)
    assert "no variable 'dess/reference_bones'" in str(refused(target="reference_bones"))
    assert "Did you mean 'bones'?" in str(refused("bone"))
    assert "6 members" in str(refused(members=6))


def test_train_ensemble__after_an_error_nothing_is_resumed(tmp_path: Path, capsys: Capture) -> None:
    lake = lake_of(tmp_path / "l.lake", 16, ("cartilage",))  # four patients, four exams each
    exams, bare = list(lake.exams["exam"]), (0, 9)

    def spoil(session: icechunk.Session) -> None:
        dess = open_root(session.store, "r+")["dess"]
        for row in bare:
            labels = dess["reference_cartilage"][row]
            dess["reference_cartilage"][row] = np.where(labels == 4, 0, labels)  # no menisci
        dess["image"][5] = np.zeros_like(dess["image"][5])  # seen only when it is prepared

    commit(lake.repo, spoil, "Spoil three exams")
    out = tmp_path / "models"
    command = [
        "train",
        "cartilage",
        "--lake",
        lake.url,
        "--out",
        str(out),
        "--preset",
        "small",
        "--epochs",
        "1",
        "--seed",
        "3",
    ]
    # One exam validates. The second member learns from other rows than the first.
    for members, lacking in (("1", "1 of 5"), ("2", "2 of 9")):
        assert main([*command, "--members", members]) == 2
        said = capsys.readouterr().err
        assert f"no voxel of meniscus in {lacking} exams ({exams[0]}" in said
        assert (exams[9] in said) == (members == "2")
        assert "--allow-missing" in said
        assert len(said.splitlines()) == 1
        assert not out.exists()
    assert main([*command, "--members", "1", "--allow-missing"]) == 2
    assert "percentile 85 of the image (expected a signal above 0" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["cache"]
    # Without the bad exam the training starts, and the split is written after the preparation.
    written: list[bool] = []

    def stop(_: str, done: int, total: int) -> None:
        written.append((out / SPLIT).is_file())
        if done == total:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"preset": "small", "out": out, "members": 1, "allow_missing": True}
    with pytest.raises(KeyboardInterrupt):
        train_ensemble(lake, "cartilage", cohort=f"exam != '{exams[5]}'", preparing=stop, **options)
    assert written == [False] * (len(written) - 1) + [True]
    with pytest.raises(RunError, match="Resume with --resume"):
        train_ensemble(lake, "cartilage", **options)


def test_train__from_references_to_networks(
    training_lake: ql.Lake, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(training, "recipes", few_steps)
    out = tmp_path / "models"
    command = [
        "train",
        "bones",
        "--lake",
        training_lake.url,
        "--out",
        str(out),
        "--preset",
        "small",
        "--epochs",
        "1",
        "--cohort",
        "timepoint >= 0",
    ]
    assert main([*command, "--members", "1"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    for word in ("bone_3d-1", "1 of 1", "DSC patella", f"--set models={out}", "run segment_bones"):
        assert word in printed.out
    table = pd.read_csv(out / TABLE)
    assert list(table["split"][:4]) == ["train", "validation", "test", "train, paper"]
    assert table["volumes"][:3].tolist() == [2, 2, 2]
    first = (out / "bone_3d-1" / CHECKPOINT).stat().st_mtime_ns
    # The same again is refused; with --resume, what is finished is left alone.
    assert main([*command, "--members", "1"]) == 2
    assert "models: the folder contains split.json (expected" in capsys.readouterr().err
    assert main([*command, "--members", "2", "--resume"]) == 0
    assert "cross_entropy" in capsys.readouterr().out
    assert (out / "bone_3d-1" / CHECKPOINT).stat().st_mtime_ns == first
    networks = find_networks(out, task="bones")
    assert [network.name for network in networks] == ["bone_3d-1", "bone_3d-2"]
    assert [network.card["seed"] for network in networks] == [0, 1]
    assert networks[0].card["split"] == networks[1].card["split"]
    # Of each view: two exams that train, with their copies, and those that validate.
    views = recipes("bones", "small", 2)
    prepared = sum(2 * (1 + r.copies) + min(r.validation or 2, 2) for r in views)
    assert len(list((out / "cache").glob("9*"))) == prepared
    for changed, words in (
        (["--seed", "1"], "an ensemble with seed 0 (expected 1"),
        (["--preset", "paper"], "an ensemble with preset small"),
        (["--cohort", "timepoint >= 12"], "all exams and timepoint >= 0 (expected all exams"),
    ):
        assert main([*command, "--resume", *changed]) == 2
        assert words in capsys.readouterr().err


def test_train_ensemble__rejects_a_damaged_split(training_lake: ql.Lake, tmp_path: Path) -> None:
    (tmp_path / SPLIT).write_text("{")
    with pytest.raises(InputError, match="can't be read"):
        train_ensemble(training_lake, "bones", out=tmp_path, resume=True)
    with pytest.raises(RunError, match="Resume with --resume"):
        train_ensemble(training_lake, "bones", out=tmp_path)


@pytest.mark.accept
def test_train__interrupted_prints_how_to_resume(
    training_lake: ql.Lake, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "models"
    command = [
        "train",
        "bones",
        "--lake",
        training_lake.url,
        "--out",
        str(out),
        "--preset",
        "small",
        "--members",
        "1",
    ]
    with interruptible():
        process = subprocess.Popen(
            [sys.executable, "-m", "qmri_lake.cli", *command], stderr=subprocess.PIPE, text=True
        )
    saved = out / "bone_3d-1" / CHECKPOINT
    while process.poll() is None and not saved.is_file():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == (
        f"stopped; {out} keeps the last finished epoch. Resume: run the same command with "
        "--resume\n"
    )
    with np.load(saved) as file:
        done = json.loads(str(file["known"]))["state"]["epoch"]
    assert main([*command, "--resume", "--epochs", str(done + 1)]) == 0
    assert f" of {done + 1}" in capsys.readouterr().out
