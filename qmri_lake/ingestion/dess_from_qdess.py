"""Make DESS images from both echoes of a qDESS, for segmentation and everything that follows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import icechunk
import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.text import counted, format_shape, status_message
from qmri_lake.errors import InputError, NotFoundError, Problem, Reason
from qmri_lake.execution.cluster import running
from qmri_lake.execution.exam_io import read_exam, write_exam
from qmri_lake.execution.run import Listener, TaskResult, execute
from qmri_lake.ingestion.series_tasks import check_known_grid
from qmri_lake.lake.cohort import Cohort
from qmri_lake.lake.lake import Lake, open_lake
from qmri_lake.oai.dicom import Volume
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.groups import GROUPS
from qmri_lake.schema.variable import sizes_of
from qmri_lake.store.arrays import open_root
from qmri_lake.store.runs import new_record, read_runs
from qmri_lake.store.snapshot import Snapshot
from qmri_lake.store.status import declare_status, read_status
from qmri_lake.store.transaction import declare, exam_count, group_sizes

__all__ = ["DessFromQdess", "combine_echoes", "dess_from_qdess"]

Combination = Literal["rss", "echo1"]

_SOURCE = "qdess"
"""Entry of the record of a run that made DESS images of qDESS."""


@dataclass(frozen=True)
class DessFromQdess:
    """Result of `dess_from_qdess`: numbers of exams, and problems."""

    written: int
    unchanged: int
    """Exams whose DESS is that of their qDESS already."""
    own: int
    """Exams with a DESS of their own, which is kept."""
    without: int
    """Exams without a qDESS."""
    problems: tuple[Problem, ...] = ()

    def __str__(self) -> str:
        parts = [f"DESS of {counted(self.written, 'exam')} made from qDESS"]
        parts += [f"{self.unchanged} already made"] if self.unchanged else []
        parts += [f"{self.own} with a DESS of their own, kept"] if self.own else []
        parts += [f"{self.without} without qDESS"] if self.without else []
        return "; ".join([*parts, counted(len(self.problems), "problem")])


@dataclass(frozen=True, slots=True)
class _Task:
    """One exam."""

    row: int
    exam: str
    combine: Combination
    source: int
    """Run that wrote the qDESS."""
    replaces: bool
    """Whether the exam has a DESS of an earlier qDESS."""
    steps: tuple[str, ...] = ("ingest_dess",)
    replaced: tuple[str, ...] = ()


def combine_echoes(image: NDArray[np.floating], combine: Combination) -> NDArray[np.float32]:
    """Return one volume of both echoes.

    Parameters
    ----------
    image : (2, slice, row, column)
        Magnitudes of both echoes.
    combine : {"rss", "echo1"}
        Root of the sum of squares, whose contrast is that of a combined DESS, or the first echo.

    Returns
    -------
    (slice, row, column) float32
    """
    if combine == "echo1":
        return np.asarray(image[0], np.float32)
    total = np.square(image[0], dtype=np.float64)
    total += np.square(image[1], dtype=np.float64)
    return np.asarray(np.sqrt(total, out=total), np.float32)


def dess_from_qdess(
    exams: Lake | Cohort | str,
    *,
    combine: Combination = "rss",
    cluster: object = None,
    commit_every: int = 16,
    listeners: Sequence[Listener] = (),
) -> DessFromQdess:
    """Make the DESS image of each exam from its qDESS, and store it in group ``dess``.

    Segmentation, registration and maps read ``dess/image``. This function is part of ingest and no
    step, because a variable has one writer: a DESS that was delivered is never replaced. A second
    call makes only what is missing, and again what was made of another qDESS or combination.

    Parameters
    ----------
    exams : Lake, Cohort or URL
    combine : {"rss", "echo1"}
        Root of the sum of squares of both echoes, or the first echo. Networks that were trained on
        the scanner's combined DESS fit the former. [assumption]
    cluster, commit_every, listeners
        As in `Lake.run`.

    Returns
    -------
    DessFromQdess
        Its ``problems`` list exams whose image could not be stored.

    Raises
    ------
    InputError
        If `combine` is unknown.
    NotFoundError
        If the lake has no group ``qdess``.
    """
    if combine not in get_args(Combination):
        raise InputError(f"combine={combine!r}", expected="rss or echo1", where="dess_from_qdess")
    chosen = open_lake(exams) if isinstance(exams, str) else exams
    cohort = chosen if isinstance(chosen, Cohort) else chosen.cohort()
    lake = cohort.lake
    if "qdess" not in lake.root:
        raise NotFoundError(
            "no group 'qdess'",
            expected="qDESS images",
            where=lake.url,
            todo="Ingest a delivery with both echoes of a DESS.",
        )
    with lake.writing():
        tasks, counts = _plan(lake, cohort.rows, combine)
        if not tasks:
            return DessFromQdess(0, counts["unchanged"], counts["own"], counts["without"])
        record = {
            **new_record("ingest", lake.snapshot),
            "parameters": {"source": _SOURCE, "combine": combine},
        }
        with running(cluster) as client:
            done = execute(
                lake,
                "ingest",
                record,
                _prepare,
                _read_and_write,
                tasks,
                cluster=client,
                commit_every=commit_every,
                listeners=listeners,
            )
    failed = {problem.exam for problem in done.problems}
    return DessFromQdess(
        len(tasks) - len(failed),
        counts["unchanged"],
        counts["own"],
        counts["without"],
        done.problems,
    )


def _plan(
    lake: Snapshot, rows: NDArray[np.intp], combine: Combination
) -> tuple[list[_Task], Counter[str]]:
    """Return the exams to compute, and the numbers of the others."""
    length = len(lake)
    qdess = read_status(lake.root, "ingest_qdess", length)
    dess = read_status(lake.root, "ingest_dess", length)
    runs = read_runs(lake.root)
    made = {
        number
        for number, run in runs.items()
        if run["step"] == "ingest" and run["parameters"].get("source") == _SOURCE
    }
    digests = lake.root["qdess/digest"][:]
    stored = lake.root["dess/digest"][:] if "dess" in lake.root else [""] * length
    keys = lake.exams["exam"].to_numpy()
    tasks, counts = [], Counter[str]()
    for row in map(int, rows):
        replaces = bool(dess.usable[row])
        if not qdess.usable[row]:
            counts["without"] += 1
        elif replaces and int(dess.run[row]) not in made:
            counts["own"] += 1
        elif replaces and str(stored[row]) == _digest(str(digests[row]), combine):
            counts["unchanged"] += 1
        else:
            tasks.append(_Task(row, str(keys[row]), combine, int(qdess.run[row]), replaces))
    return tasks, counts


def _digest(source: str, combine: Combination) -> str:
    return hashlib.sha256(f"{combine} of {source}".encode()).hexdigest()


def _prepare(session: icechunk.Session) -> None:
    """Declare group ``dess``, as large as the qDESS, if the lake has none."""
    root = open_root(session.store, "r+")
    if not group_sizes(root, "dess"):
        sizes = group_sizes(root, "qdess")
        volume = tuple(sizes[dim] for dim in GROUPS["dess"].dims)
        declare(root, REGISTRY.variables_of("ingest_dess"), sizes_of("dess", volume))
    declare_status(root, "ingest_dess", exam_count(root))


def _read_and_write(fork: icechunk.ForkSession, task: _Task) -> TaskResult:
    """Combine the echoes of one exam; one task."""
    result = TaskResult(task.row, task.exam, {}, fork)
    result.inputs = {"ingest_qdess": task.source}
    root = open_root(fork.store, "r+")
    names = ("image", "affine", "extent", "series_uid", "digest")
    source = read_exam(root, "qdess", names, task.row)
    try:
        volume = Volume(
            combine_echoes(source["image"].values, task.combine),
            source["affine"].values,
            np.array([np.nan]),
            str(source["series_uid"].item()),
            _digest(str(source["digest"].item()), task.combine),
        )
        _check_size(volume.image.shape, group_sizes(root, "dess"))
        if not task.replaces:
            check_known_grid(root, "dess", task.row, volume)
        product: dict[str, NDArray[np.generic]] = {
            "image": volume.image,
            "affine": volume.affine,
            "extent": np.array(volume.image.shape, np.int16),
            "series_uid": np.array(volume.uid, dtype=object),
            "digest": np.array(volume.digest, dtype=object),
        }
        variables = REGISTRY.variables_of("ingest_dess")
        result.small |= write_exam(
            root, variables, product, task.row, task.exam, new_extent=task.replaces
        )
    except InputError as error:
        result.problems.append(error.problem("qdess", task.exam))
        if not task.replaces:
            result.states["ingest_dess"] = ("failed", status_message(error))
        return result
    result.states["ingest_dess"] = ("done", "")
    return result


def _check_size(shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    largest = tuple(sizes.values())
    if any(n > m for n, m in zip(shape, largest, strict=True)):
        raise InputError(
            f"a qDESS of {format_shape(shape)}",
            expected=f"at most {format_shape(largest)}, the DESS array size of the lake",
            todo="Ingest it into a new lake, with the largest series first.",
            reason=Reason.LARGER_THAN_LAKE,
        )
