"""One scan in image files other than DICOM, and its values."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qmri_lake.core.geometry import GRID_TOLERANCE_MM, corner_distance
from qmri_lake.core.text import format_shape
from qmri_lake.errors import InputError, Reason, printable
from qmri_lake.image_files.formats import value_files
from qmri_lake.image_files.lake_axes import read_lake_image
from qmri_lake.masks.content import Form
from qmri_lake.oai.dicom import Volume
from qmri_lake.oai.sequence import Sequence as ImagingSequence
from qmri_lake.schema.groups import GROUPS, VOLUME_DIMS

__all__ = ["ImagePart", "ImageSeries", "file_uid"]

_EDGE = 2**16
"""Number of bytes at the start and at the end of a file that identify it."""


@dataclass(frozen=True, slots=True)
class ImagePart:
    """A file with one or several images of a scan."""

    path: str
    """Absolute path."""
    where: str
    """Path relative to the source."""
    places: tuple[int, ...]
    """Index of each image of the file in the scan."""


@dataclass(frozen=True, slots=True)
class ImageSeries:
    """One usable scan, described without reading its values; see `DeliveredSeries`."""

    group: str
    patient: int
    timepoint: int
    knee: str
    exam: str
    shape: tuple[int, ...]
    parts: tuple[ImagePart, ...]
    sequence: ImagingSequence = field(repr=False)
    uid: str
    """Stand-in of a SeriesInstanceUID; see `file_uid`."""
    form: Form | None = None
    synthetic: bool = False
    scan_order: tuple[str, str, float, float] = ("", "", -1.0, -1.0)
    parameters: Mapping[str, float] = field(default_factory=dict, repr=False)
    """Parameters of the acquisition that the group stores; NaN if no sidecar states them."""

    @property
    def where(self) -> str:
        """First file, relative to the source."""
        return self.parts[0].where

    def read(self) -> Volume:
        """Read the values of all files.

        Raises
        ------
        InputError
            If a file is damaged, has voxels without a value, or has changed since the inventory.
        """
        times = self.sequence.echo_times
        volume = self.shape[-len(VOLUME_DIMS) :]
        image = np.empty((sum(len(part.places) for part in self.parts), *volume), np.float32)
        affine = None
        for part in self.parts:
            try:
                values, found = read_lake_image(part.path, self.form)
            except InputError as error:
                raise _relocated(error, part) from None
            affine = found if affine is None else affine
            is_same = values.shape == (len(part.places), *volume)
            if not is_same or corner_distance(volume, found, affine) > GRID_TOLERANCE_MM:
                raise InputError(
                    f"images of {format_shape(values.shape)}",
                    expected=f"{format_shape((len(part.places), *volume))}, as in the inventory",
                    where=part.where,
                    todo="The files have changed: repeat the ingest.",
                    reason=Reason.UNREADABLE_FILE,
                )
            image[list(part.places)] = values
        assert affine is not None  # a series has a file
        if not GROUPS[self.group].has_several_images:
            image = image[0]
        echo_time = np.array(times, np.float64)
        digest = hashlib.sha256(image.data)
        digest.update(np.ascontiguousarray(affine).data)
        digest.update(echo_time.data)
        return Volume(image, affine, echo_time, self.uid, digest.hexdigest())


def file_uid(paths: Sequence[str]) -> str:
    """Return a UID for files that have none: the same files give the same UID, under any names.

    It is computed from the SHA-256 of the sizes of the files, and of their first and last 64 KiB.
    The end of a compressed file contains a checksum of the whole content. The UID is valid in
    DICOM: ``2.25.`` and the number of a UUID.
    """
    parts = []
    for path in (file for given in paths for file in value_files(given)):
        digest = hashlib.sha256(str(os.path.getsize(path)).encode())
        with open(path, "rb") as stream:
            digest.update(stream.read(_EDGE))
            stream.seek(max(os.path.getsize(path) - _EDGE, 0))
            digest.update(stream.read(_EDGE))
        parts.append(digest.hexdigest())
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, ' '.join(parts)).int}"


def _relocated(error: InputError, part: ImagePart) -> InputError:
    """Return an error with the path relative to the source."""
    return InputError(
        error.found,
        expected=error.expected,
        where=error.where.replace(printable(part.path), part.where),
        todo=error.todo,
        reason=error.reason,
    )
