"""One DICOM series as arrays."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pydicom
from numpy.typing import NDArray

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.files import Files
from qmri_lake.oai.header import Header, is_dicom, read_header
from qmri_lake.oai.stack import arrange

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Volume", "read_dicom", "read_volume"]

_DELIMITER = (b"\xfe\xff\xdd\xe0", b"\xff\xfe\xe0\xdd")
"""What ends encapsulated pixel data."""


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """The pixels and the geometry of one series."""

    image: NDArray[np.float32]
    """(echo, slice, row, column), or (slice, row, column) for a DESS; rescaled."""
    affine: NDArray[np.float64]
    """(4, 4) voxel centre (slice, row, column) -> LPS mm."""
    echo_time: NDArray[np.float64]
    """(echo,) ms, ascending."""
    uid: str
    digest: str
    """SHA-256 of stored pixels, rescaling, affine and echo times in canonical order."""


def read_volume(files: Files, where: str = "") -> Volume:
    """Read the files of one series.

    Parameters
    ----------
    files : Files
        In any order, under any names.
    where : str, optional
        The series, for messages.

    Returns
    -------
    Volume
        Image (echo, slice, row, column) float32, rescaled file by file; slices and echoes in
        the order of `qmri_lake.oai.stack.arrange`.

    Raises
    ------
    InputError
        With its reason, if a file is cut off or can't be decoded, if the files are not all of
        one series, or if they don't make one regular grid.
    """
    headers: list[Header] = []
    contents: list[bytes] = []
    where = where or files.path
    for name, content in files.read(where):
        header = read_header(io.BytesIO(content), os.path.join(where, name), len(content))
        if header is not None:
            if header.fault is not None:
                raise header.fault
            headers.append(header)
            contents.append(content)
    if not headers:
        raise InputError(
            "no DICOM image",
            expected="the files of one series",
            where=where,
            reason=Reason.UNREADABLE_FILE,
        )
    series = {header.uid: header.series_description for header in reversed(headers)}
    if len(series) > 1:
        named = "; ".join(text or "one without a name" for text in series.values())
        raise InputError(
            f"{len(series)} series: {named}",
            expected="one series",
            where=where,
            todo="Read them one by one, or take an inventory of the folder.",
            reason=Reason.INCONSISTENT_GEOMETRY,
        )
    stack = arrange(headers, where)
    image = np.empty(stack.shape, np.float32)
    digest = hashlib.sha256()
    for (echo, index), k in np.ndenumerate(stack.order):
        header, stored = headers[k], _decode(headers[k], contents[k])
        contents[k] = b""  # the content is not needed again: keep the peak low
        digest.update(np.ascontiguousarray(stored).data)
        digest.update(np.array([header.slope, header.intercept]).data)
        if header.slope == 1 and header.intercept == 0:
            image[echo, index] = stored
        else:
            image[echo, index] = stored * np.float64(header.slope) + header.intercept
    digest.update(stack.affine.data)
    digest.update(stack.echo_time.data)
    return Volume(image, stack.affine, stack.echo_time, headers[0].uid, digest.hexdigest())


def read_dicom(source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> xr.Dataset:
    """Read one DICOM series.

    Parameters
    ----------
    source : path or iterable of paths
        A folder (its files, without its subfolders), or files.

    Returns
    -------
    xarray.Dataset
        ``image`` (echo, slice, row, column) float32, rescaled; ``echo_time`` (echo) in ms, NaN
        where the headers have none; ``affine`` (world, voxel) float64: LPS mm from voxel index
        (slice, row, column), at voxel centres. Slices ascend along the normal of the plane,
        echoes by time, whatever the order of the files.

    Raises
    ------
    InputError
        With its `qmri_lake.errors.Reason`: no image, several series, a cut-off file, a
        missing slice ...

    Examples
    --------
    >>> ds = read_dicom("oai/00m/0.C.2/9000798/20040824/10424703")  # doctest: +SKIP
    >>> ds.image.sizes["slice"]  # doctest: +SKIP
    160
    """
    import xarray as xr

    files = _list_files(source)
    volume = read_volume(files)
    return xr.Dataset(
        {
            "image": (("echo", "slice", "row", "column"), volume.image),
            "echo_time": (("echo",), volume.echo_time, {"units": "ms"}),
            "affine": (
                ("world", "voxel"),
                volume.affine,
                {"units": "mm", "long_name": "voxel centre (slice, row, column) to LPS"},
            ),
        },
        attrs={"series_uid": volume.uid, "source_digest": volume.digest},
    )


def _list_files(source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Files:
    if isinstance(source, (str, os.PathLike)):
        folder = Path(source)
        if folder.is_dir():
            # What is listed and does not exist is a broken link, perhaps to a slice.
            paths = sorted(p for p in folder.iterdir() if p.is_file() or not p.exists())
        else:
            paths = [folder]
    else:
        paths = [Path(path) for path in source]
    names = []
    for path in paths:
        try:
            with path.open("rb") as stream:
                start = stream.read(132)
        except OSError as error:
            raise InputError(
                f"a path that can't be opened ({error.strerror})",
                expected="a folder of DICOM files, or DICOM files",
                where=str(path),
                reason=Reason.UNREADABLE_FILE,
            ) from None
        if is_dicom(start):
            names.append(str(path.absolute()))
    return Files(str(source) if isinstance(source, (str, os.PathLike)) else "", tuple(names))


def _decode(header: Header, content: bytes) -> NDArray[np.integer]:
    """Return the stored numbers (row, column) of one file, in the byte order of this machine."""
    if header.dtype:
        count = header.rows * header.columns
        stored = np.frombuffer(content, header.dtype, count, header.pixel_offset)
        pixels = stored.astype(stored.dtype.newbyteorder("="), copy=False)
        return _keep_stored_bits(pixels, header.bits_stored).reshape(header.rows, header.columns)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd but decodable streams warn; broken ones raise
            pixels = pydicom.dcmread(io.BytesIO(content), force=True).pixel_array
    except Exception as error:  # each decoder raises what it likes
        if not any(mark in content[-1024:] for mark in _DELIMITER):
            raise InputError(
                "compressed pixels without their end",
                expected="a whole DICOM image",
                where=header.name,
                todo="Copy or download the file again.",
                reason=Reason.TRUNCATED_FILE,
            ) from None
        raise InputError(
            f"pixels that don't decode ({type(error).__name__})",
            expected="uncompressed, RLE, JPEG, JPEG-LS or JPEG 2000 pixels",
            where=header.name,
            todo="Copy or download the file again, or decompress it with another tool.",
            reason=Reason.UNDECODABLE_PIXELS,
        ) from None
    if pixels.shape != (header.rows, header.columns):
        raise InputError(
            f"pixels of shape {pixels.shape}",
            expected=f"{(header.rows, header.columns)}",
            where=header.name,
            todo="Give gray-scale images of one slice a file.",
            reason=Reason.UNDECODABLE_PIXELS,
        )
    return pixels


def _keep_stored_bits(pixels: NDArray[np.integer], bits: int) -> NDArray[np.integer]:
    """Drop what old scanners keep above the stored bits (overlays, saturation marks)."""
    unused = pixels.dtype.itemsize * 8 - bits
    if unused == 0 or bits < 1:
        return pixels
    if pixels.dtype.kind == "u":
        return pixels & pixels.dtype.type((1 << bits) - 1)
    return (pixels << unused) >> unused  # the sign goes with the top stored bit
