"""Events that a run passes to its listeners, and the result of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Committed", "ExamDone", "Listener", "RunEnded", "RunResult", "RunStarted"]


@dataclass(frozen=True, slots=True)
class RunResult:
    """Result of a run."""

    step: str
    run: int
    counts: Mapping[str, int]
    """Number of exams by state: done, failed, skipped, flagged."""
    up_to_date: int
    failed_before: int
    """Number of exams not computed because they failed before with the same parameters."""
    waiting: Mapping[str, int]
    """Number of exams that lack an input, by the name of the step that computes the input."""
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


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run has started."""

    step: str
    run: int
    total: int
    """Number of exams to compute."""


@dataclass(frozen=True, slots=True)
class ExamDone:
    """An exam has been computed. Its result is not committed yet."""

    exam: str
    state: str
    message: str


@dataclass(frozen=True, slots=True)
class Committed:
    """Several exams have been committed."""

    snapshot: str
    exams: int


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A run has ended."""

    result: RunResult


Listener = Callable[[RunStarted | ExamDone | Committed | RunEnded], None]
