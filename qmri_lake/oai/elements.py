"""Elements of a DICOM header up to the pixels, read without converting their values.

pydicom's datasets convert and check values, which takes most of the time of reading a header.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filereader import data_element_generator
from pydicom.tag import BaseTag

from qmri_lake.oai.encoding import DEFLATED, first_order, is_explicit, native_order

__all__ = ["Elements", "element_text", "read_elements"]

_CLASS, _SYNTAX = 0x00020002, 0x00020010
_PIXEL_DATA = {0x7FE00008, 0x7FE00009, 0x7FE00010}
_BINARY = {"US": "H", "SS": "h", "US or SS": "H", "UL": "L", "SL": "l", "FL": "f", "FD": "d"}
"""Format of one value in `struct`, by value representation."""
_PRIVATE = {0x0043102F: "SS", 0x001910B6: "DS", 0x001910B7: "DS"}
"""Value representations of private elements, which implicit files don't state."""


@dataclass(slots=True)
class Elements:
    """Elements of a header, and the encoding in which they were read."""

    found: dict[BaseTag, RawDataElement | DataElement]
    """Element by tag."""
    repeated: list[int]
    """Tags that occur twice."""
    syntax: str
    """Declared transfer syntax; empty if there is none."""
    sop_class: str
    """SOP class in the file meta information; empty if there is none."""
    order: str
    """Byte order, ``<`` or ``>``."""
    error: str = ""
    """Class of the error that pydicom raised for a damaged header; empty if there is none."""


def read_elements(stream: BinaryIO, wanted: Collection[int]) -> Elements:
    """Read the wanted elements of a file, and stop at its pixels.

    The byte order is the declared one, else the byte order of the first element.

    Parameters
    ----------
    stream : binary file
        The file, positioned at its start. It is left at the element of the pixels.
    wanted : collection of int
        Tags of the elements.

    Raises
    ------
    Exception
        If the file meta information is damaged; pydicom raises errors of many classes.
    """
    if stream.read(132)[128:] != b"DICM":
        stream.seek(0)
    meta = {
        int(element.tag): element
        for element in data_element_generator(
            stream, False, True, lambda tag, representation, length: int(tag) >> 16 != 2
        )
    }
    syntax, sop_class = (
        element_text(meta[tag]) if tag in meta else "" for tag in (_SYNTAX, _CLASS)
    )
    if syntax == DEFLATED:
        stream = io.BytesIO(zlib.decompress(stream.read(), -zlib.MAX_WBITS))
    first = stream.read(8)
    stream.seek(-len(first), io.SEEK_CUR)
    # Compressed pixels always have a little-endian header.
    declared = native_order(syntax)
    order = (first_order(first) or "<") if declared == "" else declared or "<"
    elements = Elements({}, [], syntax, sop_class, order)

    def at_pixels(tag: BaseTag, representation: str | None, length: int) -> bool:
        return int(tag) in _PIXEL_DATA

    try:
        for element in data_element_generator(
            stream, not is_explicit(first), order == "<", at_pixels, specific_tags=list(wanted)
        ):
            if element.tag in elements.found:
                elements.repeated.append(element.tag)
            elements.found[element.tag] = element
    except Exception as error:  # pydicom raises many errors for a damaged file
        elements.error = type(error).__name__
    return elements


def element_text(element: RawDataElement | DataElement) -> str:
    """Return the value of an element as text; "" for an empty sequence, or "sequence".

    Several values are separated by backslashes. Binary numbers are read by the value
    representation of the dictionary, whatever the file says.
    """
    value = element.value
    if value is None:
        return ""
    kind = _kind(int(element.tag), str(element.VR))
    if kind == "SQ":
        return "sequence" if len(value) else ""
    if isinstance(value, bytes):
        if not kind:
            return value.decode("latin-1").strip("\0 \t\r\n")
        order = "<" if getattr(element, "is_little_endian", True) else ">"
        size = struct.calcsize(order + kind)
        if len(value) % size:
            return f"{len(value)} bytes"
        return "\\".join(map(str, struct.unpack(f"{order}{len(value) // size}{kind}", value)))
    if isinstance(value, str):
        return value.strip("\0 ")
    return "\\".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


@cache
def _kind(tag: int, stated: str) -> str:
    """Return the format of binary values, ``SQ`` for a sequence, or "" for text."""
    try:
        representation = str(dictionary_VR(tag))
    except KeyError:  # a private element
        representation = _PRIVATE.get(tag, stated)
    return representation if representation == "SQ" else _BINARY.get(representation, "")
