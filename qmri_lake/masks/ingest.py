"""Masks made elsewhere, in anybody's format, into a lake: as a reference, or as the lake's masks.

A file is read onto the grid of its exam's DESS image. An exam that has no image can be made from
its mask's own grid: affine and extent are written, `ingest_dess` stays pending.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import icechunk
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.compute import running
from qmri_lake.errors import InputError, Problem, QmriLakeError, Reason, RunError
from qmri_lake.index import KEYS
from qmri_lake.ingestion import existing_lake, problem_table
from qmri_lake.lake import PROFILES, Lake, create_lake
from qmri_lake.masks.files import read_mask
from qmri_lake.masks.formats import suffix_of
from qmri_lake.masks.grids import Grid
from qmri_lake.masks.sources import Labels, Source, find_source
from qmri_lake.masks.whose import Claim, find_exam, read_claim
from qmri_lake.run import Listener, Outcome, execute
from qmri_lake.status import declare_status, new_run, read_status
from qmri_lake.steps import write_exam
from qmri_lake.storage import commit, disk_full, open_root, translated_errors
from qmri_lake.summary import counted
from qmri_lake.tissues import BONE, CARTILAGE
from qmri_lake.variables import REGISTRY, sizes_of
from qmri_lake.writing import append_exams, declare, exam_count, group_sizes

__all__ = ["MaskResult", "ingest_masks"]

Into = Literal["reference", "mask"]

PRODUCTS: Mapping[str, Mapping[str, str]] = {
    "reference": {
        "import_reference_bone": "reference_bone",
        "import_reference_cartilage": "reference_cartilage",
    },
    "mask": {"segment_bones": "bone", "segment_cartilage": "cartilage"},
}
"""What a mask becomes: variables of group dess, by the step that counts as done."""


@dataclass(frozen=True)
class MaskResult:
    """What an import of masks did, and what it could not do."""

    lake: Lake
    imported: int
    """Exams that got a mask."""
    present: int
    """Files of exams that had theirs before; nothing was replaced."""
    made: tuple[str, ...]
    """Exams that were made from their mask's own grid: they have no image."""
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    """What the masks don't say, in words."""

    def table(self) -> pd.DataFrame:
        """Problems as a table: reason, where, found, expected, todo, exam."""
        return problem_table(self.problems)

    def __str__(self) -> str:
        text = f"imported masks of {counted(self.imported, 'exam')}"
        text += f"; {self.present} had theirs before" if self.present else ""
        if self.made:
            text += f"; {', '.join(self.made)} made from its mask's own grid, without an image"
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
    grid: Grid | None
    """None for an exam that is made from the mask's own."""
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
    profile: str | None = None,
    cluster: Any = None,
    commit_every: int = 16,
    listeners: Sequence[Listener] = (),
) -> MaskResult:
    """Import masks that were made elsewhere.

    Parameters
    ----------
    source : path
        A file, or a folder of them: the formats of `read_mask`.
    lake : Lake or URL
        A URL without a lake is made into one, if `patient`, `timepoint` and `knee` say whose the
        mask is.
    labels : str, path or mapping
        What the numbers mean; see `qmri_lake.masks.sources.find_source`.
    into : {"reference", "mask"}
        ``"reference"`` writes ``dess/reference_bone`` and ``dess/reference_cartilage``, from which
        networks learn and by which they are judged. ``"mask"`` writes ``dess/bone`` and
        ``dess/cartilage``, and marks `segment_bones` and `segment_cartilage` as done. An array
        that the source has no tissue for is not written.
    patient, timepoint, knee : optional
        Whose it is, where the name of the file doesn't say: an exam key
        (``9000798-024m-right.nii.gz``), or number, visit and side (``9000798_V03_RIGHT.nrrd``).
        All three of an exam without an image make it from the mask's own grid.
    profile : {"oai"}, optional
        Array sizes of a new lake; default: those of the mask.
    cluster, commit_every, listeners : optional
        As in `Lake.run`: one task an exam.

    Returns
    -------
    MaskResult
        Its ``problems`` list each file that could not be used, with reason and what to do; the
        others have been imported.

    Raises
    ------
    InputError
        No mask file at all, labels that can't be read, or no lake and nothing to make one of.
    """
    table = find_source(labels)
    if into not in PRODUCTS:
        raise RunError(f"into={into!r}", expected=f"one of {', '.join(PRODUCTS)}",
                       where="ingest_masks")  # fmt: skip
    options = _checked(Claim(patient, timepoint, knee))
    files, ignored = _find_files(source)
    url = lake.url if isinstance(lake, Lake) else os.fspath(lake)
    target = lake if isinstance(lake, Lake) else existing_lake(url)
    if target is None:
        _refuse_new_lake(url, options, files)
        _own_grid(files[0][0], table)  # a mask that can't be read leaves no empty lake behind
        target = create_lake(url, profile=profile)
    with target.writing():
        planned = _Planned(target, table, PRODUCTS[into], options)
        for path, where in files:
            planned.take(path, where)
        imported = 0
        if planned.tasks:
            imported = _execute(target, planned, table, into, cluster, commit_every, listeners)
    notes = [f"{counted(ignored, 'other file')} passed over"] if ignored else []
    if table.lacks:
        notes.append(f"{table.name} has no {', '.join(table.lacks)}: background in these masks")
    return MaskResult(
        target, imported, planned.present, tuple(planned.made), tuple(planned.problems),
        tuple(notes),
    )  # fmt: skip


