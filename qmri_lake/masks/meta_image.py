"""Reader of MetaImage masks (``.mha``, or ``.mhd`` with a file of values beside it).

The values are read here and not by ITK, which accepts a file that is cut off or longer than its
header declares.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from math import prod
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.content import Content
from qmri_lake.masks.damage import check_size, checksum_mismatch, trailing_bytes, truncated
from qmri_lake.masks.grids import Affine
from qmri_lake.masks.voxel_units import in_millimetres
from qmri_lake.masks.whole_files import file_beside, read_to_end

__all__ = ["TYPES", "missing_geometry", "read_meta_image"]

TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
"""NumPy type of each type of values, as ITK defines them."""

_LONGEST_HEADER = 2**16
_OFFSET = ("Offset", "Position", "Origin")
_MATRIX = ("TransformMatrix", "Orientation", "Rotation")
_FLAGS = {"true": True, "1": True, "false": False, "0": False}

_Fields = Mapping[str, str]


def read_meta_image(path: str) -> Content:
    """Read a MetaImage file with its values, in the same file or in one beside it.

    Raises
    ------
    InputError
        If the file is damaged, has no position (``grid_mismatch``), or has voxels that are not
        those of a knee (``implausible_voxels``).
    """
    with open(path, "rb") as stream:
        fields = _read_header(stream, path)
        shape, dtype = _layout(fields, path)
        name = fields["ElementDataFile"]
        if name.upper() == "LOCAL":
            content = _values(stream, fields, prod(shape) * dtype.itemsize, path)
        else:
            with file_beside(path, name, "save the mask as .mha").open("rb") as values:
                content = _values(values, fields, prod(shape) * dtype.itemsize, path)
    labels = np.frombuffer(content, dtype).reshape(shape, order="F")
    affine = in_millimetres(_affine(fields, path), shape, "", path, "Write ElementSpacing in mm.")
    return Content(labels, affine)


def _read_header(stream: BinaryIO, path: str) -> dict[str, str]:
    """Return the fields of the header, which ends with the place of the values."""
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields:
        line = stream.readline(_LONGEST_HEADER)
        if not line or stream.tell() > _LONGEST_HEADER:
            raise _damaged("no ElementDataFile", "a header that ends with it", path)
        name, equals, value = line.decode("latin-1").partition("=")
        if not equals and line.strip():
            raise _damaged("a line without =", "NAME = VALUE", path)
        if name.strip() in fields:
            raise _damaged(f"{name.strip()} twice", "one value of each field", path)
        fields[name.strip()] = value.strip()
    return fields


def _layout(fields: _Fields, path: str) -> tuple[tuple[int, int, int], np.dtype[np.generic]]:
    """Return the number of voxels along each axis, and the type of the values."""
    sizes = _numbers(fields, ("DimSize",), _whole(fields, "NDims", 3, path), path)
    channels = _whole(fields, "ElementNumberOfChannels", 1, path)
    if len(sizes) != 3 or (sizes < 1).any() or channels != 1:
        raise _damaged(
            f"{len(sizes)} axes, DimSize {fields.get('DimSize', '')}, and {channels} channels",
            "three axes and one channel",
            path,
        )
    kind = TYPES.get(fields.get("ElementType", ""))
    if kind is None:
        raise _damaged(
            f"ElementType {fields.get('ElementType', '')!r}", f"one of {', '.join(TYPES)}", path
        )
    if not _flag(fields, ("BinaryData",), True, path):
        raise _damaged("values as text", "BinaryData = True", path)
    order = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
    big = _flag(fields, order, False, path)
    first, second, third = (int(n) for n in sizes)
    return (first, second, third), np.dtype(f"{'>' if big else '<'}{kind}")


def _values(stream: BinaryIO, fields: _Fields, size: int, path: str) -> bytes:
    """Read all values, to the end of the stream."""
    check_size(size, path)
    skip = _whole(fields, "HeaderSize", 0, path)
    if skip > 0:
        stream.seek(skip)
    if not _flag(fields, ("CompressedData",), False, path):
        content = read_to_end(stream, path, size)
    else:
        content = _unpacked(read_to_end(stream, path, size + size // 100 + 2**16), size, path)
    if len(content) < size:
        raise truncated(f"{len(content):,} of {size:,} bytes that the header declares", path)
    return content


def _unpacked(packed: bytes, size: int, path: str) -> bytes:
    """Unpack zlib data, whose checksum is verified."""
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(packed, size + 1)
        # zlib verifies the checksum when it reaches the end of the data.
        content += unpacker.decompress(unpacker.unconsumed_tail, 1)
    except zlib.error as error:
        raise checksum_mismatch("the compressed data is damaged", path) from error
    if len(content) > size or unpacker.unused_data:
        raise trailing_bytes("more bytes than the header declares", path)
    if not unpacker.eof:
        raise truncated("the compressed data ends too early", path)
    return content


def _affine(fields: _Fields, path: str) -> Affine:
    """Return the affine, voxel (i, j, k) to LPS mm; raise an error if it is not in the file."""
    if missing := missing_geometry(fields):
        raise InputError(
            f"no {' and no '.join(missing)}, so the position is unknown",
            expected="Offset, TransformMatrix and ElementSpacing",
            where=path,
            todo="Copy the geometry of the image into the file, or convert the mask to NIfTI with "
            "the affine of its image.",
            reason=Reason.GRID_MISMATCH,
        )
    affine = np.eye(4)
    directions = _numbers(fields, _MATRIX, 9, path).reshape(3, 3)  # one axis a row
    affine[:3, :3] = directions.T * _numbers(fields, ("ElementSpacing",), 3, path)
    affine[:3, 3] = _numbers(fields, _OFFSET, 3, path)
    return affine


def missing_geometry(fields: Mapping[str, str]) -> list[str]:
    """Return the fields of the position that a header lacks, by their first names."""
    needed = (_OFFSET, _MATRIX, ("ElementSpacing",))
    return [names[0] for names in needed if not any(name in fields for name in names)]


def _numbers(fields: _Fields, names: tuple[str, ...], count: int, path: str) -> NDArray[np.float64]:
    name = next((name for name in names if name in fields), names[0])
    try:
        values = np.array([float(word) for word in fields.get(name, "").split()])
    except ValueError:
        values = np.empty(0)
    if len(values) == count and np.isfinite(values).all():
        return values
    raise _damaged(f"{name} = {fields.get(name, '')[:60]!r}", f"{count} numbers", path)


def _flag(fields: _Fields, names: tuple[str, ...], default: bool, path: str) -> bool:
    found = [(name, fields[name]) for name in names if name in fields]
    values = {_FLAGS.get(text.lower()) for _, text in found} or {default}
    value = values.pop() if len(values) == 1 else None
    if value is None:
        raise _damaged(f"{found[0][0]} = {found[0][1][:60]!r}", "True or False", path)
    return value


def _whole(fields: _Fields, name: str, default: int, path: str) -> int:
    text = fields.get(name, str(default))
    if text.removeprefix("-").isdecimal():
        return int(text)
    raise _damaged(f"{name} = {text[:60]!r}", "a whole number", path)


def _damaged(found: str, expected: str, path: str) -> InputError:
    return InputError(
        found,
        expected=expected,
        where=path,
        todo="Copy or download it again, or save it again.",
        reason=Reason.UNREADABLE_FILE,
    )
