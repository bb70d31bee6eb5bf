"""Progress bars of runs, trainings and loops, made with rich.

If standard error is not a terminal, a line of text is printed every half minute instead of bars.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.rule import Rule
from rich.segment import Segment
from rich.text import Text, TextType

from qmri_lake.errors import printable
from qmri_lake.execution.run import Committed, ExamDone, RunStarted

if TYPE_CHECKING:
    from qmri_lake.training.events import EpochDone

__all__ = [
    "TrainingBar",
    "console",
    "counting",
    "error_console",
    "reading",
    "run_bar",
    "training_bar",
]

_UNBROKEN_WIDTH = 10_000
"""Width [columns] of output without a terminal, so that lines and tables in a pipe are not broken.
"""
_LOG_WIDTH = 120
"""Width [columns], without a terminal, of rules, lines of progress and all lines of a log."""
_INTERVAL = 30.0
"""Time [s] between two lines of progress without a terminal. Shorter tasks print no line."""
_MIN_DONE = 2
"""Number of tasks that must have finished before a remaining time is shown."""


class _Console(Console):
    _log = False

    @property
    def size(self) -> ConsoleDimensions:
        size = super().size
        if self.is_terminal or "COLUMNS" in os.environ:
            return size
        return size._replace(width=_LOG_WIDTH if self._log else _UNBROKEN_WIDTH)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size

    @property
    def line_width(self) -> int:
        """Maximum width [columns] of a line of progress or of a rule."""
        return _LOG_WIDTH if self.width == _UNBROKEN_WIDTH else self.width

    @contextmanager
    def as_log(self) -> Iterator[None]:
        """Break long lines inside the ``with`` block as in a log, also without a terminal."""
        before, self._log = self._log, True
        try:
            yield
        finally:
            self._log = before

    def print(self, *objects: object, **options: Any) -> None:
        """Print objects.

        Lines of text are broken only in a log, so that paths and commands can be copied.
        """
        text = all(isinstance(item, str) for item in objects)
        in_log = self._log and not self.is_terminal
        super().print(*objects, soft_wrap=text and not in_log, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render an object; control characters in its text are escaped.

        Everything that is printed passes here: lines, cells of tables, bars and log messages. rich
        removes some control characters, but not the one with which escape sequences begin.
        """
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text, keep="\n"), segment.style)

    def rule(self, title: TextType = "", **options: Any) -> None:
        """Draw a line with a title, as wide as the terminal or as a line of a log."""
        self.print(Rule(title, **options), width=self.line_width)


console = _Console(highlight=False, markup=False)
"""Console of the results of a command, on standard output.

Lines of text are not broken. Without a terminal, the output is plain text, and the lines of tables
are not broken either, unless ``COLUMNS`` is set. Markup is off, because paths and messages can
contain brackets.
"""

error_console = _Console(stderr=True, highlight=False, markup=False)
"""Console of progress and log messages, on standard error."""


class _TimeLeft(ProgressColumn):
    """Remaining time, from the rate of the second half of the elapsed time.

    The estimate of rich uses the last 30 seconds before the last advance. It shows no time if one
    exam takes longer, overestimates the rate if two workers finish together, and does not change
    while an exam is computed. This column includes the time since the last advance.
    """

    max_refresh = 0.5

    def __init__(self) -> None:
        super().__init__()
        self._history: dict[TaskID, list[tuple[float, float]]] = {}

    def advanced(self, task: Task, *, restart: bool = False) -> None:
        """Record the number of finished tasks; `restart` discards earlier records."""
        history = self._history.setdefault(task.id, [])
        if restart:
            history.clear()
        if not history or task.completed > history[-1][1]:
            history.append((time.monotonic(), task.completed))

    def seconds(self, task: Task) -> float | None:
        """Return the remaining time [s], or None if it is unknown."""
        history, now = self._history.get(task.id, []), time.monotonic()
        if task.total is None or not history or task.completed <= history[0][1]:
            return None
        if task.completed < _MIN_DONE:  # the first exam includes imports and compilation
            return None
        half = (history[0][0] + now) / 2
        since, done = next(entry for entry in reversed(history) if entry[0] <= half)
        if done == task.completed:  # nothing has finished since
            since, done = history[0]
        return max(task.total - task.completed, 0.0) * (now - since) / (task.completed - done)

    def render(self, task: Task) -> Text:
        """Show the remaining time as hours, minutes and seconds."""
        left = self.seconds(task)
        return Text("-:--:--" if left is None else _clock(left), style="progress.remaining")


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


