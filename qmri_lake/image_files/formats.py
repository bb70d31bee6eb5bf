"""Formats of image files, recognised by their first bytes, and their readers."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from qmri_lake.errors import InputError, Reason
from qmri_lake.image_files.content import FileGeometry, FileImage, as_images, split_shape
from qmri_lake.image_files.meta_image import read_meta_geometry, read_meta_image
from qmri_lake.image_files.nrrd_image import read_nrrd_geometry, read_nrrd_image
from qmri_lake.image_files.par_rec import read_par_geometry, read_par_image, rec_file
from qmri_lake.masks.content import Form
from qmri_lake.masks.nifti import read_nifti, read_nifti_geometry
from qmri_lake.masks.whole_files import GZIP

__all__ = [
    "IMAGE_SUFFIXES",
    "ImageFormat",
    "image_stem",
    "is_image_name",
    "read_geometry",
    "read_values",
    "recognise_image",
    "value_files",
]

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".par")
"""Usual suffixes of image files other than DICOM."""

_FIRST = 2048
_LONGEST_HEADER = 2**16
_DATA_FILE = re.compile(rb"^(?:ElementDataFile\s*=|data ?file:)([^\r\n]+)", re.MULTILINE)
"""The name of the file of values, in headers of MetaImage and NRRD."""
_META_IMAGE = re.compile(rb"\s*(ObjectType|NDims)\s*=")


class ImageFormat(StrEnum):
    """Formats that can be read."""

    NIFTI = "NIfTI"
    NRRD = "NRRD"
    META_IMAGE = "MetaImage"
    PAR_REC = "PAR/REC"


def is_image_name(name: str) -> bool:
    """Return whether a file name has a usual suffix of an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def image_stem(name: str) -> str:
    """Return a path without the suffix of an image.

    >>> image_stem("sub-1/a.nii.gz")
    'sub-1/a'
    """
    suffix = next((end for end in IMAGE_SUFFIXES if name.lower().endswith(end)), "")
    return name[: len(name) - len(suffix)]


def recognise_image(path: str) -> ImageFormat:
    """Return the format of a file by its first bytes, also inside gzip.

    Raises
    ------
    InputError
        If there is no such file, or if it has another format (``unreadable_file``).
    """
    try:
        with open(path, "rb") as stream:
            first = stream.read(_FIRST)
    except OSError as error:
        raise _unknown(f"unreadable file: {error.strerror}", path) from error
    if first.startswith(GZIP):
        try:
            first = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(first, _FIRST)
        except zlib.error:
            raise _unknown("damaged compressed data", path) from None
    if first.startswith(b"NRRD"):
        return ImageFormat.NRRD
    if _META_IMAGE.match(first):
        return ImageFormat.META_IMAGE
    if b"DATA DESCRIPTION FILE" in first[:400]:
        return ImageFormat.PAR_REC
    sizes = {int.from_bytes(first[:4], order) for order in ("little", "big")}
    magic = first[344:347] if 348 in sizes else first[4:7] if 540 in sizes else b""
    if magic in (b"n+1", b"ni1", b"n+2", b"ni2"):
        return ImageFormat.NIFTI
    found = "DICOM" if first[128:132] == b"DICM" else "an empty file" if not first else ""
    raise _unknown(f"unknown file format{f': {found}' if found else ''}", path)


def value_files(path: str) -> list[str]:
    """Return a file, and the file of its values if they are beside it."""
    with open(path, "rb") as stream:
        first = stream.read(_LONGEST_HEADER)
    found = _DATA_FILE.search(first)
    name = found[1].decode("latin-1").strip() if found else ""
    if path.lower().endswith(".par"):
        name = Path(rec_file(path)).name
    beside = Path(path).parent / name
    return [path, str(beside)] if name and beside.is_file() else [path]


def read_geometry(path: str | os.PathLike[str], form: Form | None = None) -> FileGeometry:
    """Read the header of an image file, without its values.

    Parameters
    ----------
    path : path
    form : {"sform", "qform"}, optional
        Affine of a NIfTI file to use if its sform and qform differ.

    Raises
    ------
    InputError
        If the file has another format or is damaged, if its position is unknown or contradictory,
        or if its voxels are not those of a knee.
    """
    where = os.fspath(path)
    return _READERS[recognise_image(where)][0](where, form)


def read_values(path: str | os.PathLike[str], form: Form | None = None) -> FileImage:
    """Read the values of an image file, scaled as the file says.

    Raises
    ------
    InputError
        As in `read_geometry`, or if the values are damaged or not real numbers.
    """
    where = os.fspath(path)
    return _READERS[recognise_image(where)][1](where, form)


def _nifti_geometry(path: str, form: Form | None) -> FileGeometry:
    shape, affine = read_nifti_geometry(path, form)
    images, volume = split_shape(shape, path)
    return FileGeometry(images, volume, affine)


def _nifti_image(path: str, form: Form | None) -> FileImage:
    content = read_nifti(path, None, form)
    assert content.affine is not None  # read_nifti raises otherwise
    return FileImage(as_images(content.labels, path), content.affine)


_Readers = tuple[
    Callable[[str, Form | None], FileGeometry], Callable[[str, Form | None], FileImage]
]
_READERS: dict[ImageFormat, _Readers] = {
    ImageFormat.NIFTI: (_nifti_geometry, _nifti_image),
    ImageFormat.NRRD: (lambda path, _: read_nrrd_geometry(path), lambda p, _: read_nrrd_image(p)),
    ImageFormat.META_IMAGE: (
        lambda path, _: read_meta_geometry(path),
        lambda path, _: read_meta_image(path),
    ),
    ImageFormat.PAR_REC: (lambda path, _: read_par_geometry(path), lambda p, _: read_par_image(p)),
}
"""Readers of the header and of the values."""


def _unknown(found: str, path: str) -> InputError:
    return InputError(
        found,
        expected=f"an image: {', '.join(IMAGE_SUFFIXES)}",
        where=path,
        todo="Copy or download it again, or convert it to NIfTI with its affine.",
        reason=Reason.UNREADABLE_FILE,
    )
