"""Reader of NRRD masks, including the segmentations of 3D Slicer (``.seg.nrrd``)."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from io import BytesIO
from math import prod
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.core.geometry import VoxelGrid
from qmri_lake.core.text import one_line
from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.content import Content
from qmri_lake.masks.damage import LARGEST, check_size, trailing_bytes, truncated
from qmri_lake.masks.grids import Affine, Crop
from qmri_lake.masks.label_values import as_numbers, as_volume
from qmri_lake.masks.slicer_segments import (
    Segment,
    check_extents,
    merge_layers,
    read_crop,
    read_segments,
)
from qmri_lake.masks.voxel_units import in_millimetres
from qmri_lake.masks.whole_files import (
    GZIP,
    file_beside,
    gzip_errors,
    open_plain,
    read_bzip2,
    read_to_end,
)

__all__ = ["affine_of", "read_header", "read_layers", "read_nrrd", "read_values"]

_SPACES = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}
"""Signs that convert a named space of NRRD to LPS."""

_UNITS = {
    "": "",
    "mm": "millimetres",
    "millimeter": "millimetres",
    "millimetre": "millimetres",
    "cm": "centimetres",
    "centimeter": "centimetres",
    "centimetre": "centimetres",
    "m": "metres",
    "meter": "metres",
    "metre": "metres",
    "um": "micrometres",
    "micron": "micrometres",
    "micrometer": "micrometres",
    "micrometre": "micrometres",
}
"""Spellings of units; also in the plural. The micro sign is lost in a header, which is ASCII."""

_TEXT = ("ascii", "text", "txt")
_PLACE = ("line skip", "lineskip", "data file", "datafile")
"""Fields that say where values begin."""

_LONGEST_TYPE = 8
"""Bytes of the longest type of numbers."""

_LONGEST_NUMBER = 32
"""Characters of the longest number as text."""


def read_nrrd(path: str) -> Content:
    """Read an NRRD file with its values, in the same file or in one beside it.

    Raises
    ------
    InputError
        If the file is damaged, has no position (``grid_mismatch``), has voxels that are not those
        of a knee (``implausible_voxels``), or has segments that overlap (``overlapping_labels``).
    """
    labels, affine, segments, crop = read_layers(path)
    if len(labels) > 1:
        merged, names, numbered = merge_layers(labels, segments, path)
        notes = [] if numbered else [f"labels numbered as segments: {', '.join(names)}"]
        return Content(merged, affine, names, numbered, crop=crop, notes=notes)
    named: dict[str, tuple[int, ...]] = {}
    for segment in segments:
        named[segment.name] = (*named.get(segment.name, ()), segment.value)
    return Content(labels[0], affine, named, crop=crop)


def read_layers(
    path: str,
) -> tuple[NDArray[np.uint8], Affine, list[Segment], Crop | None]:
    """Read the layers of an NRRD file and its segments.

    Returns
    -------
    layers : (layer, i, j, k) array of uint8
    affine : (4, 4)
        Voxel (i, j, k) to LPS mm.
    segments : list of Segment
        Empty if the file is no segmentation of 3D Slicer.
    crop : Crop or None
        The part of an image that the file contains, if its header states one.
    """
    values, header = read_values(path)
    space = str(header.get("space", "")).lower()
    directions, origin = header.get("space directions"), header.get("space origin")
    if space not in _SPACES or directions is None or origin is None:
        raise _no_position(space, path, "mask")
    layers, vectors = _in_layers(values, np.asarray(directions, np.float64), path)
    affine = affine_of(header, vectors, layers.shape[1:], path)
    labels = as_numbers(layers, path)
    segments = read_segments(header, path)
    check_extents(labels, segments, path)
    crop = read_crop(header, VoxelGrid(labels.shape[1:], affine), path)
    return labels, affine, segments, crop


def _in_layers(values: Values, directions: Affine, path: str) -> tuple[Values, Affine]:
    """Return the values (layer, i, j, k) and the directions of the last three axes."""
    if values.ndim == 4 and directions.shape == (4, 3):
        (lists,) = np.nonzero(np.isnan(directions).all(axis=1))
        if len(lists) == 1:
            vectors = np.delete(directions, lists[0], axis=0)
            return np.moveaxis(values, int(lists[0]), 0), vectors
    volume = as_volume(values, path)
    if directions.shape != (3, 3):
        raise InputError(
            f"space directions of shape {directions.shape}",
            expected="three vectors of three numbers",
            where=path,
            todo="Export the mask with its geometry.",
            reason=Reason.GRID_MISMATCH,
        )
    return volume[np.newaxis], directions


def _no_position(space: str, path: str, content: str) -> InputError:
    """Return the error for a mask or image without a position."""
    return InputError(
        f"space {space!r}" if space else "no space, so the position is unknown",
        expected="left-posterior-superior, right-anterior-superior or left-anterior-superior, "
        "with space directions and space origin",
        where=path,
        todo=f"Export the {content} with its geometry.",
        reason=Reason.GRID_MISMATCH,
    )


def _unit(header: dict[str, Any], path: str) -> str:
    units = {str(unit).strip().lower() for unit in header.get("space units", ())}
    known = {_UNITS.get(unit, _UNITS.get(unit.removesuffix("s"))) for unit in units or {""}}
    unit = known.pop() if len(known) == 1 else None
    if unit is None:
        raise InputError(
            f"space units {', '.join(sorted(units))}",
            expected='"mm" "mm" "mm"',
            where=path,
            todo="Set `space units` in the file.",
            reason=Reason.IMPLAUSIBLE_VOXELS,
        )
    return unit


def read_values(path: str) -> tuple[Values, dict[str, Any]]:
    """Return the values, in the axis order of the file, and the header.

    Raises
    ------
    InputError
        If the file is damaged. The length and the checksum of the values are verified.
    """
    import nrrd  # type: ignore[import-untyped]

    with open_plain(path) as stream:
        try:
            header = dict(nrrd.read_header(stream))
            count = prod(int(size) for size in header["sizes"])
            encoding = str(header["encoding"]).lower()
            lines = int(header.get("line skip") or header.get("lineskip") or 0)
            skip = int(header.get("byte skip") or header.get("byteskip") or 0)
        except (KeyError, ValueError, TypeError, StopIteration, nrrd.NRRDError) as error:
            raise _unreadable(f"unreadable header: {one_line(error)}", path) from error
        check_size(count, path)
        with _values_stream(stream, header, path) as values:
            for _ in range(lines):
                values.readline()
            content = _unpacked(values, encoding, count, max(skip, 0), path)
    plain = {key: value for key, value in header.items() if key not in _PLACE}
    plain["encoding"] = encoding if encoding in _TEXT else "raw"
    rest = BytesIO(content)
    try:
        # NumPy warns of text that is not a number, and stops reading.
        with warnings.catch_warnings(action="error") if encoding in _TEXT else nullcontext():
            result = nrrd.read_data(plain, rest, path)
    except (nrrd.NRRDError, ValueError, KeyError, Warning) as error:
        if "Size of the data" in str(error) or "multiple of element size" in str(error):
            raise truncated("fewer values than the sizes in the header say", path) from error
        raise _unreadable(f"unreadable values: {one_line(error)}", path) from error
    if encoding not in _TEXT and rest.read(1):
        raise trailing_bytes("more values than the sizes in the header say", path)
    return result, header


@contextmanager
def _values_stream(stream: BinaryIO, header: dict[str, Any], path: str) -> Iterator[BinaryIO]:
    """Yield the stream of values: the rest of the file, or a file beside it."""
    name = str(header.get("data file", header.get("datafile", ""))).removeprefix("./")
    if not name:
        yield stream
        return
    with file_beside(path, name, "save the mask as .nrrd").open("rb") as values:
        yield values


def _unpacked(stream: BinaryIO, encoding: str, count: int, skip: int, path: str) -> bytes:
    """Return the bytes of `count` values, to the end of the stream, whose checksum is verified."""
    limit = min(count * _LONGEST_TYPE + skip, LARGEST)
    if encoding in _TEXT:
        return read_to_end(stream, path, count * _LONGEST_NUMBER + skip)
    if encoding == "raw":
        return read_to_end(stream, path, limit)
    if encoding not in ("gzip", "gz", "bzip2", "bz2"):
        raise _unreadable(f"encoding {encoding}", path, "raw, gzip, bzip2 or ascii")
    packed = read_to_end(stream, path, limit + limit // 100 + 2**16)  # packing may add a little
    if not packed:
        raise truncated("the header without its values", path)
    if encoding.startswith("b"):
        return read_bzip2(packed, path, limit)
    if not packed.startswith(GZIP):
        raise _unreadable("values that are not gzip", path, "the encoding in the header, gzip")
    with gzip_errors(path), gzip.GzipFile(fileobj=BytesIO(packed)) as unpacked:
        return read_to_end(cast(BinaryIO, unpacked), path, limit)


def _unreadable(found: str, path: str, expected: str = "an NRRD file") -> InputError:
    return InputError(
        found,
        expected=expected,
        where=path,
        todo="Copy or download it again, or save it again.",
        reason=Reason.UNREADABLE_FILE,
    )


def read_header(path: str) -> dict[str, Any]:
    """Return the header of a file, without its values.

    Raises
    ------
    InputError
        If the header is damaged.
    """
    import nrrd

    with open_plain(path) as stream:
        try:
            return dict(nrrd.read_header(stream))
        except (KeyError, ValueError, TypeError, StopIteration, nrrd.NRRDError) as error:
            raise _unreadable(f"unreadable header: {one_line(error)}", path) from error


def affine_of(
    header: dict[str, Any], vectors: Affine, shape: tuple[int, int, int], path: str
) -> Affine:
    """Return the affine, voxel (i, j, k) to LPS mm.

    Parameters
    ----------
    header : dict
    vectors : (3, 3)
        Direction of each axis of the volume, one in a row.
    shape : tuple of int
        Number of voxels along each axis.
    path : str
        Path of the file, for errors.

    Raises
    ------
    InputError
        If the position is unknown (``grid_mismatch``), or voxels are not those of a knee.
    """
    space, origin = str(header.get("space", "")).lower(), header.get("space origin")
    if space not in _SPACES or vectors.shape != (3, 3) or origin is None:
        raise _no_position(space, path, "image")
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = vectors.T, np.asarray(origin, np.float64)
    affine = np.diag([*_SPACES[space], 1.0]) @ affine
    return in_millimetres(
        affine, shape, _unit(header, path), path, "Set `space units` in the file."
    )
