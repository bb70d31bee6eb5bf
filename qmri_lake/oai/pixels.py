"""Format of the pixels of one file: what the header declares, and what the file contains."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import BinaryIO

from pydicom import config
from pydicom.uid import UID

from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.encoding import (
    DEFLATED,
    data_order,
    ends_cleanly,
    is_text_mode,
    native_order,
)
from qmri_lake.oai.header_values import Values

__all__ = ["PixelFormat", "explain_damage", "find_pixels"]

_UNDEFINED = 0xFFFFFFFF
_PIXEL_DATA = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
_FLOAT_PIXELS = (b"\xe0\x7f\x08\x00", b"\xe0\x7f\x09\x00", b"\x7f\xe0\x00\x08", b"\x7f\xe0\x00\x09")
_LONG_FORMS = (b"OW", b"OB", b"UN")
"""Value representations of pixels with a length of 4 bytes. Their first letter is odd, and an
implicit length is even, so that they cannot be confused."""
_ALLOCATED = (8, 16, 32)
_BLOCK = 512
"""Size of a disk block in bytes. Some writers pad the pixels to full blocks."""


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """Where the pixels of one image are in a file, and how they are stored."""

    bits: int = 0
    """Number of bits of a pixel in the file."""
    bits_stored: int = 0
    """Number of used bits of a pixel; higher bits are undefined."""
    signed: bool = False
    padding: tuple[int, int] | None = None
    """Smallest and largest stored value of pixels that are not part of the image."""
    dtype: str = ""
    """NumPy type of uncompressed pixels; empty for compressed pixels."""
    offset: int = -1
    """Position of the first pixel in the file, for uncompressed pixels."""
    frame: int = 0
    """Index of the frame in the file."""
    frames: int = 1
    """Number of frames in the file."""
    count: int = 0
    """Number of pixels of a frame."""

    def of_frame(self, frame: int) -> PixelFormat:
        """Return the format of one frame of a file with several frames."""
        step = self.count * self.bits // 8 if self.dtype else 0
        return replace(self, frame=frame, offset=self.offset + frame * step)


def find_pixels(
    stream: BinaryIO, size: int, values: Values, syntax: str, order: str
) -> PixelFormat:
    """Return the format of the pixels of a file, and check that header and pixels agree.

    Parameters
    ----------
    stream : binary file
        The file, positioned at its pixels.
    size : int
        Size of the file in bytes.
    values : Values
        Values of its header.
    syntax : str
        Transfer syntax that the file declares; empty if it declares none.
    order : {"<", ">"}
        Byte order of the header.

    Raises
    ------
    InputError
        If the pixels are absent, incomplete, too long, in colour, inverted or mapped by a table,
        or if elements contradict each other or the pixels.
    """
    where = values.name
    start = stream.tell()
    head = b"" if syntax == DEFLATED else stream.read(12)
    if syntax != DEFLATED and head[:4] not in _PIXEL_DATA:
        if head[:4] in _FLOAT_PIXELS:
            raise InputError(
                "pixels are floating-point numbers",
                expected="whole numbers in PixelData",
                where=where,
                todo="Export the series as MR images.",
                reason=Reason.UNDECODABLE_PIXELS,
            )
        raise explain_damage(stream, where, "no pixel data", order)
    rows, columns = values.whole("rows", 0), values.whole("columns", 0)
    frames = values.whole("frames", 1)
    bits = _check_bits(values)
    if values.faults:  # the elements above are invalid
        raise values.faults[0]
    if rows < 1 or columns < 1 or frames < 1:
        raise _unstated("Rows, Columns or NumberOfFrames is 0", where)
    _check_greyscale(values)
    padding = _padding(values, bits.signed)
    found = replace(bits, padding=padding, frames=frames, count=rows * columns)
    if syntax == DEFLATED:  # the whole data set is compressed: offsets are not valid
        return found

    explicit = head[4:6] in _LONG_FORMS
    little = order == "<"
    length = int.from_bytes(head[8:12] if explicit else head[4:8], "little" if little else "big")
    if _check_syntax(syntax, length == _UNDEFINED, where):
        return found
    first = start + (12 if explicit else 8)
    needed = rows * columns * frames * bits.bits // 8
    _check_length(stream, size, first, length, needed, little, values)
    dtype = f"{order}{'i' if bits.signed else 'u'}{bits.bits // 8}"
    return replace(found, dtype=dtype, offset=first)


def _check_bits(values: Values) -> PixelFormat:
    absent = [
        keyword
        for key, keyword in (
            ("bits", "BitsAllocated"),
            ("bits_stored", "BitsStored"),
            ("signed", "PixelRepresentation"),
        )
        if not values[key]
    ]
    if absent:
        raise _unstated(f"no {absent[0]}", values.name)
    bits, stored = values.whole("bits", 0), values.whole("bits_stored", 0)
    # HighBit is always BitsStored - 1 in the present standard.
    high, signed = values.whole("high_bit", stored - 1), values.whole("signed", 0)
    if values.faults:
        return PixelFormat()
    for wrong, found, expected in (
        (bits not in _ALLOCATED, f"BitsAllocated = {bits}", "8, 16 or 32"),
        (not 1 <= stored <= bits, f"BitsStored = {stored}", f"1 to BitsAllocated, {bits}"),
        (high != stored - 1, f"HighBit = {high}", f"BitsStored - 1, {stored - 1}"),
        (signed not in (0, 1), f"PixelRepresentation = {signed}", "0 or 1"),
    ):
        if wrong:
            raise InputError(
                found,
                expected=expected,
                where=values.name,
                todo="Correct the header, or export the series again.",
                reason=Reason.CONTRADICTORY_BITS,
            )
    return PixelFormat(bits, stored, signed == 1)


def _check_greyscale(values: Values) -> None:
    """Raise an error for pixels whose stored values are not signal."""
    kind, samples = values["photometric"].upper(), values.whole("samples", 1)
    if not kind or not values["samples"]:
        missing = "SamplesPerPixel" if kind else "PhotometricInterpretation"
        raise _unstated(f"no {missing}", values.name)
    if kind == "MONOCHROME1":
        raise InputError(
            "PhotometricInterpretation = MONOCHROME1",
            expected="MONOCHROME2",
            where=values.name,
            todo="The signal may be inverted: export the series as MONOCHROME2.",
            reason=Reason.INVERTED_GREYSCALE,
        )
    if kind != "MONOCHROME2" or samples != 1:
        raise InputError(
            f"{kind[:20]} pixels of {counted(samples, 'sample')}",
            expected="MONOCHROME2 pixels of 1 sample",
            where=values.name,
            todo="Export the acquired images, not a colour map.",
            reason=Reason.COLOUR_PIXELS,
        )
    if values["modality_lut"]:
        raise InputError(
            "values are mapped by a ModalityLUTSequence",
            expected="RescaleSlope and RescaleIntercept, or stored values",
            where=values.name,
            todo="Export the series without a lookup table.",
            reason=Reason.MODALITY_LUT,
        )


def _padding(values: Values, signed: bool) -> tuple[int, int] | None:
    if not values["padding"]:
        return None
    limits = [values.whole("padding", 0)]
    limits.append(values.whole("padding_limit", limits[0]))
    if values.faults:
        raise values.faults[0]
    if signed:
        limits = [limit - 0x10000 if limit > 0x7FFF else limit for limit in limits]
    return min(limits), max(limits)


def _check_syntax(syntax: str, encapsulated: bool, where: str) -> bool:
    """Return whether the pixel data are compressed. Declaration and content must agree."""
    native = native_order(syntax) is not None
    known = native or _is_syntax(syntax)
    if known and native != encapsulated:
        return encapsulated
    found = "compressed" if encapsulated else "uncompressed"
    named = known and syntax
    name = UID(syntax).name if named else f"transfer syntax {syntax[:40] or 'absent'}"
    raise InputError(
        f"{found} pixels ({name})",
        expected="the pixels of a transfer syntax of DICOM",
        where=where,
        todo="Export the series again; the file declares another encoding than it has.",
        reason=Reason.TRANSFER_SYNTAX,
    )


@cache
def _is_syntax(syntax: str) -> bool:
    return bool(UID(syntax, config.IGNORE).is_transfer_syntax)


def _check_length(
    stream: BinaryIO,
    size: int,
    first: int,
    length: int,
    needed: int,
    little: bool,
    values: Values,
) -> None:
    """Raise an error unless the file has exactly the bytes that rows, columns and bits need."""
    present = min(size - first, length)
    if present < needed:
        raise _truncated(values.name, f"{max(present, 0):,} of {needed:,} bytes of pixels")
    extra, kind = length - needed, "PixelData has"
    padding = b""
    if needed % 2 < extra <= _BLOCK:
        stream.seek(first + needed)
        padding = stream.read(extra)
    # Zeros up to a block are padding, unless they can be rows that the header does not count.
    rows, columns = values.whole("rows", 0), values.whole("columns", 0)
    is_padded = not any(padding) and (rows == columns or extra % (needed // rows) != 0)
    if extra <= needed % 2 or (padding and is_padded):
        if size == first + length:
            return
        stream.seek(first + length)
        rest = stream.read()
        if ends_cleanly(rest, little):
            return
        extra, kind = len(rest), "the file has, after its pixels,"
    if is_text_mode(stream):
        raise _text_mode(values.name)
    raise InputError(
        f"{kind} {counted(extra, 'byte')} too many",
        expected=f"{needed:,} bytes of pixels",
        where=values.name,
        todo="Copy or export the file again.",
        reason=Reason.TRAILING_BYTES,
    )


def explain_damage(stream: BinaryIO, where: str, found: str, order: str = "") -> InputError:
    """Return the error of a file whose header or pixels were not found.

    Parameters
    ----------
    stream : binary file
        The file.
    where : str
        Its name.
    found : str
        What is wrong if the file simply ends too early: a phrase, or the class of an error.
    order : {"<", ">", ""}
        Byte order in which the header was read, if it is known.
    """
    actual = data_order(stream)
    if order and actual and actual != order:
        names = {"<": "little-endian", ">": "big-endian"}
        return InputError(
            f"a {names[actual]} header",
            expected=f"a {names[order]} header, as the file declares",
            where=where,
            todo="Correct the TransferSyntaxUID, or export the series again.",
            reason=Reason.TRANSFER_SYNTAX,
        )
    if is_text_mode(stream):
        return _text_mode(where)
    if found.isidentifier():
        found = f"truncated or damaged header: {found}"
    return _truncated(where, found)


def _text_mode(where: str) -> InputError:
    return InputError(
        "bytes were inserted: each line feed follows a carriage return",
        expected="a binary file",
        where=where,
        todo="Transfer the file again in binary mode.",
        reason=Reason.TRAILING_BYTES,
    )


def _truncated(where: str, found: str) -> InputError:
    return InputError(
        found,
        expected="a complete DICOM image",
        where=where,
        todo="Copy or download the file again.",
        reason=Reason.TRUNCATED_FILE,
    )


def _unstated(found: str, where: str) -> InputError:
    return InputError(
        found,
        expected="a header that describes its pixels",
        where=where,
        todo="Restore the header element, or export the series again.",
        reason=Reason.UNREADABLE_VALUE,
    )
