"""Iteration over the members of an archive, which is checked to its end."""

from __future__ import annotations

import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, cast

from qmri_lake.core.text import format_bytes
from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.files import Entry, hold
from qmri_lake.oai.header import is_dicom
from qmri_lake.oai.packing import (
    LARGEST_FILE,
    READ_ERRORS,
    START,
    Packing,
    cause,
    damaged,
    decompress,
    recognise,
)

__all__ = ["examine", "walk_archive"]

_DELIVERY_FOLDER = re.compile(r"\d{1,3}m|\d{1,2}\.[A-Z]\.\d{1,2}|\d{7}")
"""Names of the top folders of an OAI delivery, which are visits, releases or patients."""
_BLOCK = 512
_CHUNK = 1 << 20
_LARGEST_HEADER = 1 << 26
"""Longest extended header of a tar in bytes. tarfile holds such headers in memory."""
_LARGEST_RATIO = 1100
"""Deflate compresses at most 1032-fold. With a higher ratio, members share their bytes."""


@dataclass(frozen=True, slots=True)
class _Member:
    """A member of an archive that is not a folder."""

    name: str
    size: int
    offset: int
    opener: Callable[[], BinaryIO] | None = None
    start: bytes = b""
    refused: str = ""
    """Why the member is not read; "" if it is read."""


def walk_archive(path: Path, name: str, packing: Packing) -> Iterator[Entry]:
    """Yield the members of an archive in their order, and check the archive to its end.

    Parameters
    ----------
    path : Path
        The archive.
    name : str
        Its path relative to the source.
    packing : Packing
        Its kind.

    Yields
    ------
    Entry
        A member. Links, devices, encrypted and oversized files, files that lie outside, and
        archives inside the archive have an error.

    Raises
    ------
    InputError
        After the last readable member, if the archive is incomplete (reason ``truncated_file``) or
        damaged (``damaged_archive``). No member may be used.
    """
    reached = name
    members = _zip_members(path) if packing is Packing.ZIP else _tar_members(path, packing)
    try:
        for member in members:
            inner, outside = _relative(member.name)
            reached = f"{name}/{inner}"
            entry = Entry(
                reached, str(path), inner, member.size, member.offset, packing, b"", member.opener
            )
            refused = "a path that leads out of the archive" if outside else member.refused
            if refused:
                yield replace(entry, error=_refused(reached, refused, member.size))
                continue
            entry = examine(entry, member.start)
            if entry.is_archive and entry.error is None:
                entry = replace(entry, error=_nested(reached))
            yield entry
    except InputError:
        raise
    except READ_ERRORS as error:
        cut_off = isinstance(error, EOFError) or "end of data" in str(error)
        raise damaged(
            reached,
            f"{'truncated' if cut_off else 'damaged'} archive: {cause(error)}",
            Reason.TRUNCATED_FILE if cut_off else Reason.DAMAGED_ARCHIVE,
        ) from None


def examine(entry: Entry, start: bytes) -> Entry:
    """Return an entry with its kind, which is recognised by its first bytes.

    Parameters
    ----------
    entry : Entry
        With an opener that can be called several times.
    start : bytes
        Its first 512 bytes.

    Returns
    -------
    Entry
        For an archive, `is_archive` is set, and `packing` is its kind. For a compressed DICOM file,
        start, size and content are decompressed; an error is set if its checksum or its end is
        wrong.
    """
    reopen = entry.open
    try:
        content = recognise(start, reopen, entry.name)
    except InputError as error:
        return replace(entry, start=start, is_archive=True, error=error)
    if content.archive is not Packing.FOLDER:
        return replace(entry, start=start, is_archive=True, packing=content.archive)
    kind = content.compression
    if kind is Packing.FOLDER or not is_dicom(content.start):
        return replace(entry, start=content.start)
    size = 0
    try:
        stream = decompress(reopen(), kind)
        while chunk := stream.read(_CHUNK):
            size += len(chunk)
            if size > LARGEST_FILE:
                return replace(entry, error=_refused(entry.name, "a large file", size))
    except READ_ERRORS as error:
        return replace(
            entry,
            start=content.start,
            error=InputError(
                f"a damaged {kind} file: {cause(error)}",
                expected="a complete file",
                where=entry.name,
                todo="Copy or download it again.",
                reason=Reason.TRUNCATED_FILE,
            ),
        )
    return replace(
        entry,
        start=content.start,
        size=size,
        opener=lambda: hold(decompress(reopen(), kind), b"", size),
    )


def _tar_members(path: Path, packing: Packing) -> Iterator[_Member]:
    with open(path, "rb") as raw:
        blocks = _Blocks(decompress(raw, packing))
        with tarfile.open(fileobj=cast(BinaryIO, blocks), mode="r:") as tar:
            for info in tar:
                # Otherwise, tarfile would keep all members in memory.
                tar.members = []  # type: ignore[attr-defined]
                if info.isdir():
                    continue
                refused = _tar_refusal(info)
                stream = tar.extractfile(info) if info.isfile() and not info.issparse() else None
                if refused or stream is None:
                    yield _Member(info.name, info.size, -1, refused=refused)
                    while stream is not None and stream.read(_CHUNK):
                        pass  # tarfile would skip it in small steps
                elif packing is Packing.TAR:
                    start = stream.read(START)
                    opener = _rewinding(cast(BinaryIO, stream))
                    yield _Member(info.name, info.size, info.offset_data, opener, start)
                else:
                    yield from _sequential(
                        cast(BinaryIO, stream), info.name, info.size, info.offset_data
                    )
        blocks.check_end()


