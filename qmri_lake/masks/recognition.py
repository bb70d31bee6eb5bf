"""Formats of mask files, recognised by their first bytes and not by their names."""

from __future__ import annotations

import os
import re
import zlib
from enum import StrEnum
from pathlib import Path

from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.whole_files import GZIP, check_gzip

__all__ = ["SUFFIXES", "MaskFormat", "find_mask_files", "recognise", "suffix_of"]


class MaskFormat(StrEnum):
    """Formats that can be read."""

    NIFTI = "NIfTI"
    NRRD = "NRRD"
    NPZ = ".npz"
    MAT = "MATLAB"
    HDF5 = "HDF5"
    META_IMAGE = "MetaImage"
    DICOM_SEG = "DICOM SEG"

    @property
    def has_position(self) -> bool:
        """Whether a file of this format stores its position."""
        return self not in (MaskFormat.MAT, MaskFormat.HDF5)


SUFFIXES = (
    ".nii.gz",
    ".nii",
    ".nrrd",
    ".nhdr",
    ".mha",
    ".mhd",
    ".npz",
    ".mat",
    ".seg",
    ".h5",
    ".hdf5",
)
"""Usual suffixes of mask files. A DICOM file is a mask if its header states it."""

_FIRST = 2048
"""Number of bytes that are read. HDF5 may begin at byte 512, 1024 or 2048."""

_HDF5 = b"\x89HDF\r\n\x1a\n"

_RENAMED = re.compile(
    r"(\.nii|\.nrrd|\.nhdr|\.mha|\.mhd|\.npz|\.mat|\.seg|\.h5|\.hdf5)(\.gz)?[ ._(~-]",
    re.IGNORECASE,
)
"""A usual suffix that is followed by something else, as in ``a.nii (1).gz`` or ``a.npz.1``."""

_UNFINISHED = re.compile(r"\.(part|partial|crdownload|download|filepart|tmp)$", re.IGNORECASE)
"""Suffix of a download that was not finished."""

_SEGMENTATION = re.compile(
    rb"\x02\0\x02\0UI..1\.2\.840\.10008\.5\.1\.4\.1\.1\.66\.[47](?![0-9.])", re.DOTALL
)
"""Media Storage SOP Class UID of a Segmentation or a Label Map Segmentation, in the header."""

_SELF_CONTAINED = (
    MaskFormat.NIFTI,
    MaskFormat.NRRD,
    MaskFormat.META_IMAGE,
    MaskFormat.DICOM_SEG,
)
"""Formats of images, which are masks whatever their names are; HDF5 and zip have other uses."""

_OTHERS = (
    (b"<", "a web page or XML"),
    (b"{", "JSON"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"\xfd7zXZ", "xz-compressed"),
    (b"\x28\xb5\x2f\xfd", "Zstandard-compressed"),
    (b"BZh", "bzip2-compressed"),
    (b"\x89PNG", "a PNG image"),
    (b"\x93NUMPY", "an .npy array"),
)
"""First bytes of files that are mistaken for masks."""


def suffix_of(name: str | os.PathLike[str]) -> str:
    """Return the usual suffix at the end of a name, such as ``.nii.gz``; "" if there is none."""
    lower = os.fspath(name).lower()
    return next((suffix for suffix in SUFFIXES if lower.endswith(suffix)), "")


def recognise(path: str | os.PathLike[str]) -> MaskFormat:
    """Return the format of a file by its first bytes, also inside gzip.

    Raises
    ------
    InputError
        If there is no such file, or its content is of another format (``unreadable_file``), or it
        is compressed data that is damaged (``checksum_mismatch``, ``truncated_file`` ...).
    """
    where = os.fspath(path)
    try:
        first = _first_bytes(path)
    except OSError as error:
        absent = isinstance(error, FileNotFoundError)
        raise InputError(
            "no such file" if absent else f"unreadable file: {error.strerror}",
            expected=f"a file with suffix {', '.join(SUFFIXES)}",
            where=where,
            todo="Check the path." if absent else "Check the permissions.",
            reason=Reason.UNREADABLE_FILE,
        ) from error
    if (found := _format_of(first)) is not None:
        return found
    if first.startswith(GZIP):
        check_gzip(where)
    known = suffix_of(path)
    raise InputError(
        "unknown file format" + (f": {what}" if (what := _describe(first)) else ""),
        expected=f"the content of a {known} file" if known else f"one of {', '.join(SUFFIXES)}",
        where=where,
        todo="Copy or download it again."
        if known or not first.strip(b"\0")
        else "Convert it to NIfTI, with its affine.",
        reason=Reason.UNREADABLE_FILE,
    )


