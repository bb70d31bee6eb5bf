"""Runs: two at once, in parallel, variants, resuming, events."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qmri_lake.errors import LakeLockedError
from qmri_lake.execution.run import Committed, ExamDone, RunEnded, RunStarted
from qmri_lake.execution.step import Step
from qmri_lake.lake import Lake, open_lake
from qmri_lake.steps.t2 import t2
from qmri_lake.store.status import read_status
from tests.execution.killable_run import RunServer
from tests.fixtures import array_lake, msme_signal

NAMES = [variable.name for variable in t2.writes]
SHAPE = (5, 12, 10)


def expected_t2(row: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the true T2 inside the labels of an exam of `array_lake`, NaN elsewhere; labels."""
    extent = (SHAPE[0] - row % 2, *SHAPE[1:])
    full = np.full(SHAPE, np.nan)
    labels = np.zeros(SHAPE, bool)
    labels[: extent[0], 2:8] = True
    full[: extent[0]] = msme_signal(row, extent)[1]
    return np.where(labels, full, np.nan), labels


def states(lake: Lake, step: str = "t2") -> list[int]:
    return read_status(lake.root, step, len(lake)).state.tolist()


# -- two at once -----------------------------------------------------------------------------------


def test_run__second_writer(run_server: RunServer, tmp_path: Path, judge: Any) -> None:
    url, gate = tmp_path / "a.lake", tmp_path / "gate"
    before = array_lake(url, 3)
    os.mkfifo(gate)
    process = run_server.start(url, gate=gate, commit_every=1)
    process.wait_for("task")

    second = open_lake(str(url))
    with pytest.raises(LakeLockedError) as caught:
        second.run("t2")
    named = str(process.number) in str(caught.value) and socket.gethostname() in str(caught.value)
    assert "\n" not in str(caught.value)

    gate.write_bytes(b"")  # lets the first exam through
    process.wait_for("committed")
    process.wait_for("task", 2)
    reader = open_lake(str(url), mode="r")
    seen = states(reader)
    values = reader.root["msme/t2"][0]
    stayed = "t2" not in before.status().index

    for count in (2, 3):
        gate.write_bytes(b"")
        if count < 3:
            process.wait_for("task", count + 1)
    process.wait_for("exit")
    assert process.events[-1] == ("exit", 0)
    assert states(reader) == seen  # a reader stays where it was, until it asks
    assert states(reader.refresh()) == [1, 1, 1]
    assert second.run("t2").up_to_date == 3
    np.testing.assert_allclose(values, expected_t2(0)[0], rtol=1e-5)
    judge(
        "two runs at once",
        required="error names host and process; a reader sees the last commit; "
        "an opened lake stays at its snapshot",
        measured=f"named: {named}; reader saw {seen}; stayed: {stayed}",
        passed=named and seen == [1, 0, 0] and stayed,
    )


def test_writing__within_itself(tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "a.lake", 1)
    with lake.writing(), pytest.raises(LakeLockedError, match=str(os.getpid())):
        lake.run("t2")
    assert lake.run("t2").counts["done"] == 1


@pytest.mark.slow
def test_run__parallel_tasks(workers: Any, tmp_path: Path, judge: Any) -> None:
    lake = array_lake(tmp_path / "a.lake", 24)
    result = lake.run("t2", cluster=workers, commit_every=5)
    fresh = open_lake(lake.url, mode="r")
    survived = states(fresh).count(1)
    maps = fresh.root["msme/t2"][:]
    right = sum(
        np.allclose(maps[row], expected_t2(row)[0], rtol=1e-5, equal_nan=True) for row in range(24)
    )
    assert result.counts["done"] == 24
    judge(
        "statuses under parallel tasks",
        required="24 of 24 done, values right",
        measured=f"{survived} done, {right} right",
        passed=survived == right == 24,
    )


def first_voxel(msme: Any) -> float:
    return float(msme["image"].values[0, 0, 0, 0])


def deadly(msme: Any, *, victim: float) -> dict[str, Any]:
    if first_voxel(msme) == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"t2_error": np.zeros(msme["image"].shape[1:], np.float32)}


@pytest.mark.slow
def test_run__worker_dies(tmp_path: Path) -> None:
    """As when memory runs out: the exam has failed, and what was queued with it has not."""
    import dask
    from distributed import Client, LocalCluster

    lake = array_lake(tmp_path / "a.lake", 6)
    victim = float(lake.root["msme/image"][2, 0, 0, 0, 0])
    step = Step("t2", deadly, {"msme": ["image"]}, t2.writes, "1")
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        result = lake.run(step, cluster=client, victim=victim)
    assert (result.counts["done"], result.failed) == (5, 1)
    assert states(lake) == [1, 1, 2, 1, 1, 1]
    assert lake.failures("t2")["message"].item().startswith("its worker died on each attempt")


def deadly_each_time(msme: Any) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


@pytest.mark.accept
def test_run__each_worker_dies(tmp_path: Path, judge: Any) -> None:
    """The local cluster may fail to close its workers in time, since they are being restarted."""
    import dask

    lake = array_lake(tmp_path / "a.lake", 3)
    step = Step("t2", deadly_each_time, {"msme": ["image"]}, t2.writes, "1")
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        result = lake.run(step, cluster="cpu")
    messages = set(lake.refresh().failures("t2")["message"])
    judge(
        "run / each of 3 tasks kills its worker",
        required="the run ends with its result: 3 failed, each with its reason in a line",
        measured=f"{result.failed} failed: {'; '.join(messages)}",
        passed=result.failed == 3
        and messages == {"its worker died on each attempt: too little memory, or a crash"},
    )


