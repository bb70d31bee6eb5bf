"""Import of masks that were corrected by hand, with who corrected them and why."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import icechunk
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.core.label_bytes import has_label
from qmri_lake.core.text import counted
from qmri_lake.editing.edit_check import EditedExam, check_exam, kept_parts
from qmri_lake.editing.manifest import Manifest, read_manifest
from qmri_lake.editing.mask_arrays import MaskArrays
from qmri_lake.editing.segment_table import SEGMENTS
from qmri_lake.errors import InputError, Problem, QmriLakeError, Reason, RunError, problem_table
from qmri_lake.execution.exam_io import read_exam, write_exam
from qmri_lake.execution.run import Listener, TaskResult, execute
from qmri_lake.ingestion.mask_tasks import PARTS
from qmri_lake.lake.lake import Lake, open_lake
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.store.arrays import open_root
from qmri_lake.store.runs import EDITED, new_record, read_run
from qmri_lake.store.status import declare_status, read_status
from qmri_lake.store.transaction import declare, exam_count
from qmri_lake.tissues import CARTILAGE

__all__ = ["EditResult", "import_edits"]

Into = Literal["variant", "mask"]

_LONGEST_NAME = 20
_LONGEST_REASON = 300
_COLUMNS = [
    "exam",
    "mask",
    "tissue",
    "voxels_before",
    "voxels_after",
    "voxels_changed",
    "dsc",
    "mpts_mm",
    "reason",
]


@dataclass(frozen=True)
class EditResult:
    """Result of an import of edited masks."""

    lake: Lake
    edited: tuple[str, ...]
    """Exams whose masks were changed and stored."""
    unchanged: tuple[str, ...]
    """Exams whose masks are as exported."""
    paths: tuple[str, ...]
    """Arrays that were written."""
    agreement: pd.DataFrame
    """Agreement of the masks before and after, with a row for each exam and tissue: voxels before,
    after and changed; DSC; and mean surface distance `mpts_mm` [mm]. `reason` states why a value is
    NaN."""
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    def table(self) -> pd.DataFrame:
        """Return the problems as a table: reason, where, found, expected, todo, exam."""
        return problem_table(self.problems)

    def __str__(self) -> str:
        text = f"imported edited masks of {counted(len(self.edited), 'exam')}"
        if self.paths:
            text += f" to {' and '.join(self.paths)}"
        return f"{text}; {len(self.unchanged)} unchanged; {counted(len(self.problems), 'problem')}"


@dataclass(frozen=True, slots=True)
class _EditTask:
    row: int
    exam: str
    steps: tuple[str, ...]
    edited: EditedExam
    source: MaskArrays
    """Arrays that were exported."""
    target: MaskArrays
    """Arrays that are written."""
    replaced: tuple[str, ...] = ()


def import_edits(
    folder: str | os.PathLike[str],
    lake: Lake | str | os.PathLike[str],
    *,
    by: str,
    reason: str,
    into: Into = "variant",
    variant: str = "edited",
    commit_every: int = 16,
    progress: Callable[[int, int], None] | None = None,
    listeners: Sequence[Listener] = (),
) -> EditResult:
    """Import the masks of an export that were changed by hand.

    Only masks that differ from the exported ones are stored. The record of the run, in
    ``lake.runs()``, states who edited them and why.

    Parameters
    ----------
    folder : path
        Folder of `export_for_editing`, with the edited files under the exported names.
    lake : Lake or URL
        The lake from which the masks were exported.
    by : str
        Who edited the masks: initials or a role, such as ``"AB"`` or ``"reader 2"``, of up to 20
        characters. Do not give a full name: all who have the lake can read it. A pseudonymised lake
        does not contain it.
    reason : str
        Why the masks were edited, in up to 300 characters.
    into : {"variant", "mask"}
        ``"variant"``: store ``dess/bone__edited`` and so on, beside the masks. ``"mask"``: replace
        the exported masks. Results that were computed from them are then stale, and the next run of
        their steps computes them again. Earlier masks stay in the history of the lake.
    variant : str
        Name of the variant.
    commit_every, listeners
        As in `Lake.run`.
    progress : callable, optional
        Called with the number of exams whose files were read, and their total.

    Returns
    -------
    EditResult
        Its ``problems`` list the exams whose files could not be used: a damaged file, another grid,
        an unknown label or segment, or a mask of the lake that has changed since the export.

    Raises
    ------
    InputError
        If the folder has no manifest.
    RunError
        If `by`, `reason`, `into` or `variant` is invalid.
    """
    if into not in ("variant", "mask"):
        raise RunError(f"into = {into!r}", expected="variant or mask", where="import_edits")
    note = {"by": _one_line(by, "by", _LONGEST_NAME), "reason": _one_line(reason, "reason")}
    place = Path(folder)
    manifest = read_manifest(place)
    source = MaskArrays(manifest.masks, manifest.variant)  # type: ignore[arg-type]
    if into == "variant" and not variant:
        raise RunError("no name of a variant", expected="a name such as edited", where="variant")
    target = source
    if into == "variant" and variant != source.variant:
        target = MaskArrays(source.masks, variant)
    opened = lake if isinstance(lake, Lake) else open_lake(os.fspath(lake))
    with opened.writing():
        edited, unchanged, problems = _check(opened, place, manifest, source, target, progress)
        by_table: dict[tuple[str, ...], list[EditedExam]] = {}
        for exam in edited:
            by_table.setdefault(tuple(_table_of(opened, exam, source)), []).append(exam)
        stored: list[str] = []
        for exams in by_table.values():  # a run records one table of tissues
            record = _record(opened, exams, source, target, note, into)
            done = _store(opened, exams, source, target, record, commit_every, listeners)
            problems += done
            failed = {problem.exam for problem in done}
            stored += [exam.exam for exam in exams if exam.exam not in failed]
    rows = [row for exam in edited if exam.exam in stored for row in exam.scores]
    kinds = {kind for exam in edited if exam.exam in stored for kind in exam.packed}
    return EditResult(
        opened,
        tuple(stored),
        tuple(unchanged),
        tuple(target.path(kind) for kind in target.names if kind in kinds),
        pd.DataFrame(rows, columns=_COLUMNS),
        tuple(problems),
        tuple(_notes(stored, into, target)),
    )


def _check(
    lake: Lake,
    folder: Path,
    manifest: Manifest,
    source: MaskArrays,
    target: MaskArrays,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[EditedExam], list[str], list[Problem]]:
    """Read all files; return the changed exams, the unchanged ones, and problems."""
    edited: list[EditedExam] = []
    unchanged: list[str] = []
    problems: list[Problem] = []
    for count, exported in enumerate(manifest.exams, 1):
        try:
            found = check_exam(lake, folder, exported, source, target, manifest.program)
        except InputError as error:
            problems.append(error.problem(error.where, exported.exam))
        else:
            if found.packed:
                edited.append(found)
            else:
                unchanged.append(found.exam)
        if progress is not None:
            progress(count, len(manifest.exams))
    return edited, unchanged, problems


def _table_of(lake: Lake, exam: EditedExam, source: MaskArrays) -> dict[str, str]:
    """Return the tissues that the edited masks of an exam can have, by the name of the segment.

    Empty if all tissues: networks label all of them. The source of an imported mask may lack some;
    later checks do not expect those.
    """
    runs = source.runs(lake)
    found: dict[str, str] = {}
    limited = False
    for kind in exam.packed:
        record = read_run(lake.root, int(runs[kind][exam.row]))
        table = record.get("parameters", {}).get("tissues") or {}
        present = exam.labels(kind)
        segments = SEGMENTS[kind]
        known = {
            s.name: s.tissue
            for s in segments
            if not table or s.tissue in table.values() or has_label(present, [s.value])
        }
        limited |= len(known) < len(segments)
        found |= known
    return found if limited else {}


def _record(
    lake: Lake,
    exams: Sequence[EditedExam],
    source: MaskArrays,
    target: MaskArrays,
    note: Mapping[str, str],
    into: Into,
) -> dict[str, object]:
    """Return the record of a run that stores edited masks."""
    record = new_record("import", lake.snapshot)
    runs = source.runs(lake)
    edited_from = {
        source.path(kind): sorted(
            {int(runs[kind][exam.row]) for exam in exams if kind in exam.packed}
        )
        for kind in source.names
    }
    parameters: dict[str, object] = {
        "labels": "edited",
        "into": source.masks if into == "mask" else f"variant {target.variant}",
        "edited_from_runs": {path: numbers for path, numbers in edited_from.items() if numbers},
    }
    if tissues := _table_of(lake, exams[0], source):
        parameters["tissues"] = tissues
    # Outside the parameters, which exports repeat: the editor is a person.
    return {**record, "parameters": parameters, EDITED: dict(note)}


def _store(
    lake: Lake,
    exams: Sequence[EditedExam],
    source: MaskArrays,
    target: MaskArrays,
    record: Mapping[str, object],
    commit_every: int,
    listeners: Sequence[Listener],
) -> list[Problem]:
    """Write edited masks in a run; return the problems."""
    kinds = [kind for kind in target.names if any(kind in exam.packed for exam in exams)]

    def prepare(session: icechunk.Session) -> None:
        root = open_root(session.store, "r+")
        for kind in kinds:
            declare(root, [REGISTRY[f"dess/{target.names[kind]}"]], variant=target.variant)
            declare_status(root, target.status(kind), exam_count(root))

    tasks = [
        _EditTask(
            exam.row,
            exam.exam,
            tuple(target.status(kind) for kind in exam.packed),
            exam,
            source,
            target,
        )
        for exam in exams
    ]
    done = execute(
        lake,
        "import",
        record,
        prepare,
        partial(_write, has_parts=_part_status(lake, target)),
        tasks,
        commit_every=commit_every,
        listeners=listeners,
    )
    return list(done.problems)


def _part_status(lake: Lake, target: MaskArrays) -> NDArray[np.bool_]:
    """Return which exams have medial and lateral parts that belong to the written masks."""
    step, _ = PARTS[target.steps["cartilage"]]
    if target.variant:  # a variant has no parts
        return np.zeros(len(lake), bool)
    return read_status(lake.root, step, len(lake)).usable


def _write(
    fork: icechunk.ForkSession, task: _EditTask, *, has_parts: NDArray[np.bool_]
) -> TaskResult:
    """Write the edited masks of one exam."""
    result = TaskResult(task.row, task.exam, {}, fork)
    root = open_root(fork.store, "r+")
    try:
        for kind in task.edited.packed:
            labels = task.edited.labels(kind)
            if kind == "cartilage" and has_parts[task.row]:
                step, name = PARTS[task.target.steps[kind]]
                whole = read_exam(root, "dess", [name], task.row)[name].values
                before = task.source.read(root, kind, task.row)
                parts = kept_parts(whole, before, labels, CARTILAGE)
                write_exam(root, [REGISTRY[f"dess/{name}"]], {name: parts}, task.row, task.exam)
                result.states[step] = ("done", "")
            name = task.target.names[kind]
            variable = REGISTRY[f"dess/{name}"]
            write_exam(root, [variable], {name: labels}, task.row, task.exam, task.target.variant)
            result.states[task.target.status(kind)] = ("done", "")
    except QmriLakeError as error:
        result.states = {}
        problem_reason = error.reason or Reason.UNREADABLE_VALUE
        result.problems.append(
            Problem(problem_reason, task.exam, error.found, error.expected, error.todo, task.exam)
        )
    return result


def _notes(stored: Sequence[str], into: Into, target: MaskArrays) -> list[str]:
    if not stored:
        return []
    if into == "variant":
        return [
            f"steps read the masks without a variant: {target.path('bone')} and "
            f"{target.path('cartilage')} are stored beside them. --as mask replaces the masks"
        ]
    return [
        "results computed from the earlier masks are stale: run their steps again; the earlier "
        "masks stay in the history of the lake"
    ]


def _one_line(text: str, name: str, longest: int = _LONGEST_REASON) -> str:
    """Return a text of the user; raise an error if it is empty, too long, or not one line."""
    stripped = text.strip()
    if stripped and stripped.isprintable() and len(stripped) <= longest and "@" not in stripped:
        return stripped
    what = "initials or a role, such as AB or reader 2," if name == "by" else "a text"
    raise RunError(
        f"{name} of {len(stripped)} characters" if stripped else f"no {name}",
        expected=f"{what} of 1 to {longest} printable characters without @",
        where="import_edits",
        todo="Do not give a full name or an address: all who have the lake can read it."
        if name == "by"
        else "Shorten the text.",
    )
