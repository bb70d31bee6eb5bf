"""Export exams of a lake to another format: one task for each exam, resumable."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from qmri_lake.core.json_types import JsonObject
from qmri_lake.errors import InputError, Reason, RunError
from qmri_lake.execution.cluster import running
from qmri_lake.execution.events import ExamDone, Listener, RunStarted
from qmri_lake.execution.step import load_steps
from qmri_lake.execution.task_queue import map_tasks
from qmri_lake.execution.workers import memory_per_task
from qmri_lake.exporting.exam_task import ExportExam, Outcome, failed
from qmri_lake.exporting.export_plan import check_memory, plan_export
from qmri_lake.exporting.export_result import ExportResult, finish_export, origin_of_files
from qmri_lake.exporting.file_names import check_pattern
from qmri_lake.exporting.format_declaration import Format
from qmri_lake.exporting.formats import find_format
from qmri_lake.exporting.manifest import Manifest, digest_of, is_intact, refuse_foreign
from qmri_lake.exporting.variable_choice import choose_variables
from qmri_lake.lake.cohort import Cohort
from qmri_lake.lake.lake import Lake, open_lake
from qmri_lake.schema.variable import Variable

__all__ = ["ExportResult", "export"]

_ALL = "all exams"
"""Key of the record of tables, which have all exams."""


def export(
    exams: Lake | Cohort | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: str,
    variables: str | Sequence[str] | None = None,
    pattern: str | None = None,
    cluster: object = None,
    listeners: Sequence[Listener] = (),
) -> ExportResult:
    """Export exams of a lake to files that other programs read.

    One task exports one exam. To resume an interrupted export, export again with the same
    arguments: exams whose files are intact and of the same runs are skipped. A manifest in the
    folder lists all files with their digests.

    Parameters
    ----------
    exams : Lake, Cohort or URL
        Exams to export: a cohort, or all exams of a lake.
    out : path
        Folder of the files: new, empty, or of an earlier export.
    format : str
        Name of a format: see `qmri_lake.exporting.formats.FORMATS`.
    variables : str or sequence of str, optional
        Groups and variables, such as ``["dess", "msme/t2"]``. Default: all that the format can
        hold, except clinical values, UIDs, texts and dates.
    pattern : str, optional
        Names of the files without suffix, such as ``"{patient}_{timepoint}m_{knee}_{variable}"``.
        Fields are exam, patient, timepoint, knee, group and variable. Default: by exam key.
    cluster, listeners : optional
        As in `Lake.run`.

    Returns
    -------
    ExportResult
        Numbers of exams and files, what was lost or left out, and the exams that failed.

    Raises
    ------
    NotFoundError
        If there is no such format, group or variable.
    InputError
        If the format cannot hold a variable, there is no exam, the pattern gives two files one
        name, or the folder has files of others.
    RunError
        If the folder has an export of other variables, an exam does not fit into memory, or a
        package of an extra is not installed.
    """
    form = find_format(format)
    form.check_package()
    cohort = _cohort(exams)
    load_steps()  # declarations of variables, for their privacy kinds
    names = [variables] if isinstance(variables, str) else variables
    chosen = choose_variables(cohort.lake, form, names)
    if not len(cohort):
        raise InputError(
            "no exam",
            expected="at least one",
            where="export",
            todo="Select other exams.",
            reason=Reason.ABSENT_EXAM,
        )
    names_of_files = check_pattern(form, pattern)
    folder = Path(out).absolute()
    request: JsonObject = {
        "format": form.name,
        "lake": PurePosixPath(cohort.lake.location).name,
        "variables": list(chosen),
        "pattern": names_of_files,
    }
    with _writing(folder, form.name):
        manifest = Manifest.open(folder, form.name, request)
        if form.write_all is not None:
            return _export_tables(cohort, form, chosen, folder, request, manifest)
        tasks, absent = plan_export(cohort, form, chosen, names_of_files, manifest)
        for listener in listeners:
            listener(RunStarted(f"export {form.name}", 0, len(tasks)))
        work = ExportExam(cohort.lake.location, cohort.lake.snapshot, form.name, str(folder))
        outcomes: list[Outcome] = []
        with running(cluster if tasks else None) as client:
            check_memory(form, chosen, memory_per_task(client))
            for outcome in map_tasks(work, None, tasks, cluster=client, lost=failed):
                if outcome.state == "written":
                    manifest.add(outcome.record)
                outcomes.append(outcome)
                message = outcome.problem.found if outcome.problem else ""
                for listener in listeners:
                    listener(ExamDone(outcome.exam, outcome.state, message))
        return finish_export(cohort, form, folder, request, manifest, outcomes, absent)


def _cohort(exams: Lake | Cohort | str | os.PathLike[str]) -> Cohort:
    if isinstance(exams, Cohort):
        return exams
    lake = exams if isinstance(exams, Lake) else open_lake(os.fspath(exams), mode="r")
    return lake.cohort()


@contextmanager
def _writing(folder: Path, form: str) -> Iterator[None]:
    """Hold the lock of an export in a folder."""
    refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f".{form}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(
            "another process exports into the folder",
            expected="one process",
            where=str(folder),
            todo="Wait until it ends, or choose another folder.",
        ) from None
    try:
        yield
    finally:
        lock.release()


def _export_tables(
    cohort: Cohort,
    form: Format,
    chosen: Mapping[str, Variable],
    folder: Path,
    request: JsonObject,
    manifest: Manifest,
) -> ExportResult:
    """Write tables of all exams, unless they are there from the same snapshot and exams."""
    assert form.write_all is not None
    exams = "\n".join(cohort.exams["exam"])
    fingerprint = {
        "snapshot": cohort.lake.snapshot,
        "exams": hashlib.sha256(exams.encode()).hexdigest(),
    }
    before = manifest.records.get(_ALL)
    if before and before["fingerprint"] == fingerprint and is_intact(folder, before["files"]):
        outcome = Outcome(_ALL, "unchanged", before)
    else:
        about = origin_of_files(cohort, request)
        files = form.write_all(cohort, chosen, folder, form.suffix, about)
        record = {
            "exam": _ALL,
            "fingerprint": fingerprint,
            "snapshot": cohort.lake.snapshot,
            "files": {path.name: digest_of(path) for path in files},
            "losses": [],
            "left_out": {},
        }
        manifest.add(record)
        outcome = Outcome(_ALL, "written", record)
    result = finish_export(cohort, form, folder, request, manifest, [outcome], [])
    count = len(cohort)
    return replace(
        result,
        written=count * (outcome.state == "written"),
        unchanged=count * (outcome.state == "unchanged"),
        other_exams=0,
    )
