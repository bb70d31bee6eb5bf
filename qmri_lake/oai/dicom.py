"""One DICOM series as arrays."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.completeness import assess
from qmri_lake.oai.decoding import FileContent
from qmri_lake.oai.files import Files
from qmri_lake.oai.geometry import arrange
from qmri_lake.oai.header import Header, read_header
from qmri_lake.oai.strays import list_series
from qmri_lake.schema.variable import VOLUME_DIMS

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Volume", "read_dicom", "read_volume"]


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Pixels and geometry of one series."""

    image: NDArray[np.float32]
    """(echo, slice, row, column), or (slice, row, column) for a DESS. The values are rescaled."""
    affine: NDArray[np.float64]
    """(4, 4) matrix from voxel indices (slice, row, column, 1) to LPS positions of centres, mm."""
    echo_time: NDArray[np.float64]
    """(echo,) echo times, ms, ascending."""
    uid: str
    """SeriesInstanceUID."""
    digest: str
    """SHA-256 of the stored pixels, rescaling, affine and echo times, in canonical order."""


def read_volume(files: Files, where: str = "", *, whole: bool = True) -> Volume:
    """Read the files of one series.

    Parameters
    ----------
    files : Files
        Files of the series, in any order and with any names.
    where : str, optional
        Location of the series, for messages.
    whole : bool
        Whether files that the headers imply must be there; False for a part of a scan.

    Returns
    -------
    Volume
        Image (echo, slice, row, column) float32, rescaled file by file; slices and echoes in
        the order of `qmri_lake.oai.geometry.arrange`.

    Raises
    ------
    InputError
        If a file is truncated or cannot be decoded, if the files are of several series, or if they
        do not form one regular grid. The error has a `Reason`.
    """
    headers: list[Header] = []
    contents: list[FileContent | None] = []
    where = where or files.path
    for name, content in files.read(where):
        header = read_header(io.BytesIO(content), os.path.join(where, name), len(content))
        if header is not None:
            if header.fault is not None:
                raise header.fault
            headers.append(header)
            contents.append(FileContent(content))
    if not headers:
        raise InputError(
            "no DICOM image",
            expected="the files of one series",
            where=where,
            reason=Reason.UNREADABLE_FILE,
        )
    series = {header.uid: header.series_description for header in reversed(headers)}
    if len(series) > 1:
        named = "; ".join(text or "without a name" for text in series.values())
        raise InputError(
            f"{len(series)} series: {named}",
            expected="one series",
            where=where,
            todo="Read each series separately, or use qmri_lake.oai.inventory for the folder.",
            reason=Reason.INCONSISTENT_GEOMETRY,
        )
    stack = arrange(headers, where)
    missing = assess(headers, stack, where).missing
    if missing is not None and whole:
        raise missing
    image = np.empty(stack.shape, np.float32)
    digest = hashlib.sha256()
    unread = np.bincount(stack.order.ravel(), minlength=len(headers))
    for (echo, index), k in np.ndenumerate(stack.order):
        header, source = headers[k].images[stack.frame[echo, index]], contents[k]
        assert source is not None
        stored = source.decode(header)
        unread[k] -= 1
        if not unread[k]:
            contents[k] = None  # free the memory
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
        A folder, whose subfolders are ignored, or files.

    Returns
    -------
    xarray.Dataset
        ``image`` (echo, slice, row, column) float32, rescaled; ``echo_time`` (echo) in ms, NaN
        if the headers have none; ``affine`` (world, voxel) float64, from the voxel index
        (slice, row, column, 1) to the LPS position of the voxel centre in mm. Slices ascend along
        the normal of the plane, and echoes by echo time. The order of the files has no effect.

    Raises
    ------
    InputError
        If there is no image, if there are several series, if a file is truncated, if a slice is
        missing, if a file in the place of a slice is not DICOM ... The error has a
        `qmri_lake.errors.Reason`.

    Examples
    --------
    >>> ds = read_dicom("oai/00m/0.C.2/9000798/20040824/10424703")  # doctest: +SKIP
    >>> ds.image.sizes["slice"]  # doctest: +SKIP
    160
    """
    import xarray as xr

    files = list_series(source)
    volume = read_volume(files)
    return xr.Dataset(
        {
            "image": (("echo", *VOLUME_DIMS), volume.image),
            "echo_time": (("echo",), volume.echo_time, {"units": "ms"}),
            "affine": (
                ("world", "voxel"),
                volume.affine,
                {"units": "mm", "long_name": "voxel centre (slice, row, column) to LPS"},
            ),
        },
        attrs={"series_uid": volume.uid, "source_digest": volume.digest},
    )
