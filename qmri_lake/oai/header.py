"""Reader of DICOM headers: the elements that identify a series and define its geometry."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import BinaryIO

from pydicom import config
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai import plausible
from qmri_lake.oai.acquisition import ACQUISITION_TAGS, Acquisition, read_acquisition
from qmri_lake.oai.elements import Elements, element_text, read_elements
from qmri_lake.oai.encoding import is_dicom
from qmri_lake.oai.enhanced import (
    FACETS,
    FRAME_TAGS,
    GROUPS,
    frame_texts,
    is_enhanced,
    kept_components,
)
from qmri_lake.oai.header_values import Values, parse_number
from qmri_lake.oai.pixels import PixelFormat, explain_damage, find_pixels

__all__ = ["PHANTOM_MANUFACTURER", "Header", "is_dicom", "read_header"]

_TAGS: dict[str, BaseTag] = {
    "sop_class": Tag(0x0008, 0x0016),
    "sop_uid": Tag(0x0008, 0x0018),
    "image_type": Tag(0x0008, 0x0008),
    "synthetic_data": Tag(0x0008, 0x001C),
    "manufacturer": Tag(0x0008, 0x0070),
    "study_date": Tag(0x0008, 0x0020),
    "series_time": Tag(0x0008, 0x0031),
    "acquisition_time": Tag(0x0008, 0x0032),
    "acquisition_date_time": Tag(0x0008, 0x002A),
    "study_description": Tag(0x0008, 0x1030),
    "series_description": Tag(0x0008, 0x103E),
    "patient_id": Tag(0x0010, 0x0020),
    "visit": Tag(0x0012, 0x0050),
    "echo_time": Tag(0x0018, 0x0081),
    "spacing_between_slices": Tag(0x0018, 0x0088),
    "slice_thickness": Tag(0x0018, 0x0050),
    "echo_number": Tag(0x0018, 0x0086),
    "echo_train_length": Tag(0x0018, 0x0091),
    "uid": Tag(0x0020, 0x000E),
    "series_number": Tag(0x0020, 0x0011),
    "acquisition_number": Tag(0x0020, 0x0012),
    "instance_number": Tag(0x0020, 0x0013),
    "position": Tag(0x0020, 0x0032),
    "orientation": Tag(0x0020, 0x0037),
    "slice_location": Tag(0x0020, 0x1041),
    "laterality": Tag(0x0020, 0x0060),
    "image_laterality": Tag(0x0020, 0x0062),
    "temporal_position": Tag(0x0020, 0x0100),
    "temporal_positions": Tag(0x0020, 0x0105),
    "images_in_acquisition": Tag(0x0020, 0x1002),
    "samples": Tag(0x0028, 0x0002),
    "photometric": Tag(0x0028, 0x0004),
    "frames": Tag(0x0028, 0x0008),
    "rows": Tag(0x0028, 0x0010),
    "columns": Tag(0x0028, 0x0011),
    "pixel_spacing": Tag(0x0028, 0x0030),
    "bits": Tag(0x0028, 0x0100),
    "bits_stored": Tag(0x0028, 0x0101),
    "high_bit": Tag(0x0028, 0x0102),
    "signed": Tag(0x0028, 0x0103),
    "padding": Tag(0x0028, 0x0120),
    "padding_limit": Tag(0x0028, 0x0121),
    "intercept": Tag(0x0028, 0x1052),
    "slope": Tag(0x0028, 0x1053),
    "rescale_type": Tag(0x0028, 0x1054),
    "modality_lut": Tag(0x0028, 0x3000),
    **ACQUISITION_TAGS,
}
_KEYS = {int(tag): key for key, tag in _TAGS.items()}
_WANTED = [*_KEYS, *map(int, (*FRAME_TAGS.values(), *GROUPS))]
_UID = re.compile(r"[0-9.]{1,64}")
PHANTOM_MANUFACTURER = "qmri_lake phantom"
"""Manufacturer of all synthetic images of this package. Early versions wrote no SyntheticData."""
_LARGEST_RESCALING = 1e28
"""Largest slope or intercept, and inverse of the smallest slope. The product of an allowed slope
and any 32-bit pixel other than 0 is a finite float32, and not 0."""


@dataclass(frozen=True, slots=True)
class Header:
    """Header of one DICOM file. Names and birth dates of patients are never read.

    Lengths are in mm, echo times in ms. Absent numbers are NaN, absent strings are empty.
    """

    name: str
    """Name of the file."""
    uid: str
    sop_uid: str
    image_type: str
    study_date: str
    scan_order: tuple[str, str, float, float]
    """Sort key of repeated scans, later scans last: study date, time, series number and acquisition
    number."""
    study_description: str
    series_description: str
    patient_id: str
    visit: str
    laterality: tuple[str, str]
    echo_time: float
    slice_location: float
    """Stated position along the normal; only its order is reliable."""
    spacing_between_slices: float
    slice_thickness: float
    instance_number: float
    echo_number: float
    """EchoNumbers, if the file has one."""
    echo_train_length: float
    temporal_position: float
    """TemporalPositionIdentifier."""
    temporal_positions: float
    """NumberOfTemporalPositions."""
    images_in_acquisition: float
    position: tuple[float, ...]
    """Centre of the first voxel, LPS [mm]."""
    orientation: tuple[float, ...]
    """Unit vectors of increasing column index and of increasing row index, LPS."""
    pixel_spacing: tuple[float, ...]
    """Distance between rows and distance between columns [mm]."""
    rows: int
    columns: int
    slope: float
    intercept: float
    rescaling: tuple[bool, bool, str]
    """Whether there is a slope, whether there is an intercept, and the unit of rescaled values."""
    pixels: PixelFormat
    acquisition: Acquisition
    component: str
    """``magnitude``, ``phase`` ... of an image of an enhanced file; empty for other files."""
    facets: tuple[str, ...]
    """Values of `FACETS` and the frame type, which identify the volume of an enhanced image."""
    frames: tuple[Header, ...]
    """Headers of the images of a file of several frames; empty for other files."""
    fault: InputError | None
    """Error if the header is usable but the pixels are not, for example if they are truncated."""
    synthetic: bool = False
    """Whether the header states that the image is synthetic. No header states that it is real."""

    @property
    def images(self) -> tuple[Header, ...]:
        """Headers of all images of the file."""
        return self.frames or (self,)


def read_header(stream: BinaryIO, name: str, size: int) -> Header | None:
    """Read the header of one DICOM file, and check that its pixels are complete.

    Parameters
    ----------
    stream : binary file
        The file, positioned at its start.
    name : str
        Name of the file, for messages.
    size : int
        Size of the file in bytes.

    Returns
    -------
    Header or None
        The header, or None for DICOM without an image (a directory, a report).

    Raises
    ------
    InputError
        If the file ends within its header (reason ``truncated_file``).
    """
    try:
        elements = read_elements(stream, _WANTED)
    except Exception as error:  # pydicom raises many errors for a damaged file
        raise explain_damage(stream, name, type(error).__name__) from None
    texts = dict.fromkeys(_TAGS, "")
    for tag, element in elements.found.items():
        if tag in _KEYS:
            texts[_KEYS[tag]] = element_text(element)
    if elements.error:
        raise explain_damage(stream, name, elements.error, elements.order)
    if not _is_image(elements.sop_class or texts["sop_class"]):
        return None
    values = Values(name, texts, _TAGS)
    if not _UID.fullmatch(texts["uid"]):
        values.fault("uid", "a UID of digits and points")
    for repeated in elements.repeated:
        if repeated in _KEYS:
            values.fault(_KEYS[repeated], "the element once")
    pixels, fault = PixelFormat(), None
    frames: Sequence[Mapping[str, str]] = [texts]
    try:
        pixels = find_pixels(stream, size, values, elements.syntax, elements.order)
        frames = _read_frames(elements, values, pixels.frames)
    except InputError as error:
        if not texts["uid"]:
            raise
        fault = error
    if len(frames) == 1:
        return _make_header(Values(name, frames[0], _TAGS, values.faults), pixels, fault)
    images = [
        _make_header(Values(f"{name} frame {k + 1}", frame, _TAGS), pixels.of_frame(k), None)
        for k, frame in enumerate(frames)
    ]
    keep = kept_components([image.component for image in images])
    kept = [image for image, used in zip(images, keep, strict=True) if used]
    faults = (*values.faults, *(image.fault for image in kept))
    fault = next((found for found in faults if found is not None), None)
    return replace(kept[0], name=name, frames=tuple(images), fault=fault)


@cache
def _is_image(sop_class: str) -> bool:
    """Return whether a SOP class is for images. An unknown class may be a truncated known one."""
    name = UID(sop_class, config.IGNORE).name
    return name == sop_class or "Image Storage" in name


def _read_frames(elements: Elements, values: Values, frames: int) -> Sequence[Mapping[str, str]]:
    """Return the texts of each frame, or of the whole file if it is not enhanced MR."""
    if is_enhanced(values["sop_class"] or elements.sop_class):
        try:
            with warnings.catch_warnings():
                # pydicom warns of unusual values, which are checked here if they matter.
                warnings.simplefilter("ignore")
                return frame_texts(elements, values.texts, _TAGS, frames, values.name)
        except InputError:
            raise
        except Exception as error:  # pydicom raises many errors for a damaged sequence
            found = f"damaged functional groups: {type(error).__name__}"
    elif frames > 1:
        found = f"{frames} frames in one file"
    else:
        return [values.texts]
    raise InputError(
        found,
        expected="one slice in each file, or enhanced MR",
        where=values.name,
        todo="Export the series as classic or enhanced MR images.",
        reason=Reason.UNREADABLE_FILE,
    )


def _make_header(values: Values, pixels: PixelFormat, fault: InputError | None) -> Header:
    """Return the header of one image. Its `fault` is the given one, or that of an invalid value."""
    name = values.name
    echo_time = values.number("echo_time")
    spacing_between_slices = values.number("spacing_between_slices")
    slice_thickness = values.number("slice_thickness")
    position = values.numbers("position", 3)
    orientation = values.numbers("orientation", 6)
    pixel_spacing = values.numbers("pixel_spacing", 2)
    rows, columns = values.whole("rows", 0), values.whole("columns", 0)
    slope, intercept, outside = _read_rescaling(values, pixels.bits_stored)
    faults = (
        fault,
        *values.faults,
        outside,
        plausible.check_ranges(
            [
                (plausible.ECHO_TIME, echo_time),
                *((plausible.PIXEL_SPACING, spacing) for spacing in pixel_spacing),
                *((plausible.POSITION, coordinate) for coordinate in position),
                # 0 is common for an unknown thickness or spacing.
                (plausible.SLICE_THICKNESS, slice_thickness or math.nan),
                (plausible.SPACING_BETWEEN_SLICES, abs(spacing_between_slices) or math.nan),
            ],
            name,
        ),
        plausible.check_field_of_view((rows, columns), pixel_spacing, name),
    )
    component = values.texts.get("component", "")
    image_type = values["image_type"].upper()
    if component not in ("", "magnitude"):
        image_type += f"\\{component.upper()}"
    time = (
        values["series_time"] or values["acquisition_time"] or values["acquisition_date_time"][8:]
    )
    order = [parse_number(values[key]) for key in ("series_number", "acquisition_number")]
    return Header(
        name=name,
        uid=values["uid"],
        sop_uid=values["sop_uid"],
        image_type=image_type,
        study_date=values["study_date"],
        scan_order=(
            values["study_date"],
            time,
            -1.0 if math.isnan(order[0]) else order[0],
            -1.0 if math.isnan(order[1]) else order[1],
        ),
        study_description=values["study_description"],
        series_description=values["series_description"],
        patient_id=values["patient_id"],
        visit=values["visit"],
        laterality=(values["laterality"], values["image_laterality"]),
        echo_time=echo_time,
        slice_location=parse_number(values["slice_location"]),
        spacing_between_slices=spacing_between_slices,
        slice_thickness=slice_thickness,
        instance_number=parse_number(values["instance_number"]),
        echo_number=parse_number(values["echo_number"]),
        echo_train_length=parse_number(values["echo_train_length"]),
        temporal_position=parse_number(values["temporal_position"]),
        temporal_positions=parse_number(values["temporal_positions"]),
        images_in_acquisition=parse_number(values["images_in_acquisition"]),
        position=position,
        orientation=orientation,
        pixel_spacing=pixel_spacing,
        rows=rows,
        columns=columns,
        slope=slope,
        intercept=intercept,
        rescaling=(bool(values["slope"]), bool(values["intercept"]), values["rescale_type"]),
        pixels=pixels,
        acquisition=read_acquisition(values.texts),
        component=component,
        facets=(*(values.texts[key] for key in FACETS), image_type) if component else (),
        frames=(),
        fault=next((found for found in faults if found is not None), None),
        synthetic=values["synthetic_data"].upper() == "YES"
        or values["manufacturer"] == PHANTOM_MANUFACTURER,
    )


def _read_rescaling(values: Values, bits_stored: int) -> tuple[float, float, InputError | None]:
    """Return slope and intercept, and an error if they cannot be those of an MR image."""
    slope, intercept = values.number("slope", 1.0), values.number("intercept", 0.0)
    if not 1 / _LARGEST_RESCALING <= abs(slope) <= _LARGEST_RESCALING:
        values.fault("slope", "one finite number other than 0")
    elif abs(intercept) > _LARGEST_RESCALING:
        values.fault("intercept", "one finite number")
    elif slope < 0 or (bits_stored and abs(intercept) > slope * 2**bits_stored):
        return (
            slope,
            intercept,
            InputError(
                f"RescaleSlope = {slope:g}, RescaleIntercept = {intercept:g}",
                expected="a slope above 0, and an intercept within the range of the pixels",
                where=values.name,
                todo="Correct the header, or export the series again.",
                reason=Reason.IMPLAUSIBLE_VALUE,
            ),
        )
    return slope, intercept, None
