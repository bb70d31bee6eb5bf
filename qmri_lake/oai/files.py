"""Files of a delivery, on disk or inside a tar, read without unpacking anything."""

from __future__ import annotations

import gzip
import io
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from qmri_lake.errors import InputError, Reason

__all__ = ["Entry", "Files", "tar_stem", "walk"]

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_BROKEN = (EOFError, OSError, zlib.error, tarfile.TarError)
"""What reading a cut-off or damaged (compressed) tar raises."""


_DELIVERED = re.compile(r"\d{1,3}m|\d{1,2}\.[A-Z]\.\d{1,2}|\d{7}")
"""Folders where a delivery of OAI starts: visit, release, patient."""


@dataclass(frozen=True, slots=True)
class Files:
    """Picklable handle on the files of one series.

    Parameters
    ----------
    path : str
        Absolute path of the folder, or of the tar, that holds them.
    names : tuple of str
        Their names inside it.
    offsets, sizes : tuple of int
        Where each one's bytes lie in the (uncompressed) tar; empty for a folder.
    """

    path: str
    names: tuple[str, ...]
    offsets: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()

    def read(self, where: str = "") -> Iterator[tuple[str, bytes]]:
        """Yield (name, content) of every file, in the order in which they lie in the tar.

        Raises
        ------
        InputError
            ``unreadable_file``, at `where`, if one is no longer there or can't be read.
        """
        try:
            yield from self._read()
        except _BROKEN as error:
            # Without the error's own words: they hold the absolute path.
            raise InputError(
                f"a file that can't be read ({_cause(error)})",
                expected="the files of the inventory",
                where=where,
                todo="Check that they are still there, their permissions and the disk.",
                reason=Reason.UNREADABLE_FILE,
            ) from None

    def _read(self) -> Iterator[tuple[str, bytes]]:
        if not self.offsets:
            for name in self.names:
                with open(os.path.join(self.path, name), "rb") as file:
                    yield name, file.read()
            return
        # Ascending: a compressed tar is then decompressed once, and only up to its last member.
        by_offset = sorted(zip(self.offsets, self.sizes, self.names, strict=True))
        compressed = not self.path.endswith(".tar")
        with ExitStack() as stack:
            raw: BinaryIO = stack.enter_context(open(self.path, "rb"))
            stream = raw
            if compressed:
                stream = cast(BinaryIO, stack.enter_context(gzip.GzipFile(fileobj=raw)))
            for offset, size, name in by_offset:
                stream.seek(offset)
                yield name, stream.read(size)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file met while walking a delivery; its content can be read until the next one is met."""

    name: str
    """Path relative to the source; that of a tar's member starts with the tar's."""
    container: str
    """Absolute path of the folder, or of the tar, that holds the file."""
    member: str
    """Name of the file inside its container."""
    size: int
    offset: int = -1
    """Of its bytes in the tar; -1 for a file on disk."""
    stream: BinaryIO | None = None
    """Content of a tar's member."""
    broken: InputError | None = None
    """Why the tar can't be read from this member on, or the folder not at all."""

    @property
    def folder(self) -> str:
        """Relative path of the folder that holds the file."""
        return self.name.rpartition("/")[0]

    @property
    def basename(self) -> str:
        """Name without its folders."""
        return self.name.rpartition("/")[2]

    def open(self) -> BinaryIO:
        """Open the content for reading."""
        if self.stream is not None:
            return self.stream
        return open(os.path.join(self.container, self.member), "rb")


