"""Checksums of the files in which Icechunk lists the commits and chunks of a local lake.

Chunks contain their checksums. Icechunk's own files contain none: most changed bits make such a
file unreadable, but some change a list of chunks, an attribute or the history without an error.
Therefore writers keep ``checksums.txt`` next to these files, with the checksum of each of them.
Object stores have checksums of their own.

A file gets its checksum when a writer ends, and every 30 seconds during a run. A killed writer
leaves files without a checksum; the next writer adds them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
import zlib
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from qmri_lake.core.atomic_write import atomic_write_bytes
from qmri_lake.store.location import OWNER_NAME, is_local, local_path

__all__ = [
    "LIST_NAME",
    "FileRecorder",
    "accept_damage",
    "damaged_files",
    "damaged_snapshot",
    "has_file_checksums",
    "record_files",
    "rewriting_files",
    "unlisted_files",
]

LIST_NAME = "checksums.txt"
"""Name of the list in the folder of a lake. Each line has the CRC-32 of the rest of the line, the
CRC-32 and the size [bytes] of a file, and its path. The last line of a path is valid."""

_log = logging.getLogger(__name__)

_FOLDERS = ("attributes", "manifests", "overwritten", "refs", "snapshots", "transactions")
_FILES = ("config.yaml", "repo")
_REWRITTEN = re.compile(r"repo|refs/branch\..*")
"""Files that every commit replaces. Icechunk never changes the other files, except when commits
are removed or the format is converted; see `rewriting_files`."""
_TEMPORARY = re.compile(r"overwritten/.*")
"""Copies of replaced files, which Icechunk may remove."""
_INTERVAL = 30.0
"""Shortest time between two records during a run [s]."""
_SHARE = 0.01
"""Largest share of the time of a run that is spent on records."""


@dataclass(frozen=True, slots=True)
class _Entry:
    crc: int
    size: int

    @classmethod
    def of(cls, content: bytes) -> _Entry:
        return cls(zlib.crc32(content), len(content))

    def line(self, name: str) -> bytes:
        rest = f"{self.crc:08x} {self.size} {name}".encode()
        return b"%08x %s\n" % (zlib.crc32(rest), rest)


@dataclass(frozen=True, slots=True)
class _List:
    """The content of ``checksums.txt``."""

    entries: dict[str, _Entry]
    """Valid entries by path."""
    damaged: tuple[int, ...]
    """Numbers of the lines that are damaged."""
    torn: int
    """Length of an incomplete last line in bytes, which a killed writer leaves."""


def has_file_checksums(location: str) -> bool:
    """Return whether the files of a lake have checksums; those of an object store always have."""
    return not is_local(location) or (local_path(location) / LIST_NAME).exists()


def record_files(location: str) -> None:
    """Add the checksums of new files to the list of a local lake."""
    FileRecorder(location).record()


class FileRecorder:
    """Adds the checksums of new files to the list of a local lake, repeatedly during a run."""

    def __init__(self, location: str) -> None:
        self._folder = local_path(location) if is_local(location) else None
        self._due = time.monotonic() + _INTERVAL
        self._known: dict[str, _Entry] | None = None

    def record_if_due(self) -> None:
        """Add the new files if the last record is long enough ago."""
        if time.monotonic() >= self._due:
            self.record()

    def record(self) -> None:
        """Add the new files. An error, such as a full disk, is only logged: no value depends on it.

        The next writer adds what is missing then.
        """
        if self._folder is None:
            return
        started = time.monotonic()
        try:
            self._record(self._folder)
        except OSError as error:
            _log.warning("%s: no checksums of new files (%s)", self._folder, error)
            self._known = None
        taken = time.monotonic() - started
        self._due = time.monotonic() + max(_INTERVAL, taken / _SHARE)

    def _record(self, folder: Path) -> None:
        if self._known is None:
            self._known = _read_list(folder, cut=True).entries
        lines = []
        for name in _files(folder):
            if name in self._known and not _REWRITTEN.fullmatch(name):
                continue
            with contextlib.suppress(FileNotFoundError):  # replaced or removed meanwhile
                entry = _Entry.of((folder / name).read_bytes())
                if entry != self._known.get(name):
                    self._known[name] = entry
                    lines.append(entry.line(name))
        if lines:
            with open(folder / LIST_NAME, "ab") as file:
                file.write(b"".join(lines))
                file.flush()
                os.fsync(file.fileno())


@contextlib.contextmanager
def rewriting_files(location: str) -> Iterator[None]:
    """Replace the list after a block in which Icechunk rewrites or removes files.

    There is no list meanwhile. If the process is killed, the next writer makes a new one. Files
    that are damaged before the block keep their checksum, so that they stay reported.
    """
    if not has_file_checksums(location) or not is_local(location):
        yield
        return
    folder = local_path(location)
    damaged: dict[str, tuple[_Entry, _Entry | None]] = {
        name: (entry, found)
        for name, entry in _read_list(folder).entries.items()
        if (found := _current(folder / name)) != entry and not _REWRITTEN.fullmatch(name)
    }
    (folder / LIST_NAME).unlink()
    try:
        yield
    finally:
        lines = []
        for name in _files(folder):
            entry = _current(folder / name)
            if name in damaged and damaged[name][1] == entry:
                entry = damaged[name][0]
            if entry is not None:
                lines.append(entry.line(name))
        try:
            atomic_write_bytes(folder / LIST_NAME, b"".join(lines))
        except OSError as error:  # the next writer makes the list
            _log.warning("%s: no checksums of the files (%s)", folder, error)


def damaged_files(location: str, names: Iterable[str] | None = None) -> list[str]:
    """Check the files of a local lake; return a line for each one that is damaged or missing.

    Parameters
    ----------
    location : str
        The lake. There is no line for a lake on an object store, or without checksums.
    names : iterable of str, optional
        Paths of files in the folder of the lake; files without a checksum are ignored. Default: all
        files of the list, and the list itself.
    """
    if not is_local(location) or not has_file_checksums(location):
        return []
    folder = local_path(location)
    listed = _read_list(folder)
    wanted = listed.entries if names is None else [n for n in names if n in listed.entries]
    found = {name: fault for name in wanted if (fault := _fault(folder, name, listed.entries))}
    if found and _may_be_newer(folder, listed):
        found = {name: fault for name, fault in found.items() if not _REWRITTEN.fullmatch(name)}
    if found:  # a writer may have pruned the lake meanwhile
        again = _read_list(folder).entries if has_file_checksums(location) else {}
        found = {n: fault for n, fault in found.items() if again.get(n) == listed.entries[n]}
    own = () if names is not None else _faults_of_list(folder, listed)
    advice = "Restore this file from a copy of the lake, or run `qmri-lake doctor LAKE --repair`."
    return [f"{LIST_NAME}: {fault}. {advice}" for fault in own] + [
        f"{name}: {fault}. Restore this file from a copy of the lake."
        for name, fault in sorted(found.items())
    ]


def accept_damage(location: str, needed: Container[str]) -> None:
    """Record the current checksums of damaged files, except of those in `needed`.

    A lake that returned to a sound commit keeps the damaged files of the replaced one. No commit of
    its history needs them, so they are not reported again.
    """
    if not is_local(location) or not has_file_checksums(location):
        return
    folder = local_path(location)
    entries = _read_list(folder, cut=True).entries
    lines = []
    for name, entry in entries.items():
        current = entry if name in needed else _current(folder / name)
        if current is not None:
            lines.append(current.line(name))
    atomic_write_bytes(folder / LIST_NAME, b"".join(lines))


def _faults_of_list(folder: Path, listed: _List) -> Iterator[str]:
    if not listed.entries and not listed.damaged and not listed.torn:
        yield "the file is empty (expected the checksums of all files)"
    for number in listed.damaged:
        yield f"line {number} is damaged (expected a checksum and a path)"
    if listed.torn and not (folder / OWNER_NAME).exists():
        yield f"an incomplete last line of {listed.torn} bytes (expected a checksum and a path)"


def damaged_snapshot(location: str, snapshot: str) -> str | None:
    """Return what is wrong with the file of a snapshot; None if it is sound or has no checksum.

    Only the newest line of this file is parsed, so that a lake opens fast.
    """
    if not is_local(location):
        return None
    folder, name = local_path(location), f"snapshots/{snapshot}"
    try:
        content = (folder / LIST_NAME).read_bytes()
    except OSError:
        return None
    end = content.rfind(f" {name}\n".encode()) + len(name) + 1
    found = _parse(content[content.rfind(b"\n", 0, end) + 1 : end])
    return _fault(folder, name, dict([found])) if found and found[0] == name else None


def unlisted_files(location: str) -> int:
    """Return the number of files without a checksum in a local lake."""
    if not is_local(location):
        return 0
    folder = local_path(location)
    return len(set(_files(folder)) - _read_list(folder).entries.keys())


def _fault(folder: Path, name: str, entries: dict[str, _Entry]) -> str | None:
    expected = entries[name]
    try:
        found = _Entry.of((folder / name).read_bytes())
    except FileNotFoundError:
        removed = f"the file is missing (expected {expected.size:,} bytes)"
        return None if _TEMPORARY.fullmatch(name) else removed
    except OSError as error:
        return f"the file cannot be read ({error.strerror}; expected {expected.size:,} bytes)"
    if found.size != expected.size:
        return f"{found.size:,} bytes (expected {expected.size:,})"
    if found.crc != expected.crc:
        return "the content has changed (expected its checksum when it was written)"
    return None


def _may_be_newer(folder: Path, listed: _List) -> bool:
    """Return whether there may be commits after the last record.

    A writer may be active or may have been killed, or the last writer did not record checksums.
    """
    if (folder / OWNER_NAME).exists():
        return True
    return any(name not in listed.entries for name in _files(folder, ("snapshots",)))


def _current(path: Path) -> _Entry | None:
    try:
        return _Entry.of(path.read_bytes())
    except OSError:
        return None


def _files(folder: Path, folders: Iterable[str] = _FOLDERS) -> Iterator[str]:
    """Yield the paths of Icechunk's complete files, except chunks, in a constant order."""
    for name in _FILES if folders is _FOLDERS else ():
        if (folder / name).is_file():
            yield name
    for inner in folders:
        for parent, _, names in sorted(os.walk(folder / inner)):
            prefix = Path(parent).relative_to(folder).as_posix()
            yield from (f"{prefix}/{name}" for name in sorted(names) if "#" not in name)


def _read_list(folder: Path, *, cut: bool = False) -> _List:
    """Read the list; with `cut`, remove an incomplete last line from the file."""
    try:
        content = (folder / LIST_NAME).read_bytes()
    except FileNotFoundError:
        return _List({}, (), 0)
    whole = content[: content.rfind(b"\n") + 1]
    entries, damaged = dict[str, _Entry](), []
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        found = _parse(line)
        if found is None:
            damaged.append(number)
        else:
            entries[found[0]] = found[1]
    torn = len(content) - len(whole)
    if torn and cut:
        atomic_write_bytes(folder / LIST_NAME, whole)
    return _List(entries, tuple(damaged), torn)


def _parse(line: bytes) -> tuple[str, _Entry] | None:
    crc, _, rest = line.partition(b" ")
    if b"%08x" % zlib.crc32(rest) != crc:
        return None
    try:
        own, size, name = rest.decode().split(" ", 2)
        return name, _Entry(int(own, 16), int(size))
    except ValueError:
        return None
