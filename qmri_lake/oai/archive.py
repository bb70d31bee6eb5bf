"""What a delivery of OAI images contains: its usable series, and why the rest is not usable."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from qmri_lake.errors import InputError, Problem, Reason
from qmri_lake.oai.dicom import Volume, read_volume
from qmri_lake.oai.files import Files
from qmri_lake.oai.gather import Candidate, Progress, gather
from qmri_lake.oai.identity import PATIENTS, Identity, identify
from qmri_lake.oai.listing import Listed
from qmri_lake.oai.protocol import classify, ignored_kind

__all__ = ["Inventory", "Repeat", "Series", "inventory", "read_series"]

GROUPS = ("dess", "msme")
_TIMEPOINTS = (0, 1200)
"""Smallest and largest timepoint [months]."""


@dataclass(frozen=True, slots=True)
class Series:
    """One usable series: everything that is known without decoding its pixels."""

    group: str
    """``dess`` or ``msme``."""
    patient: int
    timepoint: int
    """Months."""
    knee: str
    """``left`` or ``right``."""
    exam: str
    """Key ``{patient:07d}-{timepoint:03d}m-{knee}``."""
    uid: str
    """SeriesInstanceUID."""
    shape: tuple[int, ...]
    """(slice, row, column) for ``dess``, (echo, slice, row, column) for ``msme``."""
    where: str
    """Folder or tar, relative to the source."""
    files: Files = field(repr=False)
    """Picklable handle, so that the series can be read in another process."""
    scan_order: tuple[str, str, float, float] = field(repr=False)
    """Study date, time, series and acquisition number: later scans sort last."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """A scan that was done again: the last usable one is kept."""

    exam: str
    group: str
    dropped: str
    kept: str

    def __str__(self) -> str:
        return f"{self.exam} {self.group}: kept {self.kept}, dropped the earlier {self.dropped}"


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a delivery contains."""

    series: tuple[Series, ...]
    """Usable series, one for each exam and group, sorted by exam."""
    problems: tuple[Problem, ...]
    """One for each series (or listing, or stray file) that is not usable, sorted by place."""
    repeats: tuple[Repeat, ...]
    ignored: Mapping[str, int]
    """Counts of what was passed over on purpose: series by kind, files by kind."""

    def exams(self) -> dict[str, dict[str, Series]]:
        """Return exam -> group -> series: DESS and MSME paired by patient, visit and side."""
        paired: dict[str, dict[str, Series]] = {}
        for series in self.series:
            paired.setdefault(series.exam, {})[series.group] = series
        return paired


def inventory(
    source: str | os.PathLike[str],
    *,
    patient: int | None = None,
    timepoint: int | None = None,
    knee: str | None = None,
    group: str | None = None,
    progress: Progress | None = None,
) -> Inventory:
    """List the DESS and multi-echo series of a delivery.

    Every file's header is read once and no pixel is decoded. Files are grouped by
    SeriesInstanceUID, so several series may share a folder, in any order and under any names. A
    bad series never stops the others.

    Parameters
    ----------
    source : path
        A folder (of folders, of tars), a ``.tar`` or a ``.tar.gz``; tars are read where they are.
    patient, timepoint, knee : optional
        Fill in what neither headers, folders nor a listing say; a source that says otherwise
        makes the series a problem.
    group : {"dess", "msme"}, optional
        For series with a name that is not OAI's; without it, several echo times mean ``msme``.
        OAI series of the other group are then ignored.
    progress : callable, optional
        Called with (files so far, folder) after each folder.

    Returns
    -------
    Inventory
        Usable series, problems, repeats, and the counts of what was ignored. Of scans of one
        exam and group the last usable one (by study date, time, series number) is kept.

    Raises
    ------
    InputError
        The source is neither a folder nor a tar, or an option has a value that it can't have.
    """
    _check_options(patient, timepoint, knee, group)
    gathered = gather(source, progress)
    listing = gathered.listing
    problems, ignored = gathered.problems, gathered.ignored
    usable: dict[tuple[str, str], list[Series]] = {}
    for candidate in gathered.candidates:
        header = candidate.header
        listed = listing.find(candidate.where, header.series_description)
        name = header.series_description or (listed.series_description if listed else "")
        study = header.study_description or (listed.study_description if listed else "")
        kind = ignored_kind(name, study, header.image_type)
        named = classify(name)
        if kind or (named and group and named != group):
            ignored[kind or f"{named}, not asked for"] += 1
            continue
        identity = _try_identify(candidate, listed, patient, timepoint, knee)
        try:
            # A broken file is told before an unknown knee.
            if candidate.error is not None:
                raise candidate.error
            if not isinstance(identity, Identity):
                raise identity
            series = _make_series(candidate, identity, named or group or "")
        except InputError as error:
            exam = identity.exam if isinstance(identity, Identity) else ""
            problems.append(error.problem(exam=exam))
            continue
        usable.setdefault((series.exam, series.group), []).append(series)

    kept: list[Series] = []
    repeats: list[Repeat] = []
    for (exam, name), scans in sorted(usable.items()):
        *earlier, last = sorted(scans, key=lambda scan: (scan.scan_order, scan.where))
        kept.append(last)
        repeats += [Repeat(exam, name, scan.where, last.where) for scan in earlier]
    problems.sort(key=lambda problem: (problem.where, problem.reason))
    return Inventory(tuple(kept), tuple(problems), tuple(repeats), dict(sorted(ignored.items())))


