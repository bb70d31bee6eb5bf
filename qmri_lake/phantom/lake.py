"""Add synthetic exams to a lake from their ground truth, without DICOM, networks or fits.

Masks, motion and T2 are evaluated from the anatomy, so that a large cohort takes minutes. All later
steps are computed as for other exams. These exams must not be used to evaluate segmentation,
registration or fits. Their column ``made_from`` is ``truth``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import icechunk
import numpy as np
import pandas as pd

from qmri_lake.core.disk_full import disk_full
from qmri_lake.core.json_types import JsonMapping, JsonObject
from qmri_lake.core.text import counted, format_shape, status_message
from qmri_lake.errors import InputError, Problem, Reason, problem_table
from qmri_lake.execution.cluster import running
from qmri_lake.execution.exam_io import write_exam
from qmri_lake.execution.run import Listener, TaskResult, execute
from qmri_lake.execution.step import load_steps
from qmri_lake.ingestion.clinical import store_visits
from qmri_lake.lake.lake import Lake, create_lake, existing_lake
from qmri_lake.lake.synthetic_exams import mark_exams
from qmri_lake.phantom.exam_truth import Exam, sample_dess, sample_msme, set_up
from qmri_lake.phantom.exam_truth import exams as exams_from
from qmri_lake.phantom.grid import MSME_SLICES
from qmri_lake.phantom.phase_graphs import ECHO_TIMES
from qmri_lake.phantom.population import FIRST_PATIENT
from qmri_lake.phantom.signal import cartilage_t2
from qmri_lake.phantom.tables import write_tables
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.exam_index import KEYS
from qmri_lake.schema.groups import GROUPS
from qmri_lake.schema.variable import sizes_of
from qmri_lake.store.arrays import Node, open_root
from qmri_lake.store.repository import commit, translated_errors
from qmri_lake.store.runs import new_record, read_runs
from qmri_lake.store.status import declare_status, read_status
from qmri_lake.store.transaction import Transaction, append_exams, declare, exam_count, group_sizes

__all__ = ["TruthResult", "add_true_exams"]

STEP = "ingest_truth"
_OF_DESS = ("segment_bones", "segment_cartilage")
_OF_MSME = ("register", "t2")
_MADE_FROM = REGISTRY["clinical/made_from"]
_TRUTH = dict(_MADE_FROM.flags or {})["truth"]
_LAST_NUMBER = 9_999_999
"""Largest patient number; patient numbers have seven digits."""


@dataclass(frozen=True)
class TruthResult:
    """Numbers of added exams, and problems."""

    lake: Lake
    added: int
    present: int
    """Number of exams that were already in the lake."""
    visits: int
    """Number of clinical rows added, for visits with and without an exam."""
    failed: int
    """Number of exams that failed; `Lake.failures` gives the reasons."""
    problems: tuple[Problem, ...]

    def table(self) -> pd.DataFrame:
        """Return the problems as a table: reason, where, found, expected, todo, exam."""
        return problem_table(self.problems)

    def __str__(self) -> str:
        text = f"added {counted(self.added, 'exam')} made from truth"
        text += f" and {counted(self.visits, 'clinical row')}" if self.visits else ""
        text += f"; {self.present:,} already present" if self.present else ""
        text += f"; {self.failed:,} failed" if self.failed else ""
        return f"{text}; {counted(len(self.problems), 'problem')}"


@dataclass(frozen=True, slots=True)
class _TruthTask:
    row: int
    exam: str
    truth: Exam
    shape: tuple[int, int, int]
    replaced: tuple[str, ...] = ()

    @property
    def steps(self) -> tuple[str, ...]:
        return (STEP, *_OF_DESS, *(_OF_MSME if self.truth.has_msme else ()))


def add_true_exams(
    lake: Lake | str | os.PathLike[str],
    *,
    exams: int = 400,
    shape: tuple[int, int, int] = (64, 144, 144),
    seed: int = 0,
    first_patient: int = 10_000,
    cluster: object = None,
    commit_every: int = 32,
    listeners: Sequence[Listener] = (),
) -> TruthResult:
    """Add synthetic exams to a lake from their ground truth, for large cohorts.

    The function writes the true masks of both series, the true motion between the series, and the
    true T2 of all voxels labelled as cartilage. The T2 of a voxel is the T2 at the mean depth of
    the cartilage in the voxel. The masks are equal to the truth that `write_archive` writes for the
    same knee. The clinical tables are equal to those of an archive. There are no images, so the
    steps `ingest_dess` and `ingest_msme` stay pending, and these exams are not segmented and not
    fitted.

    Steps `segment_bones`, `segment_cartilage`, `register` and `t2` are marked as done by a run
    named ``import``. Run ``lake.run("sphere")`` and ``lake.run("region")`` for maps and regional
    averages. Step `ingest_truth` is done for these exams. Select these exams with
    ``lake.cohort("made_from == 'truth'")``, and all others with ``made_from == 'delivered'``.

    Parameters
    ----------
    lake : Lake or URL
        At a URL without a lake, a lake is created, with arrays for all knees of this `shape`.
    exams : int
        Number of exams. Exams that are already in the lake are skipped. Therefore, an interrupted
        call can be repeated, and a call with a larger number adds the missing exams.
    shape : (slices, rows, columns)
        Shape of the DESS. The field of view is always 112 x 140 x 140 mm.
    seed : int
        Seed of the population.
    first_patient : int
        Index of the first patient in the population. An archive of the same seed starts at 0 and
        has about one patient per two exams. With a large index, no patient is in both the archive
        and these exams.
    cluster, commit_every, listeners : optional
        As in `Lake.run`, with one task per exam.

    Returns
    -------
    TruthResult
        Its ``problems`` list multi-echo series that have more slices than the arrays of an older
        lake. Such an exam has no T2, and its step `ingest_truth` is flagged.

    Raises
    ------
    InputError
        If there is less than one exam; if the shape is too small for a knee or larger than the
        arrays of the lake; if the lake has delivered exams of the same patients, or the same exams
        with another seed or shape.

    Examples
    --------
    >>> import qmri_lake as ql
    >>> made = ql.phantom.add_true_exams("oai.lake", exams=400)  # doctest: +SKIP
    >>> made.lake.run("sphere", "made_from == 'truth' and knee == 'right'")  # doctest: +SKIP
    """
    chosen = _chosen(exams, seed, first_patient)
    set_up(chosen[0], shape)  # rejects a shape that is too small, before a lake is created
    shape = (int(shape[0]), int(shape[1]), int(shape[2]))
    settings = {"made_from": "truth", "shape": list(shape), "seed": int(seed)}
    if isinstance(lake, Lake):
        target = lake
    else:
        there = existing_lake(url := os.fspath(lake))
        target = create_lake(url) if there is None else there
    load_steps()  # the steps declare the variables that are written here
    with target.writing():
        _refuse_larger(target, shape)
        _refuse_others(target, chosen, settings)
        _append(target, chosen, shape)
        visits, problems = _store_tables(target, chosen, seed)
        row_of = {key: row for row, key in enumerate(target.exams["exam"])}
        done = read_status(target.root, STEP, len(target)).usable
        tasks = [
            _TruthTask(row_of[exam.key], exam.key, exam, shape)
            for exam in chosen
            if not done[row_of[exam.key]]
        ]
        added = failed = 0
        if tasks:
            record = new_record("import", target.snapshot)
            with running(cluster) as client:
                result = execute(
                    target,
                    STEP,
                    {**record, "parameters": settings},
                    None,
                    _write_truth,
                    tasks,
                    cluster=client,
                    commit_every=commit_every,
                    listeners=listeners,
                )
            problems += result.problems
            added = result.counts["done"] + result.counts["flagged"]
            failed = result.counts["failed"]
    return TruthResult(target, added, len(chosen) - len(tasks), visits, failed, problems)


def _chosen(count: int, seed: int, first_patient: int) -> list[Exam]:
    if count < 1:
        raise InputError(f"exams = {count}", expected="at least 1", where="phantom")
    if first_patient < 0:
        raise InputError(f"first_patient = {first_patient}", expected="at least 0", where="phantom")
    chosen = exams_from(count, seed, first_patient=first_patient)
    if (last := chosen[-1].patient.number) > _LAST_NUMBER:
        raise InputError(
            f"patient number {last}",
            expected="seven digits",
            where="phantom",
            todo=f"Use first_patient below {_LAST_NUMBER - FIRST_PATIENT - count:,}.",
        )
    return chosen


def _refuse_larger(lake: Lake, shape: tuple[int, int, int]) -> None:
    """Raise an error if the shape exceeds the arrays of the lake.

    The number of MSME slices is checked later.
    """
    wanted = {"dess": shape, "msme": shape[1:]}
    for group, sizes in ((g, tuple(group_sizes(lake.root, g).values())) for g in wanted):
        largest = sizes[-len(wanted[group]) :]
        if any(n > m for n, m in zip(wanted[group], largest, strict=bool(sizes))):
            raise InputError(
                f"{group} of {format_shape(wanted[group])}",
                expected=f"at most {format_shape(largest)}, fixed when the lake was created",
                where=lake.url,
                todo="Use a smaller shape, or a new lake.",
                reason=Reason.LARGER_THAN_LAKE,
            )


def _refuse_others(lake: Lake, chosen: Sequence[Exam], settings: JsonMapping) -> None:
    """Raise an error if patient numbers belong to delivered exams or to another population."""
    is_true = np.zeros(len(lake), bool)
    if _MADE_FROM.path in lake.root:
        is_true = lake.root[_MADE_FROM.path][:] == _TRUTH
    numbers = {exam.patient.number for exam in chosen}
    delivered = sorted(numbers & set(lake.patients[~is_true].tolist()))
    if delivered:
        raise InputError(
            f"{counted(len(delivered), 'patient')} with delivered exams in the lake, such as "
            f"{delivered[0]}",
            expected="patients without delivered exams",
            where=lake.url,
            todo="Use a larger first_patient, such as 10000.",
            reason=Reason.OTHER_SERIES,
        )
    status, runs = read_status(lake.root, STEP, len(lake)), read_runs(lake.root)
    mine = status.usable & lake.exams["exam"].isin([exam.key for exam in chosen]).to_numpy()
    for number in np.unique(status.run[mine]).tolist():
        made_with = runs[number]["parameters"]
        if made_with != settings:
            exam = lake.exams["exam"].iloc[np.flatnonzero(mine & (status.run == number))[0]]
            raise InputError(
                f"{exam} exists with seed {made_with['seed']} and shape "
                f"{format_shape(made_with['shape'])}",
                expected=f"the given seed {settings['seed']} and shape "
                f"{format_shape(settings['shape'])}",
                where=lake.url,
                todo="Use the existing seed and shape, another first_patient, or a new lake.",
                reason=Reason.OTHER_SERIES,
            )


def _append(lake: Lake, chosen: Sequence[Exam], shape: tuple[int, int, int]) -> None:
    """Add new exams and their column ``made_from`` in one commit."""
    known = set(lake.exams["exam"])
    new = [exam for exam in chosen if exam.key not in known]
    if not new:
        return
    keys = pd.DataFrame(
        [(e.patient.number, e.visit.month, e.side) for e in new], columns=list(KEYS)
    )
    largest = {"dess": shape, "msme": (len(ECHO_TIMES), MSME_SLICES[1], *shape[1:])}

    def build(session: icechunk.Session) -> None:
        root = open_root(session.store, "r+")
        start = exam_count(root)
        append_exams(session, keys)
        root = open_root(session.store, "r+")
        stop = exam_count(root)
        for group, box in largest.items():
            sizes = GROUPS.profile_sizes(lake.profile, group) or sizes_of(group, box)
            # Image arrays are also declared, for deliveries that are ingested later.
            for step in (f"ingest_{group}", *_OF_DESS, *_OF_MSME):
                made = [v for v in REGISTRY.variables_of(step) if v.group == group]
                if made:
                    declare(root, made, sizes)
                    declare_status(root, step, stop)
        declare(root, [_MADE_FROM])
        change = Transaction()
        marks = np.full(stop - start, _TRUTH, np.uint8)
        change.set_column(_MADE_FROM.path, range(start, stop), marks)
        change(session)
        mark_exams(session, [exam.key for exam in new])

    with translated_errors(lake.url):
        commit(lake.repo, build, f"Add {counted(len(new), 'exam')} to be made from truth")
    lake.refresh()


def _store_tables(lake: Lake, chosen: Sequence[Exam], seed: int) -> tuple[int, tuple[Problem, ...]]:
    """Write the clinical tables of the patients as in an archive, and ingest them."""
    patients = {exam.patient.index: exam.patient for exam in chosen}
    with TemporaryDirectory() as folder:
        write_tables(Path(folder), list(patients.values()), seed)
        visits, _, problems = store_visits(lake, Path(folder), {})
    return visits, problems


def _write_truth(fork: icechunk.ForkSession, task: _TruthTask) -> TaskResult:
    """Evaluate one knee and write its truth, as one task."""
    load_steps()  # a new worker process has no declared variables
    outcome = TaskResult(task.row, task.exam, {}, fork)
    root = open_root(fork.store, "r+")
    at = set_up(task.truth, task.shape)
    too_wide = _too_wide(root, at.msme_shape, task) if task.truth.has_msme else None
    try:
        lattice = at.lattice()
        dess = sample_dess(at, lattice)
        product: dict[str, JsonObject] = {
            "dess": {
                "bone": dess.bone,
                "cartilage": dess.cartilage,
                "affine": at.dess_affine,
                "extent": np.array(at.shape, np.int16),
            }
        }
        if task.truth.has_msme and too_wide is None:
            msme = sample_msme(at, lattice)
            inside = (msme.cartilage > 0) & (msme.cartilage < 4)  # menisci have no depth
            t2 = np.where(inside, cartilage_t2(msme.depth, at.raised), np.float32(np.nan))
            product["msme"] = {
                "cartilage": msme.cartilage,
                "t2": t2,
                "dess_to_msme": at.dess_to_msme,
                "affine": at.msme_affine,
                "extent": np.array(at.msme_shape, np.int16),
            }
        for group, values in product.items():
            variables = [REGISTRY[f"{group}/{name}"] for name in values]
            outcome.small |= write_exam(root, variables, values, task.row, task.exam)
    except Exception as error:  # the failure of one exam must not stop the run
        full = disk_full(error, task.exam)
        if full is not None:
            raise full from error
        states = dict.fromkeys(task.steps, ("failed", status_message(error)))
        return TaskResult(task.row, task.exam, states)
    outcome.states = dict.fromkeys(task.steps, ("done", ""))
    if too_wide is not None:
        outcome.problems.append(too_wide)
        outcome.states |= dict.fromkeys(_OF_MSME, ("failed", str(too_wide)))
        outcome.states[STEP] = ("flagged", f"without T2: {too_wide.found}")
    return outcome


def _too_wide(root: Node, shape: Sequence[int], task: _TruthTask) -> Problem | None:
    """Return a problem if the multi-echo series has more slices than the arrays of the lake."""
    most = int(root["msme/cartilage"].shape[1])
    if shape[0] <= most:
        return None
    return Problem(
        Reason.LARGER_THAN_LAKE,
        task.exam,
        f"a multi-echo series of {shape[0]} slices",
        f"at most {most}, fixed when the lake was created",
        "Create a new lake with exams made from truth first: its arrays then fit all knees.",
        task.exam,
    )