def tar_stem(name: str) -> str:
    """Return the name without the suffix of a tar, if it has one."""
    for suffix in sorted(TAR_SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def walk(source: str | os.PathLike[str]) -> Iterator[Iterator[Entry]]:
    """Yield the files of a delivery, one iterator for each folder and for each tar.

    Parameters
    ----------
    source : path
        A folder (of folders, of tars), a ``.tar``, or a ``.tar.gz``.

    Yields
    ------
    iterator of Entry
        The files directly inside one folder, sorted by name, or all members of one tar in their
        order. Links to folders are followed, a folder reached twice is listed once, lakes
        are passed over.

    Raises
    ------
    InputError
        The source is neither a folder nor a tar.
    """
    path = Path(source).absolute()
    if path.is_dir():
        yield from _walk_folder(path)
    elif path.is_file() and _is_tar(path.name):
        yield _walk_tar(path, path.name)
    else:
        raise InputError(
            "a file that is not a tar" if path.exists() else "nothing there",
            expected="a folder of DICOM files or of tars, a .tar or a .tar.gz",
            where=str(source),
            todo="Give the folder that holds the delivery.",
            reason=Reason.UNREADABLE_FILE,
        )


def _is_tar(name: str) -> bool:
    return name.lower().endswith(TAR_SUFFIXES)


def _walk_folder(root: Path) -> Iterator[Iterator[Entry]]:
    seen: set[str] = set()
    closed: list[OSError] = []
    for folder, subfolders, names in os.walk(root, onerror=closed.append, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        if {"refs", "snapshots", "manifests"} <= set(subfolders):
            subfolders.clear()  # a lake, which lies beside a delivery and is no part of it
            continue
        subfolders.sort()
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if relative == "." else relative + "/"
        entries: list[Entry] = []
        for name in sorted(names):
            full = os.path.join(folder, name)
            if _is_tar(name):
                yield _walk_tar(Path(full), prefix + name)
            elif os.path.isfile(full):
                entries.append(Entry(prefix + name, folder, name, os.path.getsize(full)))
            elif not os.path.exists(full):
                # A link to nothing may have been a slice: opening it says so.
                entries.append(Entry(prefix + name, folder, name, 0))
        if entries:
            yield iter(entries)
    for error in closed:
        name = os.path.relpath(error.filename, root).replace(os.sep, "/")
        fault = InputError(
            f"a folder that can't be listed ({error.strerror})",
            expected="a readable folder",
            where=name,
            todo="Check its permissions and the disk.",
            reason=Reason.UNREADABLE_FILE,
        )
        yield iter([Entry(f"{name}/", str(error.filename), "", 0, broken=fault)])


def _walk_tar(path: Path, name: str) -> Iterator[Entry]:
    compressed = not path.name.lower().endswith(".tar")
    inner = ""
    try:
        end = path.stat().st_size
        with tarfile.open(path, "r:gz" if compressed else "r:") as tar:
            for member in tar:
                inner = "/" + _relative(member.name)
                if member.islnk() or member.issym():
                    # It may be a slice: one that is left out unsaid could be the last.
                    yield Entry(name + inner, str(path), inner[1:], 0, broken=_link(name + inner))
                stream = tar.extractfile(member) if member.isfile() else None
                if stream is None:
                    continue
                if not compressed and member.offset_data + member.size > end:
                    raise tarfile.ReadError("unexpected end of data")
                # Seeking back in a compressed tar would decompress it again from its start.
                content = io.BytesIO(stream.read()) if compressed else cast(BinaryIO, stream)
                yield Entry(
                    name + inner, str(path), inner[1:], member.size, member.offset_data, content
                )
                tar.members = []  # type: ignore[attr-defined]  # else it keeps a million of them
    except _BROKEN as error:
        fault = InputError(
            f"a tar that breaks off ({_cause(error)})",
            expected="a whole tar",
            where=name + inner,
            todo="Copy or download it again.",
            reason=Reason.TRUNCATED_FILE,
        )
        yield Entry(name + inner, str(path), inner[1:], 0, broken=fault)


def _relative(member: str) -> str:
    """Return a member's name without the folders of whoever packed it, if it is absolute.

    >>> _relative("/home/me/study/9000001/20040824/1/001")
    '9000001/20040824/1/001'
    """
    parts = [part for part in member.split("/") if part not in ("", ".")]
    if member.startswith("/"):
        known = (k for k, part in enumerate(parts[:-1]) if _DELIVERED.fullmatch(part))
        parts = parts[next(known, max(len(parts) - 2, 0)) :]
    return "/".join(parts)


def _cause(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _link(where: str) -> InputError:
    return InputError(
        "a link inside a tar",
        expected="files",
        where=where,
        todo="Unpack the tar, or pack it again with links followed (tar --hard-dereference -h).",
        reason=Reason.UNREADABLE_FILE,
    )
