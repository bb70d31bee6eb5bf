"""From a delivery of OAI files into a lake: images, clinical tables, and only what is new."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import icechunk
import numpy as np
import pandas as pd

from qmri_lake.compute import running
from qmri_lake.errors import InputError, NotALakeError, NotFoundError, Problem, Reason, RunError
from qmri_lake.index import KEYS
from qmri_lake.lake import PROFILES, Lake, create_lake, open_lake
from qmri_lake.masks.grids import GRID_TOLERANCE_MM, corner_distance
from qmri_lake.run import Listener, Outcome, execute, one_line
from qmri_lake.status import declare_status, new_run, read_status
from qmri_lake.steps import write_exam
from qmri_lake.storage import (
    Node,
    commit,
    disk_full,
    is_local,
    local_path,
    open_root,
    translated_errors,
)
from qmri_lake.summary import counted
from qmri_lake.variables import REGISTRY, sizes_of
from qmri_lake.visits import store_visits
from qmri_lake.writing import append_exams, declare, exam_count, group_sizes

if TYPE_CHECKING:
    from qmri_lake.oai.archive import Inventory, Repeat, Series
    from qmri_lake.oai.dicom import Volume

__all__ = ["IngestResult", "existing_lake", "ingest", "problem_table"]

GROUPS = ("dess", "msme")


@dataclass(frozen=True)
class IngestResult:
    """What an ingest did, and what it could not do."""

    lake: Lake
    added: Mapping[str, int]
    """Series written, by group."""
    present: int
    """Series that were in the lake before."""
    visits: int
    """Rows of the clinical tables; 0 when the source has none."""
    masks: int
    """Exams whose masks were imported."""
    problems: tuple[Problem, ...]
    repeats: tuple[Repeat, ...]
    """Earlier scans that were left out for a later one of the same knee and visit."""
    ignored: Mapping[str, int]
    """Files and series that are none of ours (localizers, reformats ...), counted by kind."""
    notes: tuple[str, ...] = ()
    """What was assumed or carried forward, in words."""

    def table(self) -> pd.DataFrame:
        """Problems as a table: reason, where, found, expected, todo, exam."""
        return problem_table(self.problems)

    def __str__(self) -> str:
        parts = [f"{n} {group} series" for group, n in self.added.items() if n]
        parts += [f"masks of {counted(self.masks, 'exam')}"] if self.masks else []
        parts += [counted(self.visits, "clinical row")] if self.visits else []
        text = f"added {', '.join(parts) or 'nothing'}"
        text += f"; {self.present} series there before" if self.present else ""
        text += f"; {counted(len(self.repeats), 'repeat')} left out" if self.repeats else ""
        return f"{text}; {counted(len(self.problems), 'problem')}"


def problem_table(problems: Sequence[Problem]) -> pd.DataFrame:
    """Return problems as a table: reason, where, found, expected, todo, exam."""
    columns = ["reason", "where", "found", "expected", "todo", "exam"]
    rows = [[str(getattr(p, name)) for name in columns] for p in problems]
    return pd.DataFrame(rows, columns=columns)


def ingest(
    source: str | os.PathLike[str],
    lake: Lake | str | os.PathLike[str],
    *,
    masks: str | os.PathLike[str] | None = None,
    patient: int | None = None,
    timepoint: int | None = None,
    knee: str | None = None,
    group: str | None = None,
    profile: str | None = None,
    cluster: Any = None,
    commit_every: int = 16,
    progress: Callable[[int, str], None] | None = None,
    listeners: Sequence[Listener] = (),
) -> IngestResult:
    """Read a delivery of DICOM files and clinical tables into a lake.

    A second ingest adds only what is new; one that was killed goes on where its last commit was.

    Parameters
    ----------
    source : path
        A folder, a ``.tar`` or a ``.tar.gz``, or a folder of them; see
        `qmri_lake.oai.inventory`.
    lake : Lake or URL
        A URL without a lake is made into one.
    masks : path, optional
        Folder of ``<exam key>.npz`` files with labels on both grids, as the synthetic OAI writes
        them; see `qmri_lake.masks.imports`.
    patient, timepoint, knee : optional
        For series whose headers don't say. A header that says otherwise is a listed problem.
    group : {"dess", "msme"}, optional
        Overrides what the headers suggest (several echo times: msme).
    profile : {"oai"}, optional
        Array sizes of a new lake; default: the largest series of this delivery.
    cluster : optional
        As in `Lake.run`: reading and decoding is one task an exam.
    progress : callable, optional
        Called with (files read, where) while headers are read.
    listeners : optional
        As in `Lake.run`.

    Returns
    -------
    IngestResult
        Its ``problems`` list each series, table or cell that could not be used, with file, reason
        and what to do; the rest has been ingested.
    """
    from qmri_lake.oai.archive import inventory

    if masks is not None and not Path(masks).is_dir():
        raise NotFoundError(
            "no such folder", expected="a folder of <exam key>.npz files", where=str(masks)
        )

    def take_inventory() -> Inventory:
        return inventory(
            source, patient=patient, timepoint=timepoint, knee=knee, group=group, progress=progress
        )

    found: Inventory | None = None
    target = lake if isinstance(lake, Lake) else existing_lake(os.fspath(lake))
    if target is None:
        # A source that can't be read leaves no empty lake behind.
        found = take_inventory()
        if not (found.series or found.problems or any(Path(source).rglob("*.txt"))):
            other = ", ".join(f"{n} {kind}" for kind, n in found.ignored.items())
            raise InputError(
                f"no series and no table ({other or 'no file'})",
                expected="DESS or multi-echo DICOM series, or clinical tables",
                where=os.fspath(source),
                todo="Give the folder that holds the delivery.",
                reason=Reason.UNREADABLE_FILE,
            )
        target = create_lake(os.fspath(lake), profile=profile)  # type: ignore[arg-type]
    elif profile not in (None, target.profile):
        raise RunError(
            f"a lake made {'without a profile' if not target.profile else target.profile}",
            expected=f"one made with profile {profile!r}",
            where=target.url,
            todo="Leave the profile out, or ingest into a new lake: array sizes are fixed.",
        )
    if target.origin is not None:
        raise RunError(
            f"a lake that was derived from {target.origin.lake}", expected="one of deliveries",
            where=target.url, todo="Ingest into that one, and derive another lake.",
        )  # fmt: skip
    # Locked before headers are read: on a full delivery that takes an hour.
    with target.writing():
        found = found or take_inventory()
        problems = list(found.problems)
        _fix_sizes(target, found.series)
        new, present = _new_series(target, found.series, problems)
        if new:
            problems += _write_series(
                target, new, cluster=cluster, commit_every=commit_every, listeners=listeners
            )
        added = _count_written(target, new)
        visits, notes = 0, tuple[str, ...]()
        if Path(source).is_dir():
            dates = {(s.patient, s.timepoint): s.scan_order[0] for s in found.series}
            visits, notes, faults = store_visits(target, Path(source), dates)
            problems += faults
        imported = 0
        if masks is not None:
            from qmri_lake.masks.imports import import_masks

            imported, unfit = import_masks(target, Path(masks), listeners=listeners)
            problems += unfit
    return IngestResult(
        target, added, present, visits, imported, tuple(problems), found.repeats,
        found.ignored, notes,
    )  # fmt: skip


def existing_lake(url: str) -> Lake | None:
    """Open the lake at `url`, None where there is nothing yet."""
    if is_local(url):
        folder = local_path(url)
        if not (folder.is_dir() and any(folder.iterdir())):
            return None
    try:
        return open_lake(url)
    except NotALakeError:
        if is_local(url):
            raise
        return None  # an empty prefix of an object store; create_lake refuses one that is not


def _fix_sizes(lake: Lake, series: Iterable[Series]) -> None:
    """Declare the image groups that this delivery needs, large enough for its largest series."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for item in series:
        shapes.setdefault(item.group, []).append(item.shape)
    missing = [group for group in shapes if not group_sizes(lake.root, group)]
    if not missing:
        return

    def build(session: icechunk.Session) -> None:
        root = open_root(session.store, "r+")
        for group in missing:
            largest = tuple(int(n) for n in np.max(shapes[group], axis=0))
            sizes: Mapping[str, int] = sizes_of(group, largest)
            if lake.profile:
                sizes = PROFILES[lake.profile][group]
            declare(root, REGISTRY.made_by(f"ingest_{group}"), sizes)
            declare_status(root, f"ingest_{group}", exam_count(root))

    with translated_errors(lake.url):
        commit(lake.repo, build, f"Declare {' and '.join(missing)}")
    lake.refresh()


