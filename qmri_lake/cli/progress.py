"""Progress of long work as rich bars: listeners of runs and trainings, and counters.

Where the output is no terminal but a file, bars become a line now and then.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleDimensions
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from qmri_lake.run import Committed, ExamDone, RunStarted

if TYPE_CHECKING:
    from qmri_lake.segmentation.train import EpochDone

__all__ = ["TrainingBar", "console", "counting", "reading", "run_bar", "training_bar"]

_UNBROKEN = 10_000
"""Columns of what is no terminal: a line of a log or a pipe is as long as what it says."""
_EVERY = 30.0
"""Seconds from one line to the next, where there are no bars. Short work says nothing."""


class _Console(Console):
    @property
    def size(self) -> ConsoleDimensions:
        found = super().size
        asked_for = self.is_terminal or "COLUMNS" in os.environ
        return found if asked_for else found._replace(width=_UNBROKEN)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size


console = _Console(highlight=False, markup=False)
"""Where commands print. Without a terminal it prints plain text, and breaks no line, unless the
environment says COLUMNS.

Without markup: a path or a message may hold brackets, and they are to be seen.
"""

_ERRORS = _Console(stderr=True, highlight=False, markup=False)


class _Bars(Progress):
    """Bars in a terminal; elsewhere, what stands beside them, in a line every half minute."""

    def __init__(self, *columns: Any, **options: Any) -> None:
        super().__init__(*columns, **options)
        self._said = time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        if self.disable and time.monotonic() - self._said >= _EVERY:
            self._said = time.monotonic()
            task = next(t for t in self.tasks if t.id == task_id)
            self.console.print(" ".join(" ".join(self._words(task)).split()))

    def _words(self, task: Task) -> Iterator[str]:
        for column in self.columns:
            if isinstance(column, TimeRemainingColumn):
                yield f"{column(task)} left" if task.time_remaining is not None else ""
            elif not isinstance(column, (SpinnerColumn, BarColumn, str)):
                yield str(column(task))


def _bar(*columns: Any) -> Progress:
    # On the error stream, so that a redirected result holds nothing but the result.
    return _Bars(*columns, console=_ERRORS, transient=True, disable=not _ERRORS.is_terminal)


@contextmanager
def run_bar() -> Iterator[Callable[[Any], None]]:
    """Show a bar of exams for each run; yield the listener that moves it."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[bad]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with _bar(*columns) as progress:
        bars: dict[str, Any] = {"task": None, "failed": 0, "flagged": 0, "committed": 0}

        def listen(event: Any) -> None:
            if isinstance(event, RunStarted):
                bars.update(failed=0, flagged=0, committed=0)
                bars["task"] = progress.add_task(event.step, total=event.total, bad="", note="")
            elif isinstance(event, ExamDone):
                if event.state in ("failed", "flagged"):
                    bars[event.state] += 1
                bad = ", ".join(f"{bars[k]} {k}" for k in ("failed", "flagged") if bars[k])
                progress.update(bars["task"], advance=1, bad=bad)
            elif isinstance(event, Committed):
                bars["committed"] += event.exams
                progress.update(bars["task"], note=f"{bars['committed']} committed")

        yield listen


@contextmanager
def reading(what: str) -> Iterator[Callable[[int, str], None]]:
    """Show how many files have been read, of which nobody knows the total."""
    columns = (
        SpinnerColumn(),
        TextColumn(what),
        TextColumn("{task.completed:,.0f} files  {task.fields[where]}", markup=False),
    )
    with _bar(*columns) as progress:
        task = progress.add_task(what, total=None, where="")
        yield lambda count, where: progress.update(task, completed=count, where=where[-50:])


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many of a known number are done."""
    columns = (
        SpinnerColumn(), TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with _bar(*columns) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@dataclass
class TrainingBar:
    """A bar a network: exams while they are prepared, then epochs with their losses."""

    bars: Progress
    tasks: dict[str, Any] = field(default_factory=dict)
    learning: set[str] = field(default_factory=set)
    models: Any = None

    def preparing(self, name: str, done: int, total: int) -> None:
        """Show how many exams of a network are ready."""
        self.bars.update(self._task(name), completed=done, total=total, note="exams prepared")

    def epoch(self, done: EpochDone) -> None:
        """Show an epoch."""
        task = self._task(done.name)
        if done.name not in self.learning:
            # Preparing took another time than epochs do: what is left is guessed from now on.
            self.bars.reset(task)
            self.learning.add(done.name)
        kept = ", best so far" if done.best else ""
        note = f"epochs  loss {done.loss:.4f}, validation {done.validation_loss:.4f}{kept}"
        self.bars.update(task, completed=done.epoch, total=done.epochs, note=note)

    def model(self, name: str, done: int, total: int) -> None:
        """Show how many models of many are finished; the bars of those that learned go."""
        if self.models is None:
            self.models = self.bars.add_task("models", total=total, note="")
        self.bars.update(self.models, completed=done, note=f"finished, {name} the last")
        for task in self.tasks.values():
            self.bars.remove_task(task)
        self.tasks, self.learning = {}, set()

    def _task(self, name: str) -> Any:
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(name, total=None, note="")
        return self.tasks[name]


@contextmanager
def training_bar() -> Iterator[TrainingBar]:
    """Show a bar for each network that is trained; yield the listener that moves them."""
    columns = (
        SpinnerColumn(), TextColumn("{task.description:<14}"), BarColumn(), MofNCompleteColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with _bar(*columns) as bars:
        yield TrainingBar(bars)