class _Planned:
    """Which file goes to which exam, and what stands in the way."""

    def __init__(
        self, lake: Lake, table: Source, variables: Mapping[str, str], options: Claim
    ) -> None:
        self.lake, self.table, self.options = lake, table, options
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
        self._taken: dict[str, str] = {}

    def take(self, path: str, where: str) -> None:
        """Make a task of a file, or a problem."""
        exam = ""
        try:
            claim = read_claim(where, self.options, timepoint=self.table.timepoint)
            exam = claim.exam
            row = find_exam(where, claim, self.exams)
            exam = str(self.lake.exams["exam"].iloc[row]) if row is not None else exam
            if exam in self._taken:
                raise InputError(
                    f"a second mask of {exam}, after {self._taken[exam]}",
                    expected="one file an exam",
                    where=where,
                    todo="Import the other one by itself; nothing that is there is replaced.",
                    reason=Reason.OTHER_SERIES,
                )
            self._taken[exam] = where
            self._add(path, where, exam, row)
        except InputError as error:
            self.problems.append(error.problem(error.where.replace(path, where), exam))

    def _add(self, path: str, where: str, exam: str, row: int | None) -> None:
        steps = tuple(s for s in self.variables if row is None or not self.usable[s][row])
        if not steps:
            self.present += 1
            return
        grid = None
        if row is None:
            row = self._make(path, where, exam)
        else:
            shape: Any = tuple(int(n) for n in self.extent[row])
            grid = Grid(shape, self.affine[row], str(self.lake.exams["knee"].iloc[row]))
        self.tasks.append(
            _FileTask(row, exam, steps, path, where, self.table, self.variables, grid)
        )

    def _make(self, path: str, where: str, exam: str) -> int:
        """Add an exam that has no image, with arrays for it; return its row."""
        if not self.options.exam:
            raise InputError(
                f"a mask of {exam}, which has no DESS image here",
                expected="an exam of the lake",
                where=where,
                todo="Ingest its image first; or make the exam from the mask's own grid by "
                "--patient, --timepoint and --knee.",
                reason=Reason.ABSENT_EXAM,
            )
        shape = _own_grid(path, self.table).shape
        sizes = group_sizes(self.lake.root, "dess")
        if not sizes and self.lake.profile:
            sizes = dict(PROFILES[self.lake.profile]["dess"])
        largest = tuple(sizes.values()) or shape
        if any(n > m for n, m in zip(shape, largest, strict=True)):
            raise InputError(
                f"a mask of {' x '.join(map(str, shape))}",
                expected=f"at most {' x '.join(map(str, largest))}, fixed when the lake was made",
                where=where,
                todo="Import it into a new lake, whose arrays fit it.",
                reason=Reason.LARGER_THAN_LAKE,
            )
        keys = pd.DataFrame([[getattr(self.options, name) for name in KEYS]], columns=list(KEYS))

        def build(session: icechunk.Session) -> None:
            append_exams(session, keys)
            root = open_root(session.store, "r+")
            # All of them: an image that comes later finds its arrays.
            declare(root, REGISTRY.made_by("ingest_dess"), sizes or sizes_of("dess", shape))
            declare_status(root, "ingest_dess", exam_count(root))

        with translated_errors(self.lake.url):
            commit(self.lake.repo, build, f"Add {exam}, of which there is a mask and no image")
        self.lake.refresh()
        self.made.append(exam)
        return int(np.flatnonzero(self.lake.exams["exam"] == exam)[0])


def _execute(
    lake: Lake,
    planned: _Planned,
    table: Source,
    into: str,
    cluster: Any,
    commit_every: int,
    listeners: Sequence[Listener],
) -> int:
    needed = [s for s in planned.variables if any(s in task.steps for task in planned.tasks)]

    def prepare(session: icechunk.Session) -> None:
        root = open_root(session.store, "r+")
        for step in needed:
            declare(root, [REGISTRY[f"dess/{planned.variables[step]}"]])
            declare_status(root, step, exam_count(root))

    run, record = new_run(lake.root, "import", lake.snapshot)
    numbers = {str(number): tissue for number, tissue in table.tissues.items()}
    record["parameters"] = {
        "labels": table.name, "tissues": {**numbers, **table.named}, "into": into,
    }  # fmt: skip
    with running(cluster) as client:
        done = execute(
            lake, "import", run, record, prepare, _import_file, planned.tasks, cluster=client,
            commit_every=commit_every, listeners=listeners,
        )  # fmt: skip
    planned.problems += done.problems
    return done.counts["done"] + done.counts["flagged"]


