"""Whose knee, which side, which visit: what the sources say, and where they disagree."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from qmri_lake.errors import InputError, Reason
from qmri_lake.index import exam_key
from qmri_lake.oai.files import tar_stem
from qmri_lake.oai.header import Header
from qmri_lake.oai.listing import Listed

__all__ = ["PATIENTS", "VISIT_MONTHS", "Identity", "identify"]

VISIT_MONTHS = {
    0: 0,
    1: 12,
    2: 18,
    3: 24,
    4: 30,
    5: 36,
    6: 48,
    7: 60,
    8: 72,
    9: 84,
    10: 96,
    11: 108,
}
"""V## to months: the number of a visit is not its month."""
PATIENTS = (1, 9_999_999_999)
"""Smallest and largest patient number: OAI's have 7 digits, other studies up to 10."""
_IMAGED = (0, 1, 2, 3, 4, 5, 6, 8, 10)
"""Visits with MRI, so with image releases."""

_RELEASE = re.compile(r"^(\d{1,2})\.[A-Z]\.\d{1,2}$")
_MONTH_FOLDER = re.compile(r"^(\d{1,3})m$", re.IGNORECASE)
_PATIENT = re.compile(r"^\d{7}$")
_SIDE = re.compile(r"(?<![A-Z])(LEFT|RIGHT)(?![A-Z])")
_MONTH = re.compile(r"(?<!\d)(\d{1,3})[ _]?MONTH")
_BASELINE = re.compile(r"ENROLL?MENT|BASELINE|SCREENING")
_VISIT = re.compile(r"^V(\d\d)$")

Claims = dict[int | str, list[str]]
"""Value -> the sources that say so."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One knee of one patient at one visit."""

    patient: int
    timepoint: int
    """Months."""
    knee: str
    """``left`` or ``right``."""

    @property
    def exam(self) -> str:
        """Readable key of the exam."""
        return exam_key(self.patient, self.timepoint, self.knee)


def identify(
    where: str,
    headers: Sequence[Header],
    listed: Listed | None = None,
    *,
    patient: int | None = None,
    timepoint: int | None = None,
    knee: str | None = None,
) -> Identity:
    """Gather what the folders, the header, the listing and the options say of one series.

    Parameters
    ----------
    where : str
        Folder or tar of the series, relative to the delivery.
    headers : sequence of Header
        Of its files; one of each that names something else is enough.
    listed : Listed, optional
        Its row in ``contents.csv`` or ``image03.txt``.
    patient, timepoint, knee : optional
        What the caller knows; they fill in what is not said, and never override.

    Raises
    ------
    InputError
        ``absent_*`` if nothing says it (or sources disagree on patient or visit),
        ``side_conflict`` if they disagree on the side, ``unknown_release`` if the release folder
        is none of OAI's.
    """
    folders = [part for part in tar_stem(where).split("/") if part]
    patients: Claims = {}
    sides: Claims = {}
    timepoints: Claims = {}
    for part in folders:
        if _PATIENT.match(part):
            _claim(patients, int(part), "the folder")
    for header in headers:
        if _PATIENT.match(header.patient_id):
            _claim(patients, int(header.patient_id), "PatientID")
        texts = (
            ("SeriesDescription", header.series_description),
            ("StudyDescription", header.study_description),
        )
        _read_texts(texts, sides, timepoints)
        for source, value in zip(("Laterality", "ImageLaterality"), header.laterality, strict=True):
            letter = value.upper()[:1]
            if letter in ("L", "R"):
                _claim(sides, "left" if letter == "L" else "right", source)
        visit = _VISIT.match(header.visit.upper())
        if visit and int(visit[1]) in VISIT_MONTHS:
            _claim(timepoints, VISIT_MONTHS[int(visit[1])], "ClinicalTrialTimePointID")
    if listed is not None:
        if _PATIENT.match(listed.patient):
            _claim(patients, int(listed.patient), "the listing")
        texts = (
            ("the listed series", listed.series_description),
            ("the listed study", listed.study_description),
        )
        _read_texts(texts, sides, timepoints)
    for part in folders:
        if match := _MONTH_FOLDER.match(part):
            _claim(timepoints, int(match[1]), f"folder {part}")
    release = _find_release(folders)
    if release:
        months = _release_months(release)
        if months is not None:
            _claim(timepoints, months, f"release {release}")
        elif timepoint is None:
            raise InputError(
                f"release folder {release!r}",
                expected="0.x (00m), 1.x (12m), 2.x (18m), 3.x (24m), 4.x (30m), 5.x (36m), "
                "6.x (48m), 8.x (72m) or 10.x (96m)",
                where=where,
                todo="Rename the folder, or give the visit: timepoint=...",
                reason=Reason.UNKNOWN_RELEASE,
            )

    options: tuple[tuple[Claims, int | str | None], ...] = (
        (patients, patient),
        (timepoints, timepoint),
        (sides, knee),
    )
    for claims, option in options:
        if option is not None:
            _claim(claims, option, "the option")
    return Identity(
        int(_settle(patients, "patient", Reason.ABSENT_PATIENT, Reason.PATIENT_CONFLICT, where)),
        int(
            _settle(
                timepoints, "timepoint", Reason.ABSENT_TIMEPOINT, Reason.TIMEPOINT_CONFLICT, where
            )
        ),
        str(_settle(sides, "knee", Reason.ABSENT_SIDE, Reason.SIDE_CONFLICT, where)),
    )


def _claim(claims: Claims, value: int | str, source: str) -> None:
    sources = claims.setdefault(value, [])
    if source not in sources:
        sources.append(source)


def _read_texts(texts: Iterable[tuple[str, str]], sides: Claims, timepoints: Claims) -> None:
    for source, text in texts:
        for side in _SIDE.findall(text.upper()):
            _claim(sides, side.lower(), source)
        for month in _months(text.upper()):
            _claim(timepoints, month, source)


def _months(text: str) -> Iterator[int]:
    for month in set(_MONTH.findall(text)):
        yield int(month)
    if _BASELINE.search(text):
        yield 0


def _find_release(folders: list[str]) -> str:
    """Return the release folder: by its form, or by its place between visit and patient."""
    for part in folders:
        if _RELEASE.match(part):
            return part
    for month, part, patient in zip(folders, folders[1:], folders[2:], strict=False):
        if _MONTH_FOLDER.match(month) and _PATIENT.match(patient):
            return part
    return ""


def _release_months(release: str) -> int | None:
    match = _RELEASE.match(release)
    return VISIT_MONTHS[int(match[1])] if match and int(match[1]) in _IMAGED else None


_KINDS = {
    "patient": ("a 7-digit PatientID or patient folder", "patient=..."),
    "timepoint": (
        "a release or visit folder, ClinicalTrialTimePointID or StudyDescription",
        "timepoint=...",
    ),
    "knee": ("LEFT or RIGHT in SeriesDescription or StudyDescription, or Laterality", "knee=..."),
}


def _settle(claims: Claims, name: str, absent: Reason, conflict: Reason, where: str) -> int | str:
    if len(claims) == 1:
        return next(iter(claims))
    expected, option = _KINDS[name]
    if not claims:
        raise InputError(
            f"no {name}",
            expected=expected,
            where=where,
            todo=f"Give it: {option}",
            reason=absent,
        )
    said = "; ".join(f"{value} by {', '.join(sources)}" for value, sources in claims.items())
    raise InputError(
        f"{name} {said}",
        expected="sources that agree",
        where=where,
        todo="Correct the header, the folder or the listing that is wrong.",
        reason=conflict,
    )
