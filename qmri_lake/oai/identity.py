"""Identify patient, side and visit of a series from folders, headers, listings and options."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.header import Header
from qmri_lake.oai.listing import ListingRow
from qmri_lake.oai.packing import archive_stem
from qmri_lake.schema.exam_index import exam_key
from qmri_lake.schema.visits import VISIT_MONTHS

__all__ = ["Identity", "identify"]

_MRI_VISITS = (0, 1, 2, 3, 4, 5, 6, 8, 10)
"""Numbers of the visits with MRI, and therefore with image releases."""

_RELEASE = re.compile(r"^(\d{1,2})\.[A-Z]\.\d{1,2}$")
_MONTH_FOLDER = re.compile(r"^(\d{1,3})m$", re.IGNORECASE)
_PATIENT = re.compile(r"^\d{7}$")
_SIDE = re.compile(r"(?<![A-Z])(LEFT|RIGHT)(?![A-Z])")
_MONTH = re.compile(r"(?<!\d)(\d{1,3})[ _]?MONTH")
_BASELINE = re.compile(r"ENROLL?MENT|BASELINE|SCREENING")
_VISIT = re.compile(r"^V(\d\d)$")

SourcesByValue = dict[int | str, list[str]]
"""Names of the sources that give each value."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One knee of one patient at one visit."""

    patient: int
    timepoint: int
    """Months after enrolment."""
    knee: str
    """``left`` or ``right``."""

    @property
    def exam(self) -> str:
        """Key of the exam."""
        return exam_key(self.patient, self.timepoint, self.knee)


def identify(
    where: str,
    headers: Sequence[Header],
    listed: ListingRow | None = None,
    *,
    patient: int | None = None,
    timepoint: int | None = None,
    knee: str | None = None,
) -> Identity:
    """Identify a series from its folders, its headers, its row in a listing, and the options.

    Parameters
    ----------
    where : str
        Folder or tar of the series, relative to the delivery.
    headers : sequence of Header
        Headers of the files of the series. One header for each distinct identification is
        sufficient.
    listed : ListingRow, optional
        Row of the series in ``contents.csv`` or ``image03.txt``.
    patient, timepoint, knee : optional
        Values given by the caller. A source with another value is a conflict.

    Raises
    ------
    InputError
        If no source gives a value (reason ``absent_*``), if sources disagree (``*_conflict``), or
        if the release folder is not a release of the OAI (``unknown_release``).
    """
    folders = [part for part in archive_stem(where).split("/") if part]
    found = _Sources()
    for part in folders:
        if _PATIENT.match(part):
            _add_source(found.patients, int(part), "the folder")
    for header in headers:
        found.add_header(header)
    if listed is not None:
        found.add_listing(listed)
    for part in folders:
        if match := _MONTH_FOLDER.match(part):
            _add_source(found.timepoints, int(match[1]), f"folder {part}")
    release = _find_release(folders)
    if release:
        months = _release_months(release)
        if months is not None:
            _add_source(found.timepoints, months, f"release {release}")
        elif timepoint is None:
            raise InputError(
                f"unknown release folder {release!r}",
                expected="0.x (00m), 1.x (12m), 2.x (18m), 3.x (24m), 4.x (30m), 5.x (36m), "
                "6.x (48m), 8.x (72m) or 10.x (96m)",
                where=where,
                todo="Rename the folder, or give timepoint=...",
                reason=Reason.UNKNOWN_RELEASE,
            )
    options: tuple[tuple[SourcesByValue, int | str | None], ...] = (
        (found.patients, patient),
        (found.timepoints, timepoint),
        (found.knees, knee),
    )
    for sources, option in options:
        if option is not None:
            _add_source(sources, option, "the option")
    return Identity(
        int(_single_value(found.patients, "patient", where)),
        int(_single_value(found.timepoints, "timepoint", where)),
        str(_single_value(found.knees, "knee", where)),
    )


