"""DICOM series in folders whose exams are stated by a pattern of their paths, or by a list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from qmri_lake.errors import InputError, Problem, Reason
from qmri_lake.ingestion.named_files import NamedFile
from qmri_lake.lake.study_ids import PatientNumbers
from qmri_lake.schema.exam_index import exam_key

if TYPE_CHECKING:
    from qmri_lake.oai.inventory import Repeat, Series

__all__ = ["NamedSeries", "take_named_inventory"]

Progress = Callable[[int, str], None]


@dataclass(slots=True)
class NamedSeries:
    """Usable series of named folders, and what was not used."""

    series: list[Series] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    repeats: list[Repeat] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    study_ids: dict[int, str] = field(default_factory=dict)
    """Identifiers of patients whose number does not state them, by number."""


def take_named_inventory(
    folders: Sequence[NamedFile],
    numbers: PatientNumbers,
    group: str | None,
    progress: Progress | None = None,
) -> NamedSeries:
    """Read the headers of the series in named folders.

    A header that contradicts the name of its folder is a problem, as it contradicts an option.

    Parameters
    ----------
    folders : sequence of NamedFile
        Folders, each with the series of one exam.
    numbers : PatientNumbers
        Numbers of the patients of the lake.
    group : str, optional
        Kind of series that neither the name nor the header states.
    progress : callable, optional
        Called with the number of folders that were read, and the last one.
    """
    found = NamedSeries()
    known = numbers.add(folder.patient for folder in folders)
    for count, folder in enumerate(folders, 1):
        number = known[folder.patient]
        try:
            if isinstance(number, InputError):
                raise number
            _add(found, folder, number, folder.group or group)
            if study_id := numbers.study_id(folder.patient):
                found.study_ids[number] = study_id
        except InputError as error:
            exam = "" if isinstance(number, InputError) else _exam_of(folder, number)
            found.problems.append(error.problem(folder.where, exam))
        if progress is not None:
            progress(count, folder.path)
    return _without_doubled(found)


def _exam_of(folder: NamedFile, number: int) -> str:
    return exam_key(number, folder.timepoint, folder.knee)


def _add(found: NamedSeries, folder: NamedFile, number: int, group: str | None) -> None:
    """Add the series of one folder."""
    from qmri_lake.oai.inventory import inventory

    taken = inventory(
        folder.path, patient=number, timepoint=folder.timepoint, knee=folder.knee, group=group
    )
    if not (taken.series or taken.problems):
        raise InputError(
            "no series",
            expected="the DICOM files of a series",
            where=folder.where,
            todo="Check the folder.",
            reason=Reason.UNREADABLE_FILE,
        )
    for series in taken.series:
        parts = tuple(replace(part, where=_below(folder, part.where)) for part in series.parts)
        found.series.append(replace(series, parts=parts))
    found.problems += [
        replace(problem, where=_below(folder, problem.where)) for problem in taken.problems
    ]
    found.repeats += taken.repeats
    found.ignored.update(taken.ignored)
    found.notes += [f"{folder.where}: {note}" for note in taken.notes]


def _below(folder: NamedFile, where: str) -> str:
    below = "" if where == "." else f"/{where}"
    return f"{folder.where.rstrip('/')}{below}".rstrip("/")


def _without_doubled(found: NamedSeries) -> NamedSeries:
    """Replace several series of one exam and group, in different folders, by a problem."""
    scans: dict[tuple[str, str], list[Series]] = {}
    for series in found.series:
        scans.setdefault((series.exam, series.group), []).append(series)
    found.series = [items[0] for items in scans.values() if len(items) == 1]
    for (exam, group), items in scans.items():
        if len(items) > 1:
            names = ", ".join(series.where for series in items)
            found.problems.append(
                Problem(
                    Reason.AMBIGUOUS_SERIES,
                    items[0].where,
                    f"{len(items)} {group} series of {exam}: {names}",
                    "one series for each exam and group",
                    "Make the pattern narrower, or remove a folder. None of them was used.",
                    exam,
                )
            )
    return found
