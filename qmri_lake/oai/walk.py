"""Iteration over the files of a delivery, folder by folder and archive by archive."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from qmri_lake.core.repository_format import is_repository
from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.archives import examine, walk_archive
from qmri_lake.oai.files import Entry
from qmri_lake.oai.packing import START

__all__ = ["list_folder", "walk"]


def walk(source: str | os.PathLike[str]) -> Iterator[Iterator[Entry]]:
    """Yield the files of a delivery, one iterator for each folder and for each archive.

    Each iterator must be read to its end before the next one is requested.

    Parameters
    ----------
    source : path
        A folder with subfolders or archives, or an archive under any name: a tar, also compressed
        with gzip, bzip2 or xz, or a zip.

    Yields
    ------
    iterator of Entry
        The files directly in one folder, sorted by name, or all members of one archive in their
        order. Archives of a folder are also entries of the folder. Links to folders are followed.
        A folder that is reached twice is listed once. Lakes are ignored. The iterator of a damaged
        or incomplete archive raises `InputError` at its end.

    Raises
    ------
    InputError
        If the source is not a folder or an archive.
    """
    path = Path(source).absolute()
    if path.is_dir():
        yield from _walk_folder(path)
        return
    archives = [e for e in list_folder(str(path.parent), [path.name], "") if e.is_archive]
    if archives and archives[0].error is None:
        yield walk_archive(path, path.name, archives[0].packing)
        return
    if archives and archives[0].error is not None:
        raise archives[0].error
    raise InputError(
        "not an archive" if path.exists() else "no such file",
        expected="a folder of DICOM files or of archives, a tar, a .tar.gz or a zip",
        where=str(source),
        todo="Give the folder that contains the delivery.",
        reason=Reason.UNREADABLE_FILE,
    )


def _walk_folder(root: Path) -> Iterator[Iterator[Entry]]:
    seen: set[str] = set()
    errors: list[OSError] = []
    for folder, subfolders, names in os.walk(root, onerror=errors.append, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        if subfolders and is_repository(folder):  # a repository always has subfolders
            subfolders.clear()  # skip a lake next to the delivery
            continue
        subfolders.sort()
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if relative == "." else relative + "/"
        archives: list[Entry] = []
        if names:
            yield _collecting(list_folder(folder, sorted(names), prefix), archives)
        for entry in archives:
            yield walk_archive(Path(folder) / entry.member, entry.name, entry.packing)
    for error in errors:
        name = os.path.relpath(error.filename, root).replace(os.sep, "/")
        fault = InputError(
            f"unreadable folder: {error.strerror}",
            expected="a readable folder",
            where=name,
            todo="Check its permissions and the disk.",
            reason=Reason.UNREADABLE_FILE,
        )
        yield iter([Entry(f"{name}/", str(error.filename), "", 0, error=fault)])


def _collecting(entries: Iterator[Entry], archives: list[Entry]) -> Iterator[Entry]:
    for entry in entries:
        if entry.is_archive and entry.error is None:
            archives.append(entry)
        yield entry


def list_folder(folder: str, names: Iterable[str], prefix: str = "") -> Iterator[Entry]:
    """Yield files of one folder with their first bytes; `prefix` is its path in the source."""
    for name in names:
        full = os.path.join(folder, name)
        entry = Entry(prefix + name, folder, name, 0)
        try:
            status = os.stat(full)
            if not stat.S_ISREG(status.st_mode):
                # Opening a pipe would wait for its writer.
                yield _unreadable(entry, "a device or a pipe")
                continue
            with open(full, "rb") as stream:
                entry = Entry(prefix + name, folder, name, status.st_size, opener=_reopen(stream))
                yield examine(entry, stream.read(START))
        except OSError as error:
            # A broken link may have been a slice, so it is not ignored.
            yield _unreadable(entry, f"cannot be opened: {error.strerror or type(error).__name__}")


def _reopen(stream: BinaryIO) -> Callable[[], BinaryIO]:
    def opener() -> BinaryIO:
        stream.seek(0)
        return stream

    return opener


def _unreadable(entry: Entry, found: str) -> Entry:
    fault = InputError(
        found,
        expected="a readable file",
        where=entry.name,
        todo="Check its permissions, its link and the disk.",
        reason=Reason.UNREADABLE_FILE,
    )
    return Entry(entry.name, entry.container, entry.member, entry.size, error=fault)