def _import_file(fork: icechunk.ForkSession, task: _FileTask) -> Outcome:
    """Read a file onto its exam's grid and write what it holds; the work of one task."""
    outcome = Outcome(task.row, task.exam, {}, fork)
    root = open_root(fork.store, "r+")
    try:
        mask = read_mask(task.file, task.source, like=task.grid)
    except InputError as error:
        outcome.problems.append(
            error.problem(error.where.replace(task.file, task.where), task.exam)
        )
        return outcome
    for step in task.steps:
        name = task.variables[step]
        values = mask.bone if name.endswith("bone") else mask.cartilage
        if values is None:
            continue
        try:
            _refuse_empty(values, name, task.where)
            write_exam(root, [REGISTRY[f"dess/{name}"]], {name: values}, task.row, task.exam)
        except QmriLakeError as error:
            outcome.problems.append(_problem(error, task))
        except Exception as error:
            full = disk_full(error, task.exam)
            if full is not None:
                raise full from error
            raise
        else:
            outcome.states[step] = (
                ("flagged", "; ".join(mask.notes)) if mask.notes else ("done", "")
            )
    if task.grid is None and outcome.states:
        extent = np.array(mask.labels.shape, np.int16)
        outcome.small |= {"dess/affine": mask.affine, "dess/extent": extent}
    return outcome


def _refuse_empty(values: NDArray[np.uint8], name: str, where: str) -> None:
    if not values.any():
        raise InputError(
            f"no voxel of any tissue of {name}",
            expected="a mask with tissue in it",
            where=where,
            todo="Check the table of labels. If the file has none, leave its tissues out of it: an "
            "empty mask would say that the knee has none.",
            reason=Reason.EMPTY_MASK,
        )


def _problem(error: QmriLakeError, task: _FileTask) -> Problem:
    reason = error.reason or Reason.UNREADABLE_VALUE
    return Problem(reason, task.where, error.found, error.expected, error.todo, task.exam)


def _own_grid(path: str, table: Source) -> Grid:
    """Read a mask by itself; whatever is wrong with it is raised before an exam is made for it."""
    mask = read_mask(path, table)
    arrays = {"bone": mask.bone, "cartilage": mask.cartilage}
    given = {name: values for name, values in arrays.items() if values is not None}
    if not any(values.any() for values in given.values()):
        _refuse_empty(next(iter(given.values())), " and ".join(given), path)
    slices, rows, columns = mask.labels.shape
    return Grid((slices, rows, columns), mask.affine)


def _find_files(source: str | os.PathLike[str]) -> tuple[list[tuple[str, str]], int]:
    """Return the mask files with their places, and how many other files there are."""
    root = Path(source)
    if root.is_file():
        return [(str(root), root.name)], 0
    everything = sorted(path for path in root.rglob("*") if path.is_file())
    # A name that starts with a dot is what a file system or an archive left behind.
    found = [
        (str(p), str(p.relative_to(root)))
        for p in everything
        if suffix_of(p.name) and not p.name.startswith(".")
    ]
    if found:
        return found, len(everything) - len(found)
    raise InputError(
        f"no mask ({counted(len(everything), 'file')})" if root.is_dir() else "nothing there",
        expected="a mask, or a folder of them",
        where=os.fspath(source),
        todo="Give NIfTI, NRRD, .npz, .mat or HDF5 files.",
        reason=Reason.UNREADABLE_FILE,
    )


def _checked(options: Claim) -> Claim:
    if options.knee not in (None, "left", "right"):
        raise RunError(f"knee {options.knee!r}", expected="left or right", where="ingest_masks")
    for name in ("patient", "timepoint"):
        value = getattr(options, name)
        if value is not None and value < 0:
            raise RunError(f"{name} {value}", expected="at least 0", where="ingest_masks")
    return options


def _refuse_new_lake(url: str, options: Claim, files: Sequence[tuple[str, str]]) -> None:
    if options.exam and len(files) == 1:
        return
    raise InputError(
        f"no lake, and {counted(len(files), 'mask')} for it",
        expected="the lake that has the images, or one mask with patient, timepoint and knee",
        where=url,
        todo="qmri-lake ingest makes a lake of images.",
        reason=Reason.ABSENT_EXAM,
    )
