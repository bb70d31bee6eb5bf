"""What killed writers left behind, what failed, and what to do about it.

Committed data needs no repair: a reader sees the last commit, whatever happened to the writer.
What a killed run leaves is time to make up for, a name in ``writer.json``, and files that no
snapshot refers to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from qmri_lake.status import canonical, read_runs, read_status, status_steps
from qmri_lake.storage import is_locked, lock_owner, partial_files
from qmri_lake.summary import human_size

if TYPE_CHECKING:
    from qmri_lake.lake import Lake

__all__ = ["Diagnosis", "Interrupted", "Orphans", "diagnose"]


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A run that did not finish."""

    run: int
    step: str
    """Step, with its variant."""
    parameters: Mapping[str, Any]
    started: str
    process: int
    running: bool
    """Whether its process is still at work."""
    planned: int
    left: int
    """Exams that neither it nor a later run of the step has come to."""


@dataclass(frozen=True, slots=True)
class Orphans:
    """What no snapshot refers to: written by runs that were killed before they committed."""

    objects: int
    """Chunks, manifests and other objects, as Icechunk counts them."""
    partial: int
    """Files that were being written when their process was killed."""
    size: int
    """Bytes of both."""

    def __bool__(self) -> bool:
        return bool(self.objects or self.partial)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found in a lake; ``print()`` it, or read it line by line."""

    url: str
    older_than: timedelta
    writer: Mapping[str, Any] | None
    """Who wrote last without taking its name away: host, process, program, since."""
    writing: bool
    """Whether a writer holds the lock now; on an object store nobody can tell."""
    interrupted: tuple[Interrupted, ...]
    failed: Mapping[str, int]
    """Exams that failed, by step."""
    orphans: Orphans
    repaired: bool
    """Whether `orphans`, and the name of a dead writer, have been removed."""

    @property
    def healthy(self) -> bool:
        """Whether there is nothing to do."""
        return not list(self._complaints())

    def lines(self) -> list[str]:
        """Say each finding in a line: what, and what to do."""
        return list(self._complaints()) or ["nothing to do"]

    def _complaints(self) -> Iterator[str]:
        for run in self.interrupted:
            name = f"run {run.run} ({run.step}, started {run.started})"
            if run.running:
                found, todo = f"running as process {run.process}", "Wait for it."
            else:
                found, todo = "interrupted", _again(run)
            yield f"{name}: {found}, {run.left:,} of {run.planned:,} exams left. {todo}"
        if self.writer and not self.writing:
            who = "process {process} of {program} on {host}, since {since}".format(**self.writer)
            yield f"writer.json: left by {who}, which has ended. " + (
                "Removed." if self.repaired else "It is harmless; repair=True removes it."
            )
        for step, count in self.failed.items():
            yield f"{step}: {count:,} exams failed. {_failed(step)}"
        if self.orphans:
            parts = [f"{self.orphans.objects:,} objects"] if self.orphans.objects else []
            if self.orphans.partial:
                parts.append(f"{self.orphans.partial:,} half-written files")
            yield (
                f"orphans: {' and '.join(parts)}, {human_size(self.orphans.size)}, older than "
                f"{_duration(self.older_than)}, that no snapshot refers to. "
                + ("Removed." if self.repaired else "repair=True removes them.")
            )

    def __str__(self) -> str:
        return "\n".join([f"{self.url}: {line}" for line in self.lines()])


def diagnose(
    lake: Lake, *, repair: bool = False, older_than: timedelta = timedelta(days=1)
) -> Diagnosis:
    """Look for what killed writers left behind; see `Lake.doctor`."""
    writer, writing = lock_owner(lake.location), is_locked(lake.location)
    if repair:
        with lake.writing():  # which takes the name of a dead writer away when it ends
            orphans = _orphans(lake, older_than, remove=True)
    else:
        orphans = _orphans(lake, older_than, remove=False)
    failed = {str(step): int(n) for step, n in lake.status()["failed"].items() if n}
    return Diagnosis(
        url=lake.url,
        older_than=older_than,
        writer=writer,
        writing=writing,
        interrupted=tuple(_interrupted(lake, writer if writing else None)),
        failed=failed,
        orphans=orphans,
        repaired=repair,
    )


def _interrupted(lake: Lake, writer: Mapping[str, Any] | None) -> Iterator[Interrupted]:
    """Yield runs without an end that left exams, the worst one of each step and parameters."""
    runs = read_runs(lake.root)
    marks = {step: read_status(lake.root, step, len(lake)).run for step in status_steps(lake.root)}
    worst: dict[tuple[str, str], Interrupted] = {}
    for number, record in sorted(runs.items()):
        if not record.get("started") or record["finished"]:
            continue
        step, planned = record["step"], record.get("exams", 0)
        later = [n for n, other in runs.items() if n >= number and other["step"] == step]
        reached = np.zeros(len(lake), dtype=bool)
        for mark in marks.values():
            reached |= np.isin(mark, later)
        running = (
            writer is not None
            and number == max(runs)
            and record["process"] == writer["process"]
            and record["started"] >= writer["since"]
        )
        left = max(planned - int(reached.sum()), 0)
        found = Interrupted(
            number, step, record["parameters"], record["started"], record["process"], running,
            planned, left,
        )  # fmt: skip
        known = worst.get((step, canonical(found.parameters)))
        if running or (left and (known is None or left >= known.left)):
            worst[step, canonical(found.parameters)] = found
    yield from worst.values()


def _again(run: Interrupted) -> str:
    if run.step == "ingest":
        return "Ingest the same source again to go on."
    if run.step == "import":
        return "Import the same folder again to go on."
    if run.step == "derive":
        return "Derive it again, from the same source, to go on."
    step, _, variant = run.step.partition("__")
    options = f", variant={variant!r}" if variant else ""
    return f"lake.run({step!r}{options}, ...) with the same parameters goes on."


def _failed(step: str) -> str:
    name, _, variant = step.partition("__")
    why = f"lake.failures({step!r}) says why"
    if name.startswith("ingest_"):
        return f"{why}; mend the source and ingest it again."
    if name == "derive":
        return f"{why}; restore the source's files and derive it again, or derive another lake."
    options = f", variant={variant!r}" if variant else ""
    return f"{why}; lake.run({name!r}{options}, retry_failed=True, ...) tries again."


def _orphans(lake: Lake, older_than: timedelta, *, remove: bool) -> Orphans:
    """Count, or remove, what is old enough not to belong to a writer that is about to commit."""
    limit = datetime.now(UTC) - older_than
    found = lake.repo.garbage_collect(limit, dry_run=not remove)
    objects = (
        found.chunks_deleted
        + found.manifests_deleted
        + found.snapshots_deleted
        + found.attributes_deleted
        + found.transaction_logs_deleted
    )
    partial, size = 0, found.bytes_deleted
    for path in partial_files(lake.location, limit):
        partial, size = partial + 1, size + path.stat().st_size
        if remove:
            path.unlink(missing_ok=True)
    return Orphans(objects, partial, size)


def _duration(span: timedelta) -> str:
    hours = span.total_seconds() / 3600
    return "a day" if hours == 24 else f"{hours / 24:g} days" if hours > 24 else f"{hours:g} hours"