def read_series(series: Series) -> Volume:
    """Read the pixels and the geometry of one series of an inventory.

    Returns
    -------
    Volume
        Image (slice, row, column) for ``dess``, (echo, slice, row, column) for ``msme``.

    Raises
    ------
    InputError
        With its reason: cut-off file, pixels that don't decode, or files that have changed since
        the inventory.
    """
    volume = read_volume(series.files, series.where)
    shape = volume.image.shape[-len(series.shape) :]
    if volume.uid != series.uid or shape != series.shape:
        raise InputError(
            f"{'another' if volume.uid != series.uid else 'the'} series, of shape {shape}",
            expected=f"the series of shape {series.shape} that the inventory has",
            where=series.where,
            todo="The files have changed: take the inventory again.",
            reason=Reason.UNREADABLE_FILE,
        )
    return replace(volume, image=volume.image[0]) if series.group == "dess" else volume


def _check_options(
    patient: int | None, timepoint: int | None, knee: str | None, group: str | None
) -> None:
    for name, number, (low, high) in (
        ("patient", patient, PATIENTS),
        ("timepoint", timepoint, _TIMEPOINTS),
    ):
        whole = isinstance(number, (int, np.integer)) and not isinstance(number, bool)
        if number is not None and not (whole and low <= number <= high):
            raise InputError(
                f"{name}={number!r}",
                expected=f"a whole number from {low} to {high}",
                where="inventory",
                reason=Reason.UNREADABLE_VALUE,
            )
    for name, value, allowed in (("knee", knee, ("left", "right")), ("group", group, GROUPS)):
        if value is not None and value not in allowed:
            raise InputError(
                f"{name}={value!r}",
                expected=" or ".join(map(repr, allowed)),
                where="inventory",
                reason=Reason.UNREADABLE_VALUE,
            )


def _try_identify(
    candidate: Candidate,
    listed: Listed | None,
    patient: int | None,
    timepoint: int | None,
    knee: str | None,
) -> Identity | InputError:
    try:
        return identify(
            candidate.where,
            candidate.headers,
            listed,
            patient=patient,
            timepoint=timepoint,
            knee=knee,
        )
    except InputError as error:
        return error


def _make_series(candidate: Candidate, identity: Identity, group: str) -> Series:
    shape: tuple[int, ...] = candidate.shape or ()
    group = group or ("msme" if shape[0] > 1 else "dess")
    if group == "dess":
        if shape[0] > 1:
            raise InputError(
                f"{shape[0]} echo times in a DESS series",
                expected="one",
                where=candidate.where,
                todo="Give the DESS and the multi-echo files as different series.",
                reason=Reason.INCONSISTENT_GEOMETRY,
            )
        shape = shape[1:]
    return Series(
        group=group,
        patient=identity.patient,
        timepoint=identity.timepoint,
        knee=identity.knee,
        exam=identity.exam,
        uid=candidate.header.uid,
        shape=shape,
        where=candidate.where,
        files=candidate.files,
        scan_order=candidate.header.scan_order,
    )