def _new_series(
    lake: Lake, series: Iterable[Series], problems: list[Problem]
) -> tuple[list[Series], int]:
    """Leave out what the lake has, what it has another version of, and what doesn't fit."""
    row_of = {key: row for row, key in enumerate(lake.exams["exam"])}
    usable = {g: read_status(lake.root, f"ingest_{g}", len(lake.exams)).usable for g in GROUPS}
    uids = {g: lake.root[f"{g}/series_uid"][:] for g in GROUPS if g in lake.root}
    keys = lake.exams["exam"].to_numpy()
    owner = {g: dict(zip(uids[g][usable[g]], keys[usable[g]], strict=True)) for g in uids}
    new, present = [], 0
    for item in series:
        row = row_of.get(item.exam)
        sizes = group_sizes(lake.root, item.group)
        largest = tuple(sizes.values())
        if row is not None and usable[item.group][row]:
            if uids[item.group][row] == item.uid:
                present += 1
            else:
                problems.append(
                    Problem(
                        Reason.OTHER_SERIES,
                        item.where,
                        f"another {item.group} series of an exam that the lake has one of",
                        "the series that was ingested, or a new exam",
                        "Nothing was replaced. Ingest into a new lake to use the other scan.",
                        item.exam,
                    )
                )
        elif item.uid and owner[item.group].get(item.uid, item.exam) != item.exam:
            problems.append(
                Problem(
                    Reason.OTHER_SERIES,
                    item.where,
                    f"a series that the lake has as {owner[item.group][item.uid]}",
                    "one exam for each series",
                    "Check patient, timepoint and knee: a scan is of one knee at one visit.",
                    item.exam,
                )
            )
        elif any(n > m for n, m in zip(item.shape, largest, strict=True)):
            problems.append(
                Problem(
                    Reason.LARGER_THAN_LAKE,
                    item.where,
                    f"{item.group} of {_by(item.shape)}",
                    f"at most {_by(largest)}, fixed when the lake was made",
                    _larger(lake),
                    item.exam,
                )
            )
        else:
            new.append(item)
    return new, present


