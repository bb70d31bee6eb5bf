"""Write DICOM files like those of the OAI: no suffix, group lengths, echoes numbered from 0.

Groups with the same values in all files of a series are encoded once. pydicom writes a group length
only for group 2, so each group is encoded separately and its length is prepended.
"""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

from qmri_lake.core.geometry import voxel_spacing

__all__ = ["Series", "encode", "uid", "write_series"]

_MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
_WRITER = "1.2.826.0.1.3680043.8.498.9"


@dataclass(frozen=True, slots=True)
class Series:
    """Header values and voxels of one series.

    Attributes
    ----------
    values : dict
        Value by DICOM keyword, the same in every file.
    image : (echo, slice, row, column) int16
        Stored values.
    affine : (4, 4) float64
        Voxel (slice, row, column) to LPS mm.
    echo_times : tuple of float
        Echo times, ms.
    identity : str
        Text from which the UIDs are derived.
    descending : bool
        Whether instance numbers decrease along the slice axis, as for left knees.
    """

    values: dict[str, Any]
    image: NDArray[np.int16]
    affine: NDArray[np.float64]
    echo_times: tuple[float, ...]
    identity: str
    descending: bool = False


def uid(text: str) -> str:
    """Return a DICOM UID that is determined by a text."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, 'qmri_lake phantom ' + text).int}"


def _decimal(value: float) -> str:
    """Return a decimal string of at most 16 characters."""
    text = repr(round(float(value), 10))
    if len(text) > 16:
        text = f"{value:.10f}"[:16]
    return "0.0" if text == "-0.0" else text


def _group(values: dict[str, Any], *, with_length: bool = True) -> bytes:
    """Encode the elements of one group, preceded by the length of the group."""
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, dataset)
    body: bytes = stream.getvalue()
    if not with_length or not body:
        return body
    return body[:2] + b"\x00\x00UL" + struct.pack("<HI", 4, len(body)) + body


def encode(series: Series) -> list[bytes]:
    """Return the files of a series, in the order of their instance numbers."""
    echoes, slices, rows, columns = series.image.shape
    spacing = voxel_spacing(series.affine)
    down = series.affine[:3, 1] / spacing[1]
    along = series.affine[:3, 2] / spacing[2]
    normal = np.cross(along, down)
    series_uid = uid(series.identity)
    shared: dict[int, dict[str, Any]] = {}
    common = {
        **series.values,
        "SeriesInstanceUID": series_uid,
        "FrameOfReferenceUID": uid(series.identity + " frame"),
        "ImageOrientationPatient": [_decimal(v) for v in (*along, *down)],
        "PixelSpacing": [_decimal(spacing[1]), _decimal(spacing[2])],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": rows,
        "Columns": columns,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
    }
    for keyword, value in common.items():
        shared.setdefault(Tag(keyword).group, {})[keyword] = value
    ready = {
        group: _group(values)
        for group, values in shared.items()
        if group not in (0x0008, 0x0018, 0x0020)
    }
    # Explicit VR little endian: OW, two reserved bytes, and four bytes for the length.
    size = rows * columns * 2
    pixel_head = struct.pack("<HH2sHI", 0x7FE0, 0, b"UL", 4, size + 12) + struct.pack(
        "<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, size
    )
    pixels = np.ascontiguousarray(series.image, "<i2")
    files = []
    for echo in range(echoes):
        timing = _group(
            {
                **shared.get(0x0018, {}),
                "EchoTime": _decimal(series.echo_times[echo]),
                "EchoNumbers": echo,
            }
        )
        for k in range(slices):
            # `k` is the index in the order of the scanner, and `index` is the index in the array.
            index = slices - 1 - k if series.descending else k
            instance = echo * slices + k + 1
            sop = f"{series_uid}.{instance}"
            position = series.affine[:3, 3] + index * series.affine[:3, 0]
            files.append(
                b"".join(
                    (
                        _preamble(sop),
                        _group({**shared[0x0008], "SOPInstanceUID": sop}),
                        ready.get(0x0010, b""),
                        ready.get(0x0012, b""),
                        timing,
                        _group(
                            {
                                **shared[0x0020],
                                "InstanceNumber": instance,
                                "ImagePositionPatient": [_decimal(v) for v in position],
                                "SliceLocation": _decimal(float(position @ normal)),
                            }
                        ),
                        ready.get(0x0028, b""),
                        pixel_head,
                        pixels[echo, index].tobytes(),
                    )
                )
            )
    return files


def _preamble(sop: str) -> bytes:
    meta = _group(
        {
            "FileMetaInformationVersion": b"\x00\x01",
            "MediaStorageSOPClassUID": _MR_IMAGE_STORAGE,
            "MediaStorageSOPInstanceUID": sop,
            "TransferSyntaxUID": ExplicitVRLittleEndian,
            "ImplementationClassUID": _WRITER,
            "ImplementationVersionName": "QMRI_LAKE",
        }
    )
    return b"\0" * 128 + b"DICM" + meta


def write_series(folder: Path, series: Series, *, compress: bool = False) -> Path:
    """Write a series into `folder` (files 001, 002 ...), or as ``<folder>.tar.gz``.

    Return the path of the folder or file. The same series gives the same bytes.
    """
    files = encode(series)
    if not compress:
        folder.mkdir(parents=True, exist_ok=True)
        for number, content in enumerate(files, 1):
            (folder / f"{number:03d}").write_bytes(content)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    target = folder.with_name(folder.name + ".tar.gz")
    buffer = io.BytesIO()
    with (
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=buffer, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for number, content in enumerate(files, 1):
            member = tarfile.TarInfo(f"{folder.name}/{number:03d}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    target.write_bytes(buffer.getvalue())
    return target
