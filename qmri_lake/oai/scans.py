"""Scans of a knee: series that are parts of one scan, and images of other kinds in a series."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Values
from dataclasses import dataclass, field, replace

import numpy as np

from qmri_lake.core.geometry import GRID_TOLERANCE_MM, corner_distance
from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.completeness import Completeness, assess
from qmri_lake.oai.files import Files
from qmri_lake.oai.geometry import arrange
from qmri_lake.oai.header import Header
from qmri_lake.oai.image_kind import image_kind
from qmri_lake.oai.protocol import is_spin_lock
from qmri_lake.oai.sequence import (
    Sequence,
    differences,
    make_sequence,
    scan_name,
    spin_lock_time,
)
from qmri_lake.oai.series_index import Candidate, make_candidate, read_headers

__all__ = ["Found", "Scan", "join_scans", "separate_kinds"]

_SAME_TIME = 1e-3  # ms, as for the echoes of one series
_MOST_UNEVEN = 0.1  # of the usual gap between echo times


@dataclass(frozen=True, slots=True)
class Found:
    """A series of a knee, and its name."""

    candidate: Candidate
    name: str
    """SeriesDescription, of the header or of the listing."""


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan of a knee: a series, or several that are joined along the echo axis."""

    parts: tuple[Found, ...]
    """By echo time."""
    sequence: Sequence
    spin_locked: bool = False
    """Whether the times of the sequence are spin-lock times of the names of the series."""
    completeness: Completeness = field(default_factory=Completeness)
    """Missing files, according to the headers of all parts."""

    @property
    def header(self) -> Header:
        """Header of the first file."""
        return self.parts[0].candidate.header

    @property
    def where(self) -> str:
        """Folder or tar of the first part, relative to the source."""
        return self.parts[0].candidate.where

    @property
    def scan_order(self) -> tuple[str, str, float, float]:
        """Study date, time, series and acquisition number: later scans sort last."""
        return self.header.scan_order

    @property
    def kind(self) -> str:
        """What the times of the sequence are: ``echo`` or ``spin-lock``.

        Scanners write spin-lock times into the name of each series, or into EchoTime.
        """
        return "spin-lock" if is_spin_lock(self.parts[0].name) else "echo"

    @property
    def times(self) -> str:
        """Echo or spin-lock times of a joined scan as text."""
        return f"{self.kind} times {', '.join(f'{time:g}' for time in self.sequence.echo_times)} ms"


def separate_kinds(candidate: Candidate) -> tuple[Candidate, list[str]]:
    """Return the signal images of a series, and the kinds of its other images.

    Scanners store phase images or computed means in the series of their echoes. They are left out
    if they repeat positions of the signal images. Otherwise ImageType contradicts itself.

    Returns
    -------
    Candidate
        The series as it is, if all its images are of one kind or none is a signal.
    list of str
        Kinds of the images that were left out.
    """
    kinds = {image_kind(header) for header in candidate.headers}
    if len(kinds) == 1 or "" not in kinds:
        return candidate, []
    headers = {header.name: header for header in read_headers(candidate.files)}
    signal = {name: header for name, header in headers.items() if not image_kind(header)}
    kept = {header.position for header in signal.values()}
    if any(header.position not in kept for header in headers.values()):
        error = InputError(
            f"ImageType differs between slices: signal and {', '.join(sorted(kinds - {''}))}",
            expected="images of one kind at every position",
            where=candidate.where,
            todo="Copy or download the series again, or correct ImageType.",
            reason=Reason.INCONSISTENT_GEOMETRY,
        )
        return replace(candidate, shape=None, error=error), []
    stray = candidate.error
    if stray is not None and stray.where == candidate.where:
        stray = None  # of the geometry, which is examined again
    fault = next((header.fault for header in signal.values() if header.fault), None)
    files = _select(candidate.files, signal)
    # The scanner counted and numbered the images of all kinds.
    kept_headers = [
        header
        if header.images_in_acquisition > len(headers)
        else replace(header, images_in_acquisition=math.nan)
        for header in signal.values()
    ]
    found = make_candidate(candidate.where, files, kept_headers, fault or stray)
    completeness = replace(found.completeness, doubt=None)
    return replace(found, completeness=completeness), sorted(kinds - {""})


def _select(files: Files, names: Iterable[str]) -> Files:
    wanted = set(names)
    index = [k for k, name in enumerate(files.names) if name in wanted]
    return replace(
        files,
        names=tuple(files.names[k] for k in index),
        offsets=tuple(files.offsets[k] for k in index) if files.offsets else (),
        sizes=tuple(files.sizes[k] for k in index) if files.sizes else (),
    )


def join_scans(found: Values[Found], damaged: Values[Found]) -> list[Scan]:
    """Return the scans of one knee: series that agree in all but the echo time are one scan.

    Series are joined if names (without the numbers of an echo), acquisition and ImageType agree,
    the grids are the same to within 0.01 mm, and no echo time occurs twice. Series of a repeated
    scan are distinguished by the order of scanning. T1rho series are joined by the spin-lock times
    in their names, if they have any.

    Parameters
    ----------
    found : sequence of Found
        Usable series of one knee at one visit.
    damaged : sequence of Found
        Its series that cannot be used. A scan that lacks their echo is incomplete.
    """
    scans: list[Scan] = []
    for cluster in _clusters([_single(item) for item in found]):
        scans += _join(cluster, [*damaged, *found])
    return scans


