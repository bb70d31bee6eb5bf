"""Copy the volumes and maps of one exam into a derived lake, on a worker."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import icechunk

from qmri_lake.core.disk_full import disk_full
from qmri_lake.errors import RunError
from qmri_lake.execution.run import TaskResult
from qmri_lake.lake.derived_products import STEP
from qmri_lake.store.arrays import Node, open_root
from qmri_lake.store.snapshot import open_snapshot

__all__ = ["CopyExam", "CopyTask"]


@dataclass(frozen=True, slots=True)
class CopyTask:
    """The copy of one exam: its rows and keys in both lakes, and the arrays that it has."""

    row: int
    exam: str
    source_row: int
    source_exam: str
    paths: tuple[str, ...]
    """Paths of the volumes and maps that the exam has."""
    steps: tuple[str, ...] = (STEP,)
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CopyExam:
    """Function that copies one exam on a worker."""

    location: str
    snapshot: str

    def __call__(self, fork: icechunk.ForkSession, task: CopyTask) -> TaskResult:
        """Copy an exam's volumes and maps as whole shards."""
        source, root = _opened(self.location, self.snapshot), open_root(fork.store, "r+")
        old, new = source["exam"][task.source_row], root["exam"][task.row]
        if old != task.source_exam or new != task.exam:
            raise RunError(
                f"the rows of {task.exam} contain other exams",
                expected="the order of exams at the start of the derivation",
                where=STEP,
                todo="Derive into another folder.",
            )
        path = ""
        try:
            for path in task.paths:
                root[path][task.row] = source[path][task.source_row]
        except Exception as error:  # a missing or damaged chunk must not stop the other exams
            full = disk_full(error, task.exam)
            if full is not None:
                raise full from error
            # The message omits the text of the error, which would reveal the folder of the source.
            message = f"unreadable chunk of {path} ({type(error).__name__})"
            return TaskResult(task.row, task.exam, {STEP: ("failed", message)})
        return TaskResult(task.row, task.exam, {STEP: ("done", "")}, fork)


@functools.lru_cache(maxsize=2)
def _opened(location: str, snapshot: str) -> Node:
    """Open the source, once in each worker."""
    try:
        return open_snapshot(location, snapshot).root
    except Exception as error:  # end the run; otherwise, every exam would fail with this error
        raise RunError(
            f"the source cannot be opened: {type(error).__name__}",
            expected=f"the lake at {snapshot}, accessible from each worker",
            where=STEP,
        ) from error
