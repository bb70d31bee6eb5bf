"""Recognition of archives and compressed files by their first bytes, under any name."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO, cast

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.header import is_dicom

__all__ = [
    "LARGEST_FILE",
    "READ_ERRORS",
    "START",
    "Content",
    "Packing",
    "archive_stem",
    "cause",
    "compression_of",
    "damaged",
    "decompress",
    "recognise",
]

LARGEST_FILE = 1 << 30
"""Largest file in an archive that is read, in bytes. A DESS in one file has 50 MB. [assumption]"""
START = 512
"""Number of bytes that identify a file: a tar header, which is longer than a DICOM prefix."""
_LARGEST_DICTIONARY = 1 << 28
"""Memory of an xz decompressor in bytes; ``xz -9`` needs a quarter of it."""

READ_ERRORS = (
    EOFError,
    OSError,
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    # Readers of archives raise these for damaged numbers or names, and unknown compressions.
    LookupError,
    OverflowError,
    RuntimeError,
    ValueError,
    struct.error,
)
"""Errors of a truncated or damaged file or archive."""


class Packing(StrEnum):
    """How files are stored: in a folder, or in an archive of this kind."""

    FOLDER = "folder"
    TAR = "tar"
    GZIP = "gzip"
    """A tar, or a single file, compressed with gzip."""
    BZIP2 = "bzip2"
    XZ = "xz"
    ZIP = "zip"


_COMPRESSED = {b"\x1f\x8b": Packing.GZIP, b"BZh": Packing.BZIP2, b"\xfd7zXZ\0": Packing.XZ}
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_UNSUPPORTED = {
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x1f\x9d": "compress",
    b"MSCF": "cab",
}
_KINDS = r"tar|tgz|tbz2?|txz|zip|gz|bz2|xz|part|partial|download|crdownload"
_STEM = re.compile(rf"(?: ?\(\d+\))?(?:\.(?:{_KINDS})(?: ?\(\d+\)|[_-]\d+|\.\d)?)+$", re.IGNORECASE)
"""Endings of archives and downloads: ``.tar.gz``, ``.tar (1).gz``, ``.gz_1``, ``.part``."""
_NAMED_ARCHIVE = re.compile(
    r"\.(tar|tgz|tbz2?|txz|zip|gz|bz2|xz|7z|rar|zst)(?![a-z0-9]).{0,20}$", re.IGNORECASE
)
_NAMED_TAR = re.compile(r"\.(tar|tgz|tbz2?|txz)(?![a-z0-9]).{0,20}$", re.IGNORECASE)
_DOCUMENTS = tuple(".docx .jar .keras .npz .odt .ods .pptx .pt .pth .whl .xlsm .xlsx".split())
"""Documents and arrays that are stored as a zip."""


@dataclass(frozen=True, slots=True)
class Content:
    """Kind of a file according to its first bytes."""

    start: bytes
    """First 512 bytes, decompressed."""
    archive: Packing = Packing.FOLDER
    """Kind of the archive; FOLDER for a single file."""
    compression: Packing = Packing.FOLDER
    """Compression of a single file; FOLDER without one."""


def archive_stem(name: str) -> str:
    """Return a name without the endings of archives and downloads.

    >>> archive_stem("10000002.tar (1).gz"), archive_stem("9000001.gz_1"), archive_stem("001")
    ('10000002', '9000001', '001')
    """
    return _STEM.sub("", name) or name


def recognise(start: bytes, reopen: Callable[[], BinaryIO], name: str) -> Content:
    """Recognise from its first bytes whether a file is an archive.

    Parameters
    ----------
    start : bytes
        First 512 bytes.
    reopen : callable
        Returns the file at its start.
    name : str
        Path relative to the source. It identifies damaged archives, which have the name but not the
        content of an archive, and documents that are stored as a zip.

    Raises
    ------
    InputError
        If the name or the first bytes show an archive that cannot be read (reason
        ``damaged_archive``), or if the kind of the archive is not supported (``unreadable_file``).
    """
    if is_dicom(start):
        return Content(start)
    compression = compression_of(start)
    if compression is not Packing.FOLDER:
        return _recognise_compressed(reopen(), name, compression)
    if _is_tar(start):
        return Content(start, Packing.TAR)
    if start.startswith(_ZIP):
        document = name.lower().endswith(_DOCUMENTS)
        return Content(start, Packing.FOLDER if document else Packing.ZIP)
    for magic, title in _UNSUPPORTED.items():
        if start.startswith(magic):
            raise InputError(
                f"an archive of kind {title}",
                expected="tar, tar.gz, tar.bz2, tar.xz or zip",
                where=name,
                todo="Unpack it, or pack it again as .tar.gz.",
                reason=Reason.UNREADABLE_FILE,
            )
    basename = name.rpartition("/")[2]
    if _NAMED_ARCHIVE.search(basename):
        raise damaged(name, "no archive" if start else "an empty file")
    return Content(start)


def compression_of(start: bytes) -> Packing:
    """Return the compression of a file from its first bytes; FOLDER if it is not compressed."""
    if not is_dicom(start):
        for magic, kind in _COMPRESSED.items():
            if start.startswith(magic):
                return kind
    return Packing.FOLDER


def _recognise_compressed(stream: BinaryIO, name: str, kind: Packing) -> Content:
    try:
        content = decompress(stream, kind)
        start = content.read(START)
        if not (_is_tar(start) or is_dicom(start)):
            _read_to_end(content)  # damage can hide what the file is
    except READ_ERRORS as error:
        raise damaged(name, f"a damaged {kind} file: {cause(error)}") from None
    if _is_tar(start):
        return Content(start, kind)
    if _NAMED_TAR.search(name.rpartition("/")[2]):
        raise damaged(name, f"a {kind} file without a tar inside")
    return Content(start, compression=kind)


def decompress(stream: BinaryIO, kind: Packing) -> BinaryIO:
    """Return the decompressed content of a stream that is positioned at its start.

    Reading it to its end checks the checksums, and raises an error if they differ.
    """
    if kind is Packing.GZIP:
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    if kind is Packing.BZIP2:
        return cast(BinaryIO, bz2.BZ2File(stream))
    if kind is Packing.XZ:
        # A header can ask for a dictionary of 4 GiB; LZMAFile would allocate it.
        lzma.LZMADecompressor(memlimit=_LARGEST_DICTIONARY).decompress(stream.read(4096), 1)
        stream.seek(0)
        return cast(BinaryIO, lzma.LZMAFile(stream))
    return stream


def cause(error: Exception) -> str:
    """Return the class and text of an error. For an OSError, the path is omitted."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def damaged(name: str, found: str, reason: Reason = Reason.DAMAGED_ARCHIVE) -> InputError:
    """Return the error of a damaged archive, which is not used at all."""
    return InputError(
        found,
        expected="a complete archive",
        where=name,
        todo="Copy or download it again. Nothing of it was used.",
        reason=reason,
    )


def _read_to_end(content: BinaryIO) -> None:
    """Check the checksums of a compressed file, or of the first GiB of a very large one."""
    while content.tell() < LARGEST_FILE and content.read(1 << 20):
        pass


def _is_tar(start: bytes) -> bool:
    if start[257:262] == b"ustar":
        return True
    try:
        tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")
    except tarfile.TarError:  # the checksum of the header differs
        return False
    return True
