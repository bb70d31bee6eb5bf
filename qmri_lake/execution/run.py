"""Runs of steps, with tasks on forks of a session and one committer.

A task computes one exam, or a batch of exams. The committer merges the forks of finished tasks,
writes their small values and commits, without waiting for other tasks. If a run is killed, the last
commit stays intact, and the next run resumes from it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import icechunk

from qmri_lake.errors import Problem
from qmri_lake.execution.dask_types import DaskClient
from qmri_lake.execution.events import (
    Committed,
    ExamDone,
    Listener,
    RunEnded,
    RunResult,
    RunStarted,
)
from qmri_lake.execution.plan import Plan
from qmri_lake.execution.step import EXAMS_PER_BATCH, code_version
from qmri_lake.execution.task import (
    BatchTask,
    BatchWork,
    StepTask,
    StepWork,
    Task,
    TaskResult,
    lost_task,
)
from qmri_lake.execution.task_queue import map_tasks
from qmri_lake.schema.variable import with_variant
from qmri_lake.store.arrays import open_root
from qmri_lake.store.file_checksums import FileRecorder
from qmri_lake.store.repository import BRANCH, commit, translated_errors
from qmri_lake.store.runs import next_run
from qmri_lake.store.status import State, declare_status
from qmri_lake.store.transaction import Transaction, declare, exam_count

if TYPE_CHECKING:
    from qmri_lake.store.snapshot import Snapshot

__all__ = [
    "Committed",
    "ExamDone",
    "Listener",
    "RunEnded",
    "RunResult",
    "RunStarted",
    "TaskResult",
    "execute",
    "run_step",
]


_log = logging.getLogger(__name__)


def run_step(
    lake: Snapshot,
    plan: Plan,
    *,
    cluster: DaskClient | None,
    commit_every: int,
    commit_seconds: float,
    listeners: Sequence[Listener],
) -> RunResult:
    """Compute the exams of a plan. The caller holds the writer's lock."""
    name = plan.name
    started = time.monotonic()
    if not len(plan.rows):
        return RunResult(
            name,
            plan.run,
            {},
            plan.up_to_date,
            plan.failed_before,
            plan.waiting,
            lake.snapshot,
            0.0,
        )
    record = {
        "step": name,
        "parameters": plan.step.record(plan.parameters),
        **plan.step.record_notes(plan.parameters),
        "code": code_version(plan.step),
        "version": plan.step.version,
        "snapshot": lake.snapshot,
    }

    def prepare(session: icechunk.Session) -> None:
        root = open_root(session.store, "r+")
        declare(root, plan.step.writes, plan.new_sizes, plan.variant)
        declare_status(root, name, exam_count(root))

    needed = plan.step.needed_steps(plan.parameters)
    work = StepWork(plan.step, plan.inputs, plan.parameters, plan.variant, needed)
    exams = lake.exams["exam"].to_numpy()[plan.rows]
    paths = tuple(with_variant(v.path, plan.variant) for v in plan.step.writes)
    tasks = [
        StepTask(int(row), exam, (name,), paths) for row, exam in zip(plan.rows, exams, strict=True)
    ]
    batched = plan.step.batch_function is not None
    done = execute(
        lake,
        name,
        record,
        prepare,
        BatchWork(work) if batched else work,
        [BatchTask(tuple(b)) for b in _batched(tasks, EXAMS_PER_BATCH)] if batched else tasks,
        cluster=cluster,
        gpu=plan.step.gpu,
        commit_every=commit_every,
        commit_seconds=commit_seconds,
        listeners=listeners,
    )
    result = RunResult(
        name,
        done.run,
        done.counts,
        plan.up_to_date,
        plan.failed_before,
        plan.waiting,
        done.snapshot,
        time.monotonic() - started,
    )
    for listener in listeners:
        listener(RunEnded(result))
    return result


@dataclass(frozen=True, slots=True)
class Executed:
    """Result of `execute`: number of the run, exams by state, last commit, input problems."""

    run: int
    counts: Mapping[str, int]
    snapshot: str
    problems: tuple[Problem, ...]