def without_memory(msme: Any, *, bytes_needed: int) -> dict[str, Any]:
    if bytes_needed:
        np.zeros(bytes_needed, np.uint8)
    raise MemoryError


@pytest.mark.parametrize(
    ("needed", "message"),
    [
        (0, "too little memory"),
        (1 << 60, r"too little memory \(Unable to allocate 1.00 EiB for an array with .*\)"),
    ],
)
def test_run__too_little_memory(tmp_path: Path, needed: int, message: str) -> None:
    lake = array_lake(tmp_path / "a.lake", 1)
    step = Step("t2", without_memory, {"msme": ["image"]}, t2.writes, "1")
    assert lake.run(step, bytes_needed=needed).failed == 1
    assert re.fullmatch(message, lake.refresh().failures("t2")["message"].item())


# -- resuming, variants, parameters ----------------------------------------------------------------


def test_run__twice(tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "a.lake", 4)
    first = lake.run("t2")
    assert (first.counts["done"], first.failed, first.run) == (4, 0, 2)
    assert str(first).startswith("t2: 4 done (")
    snapshot = lake.snapshot
    second = lake.run("t2")
    assert lake.snapshot == snapshot == second.snapshot
    assert second.up_to_date == 4
    assert "4 already done" in str(second)
    for row in range(4):
        np.testing.assert_allclose(lake.root["msme/t2"][row], expected_t2(row)[0], rtol=1e-5)


@pytest.mark.slow
def test_run__variant(tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "a.lake", 4)
    lake.run("t2")
    before = {name: lake.root[f"msme/{name}"][:] for name in NAMES}
    result = lake.run("t2", variant="low", bounds=(0.0, 40.0))
    assert result.step == "t2__low"
    assert result.counts["done"] == 4
    for name, values in before.items():
        np.testing.assert_array_equal(lake.root[f"msme/{name}"][:], values)
    low = lake.root["msme/t2__low"][:]
    assert np.nanmax(low) <= 40 < np.nanmax(before["t2"])
    status = lake.status()
    assert status.loc["t2", "done"] == status.loc["t2__low", "done"] == 4
    runs = lake.runs()
    assert runs.loc[result.run, "parameters"]["bounds"] == [0.0, 40.0]
    assert lake.run("t2").up_to_date == 4
    assert lake.run("t2", variant="low", bounds=(0.0, 40.0)).up_to_date == 4
    ds = lake.load("msme")
    assert {"t2", "t2__low"} <= set(ds.data_vars)
    assert len(lake.cohort().require("msme/t2__low")) == 4


def test_run__part_of_a_cohort(tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "a.lake", 6)
    assert lake.run("t2", "knee == 'right'").counts["done"] == 3
    assert states(lake) == [1, 0, 1, 0, 1, 0]
    assert lake.run("t2").counts["done"] == 3


def test_run__read_only(tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "a.lake", 2)
    first = lake.tag("v1")
    for reader in (open_lake(lake.url, mode="r"), open_lake(lake.url, ref="v1")):
        with pytest.raises(LakeLockedError, match="open for reading only"):
            reader.run("t2")
        with pytest.raises(LakeLockedError, match="open for reading only"):
            reader.tag("v2")
    assert lake.tags() == ["v1"]
    assert open_lake(lake.url).snapshot == first


# -- commits and events ----------------------------------------------------------------------------


def test_run__events_and_commits(tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "a.lake", 5)
    events: list[Any] = []
    commits = len(lake.history())
    result = lake.run("t2", commit_every=2, commit_seconds=1e6, listeners=[events.append])
    assert events[0] == RunStarted("t2", 2, 5)
    assert events[-1] == RunEnded(result)
    assert [type(e) for e in events[1:-1]] == [
        ExamDone,
        ExamDone,
        Committed,
        ExamDone,
        ExamDone,
        Committed,
        ExamDone,
        Committed,
    ]
    assert [e.exam for e in events if isinstance(e, ExamDone)] == lake.exams["exam"].tolist()
    batches = [e for e in events if isinstance(e, Committed)]
    assert [e.exams for e in batches] == [2, 2, 1]
    history = lake.history()
    assert history["snapshot"][: len(batches)].tolist() == [e.snapshot for e in batches[::-1]]
    assert len(history) == commits + 4  # the start, and three batches
    assert history["message"].iloc[0] == "End run 2: t2"
    # Each commit is a whole: what is marked as done in it can be read in it.
    for count, event in zip((2, 4, 5), batches, strict=True):
        then = open_lake(lake.url, ref=event.snapshot)
        assert states(then) == [1] * count + [0] * (5 - count)
        assert np.isfinite(then.root["msme/t2"][:count]).any(axis=(1, 2, 3)).all()
        assert np.isnan(then.root["msme/t2"][count:]).all()


def test_run__commits_after_seconds(tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "a.lake", 3)
    events: list[Any] = []
    lake.run("t2", commit_every=100, commit_seconds=0, listeners=[events.append])
    assert [e.exams for e in events if isinstance(e, Committed)] == [1, 1, 1, 0]


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ZeroDivisionError])
def test_run__stopped(tmp_path: Path, error: type[BaseException]) -> None:
    """By hand, or by an error in a listener."""
    lake = array_lake(tmp_path / "a.lake", 5)

    def stop_after_three(event: Any) -> None:
        if isinstance(event, Committed) or (
            isinstance(event, ExamDone) and event.exam == lake.exams["exam"][2]
        ):
            raise error

    with pytest.raises(error):
        lake.run("t2", commit_every=100, listeners=[stop_after_three])
    fresh = open_lake(lake.url)
    assert states(fresh) == [1, 1, 1, 0, 0]  # what had arrived was kept
    assert fresh.run("t2").counts["done"] == 2  # and the lock is free
