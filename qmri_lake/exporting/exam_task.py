"""Export of one exam, on a worker: skip it if its files are intact, else write them."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

import icechunk

from qmri_lake.core.disk_full import disk_full
from qmri_lake.core.json_types import JsonObject
from qmri_lake.core.text import in_one_line, one_line
from qmri_lake.errors import DiskFullError, Problem, QmriLakeError, Reason
from qmri_lake.exporting.exam_content import ExamContent
from qmri_lake.exporting.format_declaration import Written
from qmri_lake.exporting.formats import FORMATS
from qmri_lake.exporting.manifest import digest_of, is_intact, remove_files
from qmri_lake.store.arrays import Node
from qmri_lake.store.snapshot import open_snapshot

__all__ = ["ExportExam", "ExportTask", "Outcome", "failed"]


@dataclass(frozen=True, slots=True)
class ExportTask:
    """The files of one exam."""

    row: int
    exam: str
    parts: tuple[tuple[str, tuple[str, ...]], ...]
    """Name of each file in the folder, without its suffix, and the paths of its variables."""
    fingerprint: JsonObject
    """What the files depend on: the runs of all variables, and the mark of synthetic exams."""
    synthetic: bool
    previous: JsonObject | None
    """Record of an earlier export of the exam."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of one exam."""

    exam: str
    state: str
    """``written``, ``unchanged`` or ``failed``."""
    record: JsonObject = field(default_factory=dict)
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class ExportExam:
    """Function that exports one exam."""

    location: str
    snapshot: str
    form: str
    out: str

    def __call__(self, fork: icechunk.ForkSession | None, task: ExportTask) -> Outcome:
        """Write the files of an exam, each of them atomically.

        Raises
        ------
        DiskFullError
            If the disk is full. All other errors become the problem of the exam.
        """
        out, before = Path(self.out), task.previous
        try:
            if (
                before is not None
                and before["fingerprint"] == task.fingerprint
                and is_intact(out, before["files"])
            ):
                return Outcome(task.exam, "unchanged", before)
            return Outcome(task.exam, "written", self._write(out, task))
        except Exception as error:  # one exam that cannot be exported must not stop the others
            full = disk_full(error, self.out)
            if full is not None:
                raise full from error
            return failed(task, error)

    def _write(self, out: Path, task: ExportTask) -> JsonObject:
        content = ExamContent(
            _opened(self.location, self.snapshot),
            task.row,
            location=self.location,
            snapshot=self.snapshot,
            synthetic=task.synthetic,
        )
        writer = FORMATS[self.form].writer
        assert writer is not None  # tables are written for all exams at once
        total = Written()
        for stem, paths in task.parts:
            target = out / stem
            target.parent.mkdir(parents=True, exist_ok=True)
            part = writer(content, paths, target)
            total.files += part.files
            total.losses += part.losses
            total.left_out |= part.left_out
        files = {path.relative_to(out).as_posix(): digest_of(path) for path in total.files}
        if task.previous is not None:
            remove_files(out, set(task.previous["files"]) - set(files))
        return {
            "exam": task.exam,
            "fingerprint": task.fingerprint,
            "snapshot": self.snapshot,
            "files": files,
            "losses": sorted(set(total.losses)),
            "left_out": total.left_out,
        }


def failed(task: ExportTask, error: BaseException) -> Outcome:
    """Return the outcome of an exam that could not be exported."""
    if isinstance(error, DiskFullError):
        raise error
    known = error if isinstance(error, QmriLakeError) else None
    problem = Problem(
        (known and known.reason) or Reason.NOT_EXPORTABLE,
        (known and known.where) or task.exam,
        known.found if known else in_one_line(one_line(error)),
        known.expected if known else "an exam that can be exported",
        known.todo if known else "The other exams are exported. Start again to retry.",
        task.exam,
    )
    return Outcome(task.exam, "failed", problem=problem)


@functools.lru_cache(maxsize=2)
def _opened(location: str, snapshot: str) -> Node:
    """Open the lake, once in each worker."""
    return open_snapshot(location, snapshot).root
