"""Runs: a task an exam or a block of them, on forks of a session, and one committer for all.

Plan, fork, compute, merge the forks that have arrived, write the small values, commit; without a
barrier between batches. A killed run leaves the last commit intact, and the next one goes on.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import icechunk
import xarray as xr

from qmri_lake.compute import map_tasks
from qmri_lake.errors import DiskFullError, Problem, QmriLakeError, RunError, printable
from qmri_lake.plan import Plan
from qmri_lake.status import STATE, declare_status
from qmri_lake.steps import BLOCK, Skip, Step, code_version, read_exam, write_exam
from qmri_lake.storage import BRANCH, Node, commit, disk_full, open_root, translated_errors
from qmri_lake.variables import with_variant
from qmri_lake.writing import Change, declare, exam_count

if TYPE_CHECKING:
    from qmri_lake.lake import Lake

__all__ = ["Committed", "ExamDone", "Listener", "Outcome", "RunEnded", "RunResult", "RunStarted"]

_LONGEST_MESSAGE = 1000
"""Characters: a message shares its chunk with those of 4,095 other exams."""


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run begins: how many exams it will work on."""

    step: str
    run: int
    total: int


@dataclass(frozen=True, slots=True)
class ExamDone:
    """A task has ended; its result is not committed yet."""

    exam: str
    state: str
    message: str