def _single(item: Found) -> Scan:
    candidate = item.candidate
    assert candidate.shape is not None  # of a usable series
    assert candidate.affine is not None
    times, locked = candidate.echo_times, spin_lock_time(item.name)
    spin_locked = is_spin_lock(item.name) and len(times) == 1 and not math.isnan(locked)
    if spin_locked:
        times = (locked,)
    _, *extent = candidate.shape
    slices, rows, columns = extent
    sequence = make_sequence(
        candidate.header, item.name, times, candidate.affine, (slices, rows, columns)
    )
    return Scan((item,), sequence, spin_locked, candidate.completeness)


def _clusters(singles: Iterable[Scan]) -> Iterator[list[Scan]]:
    """Yield series that agree in all but their times, in the order of scanning."""
    clusters: list[list[Scan]] = []
    for scan in sorted(singles, key=lambda scan: (scan.scan_order, scan.where)):
        for cluster in clusters:
            first = cluster[0]
            if (
                first.spin_locked == scan.spin_locked
                and first.header.study_date == scan.header.study_date
                and not differences(scan.sequence, first.sequence, echoes=False)
            ):
                cluster.append(scan)
                break
        else:
            clusters.append([scan])
    yield from clusters


def _join(cluster: list[Scan], others: Values[Found]) -> list[Scan]:
    """Join the series of a cluster into scans, if their times and grids show which belong together.

    The series of a cluster may be one scan, several repeats, or something that cannot be resolved,
    which is returned as it is.
    """
    runs = _runs(cluster)
    if len(runs) == len(cluster):
        return cluster
    times = {tuple(time for scan in run for time in scan.sequence.echo_times) for run in runs}
    if len({tuple(sorted(each)) for each in times}) > 1:
        return cluster
    joined = []
    for run in runs:
        parts = sorted(run, key=lambda scan: scan.sequence.echo_times)
        all_times = tuple(sorted(time for scan in parts for time in scan.sequence.echo_times))
        sequence = replace(parts[0].sequence, echo_times=all_times)
        found = tuple(part for scan in parts for part in scan.parts)
        whole = Scan(found, sequence, parts[0].spin_locked)
        gap = _find_gap(whole, others)
        completeness = Completeness(missing=gap) if gap else _assess(whole)
        joined.append(replace(whole, completeness=completeness))
    return joined


def _runs(cluster: list[Scan]) -> list[list[Scan]]:
    """Split a cluster, in the order of scanning, where a time is repeated or the grid changes."""
    runs: list[list[Scan]] = []
    for scan in cluster:
        run = runs[-1] if runs else []
        if run and _on_one_grid(scan, run[0]) and not _overlap(scan, run):
            run.append(scan)
        else:
            runs.append([scan])
    return runs


def _on_one_grid(a: Scan, b: Scan) -> bool:
    mine, theirs = (scan.parts[0].candidate.affine for scan in (a, b))
    assert mine is not None
    assert theirs is not None
    same_shape = a.sequence.shape == b.sequence.shape
    return same_shape and corner_distance(a.sequence.shape, mine, theirs) <= GRID_TOLERANCE_MM


def _overlap(scan: Scan, run: Iterable[Scan]) -> bool:
    known = [time for other in run for time in other.sequence.echo_times]
    return any(
        not abs(time - other) > _SAME_TIME for time in scan.sequence.echo_times for other in known
    )


def _find_gap(scan: Scan, others: Iterable[Found]) -> InputError | None:
    """Return what is missing of a joined scan: a damaged part, or the time of an echo."""
    name, times = scan_name(scan.parts[0].name), scan.sequence.echo_times
    found = ""
    for other in others:
        header = other.candidate.header
        if scan_name(other.name) == name and image_kind(header) == image_kind(scan.header):
            known = spin_lock_time(other.name) if scan.spin_locked else header.echo_time
            if not any(abs(known - time) <= _SAME_TIME for time in times):
                found = f"the part in {other.candidate.where} is damaged or on another grid"
    gaps = np.diff(times)
    usual = float(np.median(gaps))
    steps = np.rint(gaps / usual)
    # A gap of twice the others', as 10, 20, 30, 50 ms; not a design such as 10, 20, 40 ms.
    even = np.abs(gaps / usual - steps).max() < _MOST_UNEVEN
    if even and steps.max() > 1 and (steps == 1).sum() > len(gaps) / 2 and scan.kind == "echo":
        found = f"a gap of {gaps.max():g} ms between echoes that are {usual:g} ms apart"
    if not found:
        return None
    return InputError(
        f"{len(scan.parts)} series of one scan, {scan.times}: {found}",
        expected="all echoes of the scan",
        where=scan.where,
        todo="Copy or download all series of the scan again.",
        reason=Reason.MISSING_ECHO,
    )


def _assess(scan: Scan) -> Completeness:
    """Assess the files of all parts of a joined scan together."""
    if scan.spin_locked:
        return Completeness()  # the headers do not state these times
    headers = [header for part in scan.parts for header in read_headers(part.candidate.files)]
    try:
        return assess(headers, arrange(headers, scan.where), scan.where)
    except InputError as irregular:
        return Completeness(missing=irregular)