class _Bars(Progress):
    """Bars in a terminal. Without a terminal, their text is printed every `_INTERVAL` seconds."""

    def __init__(self, *columns: str | ProgressColumn, **options: Any) -> None:
        super().__init__(*columns, **options)
        self._printed = time.monotonic()

    def add_task(self, description: str, *arguments: Any, **options: Any) -> TaskID:
        task_id = super().add_task(description, *arguments, **options)
        self._record(task_id)
        return task_id

    def reset(self, task_id: TaskID, **options: Any) -> None:
        super().reset(task_id, **options)
        self._record(task_id, restart=True)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._record(task_id)
        if self.disable and time.monotonic() - self._printed >= _INTERVAL:
            self._printed = time.monotonic()
            task = next(t for t in self.tasks if t.id == task_id)
            text = " ".join(" ".join(self._words(task)).split())
            width = error_console.line_width
            self.console.print(text if len(text) <= width else f"{text[: width - 4]} ...")

    def _record(self, task_id: TaskID, *, restart: bool = False) -> None:
        task = next(t for t in self.tasks if t.id == task_id)
        for column in self.columns:
            if isinstance(column, _TimeLeft):
                column.advanced(task, restart=restart)

    def _words(self, task: Task) -> Iterator[str]:
        for column in self.columns:
            if isinstance(column, _TimeLeft):
                left = column.seconds(task)
                yield f"{_clock(left)} left" if left is not None else ""
            elif not isinstance(column, (SpinnerColumn, BarColumn, str)):
                yield str(column(task))


def _bar(*columns: str | ProgressColumn) -> Progress:
    # Bars are on standard error, so that redirected output contains only the result.
    return _Bars(
        *columns, console=error_console, transient=True, disable=not error_console.is_terminal
    )


@contextmanager
def run_bar() -> Iterator[Callable[[object], None]]:
    """Show a bar of exams for each run; yield the listener for `Lake.run`."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[bad]}"),
        _TimeLeft(),
        TextColumn("{task.fields[note]}"),
    )
    with _bar(*columns) as progress:
        task: TaskID | None = None
        counts = {"failed": 0, "flagged": 0, "committed": 0}

        def listen(event: object) -> None:
            nonlocal task
            if isinstance(event, RunStarted):
                counts.update(failed=0, flagged=0, committed=0)
                task = progress.add_task(event.step, total=event.total, bad="", note="")
            elif task is None:
                return
            elif isinstance(event, ExamDone):
                if event.state in ("failed", "flagged"):
                    counts[event.state] += 1
                bad = ", ".join(f"{counts[k]} {k}" for k in ("failed", "flagged") if counts[k])
                progress.update(task, advance=1, bad=bad)
            elif isinstance(event, Committed):
                counts["committed"] += event.exams
                progress.update(task, note=f"{counts['committed']} committed")

        yield listen


@contextmanager
def reading(label: str) -> Iterator[Callable[[int, str], None]]:
    """Show the number of files that have been read; the total is unknown."""
    columns = (
        SpinnerColumn(),
        TextColumn(label),
        TextColumn("{task.completed:,.0f} files  {task.fields[where]}", markup=False),
    )
    with _bar(*columns) as progress:
        task = progress.add_task(label, total=None, where="")
        yield lambda count, where: progress.update(task, completed=count, where=where[-50:])


@contextmanager
def counting(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show the number of finished tasks and the total."""
    columns = (
        SpinnerColumn(),
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        _TimeLeft(),
    )
    with _bar(*columns) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@dataclass
class TrainingBar:
    """One bar per model, which first counts prepared exams, and then epochs with their losses."""

    bars: Progress
    tasks: dict[str, TaskID] = field(default_factory=dict)
    training: set[str] = field(default_factory=set)
    models: TaskID | None = None

    def preparing(self, name: str, done: int, total: int) -> None:
        """Show the number of exams that have been prepared for a network."""
        task = self._task(name, done)
        self.bars.update(task, completed=done, total=total, note="exams prepared")

    def epoch(self, done: EpochDone) -> None:
        """Show a finished epoch."""
        task = self._task(done.name, done.epoch)
        if done.name not in self.training:
            # Restart the estimate of the remaining time: the preparation of exams has another rate,
            # and the first epoch includes compilation or was finished before a resumed training.
            self.bars.reset(task, completed=done.epoch, total=done.epochs)
            self.training.add(done.name)
        kept = ", best so far" if done.best else ""
        note = f"epochs  loss {done.loss:.4f}, validation {done.validation_loss:.4f}{kept}"
        self.bars.update(task, completed=done.epoch, total=done.epochs, note=note)

    def model(self, name: str, done: int, total: int) -> None:
        """Show the number of finished models, and remove the bars of single models."""
        if self.models is None:
            self.models = self.bars.add_task("models", completed=done, total=total, note="")
        self.bars.update(self.models, completed=done, note=f"finished, the last is {name}")
        for task in self.tasks.values():
            self.bars.remove_task(task)
        self.tasks, self.training = {}, set()

    def _task(self, name: str, done: int) -> TaskID:
        if name not in self.tasks:
            # Tasks that were finished before the bar existed do not count for the rate.
            self.tasks[name] = self.bars.add_task(name, completed=done, total=None, note="")
        return self.tasks[name]


@contextmanager
def training_bar() -> Iterator[TrainingBar]:
    """Show one bar for each model that is trained; yield the bars, whose methods are listeners."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<14}"),
        BarColumn(),
        MofNCompleteColumn(),
        _TimeLeft(),
        TextColumn("{task.fields[note]}"),
    )
    with _bar(*columns) as bars:
        yield TrainingBar(bars)
