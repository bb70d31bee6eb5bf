"""A run or an ingest that finds no room says so, keeps what was committed, and goes on later.

The limits are the operating system's: on the size of a file, and, where this process may mount
one, a small file system.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qmri_lake.lake import Lake, open_lake
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.status import read_status
from tests.fixtures import array_lake, msme_signal
from tests.oai.conftest import write

SHAPE = (8, 48, 48)
LIMITED = """
import os, resource, sys
import numpy as np
import qmri_lake as ql
what, limit, *arguments = sys.argv[1:]
# Compiled code is kept in a file too: before the limit.
ql.relaxometry.fit_mono_exponential(np.ones((4, 2), np.float32), [10.0, 20.0, 30.0, 40.0])
if int(limit):
    # Python ignores the signal that comes with this limit, so that the write fails.
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
try:
    if what == "run":
        ql.open_lake(*arguments).run("t2", within="all", commit_every=3)
    else:
        ql.ingest(*arguments, commit_every=1)
except ql.errors.DiskFullError as error:
    print(error, flush=True)
    # At once: while Python ends, a thread of the failed write that still waits for it may abort the
    # process, after all that is looked at here.
    os._exit(3)
"""


def run_limited(what: str, limit: int, *arguments: object) -> tuple[int, str]:
    """Run in a process whose files can't grow beyond a limit [bytes]; 0 is no limit."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, what, str(limit), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode in (0, 3), done.stderr
    return done.returncode, done.stdout.strip()


def judge_full(judge: Any, what: str, said: str, kept: int, then: int, total: int) -> None:
    lines = len(said.splitlines())
    judge(
        f"full disk / {what}",
        required="one line; committed exams stay; complete after the limit is lifted",
        measured=f"{lines} line; {kept} of {total} kept; {then} of {total} after",
        passed=lines == 1 and 0 < kept < total == then,
    )


def done(lake: Lake, step: str) -> list[int]:
    """Return the rows of the exams that are done in the newest commit."""
    return np.flatnonzero(read_status(lake.refresh().root, step, len(lake)).usable).tolist()


def lake_with_blanks(url: Path, count: int, blank: int) -> Lake:
    """Exams of which the first have images of zeros, whose maps need little room."""
    lake = array_lake(url, count, SHAPE)

    def erase(session: Any) -> None:
        root = open_root(session.store, "r+")
        for row in range(blank):
            root["msme/image"][row] = 0

    commit(lake.repo, erase, "Erase images")
    return lake.refresh()


def assert_maps(lake: Lake, row: int) -> None:
    t2 = msme_signal(row, (SHAPE[0] - row % 2, *SHAPE[1:]))[1]
    np.testing.assert_allclose(lake.root["msme/t2"][row, : len(t2)], t2, rtol=1e-4)


@pytest.mark.accept
def test_run__file_size_limit(tmp_path: Path, judge: Any) -> None:
    lake = lake_with_blanks(tmp_path / "a.lake", 6, blank=4)
    code, said = run_limited("run", 40_000, lake.url)
    kept = done(lake, "t2")
    assert code == 3
    assert "a limit on file size" in said
    assert "Free some space and start again" in said
    assert kept == [0, 1, 2, 3]  # three by a commit before, the fourth when it stopped
    status = lake.root["msme/t2_status"]
    assert (status[0] != status.fill_value).all()
    assert (status[4] == status.fill_value).all()
    code, _ = run_limited("run", 0, lake.url)
    assert code == 0
    then = done(lake, "t2")
    for row in (4, 5):
        assert_maps(lake, row)
    judge_full(judge, "a run, file size limit", said, len(kept), len(then), 6)


@pytest.mark.accept
def test_ingest__file_size_limit(tmp_path: Path, judge: Any) -> None:
    source, url = tmp_path / "source", tmp_path / "a.lake"
    for number, shape in ((1, (8, 6)), (2, (8, 6)), (3, (128, 128))):
        write(source / str(number), patient=f"900000{number}", slices=16, shape=shape)
    code, said = run_limited("ingest", 100_000, source, url)
    lake = open_lake(str(url))
    kept = done(lake, "ingest_dess")
    assert code == 3
    assert "a limit on file size" in said
    assert kept == [0, 1]
    before = lake.root["dess/image"][:2]
    code, _ = run_limited("ingest", 0, source, url)
    assert code == 0
    then = done(lake, "ingest_dess")
    np.testing.assert_array_equal(lake.root["dess/image"][:2], before)
    assert np.isfinite(lake.root["dess/image"][2]).all()
    assert len(lake) == 3
    judge_full(judge, "an ingest, file size limit", said, len(kept), len(then), 3)


def may_mount() -> bool:
    """Whether this process may mount a file system: root outside most containers."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


if may_mount():  # a second way to the same error; the tests above need no rights

    @pytest.fixture
    def disk(tmp_path: Path) -> Iterator[Path]:
        """A file system of 16 MiB."""
        folder = tmp_path / "disk"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], check=True)
        yield folder
        subprocess.run(["umount", "--lazy", folder], check=True)

    @pytest.mark.slow
    def test_run__small_disk(disk: Path, judge: Any) -> None:
        lake = lake_with_blanks(disk / "a.lake", 8, blank=4)
        ballast = disk / "ballast"
        with pytest.raises(OSError, match="No space left"):
            ballast.write_bytes(bytes(2**24))
        with ballast.open("r+b") as file:
            file.truncate(ballast.stat().st_size - 250_000)
        code, said = run_limited("run", 0, lake.url)
        kept = done(lake, "t2")
        assert code == 3
        assert "no space left" in said
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        code, _ = run_limited("run", 0, lake.url)
        assert code == 0
        then = done(lake, "t2")
        for row in range(4, 8):
            assert_maps(lake, row)
        judge_full(judge, "a run, small file system", said, len(kept), len(then), 8)
