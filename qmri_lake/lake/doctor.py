"""Diagnosis of a lake: damaged files, interrupted runs, failed exams and files of killed writers.

Committed data needs no repair: readers see the last commit, even if a writer was killed. A killed
run leaves exams that were not computed, a record in ``writer.json``, and files that no snapshot
refers to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import icechunk
import numpy as np

from qmri_lake.core.json_types import JsonMapping
from qmri_lake.core.text import counted, format_bytes
from qmri_lake.lake.forgetting import unfinished_removal
from qmri_lake.lake.status_table import count_states
from qmri_lake.store.file_checksums import damaged_files, rewriting_files
from qmri_lake.store.lock import is_locked, lock_owner
from qmri_lake.store.recovery import advice, is_sound
from qmri_lake.store.repository import first_line, partial_files
from qmri_lake.store.runs import canonical, read_runs
from qmri_lake.store.status import read_status, status_steps

if TYPE_CHECKING:
    from qmri_lake.store.snapshot import Snapshot

__all__ = ["Diagnosis", "InterruptedRun", "Orphans", "diagnose"]


@dataclass(frozen=True, slots=True)
class InterruptedRun:
    """A run that did not finish."""

    run: int
    step: str
    """Name of the step, with its variant."""
    parameters: JsonMapping
    started: str
    process: int
    running: bool
    """Whether the process of the run is still running."""
    planned: int
    left: int
    """Number of exams that neither this run nor a later run of the step has processed."""


@dataclass(frozen=True, slots=True)
class Orphans:
    """Objects and files that no snapshot refers to, written by runs that did not commit."""

    objects: int
    """Number of chunks, manifests and other objects, as counted by Icechunk."""
    partial: int
    """Number of partially written files of killed processes."""
    size: int
    """Total size of the objects and files in bytes."""
    uncounted: str = ""
    """Why the objects could not be counted; empty if they were."""

    def __bool__(self) -> bool:
        return bool(self.objects or self.partial)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Findings in a lake. Print the diagnosis, or use its ``lines()``."""

    url: str
    older_than: timedelta
    writer: JsonMapping | None
    """Record of the last writer, if it was not removed: host, process, program, since."""
    writing: bool
    """Whether a writer holds the lock. Always False for an object store, which has no locks."""
    interrupted: tuple[InterruptedRun, ...]
    failed: Mapping[str, int]
    """Number of failed exams by step."""
    orphans: Orphans
    damaged: tuple[str, ...]
    """Files of Icechunk that have changed since they were written, with the advice for each."""
    advice: str
    """The sound commits, if the newest commit needs a damaged file; else empty."""
    unfinished_removal: bool
    """Whether a patient was removed, and earlier commits have not expired yet."""
    repaired: bool
    """Whether the `orphans` and the record of a writer that has ended were removed."""

    @property
    def healthy(self) -> bool:
        """Whether there is nothing to do."""
        return not list(self._findings())

    def lines(self) -> list[str]:
        """Return one line for each finding, with the action to take."""
        return list(self._findings()) or ["nothing to do"]

    def _findings(self) -> Iterator[str]:
        yield from self.damaged
        if self.advice:
            yield f"the newest commit needs damaged files. {self.advice}"
        for run in self.interrupted:
            name = f"run {run.run} ({run.step}, started {run.started})"
            if run.running:
                found, todo = f"running as process {run.process}", "Wait until it ends."
            else:
                found, todo = "interrupted", _resume_advice(run)
            yield f"{name}: {found}, {run.left:,} of {run.planned:,} exams left. {todo}"
        if self.writer and not self.writing:
            yield f"writer.json: {_owner(self.writer)}. " + (
                "Removed." if self.repaired else "It is harmless; repair=True removes it."
            )
        for step, count in self.failed.items():
            yield f"{step}: {counted(count, 'exam')} failed. {_retry_advice(step)}"
        if self.unfinished_removal:
            yield (
                "removal of a patient: earlier commits still contain the patient. Repeat "
                "`qmri-lake forget PATIENT`."
            )
        if self.orphans.uncounted:
            yield (
                "orphans: objects not counted, because an earlier commit cannot be read "
                f"({self.orphans.uncounted}). The newest commit can be read."
            )
        if self.orphans:
            parts = [f"{self.orphans.objects:,} objects"] if self.orphans.objects else []
            if self.orphans.partial:
                parts.append(f"{self.orphans.partial:,} partially written files")
            yield (
                f"orphans: no snapshot refers to {' and '.join(parts)} "
                f"({format_bytes(self.orphans.size)}, older than {_duration(self.older_than)}). "
                + ("Removed." if self.repaired else "repair=True removes them.")
            )

    def __str__(self) -> str:
        return "\n".join([f"{self.url}: {line}" for line in self.lines()])


