"""Compressed parts of a file in an unknown format, found by the headers of zstd and Blosc."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numcodecs.blosc as blosc
import numcodecs.zstd as zstd

__all__ = ["Part", "expand"]

_HEADERS = re.compile(rb"\x28\xb5\x2f\xfd|\x02\x01")
"""Magic number of a zstd frame (RFC 8878), or format versions at the start of a Blosc buffer."""
_BLOSC_HEADER = struct.Struct("<4BIII")
_LARGEST = 2**31 - 1
"""Largest decompressed size of a Blosc buffer in bytes, a limit of its format."""
_NESTED = 3
"""Depth of frames in frames: compressed metadata may contain compressed values."""


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of a file: as stored, or decompressed."""

    data: bytes
    item_size: int
    """Size of the compressed array's elements in bytes; 1 if unknown."""
    compressed: bool
    """Whether the bytes were compressed in the file."""


def expand(data: bytes) -> Iterator[Part]:
    """Yield the bytes as they are, then the content of each compressed part, also nested ones.

    No knowledge of the file format is needed. A part whose header was found by chance, or that is
    damaged, cannot be decompressed and is passed over.
    """
    yield Part(data, 1, compressed=False)
    yield from _decompressed(data, _NESTED)


def _decompressed(data: bytes, depth: int) -> Iterator[Part]:
    position = 0
    while found := _HEADERS.search(data, position):
        start = found.start()
        end = _zstd_end(data, start) if data[start] == 0x28 else _blosc_end(data, start)
        position = start + 1
        if end is None:
            continue
        try:
            if data[start] == 0x28:
                content = bytes(zstd.decompress(data[start:end]))
                yield Part(content, 1, compressed=True)
                if depth > 1:
                    yield from _decompressed(content, depth - 1)
            else:
                content = bytes(blosc.decompress(data[start:end]))
                yield Part(content, data[start + 3], compressed=True)
        except RuntimeError:  # not compressed: the header was found by chance
            continue
        position = end


def _blosc_end(data: bytes, start: int) -> int | None:
    """Return the end of the Blosc buffer at `start`, or None if the header is implausible."""
    if start + _BLOSC_HEADER.size > len(data):
        return None
    _, _, _, item_size, size, block, compressed = _BLOSC_HEADER.unpack_from(data, start)
    plausible = (
        item_size > 0
        and 0 < size <= _LARGEST
        and 0 < block <= size
        and _BLOSC_HEADER.size < compressed <= size + _BLOSC_HEADER.size
    )
    return start + compressed if plausible and start + compressed <= len(data) else None


def _zstd_end(data: bytes, start: int) -> int | None:
    """Return the end of the zstd frame (RFC 8878) at `start`, or None if it is incomplete."""
    if start + 5 > len(data):
        return None
    descriptor = data[start + 4]
    if descriptor & 0x08:  # reserved
        return None
    single = bool(descriptor & 0x20)
    position = start + 5 + (not single)  # the window descriptor
    position += (0, 1, 2, 4)[descriptor & 0x03]  # the number of a dictionary
    position += (int(single), 2, 4, 8)[descriptor >> 6]  # the size of the content
    last = False
    while not last:
        if position + 3 > len(data):
            return None
        block = int.from_bytes(data[position : position + 3], "little")
        last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
        if kind == 3:  # reserved
            return None
        position += 3 + (1 if kind == 1 else size)  # kind 1 is one byte that is repeated
    position += 4 * bool(descriptor & 0x04)  # a checksum
    return position if position <= len(data) else None
