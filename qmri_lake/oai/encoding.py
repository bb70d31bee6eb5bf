"""Encoding of a DICOM file, inferred from its bytes: its start, its end and its byte order."""

from __future__ import annotations

import struct
from typing import BinaryIO, Literal

__all__ = [
    "DEFLATED",
    "data_order",
    "ends_cleanly",
    "first_order",
    "is_dicom",
    "is_explicit",
    "is_text_mode",
    "native_order",
]

DEFLATED = "1.2.840.10008.1.2.1.99"
_NATIVE = {
    "1.2.840.10008.1.2": "<",
    "1.2.840.10008.1.2.1": "<",
    "1.2.840.10008.1.2.2": ">",
}
"""Byte order of the transfer syntaxes with uncompressed pixels."""
_LONG_FORMS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT")
"""Value representations with a length of 4 bytes after two reserved bytes."""
_UNDEFINED = 0xFFFFFFFF
_PIXEL_DATA = 0x7FE00010
_FIRST_GROUPS = (0x0002, 0x0008)
_FIRST_ELEMENTS = 0x0020
"""The first element of a data set is below (0008,0020): one of the SOP common module."""
_LONGEST_START = 4096
"""Number of bytes that are searched for the data set. The file meta information is far shorter."""
_LARGEST_TEXT = 1 << 26
"""Largest number of bytes that are searched for damage by a transfer in text mode."""
_LINE_FEEDS = 8
"""Smallest number of line feeds that prove a transfer in text mode. In binary data, all of them
follow a carriage return with a probability of 1e-19."""


def native_order(syntax: str) -> str | None:
    """Return the byte order of uncompressed pixels, or None for a syntax that compresses them.

    If no syntax is declared, pixels are uncompressed and have the byte order of the header.
    """
    return _NATIVE.get(syntax, None if syntax else "")


def is_dicom(start: bytes) -> bool:
    """Return whether a file can be DICOM, from its first 132 bytes or more.

    Files of old exports have no preamble, and some of them are big-endian.
    """
    return start[128:132] == b"DICM" or bool(first_order(start))


def first_order(start: bytes) -> str:
    """Return the byte order of the first element of a data set, or "" if it is none."""
    return next((order for order in ("<", ">") if _is_first_element(start, order)), "")


def is_explicit(start: bytes) -> bool:
    """Return whether an element states its value representation."""
    return start[4:6].isalpha() and start[4:6].isupper()


def _is_first_element(start: bytes, order: str) -> bool:
    if len(start) < 8:
        return False
    group, element = struct.unpack(order + "HH", start[:4])
    if group not in _FIRST_GROUPS or element >= _FIRST_ELEMENTS:
        return False
    (length,) = struct.unpack(order + "L", start[4:8])
    return is_explicit(start) or length < _LONGEST_START


def data_order(stream: BinaryIO) -> str:
    """Return the byte order of the first element of the data set, or "" if it is unclear."""
    stream.seek(0)
    start = stream.read(_LONGEST_START)
    at = 132 if start[128:132] == b"DICM" else 0
    while start[at : at + 2] == b"\x02\x00":  # the file meta information is little-endian
        at = _next_element(start, at, "<")
    return first_order(start[at:])


def ends_cleanly(rest: bytes, little: bool) -> bool:
    """Return whether the bytes after the pixels are elements, or zeros of a padded file."""
    order, at, last = "<" if little else ">", 0, _PIXEL_DATA
    while at < len(rest):
        if len(rest) - at < 8:
            return not any(rest[at:])
        group, element = struct.unpack_from(order + "HH", rest, at)
        tag = group << 16 | element
        if tag <= last:
            return not any(rest[at:])
        last, at = tag, _next_element(rest, at, order)
    return at == len(rest)


def _next_element(data: bytes, at: int, order: str) -> int:
    """Return the position after an element; the end for an undefined length."""
    if data[at + 4 : at + 6] in _LONG_FORMS:
        start, length = at + 12, int.from_bytes(data[at + 8 : at + 12], _name(order))
    elif is_explicit(data[at : at + 6]):
        start, length = at + 8, int.from_bytes(data[at + 6 : at + 8], _name(order))
    else:  # implicit
        start, length = at + 8, int.from_bytes(data[at + 4 : at + 8], _name(order))
    return len(data) if length == _UNDEFINED else start + length


def _name(order: str) -> Literal["little", "big"]:
    return "little" if order == "<" else "big"


def is_text_mode(stream: BinaryIO) -> bool:
    """Return whether each line feed of a file follows a carriage return.

    A transfer in text mode inserts a carriage return before each byte 10.
    """
    stream.seek(0)
    content = stream.read(_LARGEST_TEXT)
    feeds = content.count(b"\n")
    return feeds >= _LINE_FEEDS and content.count(b"\r\n") == feeds
