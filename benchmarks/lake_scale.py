"""Compare a lake of the size of the OAI with a lake of a hundredth of this size.

Usage: python -m benchmarks.lake_scale [COMMITS]

Opening, queries, plans and commits are measured. Times are CPU seconds of this process, the best of
five repeats; only their ratios are meaningful. The lakes are created in a temporary folder by
writing arrays directly.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import icechunk
import numpy as np
import pandas as pd

from qmri_lake.lake import Lake, create_lake, open_lake
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.variable import EXAM_CHUNK, sizes_of
from qmri_lake.steps.t2 import t2
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import BRANCH, commit
from qmri_lake.store.status import STATE, declare_status
from qmri_lake.store.transaction import Transaction, append_exams, declare, exam_count

EXAMS = 47_078
WITH_MSME = 21_118
TIMEPOINTS = np.array([0, 12, 24, 36, 48, 72, 96])
SHAPE = (2, 4, 4, 4)
"""Numbers of echoes, slices, rows and columns. They are small, since only the number of volumes is
relevant here."""

QUERY = "knee == 'right' and timepoint == 0 and kl >= 2"
BATCH = 64
"""Number of exams in one commit."""


def keys(count: int) -> pd.DataFrame:
    """Return the keys of both knees of each patient, at seven visits."""
    index = np.arange(count)
    return pd.DataFrame(
        {
            "patient": 9_000_000 + index // 14,
            "timepoint": TIMEPOINTS[(index // 2) % 7],
            "knee": np.array(["right", "left"], dtype=object)[index % 2],
        }
    )


def big_lake(path: Path, count: int = EXAMS, with_msme: int = WITH_MSME) -> Lake:
    """Create a lake of `count` exams; the first `with_msme` have images for the step t2."""
    lake = create_lake(str(path))
    rng = np.random.default_rng(0)
    clinical = [v for v in REGISTRY.group("clinical") if v.dtype != "string"]

    def build(session):
        append_exams(session, keys(count))
        root = open_root(session.store, "r+")
        declare(root, clinical)
        for variable in clinical:
            if variable.flags is not None:
                values = rng.choice([*variable.flags.values(), variable.fill], count)
            else:
                low, high = variable.valid_range
                values = rng.integers(low, high, count, endpoint=True).astype(float)
                values[rng.random(count) < 0.2] = np.nan
            root[variable.path][:] = values.astype(variable.dtype)
        declare(
            root,
            REGISTRY.variables_of("ingest_msme") + REGISTRY.variables_of("register"),
            sizes_of("msme", SHAPE),
        )
        declare(root, t2.writes)
        root["msme/extent"][:with_msme] = np.tile(SHAPE[1:], (with_msme, 1))
        root["msme/affine"][:with_msme] = np.tile(np.diag([3.5, 0.5, 0.5, 1.0]), (with_msme, 1, 1))
        root["msme/echo_time"][:with_msme] = np.tile([10.0, 20.0], (with_msme, 1))
        for row in range(0, with_msme, max(with_msme // 64, 1)):
            root["msme/image"][row] = rng.random(SHAPE)
        for step in ("ingest_msme", "register"):
            group = declare_status(root, step, count)
            group["state"][:with_msme] = STATE["done"]
            group["run"][:with_msme] = 1
        declare_status(root, "t2", count)
        Transaction(runs={1: {"step": "import", "parameters": {}, "version": "1"}})(session)

    commit(lake.repo, build, f"Add {count} exams")
    return lake.refresh()


def operations(url: str) -> dict[str, Callable[[], object]]:
    """Return the operations that are measured; each of them reopens the lake."""
    key = {"patient": 9_000_003, "timepoint": 24, "knee": "right"}
    return {
        "open, and a cohort by query": lambda: open_lake(url).cohort(QUERY),
        "one exam by its three keys": lambda: open_lake(url).load("msme", **key),
        "plan t2": lambda: open_lake(url).plan("t2"),
        "load all of msme, lazily": lambda: open_lake(url).load("msme"),
        "status and repr": lambda: repr(open_lake(url)),
    }


def best(action: Callable[[], object], repeats: int = 5) -> float:
    """Return the CPU time [s] of the fastest repeat."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        seconds.append(time.process_time() - start)
    return min(seconds)


def commit_times(lake: Lake, count: int) -> Iterator[float]:
    """Commit batches of 64 exams, each with image, small values and status; yield CPU times [s].

    Exams are written in order. After the last exam, writing continues with the first exam of the
    next variant of the image. Therefore the first and last commits change chunks that are equally
    full. All variants are declared before the first commit.
    """
    rng = np.random.default_rng(0)
    length = len(lake) // EXAM_CHUNK * EXAM_CHUNK
    variants = range(-(-count * BATCH // length))
    commit(lake.repo, lambda session: _declare_variants(session, variants), "Declare variants")
    for number in range(count):
        start, variant = number * BATCH % length, number * BATCH // length
        names = {v.name: f"{v.path}__v{variant}" for v in REGISTRY.variables_of("ingest_msme")}
        change = Transaction()
        fork = lake.repo.writable_session(BRANCH).fork()
        rows = np.arange(start, start + BATCH)
        images = open_root(fork.store, "r+")[names["image"]]
        images[start : start + BATCH] = rng.random((BATCH, *SHAPE), dtype=np.float32)
        change.forks.append(fork)
        change.set_column(names["extent"], rows, np.tile(SHAPE[1:], (BATCH, 1)))
        change.set_column(names["affine"], rows, rng.random((BATCH, 4, 4)))
        change.set_column(names["series_uid"], rows, np.array([f"1.2.3.{row}" for row in rows]))
        for row in rows.tolist():
            change.set_state(f"ingest_msme__v{variant}", row, "done", 1)
        begin = time.process_time()
        commit(lake.repo, change, f"Commit {number}")
        yield time.process_time() - begin


def _declare_variants(session: icechunk.Session, variants: range) -> None:
    root = open_root(session.store, "r+")
    for variant in variants:
        declare(root, REGISTRY.variables_of("ingest_msme"), variant=f"v{variant}")
        declare_status(root, f"ingest_msme__v{variant}", exam_count(root))


def growth(aged: Lake, fresh: Lake, count: int) -> tuple[float, float, float]:
    """Return the median times [s] of the first 100 commits, of their repeat, and of the last 100.

    The first 100 of `count` commits are repeated on the lake `fresh`. The repeat is interleaved
    with the last 100 commits, since the load of the machine may change in the minutes between the
    first and the last commits.
    """
    commits, again = commit_times(aged, count), commit_times(fresh, 100)
    first = list(itertools.islice(commits, count - 100))[:100]
    pairs = list(zip(again, commits, strict=True))
    return float(np.median(first)), *map(float, np.median(pairs, axis=0))


def report(folder: Path, commits: int) -> None:
    small = big_lake(folder / "small.lake", EXAMS // 100, WITH_MSME // 100)
    large = big_lake(folder / "large.lake")
    print(f"{'CPU seconds':30s} {len(small):>9,} {len(large):>9,} exams")
    few, many = operations(small.url), operations(large.url)
    for name in few:
        seconds = best(few[name]), best(many[name])
        print(
            f"  {name:30s} {seconds[0]:7.3f}   {seconds[1]:7.3f}   {seconds[1] / seconds[0]:5.2f}x"
        )
    _, first, last = growth(large, big_lake(folder / "fresh.lake"), commits)
    print(f"commit of {BATCH} exams, medians of the first and last 100 of {commits:,}, interleaved")
    print(f"  {'':30s} {first:7.4f}   {last:7.4f}   {last / first:5.2f}x")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        report(Path(name), int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
