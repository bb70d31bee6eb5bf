"""Loggers: silent by default, and without patients above the level DEBUG."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import icechunk
import pytest

from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from tests.fixtures import array_lake


def test_run__logs_start_commits_and_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lake = array_lake(tmp_path / "a.lake", 2)
    caplog.set_level(logging.INFO, "qmri_lake")
    lake.run("t2", within="all")
    info = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]
    assert [text.partition(":")[0] for text in info if text.startswith("run")] == [
        "run 2 of t2 started",
        "run 2 of t2 ended",
    ]
    assert info[1] == "run 2 of t2 started: 2 exams"
    assert info[-1].startswith("run 2 of t2 ended: {'done': 2,")
    assert sum(text.startswith("committed ") for text in info) == 2  # start and end
    assert all(name.startswith("qmri_lake.") for name in {r.name for r in caplog.records})
    assert not any("9000001" in text for text in caplog.messages)


def test_commit__warns_when_it_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lake = array_lake(tmp_path / "a.lake", 2)
    turns: list[int] = []

    def change(session: icechunk.Session) -> None:
        turns.append(1)
        open_root(session.store, "r+").attrs["turn"] = len(turns)
        if len(turns) == 1:  # another writer is faster
            commit(lake.repo, faster, "Faster")

    def faster(session: icechunk.Session) -> None:
        open_root(session.store, "r+").attrs["other"] = 1

    commit(lake.repo, change, "Slower")
    (warning,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert warning.name == "qmri_lake.store.repository"
    assert warning.getMessage() == "another commit was faster: applying 'Slower' again (1 of 20)"
    assert lake.refresh().root.attrs["turn"] == 2


@pytest.mark.slow
def test_run__prints_nothing_by_default(tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "a.lake", 1)
    code = f"import qmri_lake as ql; ql.open_lake({lake.url!r}).run('t2', within='all')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_failed_exam__is_named_at_debug_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lake = array_lake(tmp_path / "a.lake", 1)
    caplog.set_level(logging.DEBUG, "qmri_lake")
    lake.run("t2", within="all", skip_first_echo=None, bounds=(0, 1e-9), r2_min=None)

    def unknown(session: Any) -> None:
        open_root(session.store, "r+")["msme/cartilage"][0] = 255

    commit(lake.repo, unknown, "Forget the mask")
    assert lake.refresh().run("t2").failed == 1
    exam = lake.exams["exam"][0]
    named = [r for r in caplog.records if exam in r.getMessage()]
    assert [r.levelno for r in named] == [logging.DEBUG]
    assert named[0].getMessage() == f"exam {exam} failed"
    assert named[0].exc_info is not None