@dataclass(slots=True)
class _Sources:
    """Patients, timepoints and knees of one series according to different sources."""

    patients: SourcesByValue = field(default_factory=dict)
    timepoints: SourcesByValue = field(default_factory=dict)
    knees: SourcesByValue = field(default_factory=dict)

    def add_header(self, header: Header) -> None:
        """Add the values of a header."""
        if _PATIENT.match(header.patient_id):
            _add_source(self.patients, int(header.patient_id), "PatientID")
        self._add_text("SeriesDescription", header.series_description)
        self._add_text("StudyDescription", header.study_description)
        for source, value in zip(("Laterality", "ImageLaterality"), header.laterality, strict=True):
            letter = value.upper()[:1]
            if letter in ("L", "R"):
                _add_source(self.knees, "left" if letter == "L" else "right", source)
        visit = _VISIT.match(header.visit.upper())
        if visit and int(visit[1]) in VISIT_MONTHS:
            _add_source(self.timepoints, VISIT_MONTHS[int(visit[1])], "ClinicalTrialTimePointID")

    def add_listing(self, row: ListingRow) -> None:
        """Add the values of the row of a listing."""
        if _PATIENT.match(row.patient):
            _add_source(self.patients, int(row.patient), "the listing")
        self._add_text("the series name in the listing", row.series_description)
        self._add_text("the study name in the listing", row.study_description)

    def _add_text(self, source: str, text: str) -> None:
        for side in _SIDE.findall(text.upper()):
            _add_source(self.knees, side.lower(), source)
        for month in _months(text.upper()):
            _add_source(self.timepoints, month, source)


def _add_source(sources: SourcesByValue, value: int | str, source: str) -> None:
    names = sources.setdefault(value, [])
    if source not in names:
        names.append(source)


def _months(text: str) -> Iterator[int]:
    for month in set(_MONTH.findall(text)):
        yield int(month)
    if _BASELINE.search(text):
        yield 0


def _find_release(folders: list[str]) -> str:
    """Return the release folder, found by its name or its position between visit and patient."""
    for part in folders:
        if _RELEASE.match(part):
            return part
    for month, part, patient in zip(folders, folders[1:], folders[2:], strict=False):
        if _MONTH_FOLDER.match(month) and _PATIENT.match(patient):
            return part
    return ""


def _release_months(release: str) -> int | None:
    match = _RELEASE.match(release)
    return VISIT_MONTHS[int(match[1])] if match and int(match[1]) in _MRI_VISITS else None


_MISSING = {
    "patient": (
        "a 7-digit PatientID or patient folder",
        Reason.ABSENT_PATIENT,
        Reason.PATIENT_CONFLICT,
    ),
    "timepoint": (
        "a release or visit folder, ClinicalTrialTimePointID or StudyDescription",
        Reason.ABSENT_TIMEPOINT,
        Reason.TIMEPOINT_CONFLICT,
    ),
    "knee": (
        "LEFT or RIGHT in SeriesDescription or StudyDescription, or Laterality",
        Reason.ABSENT_SIDE,
        Reason.SIDE_CONFLICT,
    ),
}
"""Expected sources, reason of a missing value, and reason of contradictory values."""


def _single_value(sources: SourcesByValue, name: str, where: str) -> int | str:
    """Return the value on which all sources agree."""
    if len(sources) == 1:
        return next(iter(sources))
    expected, absent, conflict = _MISSING[name]
    if not sources:
        raise InputError(
            f"no {name}",
            expected=expected,
            where=where,
            todo=f"Give {name}=...",
            reason=absent,
        )
    listed = "; ".join(
        f"{value} according to {', '.join(names)}" for value, names in sources.items()
    )
    raise InputError(
        f"{name} {listed}",
        expected="sources that agree",
        where=where,
        todo="Correct the header, the folder or the listing that is wrong.",
        reason=conflict,
    )
