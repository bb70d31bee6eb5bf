"""Two writers on one object store, whose commits follow each other in any order.

An object store has no lock. Here the writers share a local lake without its lock, in one process: a
listener of the first one lets the second one write between two of its commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.execution import run as execution
from qmri_lake.execution.events import Committed, ExamDone, RunStarted
from qmri_lake.execution.step import Skip, temporary_steps
from qmri_lake.lake import Lake, open_lake
from tests.fixtures import array_lake
from tests.oai.conftest import Written, write

PATIENTS = range(9000001, 9000007)


@pytest.fixture(autouse=True)
def without_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qmri_lake.store.lock.is_local", lambda url: False)


class Meanwhile:
    """A listener that lets another writer write once, at the first event of a type."""

    def __init__(self, event: type, write: Callable[[], object]) -> None:
        self._event, self._write = event, write
        self.has_written = False

    def __call__(self, event: object) -> None:
        if isinstance(event, self._event) and not self.has_written:
            self.has_written = True
            self._write()


def deliver(root: Path, patients: range) -> dict[str, Written]:
    return {
        f"{patient}-000m-right": write(
            root / f"00m/0.C.2/{patient}/20040824/1",
            patient=str(patient),
            seed=patient,
            slices=4,
            uid=f"1.2.{patient}",
        )
        for patient in patients
    }


def wrong_images(lake: Lake, written: dict[str, Written]) -> list[str]:
    row_of = {key: row for row, key in enumerate(lake.exams["exam"])}
    images = lake.root["dess/image"]
    return [
        key
        for key, series in written.items()
        if not np.array_equal(images[row_of[key]], series.image[0])
    ]


@pytest.mark.parametrize("event", [RunStarted, ExamDone, Committed])
def test_ingest__while_another_writer_adds_exams(tmp_path: Path, event: type) -> None:
    """The second delivery makes the arrays longer than they were when the first run started."""
    first, second = PATIENTS[:3], PATIENTS[2:]  # one patient is in both
    written = deliver(tmp_path / "a", first) | deliver(tmp_path / "b", second)
    path = tmp_path / "x.lake"
    ql.create_lake(path)
    meanwhile = Meanwhile(event, lambda: ql.ingest(tmp_path / "b", path, commit_every=1))
    ql.ingest(tmp_path / "a", path, commit_every=1, listeners=[meanwhile])
    lake = open_lake(path)
    assert meanwhile.has_written
    assert sorted(lake.exams["exam"]) == sorted(written)
    assert wrong_images(lake, written) == []
    assert lake.status().loc["ingest_dess", "done"] == len(written)
    assert list(lake.validate(deep=True)) == []


@pytest.mark.parametrize("event", [object, RunStarted, ExamDone, Committed])
def test_run__while_another_writer_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: type
) -> None:
    """Each run has its own number, and each exam the number of the run that computed it.

    With `object`, the second run starts and ends before the first commit of the first one.
    """
    path = tmp_path / "x.lake"
    array_lake(path, 4)

    def run(variant: str, **options: object) -> object:
        return open_lake(path).run("t2", variant=variant, within="all", commit_every=1, **options)

    meanwhile = Meanwhile(event, lambda: run("late", skip_first_echo=False))
    if event is object:
        original = execution.commit
        monkeypatch.setattr(execution, "commit", lambda *given: (meanwhile(0), original(*given))[1])
    run("early", listeners=[meanwhile])
    lake = open_lake(path)
    assert meanwhile.has_written
    runs = lake.runs()
    for variant, skips in (("early", True), ("late", False)):
        assert set(lake.status().loc[f"t2__{variant}", ["done"]]) == {4}
        (number,) = set(lake.root[f"status/t2__{variant}/run"][:].tolist())
        assert runs.loc[number, "parameters"]["skip_first_echo"] is skips
        alone = ql.fit_t2(lake.load("msme"), within="all", skip_first_echo=skips)["t2"]
        stored = lake.load("msme")[f"t2__{variant}"]
        np.testing.assert_array_equal(stored, alone)
    assert len(runs.index) == len(set(runs.index))


def test_run__while_another_writer_adds_exams(tmp_path: Path) -> None:
    path = tmp_path / "x.lake"
    array_lake(path, 3)
    written = deliver(tmp_path / "b", range(9000101, 9000103))
    meanwhile = Meanwhile(ExamDone, lambda: ql.ingest(tmp_path / "b", path, commit_every=1))
    open_lake(path).run("t2", within="all", commit_every=1, listeners=[meanwhile])
    lake = open_lake(path)
    assert wrong_images(lake, written) == []
    assert lake.status().loc["t2", "done"] == 3
    assert lake.status().loc["ingest_dess", "done"] == 2
    msme = lake.load("msme", lake.cohort().require("msme/t2"))
    np.testing.assert_array_equal(msme["t2"], ql.fit_t2(msme, within="all")["t2"])


# -- inputs that another writer replaces meanwhile ----------------------------------------------


@dataclass(frozen=True)
class Steps:
    """Two steps, of which the second one reads the result of the first one."""

    peak: Any
    scaled: Any


@pytest.fixture
def steps() -> Iterator[Steps]:
    with temporary_steps():

        @ql.step(
            reads={"msme": ["image"]},
            writes=[
                ql.Variable("msme", "peak", (), "float32", "Largest signal, times the gain"),
                ql.Variable("msme", "gain_of_peak", (), "float32", "Gain, if it is not 1"),
                ql.Variable(
                    "msme", "copy", ("echo", "slice", "row", "column"), "float32", "Image, if asked"
                ),
            ],
        )
        def peak(msme, *, gain=1.0, with_copy=False):
            if gain < 0:
                raise ValueError("negative gain")
            made = {"peak": np.float32(msme["image"].values.max() * gain)}
            made |= {} if gain == 1 else {"gain_of_peak": np.float32(gain)}
            return made | ({"copy": msme["image"].values} if with_copy else {})

        @ql.step(
            reads={"msme": ["peak"]},
            writes=[ql.Variable("msme", "scaled", (), "float32", "Ten times the peak")],
        )
        def scaled(msme, *, skip=False):
            if skip:
                raise Skip("asked to")
            return {"scaled": 10 * msme["peak"].values}

        yield Steps(peak, scaled)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("event", [RunStarted, ExamDone, Committed])
def test_plan__finds_exams_whose_input_an_older_run_replaced(
    tmp_path: Path, steps: Steps, event: type, skip: bool
) -> None:
    """The run of the input starts first, and commits after the second step has read old values."""
    path = tmp_path / "x.lake"
    array_lake(path, 3).run(steps.peak)
    meanwhile = Meanwhile(event, lambda: open_lake(path).run(steps.scaled, skip=skip))
    open_lake(path).run(steps.peak, gain=2.0, listeners=[meanwhile], commit_every=1)
    lake = open_lake(path)
    assert meanwhile.has_written
    new = 1 if event is Committed else 0
    plan = lake.plan(steps.scaled, skip=skip)
    assert plan.rows.tolist() == [0, 1, 2][new:]
    assert plan.up_to_date == new
    if event is RunStarted:  # a derived lake knows it, too
        study = lake.derive(tmp_path / "study.lake", None, ["msme/peak", "msme/scaled"])
        assert study.plan(steps.scaled, skip=skip).rows.tolist() == [0, 1, 2]
    lake.run(steps.scaled)
    np.testing.assert_array_equal(lake.root["msme/scaled"][:], 10 * lake.root["msme/peak"][:])
    assert len(lake.plan(steps.scaled).rows) == 0


def test_run__removes_values_that_another_writer_committed_meanwhile(
    tmp_path: Path, steps: Steps
) -> None:
    """An exam has the values of the run that its status names, and no value of another run."""
    path = tmp_path / "x.lake"
    array_lake(path, 2)
    meanwhile = Meanwhile(
        RunStarted, lambda: open_lake(path).run(steps.peak, gain=2.0, with_copy=True)
    )
    open_lake(path).run(steps.peak, listeners=[meanwhile])
    lake = open_lake(path)
    assert meanwhile.has_written
    numbers = set(lake.root["status/peak/run"][:].tolist())
    assert [lake.runs().loc[number, "parameters"]["gain"] for number in numbers] == [1.0]
    assert np.isnan(lake.root["msme/gain_of_peak"][:]).all()
    assert np.isnan(lake.root["msme/copy"][:]).all()


def test_run__waits_for_an_input_that_another_writer_removed(tmp_path: Path, steps: Steps) -> None:
    path = tmp_path / "x.lake"
    array_lake(path, 2).run(steps.peak)

    def fail() -> None:
        assert open_lake(path).run(steps.peak, gain=-1.0).counts["failed"] == 2

    meanwhile = Meanwhile(RunStarted, fail)
    open_lake(path).run(steps.scaled, listeners=[meanwhile])
    lake = open_lake(path)
    assert meanwhile.has_written
    # The run computed nothing from the missing values, and the exams are pending.
    assert lake.status().loc["scaled", ["done", "failed", "pending"]].tolist() == [0, 0, 2]
    assert lake.plan(steps.scaled).waiting == {"peak": 2}
