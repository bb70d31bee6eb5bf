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
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import icechunk
import xarray as xr

from qmri_lake.core.disk_full import disk_full
from qmri_lake.core.text import in_one_line, one_line
from qmri_lake.errors import DiskFullError, Problem, RunError
from qmri_lake.execution.dask_types import DaskClient
from qmri_lake.execution.events import (
    Committed,
    ExamDone,
    Listener,
    RunEnded,
    RunResult,
    RunStarted,
)
from qmri_lake.execution.exam_io import read_exam, write_exam
from qmri_lake.execution.plan import Plan
from qmri_lake.execution.step import (
    EXAMS_PER_BATCH,
    Parameters,
    Result,
    Skip,
    Step,
    code_version,
)
from qmri_lake.execution.task_queue import map_tasks
from qmri_lake.schema.variable import with_variant
from qmri_lake.store.arrays import Node, open_root
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


@dataclass(slots=True)
class TaskResult:
    """What a task returns for the commit: its fork of the session, scalar values, and states."""

    row: int
    exam: str
    states: dict[str, tuple[str, str]]
    """(state, message) by step."""
    fork: icechunk.ForkSession | None = None
    small: dict[str, object] = field(default_factory=dict)
    erased: Sequence[str] = ()
    """Paths of values of an earlier run that have no new value and are removed."""
    problems: list[Problem] = field(default_factory=list)

    def add_to(self, batch: Transaction, run: int) -> None:
        """Add the fork, values and states to the changes of the next commit."""
        if self.fork is not None:
            batch.forks.append(self.fork)
        for path, value in self.small.items():
            batch.set_small(path, self.row, value)
        for path in self.erased:
            batch.erase(path, self.row)
        for step, (state, message) in self.states.items():
            batch.set_state(step, self.row, state, run, message)

    @property
    def worst(self) -> tuple[str, str]:
        """State and message of the step with the worst state, for a progress display."""
        order = ("failed", "flagged", "skipped", "done")
        nothing = (State.SKIPPED.label, "nothing to do")
        return min(self.states.values(), key=lambda mark: order.index(mark[0]), default=nothing)


class Task(Protocol):
    """Interface of a task of `execute`."""

    @property
    def row(self) -> int:
        """Position of the task's exam on the exam axis."""

    @property
    def exam(self) -> str:
        """Key of the task's exam."""

    @property
    def steps(self) -> tuple[str, ...]:
        """Steps for which the task sets a state."""

    @property
    def replaced(self) -> tuple[str, ...]:
        """Paths of results of an earlier run. Results without a new value are removed."""


@dataclass(frozen=True, slots=True)
class _StepTask:
    row: int
    exam: str
    steps: tuple[str, ...]
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Batch:
    """Exams that one task computes together."""

    tasks: tuple[_StepTask, ...]


@dataclass(frozen=True)
class StepWork:
    """Function that computes one exam of a step on a worker.

    It is pickled with every task and must therefore be small.
    """

    step: Step
    inputs: Mapping[str, Sequence[str]]
    parameters: Parameters
    variant: str

    def __call__(self, fork: icechunk.ForkSession, task: _StepTask) -> TaskResult:
        """Read, compute and write one exam."""
        try:
            root = open_root(fork.store, "r+")
            groups = self.read(root, task)
            product = self.step.function(*groups, **self.parameters)
            return self.write(root, fork, task, groups, product)
        except Skip as reason:
            return _without_result(task, State.SKIPPED, in_one_line(reason))
        except RunError:  # the error concerns all exams, such as a missing model: end the run
            raise
        except Exception as error:  # the error concerns this exam only: the run continues
            full = disk_full(error, task.exam)
            if full is not None:
                raise full from error
            _log.debug("exam %s failed", task.exam, exc_info=True)
            return _without_result(task, State.FAILED, one_line(error))

    def read(self, root: Node, task: _StepTask) -> list[xr.Dataset]:
        """Read the inputs of an exam."""
        return [read_exam(root, g, names, task.row) for g, names in self.inputs.items()]

    def write(
        self,
        root: Node,
        fork: icechunk.ForkSession | None,
        task: _StepTask,
        groups: Sequence[xr.Dataset],
        product: Result,
    ) -> TaskResult:
        """Write the result of an exam."""
        small = write_exam(
            root, self.step.writes, product, task.row, task.exam, self.variant, groups
        )
        flag = product.attrs.get("flag", "") if isinstance(product, xr.Dataset) else ""
        state = (State.FLAGGED.label, in_one_line(flag)) if flag else (State.DONE.label, "")
        new = {with_variant(v.path, self.variant) for v in self.step.writes if v.name in product}
        erased = [path for path in task.replaced if path not in new]
        return TaskResult(
            task.row, task.exam, dict.fromkeys(task.steps, state), fork, small, erased
        )


