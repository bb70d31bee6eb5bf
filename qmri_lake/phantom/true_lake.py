"""Synthetic knees in a lake by their truth: no DICOM, no network, no fit.

Masks, motion and T2 are what the anatomy says, so a cohort too large to be scanned, segmented and
fitted is there within minutes. Everything after that is computed as for any other exam. They must
never be taken for results of the chain: column ``made_from`` says ``truth`` of each of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import icechunk
import numpy as np
import pandas as pd

from qmri_lake.compute import running
from qmri_lake.errors import InputError, Problem, Reason
from qmri_lake.index import KEYS
from qmri_lake.ingestion import existing_lake, problem_table
from qmri_lake.lake import PROFILES, Lake, create_lake
from qmri_lake.run import Listener, Outcome, execute, one_line
from qmri_lake.status import declare_status, new_run, read_runs, read_status
from qmri_lake.steps import load_own_steps, write_exam
from qmri_lake.storage import Node, commit, disk_full, open_root, translated_errors
from qmri_lake.summary import counted
from qmri_lake.variables import REGISTRY, sizes_of
from qmri_lake.visits import store_visits
from qmri_lake.writing import Change, append_exams, declare, exam_count, group_sizes

from .grid import MSME_SLICES
from .knee import Exam, sample_dess, sample_msme, set_up
from .knee import exams as exams_from
from .population import FIRST_PATIENT
from .signal import ECHO_TIMES, cartilage_t2
from .tables import write_tables

__all__ = ["TruthResult", "add_true_exams"]

STEP = "ingest_truth"
_OF_DESS = ("segment_bones", "segment_cartilage")
_OF_MSME = ("register", "t2")
_MADE_FROM = REGISTRY["clinical/made_from"]
_TRUTH = dict(_MADE_FROM.flags or {})["truth"]
_LAST_NUMBER = 9_999_999
"""Patient numbers have seven digits."""


@dataclass(frozen=True)
class TruthResult:
    """What `add_true_exams` did, and what did not fit."""

    lake: Lake
    added: int
    present: int
    """Exams that were there before."""
    visits: int
    """Clinical rows that were added, of visits with and without an exam."""
    failed: int
    """Exams that could not be made; `Lake.failures` says why."""
    problems: tuple[Problem, ...]

    def table(self) -> pd.DataFrame:
        """Problems as a table: reason, where, found, expected, todo, exam."""
        return problem_table(self.problems)

    def __str__(self) -> str:
        text = f"added {counted(self.added, 'exam')} made from truth"
        text += f" and {counted(self.visits, 'clinical row')}" if self.visits else ""
        text += f"; {self.present:,} were there before" if self.present else ""
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
    cluster: Any = None,
    commit_every: int = 32,
    listeners: Sequence[Listener] = (),
) -> TruthResult:
    """Add synthetic knees to a lake by their truth, for cohorts too large to go through the chain.

    Written are the true masks of both series, the true motion between them, and the true T2 of
    cartilage: of each voxel that is labelled as cartilage, at the mean depth of what it holds of
    it. Masks are those that `write_archive` writes as the truth of the same knee. The clinical
    tables are written and read as those of an archive are. There are no images: `ingest_dess` and
    `ingest_msme` stay pending, so no network segments these exams, and nothing is fitted.

    Steps `segment_bones`, `segment_cartilage`, `register` and `t2` count as done by a run named
    ``import``; maps and averages are for ``lake.run("sphere")`` and ``lake.run("region")``. Each
    exam is marked: step `ingest_truth` is done, and ``lake.cohort("made_from == 'truth'")`` finds
    it, where ``made_from == 'delivered'`` finds all others.

    Parameters
    ----------
    lake : Lake or URL
        A URL without a lake is made into one, whose arrays fit every knee of this `shape`.
    exams : int
        Number of exams. More of them later hold these: what is there is skipped, so a call that
        was stopped goes on.
    shape : (slices, rows, columns)
        Of the DESS; the field of view is 112 x 140 x 140 mm whatever the shape.
    seed : int
        Seed of the population.
    first_patient : int
        Index of the first patient in the population. An archive of the same seed starts at 0 and
        takes about one patient for two exams: far behind, no patient is in both.
    cluster, commit_every, listeners : optional
        As in `Lake.run`: one task an exam.

    Returns
    -------
    TruthResult
        Its ``problems`` list multi-echo series of more slices than an older lake's arrays hold:
        such an exam has no T2, and step `ingest_truth` is flagged.

    Raises
    ------
    InputError
        Fewer than one exam; a shape too small for a knee or larger than the lake's arrays; patients
        that the lake has from a delivery; exams that it has with another seed or shape.

    Examples
    --------
    >>> import qmri_lake as ql
    >>> made = ql.phantom.add_true_exams("oai.lake", exams=400)  # doctest: +SKIP
    >>> made.lake.run("sphere", "made_from == 'truth' and knee == 'right'")  # doctest: +SKIP
    """
    chosen = _chosen(exams, seed, first_patient)
    set_up(chosen[0], shape)  # a shape too small leaves no empty lake behind
    shape = (int(shape[0]), int(shape[1]), int(shape[2]))
    settings = {"made_from": "truth", "shape": list(shape), "seed": int(seed)}
    if isinstance(lake, Lake):
        target = lake
    else:
        there = existing_lake(url := os.fspath(lake))
        target = create_lake(url) if there is None else there
    load_own_steps()  # they declare what is written here
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
            run, record = new_run(target.root, "import", target.snapshot)
            with running(cluster) as client:
                result = execute(
                    target, STEP, run, {**record, "parameters": settings}, None, _write_truth,
                    tasks, cluster=client, commit_every=commit_every, listeners=listeners,
                )  # fmt: skip
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
            f"patient number {last}", expected="seven digits", where="phantom",
            todo=f"Use first_patient below {_LAST_NUMBER - FIRST_PATIENT - count:,}.",
        )  # fmt: skip
    return chosen


def _refuse_larger(lake: Lake, shape: tuple[int, int, int]) -> None:
    """Refuse knees that no array of an older lake holds; slices of the MSME are told by exam."""
    wanted = {"dess": shape, "msme": shape[1:]}
    for group, sizes in ((g, tuple(group_sizes(lake.root, g).values())) for g in wanted):
        largest = sizes[-len(wanted[group]) :]
        if any(n > m for n, m in zip(wanted[group], largest, strict=bool(sizes))):
            raise InputError(
                f"{group} of {_by(wanted[group])}",
                expected=f"at most {_by(largest)}, fixed when the lake was made",
                where=lake.url,
                todo="Use a smaller shape, or a new lake.",
                reason=Reason.LARGER_THAN_LAKE,
            )


def _refuse_others(lake: Lake, chosen: Sequence[Exam], settings: Mapping[str, Any]) -> None:
    """Refuse to mix two people under one number: of a delivery, or of another population."""
    is_true = np.zeros(len(lake), bool)
    if _MADE_FROM.path in lake.root:
        is_true = lake.root[_MADE_FROM.path][:] == _TRUTH
    numbers = {exam.patient.number for exam in chosen}
    delivered = sorted(numbers & set(lake.patients[~is_true].tolist()))
    if delivered:
        raise InputError(
            f"{counted(len(delivered), 'patient')} that the lake has from a delivery, such as "
            f"{delivered[0]}",
            expected="patients that are not there",
            where=lake.url,
            todo="Start at a later patient, first_patient=10000 or more.",
            reason=Reason.OTHER_SERIES,
        )
    status, runs = read_status(lake.root, STEP, len(lake)), read_runs(lake.root)
    mine = status.usable & lake.exams["exam"].isin([exam.key for exam in chosen]).to_numpy()
    for number in np.unique(status.run[mine]).tolist():
        made_with = runs[number]["parameters"]
        if made_with != settings:
            exam = lake.exams["exam"].iloc[np.flatnonzero(mine & (status.run == number))[0]]
            raise InputError(
                f"seed {settings['seed']} and shape {_by(settings['shape'])}",
                expected=f"seed {made_with['seed']} and shape {_by(made_with['shape'])}, "
                f"as {exam} was made with",
                where=lake.url,
                todo="Use those, another first_patient, or a new lake.",
                reason=Reason.OTHER_SERIES,
            )


def _append(lake: Lake, chosen: Sequence[Exam], shape: tuple[int, int, int]) -> None:
    """Add the exams that are new, marked in the same commit: none is ever without its mark."""
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
            sizes = PROFILES[lake.profile][group] if lake.profile else sizes_of(group, box)
            # Images too: a delivery that is ingested later finds its arrays.
            for step in (f"ingest_{group}", *_OF_DESS, *_OF_MSME):
                made = [v for v in REGISTRY.made_by(step) if v.group == group]
                if made:
                    declare(root, made, sizes)
                    declare_status(root, step, stop)
        declare(root, [_MADE_FROM])
        change = Change()
        marks = np.full(stop - start, _TRUTH, np.uint8)
        change.set_column(_MADE_FROM.path, range(start, stop), marks)
        change(session)

    with translated_errors(lake.url):
        commit(lake.repo, build, f"Add {counted(len(new), 'exam')} to be made from truth")
    lake.refresh()


def _store_tables(lake: Lake, chosen: Sequence[Exam], seed: int) -> tuple[int, tuple[Problem, ...]]:
    """Write the patients' clinical tables as an archive has them, and store what they say."""
    patients = {exam.patient.index: exam.patient for exam in chosen}
    with TemporaryDirectory() as folder:
        write_tables(Path(folder), list(patients.values()), seed)
        visits, _, problems = store_visits(lake, Path(folder), {})
    return visits, problems


