"""Write the series of a delivery into a lake: one task reads and decodes one exam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import icechunk
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.core.disk_full import disk_full
from qmri_lake.core.geometry import GRID_TOLERANCE_MM, corner_distance
from qmri_lake.core.text import format_shape, one_line, status_message
from qmri_lake.errors import InputError, Problem, Reason
from qmri_lake.execution.cluster import running
from qmri_lake.execution.exam_io import write_exam
from qmri_lake.execution.run import Listener, TaskResult, execute
from qmri_lake.ingestion.known_series import Comparison
from qmri_lake.lake.lake import Lake
from qmri_lake.lake.study_ids import write_study_ids
from qmri_lake.lake.synthetic_exams import mark_exams
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.exam_index import KEYS
from qmri_lake.schema.groups import GROUPS
from qmri_lake.store.arrays import Node, open_root
from qmri_lake.store.repository import commit, translated_errors
from qmri_lake.store.runs import new_record, read_runs
from qmri_lake.store.status import read_status, status_steps
from qmri_lake.store.transaction import append_exams

if TYPE_CHECKING:
    from qmri_lake.ingestion.delivered import DeliveredSeries
    from qmri_lake.oai.dicom import Volume

__all__ = ["Written", "check_known_grid", "write_series"]


@dataclass(frozen=True, slots=True)
class Written:
    """Series that a run has written."""

    added: dict[str, int]
    """New series, by group."""
    replaced: int
    """Stored series that were replaced."""
    unchanged: int
    """Stored series that have the pixels of those that should replace them."""
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _SeriesTask:
    """All new series of one exam."""

    row: int
    exam: str
    series: tuple[DeliveredSeries, ...]
    over: frozenset[str] = frozenset()
    """Groups of which the exam has a series that is replaced."""
    keeps_grid: bool = False
    """Whether the exam has imported masks, which would not fit an image on another grid."""
    replaced: tuple[str, ...] = ()

    @property
    def steps(self) -> tuple[str, ...]:
        """Steps whose states the task sets."""
        return tuple(f"ingest_{series.group}" for series in self.series)


def _read_and_write(fork: icechunk.ForkSession, task: _SeriesTask) -> TaskResult:
    """Decode and write the series of one exam; one task."""
    result = TaskResult(task.row, task.exam, {}, fork)
    root = open_root(fork.store, "r+")
    for series in task.series:
        step = f"ingest_{series.group}"
        is_over = series.group in task.over
        try:
            volume = series.read()
            if is_over and root[f"{series.group}/digest"][task.row] == volume.digest:
                continue  # the stored pixels are the same
            product: dict[str, NDArray[np.generic]] = {
                "image": volume.image,
                "affine": volume.affine,
                "extent": np.array(volume.image.shape[-3:], np.int16),
                "series_uid": np.array(volume.uid, dtype=object),
                "digest": np.array(volume.digest, dtype=object),
            }
            if GROUPS[series.group].has_several_images:
                product[GROUPS[series.group].times] = volume.echo_time
            product |= {name: np.array(value) for name, value in series.parameters.items()}
            if task.keeps_grid or not is_over:
                check_known_grid(root, series.group, task.row, volume)
            result.small |= write_exam(
                root,
                REGISTRY.variables_of(step),
                product,
                task.row,
                task.exam,
                new_extent=is_over,
            )
        except InputError as error:
            result.problems.append(error.problem(series.where, task.exam))
            if not is_over:  # otherwise the stored series stays usable
                result.states[step] = ("failed", status_message(error))
        except Exception as error:
            full = disk_full(error, task.exam)
            if full is not None:
                raise full from error
            result.problems.append(
                Problem(
                    Reason.UNREADABLE_FILE,
                    series.where,
                    one_line(error),
                    "a readable image",
                    "Open it with another program.",
                    task.exam,
                )
            )
            if not is_over:
                result.states[step] = ("failed", status_message(error))
        else:
            result.states[step] = ("done", "")
    return result


def check_known_grid(root: Node, group: str, row: int, volume: Volume) -> None:
    """Raise an error if earlier masks created the exam on another grid than this image."""
    extent = root[f"{group}/extent"][row]
    if (extent < 1).any():
        return
    shape = volume.image.shape[-3:]
    distance = corner_distance(shape, volume.affine, root[f"{group}/affine"][row])
    if shape == tuple(extent) and distance <= GRID_TOLERANCE_MM:
        return
    raise InputError(
        f"an image of {format_shape(shape)} on another grid: {distance:.2f} mm off",
        expected=f"{format_shape(extent.tolist())} on the grid of the masks imported before",
        todo="Ingest it into a new lake, and import the masks afterwards.",
        reason=Reason.GRID_MISMATCH,
    )


def write_series(
    lake: Lake,
    compared: Comparison,
    *,
    cluster: object,
    commit_every: int,
    listeners: Sequence[Listener],
    study_ids: Mapping[int, str] | None = None,
) -> Written:
    """Write new series, and those that replace stored ones.

    `study_ids` are the identifiers of patients whose number does not state them, by number.
    """
    if not (compared.new or compared.replaced):
        return Written(dict.fromkeys(_counted_groups(lake), 0), 0, 0, ())
    by_exam: dict[str, list[DeliveredSeries]] = {}
    for item in (*compared.new, *compared.replaced):
        by_exam.setdefault(item.exam, []).append(item)
    keys = pd.DataFrame(
        [tuple(getattr(items[0], name) for name in KEYS) for items in by_exam.values()],
        columns=list(KEYS),
    )
    synthetic = [
        exam for exam, items in by_exam.items() if any(series.synthetic for series in items)
    ]

    identifiers = {
        exam: (study_ids or {}).get(items[0].patient, "") for exam, items in by_exam.items()
    }

    def add(session: icechunk.Session) -> None:
        append_exams(session, keys)
        mark_exams(session, synthetic)
        write_study_ids(session, identifiers)

    with translated_errors(lake.url):
        commit(lake.repo, add, f"Add {len(keys)} exams")
    lake.refresh()
    row_of = {key: row for row, key in enumerate(lake.exams["exam"])}
    over: dict[str, set[str]] = {}
    for item in compared.replaced:
        over.setdefault(item.exam, set()).add(item.group)
    imported = _imported_rows(lake) if over else np.zeros(len(lake), bool)
    tasks = [
        _SeriesTask(
            row_of[key],
            key,
            tuple(items),
            frozenset(over.get(key, ())),
            bool(imported[row_of[key]]),
        )
        for key, items in by_exam.items()
    ]
    record = new_record("ingest", lake.snapshot)
    with running(cluster) as client:
        done = execute(
            lake,
            "ingest",
            record,
            None,
            _read_and_write,
            tasks,
            cluster=client,
            commit_every=commit_every,
            listeners=listeners,
        )
    replaced = sum(_count(lake, compared.replaced, done.run).values())
    failed = {(problem.exam, problem.where) for problem in done.problems}
    kept = sum((item.exam, item.where) in failed for item in compared.replaced)
    return Written(
        added=_count(lake, compared.new, done.run),
        replaced=replaced,
        unchanged=len(compared.replaced) - replaced - kept,
        problems=done.problems,
    )


def _imported_rows(lake: Lake) -> NDArray[np.bool_]:
    """Return which exams have imported masks or maps."""
    imports = [n for n, record in read_runs(lake.root).items() if record["step"] == "import"]
    found = np.zeros(len(lake), bool)
    for step in status_steps(lake.root):
        status = read_status(lake.root, step, len(lake))
        found |= status.usable & np.isin(status.run, imports)
    return found


def _counted_groups(lake: Lake) -> list[str]:
    """Return the groups whose series are counted: DESS, MSME, and others that the lake has."""
    return [group for group in GROUPS.series() if group in ("dess", "msme", *lake.groups())]


def _count(lake: Lake, series: Sequence[DeliveredSeries], run: int) -> dict[str, int]:
    """Count the series that a run has written, by group."""
    row_of = {key: row for row, key in enumerate(lake.exams["exam"])}
    counts = dict.fromkeys(_counted_groups(lake), 0)
    for group in counts:
        status = read_status(lake.root, f"ingest_{group}", len(lake))
        rows = [row_of[item.exam] for item in series if item.group == group]
        counts[group] = int((status.usable & (status.run == run))[rows].sum())
    return counts