@dataclass(frozen=True)
class BatchWork:
    """Function that computes a batch of exams on a worker.

    All values are small, so no fork is returned. If the batch function raises an error, the exams
    are computed one by one, so that the failure of one exam does not affect the others.
    """

    one: StepWork

    def __call__(self, fork: icechunk.ForkSession, batch: _Batch) -> list[TaskResult]:
        """Read, compute and write a batch of exams."""
        work, function = self.one, self.one.step.batch_function
        assert function is not None  # a step without one uses StepWork
        try:
            root = open_root(fork.store, "r+")
            groups = [work.read(root, task) for task in batch.tasks]
            products = function(*map(list, zip(*groups, strict=True)), **work.parameters)
            results = [
                _without_result(task, State.SKIPPED, in_one_line(product))
                if isinstance(product, Skip)
                else work.write(root, None, task, group, product)
                for task, group, product in zip(batch.tasks, groups, products, strict=True)
            ]
        except RunError:
            raise
        except Exception:
            _log.debug("batch failed: computing its exams one by one", exc_info=True)
            results = [replace(work(fork, task), fork=None) for task in batch.tasks]
        return results


def _without_result(task: Task, state: State, message: str) -> TaskResult:
    states = dict.fromkeys(task.steps, (state.label, message))
    return TaskResult(task.row, task.exam, states, erased=task.replaced)


def _lost(task: Task | _Batch, error: BaseException) -> TaskResult | list[TaskResult]:
    """Return the failed state of a task whose worker died, or that could not be sent.

    Raises
    ------
    DiskFullError, RunError
        If the error concerns the whole run, not only the exam.
    """
    from distributed import KilledWorker

    if isinstance(error, (DiskFullError, RunError)):
        raise error
    if isinstance(error, KilledWorker):
        message = "its worker died on each attempt: too little memory, or a crash"
        _log.warning("a worker died on each attempt to compute a task")
    else:
        message = one_line(error)
    if isinstance(task, _Batch):
        return [_without_result(exam, State.FAILED, message) for exam in task.tasks]
    return _without_result(task, State.FAILED, message)


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
        "code": code_version(plan.step),
        "version": plan.step.version,
        "snapshot": lake.snapshot,
    }

    def prepare(session: icechunk.Session) -> None:
        root = open_root(session.store, "r+")
        declare(root, plan.step.writes, plan.new_sizes, plan.variant)
        declare_status(root, name, exam_count(root))

    work = StepWork(plan.step, plan.inputs, plan.parameters, plan.variant)
    exams = lake.exams["exam"].to_numpy()[plan.rows]
    paths = tuple(with_variant(v.path, plan.variant) for v in plan.step.writes)
    tasks = [
        _StepTask(int(row), exam, (name,), paths if replaces else ())
        for row, exam, replaces in zip(plan.rows, exams, plan.replaced, strict=True)
    ]
    batched = plan.step.batch_function is not None
    done = execute(
        lake,
        name,
        record,
        prepare,
        BatchWork(work) if batched else work,
        [_Batch(tuple(b)) for b in _batched(tasks, EXAMS_PER_BATCH)] if batched else tasks,
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
    tasks: Sequence[Task | _Batch],
    *,
    cluster: DaskClient | None = None,
    gpu: bool = False,
    commit_every: int = 32,
    commit_seconds: float = 30.0,
    listeners: Sequence[Listener] = (),
) -> Executed:
    """Run `work` on all tasks and commit their results in batches.

    `prepare` declares arrays. Its changes are committed first, because a fork cannot start from
    uncommitted changes. The same commit claims the number of the run, so that no other writer gets
    it. Forks stay valid across commits, because each fork contains only the chunks of its own
    exams; see `qmri_lake.store.transaction.merge_forks`.
    """
    repo = lake.repo
    exams = sum(len(task.tasks) if isinstance(task, _Batch) else 1 for task in tasks)
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
        Transaction(runs={run: record})(session)

    with translated_errors(lake.url):
        snapshot = commit(
            repo, begin, lambda: f"Start run {run}: {name}", lambda: {"run": run, "step": name}
        )
    _log.info("run %d of %s started: %d exams", run, name, exams)
    for listener in listeners:
        listener(RunStarted(name, run, exams))

    counts = dict.fromkeys((state.label for state in State if state != State.PENDING), 0)
    batch, last_commit = Transaction(), time.monotonic()
    problems: list[Problem] = []

    def flush(message: str) -> str:
        nonlocal batch, last_commit
        event = Committed("", len(batch))
        metadata = {"run": run, "step": name, "exams": event.exams}
        with translated_errors(lake.url):
            event = replace(event, snapshot=commit(repo, batch, message, metadata))
        if batch.rewritten:
            base.renew()
        batch, last_commit = Transaction(), time.monotonic()  # before a listener can raise an error
        for listener in listeners:
            listener(event)
        return event.snapshot

    base = _Base(repo)
    try:
        with translated_errors(lake.url):
            for arrived in map_tasks(work, base, tasks, cluster=cluster, lost=_lost, gpu=gpu):
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


def _batched(tasks: Sequence[_StepTask], size: int) -> list[Sequence[_StepTask]]:
    return [tasks[at : at + size] for at in range(0, len(tasks), size)]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
