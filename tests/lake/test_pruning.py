"""`prune` removes old commits, and nothing that a kept commit needs."""

from __future__ import annotations

import io
import shutil
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.errors import LakeLockedError, RunError, UnknownRefError
from qmri_lake.lake import pruning
from qmri_lake.store.lock import writer_lock
from tests.conftest import Judge
from tests.fixtures import array_lake

Capture = pytest.CaptureFixture[str]
NOW = timedelta(0)


@pytest.fixture
def lake(tmp_path: Path) -> ql.Lake:
    """A lake with a tag in the middle of its history, and a variant that was computed twice."""
    lake = array_lake(tmp_path / "x.lake", 3)
    lake.run("t2", within="all", commit_every=1)
    lake.tag("v1")
    lake.run("t2", within="all", variant="b")
    lake.run("t2", within="all", variant="b", r2_min=0.5)
    return lake.refresh()


def values(lake: ql.Lake) -> dict[str, np.ndarray]:
    return {path: lake.root[path][...] for path in lake.variables()}


def size_of(lake: ql.Lake) -> int:
    return sum(path.stat().st_size for path in Path(lake.url).rglob("*") if path.is_file())


def objects_of(lake: ql.Lake) -> set[str]:
    folders = ("snapshots", "manifests", "chunks")
    return {path.name for folder in folders for path in (Path(lake.url) / folder).iterdir()}


def test_prune__keeps_the_newest_commit_and_tags_unchanged(lake: ql.Lake) -> None:
    tagged = ql.open_lake(lake.url, ref="v1")
    before, before_tagged, runs = values(lake), values(tagged), lake.runs()
    commits, size = lake.history()["snapshot"].tolist(), size_of(lake)

    planned = lake.prune(older_than=NOW, dry_run=True)
    assert size_of(lake) == size
    assert lake.history()["snapshot"].tolist() == commits
    assert planned.tags == ("v1",)
    assert not planned.done

    done = lake.prune(older_than=NOW)
    assert done.done
    assert (done.removed, done.size) == (planned.removed, planned.size)
    left = lake.history()["snapshot"].tolist()
    assert left == [commits[0], commits[-1]]
    assert {*done.removed, *left, lake.repo.lookup_tag("v1")} == {*commits}
    # Icechunk also rewrites its list of commits, or those whose parents it has removed.
    assert size - size_of(lake) == pytest.approx(done.size, abs=5000)

    for opened, known in (
        (ql.open_lake(lake.url), before),
        (ql.open_lake(lake.url, ref="v1"), before_tagged),
    ):
        assert opened.validate(deep=True) == []
        assert values(opened).keys() == known.keys()
        for path, value in values(opened).items():
            np.testing.assert_array_equal(value, known[path], err_msg=path)
    assert lake.runs().equals(runs)
    with pytest.raises(UnknownRefError, match="no tag, branch or snapshot"):
        ql.open_lake(lake.url, ref=done.removed[0])


def test_prune__again_and_with_young_commits_removes_nothing(lake: ql.Lake) -> None:
    assert lake.prune().removed == ()
    assert "no commit is older than 30 days" in str(lake.prune())
    lake.prune(older_than=NOW)
    objects = objects_of(lake)
    assert lake.prune(older_than=NOW).removed == ()
    assert objects_of(lake) == objects


def test_prune__the_lake_is_used_as_before(lake: ql.Lake) -> None:
    lake.prune(older_than=NOW)
    assert lake.run("t2", within="all").up_to_date == 3
    lake.run("t2", within="all", variant="c")
    assert lake.refresh().history()["message"].iloc[0].startswith("End run")
    assert lake.doctor(older_than=NOW).healthy


def test_prune__while_another_writer_works(lake: ql.Lake) -> None:
    with writer_lock(lake.location), pytest.raises(LakeLockedError):
        ql.open_lake(lake.url).prune(older_than=NOW)


def test_prune__on_an_object_store_keeps_a_day(
    lake: ql.Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "is_local", lambda url: False)
    with pytest.raises(RunError, match="at least one day on an object store"):
        lake.prune(older_than=timedelta(hours=2))
    with pytest.raises(RunError, match="expected at least 0"):
        lake.prune(older_than=timedelta(days=-1))
    assert lake.prune(older_than=timedelta(days=1), dry_run=True).size is None


def test_prune_command__asks_first(
    lake: ql.Lake, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = len(lake.history())
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert main(["prune", lake.url, "--days", "0"]) != 0
    question = capsys.readouterr().out
    assert f"would remove {commits - 3} commits older than 0 days" in question
    assert "1 tag (v1) would be kept. This can't be undone. Remove? [y/N]" in question
    assert len(ql.open_lake(lake.url).history()) == commits
    assert main(["prune", lake.url, "--days", "0", "--yes"]) == 0
    out = capsys.readouterr().out
    assert f"removed {commits - 3} commits older than 0 days" in out
    assert len(ql.open_lake(lake.url).history()) == 2


KILLS = 25
PRUNE = """
import sys
from datetime import timedelta
import qmri_lake as ql
lake = ql.open_lake(sys.argv[1])
print("ready", flush=True)
lake.prune(older_than=timedelta(0))
print("done", flush=True)
"""


@pytest.mark.accept
@pytest.mark.timeout(600)
def test_prune__killed_at_any_moment(lake: ql.Lake, tmp_path: Path, judge: Judge) -> None:
    newest, tagged = values(lake), values(ql.open_lake(lake.url, ref="v1"))
    rng = np.random.default_rng(0)
    different = finished = 0
    for number in range(KILLS):
        url = str(shutil.copytree(lake.url, tmp_path / f"{number}.lake"))
        command = [sys.executable, "-c", PRUNE, url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
            finished += process.stdout.read() == "done\n"
        ql.open_lake(url).prune(older_than=NOW)  # which finishes what was begun
        for known, opened in (
            (newest, ql.open_lake(url)),
            (tagged, ql.open_lake(url, ref="v1")),
        ):
            found = values(opened)
            different += sum(
                not np.array_equal(value, found[path], equal_nan=value.dtype.kind == "f")
                for path, value in known.items()
            )
        assert ql.open_lake(url).doctor(older_than=NOW).healthy
    judge(
        f"prune / killed {KILLS} times, and started again",
        required="0 arrays of the newest and of the tagged commit differ",
        measured=f"{different} differ; {finished} had finished before",
        passed=different == 0,
    )


def test_prune__an_open_lake_lists_and_prunes_the_kept_commits(lake: ql.Lake) -> None:
    """Icechunk caches the commits of an open repository, and a pruning changes their parents."""
    other = ql.open_lake(lake.url)
    assert len(other.history()) == len(lake.history())
    lake.prune(older_than=NOW)
    kept = lake.history()
    assert other.refresh().history().equals(kept)
    third = ql.open_lake(lake.url)
    third.history()
    lake.run("t2", within="all", variant="b", r2_min=0.6)
    lake.prune(older_than=NOW)
    assert third.prune(older_than=NOW, dry_run=True).removed == ()
    assert third.refresh().history().equals(lake.history())
