"""Sections of the demo, each with a heading and its measured CPU time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Sections", "cpu_minutes"]


class Sections:
    """Numbered sections of a long command, with the CPU time of each section.

    Attributes
    ----------
    minutes : dict
        CPU-minutes by the title of the section.
    """

    def __init__(self) -> None:
        self.minutes: dict[str, float] = {}

    @contextmanager
    def __call__(self, title: str) -> Iterator[Callable[[], float]]:
        """Print the title of a section; yield a function that returns the CPU-minutes so far."""
        from qmri_lake.cli._progress import console

        console.rule(f"{len(self.minutes) + 1}. {title}")
        before = cpu_minutes()
        yield lambda: cpu_minutes() - before
        self.minutes[title] = cpu_minutes() - before

    def show(self) -> None:
        """Print the CPU-minutes of this process, in total and by section."""
        from qmri_lake.cli._progress import console

        console.print(f"CPU      {cpu_minutes():.1f} minutes:")
        for number, (title, minutes) in enumerate(self.minutes.items(), start=1):
            console.print(f"{minutes:>9.1f}  {number}. {title}")


def cpu_minutes() -> float:
    """Return the CPU time [min] of this process and of the finished processes that it started.

    Windows does not report the time of the started processes, so it counts as 0 there.
    """
    times = os.times()
    return (times.user + times.system + times.children_user + times.children_system) / 60
