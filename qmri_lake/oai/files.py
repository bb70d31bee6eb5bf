"""Access to the files of a delivery, on disk or in an archive, without unpacking."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import BinaryIO, cast

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.packing import (
    LARGEST_FILE,
    READ_ERRORS,
    Packing,
    cause,
    compression_of,
    decompress,
)

__all__ = ["Entry", "Files", "hold"]

_IN_MEMORY = 1 << 26
"""Largest file that is held in memory while its header is read, in bytes."""


@dataclass(frozen=True, slots=True)
class Files:
    """Picklable handle to the files of one series.

    Parameters
    ----------
    path : str
        Absolute path of the folder or archive that contains the files.
    names : tuple of str
        Names of the files in the folder or archive.
    offsets, sizes : tuple of int
        Positions and sizes of the files in the (uncompressed) tar in bytes. In a zip, positions of
        their headers. Empty for a folder.
    packing : Packing
        Kind of the archive.
    """

    path: str
    names: tuple[str, ...]
    offsets: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    packing: Packing = Packing.FOLDER

    def read(self, where: str = "") -> Iterator[tuple[str, bytes]]:
        """Yield (name, content) of every file, in the order of the archive, decompressed.

        Raises
        ------
        InputError
            If a file no longer exists or cannot be read (reason ``unreadable_file``). The error
            gives the location `where`.
        """
        try:
            for name, content in self._read():
                yield name, _decompressed(content)
        except READ_ERRORS as error:
            # The text of the error is omitted, because it contains the absolute path.
            raise InputError(
                f"unreadable file: {cause(error)}",
                expected="the files of the inventory",
                where=where,
                todo="Check that the files exist, their permissions and the disk.",
                reason=Reason.UNREADABLE_FILE,
            ) from None

    def _read(self) -> Iterator[tuple[str, bytes]]:
        if self.packing is Packing.FOLDER:
            for name in self.names:
                with open(os.path.join(self.path, name), "rb") as file:
                    yield name, file.read()
            return
        # In ascending order, a compressed tar is decompressed only once, up to the last member.
        by_offset = sorted(zip(self.offsets, self.sizes, self.names, strict=True))
        with ExitStack() as stack:
            raw: BinaryIO = stack.enter_context(open(self.path, "rb"))
            if self.packing is Packing.ZIP:
                archive = stack.enter_context(zipfile.ZipFile(raw))
                members = {info.header_offset: info for info in archive.infolist()}
                for offset, _, name in by_offset:
                    yield name, archive.read(members[offset])
                return
            stream = decompress(raw, self.packing)
            for offset, size, name in by_offset:
                stream.seek(offset)
                yield name, stream.read(size)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a delivery. Its content can be read until the next entry is requested."""

    name: str
    """Path relative to the source. For a member, it starts with the path of the archive."""
    container: str
    """Absolute path of the folder or archive that contains the file."""
    member: str
    """Name of the file inside its container."""
    size: int
    """Size in bytes, decompressed."""
    offset: int = -1
    """Position in the archive in bytes; -1 for a file on disk."""
    packing: Packing = Packing.FOLDER
    """Kind of the container."""
    start: bytes = b""
    """First bytes, decompressed."""
    opener: Callable[[], BinaryIO] | None = None
    is_archive: bool = False
    """Whether the file is an archive, or should be one by its name."""
    error: InputError | None = None
    """Error if the file cannot be read."""

    @property
    def folder(self) -> str:
        """Relative path of the folder of the file."""
        return self.name.rpartition("/")[0]

    @property
    def basename(self) -> str:
        """Name without its folders."""
        return self.name.rpartition("/")[2]

    def open(self) -> BinaryIO:
        """Open the content for reading."""
        if self.opener is None:
            raise OSError("no content")
        return self.opener()


def hold(source: BinaryIO, start: bytes, size: int) -> BinaryIO:
    """Return the whole content of a sequential stream, of which `start` was read, as a file.

    A large content is written to a temporary file, so that memory use stays constant.
    """
    if size <= _IN_MEMORY:
        return io.BytesIO(start + source.read())
    held = tempfile.TemporaryFile()
    held.write(start)
    shutil.copyfileobj(source, held, 1 << 20)
    held.seek(0)
    return cast(BinaryIO, held)


def _decompressed(content: bytes) -> bytes:
    kind = compression_of(content)
    if kind is Packing.FOLDER:
        return content
    unpacked = decompress(io.BytesIO(content), kind).read(LARGEST_FILE + 1)
    if len(unpacked) > LARGEST_FILE:
        raise EOFError("larger than in the inventory")
    return unpacked