def _is_mask_file(path: Path) -> bool:
    """Return whether a file in a folder is meant as a mask, by its name or its content.

    A file with a usual suffix is one, whatever it contains: if it cannot be read, it is listed.
    Renamed files and unfinished downloads are included. Of the files with other names, only
    formats of images are, because HDF5 and zip have many other uses.
    """
    name = path.name
    if name.startswith("."):  # metadata of file systems or archives
        return False
    if suffix_of(name):
        return True
    renamed = _RENAMED.search(name) is not None
    if renamed and _UNFINISHED.search(name):
        return True
    try:
        found = _format_of(_first_bytes(path))
    except OSError:
        return False
    if found is None:
        return False
    return renamed or found in _SELF_CONTAINED


def find_mask_files(source: str | os.PathLike[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Find the mask files of a folder, or return the file that is given.

    Parameters
    ----------
    source : path
        A file, or a folder that is searched recursively.

    Returns
    -------
    files : list of (path, relative path)
    others : list of str
        Names of the other files of the folder.

    Raises
    ------
    InputError
        If there is no mask file (``unreadable_file``).
    """
    root = Path(source)
    if root.is_file():
        return [(str(root), root.name)], []
    everything = sorted(path for path in root.rglob("*") if path.is_file())
    found = [path for path in everything if _is_mask_file(path)]
    if found:
        others = sorted(path.name for path in set(everything) - set(found))
        return [(str(path), str(path.relative_to(root))) for path in found], others
    raise InputError(
        f"no mask among {counted(len(everything), 'file')}" if root.is_dir() else "no such file",
        expected="a mask file, or a folder of mask files",
        where=os.fspath(source),
        todo="Give NIfTI, NRRD, MetaImage, DICOM SEG, .npz, .mat or HDF5 files.",
        reason=Reason.UNREADABLE_FILE,
    )


def _first_bytes(path: str | os.PathLike[str]) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(_FIRST + len(_HDF5))


def _format_of(first: bytes) -> MaskFormat | None:
    if first.startswith(GZIP):
        inner = _format_of(_first_unpacked(first))
        return inner if inner in (MaskFormat.NIFTI, MaskFormat.NRRD) else None
    if first.startswith(b"MATLAB 7.3"):  # HDF5 after a block of text
        return MaskFormat.MAT
    if any(first[at:].startswith(_HDF5) for at in (0, 512, 1024, 2048)):
        return MaskFormat.HDF5
    if first.startswith(b"NRRD"):
        return MaskFormat.NRRD
    if re.match(rb"(ObjectType|NDims)\s*=", first):
        return MaskFormat.META_IMAGE
    if first[128:132] == b"DICM":
        return MaskFormat.DICOM_SEG if _SEGMENTATION.search(first) else None
    if first.startswith(b"PK\3\4"):
        return MaskFormat.NPZ
    sizes = {int.from_bytes(first[:4], order) for order in ("little", "big")}
    magic = first[344:347] if 348 in sizes else first[4:7] if 540 in sizes else b""
    if magic in (b"n+1", b"ni1", b"n+2", b"ni2"):
        return MaskFormat.NIFTI
    return MaskFormat.MAT if first[126:128] in (b"IM", b"MI") else None


def _first_unpacked(first: bytes) -> bytes:
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(first, _FIRST)
    except zlib.error:
        return b""


def _describe(first: bytes) -> str:
    """Return what a file is that is not a mask; "" if unknown."""
    if not first:
        return "the file is empty"
    if not first.strip(b"\0"):
        return "zeros"
    if first.startswith(GZIP):
        return "compressed data that is neither NIfTI nor NRRD"
    if first[128:132] == b"DICM":
        return "DICOM"
    return next((words for start, words in _OTHERS if first.lstrip().startswith(start)), "")