def diagnose(
    lake: Snapshot, *, repair: bool = False, older_than: timedelta = timedelta(days=1)
) -> Diagnosis:
    """Find interrupted runs, failed exams and orphans; see `Lake.doctor`."""
    lake.root  # noqa: B018  # an error lists the sound commits if the newest one is damaged
    writer, writing = lock_owner(lake.location), is_locked(lake.location)
    if repair:
        with (
            lake.writing(),
            rewriting_files(lake.location),
        ):  # this removes the record of a writer that has ended
            orphans = _orphans(lake, older_than, remove=True)
    else:
        orphans = _orphans(lake, older_than, remove=False)
    damaged = tuple(damaged_files(lake.location))
    todo = ""
    if damaged and not is_sound(lake.repo, lake.snapshot, lake.location):
        todo = advice(lake.repo, lake.location)
    return Diagnosis(
        url=lake.url,
        older_than=older_than,
        writer=writer,
        writing=writing,
        # The states may depend on the damaged files.
        interrupted=() if todo else tuple(_interrupted(lake, writer if writing else None)),
        failed={} if todo else _failed(lake),
        orphans=orphans,
        damaged=damaged,
        advice=todo,
        unfinished_removal=_has_unfinished_removal(lake),
        repaired=repair,
    )


def _failed(lake: Snapshot) -> dict[str, int]:
    states = count_states(lake.root, np.arange(len(lake)), len(lake))
    return {str(step): int(n) for step, n in states["failed"].items() if n}


def _has_unfinished_removal(lake: Snapshot) -> bool:
    try:
        return unfinished_removal(lake) is not None
    except icechunk.IcechunkError:  # an earlier commit is damaged; `Orphans.uncounted` reports it
        return False


def _interrupted(lake: Snapshot, writer: JsonMapping | None) -> Iterator[InterruptedRun]:
    """Yield unfinished runs that have exams left.

    For each step and parameters, only the run with the most exams left is yielded.
    """
    runs = read_runs(lake.root)
    marks = {step: read_status(lake.root, step, len(lake)).run for step in status_steps(lake.root)}
    worst: dict[tuple[str, str], InterruptedRun] = {}
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
        found = InterruptedRun(
            number,
            step,
            record["parameters"],
            record["started"],
            record["process"],
            running,
            planned,
            left,
        )
        known = worst.get((step, canonical(found.parameters)))
        if running or (left and (known is None or left >= known.left)):
            worst[step, canonical(found.parameters)] = found
    yield from worst.values()


def _owner(writer: JsonMapping) -> str:
    if writer["process"] < 0:
        return "not the record of a writer"
    owner = "process {process} of {program} on {host}, since {since}".format(**writer)
    return f"left by {owner}, which has ended"


def _resume_advice(run: InterruptedRun) -> str:
    if run.step == "ingest":
        return "Ingest the same source again to resume."
    if run.step == "import":
        return "Import the same folder again to resume."
    if run.step == "derive":
        return "Derive again from the same source to resume."
    step, _, variant = run.step.partition("__")
    options = f", variant={variant!r}" if variant else ""
    return f"Run lake.run({step!r}{options}, ...) with the same parameters to resume."


def _retry_advice(step: str) -> str:
    name, _, variant = step.partition("__")
    reasons = f"lake.failures({step!r}) lists the reasons"
    if name.startswith("ingest_"):
        return f"{reasons}. Correct the source and ingest it again."
    if name == "derive":
        return f"{reasons}. Restore the files of the source and derive again, or derive a new lake."
    options = f", variant={variant!r}" if variant else ""
    return f"{reasons}. Run lake.run({name!r}{options}, retry_failed=True, ...) to compute them."


def _orphans(lake: Snapshot, older_than: timedelta, *, remove: bool) -> Orphans:
    """Count or remove orphans that are too old to belong to a run that has not committed yet."""
    limit = datetime.now(UTC) - older_than
    objects = size = 0
    uncounted = ""
    try:
        found = lake.repo.garbage_collect(limit, dry_run=not remove)
    except icechunk.IcechunkError as error:
        # Icechunk 2 reads every commit that was not expired, also those of no branch.
        uncounted = first_line(error)
    else:
        size = found.bytes_deleted
        objects = (
            found.chunks_deleted
            + found.manifests_deleted
            + found.snapshots_deleted
            + found.attributes_deleted
            + found.transaction_logs_deleted
        )
    partial = 0
    for path in partial_files(lake.location, limit):
        partial, size = partial + 1, size + path.stat().st_size
        if remove:
            path.unlink(missing_ok=True)
    return Orphans(objects, partial, size, uncounted)


def _duration(span: timedelta) -> str:
    hours = span.total_seconds() / 3600
    return "a day" if hours == 24 else f"{hours / 24:g} days" if hours > 24 else f"{hours:g} hours"
