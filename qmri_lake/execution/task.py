"""Tasks of runs, each of which computes one exam or a batch of exams on a worker."""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import icechunk
import numpy as np
import xarray as xr

from qmri_lake.core.disk_full import disk_full
from qmri_lake.core.text import in_one_line, one_line, status_message
from qmri_lake.errors import DiskFullError, Problem, RunError
from qmri_lake.execution.exam_io import read_exam, write_exam
from qmri_lake.execution.step import Parameters, Result, Skip, Step
from qmri_lake.schema.variable import with_variant
from qmri_lake.store.arrays import Node, open_root
from qmri_lake.store.status import State, read_status_rows
from qmri_lake.store.transaction import Transaction

__all__ = ["BatchTask", "BatchWork", "StepTask", "StepWork", "Task", "TaskResult", "lost_task"]

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
    erased: Sequence[tuple[str, str]] = ()
    """Step and path of each value that is removed if the exam has a result of an earlier run."""
    inputs: Mapping[str, int] = field(default_factory=dict)
    """Runs whose results were read, by step."""
    problems: list[Problem] = field(default_factory=list)

    def add_to(self, batch: Transaction, run: int) -> None:
        """Add the fork, values and states to the changes of the next commit."""
        if self.fork is not None:
            batch.forks.append(self.fork)
        for path, value in self.small.items():
            batch.set_small(path, self.row, value)
        for step, path in self.erased:
            batch.erase(step, path, self.row)
        for step, (state, message) in self.states.items():
            batch.set_state(step, self.row, state, run, message, self.inputs)

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
        """Paths of the results. Values of an earlier result without a new value are removed."""


@dataclass(frozen=True, slots=True)
class StepTask:
    """One exam of a step."""

    row: int
    exam: str
    steps: tuple[str, ...]
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchTask:
    """Exams that one task computes together."""

    tasks: tuple[StepTask, ...]


@dataclass(frozen=True)
class StepWork:
    """Function that computes one exam of a step on a worker.

    It is pickled with every task and must therefore be small.
    """

    step: Step
    inputs: Mapping[str, Sequence[str]]
    parameters: Parameters
    variant: str
    needed: Sequence[str] = ()
    """Steps that write the inputs."""

    def __call__(self, fork: icechunk.ForkSession, task: StepTask) -> TaskResult:
        """Read, compute and write one exam."""
        runs: Mapping[str, int] | None = {}
        try:
            root = open_root(fork.store, "r+")
            (runs,) = self.runs_read(root, [task])
            if runs is None:
                return _without_input(task)
            groups = self.read(root, task)
            product = self.step.function(*groups, **self.parameters)
            return self.write(root, fork, task, groups, product, runs)
        except Skip as reason:
            return without_result(task, State.SKIPPED, in_one_line(reason), runs)
        except RunError:  # the error concerns all exams, such as a missing model: end the run
            raise
        except Exception as error:  # the error concerns this exam only: the run continues
            full = disk_full(error, task.exam)
            if full is not None:
                raise full from error
            _log.debug("exam %s failed", task.exam, exc_info=True)
            return without_result(task, State.FAILED, status_message(error), runs)

    def runs_read(self, root: Node, tasks: Sequence[StepTask]) -> list[dict[str, int] | None]:
        """Return the runs of the inputs of each exam, by step.

        None: an input has no result any more, because another writer has committed a failure since
        the run was planned.
        """
        rows = np.array([task.row for task in tasks])
        inputs = {step: read_status_rows(root, step, rows) for step in self.needed}
        return [
            {step: int(status.run[at]) for step, status in inputs.items()}
            if all(status.usable[at] for status in inputs.values())
            else None
            for at in range(len(tasks))
        ]

    def read(self, root: Node, task: StepTask) -> list[xr.Dataset]:
        """Read the inputs of an exam."""
        runs = self.step.with_runs
        return [read_exam(root, g, names, task.row, runs=runs) for g, names in self.inputs.items()]

    def write(
        self,
        root: Node,
        fork: icechunk.ForkSession | None,
        task: StepTask,
        groups: Sequence[xr.Dataset],
        product: Result,
        runs: Mapping[str, int],
    ) -> TaskResult:
        """Write the result of an exam that was computed from the results of `runs`."""
        small = write_exam(
            root, self.step.writes, product, task.row, task.exam, self.variant, groups
        )
        flag = product.attrs.get("flag", "") if isinstance(product, xr.Dataset) else ""
        state = (State.FLAGGED.label, in_one_line(flag)) if flag else (State.DONE.label, "")
        new = {with_variant(v.path, self.variant) for v in self.step.writes if v.name in product}
        erased = _erased(task, new)
        return TaskResult(
            task.row, task.exam, dict.fromkeys(task.steps, state), fork, small, erased, runs
        )


@dataclass(frozen=True)
class BatchWork:
    """Function that computes a batch of exams on a worker.

    All values are small, so no fork is returned. If the batch function raises an error, the exams
    are computed one by one, so that the failure of one exam does not affect the others.
    """

    one: StepWork

    def __call__(self, fork: icechunk.ForkSession, batch: BatchTask) -> list[TaskResult]:
        """Read, compute and write a batch of exams."""
        work, function = self.one, self.one.step.batch_function
        assert function is not None  # a step without one uses StepWork
        try:
            root = open_root(fork.store, "r+")
            all_runs = work.runs_read(root, batch.tasks)
            ready = {t: r for t, r in zip(batch.tasks, all_runs, strict=True) if r is not None}
            groups = [work.read(root, task) for task in ready]
            products = function(*map(list, zip(*groups, strict=True)), **work.parameters)
            results = [
                without_result(task, State.SKIPPED, in_one_line(product), runs)
                if isinstance(product, Skip)
                else work.write(root, None, task, group, product, runs)
                for (task, runs), group, product in zip(
                    ready.items(), groups, products, strict=True
                )
            ]
            results += [_without_input(task) for task in batch.tasks if task not in ready]
        except RunError:
            raise
        except Exception:
            _log.debug("batch failed: computing its exams one by one", exc_info=True)
            results = [replace(work(fork, task), fork=None) for task in batch.tasks]
        return results


def without_result(
    task: Task, state: State, message: str, runs: Mapping[str, int] | None = None
) -> TaskResult:
    """Return the state of an exam without a result, which was computed from results of `runs`."""
    states = dict.fromkeys(task.steps, (state.label, message))
    return TaskResult(task.row, task.exam, states, erased=_erased(task, ()), inputs=runs or {})


def _without_input(task: Task) -> TaskResult:
    """Return no state: the exam lacks an input, so a run planned now would not include it."""
    _log.info("exam %s has lost an input since the run was planned", task.exam)
    return TaskResult(task.row, task.exam, {})


def _erased(task: Task, new: Container[str]) -> list[tuple[str, str]]:
    return [(step, path) for step in task.steps for path in task.replaced if path not in new]


def lost_task(task: Task | BatchTask, error: BaseException) -> TaskResult | list[TaskResult]:
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
    if isinstance(task, BatchTask):
        return [without_result(exam, State.FAILED, message) for exam in task.tasks]
    return without_result(task, State.FAILED, message)
