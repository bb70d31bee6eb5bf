"""Inventory of a delivery of OAI images: usable series, and problems of the other series."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from qmri_lake.errors import InputError, Problem, Reason
from qmri_lake.oai.repeats import Repeat
from qmri_lake.oai.series import Series, read_series
from qmri_lake.oai.series_index import Progress, index_series
from qmri_lake.oai.sorting import Options, Sorting
from qmri_lake.schema.groups import GROUPS
from qmri_lake.schema.visits import PATIENTS

__all__ = ["Inventory", "Repeat", "Series", "inventory", "read_series"]

_TIMEPOINTS = (0, 1200)
"""Smallest and largest timepoint [months]."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """Content of a delivery."""

    series: tuple[Series, ...]
    """Usable series, one for each exam and group, sorted by exam."""
    problems: tuple[Problem, ...]
    """One problem for each unusable series, listing or single file, sorted by location."""
    repeats: tuple[Repeat, ...]
    ignored: Mapping[str, int]
    """Number of ignored series and files by kind."""
    notes: tuple[str, ...] = ()
    """Series that were joined to one scan."""

    def exams(self) -> dict[str, dict[str, Series]]:
        """Return the series by exam and group, so that the DESS and MSME of an exam are paired."""
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
    series: str | Iterable[str] | None = None,
    progress: Progress | None = None,
) -> Inventory:
    """List the series of a delivery that a lake stores: DESS, multi-echo, T1rho ...

    The header of every file is read once, and no pixels are decoded. Files are grouped by
    SeriesInstanceUID, so several series may share a folder, in any order and under any names. An
    unusable series does not affect the others.

    Parameters
    ----------
    source : path
        A folder with subfolders or archives, or an archive (a tar, also compressed, or a zip) under
        any name. Archives are not unpacked.
    patient, timepoint, knee : optional
        Values for series that headers, folders and listing do not identify. A series that
        contradicts these values is a problem.
    group : {"dess", "msme", "t1rho", "t2star", "qdess"}, optional
        Group of series that neither name nor acquisition identifies; a group of your own is
        declared with `qmri_lake.schema.builtin.declare_series`. Default: such a series is listed as
        ``unknown_sequence``. Series known to be of another group are then ignored.
    series : str or iterable of str, optional
        The series to use, by SeriesInstanceUID, SeriesDescription or folder. All others are
        ignored.
    progress : callable, optional
        Function that is called with (files so far, folder) after each folder.

    Returns
    -------
    Inventory
        Usable series, problems, repeats, and numbers of ignored series and files. Of several scans
        of one exam and group with the same sequence, the last usable one (by study date, time,
        series number) is kept. Scans with different sequences are listed as ``ambiguous_series``,
        and none of them is used. Series that hold single echoes of a scan are joined.

    Raises
    ------
    InputError
        If the source is neither a folder nor an archive, if an option has an invalid value, or if
        no series has a name of `series`.
    """
    _check_options(patient, timepoint, knee, group)
    chosen = [series] if isinstance(series, str) else series
    sorting = Sorting(index_series(source, progress), Options(patient, timepoint, knee, group))
    sorting.sort(chosen)
    return Inventory(
        tuple(sorted(sorting.series, key=lambda item: (item.exam, item.group))),
        tuple(sorted(sorting.problems, key=lambda problem: (problem.where, problem.reason))),
        tuple(sorting.repeats),
        dict(sorted(sorting.ignored.items())),
        tuple(sorting.notes),
    )


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
                f"{name} = {number!r}",
                expected=f"a whole number from {low} to {high}",
                where="inventory",
                reason=Reason.UNREADABLE_VALUE,
            )
    for name, value, allowed in (
        ("knee", knee, ("left", "right")),
        ("group", group, GROUPS.series()),
    ):
        if value is not None and value not in allowed:
            raise InputError(
                f"{name} = {value!r}",
                expected=" or ".join(map(repr, allowed)),
                where="inventory",
                reason=Reason.UNREADABLE_VALUE,
            )
