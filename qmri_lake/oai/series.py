"""One usable scan of a delivery, and its pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from qmri_lake.core.geometry import GRID_TOLERANCE_MM, corner_distance
from qmri_lake.core.text import format_shape
from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.dicom import Volume, read_volume
from qmri_lake.oai.files import Files
from qmri_lake.oai.sequence import Sequence
from qmri_lake.schema.groups import GROUPS

__all__ = ["Part", "Series", "read_series"]


@dataclass(frozen=True, slots=True)
class Part:
    """Files of one DICOM series."""

    files: Files = field(repr=False)
    """Picklable handle to read the series in another process."""
    where: str
    """Folder or tar, relative to the source."""
    uid: str
    """SeriesInstanceUID."""
    time: float | None = None
    """Spin-lock time [ms] that is stored as echo time; None: the echo times of the headers."""


@dataclass(frozen=True, slots=True)
class Series:
    """One usable scan, described without decoding its pixels."""

    group: str
    """``dess``, ``msme``, ``t1rho`` ..."""
    patient: int
    timepoint: int
    """Months after enrolment."""
    knee: str
    """``left`` or ``right``."""
    exam: str
    """Key ``{patient:07d}-{timepoint:03d}m-{knee}``."""
    shape: tuple[int, ...]
    """(slice, row, column) for ``dess``; other series have an axis of images before it."""
    parts: tuple[Part, ...]
    """DICOM series of the scan: several if each contains some of the echoes."""
    sequence: Sequence = field(repr=False)
    """Properties that identify its sequence."""
    scan_order: tuple[str, str, float, float] = field(repr=False)
    """Sort key of repeated scans, later scans last: study date, time, series number and acquisition
    number."""
    synthetic: bool = field(default=False, repr=False)
    """Whether the headers state that the images are synthetic."""
    parameters: Mapping[str, float] = field(default_factory=dict, repr=False)
    """Parameters of the acquisition that the group stores; NaN if the header states none."""

    @property
    def uid(self) -> str:
        """SeriesInstanceUID of the first part."""
        return self.parts[0].uid

    @property
    def where(self) -> str:
        """Folder or tar of the first part, relative to the source."""
        return self.parts[0].where

    def read(self) -> Volume:
        """Read the pixels; see `read_series`."""
        return read_series(self)


def read_series(series: Series) -> Volume:
    """Read the pixels and the geometry of one scan of an inventory.

    Returns
    -------
    Volume
        Image (slice, row, column) for ``dess``; other series have an axis of images before it.

    Raises
    ------
    InputError
        If a file is truncated, if its pixels cannot be decoded, or if files have changed since the
        inventory. The error has a `Reason`.
    """
    volumes = [_read_part(part) for part in series.parts]
    volume = volumes[0] if len(volumes) == 1 else _join(volumes, series.where)
    if not GROUPS[series.group].has_several_images and len(volume.image) == 1:
        volume = replace(volume, image=volume.image[0])
    if volume.image.shape != series.shape:
        raise _changed(f"the series, with shape {format_shape(volume.image.shape)}", series)
    return volume


def _read_part(part: Part) -> Volume:
    # Missing files were detected by the inventory.
    volume = read_volume(part.files, part.where, whole=False)
    if volume.uid != part.uid:
        raise _changed("another series", part)
    return volume if part.time is None else replace(volume, echo_time=np.array([part.time]))


def _changed(found: str, series: Series | Part) -> InputError:
    shape = f", with shape {format_shape(series.shape)}" if isinstance(series, Series) else ""
    return InputError(
        found,
        expected=f"the series of the inventory{shape}",
        where=series.where,
        todo="The files have changed: repeat the inventory.",
        reason=Reason.UNREADABLE_FILE,
    )


def _join(volumes: list[Volume], where: str) -> Volume:
    """Join the echoes of several series on one grid, in the order of their times."""
    first = volumes[0]
    for other in volumes[1:]:
        same = other.image.shape[1:] == first.image.shape[1:]
        extent = first.image.shape[1:]
        if not same or corner_distance(extent, other.affine, first.affine) > GRID_TOLERANCE_MM:
            raise InputError(
                "series of one scan on different grids",
                expected="the grids of the inventory",
                where=where,
                todo="The files have changed: repeat the inventory.",
                reason=Reason.UNREADABLE_FILE,
            )
    times = np.concatenate([volume.echo_time for volume in volumes])
    place = np.argsort(np.argsort(times))  # position of each echo in the joined image
    image = np.empty((len(times), *first.image.shape[1:]), np.float32)
    start = 0
    for volume in volumes:
        image[place[start : start + len(volume.image)]] = volume.image
        start += len(volume.image)
    digest = hashlib.sha256("".join(volume.digest for volume in volumes).encode())
    return Volume(image, first.affine, np.sort(times), first.uid, digest.hexdigest())
