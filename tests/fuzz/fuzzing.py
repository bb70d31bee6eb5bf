"""Read thousands of damaged inputs, and count what becomes of them."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from qmri_lake.errors import QmriLakeError
from tests.conftest import Judge

T = TypeVar("T")
HUNG = 10.0
"""CPU seconds after which the reading of a small input counts as hung."""


class Draw(Protocol):
    """The function that hypothesis gives to a composite strategy."""

    def __call__(self, strategy: st.SearchStrategy[T], /) -> T: ...


class Printer(Protocol):
    """The part of hypothesis's printer that is used here."""

    def text(self, text: str) -> None: ...


class Outcome(StrEnum):
    """What becomes of a damaged input."""

    SAME = "same"
    """The result is that of the undamaged input."""
    LISTED = "listed"
    """A problem or an error with a reason names the damage."""
    IGNORED = "ignored"
    """The input is counted among those of another kind."""
    SILENT = "silent"
    """The result differs, and no problem is listed."""
    CRASHED = "crashed"
    """An error that is not of this package, or a warning of a library."""
    HUNG = "hung"


FAULTS = (Outcome.CRASHED, Outcome.HUNG, Outcome.SILENT)


class Described:
    """A damaged input, printed by its `repr` without the content of files."""

    kind: str

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:
        printer.text(repr(self))


D = TypeVar("D", bound=Described)


@dataclass
class Tally:
    """Number of inputs by kind of damage and outcome, and the peak of memory."""

    outcomes: Counter[tuple[str, Outcome]] = field(default_factory=Counter)
    peak: float = 0.0
    """Largest growth of the resident memory while an input was read [MiB]."""

    def __str__(self) -> str:
        totals: Counter[Outcome] = Counter()
        for (_, outcome), count in self.outcomes.items():
            totals[outcome] += count
        counts = ", ".join(f"{totals[outcome]:,} {outcome}" for outcome in Outcome)
        kinds = Counter(kind for kind, _ in self.outcomes.elements())
        by_kind = ", ".join(f"{kind} {count:,}" for kind, count in sorted(kinds.items()))
        return f"{counts}; peak {self.peak:.0f} MiB; inputs: {by_kind}"

    @property
    def passed(self) -> bool:
        return not any(outcome in FAULTS for _, outcome in self.outcomes)


def read_damaged(damages: st.SearchStrategy[D], read: Callable[[D], Outcome], count: int) -> Tally:
    """Read `count` damaged inputs; an input with a fault is reduced to a minimal one and raised.

    Parameters
    ----------
    damages : strategy
        Damaged inputs, the same ones in each run.
    read : callable
        Function that reads one input. It returns `SAME`, `LISTED`, `IGNORED` or `SILENT`; an error
        of this package counts as `LISTED`, every other error as `CRASHED`.
    count : int
        Number of inputs.
    """
    tally = Tally()

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(damages)
    def read_one(damage: D) -> None:
        outcome, peak = outcome_of(damage, read)
        tally.outcomes[damage.kind, outcome] += 1
        tally.peak = max(tally.peak, peak)
        assert outcome not in FAULTS, f"{outcome}: {damage}"

    read_one()
    return tally


def outcome_of(damage: D, read: Callable[[D], Outcome]) -> tuple[Outcome, float]:
    """Return what becomes of an input, and the growth of memory meanwhile [MiB]."""
    before, started = _reset_peak(), time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            outcome = read(damage)
    except QmriLakeError as error:
        outcome = Outcome.LISTED if "\n" not in str(error) else Outcome.CRASHED
    except Exception as error:
        error.add_note(f"crashed: {damage}")
        raise
    if time.process_time() - started > HUNG:
        outcome = Outcome.HUNG
    return outcome, _peak() - before


def _reset_peak() -> float:
    """Forget the peak of memory, and return what is in use [MiB]."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def few_or_many(few: int, many: int) -> pytest.MarkDecorator:
    """Run a test with few inputs in the suite, and with many in ``make accept``."""
    slow = pytest.param(many, marks=[pytest.mark.accept, pytest.mark.timeout(3600)])
    return pytest.mark.parametrize("count", [few, slow])


def judge_tally(judge: Judge, inputs: str, tally: Tally) -> None:
    """Judge the outcomes of all inputs."""
    judge(
        f"fuzz / {inputs}",
        required="0 silent, 0 crashed, 0 hung",
        measured=str(tally),
        passed=tally.passed,
    )
