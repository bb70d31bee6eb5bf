"""Series gathered from the files of a delivery, by SeriesInstanceUID, before anyone names them."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from qmri_lake.errors import InputError, Problem, Reason, printable
from qmri_lake.oai.files import Entry, Files, walk
from qmri_lake.oai.header import Header, is_dicom, read_header
from qmri_lake.oai.listing import Listed, Listing, is_listing, read_listing
from qmri_lake.oai.stack import arrange

__all__ = ["Candidate", "Gathered", "Progress", "gather"]

Progress = Callable[[int, str], None]
"""Called with the number of files met so far and the folder just finished."""

_KNOWN_SUFFIXES = (
    ".csv", ".gif", ".htm", ".html", ".jpeg", ".jpg", ".json", ".mat", ".md", ".npy", ".npz",
    ".parquet", ".pdf", ".png", ".txt", ".xls", ".xlsx", ".xml", ".yaml", ".yml",
)  # fmt: skip
_ARCHIVES = (".7z", ".rar", ".zip", ".tar", ".tar.bz2", ".tar.gz", ".tar.xz", ".tar.zst", ".tbz2",
             ".tgz", ".txz")  # fmt: skip
"""What is met as a file: other kinds than are walked through, and tars inside tars."""
_SLICES = {"0", ".dcm", ".ima"}
"""Forms of names that only slices have."""
_PREFIX = 132


@dataclass(frozen=True, slots=True)
class Candidate:
    """One series of one folder, before it is known whose it is."""

    where: str
    """Folder or tar, relative to the source."""
    files: Files
    headers: tuple[Header, ...]
    """Of its first file, then of each that names another patient, study, series or side."""
    shape: tuple[int, int, int, int] | None
    """(echo, slice, row, column); None if it is not one regular grid of whole files."""
    error: InputError | None
    """Why it can't be used."""

    @property
    def header(self) -> Header:
        """Header of the first file."""
        return self.headers[0]


@dataclass(slots=True)
class Gathered:
    """All series of a delivery, and what else was in it."""

    candidates: list[Candidate] = field(default_factory=list)
    listed: list[Listed] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    """Of listings, and of files that can't be told to belong to a series."""
    ignored: Counter[str] = field(default_factory=Counter)

    @property
    def listing(self) -> Listing:
        """The rows of all listings."""
        return Listing(self.listed)


def gather(source: str | os.PathLike[str], progress: Progress | None = None) -> Gathered:
    """Read the header of every file of a delivery once, and group them into series.

    Raises
    ------
    InputError
        The source is neither a folder nor a tar.
    """
    gathered = Gathered()
    found: dict[str, list[Candidate]] = {}
    count = 0

    def finish(folder: _Folder) -> None:
        for candidate in folder.candidates(gathered):
            found.setdefault(candidate.header.uid or candidate.where, []).append(candidate)
        if progress is not None:
            progress(count, folder.where)

    for container in walk(source):
        folder: _Folder | None = None
        for entry in container:
            if folder is not None and folder.name != entry.folder:
                finish(folder)
                folder = None
            count += 1
            folder = folder or _Folder(entry.folder)
            folder.add(entry, gathered)
        if folder is not None:
            finish(folder)
    for same_uid in found.values():
        gathered.candidates += _join(same_uid)
    return gathered