def _tar_refusal(info: tarfile.TarInfo) -> str:
    """Return why a member of a tar is not read; "" if it is."""
    if info.islnk() or info.issym():
        # The link may be a slice. If it were ignored, the last slice could be lost unnoticed.
        return "a link"
    if info.issparse():
        return "a sparse file"
    if not info.isfile():
        return "a device"
    return "a large file" if info.size > LARGEST_FILE else ""


def _zip_members(path: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(path) as archive:
        members = sorted(archive.infolist(), key=lambda info: info.header_offset)
        _check_zip(path, members)
        for info in members:
            if info.is_dir():
                continue
            refused = ""
            if stat.S_ISLNK(info.external_attr >> 16):
                refused = "a link"
            elif info.flag_bits & 1:
                refused = "an encrypted file"
            elif info.file_size > LARGEST_FILE:
                refused = "a large file"
            name = info.filename.replace("\\", "/")  # zip files written on Windows
            if refused:
                yield _Member(name, info.file_size, -1, refused=refused)
                continue
            with archive.open(info) as stream:
                yield from _sequential(
                    cast(BinaryIO, stream), name, info.file_size, info.header_offset
                )


def _check_zip(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Check that the directory of a zip is complete and lists each content once."""
    size = path.stat().st_size
    if sum(info.file_size for info in members if info.file_size <= LARGEST_FILE) > (
        _LARGEST_RATIO * size
    ):
        raise zipfile.BadZipFile("members share their bytes")
    with open(path, "rb") as raw:
        raw.seek(max(0, size - (1 << 16) - 22))
        end = raw.read().rpartition(b"PK\x05\x06")[2]
    count = int.from_bytes(end[6:8], "little")
    if count not in (0xFFFF, len(members)):
        raise zipfile.BadZipFile(f"{len(members)} of {count} members in its directory")


def _sequential(stream: BinaryIO, name: str, size: int, offset: int) -> Iterator[_Member]:
    """Yield a member of a sequential stream, then read the rest to check its checksum."""
    start = stream.read(START)
    held: list[BinaryIO] = []
    failed: list[Exception] = []

    def opener() -> BinaryIO:
        try:
            if not held:
                held.append(hold(stream, start, size))
        except READ_ERRORS as error:  # raised in the reader, and the archive fails as well
            failed.append(error)
            raise
        held[0].seek(0)
        return held[0]

    yield _Member(name, size, offset, opener, start)
    if failed:
        raise failed[0]
    for content in held:
        content.close()
    while stream.read(_CHUNK):
        pass


def _rewinding(stream: BinaryIO) -> Callable[[], BinaryIO]:
    def opener() -> BinaryIO:
        stream.seek(0)
        return stream

    return opener


class _Blocks:
    """Stream of a tar that keeps its last block, to distinguish its end from a damaged header.

    tarfile stops without an error at a header whose checksum differs, and at an end of the file
    between two members.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._last = b""
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable

    def read(self, size: int = -1) -> bytes:
        """Read, and raise an error for headers that tarfile would hold in memory."""
        if size > _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {format_bytes(size)}")
        self._last = self._stream.read(size)
        return self._last

    def check_end(self) -> None:
        """Check for two blocks of zeros, and read to the end, which checks the checksum."""
        if len(self._last) < _BLOCK:
            raise EOFError("no end of the archive after its last member")
        if any(self._last):
            raise tarfile.ReadError("a damaged header, or other bytes after the archive")
        length = 0
        while chunk := self._stream.read(_CHUNK):
            length += len(chunk)
            if chunk.count(0) < len(chunk):
                raise tarfile.ReadError("other bytes after the end of the archive")
        if length < _BLOCK or length % _BLOCK:
            raise EOFError("the end of the archive is incomplete")


def _relative(member: str) -> tuple[str, bool]:
    """Return the name of a member, and whether it leads out of the archive.

    Folders above the delivery in an absolute path are omitted.

    >>> _relative("/home/me/study/9000001/20040824/1/001")
    ('9000001/20040824/1/001', False)
    """
    parts = [part for part in member.split("/") if part not in ("", ".")]
    outside = ".." in parts
    if member.startswith("/"):
        known = (k for k, part in enumerate(parts[:-1]) if _DELIVERY_FOLDER.fullmatch(part))
        parts = parts[next(known, max(len(parts) - 2, 0)) :]
    return "/".join(part for part in parts if part != ".."), outside


def _refused(where: str, found: str, size: int) -> InputError:
    large = found == "a large file"
    return InputError(
        f"a file of {format_bytes(size)} in an archive" if large else f"{found} in an archive",
        expected=f"at most {format_bytes(LARGEST_FILE)}" if large else "files",
        where=where,
        todo="Unpack the archive, or pack the files themselves again (tar -h follows links).",
        reason=Reason.OVERSIZED_FILE if large else Reason.UNREADABLE_FILE,
    )


def _nested(where: str) -> InputError:
    return InputError(
        "an archive in an archive",
        expected="files",
        where=where,
        todo="Unpack the outer archive.",
        reason=Reason.UNREADABLE_FILE,
    )
