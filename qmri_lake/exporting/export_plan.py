"""The plan of an export: the files of each exam, what they depend on, and their memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from qmri_lake.core.json_types import JsonMapping, JsonObject
from qmri_lake.core.text import format_bytes
from qmri_lake.errors import RunError
from qmri_lake.exporting.exam_task import ExportTask
from qmri_lake.exporting.export_result import Absent
from qmri_lake.exporting.file_names import file_stem, refuse_repeated_names
from qmri_lake.exporting.format_declaration import Each, Format
from qmri_lake.exporting.manifest import Manifest
from qmri_lake.lake.cohort import Cohort
from qmri_lake.lake.derived_products import status_of
from qmri_lake.lake.synthetic_exams import is_synthetic
from qmri_lake.schema.exam_index import KEYS
from qmri_lake.schema.variable import Variable
from qmri_lake.store.runs import read_runs
from qmri_lake.store.status import STATE, StepStatus, read_status, status_steps

__all__ = ["check_memory", "plan_export"]


def plan_export(
    cohort: Cohort,
    form: Format,
    chosen: Mapping[str, Variable],
    pattern: str,
    manifest: Manifest,
) -> tuple[list[ExportTask], list[Absent]]:
    """Return a task for each exam that has a value, and the values that are absent."""
    lake, rows = cohort.lake, cohort.rows
    known = set(status_steps(lake.root))
    steps = {path: status_of(path, variable) for path, variable in chosen.items()}
    geometry = {p: f"ingest_{v.group}" for p, v in chosen.items()}
    wanted = {*steps.values(), *geometry.values()} & known
    states = {step: read_status(lake.root, step, len(lake)) for step in wanted}
    label = {value: name for name, value in STATE.items()}
    synthetic, records = is_synthetic(lake), read_runs(lake.root)
    tasks: list[ExportTask] = []
    absent: list[Absent] = []
    stems: list[tuple[str, str]] = []
    keys = lake.keys_at(rows)[["exam", *KEYS]].to_dict("records")
    for row, key in zip(rows.tolist(), keys, strict=True):
        exam, there = str(key["exam"]), []
        for path, step in steps.items():
            status = states.get(step)
            if status is None or status.usable[row]:
                there.append(path)
            else:
                absent.append((exam, path, f"{step} is {label[int(status.state[row])]}"))
        if not there:
            continue
        parts = _parts(form, pattern, {str(n): v for n, v in key.items()}, there)
        stems += [(stem, f"{exam} {' '.join(paths)}") for stem, paths in parts]
        made_by = sorted({steps[p] for p in there} | {geometry[p] for p in there})
        fingerprint: JsonObject = {
            "variables": there,
            "runs": {step: _run(states[step], row, records) for step in made_by if step in states},
            "synthetic": bool(synthetic[row]),
            "parts": [stem for stem, _ in parts],
        }
        previous = manifest.records.get(exam)
        tasks.append(ExportTask(row, exam, parts, fingerprint, bool(synthetic[row]), previous))
    refuse_repeated_names(stems, pattern)
    return tasks, absent


def _run(status: StepStatus, row: int, records: Mapping[int, JsonMapping]) -> list[object]:
    """Return the number of a run, and the snapshot on which it began.

    Lakes number their runs from 1. The snapshot tells the runs of two lakes apart.
    """
    number = int(status.run[row])
    return [number, records.get(number, {}).get("snapshot", "")]


def _parts(
    form: Format, pattern: str, keys: Mapping[str, Any], paths: Sequence[str]
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the name of each file of an exam, without its suffix, with its variables."""
    if form.each is Each.EXAM:
        return ((file_stem(pattern, keys), tuple(paths)),)
    if form.each is Each.VARIABLE:
        return tuple((file_stem(pattern, keys, path), (path,)) for path in paths)
    groups = dict.fromkeys(path.partition("/")[0] for path in paths)
    return tuple(
        (
            file_stem(pattern, keys, group=group),
            tuple(path for path in paths if path.startswith(f"{group}/")),
        )
        for group in groups
    )


def check_memory(form: Format, chosen: Mapping[str, Variable], available: int) -> None:
    """Raise an error if what a task holds at the same time does not fit into memory."""
    needed = {path: variable.nbytes({}) for path, variable in chosen.items()}
    if form.together:
        by_group: Counter[str] = Counter()
        for path, nbytes in needed.items():
            by_group[path.partition("/")[0]] += nbytes
        largest = max(by_group.values())
    else:
        largest = max(needed.values())
    if (projected := int(largest * form.memory_factor)) > available:
        raise RunError(
            f"{format_bytes(projected)} projected for an exam",
            expected=f"at most the {format_bytes(available)} of a worker",
            where=f"export {form.name}",
            todo="Name fewer variables, or use workers with more memory.",
        )
