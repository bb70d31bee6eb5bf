"""The header of one DICOM file: the few elements that order, place and name a series."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import BinaryIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

from qmri_lake.errors import InputError, Reason

__all__ = ["Header", "is_dicom", "read_header"]

_TAGS: dict[str, BaseTag] = {
    "sop_class": Tag(0x0008, 0x0016),
    "sop_uid": Tag(0x0008, 0x0018),
    "image_type": Tag(0x0008, 0x0008),
    "study_date": Tag(0x0008, 0x0020),
    "series_time": Tag(0x0008, 0x0031),
    "acquisition_time": Tag(0x0008, 0x0032),
    "study_description": Tag(0x0008, 0x1030),
    "series_description": Tag(0x0008, 0x103E),
    "patient_id": Tag(0x0010, 0x0020),
    "visit": Tag(0x0012, 0x0050),
    "echo_time": Tag(0x0018, 0x0081),
    "spacing_between_slices": Tag(0x0018, 0x0088),
    "slice_thickness": Tag(0x0018, 0x0050),
    "uid": Tag(0x0020, 0x000E),
    "series_number": Tag(0x0020, 0x0011),
    "acquisition_number": Tag(0x0020, 0x0012),
    "position": Tag(0x0020, 0x0032),
    "orientation": Tag(0x0020, 0x0037),
    "laterality": Tag(0x0020, 0x0060),
    "image_laterality": Tag(0x0020, 0x0062),
    "samples": Tag(0x0028, 0x0002),
    "frames": Tag(0x0028, 0x0008),
    "rows": Tag(0x0028, 0x0010),
    "columns": Tag(0x0028, 0x0011),
    "pixel_spacing": Tag(0x0028, 0x0030),
    "bits": Tag(0x0028, 0x0100),
    "bits_stored": Tag(0x0028, 0x0101),
    "signed": Tag(0x0028, 0x0103),
    "intercept": Tag(0x0028, 0x1052),
    "slope": Tag(0x0028, 0x1053),
}
_WANTED = list(_TAGS.values())
_PIXEL_DATA = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
_UNDEFINED = 0xFFFFFFFF
_NATIVE = {
    "1.2.840.10008.1.2": "<",
    "1.2.840.10008.1.2.1": "<",
    "1.2.840.10008.1.2.2": ">",
}
"""Byte order of the transfer syntaxes whose pixels are plain numbers."""
_LARGEST_RESCALING = 1e28
"""Times any 32-bit pixel it is still a float32."""
_DEFLATED = "1.2.840.10008.1.2.1.99"


@dataclass(frozen=True, slots=True)
class Header:
    """What one DICOM file says of itself; no name or birth date is ever read.

    Lengths are in mm, echo times in ms; an absent number is NaN, an absent text is empty.
    """

    name: str
    """File it was read from."""
    uid: str
    sop_uid: str
    image_type: str
    study_date: str
    scan_order: tuple[str, str, float, float]
    """Study date, time, series and acquisition number: later scans sort last."""
    study_description: str
    series_description: str
    patient_id: str
    visit: str
    laterality: tuple[str, str]
    echo_time: float
    spacing_between_slices: float
    slice_thickness: float
    position: tuple[float, ...]
    """Centre of the first voxel, LPS [mm]."""
    orientation: tuple[float, ...]
    """Direction of increasing column index, then of increasing row index."""
    pixel_spacing: tuple[float, ...]
    """Between rows, between columns [mm]."""
    rows: int
    columns: int
    slope: float
    intercept: float
    bits_stored: int
    """Bits of a pixel that count: those above may hold anything."""
    dtype: str
    """NumPy type of native pixels; empty where they need decoding."""
    pixel_offset: int
    """Of the first pixel byte in the file, for native pixels."""
    fault: InputError | None
    """Why the pixels can't be used although the header can be read: cut off, no valid slope ..."""


def is_dicom(start: bytes) -> bool:
    """Return whether a file that starts so (132 bytes or more) can be DICOM."""
    return start[128:132] == b"DICM" or start[:4] in (
        b"\x08\x00\x05\x00",  # without a preamble, as old exports are
        b"\x08\x00\x08\x00",
        b"\x08\x00\x00\x00",
        b"\x02\x00\x00\x00",
    )