@dataclass(frozen=True, slots=True)
class Committed:
    """A batch of exams is safe."""

    snapshot: str
    exams: int


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A run has ended."""

    result: RunResult


Listener = Callable[[RunStarted | ExamDone | Committed | RunEnded], None]


@dataclass(slots=True)
class Outcome:
    """What a task returns to the committer: its fork, its small values, its marks."""

    row: int
    exam: str
    states: dict[str, tuple[str, str]]
    """(state, message) by step."""
    fork: icechunk.ForkSession | None = None
    small: dict[str, Any] = field(default_factory=dict)
    erased: Sequence[str] = ()
    """Paths of the exam's old values that no new ones replace."""
    problems: list[Problem] = field(default_factory=list)

    @property
    def worst(self) -> tuple[str, str]:
        """The state that a progress display shows."""
        order = ("failed", "flagged", "skipped", "done")
        nothing = ("skipped", "nothing to do")
        return min(self.states.values(), key=lambda mark: order.index(mark[0]), default=nothing)


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run did."""

    step: str
    run: int
    counts: Mapping[str, int]
    """Exams by state: done, failed, skipped, flagged."""
    up_to_date: int
    failed_before: int
    """Exams left alone because they failed before with the same parameters."""
    waiting: Mapping[str, int]
    """Exams that could not run, by the step that they wait for."""
    snapshot: str
    seconds: float

    @property
    def failed(self) -> int:
        """Number of exams that failed."""
        return self.counts.get("failed", 0)

    def __str__(self) -> str:
        parts = [f"{n} {state}" for state, n in self.counts.items() if n]
        parts += [f"{self.up_to_date} already done"] if self.up_to_date else []
        if self.failed_before:
            parts.append(f"{self.failed_before} failed before (retry_failed=True tries again)")
        parts += [f"{n} waiting for {step}" for step, n in self.waiting.items() if n]
        return f"{self.step}: {', '.join(parts) or 'nothing to do'} ({self.seconds:.1f} s)"


class Task(Protocol):
    """What `execute` must know of a task."""

    @property
    def row(self) -> int:
        """Position of its exam."""

    @property
    def exam(self) -> str:
        """Key of its exam."""

    @property
    def steps(self) -> tuple[str, ...]:
        """Steps whose state it sets."""

    @property
    def replaced(self) -> tuple[str, ...]:
        """Paths of what the exam has of an earlier run, and keeps only where it is made again."""


@dataclass(frozen=True, slots=True)
class _StepTask:
    row: int
    exam: str
    steps: tuple[str, ...]
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Block:
    """Exams that one task computes together."""

    tasks: tuple[_StepTask, ...]


@dataclass(frozen=True)
class StepWork:
    """What a worker needs to compute one exam of a step; pickled once a task, so kept small."""

    step: Step
    inputs: Mapping[str, Sequence[str]]
    parameters: Mapping[str, Any]
    variant: str

    def __call__(self, fork: icechunk.ForkSession, task: _StepTask) -> Outcome:
        """Read, compute and write one exam."""
        try:
            root = open_root(fork.store, "r+")
            groups = self.read(root, task)
            product = self.step.function(*groups, **self.parameters)
            return self.written(root, fork, task, groups, product)
        except Skip as reason:
            return _without_product(task, "skipped", in_one_line(reason))
        except RunError:  # a step raises it for what would fail every exam, such as its models
            raise
        except Exception as error:  # one exam's failure must not end the run of the others
            full = disk_full(error, task.exam)
            if full is not None:
                raise full from error
            return _without_product(task, "failed", one_line(error))

    def read(self, root: Node, task: _StepTask) -> list[xr.Dataset]:
        """Read what the step needs of an exam."""
        return [read_exam(root, g, names, task.row) for g, names in self.inputs.items()]

    def written(
        self,
        root: Node,
        fork: icechunk.ForkSession | None,
        task: _StepTask,
        groups: Sequence[xr.Dataset],
        product: Any,
    ) -> Outcome:
        """Write what the step has made of an exam."""
        small = write_exam(
            root, self.step.writes, product, task.row, task.exam, self.variant, groups
        )
        flag = getattr(product, "attrs", {}).get("flag", "")
        mark = ("flagged", in_one_line(flag)) if flag else ("done", "")
        made = {with_variant(v.path, self.variant) for v in self.step.writes if v.name in product}
        left_out = [path for path in task.replaced if path not in made]
        return Outcome(task.row, task.exam, dict.fromkeys(task.steps, mark), fork, small, left_out)


@dataclass(frozen=True)
class BlockWork:
    """What a worker needs to compute a block of exams; their values are small, so no fork returns.

    If any of them fails, each is computed by itself: it is not to fail the others.
    """

    one: StepWork

    def __call__(self, fork: icechunk.ForkSession, block: _Block) -> list[Outcome]:
        """Read and compute a block of exams."""
        work, together = self.one, self.one.step.together
        assert together is not None  # else it would be StepWork
        try:
            root = open_root(fork.store, "r+")
            groups = [work.read(root, task) for task in block.tasks]
            products = together(*map(list, zip(*groups, strict=True)), **work.parameters)
            outcomes = [
                _without_product(task, "skipped", in_one_line(product))
                if isinstance(product, Skip)
                else work.written(root, None, task, group, product)
                for task, group, product in zip(block.tasks, groups, products, strict=True)
            ]
        except RunError:
            raise
        except Exception:
            outcomes = [replace(work(fork, task), fork=None) for task in block.tasks]
        return outcomes


def _without_product(task: Task, state: str, message: str) -> Outcome:
    states = dict.fromkeys(task.steps, (state, message))
    return Outcome(task.row, task.exam, states, erased=task.replaced)


def _lost(task: Task | _Block, error: BaseException) -> Outcome | list[Outcome]:
    """Make a failure of a task that brought no outcome: its worker died, or nothing could be sent.

    No room, or a run that can't be carried out, is no failure of an exam, but the end of the run.
    """
    from distributed import KilledWorker

    if isinstance(error, (DiskFullError, RunError)):
        raise error
    if isinstance(error, KilledWorker):
        message = "its worker died each time it was tried: too little memory, or a crash"
    else:
        message = one_line(error)
    if isinstance(task, _Block):
        return [_without_product(exam, "failed", message) for exam in task.tasks]
    return _without_product(task, "failed", message)


def one_line(error: BaseException) -> str:
    """Say an exception in one line, its kind first unless it is one of ours."""
    name, text = type(error).__name__, in_one_line(error)
    if isinstance(error, QmriLakeError):
        return text
    return f"{name}: {text or name}"


def in_one_line(said: object) -> str:
    """Return a text that a status can hold: one line, not endless, and valid Unicode."""
    try:
        text = " ".join(str(said)[: 2 * _LONGEST_MESSAGE].split())
    except Exception:  # the text of somebody's exception may raise one itself
        return ""
    if len(text) > _LONGEST_MESSAGE:
        text = text[:_LONGEST_MESSAGE] + " ..."
    return printable(text)


def run_step(
    lake: Lake,
    plan: Plan,
    *,
    cluster: Any,
    commit_every: int,
    commit_seconds: float,
    listeners: Sequence[Listener],
) -> RunResult:
    """Carry out a plan; the caller holds the writer's lock."""
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
    together = plan.step.together is not None
    done = execute(
        lake,
        name,
        plan.run,
        record,
        prepare,
        BlockWork(work) if together else work,
        [_Block(tuple(b)) for b in _batched(tasks, BLOCK)] if together else tasks,
        cluster=cluster,
        gpu=plan.step.gpu,
        commit_every=commit_every,
        commit_seconds=commit_seconds,
        listeners=listeners,
    )
    result = RunResult(
        name, plan.run, done.counts, plan.up_to_date, plan.failed_before, plan.waiting,
        done.snapshot, time.monotonic() - started,
    )  # fmt: skip
    for listener in listeners:
        listener(RunEnded(result))
    return result


