"""Plan of an import of masks: the exam of each file, and exams that are created from masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import icechunk
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, Problem, Reason, printable
from qmri_lake.execution.dask_types import DaskClient
from qmri_lake.execution.task_queue import map_tasks
from qmri_lake.ingestion.mask_tasks import FileTask, check_file, lost_file
from qmri_lake.lake.lake import Lake
from qmri_lake.lake.study_ids import write_study_ids
from qmri_lake.masks.content import Form
from qmri_lake.masks.exam_match import PartialKey, find_exam
from qmri_lake.masks.grids import ExamGrid
from qmri_lake.masks.recognition import recognise
from qmri_lake.masks.sources import Source
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.exam_index import KEYS
from qmri_lake.schema.groups import GROUPS
from qmri_lake.schema.variable import sizes_of
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit, translated_errors
from qmri_lake.store.status import declare_status, read_status
from qmri_lake.store.transaction import append_exams, declare, exam_count, group_sizes
from qmri_lake.tissues import BONE, CARTILAGE

__all__ = ["Details", "ImportPlan", "Progress", "check_files", "create_exams"]

Progress = Callable[[int, int], None]
"""Called with the number of files that were read, and with their total."""


class Details:
    """What all files of an import have in common."""

    def __init__(
        self, table: Source, variables: Mapping[str, str], form: Form | None, *, create: bool
    ) -> None:
        self.table, self.form, self.create = table, form, create
        flags = dict(zip(variables, (BONE, CARTILAGE), strict=True))
        self.variables = {s: name for s, name in variables.items() if table.has(flags[s])}
        """Name of the variable by step; only arrays of which the table has a tissue."""

    def new_task(self, exam: str, path: str, where: str) -> FileTask:
        """Return the task of a file whose exam does not exist."""
        steps = tuple(self.variables)
        return FileTask(-1, exam, steps, path, where, self.table, self.variables, None, self.form)


class ImportPlan:
    """Tasks for the files that can be imported, and problems of all other files.

    No file is read, except its first bytes if its name does not identify the exam completely.
    """

    def __init__(self, lake: Lake | None, details: Details) -> None:
        self.details = details
        self.usable: dict[str, NDArray[np.bool_]] = {}
        self.extent, self.affine = np.empty((0, 3), np.int16), np.empty((0, 4, 4))
        self.known = pd.DataFrame(columns=["exam", *KEYS])
        """All exams of the lake."""
        if lake is not None:
            self.known = lake.exams
            self.extent = np.full((len(lake), 3), -1, np.int16)
            for step in details.variables:
                self.usable[step] = read_status(lake.root, step, len(lake)).usable
        if lake is not None and "dess" in lake.root:
            self.extent, self.affine = lake.root["dess/extent"][:], lake.root["dess/affine"][:]
        self.exams = self.known.iloc[np.flatnonzero((self.extent > 0).all(axis=1))]
        self.tasks: list[FileTask] = []
        """Masks of exams that have a grid."""
        self.new: list[FileTask] = []
        """Masks of exams that have no image, from whose grid the exam is created."""
        self.keys: dict[str, PartialKey] = {}
        """Complete key of each new exam."""
        self.study_ids: dict[str, str] = {}
        """Identifier of the patient of each new exam; "" if the number says the same."""
        self.made: list[str] = []
        """Exams that were created."""
        self.problems: list[Problem] = []
        self.present = 0
        self._files: dict[str, str] = {}

    def add(
        self, path: str, where: str, read_key: Callable[[], PartialKey], study_id: str = ""
    ) -> None:
        """Add a task for a file, or a problem.

        Parameters
        ----------
        path, where : str
            Path of the file, and its path relative to the folder.
        read_key : callable
            Returns what is known of the exam; its `InputError` is listed as a problem.
        study_id : str
            Identifier of the patient, if the number does not say it.
        """
        exam = ""
        try:
            key = read_key()
            exam = key.exam
            has_position = bool(exam) or recognise(path).has_position
            row = find_exam(where, key, self.exams, has_position=has_position)
            exam = str(self.known["exam"].iloc[row]) if row is not None else exam
            if exam in self._files:
                raise InputError(
                    f"a second mask of {exam}, after {self._files[exam]}",
                    expected="one file for each exam",
                    where=where,
                    todo="Keep one of the files. An imported mask is not replaced.",
                    reason=Reason.OTHER_SERIES,
                )
            self._files[exam] = where
            self._add(path, where, exam, row)
            if row is None:
                self.keys[exam], self.study_ids[exam] = key, study_id
        except InputError as error:
            self.problems.append(error.problem(error.where.replace(printable(path), where), exam))

    def _add(self, path: str, where: str, exam: str, row: int | None) -> None:
        task = self.details.new_task(exam, path, where)
        if row is None:
            if not self.details.create:
                raise InputError(
                    f"no DESS image of {exam} in the lake",
                    expected="an exam of the lake",
                    where=where,
                    todo="Ingest the image first, or create the exam from the grid of the mask "
                    "with --create.",
                    reason=Reason.ABSENT_EXAM,
                )
            self.new.append(task)
            return
        steps = tuple(step for step in task.steps if not self.usable[step][row])
        if not steps:
            self.present += 1
            return
        slices, rows, columns = (int(n) for n in self.extent[row])
        knee = str(self.known["knee"].iloc[row])
        grid = ExamGrid((slices, rows, columns), self.affine[row], knee)
        self.tasks.append(replace(task, row=row, steps=steps, grid=grid))


def check_files(
    tasks: Sequence[FileTask], cluster: DaskClient | None, progress: Progress | None
) -> tuple[list[FileTask], list[Problem]]:
    """Read masks whose exams do not exist; return the tasks with their masks, and problems."""
    checked: list[FileTask] = []
    problems: list[Problem] = []
    results = map_tasks(check_file, None, tasks, cluster=cluster, lost=lost_file)
    for count, result in enumerate(results, 1):
        problems += result.problems
        if result.task.checked is not None:
            checked.append(result.task)
        if progress is not None:
            progress(count, len(tasks))
    order = {task.exam: n for n, task in enumerate(tasks)}
    return sorted(checked, key=lambda task: order[task.exam]), problems


def create_exams(
    lake: Lake,
    tasks: Sequence[FileTask],
    keys: Mapping[str, PartialKey],
    study_ids: Mapping[str, str],
) -> tuple[list[FileTask], list[Problem]]:
    """Add exams without an image and their arrays, all in one commit.

    Parameters
    ----------
    lake : Lake
    tasks : sequence of FileTask
        Tasks from `check_files`.
    keys : mapping of str to PartialKey
        Complete key by exam.
    study_ids : mapping of str to str
        Identifier of the patient by exam; "" if the number says the same.

    Returns
    -------
    tasks : list of FileTask
        The tasks with the rows of their exams.
    problems : list of Problem
        Masks that are larger than the arrays of the lake; their exams are not created.
    """
    shapes = {task.exam: task.checked.shape for task in tasks if task.checked is not None}
    sizes = group_sizes(lake.root, "dess") or GROUPS.profile_sizes(lake.profile, "dess")
    largest = tuple(sizes.values()) or tuple(int(n) for n in np.max([*shapes.values()], axis=0))
    kept = [task for task in tasks if not _exceeds(shapes[task.exam], largest)]
    problems = [_too_large(t, shapes[t.exam], largest) for t in tasks if t not in kept]
    if not kept:
        return [], problems
    rows = [[getattr(keys[task.exam], name) for name in KEYS] for task in kept]
    exams = pd.DataFrame(rows, columns=list(KEYS))

    def build(session: icechunk.Session) -> None:
        append_exams(session, exams)
        root = open_root(session.store, "r+")
        # All arrays are declared, for images that are ingested later.
        declare(root, REGISTRY.variables_of("ingest_dess"), sizes or sizes_of("dess", largest))
        declare_status(root, "ingest_dess", exam_count(root))
        write_study_ids(session, {task.exam: study_ids.get(task.exam, "") for task in kept})

    text = "an exam with a mask" if len(kept) == 1 else f"{counted(len(kept), 'exam')} with masks"
    with translated_errors(lake.url):
        commit(lake.repo, build, f"Add {text} and without an image")
    lake.refresh()
    position = {exam: row for row, exam in enumerate(lake.exams["exam"])}
    return [replace(task, row=position[task.exam]) for task in kept], problems


def _exceeds(shape: Sequence[int], largest: Sequence[int]) -> bool:
    return any(n > m for n, m in zip(shape, largest, strict=True))


def _too_large(task: FileTask, shape: Sequence[int], largest: Sequence[int]) -> Problem:
    return Problem(
        Reason.LARGER_THAN_LAKE,
        task.where,
        f"a mask of {' x '.join(map(str, shape))}",
        f"at most {' x '.join(map(str, largest))}, the array size of the lake",
        "Import the mask into a new lake.",
        task.exam,
    )
