"""Choice between several scans of one knee and group: the last, if it repeats the others."""

from __future__ import annotations

from collections.abc import Sequence as Values
from dataclasses import dataclass

from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.scans import Found, Scan
from qmri_lake.oai.sequence import differences

__all__ = ["Repeat", "choose_scan"]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A scan that was repeated, of which the last usable scan is kept."""

    exam: str
    group: str
    dropped: str
    kept: str

    def __str__(self) -> str:
        return f"{self.exam} {self.group}: kept {self.kept}, dropped the earlier {self.dropped}"


def choose_scan(group: str, scans: Values[Scan], damaged: Values[Found] = ()) -> Scan:
    """Return the last scan, if it is a repeat of the others.

    A repeat has the same sequence as the earlier scans and at least as many slices and echoes.

    Parameters
    ----------
    group : str
        ``dess``, ``msme`` ...
    scans : sequence of Scan
        Usable scans of one knee at one visit, at least one.
    damaged : sequence of Found
        Series of this knee and visit that cannot be used. A scan with fewer files does not repeat
        them.

    Raises
    ------
    InputError
        If the scans are not repeats (reason ``ambiguous_series``). The message gives the
        differences.
    """
    ordered = sorted(scans, key=lambda scan: (scan.scan_order, scan.sequence.size, scan.where))
    last = ordered[-1]
    unlike = [(scan, text) for scan in ordered[:-1] if (text := _why_not(last, scan))]
    named = [f"{_name(last)}"] + [f"{_name(scan)} ({text})" for scan, text in unlike]
    for found in damaged:
        header, count = found.candidate.header, len(found.candidate.files.names)
        other_part = header.scan_order == last.scan_order and header.uid != last.header.uid
        if other_part or count > sum(len(part.candidate.files.names) for part in last.parts):
            named.append(f"{found.name!r} in {found.candidate.where} ({count} files, damaged)")
    if len(named) == 1:
        return last
    raise InputError(
        f"{len(named)} {group} series that are not repeats: {'; '.join(named)}",
        expected="one sequence, and later scans as complete as earlier ones",
        where=last.where,
        todo=f"Choose one, for example with --series {_selector(last, scans, damaged)!r}.",
        reason=Reason.AMBIGUOUS_SERIES,
    )


def _why_not(last: Scan, scan: Scan) -> str:
    """Return why `last` does not replace `scan`, or ""."""
    found = differences(scan.sequence, last.sequence)
    mine, theirs = last.sequence, scan.sequence
    if mine.shape[0] != theirs.shape[0]:
        one_scan = last.scan_order == scan.scan_order and last.header.uid != scan.header.uid
        if one_scan or mine.shape[0] < theirs.shape[0]:
            found.append(f"{counted(theirs.shape[0], 'slice')}, not {mine.shape[0]}")
    return ", ".join(found)


def _name(scan: Scan) -> str:
    number = scan.scan_order[2]
    of_number = f" (series {number:g})" if number >= 0 else ""
    return f"{scan.parts[0].name!r} in {scan.where}{of_number}"


def _selector(scan: Scan, scans: Values[Scan], damaged: Values[Found]) -> str:
    """Return text that identifies only this scan: name, folder, or else SeriesInstanceUID."""
    others = [other.parts for other in scans if other is not scan] + [tuple(damaged)]
    names = {found.name for parts in others for found in parts}
    folders = {found.candidate.where for parts in others for found in parts}
    if scan.parts[0].name and scan.parts[0].name not in names:
        return scan.parts[0].name
    return scan.header.uid if scan.where in folders else scan.where