def read_header(stream: BinaryIO, name: str, size: int) -> Header | None:
    """Read the header of one DICOM file, and check that its pixels are all there.

    Parameters
    ----------
    stream : binary file
        At its start.
    name : str
        For messages.
    size : int
        Of the file, in bytes.

    Returns
    -------
    Header or None
        None for DICOM that holds no image (a directory, a report).

    Raises
    ------
    InputError
        ``truncated_file`` if the file ends within its header.
    """
    try:
        dataset = pydicom.dcmread(
            stream, stop_before_pixels=True, specific_tags=_WANTED, force=True
        )
        values = {key: _text(dataset, tag) for key, tag in _TAGS.items()}
        syntax = str(dataset.file_meta.get("TransferSyntaxUID", "1.2.840.10008.1.2"))
        stored_class = str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))
    except Exception as error:  # a cut or damaged file makes pydicom raise anything
        raise _truncated(name, f"a header that ends or breaks ({type(error).__name__})") from None
    # A class that isn't known may be the cut-off name of one that is.
    sop_class = UID(stored_class or values["sop_class"])
    if sop_class.name != sop_class and "Image Storage" not in sop_class.name:
        return None
    offset, dtype, fault = -1, "", None
    slope, intercept = 1.0, 0.0
    try:
        _check_frames(_number(values["frames"]), name)
        slope = _rescaling("RescaleSlope", values["slope"], 1.0, name)
        intercept = _rescaling("RescaleIntercept", values["intercept"], 0.0, name)
        offset, dtype = _locate_pixels(stream, name, size, values, syntax)
    except InputError as error:
        if not values["uid"]:
            raise
        fault = error
    time = values["series_time"] or values["acquisition_time"]
    return Header(
        name=name,
        uid=values["uid"],
        sop_uid=values["sop_uid"],
        image_type=values["image_type"].upper(),
        study_date=values["study_date"],
        scan_order=(
            values["study_date"],
            time,
            _number(values["series_number"], -1.0),
            _number(values["acquisition_number"], -1.0),
        ),
        study_description=values["study_description"],
        series_description=values["series_description"],
        patient_id=values["patient_id"],
        visit=values["visit"],
        laterality=(values["laterality"], values["image_laterality"]),
        echo_time=_number(values["echo_time"]),
        spacing_between_slices=_number(values["spacing_between_slices"]),
        slice_thickness=_number(values["slice_thickness"]),
        position=_numbers(values["position"], 3),
        orientation=_numbers(values["orientation"], 6),
        pixel_spacing=_numbers(values["pixel_spacing"], 2),
        rows=int(_number(values["rows"], 0.0)),
        columns=int(_number(values["columns"], 0.0)),
        slope=slope,
        intercept=intercept,
        bits_stored=int(_number(values["bits_stored"], 0.0)),
        dtype=dtype,
        pixel_offset=offset,
        fault=fault,
    )


def _check_frames(frames: float, name: str) -> None:
    if frames > 1:
        raise InputError(
            f"{frames:.0f} frames in one file",
            expected="one slice a file",
            where=name,
            todo="Convert enhanced (multi-frame) DICOM to classic files first.",
            reason=Reason.UNREADABLE_FILE,
        )


def _rescaling(element: str, text: str, absent: float, name: str) -> float:
    """Return a slope or an intercept; one that can't be read would scale the image silently."""
    if not text:
        return absent
    value = _number(text)
    if not abs(value) <= _LARGEST_RESCALING or (value == 0 and absent == 1):
        raise InputError(
            f"{element} {text[:40]!r}",
            expected="one finite number" + (" other than 0" if absent == 1 else ""),
            where=name,
            todo="Correct the header, or export the series again.",
            reason=Reason.UNREADABLE_VALUE,
        )
    return value


def _locate_pixels(
    stream: BinaryIO, name: str, size: int, values: dict[str, str], syntax: str
) -> tuple[int, str]:
    """Return where native pixels start, and their type; (-1, "") for encapsulated ones."""
    if syntax == _DEFLATED:
        return -1, ""  # the whole data set was inflated elsewhere: offsets mean nothing
    start = stream.tell()
    head = stream.read(12)
    if head[:4] not in _PIXEL_DATA:
        raise _truncated(name, "no pixel data")
    order = _NATIVE.get(syntax, "<")
    byteorder = "big" if order == ">" else "little"
    explicit = head[4:6] in (b"OW", b"OB")
    length = int.from_bytes(head[8:12] if explicit else head[4:8], byteorder)  # type: ignore[arg-type]
    if length == _UNDEFINED or syntax not in _NATIVE:
        return -1, ""
    first = start + (12 if explicit else 8)
    bits, samples = int(_number(values["bits"], 0.0)), int(_number(values["samples"], 1.0))
    needed = (
        int(_number(values["rows"], 0.0))
        * int(_number(values["columns"], 0.0))
        * max(int(_number(values["frames"], 1.0)), 1)
        * samples
        * bits
        // 8
    )
    present = min(size - first, length)
    if present < needed:
        raise _truncated(name, f"{max(present, 0)} of {needed} bytes of pixels")
    if samples != 1 or bits not in (8, 16, 32):
        return -1, ""
    kind = "i" if _number(values["signed"], 0.0) == 1 else "u"
    return first, f"{order}{kind}{bits // 8}"


def _truncated(name: str, found: str) -> InputError:
    return InputError(
        found,
        expected="a whole DICOM image",
        where=name,
        todo="Copy or download the file again.",
        reason=Reason.TRUNCATED_FILE,
    )


def _text(dataset: Dataset, tag: BaseTag) -> str:
    """Return the value as it is written: no conversion that could fail or warn."""
    if tag not in dataset:
        return ""
    element = dataset.get_item(tag)
    value = element.value if element is not None else None
    if value is None:
        return ""
    if isinstance(value, bytes):
        if element.VR == "US" or tag in _BINARY:
            little = getattr(element, "is_little_endian", True)
            return str(int.from_bytes(value[:2], "little" if little else "big")) if value else ""
        return value.decode("latin-1").strip("\0 \t\r\n")
    if isinstance(value, str):
        return value.strip("\0 ")
    return "\\".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


_BINARY = {_TAGS[key] for key in ("samples", "rows", "columns", "bits", "bits_stored", "signed")}


def _number(text: str, absent: float = math.nan) -> float:
    """Return one finite number; whatever else is written counts as absent."""
    try:
        value = float(text)
    except ValueError:
        return absent
    return value if math.isfinite(value) else absent


def _numbers(text: str, count: int) -> tuple[float, ...]:
    """Return ``count`` finite numbers, or an empty tuple."""
    numbers = tuple(_number(part) for part in text.split("\\"))
    return numbers if len(numbers) == count and not any(map(math.isnan, numbers)) else ()
