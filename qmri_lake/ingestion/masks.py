"""Import external masks in common formats: as references, or as the masks of the lake.

A file is reordered to the grid of the DESS image of its exam. An exam without an image can be
created from the grid of its mask. Affine and extent are then written, and `ingest_dess` stays
pending.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import icechunk
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.core.disk_full import disk_full
from qmri_lake.core.text import counted
from qmri_lake.errors import (
    InputError,
    Problem,
    QmriLakeError,
    Reason,
    RunError,
    printable,
    problem_table,
)
from qmri_lake.execution.cluster import running
from qmri_lake.execution.exam_io import write_exam
from qmri_lake.execution.run import Listener, TaskResult, execute
from qmri_lake.lake.lake import Lake, create_lake, existing_lake
from qmri_lake.masks.content import Form
from qmri_lake.masks.exam_match import PartialKey, find_exam, read_partial_key
from qmri_lake.masks.files import read_mask
from qmri_lake.masks.grids import ExamGrid
from qmri_lake.masks.label_tables import Labels, find_source
from qmri_lake.masks.recognition import find_mask_files, recognise
from qmri_lake.masks.sources import Source
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.exam_index import KEYS
from qmri_lake.schema.groups import GROUPS
from qmri_lake.schema.variable import sizes_of
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit, translated_errors
from qmri_lake.store.runs import new_record
from qmri_lake.store.status import declare_status, read_status
from qmri_lake.store.transaction import append_exams, declare, exam_count, group_sizes
from qmri_lake.tissues import BONE, CARTILAGE

__all__ = ["MaskResult", "ingest_masks"]

Into = Literal["reference", "mask"]

MASK_VARIABLES: Mapping[str, Mapping[str, str]] = {
    "reference": {
        "import_reference_bone": "reference_bone",
        "import_reference_cartilage": "reference_cartilage",
    },
    "mask": {"segment_bones": "bone", "segment_cartilage": "cartilage"},
}
"""For each step that is marked as done, the variable of group dess that is written."""


@dataclass(frozen=True)
class MaskResult:
    """Result of an import of masks: number of imported masks, and problems."""

    lake: Lake
    imported: int
    """Number of exams whose mask was imported."""
    present: int
    """Number of files of exams that already had a mask. These masks were not replaced."""
    made: tuple[str, ...]
    """Exams created from the grid of their mask; they have no image."""
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    """Notes on tissues that the masks do not contain."""

    def table(self) -> pd.DataFrame:
        """Return the problems as a table: reason, where, found, expected, todo, exam."""
        return problem_table(self.problems)

    def __str__(self) -> str:
        text = f"imported masks of {counted(self.imported, 'exam')}"
        text += f"; {self.present} already present" if self.present else ""
        if self.made:
            text += f"; {', '.join(self.made)} created from the grid of its mask, without an image"
        return f"{text}; {counted(len(self.problems), 'problem')}"


@dataclass(frozen=True, slots=True)
class _FileTask:
    row: int
    exam: str
    steps: tuple[str, ...]
    file: str
    where: str
    source: Source
    variables: Mapping[str, str]
    """Name of the variable by step."""
    grid: ExamGrid | None
    """Grid of the image; None for an exam that is created from the grid of the mask."""
    form: Form | None
    replaced: tuple[str, ...] = ()


def ingest_masks(
    source: str | os.PathLike[str],
    lake: Lake | str | os.PathLike[str],
    *,
    labels: Labels,
    into: Into = "reference",
    patient: int | None = None,
    timepoint: int | None = None,
    knee: str | None = None,
    form: Form | None = None,
    profile: str | None = None,
    cluster: object = None,
    commit_every: int = 16,
    listeners: Sequence[Listener] = (),
) -> MaskResult:
    """Import external masks.

    Parameters
    ----------
    source : path
        A file, or a folder of files, in a format of `read_mask`. In a folder, the name or the
        content determines whether a file is a mask; renamed files and unfinished downloads are
        included.
    lake : Lake or URL
        If there is no lake at the URL, a lake is created, provided that `patient`, `timepoint` and
        `knee` identify the exam of the mask.
    labels : str, path or mapping
        Meaning of the label numbers; see `qmri_lake.masks.label_tables.find_source`.
    into : {"reference", "mask"}
        ``"reference"`` writes ``dess/reference_bone`` and ``dess/reference_cartilage``, with which
        networks are trained and evaluated. ``"mask"`` writes ``dess/bone`` and ``dess/cartilage``,
        and marks `segment_bones` and `segment_cartilage` as done. An array is not written if the
        table of labels contains none of its tissues.
    patient, timepoint, knee : optional
        Identify the exam if the file name does not. A file name can contain an exam key
        (``9000798-024m-right.nii.gz``), or patient number, visit and side
        (``9000798_V03_RIGHT.nrrd``). If all three are given and there is no image of the exam, the
        exam is created from the grid of the mask.
    form : {"sform", "qform"}, optional
        Affine to use of NIfTI files whose sform and qform differ; see `read_mask`.
    profile : {"oai"}, optional
        Array sizes of a new lake. Default: the sizes of the mask.
    cluster, commit_every, listeners : optional
        As in `Lake.run`. One exam is one task.

    Returns
    -------
    MaskResult
        Its ``problems`` list each file that could not be used, with the reason and what to do. All
        other files have been imported.

    Raises
    ------
    InputError
        If there is no mask file, if the table of labels cannot be read, or if there is no lake and
        no mask from which a lake can be created.
    """
    table = find_source(labels)
    if into not in MASK_VARIABLES:
        raise RunError(
            f"into = {into!r}", expected=f"one of {', '.join(MASK_VARIABLES)}", where="ingest_masks"
        )
    if form not in (None, *get_args(Form)):
        raise RunError(f"form = {form!r}", expected="sform or qform", where="ingest_masks")
    options = _check_key(PartialKey(patient, timepoint, knee))
    files, ignored = find_mask_files(source)
    url = lake.url if isinstance(lake, Lake) else os.fspath(lake)
    target = lake if isinstance(lake, Lake) else existing_lake(url)
    if target is None:
        _check_new_lake(url, options, files)
        _read_own_grid(files[0][0], table, form)  # so that an unreadable mask leaves no empty lake
        target = create_lake(url, profile=profile)
    with target.writing():
        planned = _ImportPlan(target, table, MASK_VARIABLES[into], options, form)
        for path, where in files:
            planned.add_file(path, where)
        imported = 0
        if planned.tasks:
            imported = _execute(target, planned, table, into, cluster, commit_every, listeners)
    notes = []
    if ignored:
        kinds = ", ".join(sorted({Path(name).suffix or "no suffix" for name in ignored}))
        notes.append(f"{counted(len(ignored), 'other file')} ignored ({kinds})")
    if missing := table.missing_tissues:
        notes.append(f"{table.name} has no {', '.join(missing)}: background in these masks")
    return MaskResult(
        target,
        imported,
        planned.present,
        tuple(planned.made),
        tuple(planned.problems),
        tuple(notes),
    )


class _ImportPlan:
    """Tasks for the files that can be imported, and problems of all other files."""

    def __init__(
        self,
        lake: Lake,
        table: Source,
        variables: Mapping[str, str],
        options: PartialKey,
        form: Form | None,
    ) -> None:
        self.lake, self.table, self.options, self.form = lake, table, options, form
        flags = dict(zip(variables, (BONE, CARTILAGE), strict=True))
        self.variables = {s: name for s, name in variables.items() if table.has(flags[s])}
        self.usable = {s: read_status(lake.root, s, len(lake)).usable for s in self.variables}
        has_dess = "dess" in lake.root
        self.extent = lake.root["dess/extent"][:] if has_dess else np.full((len(lake), 3), -1)
        self.affine = lake.root["dess/affine"][:] if has_dess else np.empty((0, 4, 4))
        self.exams = lake.exams.iloc[np.flatnonzero((self.extent > 0).all(axis=1))]
        self.tasks: list[_FileTask] = []
        self.problems: list[Problem] = []
        self.made: list[str] = []
        self.present = 0
        self._files: dict[str, str] = {}

    def add_file(self, path: str, where: str) -> None:
        """Add a task for a file, or a problem."""
        exam = ""
        try:
            key = read_partial_key(where, self.options, timepoint=self.table.timepoint)
            exam = key.exam
            has_position = bool(key.exam) or recognise(path).has_position
            row = find_exam(where, key, self.exams, has_position=has_position)
            exam = str(self.lake.exams["exam"].iloc[row]) if row is not None else exam
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
        except InputError as error:
            self.problems.append(error.problem(error.where.replace(printable(path), where), exam))

    def _add(self, path: str, where: str, exam: str, row: int | None) -> None:
        steps = tuple(s for s in self.variables if row is None or not self.usable[s][row])
        if not steps:
            self.present += 1
            return
        grid = None
        if row is None:
            row = self._add_exam(path, where, exam)
        else:
            slices, rows, columns = (int(n) for n in self.extent[row])
            grid = ExamGrid(
                (slices, rows, columns), self.affine[row], str(self.lake.exams["knee"].iloc[row])
            )
        self.tasks.append(
            _FileTask(row, exam, steps, path, where, self.table, self.variables, grid, self.form)
        )

    def _add_exam(self, path: str, where: str, exam: str) -> int:
        """Add an exam without an image and its arrays; return its row."""
        if not self.options.exam:
            raise InputError(
                f"no DESS image of {exam} in the lake",
                expected="an exam of the lake",
                where=where,
                todo="Ingest the image first, or create the exam from the grid of the mask with "
                "--patient, --timepoint and --knee.",
                reason=Reason.ABSENT_EXAM,
            )
        shape = _read_own_grid(path, self.table, self.form).shape
        sizes = group_sizes(self.lake.root, "dess")
        if not sizes and self.lake.profile:
            sizes = GROUPS.profile_sizes(self.lake.profile, "dess")
        largest = tuple(sizes.values()) or shape
        if any(n > m for n, m in zip(shape, largest, strict=True)):
            raise InputError(
                f"a mask of {' x '.join(map(str, shape))}",
                expected=f"at most {' x '.join(map(str, largest))}, the array size of the lake",
                where=where,
                todo="Import the mask into a new lake.",
                reason=Reason.LARGER_THAN_LAKE,
            )
        keys = pd.DataFrame([[getattr(self.options, name) for name in KEYS]], columns=list(KEYS))

        def build(session: icechunk.Session) -> None:
            append_exams(session, keys)
            root = open_root(session.store, "r+")
            # All arrays are declared, for an image that is ingested later.
            declare(root, REGISTRY.variables_of("ingest_dess"), sizes or sizes_of("dess", shape))
            declare_status(root, "ingest_dess", exam_count(root))

        with translated_errors(self.lake.url):
            commit(self.lake.repo, build, "Add an exam with a mask and without an image")
        self.lake.refresh()
        self.made.append(exam)
        return int(np.flatnonzero(self.lake.exams["exam"] == exam)[0])


def _execute(
    lake: Lake,
    planned: _ImportPlan,
    table: Source,
    into: str,
    cluster: object,
    commit_every: int,
    listeners: Sequence[Listener],
) -> int:
    needed = [s for s in planned.variables if any(s in task.steps for task in planned.tasks)]

    def prepare(session: icechunk.Session) -> None:
        root = open_root(session.store, "r+")
        for step in needed:
            declare(root, [REGISTRY[f"dess/{planned.variables[step]}"]])
            declare_status(root, step, exam_count(root))

    record = new_record("import", lake.snapshot)
    numbers = {str(number): tissue for number, tissue in table.tissues.items()}
    record["parameters"] = {
        "labels": table.name,
        "tissues": {**numbers, **table.named},
        "into": into,
    }
    if planned.form is not None:
        record["parameters"]["form"] = planned.form
    with running(cluster) as client:
        done = execute(
            lake,
            "import",
            record,
            prepare,
            _import_file,
            planned.tasks,
            cluster=client,
            commit_every=commit_every,
            listeners=listeners,
        )
    planned.problems += done.problems
    return done.counts["done"] + done.counts["flagged"]


def _import_file(fork: icechunk.ForkSession, task: _FileTask) -> TaskResult:
    """Read a file, reorder it to the grid of its exam and write the mask, as one task."""
    result = TaskResult(task.row, task.exam, {}, fork)
    root = open_root(fork.store, "r+")
    try:
        mask = read_mask(task.file, task.source, like=task.grid, form=task.form)
    except InputError as error:
        result.problems.append(
            error.problem(error.where.replace(printable(task.file), task.where), task.exam)
        )
        return result
    for step in task.steps:
        name = task.variables[step]
        values = mask.bone if name.endswith("bone") else mask.cartilage
        if values is None:
            continue
        try:
            _check_not_empty(values, name, task.where)
            write_exam(root, [REGISTRY[f"dess/{name}"]], {name: values}, task.row, task.exam)
        except QmriLakeError as error:
            result.problems.append(_problem(error, task))
        except Exception as error:
            full = disk_full(error, task.exam)
            if full is not None:
                raise full from error
            raise
        else:
            result.states[step] = ("flagged", "; ".join(mask.notes)) if mask.notes else ("done", "")
    if task.grid is None and result.states:
        extent = np.array(mask.labels.shape, np.int16)
        result.small |= {"dess/affine": mask.affine, "dess/extent": extent}
    return result


def _check_not_empty(values: NDArray[np.uint8], name: str, where: str) -> None:
    if not values.any():
        raise InputError(
            f"no voxel of any tissue of {name}",
            expected="a mask with at least one tissue",
            where=where,
            todo="Check the table of labels. If these tissues were not segmented, remove them from "
            "the table: an empty mask would mean that the knee does not have them.",
            reason=Reason.EMPTY_MASK,
        )


def _problem(error: QmriLakeError, task: _FileTask) -> Problem:
    reason = error.reason or Reason.UNREADABLE_VALUE
    return Problem(reason, task.where, error.found, error.expected, error.todo, task.exam)


def _read_own_grid(path: str, table: Source, form: Form | None) -> ExamGrid:
    """Read a mask whose exam does not exist; raise all errors before the exam is created."""
    mask = read_mask(path, table, form=form)
    if mask.cropped:
        raise InputError(
            "a cropped mask, which does not store the size of its image",
            expected="a mask of the whole image, or an exam with an image",
            where=path,
            todo="Ingest the DESS series of the exam first, or export the whole mask.",
            reason=Reason.GRID_MISMATCH,
        )
    arrays = {"bone": mask.bone, "cartilage": mask.cartilage}
    given = {name: values for name, values in arrays.items() if values is not None}
    if not any(values.any() for values in given.values()):
        _check_not_empty(next(iter(given.values())), " and ".join(given), path)
    slices, rows, columns = mask.labels.shape
    return ExamGrid((slices, rows, columns), mask.affine)


def _check_key(options: PartialKey) -> PartialKey:
    if options.knee not in (None, "left", "right"):
        raise RunError(f"knee = {options.knee!r}", expected="left or right", where="ingest_masks")
    for name in ("patient", "timepoint"):
        value = getattr(options, name)
        if value is not None and value < 0:
            raise RunError(f"{name} = {value}", expected="at least 0", where="ingest_masks")
    return options


def _check_new_lake(url: str, options: PartialKey, files: Sequence[tuple[str, str]]) -> None:
    if options.exam and len(files) == 1:
        return
    raise InputError(
        f"no lake for {counted(len(files), 'mask')}",
        expected="a lake with the images, or one mask with patient, timepoint and knee",
        where=url,
        todo="Create a lake from the images: qmri-lake ingest.",
        reason=Reason.ABSENT_EXAM,
    )
