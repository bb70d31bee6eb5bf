"""Check of the data elements of a MATLAB file: their lengths and checksums."""

from __future__ import annotations

import zlib
from typing import Literal

from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.damage import LARGEST, check_size, checksum_mismatch, truncated

__all__ = ["check_mat"]

_HEADER = 128
_COMPRESSED = 15
_BLOCK = 2**20


def check_mat(path: str) -> None:
    """Raise an error if a MATLAB file (version 5 to 7) is cut off or fails a checksum.

    The library that reads the file stops when it has all values, before the checksum at the end of
    a compressed element.

    Raises
    ------
    InputError
        With reason ``truncated_file``, ``checksum_mismatch``, ``oversized_mask``, or
        ``unreadable_file`` for MATLAB 7.3.
    """
    with open(path, "rb") as stream:
        header = stream.read(_HEADER)
        if header.startswith(b"MATLAB 7.3"):
            raise InputError(
                "a file of MATLAB 7.3",
                expected="version 7 or earlier",
                where=path,
                todo="In MATLAB: save(file, 'datastruct', '-v7').",
                reason=Reason.UNREADABLE_FILE,
            )
        order: Literal["little", "big"] = "little" if header[126:128] == b"IM" else "big"
        total = 0
        while tag := stream.read(8):
            kind = int.from_bytes(tag[:4], order)
            length = int.from_bytes(tag[4:8], order)
            content = stream.read(min(length, LARGEST))
            if len(tag) < 8 or len(content) < length:
                raise truncated("a data element ends too early", path)
            if kind == _COMPRESSED:
                total += _unpacked_length(content, LARGEST - total, path)


def _unpacked_length(content: bytes, limit: int, path: str) -> int:
    """Return the length of compressed data, whose checksum is verified; nothing is kept."""
    unpacker = zlib.decompressobj()
    length = 0
    try:
        while content and not unpacker.eof:
            length += len(unpacker.decompress(content, _BLOCK))
            check_size(length + LARGEST - limit, path)
            content = unpacker.unconsumed_tail
        length += len(unpacker.flush())
    except zlib.error as error:
        raise checksum_mismatch("the compressed data fails its checksum", path) from error
    if not unpacker.eof:
        raise truncated("the compressed data ends too early", path)
    return length
