"""Index of the series of a delivery, with files grouped by SeriesInstanceUID."""

from __future__ import annotations

import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, Problem, Reason, printable
from qmri_lake.oai.completeness import Completeness, assess
from qmri_lake.oai.files import Entry, Files
from qmri_lake.oai.geometry import arrange, ignored_images
from qmri_lake.oai.header import Header, is_dicom, read_header
from qmri_lake.oai.image_kind import image_kind
from qmri_lake.oai.listing import Listing, ListingRow, is_listing, read_listing
from qmri_lake.oai.packing import READ_ERRORS, Packing, cause
from qmri_lake.oai.strays import Strays
from qmri_lake.oai.walk import walk

__all__ = [
    "Candidate",
    "Progress",
    "SeriesIndex",
    "index_series",
    "make_candidate",
    "read_headers",
]

Progress = Callable[[int, str], None]
"""Function that is called with the number of files so far and the folder just finished."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One series in one folder, which is not identified yet."""

    where: str
    """Folder or archive, relative to the source."""
    files: Files
    headers: tuple[Header, ...]
    """Header of the first file, then one header for each other patient, study, series or side."""
    shape: tuple[int, int, int, int] | None
    """(echo, slice, row, column); None if the files are not complete or not a regular grid."""
    error: InputError | None
    """Error if the series cannot be used."""
    completeness: Completeness = field(default_factory=Completeness)
    """Missing files, according to the headers."""
    affine: NDArray[np.float64] | None = None
    """(4, 4) voxel (slice, row, column) to LPS mm; None like `shape`."""
    echo_times: tuple[float, ...] = ()
    """Milliseconds, ascending; NaN if the headers have none. Empty if `shape` is None."""

    @property
    def header(self) -> Header:
        """Header of the first file."""
        return self.headers[0]


@dataclass(slots=True)
class SeriesIndex:
    """All series of a delivery, with its listings, problems and ignored files."""

    candidates: list[Candidate] = field(default_factory=list)
    listed: list[ListingRow] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    """Problems of listings, of archives, and of files that cannot be assigned to a series."""
    ignored: Counter[str] = field(default_factory=Counter)

    @property
    def listing(self) -> Listing:
        """Listing with the rows of all listings."""
        return Listing(self.listed)

    def add(self, other: SeriesIndex) -> None:
        """Add the content of one folder or archive."""
        self.candidates += other.candidates
        self.listed += other.listed
        self.problems += other.problems
        self.ignored += other.ignored


def index_series(source: str | os.PathLike[str], progress: Progress | None = None) -> SeriesIndex:
    """Read the header of every file of a delivery once, and group the files into series.

    An archive that is damaged or incomplete is one problem, and nothing of it is used.

    Raises
    ------
    InputError
        If the source is not a folder or an archive.
    """
    gathered = SeriesIndex()
    count = 0
    for container in walk(source):
        part = SeriesIndex()
        folders: dict[str, _Folder] = {}
        where = ""
        try:
            for entry in container:
                if progress is not None and folders and entry.folder != where:
                    progress(count, printable(where or "."))
                where = entry.folder
                count += 1
                folders.setdefault(where, _Folder(where)).add(entry, part)
            for folder in folders.values():
                part.candidates += folder.candidates(part)
        except InputError as fault:
            part = SeriesIndex(problems=[fault.problem()])
        if progress is not None and folders:
            progress(count, printable(where or "."))
        gathered.add(part)
    found: dict[tuple[str, ...], list[Candidate]] = {}
    for candidate in gathered.candidates:
        first = candidate.header
        # Some anonymisers give one UID to all series.
        whose = (first.patient_id, first.study_date, first.series_description)
        found.setdefault((first.uid or candidate.where, *whose), []).append(candidate)
    gathered.candidates = [part for same_uid in found.values() for part in _join(same_uid)]
    return gathered


