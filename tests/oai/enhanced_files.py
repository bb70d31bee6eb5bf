"""Enhanced multi-frame MR files, written with pydicom as scanners write them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from tests.oai.conftest import ORIENTATION

ENHANCED_MR = UID("1.2.840.10008.5.1.4.1.1.4.1")
LEGACY_CONVERTED = UID("1.2.840.10008.5.1.4.1.1.4.4")
ORIGIN = np.array([-40.5, -70.25, 66.0])
SPACING = 3.5  # mm, between slices
STEP = (0.75, 0.5)  # mm, between rows and columns
COLUMNS, ROWS = np.array(ORIENTATION[:3]), np.array(ORIENTATION[3:])
NORMAL = np.cross(COLUMNS, ROWS)
AFFINE = np.eye(4)
AFFINE[:3] = np.stack([NORMAL * SPACING, ROWS * STEP[0], COLUMNS * STEP[1], ORIGIN], axis=1)
"""Of a volume whose slices ascend along the normal."""


@dataclass(frozen=True)
class Frame:
    """One frame: pixels, place, and what its functional groups say of it."""

    pixels: np.ndarray
    slice: int
    echo_time: float | None = 10.0
    component: str = "MAGNITUDE"
    frame_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "M", "NONE")
    rescaling: tuple[float, float] | None = None
    real_world: Sequence[tuple[float, float]] = ()
    content: dict[str, object] = field(default_factory=dict)
    """Elements of the Frame Content group, such as StackID."""
    orientation: tuple[float, ...] = ORIENTATION
    groups: dict[str, Dataset] = field(default_factory=dict)
    """Further groups by keyword of their sequence."""


def item(**elements: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def functional_groups(frame: Frame, *, legacy: bool) -> Dataset:
    groups = {
        "PlanePositionSequence": item(
            ImagePositionPatient=[
                round(float(x), 6) for x in ORIGIN + frame.slice * SPACING * NORMAL
            ]
        ),
        "PlaneOrientationSequence": item(ImageOrientationPatient=list(frame.orientation)),
        "FrameContentSequence": item(**frame.content),
    }
    if not legacy:
        groups["MRImageFrameTypeSequence"] = item(
            FrameType=list(frame.frame_type), ComplexImageComponent=frame.component
        )
    if frame.echo_time is not None:
        if legacy:
            groups["UnassignedPerFrameConvertedAttributesSequence"] = item(EchoTime=frame.echo_time)
        else:
            groups["MREchoSequence"] = item(EffectiveEchoTime=frame.echo_time)
    if frame.rescaling is not None:
        slope, intercept = frame.rescaling
        groups["PixelValueTransformationSequence"] = item(
            RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="US"
        )
    outer = Dataset()
    for keyword, group in {**groups, **frame.groups}.items():
        setattr(outer, keyword, [group])
    if frame.real_world:
        outer.RealWorldValueMappingSequence = [
            item(
                RealWorldValueFirstValueMapped=0,
                RealWorldValueLastValueMapped=4095,
                RealWorldValueSlope=slope,
                RealWorldValueIntercept=intercept,
            )
            for slope, intercept in frame.real_world
        ]
    return outer


def write_enhanced(
    path: Path,
    frames: Iterable[Frame],
    *,
    uid: str = "1.2.3.4",
    sop_class: UID = ENHANCED_MR,
    syntax: UID = ExplicitVRLittleEndian,
    shared: Sequence[str] = (),
    **elements: object,
) -> Path:
    """Write one file.

    Parameters
    ----------
    shared : sequence of str
        Keywords of the groups of the first frame that are written once, for all frames.
    elements
        Elements of the file, in place of the usual ones.
    """
    frames = list(frames)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax.is_compressed else syntax
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    ds.ImageType = list(frames[0].frame_type)
    ds.Modality, ds.Manufacturer = "MR", "SIEMENS"
    ds.StudyDate, ds.SeriesTime, ds.ContentTime = "20040824", "101500", "101500"
    ds.PatientID, ds.StudyDescription = "9000001", "OAI^MR^ENROLLMENT^RIGHT"
    ds.SeriesDescription = "SAG_3D_DESS_RIGHT"
    ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.SeriesNumber = uid, "1.2.3", 3
    ds.InstanceNumber, ds.NumberOfFrames = 1, len(frames)
    ds.Rows, ds.Columns = frames[0].pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    common = item(
        PixelMeasuresSequence=[item(PixelSpacing=list(STEP), SliceThickness=3.0)],
    )
    groups = [functional_groups(frame, legacy=sop_class == LEGACY_CONVERTED) for frame in frames]
    for keyword in shared:
        common[keyword] = groups[0][keyword]
        for group in groups:
            del group[keyword]
    ds.SharedFunctionalGroupsSequence = [common]
    ds.PerFrameFunctionalGroupsSequence = groups
    ds.PixelData = np.stack([frame.pixels for frame in frames]).astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    if syntax.is_compressed:
        ds.compress(syntax, generate_instance_uid=False)
    pydicom.dcmwrite(path, ds, enforce_file_format=True)
    return path


def volume(
    echoes: int, slices: int, *, shape: tuple[int, int] = (8, 6), seed: int = 0
) -> np.ndarray:
    """Return stored values (echo, slice, row, column)."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 4000, (echoes, slices, *shape)).astype(np.uint16)
