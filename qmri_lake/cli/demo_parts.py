"""The parts of the demo: a rule before each, and the process time that it took."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Parts", "cpu_minutes"]


class Parts:
    """Numbers the parts of long work, and adds up what each took.

    Attributes
    ----------
    minutes : dict
        CPU-minutes by the title of the part.
    """

    def __init__(self) -> None:
        self.minutes: dict[str, float] = {}

    @contextmanager
    def __call__(self, title: str) -> Iterator[Callable[[], float]]:
        """Print the title of a part; yield what tells the CPU-minutes since then."""
        from qmri_lake.cli.progress import console

        console.rule(f"{len(self.minutes) + 1}. {title}")
        before = cpu_minutes()
        yield lambda: cpu_minutes() - before
        self.minutes[title] = cpu_minutes() - before

    def show(self) -> None:
        """Print the CPU-minutes of this process, in all and of each part."""
        from qmri_lake.cli.progress import console

        console.print(f"CPU      {cpu_minutes():.1f} minutes:")
        for number, (title, minutes) in enumerate(self.minutes.items(), start=1):
            console.print(f"{minutes:>9.1f}  {number}. {title}")


def cpu_minutes() -> float:
    """Process time of this process and of those it has waited for, in minutes."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used) / 60
