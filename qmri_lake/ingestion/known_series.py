"""Comparison of delivered series with those that a lake holds: new, present, or to be replaced."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from collections.abc import Sequence as Values
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.geometry import voxel_spacing
from qmri_lake.core.text import counted, did_you_mean, format_shape
from qmri_lake.errors import NotFoundError, Problem, Reason
from qmri_lake.lake.lake import Lake
from qmri_lake.oai.sequence import Sequence, geometry_differences
from qmri_lake.schema.groups import GROUPS
from qmri_lake.store.arrays import Node
from qmri_lake.store.status import read_status
from qmri_lake.store.transaction import group_sizes

if TYPE_CHECKING:
    from qmri_lake.ingestion.delivered import DeliveredSeries

__all__ = ["Comparison", "check_replaced", "compare_series"]

_SAME_TIME = 0.1  # ms
_SAME_PLACE = 0.1  # mm; rounded headers of one scan differ by less, two scans by more


@dataclass(slots=True)
class Comparison:
    """Delivered series, compared with those of a lake."""

    new: list[DeliveredSeries] = field(default_factory=list)
    """The lake has no series of the exam and group."""
    replaced: list[DeliveredSeries] = field(default_factory=list)
    """The stored series is to be replaced."""
    present: int = 0
    """Series that the lake has."""
    problems: list[Problem] = field(default_factory=list)
    """Series that do not fit, and those that are more complete than what is stored."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """Series of one group that a lake holds."""

    group: Node
    usable: NDArray[np.bool_]
    uid: list[str]
    owner: dict[str, str]
    """Exam by SeriesInstanceUID."""
    times: str
    """Array of the times of the images; "" for a volume."""

    @classmethod
    def read(cls, lake: Lake, group: str) -> _Stored:
        """Read states and UIDs of a group."""
        usable = read_status(lake.root, f"ingest_{group}", len(lake)).usable
        uid = lake.root[f"{group}/series_uid"][:]
        owner = dict(zip(uid[usable], lake.exams["exam"].to_numpy()[usable], strict=True))
        return cls(lake.root[group], usable, uid.tolist(), owner, GROUPS[group].times)

    def sequence(self, row: int, delivered: Sequence) -> Sequence:
        """Return the stored sequence of an exam; the lake has no names, so those delivered."""
        affine, extent = self.group["affine"][row], self.group["extent"][row]
        times = delivered.echo_times
        if self.times:
            stored = self.group[self.times][row]
            times = tuple(stored[np.isfinite(stored)].tolist())
        spacing = voxel_spacing(affine)
        x, y, z = (affine[:3, :3] / spacing).T.tolist()
        slices, rows, columns = (int(n) for n in extent)
        return replace(
            delivered,
            echo_times=times,
            axes=(tuple(x), tuple(y), tuple(z)),
            spacing=tuple(spacing.tolist()),
            origin=tuple(affine[:3, 3].tolist()),
            shape=(slices, rows, columns),
        )


def check_replaced(known: Iterable[str], exams: Iterable[str]) -> None:
    """Raise `NotFoundError` for an exam that is to be replaced, but is not among the known ones."""
    stored = list(known)
    for exam in exams:
        if exam not in stored:
            raise NotFoundError(
                f"no exam {exam!r} in the lake",
                expected="an exam that the lake holds, such as 9000001-000m-right",
                where="replace",
                todo=did_you_mean(exam, stored),
            )


def compare_series(
    lake: Lake, series: Values[DeliveredSeries], replaced: Collection[str], *, repair: bool
) -> Comparison:
    """Compare delivered series with those of a lake.

    Parameters
    ----------
    lake : Lake
        Its image groups have been declared.
    series : sequence of Series
        Of one delivery.
    replaced : collection of str
        Exams whose stored series are replaced by the delivered ones.
    repair : bool
        Whether stored series are replaced by more complete ones.
    """
    row_of = {key: row for row, key in enumerate(lake.exams["exam"])}
    stored = {group: _Stored.read(lake, group) for group in GROUPS.series() if group in lake.root}
    found = Comparison()
    for item in series:
        row, known = row_of.get(item.exam, -1), stored[item.group]
        is_stored = row >= 0 and bool(known.usable[row])
        takes = found.new
        if is_stored:
            why = _compare(known, row, item)
            if item.exam in replaced or (repair and why and why.reason == Reason.MORE_COMPLETE):
                takes = found.replaced
            else:
                found.present += why is None
                found.problems += [why] if why else []
                continue
        problem = _misfit(lake, known, item)
        if problem is None:
            takes.append(item)
        else:
            found.problems.append(problem)
    delivered = {item.exam for item in series}
    for exam in replaced:
        if exam not in delivered:
            found.problems.append(
                Problem(
                    Reason.ABSENT_EXAM,
                    exam,
                    "no usable series in this delivery",
                    "a series that replaces the stored one",
                    "Nothing was replaced. See the other problems of this exam.",
                    exam,
                )
            )
    return found


def _compare(known: _Stored, row: int, item: DeliveredSeries) -> Problem | None:
    """Return how a delivered series differs from the stored one; None if it is the same."""
    mine = item.sequence
    theirs = known.sequence(row, mine)
    other = geometry_differences(mine, theirs)
    more = mine.shape[0] - theirs.shape[0], len(mine.echo_times) - len(theirs.echo_times)
    if min(more) >= 0 and max(more) > 0 and _is_part(theirs, mine):
        return Problem(
            Reason.MORE_COMPLETE,
            item.where,
            f"{_extent(mine)} in the delivery, {_extent(theirs)} in the lake",
            "the series that the lake holds",
            f"Give --replace {item.exam}, or --repair for all such series.",
            item.exam,
        )
    if known.uid[row] == item.uid and not other:
        return None  # the same series, or less of it
    unlike = f": {', '.join(other)}" if other else ""
    return Problem(
        Reason.OTHER_SERIES,
        item.where,
        f"the exam already has another {item.group} series{unlike}",
        "the ingested series, or a new exam",
        f"Nothing was replaced. Give --replace {item.exam} to use this scan instead.",
        item.exam,
    )


def _is_part(stored: Sequence, delivered: Sequence) -> bool:
    """Whether the slices and echoes of the stored series are among those delivered."""
    if geometry_differences(delivered, stored, echoes=False):
        return False
    times = np.array(delivered.echo_times)
    if not all(np.isclose(times, time, atol=_SAME_TIME).any() for time in stored.echo_times):
        return False
    offset = np.subtract(stored.origin, delivered.origin)
    normal = np.array(delivered.axes[0])
    first = round(float(offset @ normal) / delivered.spacing[0])
    apart = np.abs(offset - first * delivered.spacing[0] * normal).max()
    fits = 0 <= first <= delivered.shape[0] - stored.shape[0]
    return bool(fits and apart <= _SAME_PLACE)


def _extent(sequence: Sequence) -> str:
    echoes = len(sequence.echo_times)
    of_echoes = f" of {echoes} echoes" if echoes > 1 else ""
    return counted(sequence.shape[0], "slice") + of_echoes


def _misfit(lake: Lake, known: _Stored, item: DeliveredSeries) -> Problem | None:
    """Return why a series can't be written into the lake, or None."""
    if item.uid and known.owner.get(item.uid, item.exam) != item.exam:
        return Problem(
            Reason.OTHER_SERIES,
            item.where,
            f"the series was ingested as {known.owner[item.uid]}",
            "one exam for each series",
            "Check patient, timepoint and knee: a scan shows one knee at one visit.",
            item.exam,
        )
    largest = tuple(group_sizes(lake.root, item.group).values())
    if any(n > m for n, m in zip(item.shape, largest, strict=True)):
        return Problem(
            Reason.LARGER_THAN_LAKE,
            item.where,
            f"{item.group} of {format_shape(item.shape)}",
            f"at most {format_shape(largest)}, the array size of the lake",
            _larger_lake_advice(lake),
            item.exam,
        )
    return None


def _larger_lake_advice(lake: Lake) -> str:
    if lake.profile:
        return (
            "Ingest it into a new lake without a profile: its first delivery sets the array sizes."
        )
    return "Ingest it into a new lake with --profile oai, or with the largest series first."
