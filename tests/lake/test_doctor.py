"""Files of killed runs are found, explained and removed without changing a commit."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from qmri_lake.errors import LakeLockedError
from qmri_lake.lake import Lake, open_lake
from qmri_lake.store.repository import commit
from qmri_lake.store.transaction import Transaction
from tests.execution.killable_run import Process, RunServer
from tests.fixtures import array_lake

NOW = timedelta(0)


def everything(lake: Lake) -> list[dict[str, np.ndarray]]:
    """Return every array of every snapshot."""
    found = []
    for snapshot in lake.history()["snapshot"][:-1]:  # the first is Icechunk's own, without a root
        members = open_lake(lake.url, ref=snapshot).root.members(max_depth=None)
        found.append({path: item[:] for path, item in members if hasattr(item, "shape")})
    return found


def killed_in_second_batch(server: RunServer, url: Path) -> Process:
    """Kill a run after its first commit, with an exam written and not committed."""
    process = server.start(url)
    process.wait_for("arrived", 3)
    process.kill()
    return process


def test_doctor__sound_lake(tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "a.lake")
    lake.run("t2")
    found = lake.doctor(older_than=NOW)
    assert found.healthy
    assert found.lines() == ["nothing to do"]
    assert str(found) == f"{lake.url}: nothing to do"


def test_doctor__after_a_kill(run_server: RunServer, tmp_path: Path) -> None:
    url = tmp_path / "a.lake"
    array_lake(url, 8)
    process = killed_in_second_batch(run_server, url)
    lake = open_lake(str(url))
    done = int(lake.status().loc["t2", "done"])
    partial = url / "chunks" / "0000000000000000000G#1"
    partial.write_bytes(b"half")

    found = lake.doctor(older_than=NOW)
    (run,) = found.interrupted
    assert (run.run, run.step, run.planned, run.left) == (2, "t2", 8, 8 - done)
    assert not run.running
    assert not found.writing
    assert found.writer["process"] == process.number
    assert found.orphans.partial == 1
    assert found.orphans.objects > 0  # maps of the exam that was not committed
    text = str(found)
    assert f"run 2 (t2, started {run.started}): interrupted, {8 - done} of 8 exams left" in text
    assert "Run lake.run('t2', ...) with the same parameters to resume" in text
    assert f"left by process {process.number}" in text
    assert "repair=True removes them" in text

    # What may still be committed is left alone, and nothing is removed without being asked.
    assert not lake.doctor().orphans
    assert not lake.doctor(repair=True).orphans
    assert lake.doctor(older_than=NOW).orphans == found.orphans
    assert partial.exists()


@pytest.mark.slow
def test_doctor__repair_touches_no_commit(run_server: RunServer, tmp_path: Path) -> None:
    url = tmp_path / "a.lake"
    array_lake(url, 8).tag("before")
    killed_in_second_batch(run_server, url)
    lake = open_lake(str(url))
    before, history = everything(lake), lake.history()
    found = lake.doctor(older_than=NOW)

    repaired = lake.doctor(repair=True, older_than=NOW)

    assert repaired.repaired
    assert repaired.orphans == found.orphans
    assert repaired.writer == found.writer
    assert "Removed." in str(repaired)
    assert not (url / "writer.json").exists()
    again = open_lake(str(url))
    assert again.tags() == ["before"]
    assert history.equals(again.history())
    after = everything(again)
    assert len(after) == len(before) >= 4
    for old, new in zip(before, after, strict=True):
        assert set(old) == set(new)
        for path in old:
            np.testing.assert_array_equal(old[path], new[path], err_msg=path)
    left = again.doctor(older_than=NOW)
    assert not left.orphans
    assert left.writer is None
    assert [run.left for run in left.interrupted] == [found.interrupted[0].left]

    again.run("t2")
    assert again.doctor(older_than=NOW).healthy


def test_doctor__run_at_work(run_server: RunServer, tmp_path: Path) -> None:
    url, gate = tmp_path / "a.lake", tmp_path / "gate"
    array_lake(url, 4)
    os.mkfifo(gate)
    process = run_server.start(url, gate=gate)
    process.wait_for("task")
    lake = open_lake(str(url))
    found = lake.doctor(older_than=NOW)
    (run,) = found.interrupted
    assert run.running
    assert found.writing
    assert f"running as process {process.number}, 4 of 4 exams left. Wait until it ends." in str(
        found
    )
    assert "writer.json" not in str(found)
    with pytest.raises(LakeLockedError, match=str(process.number)):
        lake.doctor(repair=True)
    process.kill()
    (run,) = open_lake(str(url)).doctor().interrupted
    assert not run.running


def test_doctor__failures_and_ingest(tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "a.lake")
    change = Transaction(
        runs={
            2: {
                "step": "ingest",
                "parameters": {},
                "started": "2026-01-01",
                "finished": "",
                "process": 1,
                "exams": 9,
            }
        }
    )
    change.set_state("ingest_msme", 0, "failed", 2, "truncated")
    change.set_state("t2__epg", 1, "failed", 2, "no echoes")
    commit(lake.repo, change, "Fail")
    found = lake.refresh().doctor()
    assert found.failed == {"ingest_msme": 1, "t2__epg": 1}
    assert "8 of 9 exams left" not in str(found)  # two of them were reached
    lines = found.lines()
    assert "7 of 9 exams left. Ingest the same source again to resume." in lines[0]
    assert lines[1].startswith("ingest_msme: 1 exam failed. lake.failures('ingest_msme')")
    assert "lake.run('t2', variant='epg', retry_failed=True, ...)" in lines[2]
    assert not found.healthy


def test_doctor__touches_no_file_of_others(tmp_path: Path) -> None:
    url = tmp_path / "a.lake"
    lake = array_lake(url, 1)
    kept = [url / "notes#1", url / "chunks" / "notes#1", url / "mine" / "0000000000000000000G#1"]
    gone = [
        url / name
        for name in (
            "chunks/0000000000000000000G#1",
            "refs/branch.main/ref.json#2",
            "config.yaml#1",
            "repo#1",
            "overwritten/repo.30707667368809.0000000000000000000G#0",
        )
    ]
    for path in kept + gone:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"half")
    assert lake.doctor(repair=True, older_than=NOW).orphans.partial == len(gone)
    assert [path.exists() for path in kept + gone] == [True] * 3 + [False] * 5


def test_doctor__half_written_name(tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "a.lake")
    name = tmp_path / "a.lake" / "writer.json"
    name.write_text('{"host": "no')
    assert lake.doctor().writer["process"] == -1
    name.write_text(json.dumps({"host": "here", "process": 1, "program": "p", "since": "now"}))
    assert "left by process 1 of p on here, since now" in str(lake.doctor())
    lake.doctor(repair=True)
    assert not name.exists()
