"""A run that is killed at any moment loses nothing that was committed, and goes on."""

from __future__ import annotations

import itertools
import random
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qmri_lake.lake import open_lake
from qmri_lake.steps.t2 import t2
from qmri_lake.store.runs import read_runs
from qmri_lake.store.status import STATE, read_status
from tests.execution.killable_run import RunServer
from tests.fixtures import array_lake

pytestmark = pytest.mark.slow

EXAMS = 24
NAMES = [variable.name for variable in t2.writes]


def arrays(url: Path) -> dict[str, np.ndarray]:
    root = open_lake(str(url), mode="r").root
    return {name: root[f"msme/{name}"][:] for name in NAMES}


@dataclass
class Victim:
    """One run of 24 exams that is killed and resumed until it is done."""

    server: RunServer
    url: Path
    parameters: Mapping[str, Any]
    expected: Mapping[str, np.ndarray]
    """What an uninterrupted run writes."""
    seconds: float
    """What it takes for one exam."""
    chance: random.Random
    workers: int = 0
    committed: frozenset[int] = frozenset()
    snapshots: set[str] = field(default_factory=set)
    kills: int = 0
    during: int = 0
    """Kills between the first task and the last commit."""
    writing: int = 0
    """Kills while a task wrote its shards."""

    def kill(self) -> None:
        """Resume the run, and kill it at a random moment, every third time inside a write."""
        process = self.server.start(self.url, workers=self.workers, **self.parameters)
        if self.kills % 3 == 2:
            if process.wait_for("computed", self.chance.randint(1, 2)):
                time.sleep(self.chance.uniform(0, self.seconds / 4))
        elif process.wait_for("task"):
            # Two exams make a commit; not much more, so that one run outlives twenty kills.
            for _ in process.listen(self.chance.uniform(0, 2 * self.seconds)):
                pass
        if "exit" in process.names():  # this machine was too slow to kill it in time
            assert process.events[-1] == ("exit", 0), process.events
            self.check()
            return
        process.kill()
        said = process.names()
        self.kills += 1
        self.during += "task" in said and "ended" not in said
        self.writing += said[-2] == "computed"  # the last one is the end of the process
        self.snapshots |= {event[1] for event in process.events if event[0] == "committed"}
        self.check()

    def check(self) -> None:
        """Compare what is committed with the uninterrupted run, and with what was committed."""
        lake = open_lake(str(self.url), mode="r")
        current = [n for n, record in read_runs(lake.root).items() if self.is_ours(record)]
        status = read_status(lake.root, "t2", EXAMS)
        assert set(status.state) <= {STATE["pending"], STATE["done"]}
        done = frozenset(np.flatnonzero(np.isin(status.run, current)).tolist())
        assert self.committed <= done, "a committed exam was lost"
        assert self.snapshots <= set(lake.history()["snapshot"]), "a commit was lost"
        for name, expected in self.expected.items():
            rows = sorted(done)
            np.testing.assert_array_equal(lake.root[f"msme/{name}"][:][rows], expected[rows])
        self.committed = done

    def is_ours(self, record: Mapping[str, Any]) -> bool:
        return record["step"] == "t2" and all(
            record["parameters"][name] == value for name, value in self.parameters.items()
        )

    def finish(self) -> None:
        """Resume the run and leave it alone."""
        process = self.server.start(self.url, **self.parameters)
        process.wait_for("exit")
        assert process.events[-1] == ("exit", 0), process.events
        self.check()
        assert len(self.committed) == EXAMS

    @property
    def left(self) -> int:
        return EXAMS - len(self.committed)


def uninterrupted(
    server: RunServer, url: Path, parameters: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], float]:
    """Return what a run on a copy of the lake writes, and the seconds that an exam took."""
    copy = url.with_name("uninterrupted.lake")
    shutil.copytree(url, copy, dirs_exist_ok=True)
    process = server.start(copy, **parameters)
    process.wait_for("task")
    start = time.monotonic()
    process.wait_for("ended")
    seconds = (time.monotonic() - start) / EXAMS
    process.wait_for("exit")
    found = arrays(copy)
    shutil.rmtree(copy)
    return found, seconds


def kill_often(server: RunServer, url: Path, times: int, workers: int = 0) -> list[Victim]:
    """Kill a run `times` times; one that is done before goes on with other parameters."""
    chance = random.Random(0)
    victims: list[Victim] = []
    for high in itertools.count(30, 5):
        parameters = {"bounds": [0.0, float(high)]}
        expected, seconds = uninterrupted(server, url, parameters)
        victims.append(Victim(server, url, parameters, expected, seconds, chance, workers))
        # The last four exams are for the end of the run; each round has its own bounds.
        while total(victims, "kills") < times and victims[-1].left > 4 and victims[-1].kills < 20:
            victims[-1].kill()
        victims[-1].finish()
        if total(victims, "kills") == times:
            return victims
    raise AssertionError


def total(victims: list[Victim], name: str) -> int:
    return sum(getattr(victim, name) for victim in victims)


def judge_kills(judge: Any, line: str, victims: list[Victim], times: int) -> None:
    kills, during, writing = (total(victims, name) for name in ("kills", "during", "writing"))
    # Workers speak in turn: there the last word does not tell who was killed while it wrote.
    alone = not victims[0].workers
    judge(
        line,
        required=f"{times} kills, {times * 3 // 4} of them between first task and last commit"
        + ", some in a shard write" * alone
        + "; arrays equal, nothing committed lost",
        measured=f"{kills} kills of {len(victims)} runs, {during} between"
        + f", {writing} in a shard write" * alone
        + "; equal, nothing lost",
        passed=kills == times and during >= times * 3 // 4 and (writing > 0 or not alone),
    )


def test_run__killed_and_resumed(run_server: RunServer, tmp_path: Path, judge: Any) -> None:
    url = tmp_path / "a.lake"
    array_lake(url, EXAMS)
    victims = kill_often(run_server, url, 20)
    judge_kills(judge, "kill and resume / 24 exams", victims, 20)


@pytest.mark.accept
def test_run__killed_a_hundred_times(run_server: RunServer, tmp_path: Path, judge: Any) -> None:
    url = tmp_path / "a.lake"
    array_lake(url, EXAMS)
    victims = kill_often(run_server, url, 100)
    judge_kills(judge, "kill and resume / 24 exams, 100 times", victims, 100)


@pytest.mark.accept
def test_run__killed_with_its_workers(run_server: RunServer, tmp_path: Path, judge: Any) -> None:
    url = tmp_path / "a.lake"
    array_lake(url, EXAMS)
    victims = kill_often(run_server, url, 3, workers=2)
    judge_kills(judge, "kill and resume / two Dask workers", victims, 3)


@pytest.mark.accept
def test_run__killed_with_its_workers_often(
    run_server: RunServer, tmp_path: Path, judge: Any
) -> None:
    url = tmp_path / "a.lake"
    array_lake(url, EXAMS)
    victims = kill_often(run_server, url, 12, workers=2)
    judge_kills(judge, "kill and resume / two Dask workers, 12 times", victims, 12)
