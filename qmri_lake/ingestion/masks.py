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
from typing import Any, Literal, get_args

import icechunk
import pandas as pd

from qmri_lake.core.json_types import JsonObject
from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, Problem, Reason, RunError, problem_table
from qmri_lake.execution.cluster import running
from qmri_lake.execution.dask_types import DaskClient
from qmri_lake.execution.run import Listener, execute
from qmri_lake.ingestion.mask_names import find_files
from qmri_lake.ingestion.mask_plan import Details, ImportPlan, Progress, check_files, create_exams
from qmri_lake.ingestion.mask_tasks import MASK_VARIABLES, PARTS, FileTask, import_file
from qmri_lake.lake.lake import Lake, create_lake, existing_lake
from qmri_lake.lake.study_ids import PatientNumbers
from qmri_lake.masks.content import Form
from qmri_lake.masks.exam_match import PartialKey
from qmri_lake.masks.label_tables import Labels, find_source
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.store.arrays import open_root
from qmri_lake.store.runs import new_record
from qmri_lake.store.status import declare_status
from qmri_lake.store.transaction import declare, exam_count

__all__ = ["MaskResult", "ingest_masks"]

Into = Literal["reference", "mask"]

_NEW_EXAMS = 512
"""Number of exams without an image that are created in one commit. Their masks are in memory until
then: about 200 MB."""

_SHOWN = 3
"""Number of created exams that are named in a text."""


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
            shown = ", ".join(self.made)
            named = shown if len(self.made) <= _SHOWN else counted(len(self.made), "exam")
            several = len(self.made) > 1
            grid = "the grids of their masks" if several else "the grid of its mask"
            image = "images" if several else "an image"
            text += f"; {named} created from {grid}, without {image}"
        return f"{text}; {counted(len(self.problems), 'problem')}"