def _write_truth(fork: icechunk.ForkSession, task: _TruthTask) -> Outcome:
    """Evaluate one knee and write its truth; the work of one task."""
    load_own_steps()  # a worker has declared nothing yet
    outcome = Outcome(task.row, task.exam, {}, fork)
    root = open_root(fork.store, "r+")
    at = set_up(task.truth, task.shape)
    too_wide = _too_wide(root, at.msme_shape, task) if task.truth.has_msme else None
    try:
        lattice = at.lattice()
        dess = sample_dess(at, lattice)
        product: dict[str, dict[str, Any]] = {
            "dess": {
                "bone": dess.bone, "cartilage": dess.cartilage, "affine": at.dess_affine,
                "extent": np.array(at.shape, np.int16),
            }
        }  # fmt: skip
        if task.truth.has_msme and too_wide is None:
            msme = sample_msme(at, lattice)
            inside = (msme.cartilage > 0) & (msme.cartilage < 4)  # menisci have no depth
            t2 = np.where(inside, cartilage_t2(msme.depth, at.raised), np.float32(np.nan))
            product["msme"] = {
                "cartilage": msme.cartilage, "t2": t2, "dess_to_msme": at.dess_to_msme,
                "affine": at.msme_affine, "extent": np.array(at.msme_shape, np.int16),
            }  # fmt: skip
        for group, values in product.items():
            variables = [REGISTRY[f"{group}/{name}"] for name in values]
            outcome.small |= write_exam(root, variables, values, task.row, task.exam)
    except Exception as error:  # one exam's failure must not end the run of the others
        full = disk_full(error, task.exam)
        if full is not None:
            raise full from error
        states = dict.fromkeys(task.steps, ("failed", one_line(error)))
        return Outcome(task.row, task.exam, states)
    outcome.states = dict.fromkeys(task.steps, ("done", ""))
    if too_wide is not None:
        outcome.problems.append(too_wide)
        outcome.states |= dict.fromkeys(_OF_MSME, ("failed", str(too_wide)))
        outcome.states[STEP] = ("flagged", f"without T2: {too_wide.found}")
    return outcome


def _too_wide(root: Node, shape: Sequence[int], task: _TruthTask) -> Problem | None:
    """Say of a knee whose multi-echo series has more slices than an older lake's arrays."""
    most = int(root["msme/cartilage"].shape[1])
    if shape[0] <= most:
        return None
    return Problem(
        Reason.LARGER_THAN_LAKE, task.exam, f"a multi-echo series of {shape[0]} slices",
        f"at most {most}, fixed when the lake was made",
        "Make the lake of true exams first: its arrays fit every knee.", task.exam,
    )  # fmt: skip


def _by(shape: Sequence[int]) -> str:
    return " x ".join(str(n) for n in shape)
