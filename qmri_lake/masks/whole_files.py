"""Bytes of a file, read to its end: its length and its checksums are verified before it is used."""

from __future__ import annotations

import bz2
import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import BinaryIO, cast

from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.damage import check_size, checksum_mismatch, trailing_bytes, truncated

__all__ = [
    "GZIP",
    "check_gzip",
    "file_beside",
    "gzip_errors",
    "open_plain",
    "read_bzip2",
    "read_exactly",
    "read_to_end",
]

GZIP = b"\x1f\x8b"


def file_beside(path: str, name: str, advice: str) -> Path:
    """Return the file of the values that a header names, which must be in the header's folder.

    Parameters
    ----------
    path : str
        Path of the header.
    name : str
        Name of the file of the values.
    advice : str
        Alternative to a copy into one folder, for the error.

    Raises
    ------
    InputError
        If there is no such file in the folder, or the name has a folder.
    """
    file = Path(path).parent / name
    # A Windows path has both separators. A header must not name files elsewhere.
    if PureWindowsPath(name).name == name and file.is_file():
        return file
    raise InputError(
        f"the file of the values, {PureWindowsPath(name).name!r}, is not beside the header",
        expected="one data file in the folder of the header",
        where=path,
        todo=f"Copy both files into one folder, or {advice}.",
        reason=Reason.UNREADABLE_FILE,
    )


@contextmanager
def open_plain(path: str) -> Iterator[BinaryIO]:
    """Open a file, and unpack it if it is gzip, whatever its name is."""
    with open(path, "rb") as file:
        packed = file.read(2) == GZIP
        file.seek(0)
        if not packed:
            yield file
            return
        with gzip_errors(path), gzip.GzipFile(fileobj=file) as unpacked:
            yield cast(BinaryIO, unpacked)


@contextmanager
def gzip_errors(where: str) -> Iterator[None]:
    """Raise errors of gzip as an `InputError` whose reason says what kind of damage it is."""
    try:
        yield
    except EOFError as error:
        raise truncated("the compressed data ends too early", where) from error
    except gzip.BadGzipFile as error:
        # The header of the first member is known: only what follows a member can be "no gzip file".
        if str(error).startswith("Not a gzipped file"):
            raise trailing_bytes("other bytes after the compressed data", where) from error
        raise checksum_mismatch("the compressed data fails its checksum", where) from error
    except zlib.error as error:
        raise checksum_mismatch("the compressed data is damaged", where) from error


def check_gzip(path: str) -> None:
    """Raise an error if a gzip file is damaged; nothing of it is kept in memory."""
    size = 0
    with open_plain(path) as stream:
        while block := stream.read(2**20):
            size += len(block)
            check_size(size, path)


def read_exactly(
    stream: BinaryIO, where: str, first: int, size_of: Callable[[bytes], int]
) -> bytes:
    """Read a stream to its end, which must come where its header says.

    Parameters
    ----------
    stream : binary stream
        Compressed streams verify their checksum at their end.
    where : str
        Path of the file, for errors.
    first : int
        Number of bytes of the header.
    size_of : function
        Returns the number of bytes of the stream from its header.

    Raises
    ------
    InputError
        If the stream is shorter or longer (``truncated_file``, ``trailing_bytes``), or the size is
        above `LARGEST` (``oversized_mask``), which is found before anything else is read.
    """
    head = stream.read(first)
    size = size_of(head)
    check_size(size, where)
    content = head + stream.read(max(size - len(head), 0) + 1)
    if len(content) < size:
        raise truncated(f"{len(content):,} of {size:,} bytes that the header declares", where)
    if len(content) > size:
        raise trailing_bytes(f"more than the {size:,} bytes that the header declares", where)
    return content


def read_to_end(stream: BinaryIO, where: str, limit: int) -> bytes:
    """Read a stream to its end; raise an error if it has more than `limit` bytes."""
    content = stream.read(limit + 1)
    if len(content) > limit:
        raise trailing_bytes("more bytes than the header declares", where)
    return content


def read_bzip2(packed: bytes, where: str, limit: int) -> bytes:
    """Unpack bzip2 data to its end, with its checksum and with at most `limit` bytes."""
    unpacker = bz2.BZ2Decompressor()
    try:
        content = unpacker.decompress(packed, limit + 1)
    except OSError as error:
        raise checksum_mismatch("the compressed data is damaged", where) from error
    if len(content) > limit or unpacker.unused_data:
        raise trailing_bytes("more bytes than the header declares", where)
    if not unpacker.eof:
        raise truncated("the compressed data ends too early", where)
    return content