def _larger(lake: Lake) -> str:
    if lake.profile:
        return "Ingest it into a new lake without a profile, whose arrays fit its first delivery."
    return "Ingest it into a new lake: with --profile oai, or with its largest series first."


def _by(shape: Sequence[int]) -> str:
    return " x ".join(str(n) for n in shape)


@dataclass(frozen=True, slots=True)
class _SeriesTask:
    """All new series of one exam."""

    row: int
    exam: str
    series: tuple[Series, ...]
    replaced: tuple[str, ...] = ()

    @property
    def steps(self) -> tuple[str, ...]:
        """Steps whose state it sets."""
        return tuple(f"ingest_{series.group}" for series in self.series)


def _read_and_write(fork: icechunk.ForkSession, task: _SeriesTask) -> Outcome:
    """Decode an exam's series and write them; the work of one task."""
    from qmri_lake.oai.archive import read_series

    outcome = Outcome(task.row, task.exam, {}, fork)
    root = open_root(fork.store, "r+")
    for series in task.series:
        step = f"ingest_{series.group}"
        try:
            volume = read_series(series)
            product: dict[str, Any] = {
                "image": volume.image,
                "affine": volume.affine,
                "extent": np.array(volume.image.shape[-3:], np.int16),
                "series_uid": np.array(volume.uid, dtype=object),
                "digest": np.array(volume.digest, dtype=object),
            }
            if series.group == "msme":
                product["echo_time"] = volume.echo_time
            _check_known_grid(root, series.group, task.row, volume)
            outcome.small |= write_exam(root, REGISTRY.made_by(step), product, task.row, task.exam)
        except InputError as error:
            outcome.problems.append(error.problem(series.where, task.exam))
            outcome.states[step] = ("failed", one_line(error))
        except Exception as error:
            full = disk_full(error, task.exam)
            if full is not None:
                raise full from error
            outcome.problems.append(
                Problem(Reason.UNREADABLE_FILE, series.where, one_line(error), "a DICOM series",
                        "Look at it with another DICOM reader.", task.exam)
            )  # fmt: skip
            outcome.states[step] = ("failed", one_line(error))
        else:
            outcome.states[step] = ("done", "")
    return outcome


def _check_known_grid(root: Node, group: str, row: int, volume: Volume) -> None:
    """Refuse an image on another grid than the masks that came before it, and made its exam."""
    extent = root[f"{group}/extent"][row]
    if (extent < 1).any():
        return
    shape = volume.image.shape[-3:]
    distance = corner_distance(shape, volume.affine, root[f"{group}/affine"][row])
    if shape == tuple(extent) and distance <= GRID_TOLERANCE_MM:
        return
    raise InputError(
        f"an image of {_by(shape)}, its corners up to {distance:.2f} mm off",
        expected=f"{_by(extent)} on the grid of the masks that were imported before it",
        todo="Ingest it into a new lake, and import the masks after it.",
        reason=Reason.GRID_MISMATCH,
    )


def _write_series(
    lake: Lake,
    new: Sequence[Series],
    *,
    cluster: Any,
    commit_every: int,
    listeners: Sequence[Listener],
) -> list[Problem]:
    by_exam: dict[str, list[Series]] = {}
    for item in new:
        by_exam.setdefault(item.exam, []).append(item)
    keys = pd.DataFrame(
        [tuple(getattr(items[0], name) for name in KEYS) for items in by_exam.values()],
        columns=list(KEYS),
    )
    with translated_errors(lake.url):
        commit(lake.repo, lambda session: append_exams(session, keys), f"Add {len(keys)} exams")
    lake.refresh()
    row_of = {key: row for row, key in enumerate(lake.exams["exam"])}
    tasks = [_SeriesTask(row_of[key], key, tuple(items)) for key, items in by_exam.items()]
    run, record = new_run(lake.root, "ingest", lake.snapshot)
    with running(cluster) as client:
        done = execute(
            lake, "ingest", run, record, None, _read_and_write, tasks, cluster=client,
            commit_every=commit_every, listeners=listeners,
        )  # fmt: skip
    return list(done.problems)


def _count_written(lake: Lake, new: Sequence[Series]) -> dict[str, int]:
    """Count the new series that the lake now has, by group."""
    row_of = {key: row for row, key in enumerate(lake.exams["exam"])}
    usable = {g: read_status(lake.root, f"ingest_{g}", len(row_of)).usable for g in GROUPS}
    return {
        group: sum(bool(usable[group][row_of[s.exam]]) for s in new if s.group == group)
        for group in GROUPS
    }