def ingest_masks(
    source: str | os.PathLike[str],
    lake: Lake | str | os.PathLike[str],
    *,
    labels: Labels,
    into: Into = "reference",
    patient: int | str | None = None,
    timepoint: int | None = None,
    knee: str | None = None,
    pattern: str | None = None,
    files: str | os.PathLike[str] | None = None,
    visits: Mapping[str, int] | None = None,
    create: bool = False,
    form: Form | None = None,
    profile: str | None = None,
    cluster: object = None,
    commit_every: int = 16,
    progress: Progress | None = None,
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
        If there is no lake at the URL, a lake is created, provided that exams are created from
        masks.
    labels : str, path or mapping
        Meaning of the label numbers; see `qmri_lake.masks.label_tables.find_source`.
    into : {"reference", "mask"}
        ``"reference"`` writes ``dess/reference_bone`` and ``dess/reference_cartilage``, with which
        networks are trained and evaluated. ``"mask"`` writes ``dess/bone`` and ``dess/cartilage``,
        and marks `segment_bones` and `segment_cartilage` as done. An array is not written if the
        table of labels contains none of its tissues. If the table tells medial from lateral parts,
        they are written to ``dess/reference_cartilage_part`` or ``dess/cartilage_part``.
    patient, timepoint, knee : optional
        Identify the exam if the file name does not. A file name can contain an exam key
        (``9000798-024m-right.nii.gz``), or patient number, visit and side
        (``9000798_V03_RIGHT.nrrd``). A patient may be a text such as ``"P007"``; see
        `qmri_lake.lake.study_ids`. If all three are given, `create` is implied.
    pattern : str, optional
        Pattern of the paths of the files, such as ``"{patient}_{timepoint}m_{knee}*.nii.gz"``; see
        `qmri_lake.ingestion.file_pattern`. `create` is implied.
    files : path, optional
        CSV list with the columns file, patient, timepoint and knee. Paths are relative to `source`.
        `create` is implied. Identifiers of patients that are not numbers are stored as by `ingest`.
    visits : mapping of str to int, optional
        Months by the name of a visit, for ``{visit}`` in the pattern.
    create : bool
        Whether to create exams that have no image, on the grids of their masks. All of them are
        created in one commit. By default, such a mask is listed as ``absent_exam``.
    form : {"sform", "qform"}, optional
        Affine to use of NIfTI files whose sform and qform differ; see `read_mask`.
    profile : {"oai"}, optional
        Array sizes of a new lake. Default: the sizes of the mask.
    cluster, commit_every, listeners : optional
        As in `Lake.run`. One exam is one task.
    progress : callable, optional
        Called with the number of files read and their total while masks without an image are
        checked, before their exams are created.

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
    url = lake.url if isinstance(lake, Lake) else os.fspath(lake)
    target = lake if isinstance(lake, Lake) else existing_lake(url)
    number, study_id = _find_patient(patient, target)
    options = _check_key(PartialKey(number, timepoint, knee))
    named = find_files(source, options, table.timepoint, pattern, files, visits, study_id)
    create = create or bool(options.exam) or pattern is not None or files is not None
    details = Details(table, MASK_VARIABLES[into], form, create=create)
    if target is None and not create:
        raise _no_lake(url, len(named))

    def make_plan(lake: Lake | None) -> ImportPlan:
        plan = ImportPlan(lake, details)
        plan.problems += named.problems
        for path, where, read_key, study_id in named.with_keys(lake):
            plan.add(path, where, read_key, study_id)
        return plan

    settings = {"into": into, "commit_every": commit_every, "listeners": listeners}
    if target is None:
        plan = make_plan(None)
        with running(cluster) as client:
            # Masks are read first, so that unreadable ones leave no empty lake.
            first = check_files(plan.new[:_NEW_EXAMS], client, progress)
            if not first[0]:
                raise _unusable([*plan.problems, *first[1]], url)
            target = create_lake(url, profile=profile)
            with target.writing():
                imported = _import(target, plan, client, progress, settings, first)
    else:
        with target.writing():
            plan = make_plan(target)
            with running(cluster if plan.tasks or plan.new else None) as client:
                imported = _import(target, plan, client, progress, settings)
    notes = []
    if named.others:
        kinds = ", ".join(sorted({Path(name).suffix or "no suffix" for name in named.others}))
        notes.append(f"{counted(len(named.others), 'other file')} ignored ({kinds})")
    if missing := table.missing_tissues:
        notes.append(f"{table.name} has no {', '.join(missing)}: background in these masks")
    return MaskResult(
        target, imported, plan.present, tuple(plan.made), tuple(plan.problems), tuple(notes)
    )


def _import(
    lake: Lake,
    plan: ImportPlan,
    client: DaskClient | None,
    progress: Progress | None,
    settings: dict[str, Any],
    first: tuple[list[FileTask], list[Problem]] | None = None,
) -> int:
    """Import all masks of a plan, with new exams in groups; return the number of exams.

    `first` is the result of `check_files` for the first group, if it is known.
    """
    imported, tasks = 0, plan.tasks
    for start in range(0, max(len(plan.new), 1), _NEW_EXAMS):
        if group := plan.new[start : start + _NEW_EXAMS]:
            checked, problems = first or check_files(group, client, progress)
            plan.problems += problems
            first = None
            if checked:
                created, problems = create_exams(lake, checked, plan.keys, plan.study_ids)
                plan.problems += problems
                plan.made += [task.exam for task in created]
                tasks = [*tasks, *created]
        if tasks:
            imported += _execute(lake, plan, tasks, client, **settings)
        tasks = []
    return imported


def _execute(
    lake: Lake,
    plan: ImportPlan,
    tasks: Sequence[FileTask],
    client: DaskClient | None,
    *,
    into: str,
    commit_every: int,
    listeners: Sequence[Listener],
) -> int:
    """Write masks in a run; return the number of exams."""
    details = plan.details
    needed = [s for s in details.variables if any(s in task.steps for task in tasks)]
    written = {step: details.variables[step] for step in needed}
    written |= dict(PARTS[step] for step in needed if step in PARTS and details.table.sides)

    def prepare(session: icechunk.Session) -> None:
        root = open_root(session.store, "r+")
        for step, name in written.items():
            declare(root, [REGISTRY[f"dess/{name}"]])
            declare_status(root, step, exam_count(root))

    record = new_record("import", lake.snapshot)
    record["parameters"] = _parameters(details, into)
    done = execute(
        lake,
        "import",
        record,
        prepare,
        import_file,
        tasks,
        cluster=client,
        commit_every=commit_every,
        listeners=listeners,
    )
    plan.problems += done.problems
    return done.counts["done"] + done.counts["flagged"]


def _parameters(details: Details, into: str) -> JsonObject:
    """Return what the record of the run says about the table of labels."""
    table = details.table
    numbers = {str(number): tissue for number, tissue in table.tissues.items()}
    found: JsonObject = {
        "labels": table.name,
        "tissues": {**numbers, **table.named},
        "into": into,
    }
    if table.sides:
        found["sides"] = {str(label): side for label, side in table.sides.items()}
    if details.form is not None:
        found["form"] = details.form
    return found


def _find_patient(patient: int | str | None, lake: Lake | None) -> tuple[int | None, str]:
    """Return the number of a patient, and the identifier if it is not that number."""
    if patient is None or isinstance(patient, int):
        return patient, ""
    numbers = PatientNumbers(lake)
    found = numbers.add([patient])[patient]
    if isinstance(found, InputError):
        raise found
    return found, numbers.study_id(patient)


def _check_key(options: PartialKey) -> PartialKey:
    if options.knee not in (None, "left", "right"):
        raise RunError(f"knee = {options.knee!r}", expected="left or right", where="ingest_masks")
    for name in ("patient", "timepoint"):
        value = getattr(options, name)
        if value is not None and value < 0:
            raise RunError(f"{name} = {value}", expected="at least 0", where="ingest_masks")
    return options


def _no_lake(url: str, files: int) -> InputError:
    return InputError(
        f"no lake for {counted(files, 'mask')}",
        expected="a lake with the images, or masks from which exams are created",
        where=url,
        todo="Create a lake from the images with qmri-lake ingest, or the exams from the masks "
        "with --create.",
        reason=Reason.ABSENT_EXAM,
    )


def _unusable(problems: Sequence[Problem], url: str) -> InputError:
    """Return the error for masks of which none can make an exam of a new lake."""
    first = problems[0]
    more = f", and {counted(len(problems) - 1, 'more file')}" if len(problems) > 1 else ""
    return InputError(
        f"{first.found}{more}: no lake was created",
        expected=first.expected,
        where=first.where,
        todo=first.todo,
        reason=first.reason,
    )
