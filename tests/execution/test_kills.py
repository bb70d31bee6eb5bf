"""Ingests, runs, derivations and trainings that are killed at random moments lose nothing."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.core.model_folder import CARD
from tests.conftest import Judge
from tests.execution.killable_run import Process, RunServer

KILLS = 25
HERE = "tests.execution.test_kills"


# -- in the killed process -------------------------------------------------------------------------


def ingest(source: str, out: str) -> None:
    ql.ingest(source, out, commit_every=1)


def t2(source: str, out: str) -> None:
    ql.open_lake(out).run("t2", within="all", commit_every=1)


def sphere(source: str, out: str) -> None:
    ql.open_lake(out).run("sphere", commit_every=1)


def derive(source: str, out: str) -> None:
    ql.open_lake(source).derive(out, None, ["dess/image", "msme/image"], commit_every=1)


def train_network(source: str, out: str) -> None:
    import torch

    from qmri_lake.segmentation.training.loop import train
    from tests.segmentation.trainings import split_of, tiny_recipe

    torch.set_num_threads(1)
    lake = ql.open_lake(source, mode="r")
    train(
        lake,
        tiny_recipe(epochs=4, steps=2),
        split_of(lake),
        out,
        cache=f"{source}.cache",
        deterministic=True,
        resume=Path(out).exists(),
        seed=5,
    )


def train_one_classifier(source: str, out: str) -> None:
    import torch

    from qmri_lake.diagnosis.data.sphere_images import SphereImages
    from qmri_lake.diagnosis.training.loop import train_classifier
    from tests.diagnosis.training.test_loop import SMALL

    torch.set_num_threads(1)
    lake = ql.open_lake(source, mode="r")
    exams = [str(exam) for exam in lake.exams["exam"]]
    labels = {exam: at % 2 for at, exam in enumerate(exams)}
    later = (lake.exams["patient"] > lake.exams["patient"].median()).tolist()
    train_set, validation_set = (
        SphereImages(
            lake.cohort().of_exams(chosen, "half"),
            labels,
            strategy="thickness",
            bone="femur",
            size=64,
        )
        for chosen in (
            [exam for exam, held in zip(exams, later, strict=True) if not held],
            [exam for exam, held in zip(exams, later, strict=True) if held],
        )
    )
    train_classifier(train_set, validation_set, SMALL, out, resume=Path(out).exists())


# -- in the test -----------------------------------------------------------------------------------


def arrays(out: Path) -> dict[str, np.ndarray]:
    """Return all values of a lake."""
    lake = ql.open_lake(str(out), mode="r")
    return {"exam": lake.root["exam"][:]} | {
        path: lake.root[path][...] for path in lake.variables()
    }


def weights(out: Path) -> dict[str, np.ndarray]:
    """Return the weights of a finished training."""
    assert (out / CARD).exists()
    if (out / "model.pth").exists():
        import torch

        saved = torch.load(out / "model.pth", weights_only=True)
        return {name: value.numpy() for name, value in saved.items()}
    import h5py

    (file,) = out.glob("*.weights.h5")
    found: dict[str, np.ndarray] = {}
    with h5py.File(file) as content:
        content.visititems(
            lambda name, item: (
                found.__setitem__(name, item[...]) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


def differing(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> list[str]:
    """Return the names of arrays that are not bitwise identical."""
    assert found.keys() == expected.keys()
    return [
        name
        for name, value in expected.items()
        if not (
            np.array_equal(found[name], value)
            if value.dtype.kind in "OTU"
            else found[name].tobytes() == value.tobytes()
        )
    ]


@dataclass
class Killer:
    """Kills an activity at random moments, and resumes it until it is complete."""

    server: RunServer
    activity: str
    source: Path
    folder: Path
    start_from: Path | None
    """A lake that each round starts with; None: nothing."""
    read: Callable[[Path], dict[str, np.ndarray]]
    kills: int = 0
    rounds: int = 0

    def start(self, out: Path) -> Process:
        return self.server.call(f"{HERE}:{self.activity}", str(self.source), str(out))

    def new(self, name: str) -> Path:
        out = self.folder / name
        if self.start_from is not None:
            shutil.copytree(self.start_from, out)
        return out

    def finish(self, out: Path) -> float:
        """Run the activity until it ends; return its time [s]."""
        started = time.monotonic()
        process = self.start(out)
        for _ in process.listen(240):
            pass
        assert process.events[-1] == ("exit", 0), process.events
        return time.monotonic() - started

    def run(self) -> tuple[list[str], int]:
        """Kill 25 times; return the differing arrays, and the number of compared ones."""
        chance = random.Random(0)
        whole = self.new("whole")
        seconds = self.finish(whole)
        expected = self.read(whole)
        faults = self.faults(whole)  # a lake of masks alone lacks images
        different: list[str] = []
        while self.kills < KILLS:
            out = self.new(f"round-{self.rounds}")
            self.rounds += 1
            # At most ten kills in a round, so that all moments of the activity are reached.
            for _ in range(10):
                process = self.start(out)
                for _ in process.listen(chance.uniform(0.1, 1) * seconds):
                    pass
                if "exit" in process.names():
                    assert process.events[-1] == ("exit", 0), process.events
                    break
                process.kill()
                self.kills += 1
                if self.kills == KILLS:
                    break
            self.finish(out)
            different += differing(self.read(out), expected)
            assert self.faults(out) == faults
        return different, len(expected)

    def faults(self, out: Path) -> list[object]:
        """Faults of a lake; none for models."""
        return [*ql.open_lake(str(out)).validate(deep=True)] if self.read is arrays else []


def judge_kills(killer: Killer, judge: Judge, what: str) -> None:
    different, compared = killer.run()
    judge(
        f"kill / {what}, killed at random moments and resumed",
        required=f"{KILLS} kills; 0 arrays differ from an uninterrupted one",
        measured=f"{killer.kills} kills in {killer.rounds} rounds; {len(different)} of {compared} "
        "arrays differ",
        passed=killer.kills == KILLS and not different,
    )


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from qmri_lake.phantom import write_archive

    folder = tmp_path_factory.mktemp("kills") / "archive"
    return Path(write_archive(folder, exams=3, shape=(16, 48, 48), seed=3).path)


@pytest.fixture(scope="module")
def images(archive: Path) -> Path:
    """The lake of an ingest."""
    return Path(ql.ingest(archive, str(archive.with_name("images.lake"))).lake.url)


@pytest.mark.accept
def test_ingest__killed(run_server: RunServer, archive: Path, tmp_path: Path, judge: Judge) -> None:
    judge_kills(Killer(run_server, "ingest", archive, tmp_path, None, arrays), judge, "ingest")


@pytest.mark.accept
def test_t2__killed(run_server: RunServer, images: Path, tmp_path: Path, judge: Judge) -> None:
    judge_kills(Killer(run_server, "t2", images, tmp_path, images, arrays), judge, "t2")


@pytest.mark.accept
def test_derive__killed(run_server: RunServer, images: Path, tmp_path: Path, judge: Judge) -> None:
    judge_kills(Killer(run_server, "derive", images, tmp_path, None, arrays), judge, "derive")


@pytest.mark.accept
def test_sphere__killed(run_server: RunServer, tmp_path: Path, judge: Judge) -> None:
    from qmri_lake.phantom import exams, knee
    from tests.fixtures import knee_lake

    lake = tmp_path / "knees.lake"
    knee_lake(lake, [knee(exam, shape=(40, 96, 96)) for exam in exams(3)])
    judge_kills(Killer(run_server, "sphere", lake, tmp_path, lake, arrays), judge, "sphere")


@pytest.fixture(scope="module")
def torch_server():
    server = RunServer("torch", "keras")
    yield server
    server.close()


@pytest.mark.accept
def test_network__killed(
    torch_server: RunServer, training_lake: ql.Lake, tmp_path: Path, judge: Judge
) -> None:
    killer = Killer(torch_server, "train_network", Path(training_lake.url), tmp_path, None, weights)
    judge_kills(killer, judge, "training of a segmentation network")


@pytest.mark.accept
def test_classifier__killed(torch_server: RunServer, tmp_path: Path, judge: Judge) -> None:
    from tests.diagnosis.map_lake import make_map_lake

    lake = make_map_lake(tmp_path / "oai.lake", 12)
    killer = Killer(torch_server, "train_one_classifier", Path(lake.url), tmp_path, None, weights)
    judge_kills(killer, judge, "training of a classifier")