@dataclass(frozen=True, slots=True)
class Executed:
    """What became of the tasks of a run: exams by state, the last commit, problems of input."""

    counts: Mapping[str, int]
    snapshot: str
    problems: tuple[Problem, ...]


def execute(
    lake: Lake,
    name: str,
    run: int,
    record: Mapping[str, Any],
    prepare: Callable[[icechunk.Session], None] | None,
    work: Callable[[icechunk.ForkSession, Any], Outcome | list[Outcome]],
    tasks: Sequence[Task | _Block],
    *,
    cluster: Any = None,
    gpu: bool = False,
    commit_every: int = 32,
    commit_seconds: float = 30.0,
    listeners: Sequence[Listener] = (),
) -> Executed:
    """Run `work` on every task and commit what arrives.

    The schema is committed before the fork, since a fork can't start from uncommitted changes.
    Forks stay valid while commits go on: each holds only its own exams' chunks.
    """
    repo = lake.repo
    exams = sum(len(task.tasks) if isinstance(task, _Block) else 1 for task in tasks)
    record = {
        **record,
        "started": _now(),
        "finished": "",
        "process": os.getpid(),
        "exams": exams,
    }

    def begin(session: icechunk.Session) -> None:
        if prepare is not None:
            prepare(session)
        Change(runs={run: record})(session)

    with translated_errors(lake.url):
        snapshot = commit(repo, begin, f"Start run {run}: {name}", {"run": run, "step": name})
    for listener in listeners:
        listener(RunStarted(name, run, exams))

    counts = dict.fromkeys((state for state in STATE if state != "pending"), 0)
    batch, last_commit = Change(), time.monotonic()
    problems: list[Problem] = []

    def flush(message: str) -> str:
        nonlocal batch, last_commit
        event = Committed("", len(batch))
        metadata = {"run": run, "step": name, "exams": event.exams}
        with translated_errors(lake.url):
            event = replace(event, snapshot=commit(repo, batch, message, metadata))
        batch, last_commit = Change(), time.monotonic()  # before a listener can raise
        for listener in listeners:
            listener(event)
        return event.snapshot

    base = repo.writable_session(BRANCH)
    try:
        with translated_errors(lake.url):
            for arrived in map_tasks(work, base, tasks, cluster=cluster, lost=_lost, gpu=gpu):
                for outcome in arrived if isinstance(arrived, list) else [arrived]:
                    if outcome.fork is not None:
                        batch.forks.append(outcome.fork)
                    problems += outcome.problems
                    for path, value in outcome.small.items():
                        batch.set_small(path, outcome.row, value)
                    for path in outcome.erased:
                        batch.erase(path, outcome.row)
                    for step, (state, message) in outcome.states.items():
                        batch.set_state(step, outcome.row, state, run, message)
                    state, message = outcome.worst
                    counts[state] += 1
                    for listener in listeners:
                        listener(ExamDone(outcome.exam, state, message))
                if len(batch) >= commit_every or time.monotonic() - last_commit > commit_seconds:
                    snapshot = flush(f"Run {run}: {name}, {len(batch)} exams")
    except BaseException:
        # What has arrived is good: keep it if there is room for it, then say why we stop. The
        # cause may be a listener: it is not to stand in the way of that.
        if len(batch):
            with contextlib.suppress(Exception):
                flush(f"Run {run}: {name}, {len(batch)} exams, stopped")
        raise
    batch.runs[run] = {**record, "finished": _now(), "counts": counts}
    snapshot = flush(f"End run {run}: {name}")
    lake.refresh()
    return Executed(counts, snapshot, tuple(problems))


def _batched(tasks: Sequence[_StepTask], size: int) -> list[Sequence[_StepTask]]:
    return [tasks[at : at + size] for at in range(0, len(tasks), size)]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