def execute(
    lake: Snapshot,
    name: str,
    record: Mapping[str, object],
    prepare: Callable[[icechunk.Session], None] | None,
    work: Callable[[icechunk.ForkSession, Any], TaskResult | list[TaskResult]],
    tasks: Sequence[Task | BatchTask],
    *,
    cluster: DaskClient | None = None,
    gpu: bool = False,
    commit_every: int = 32,
    commit_seconds: float = 30.0,
    listeners: Sequence[Listener] = (),
) -> Executed:
    """Run `work` on all tasks and commit their results in batches.

    `prepare` creates the arrays of the results. These changes are committed first, because Icechunk
    cannot fork a session with uncommitted changes. The same commit reserves the number of the run,
    so that no other writer uses it. Forks stay valid across commits, because each fork contains
    only the chunks of its own exams; see `qmri_lake.store.transaction.merge_forks`.
    """
    repo, removals = lake.repo, lake.removals
    exams = sum(len(task.tasks) if isinstance(task, BatchTask) else 1 for task in tasks)
    record = {
        **record,
        "started": _now(),
        "finished": "",
        "process": os.getpid(),
        "exams": exams,
    }

    run = 0

    def begin(session: icechunk.Session) -> None:
        nonlocal run
        if prepare is not None:
            prepare(session)
        run = next_run(open_root(session.store))
        Transaction(runs={run: record}, removals=removals)(session)

    with translated_errors(lake.url):
        snapshot = commit(
            repo, begin, lambda: f"Start run {run}: {name}", lambda: {"run": run, "step": name}
        )
    _log.info("run %d of %s started: %d exams", run, name, exams)
    for listener in listeners:
        listener(RunStarted(name, run, exams))

    counts = dict.fromkeys((state.label for state in State if state != State.PENDING), 0)
    batch, last_commit = Transaction(removals=removals), time.monotonic()
    problems: list[Problem] = []

    def flush(message: str) -> str:
        nonlocal batch, last_commit
        event = Committed("", len(batch))
        metadata = {"run": run, "step": name, "exams": event.exams}
        with translated_errors(lake.url):
            event = replace(event, snapshot=commit(repo, batch, message, metadata))
        recorder.record_if_due()
        if batch.rewritten:
            base.renew()
        batch, last_commit = (
            Transaction(removals=removals),
            time.monotonic(),
        )  # before a listener can raise an error
        for listener in listeners:
            listener(event)
        return event.snapshot

    base, recorder = _Base(repo), FileRecorder(lake.location)
    try:
        with translated_errors(lake.url):
            for arrived in map_tasks(work, base, tasks, cluster=cluster, lost=lost_task, gpu=gpu):
                for outcome in arrived if isinstance(arrived, list) else [arrived]:
                    problems += outcome.problems
                    outcome.add_to(batch, run)
                    state, message = outcome.worst
                    counts[state] += 1
                    for listener in listeners:
                        listener(ExamDone(outcome.exam, state, message))
                if len(batch) >= commit_every or time.monotonic() - last_commit > commit_seconds:
                    snapshot = flush(f"Run {run}: {name}, {len(batch)} exams")
    except BaseException:
        # Commit the finished exams if possible, then raise the original error. Even an error of a
        # listener must not prevent this commit.
        if len(batch):
            with contextlib.suppress(Exception):
                flush(f"Run {run}: {name}, {len(batch)} exams, stopped")
        raise
    batch.runs[run] = {**record, "finished": _now(), "counts": counts}
    snapshot = flush(f"End run {run}: {name}")
    _log.info("run %d of %s ended: %s", run, name, counts)
    lake.refresh()
    return Executed(run, counts, snapshot, tuple(problems))


class _Base:
    """The commit from which the forks of tasks start."""

    def __init__(self, repo: icechunk.Repository) -> None:
        self._repo = repo
        self.renew()

    def renew(self) -> None:
        """Start from the newest commit."""
        self._session = self._repo.writable_session(BRANCH)

    def fork(self) -> icechunk.ForkSession:
        """Return a fork for one task."""
        return self._session.fork()


def _batched(tasks: Sequence[StepTask], size: int) -> list[Sequence[StepTask]]:
    return [tasks[at : at + size] for at in range(0, len(tasks), size)]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