class _Folder:
    """Collection of the files of one folder while they are read."""

    def __init__(self, name: str) -> None:
        self.where = printable(name or ".")
        self._files: dict[str, list[tuple[Entry, Header]]] = {}
        self._strays = Strays()

    def add(self, entry: Entry, part: SeriesIndex) -> None:
        """Add one file."""
        # The content is omitted, because it would stay in memory.
        kept = replace(entry, opener=None, start=entry.start[:160])
        if entry.is_archive:
            if entry.error is not None:
                part.problems.append(entry.error.problem())
            self._strays.other(kept)
            return
        if entry.error is not None:
            self._strays.damaged(kept, entry.error)
            return
        if is_dicom(entry.start):
            self._add_dicom(entry, kept, part)
        elif is_listing(entry.basename):
            try:
                with entry.open() as stream:
                    part.listed += read_listing(stream.read(), entry.name)
            except InputError as error:
                part.problems.append(error.problem())
            except READ_ERRORS as error:
                part.problems.append(_unreadable(entry.name, error).problem())
        else:
            self._strays.other(kept)

    def _add_dicom(self, entry: Entry, kept: Entry, part: SeriesIndex) -> None:
        try:
            with entry.open() as stream:
                header = read_header(stream, entry.name, entry.size)
        except InputError as error:
            self._strays.damaged(kept, error)
            return
        except READ_ERRORS as error:
            self._strays.damaged(kept, _unreadable(entry.name, error))
            return
        if header is None:
            self._strays.without_image(kept)
            return
        self._files.setdefault(header.uid, []).append((kept, header))

    def candidates(self, part: SeriesIndex) -> Iterator[Candidate]:
        """Yield the series of the folder, with errors of files in the place of their slices."""
        series = {
            uid: [(entry.basename, entry.size) for entry, _ in members]
            for uid, members in self._files.items()
        }
        faults, problems, ignored = self._strays.assign(series)
        part.problems += [fault.problem() for fault in problems]
        part.ignored += ignored
        for uid, members in self._files.items():
            headers = [header for _, header in members]
            part.ignored += ignored_images(headers)
            fault = _first_fault(headers)
            candidate = make_candidate(
                self.where, _handle([entry for entry, _ in members]), headers, fault
            )
            if uid in faults and fault is None:
                if candidate.completeness.proven:
                    part.problems.append(faults[uid].problem())
                else:
                    candidate = replace(candidate, error=faults[uid], shape=None)
            yield candidate


def _first_fault(headers: Sequence[Header]) -> InputError | None:
    """Return the first error. If some images are signals of a scan, others are ignored."""
    if all(header.fault is None for header in headers):
        return None
    signal = [header for header in headers if not image_kind(header)] or headers
    return next((header.fault for header in signal if header.fault is not None), None)


def make_candidate(
    where: str, files: Files, headers: Sequence[Header], error: InputError | None
) -> Candidate:
    """Return a series from the headers of its files; `error` is set if it cannot be used."""
    naming = {
        (
            h.patient_id,
            h.study_description,
            h.series_description,
            h.visit,
            h.laterality,
            image_kind(h),
        ): h
        for h in reversed(headers)
    }
    # Frames are not kept, because those of a full archive would not fit into memory.
    kept = tuple(replace(header, frames=()) for header in reversed(naming.values()))
    found = Candidate(where, files, kept, None, error)
    if error is not None:
        return found
    try:
        stack = arrange(headers, where)
        completeness = assess(headers, stack, where)
    except InputError as irregular:
        return replace(found, error=irregular)
    return replace(
        found,
        shape=stack.shape,
        completeness=completeness,
        affine=stack.affine,
        echo_times=tuple(stack.echo_time.tolist()),
    )


def _handle(entries: list[Entry]) -> Files:
    first = entries[0]
    # Names are interned, because a full archive has millions of files with few different names.
    names = tuple(sys.intern(entry.member) for entry in entries)
    if first.packing is Packing.FOLDER:
        return Files(first.container, names)
    return Files(
        first.container,
        names,
        tuple(entry.offset for entry in entries),
        tuple(entry.size for entry in entries),
        first.packing,
    )


def _join(candidates: list[Candidate]) -> list[Candidate]:
    """Join the parts of one series from several folders; complete copies stay separate."""
    if len(candidates) == 1:
        return candidates
    headers = [read_headers(candidate.files) for candidate in candidates]
    positions = [
        {(image.echo_time, image.position) for header in part for image in header.images}
        for part in headers
    ]
    if any(all(whole >= part for part in positions) for whole in positions):
        return candidates
    paths = {candidate.files.path for candidate in candidates}
    in_archives = any(candidate.files.offsets for candidate in candidates)
    first = candidates[0]
    error = next((c.error for c in candidates if c.error and c.error.where != c.where), None)
    if len(paths) == 1:
        files = Files(
            first.files.path,
            sum((c.files.names for c in candidates), ()),
            sum((c.files.offsets for c in candidates), ()),
            sum((c.files.sizes for c in candidates), ()),
            first.files.packing,
        )
    elif not in_archives:
        root = os.path.commonpath(paths)
        files = Files(
            root,
            tuple(
                os.path.relpath(os.path.join(c.files.path, name), root)
                for c in candidates
                for name in c.files.names
            ),
        )
    else:
        files = first.files
        error = InputError(
            f"one series in {counted(len(paths), 'archive')} or folders",
            expected="a series in one archive, or in folders",
            where=first.where,
            todo="Unpack the archives into one folder.",
            reason=Reason.UNREADABLE_FILE,
        )
    return [
        make_candidate(first.where, files, [header for part in headers for header in part], error)
    ]


def read_headers(files: Files) -> list[Header]:
    """Read the headers of the files of a series again, in the order of `Files.read`."""
    read = (read_header(io.BytesIO(data), name, len(data)) for name, data in files.read())
    return [header for header in read if header is not None]


def _unreadable(name: str, error: Exception) -> InputError:
    return InputError(
        f"unreadable file: {cause(error)}",
        expected="a readable file",
        where=name,
        todo="Check its permissions and the disk.",
        reason=Reason.UNREADABLE_FILE,
    )