class _Folder:
    """The files of one folder, until all are met."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.where = printable(name or ".")
        self._files: dict[str, list[tuple[Entry, Header]]] = {}
        self._strays: list[InputError] = []
        self._short: list[Entry] = []
        """Files too short to tell whether they are DICOM."""

    def add(self, entry: Entry, gathered: Gathered) -> None:
        """Take one file."""
        if entry.broken is not None:
            self._strays.append(entry.broken)
            return
        if entry.basename.lower().endswith(_ARCHIVES):
            gathered.problems.append(_archive(entry.name).problem())
            return
        if is_listing(entry.basename):
            try:
                with entry.open() as stream:
                    gathered.listed += read_listing(stream.read(), entry.name)
            except InputError as error:
                gathered.problems.append(error.problem())
            except OSError as error:
                gathered.problems.append(_unreadable(entry.name, error, "listing").problem())
            return
        if entry.basename.lower().endswith(_KNOWN_SUFFIXES) or entry.basename.startswith("."):
            return  # listings, tables and pictures that come with a delivery
        try:
            with entry.open() as stream:
                start = stream.read(_PREFIX)
                if not is_dicom(start):
                    if len(start) < _PREFIX:
                        self._short.append(entry)
                    else:
                        gathered.ignored["not DICOM"] += 1
                    return
                stream.seek(0)
                header = read_header(stream, entry.name, entry.size)
        except InputError as error:
            self._strays.append(error)
            return
        except OSError as error:
            self._strays.append(_unreadable(entry.name, error, "DICOM file"))
            return
        if header is None:
            gathered.ignored["DICOM without an image"] += 1
            return
        self._files.setdefault(header.uid, []).append((entry, header))

    def candidates(self, gathered: Gathered) -> Iterator[Candidate]:
        """Yield the series of the folder; a damaged file belongs to the only one there is."""
        strays = self._strays
        names = {_form(entry.basename) for members in self._files.values() for entry, _ in members}
        for entry in self._short:
            # So short a file called as slices are is the rest of one.
            if _form(entry.basename) in names | _SLICES:
                strays.append(_cut(entry.name, f"{entry.size} bytes"))
            else:
                gathered.ignored["not DICOM"] += 1
        if strays and not self._files:
            gathered.problems.append(strays[0].problem())
        elif len(self._files) > 1:
            gathered.problems += [stray.problem() for stray in strays]
            strays = []
        for members in self._files.values():
            headers = [header for _, header in members]
            fault = next((h.fault for h in headers if h.fault is not None), None)
            yield _candidate(
                self.where,
                _handle([entry for entry, _ in members]),
                headers,
                fault or (strays[0] if strays else None),
            )


def _candidate(
    where: str, files: Files, headers: list[Header], error: InputError | None
) -> Candidate:
    shape = None
    if error is None:
        try:
            shape = arrange(headers, where).shape
        except InputError as irregular:
            error = irregular
    naming = {
        (h.patient_id, h.study_description, h.series_description, h.visit, h.laterality): h
        for h in reversed(headers)
    }
    return Candidate(where, files, tuple(reversed(naming.values())), shape, error)


def _handle(entries: list[Entry]) -> Files:
    first = entries[0]
    # Interned: a full archive has millions of files and few different names.
    names = tuple(sys.intern(entry.member) for entry in entries)
    if first.offset < 0:
        return Files(first.container, names)
    offsets = tuple(entry.offset for entry in entries)
    return Files(first.container, names, offsets, tuple(entry.size for entry in entries))


def _join(candidates: list[Candidate]) -> list[Candidate]:
    """Join the parts of a series that lies in several folders; leave whole copies apart."""
    if len(candidates) == 1:
        return candidates
    headers = [_headers(candidate.files) for candidate in candidates]
    places = [{(h.echo_time, h.position) for h in part} for part in headers]
    if any(all(whole >= part for part in places) for whole in places):
        return candidates
    paths = {candidate.files.path for candidate in candidates}
    in_tars = any(candidate.files.offsets for candidate in candidates)
    first = candidates[0]
    error = next((c.error for c in candidates if c.error and c.error.where != c.where), None)
    if len(paths) == 1:
        files = Files(
            first.files.path,
            sum((c.files.names for c in candidates), ()),
            sum((c.files.offsets for c in candidates), ()),
            sum((c.files.sizes for c in candidates), ()),
        )
    elif not in_tars:
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
            f"one series in {len(paths)} tars",
            expected="a series in one tar or in folders",
            where=first.where,
            todo="Unpack the tars into one folder.",
            reason=Reason.UNREADABLE_FILE,
        )
    return [_candidate(first.where, files, [header for part in headers for header in part], error)]


def _headers(files: Files) -> list[Header]:
    import io

    read = (read_header(io.BytesIO(data), name, len(data)) for name, data in files.read())
    return [header for header in read if header is not None]


def _form(name: str) -> str:
    """Return the ending of a name, else the name with every number as 0: slices share it."""
    _, point, ending = name.rpartition(".")
    return f".{ending.lower()}" if point and ending.isalpha() else re.sub(r"\d+", "0", name)


def _archive(name: str) -> InputError:
    return InputError(
        "an archive of another kind, or inside another",
        expected="folders, .tar or .tar.gz",
        where=name,
        todo="Unpack it, or pack it again as .tar or .tar.gz.",
        reason=Reason.UNREADABLE_FILE,
    )


def _unreadable(name: str, error: OSError, kind: str) -> InputError:
    return InputError(
        f"a file that can't be read ({error.strerror or type(error).__name__})",
        expected=f"a readable {kind}",
        where=name,
        todo="Check its permissions, its link and the disk.",
        reason=Reason.UNREADABLE_FILE,
    )


def _cut(name: str, found: str) -> InputError:
    return InputError(
        found,
        expected="a whole file",
        where=name,
        todo="Copy or download it again.",
        reason=Reason.TRUNCATED_FILE,
    )
