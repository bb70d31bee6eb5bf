"""Small DICOM series written with pydicom, and the folder of real data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, generate_uid

ORIENTATION = (0.0819, 0.9966393, 0.0, 0.0, 0.0, -1.0)


@dataclass(frozen=True)
class Written:
    """A series as it was meant."""

    folder: Path
    uid: str
    paths: list[Path]
    image: np.ndarray  # (echo, slice, row, column)
    affine: np.ndarray


def write(
    folder: Path,
    *,
    patient: str = "9000001",
    series: str = "SAG_3D_DESS_RIGHT",
    study: str = "OAI^MR^ENROLLMENT^RIGHT",
    visit: str = "V00",
    laterality: str | None = None,
    echo_times: tuple[float, ...] = (4.71,),
    slices: int = 6,
    shape: tuple[int, int] = (8, 6),
    time: str = "101500",
    date: str = "20040824",
    number: int = 3,
    slope: tuple[float, ...] | None = None,
    syntax: UID = ExplicitVRLittleEndian,
    spacing: float = 0.7,
    seed: int = 0,
    start: int = 1,
    uid: str | None = None,
    elements: dict[str, object] | None = None,
) -> Written:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    stored = rng.integers(0, 4000, (len(echo_times), slices, *shape)).astype(np.uint16)
    image = stored.astype(np.float32)
    columns, rows = np.array(ORIENTATION[:3]), np.array(ORIENTATION[3:])
    normal = np.cross(columns, rows)
    origin = np.array([-40.5, -70.25, 66.0])
    affine = np.eye(4)
    affine[:3] = np.stack([normal * spacing, rows * 0.5, columns * 0.4, origin], axis=1)
    uid = uid or generate_uid()
    paths = []
    for echo, echo_time in enumerate(echo_times):
        for index in range(slices):
            meta = FileMetaDataset()
            meta.MediaStorageSOPClassUID = MRImageStorage
            meta.MediaStorageSOPInstanceUID = generate_uid()
            meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax.is_compressed else syntax
            path = folder / f"{start + echo * slices + index:03d}"
            ds = FileDataset(
                str(path),
                {},
                file_meta=meta,
                preamble=b"\0" * 128,
                is_implicit_VR=meta.TransferSyntaxUID.is_implicit_VR,
                is_little_endian=meta.TransferSyntaxUID.is_little_endian,
            )
            ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
            ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "DIS2D"]
            ds.Modality, ds.PatientName, ds.PatientBirthDate = "MR", "Doe^Jane", "19500101"
            ds.StudyDate, ds.SeriesTime = date, time
            ds.PatientID, ds.StudyDescription, ds.SeriesDescription = patient, study, series
            if visit:
                ds.ClinicalTrialTimePointID = visit
            if laterality is not None:
                ds.Laterality = laterality
            ds.SeriesInstanceUID, ds.StudyInstanceUID = uid, "1.2.3"
            ds.SeriesNumber, ds.InstanceNumber, ds.EchoNumbers = number, len(paths), echo
            ds.EchoTime, ds.SliceThickness = echo_time, 3.5
            ds.ImagePositionPatient = [
                round(float(x), 6) for x in origin + index * spacing * normal
            ]
            ds.ImageOrientationPatient = list(ORIENTATION)
            ds.PixelSpacing = [0.5, 0.4]
            ds.Rows, ds.Columns = shape
            ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
            ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
            for keyword, value in (elements or {}).items():
                setattr(ds, keyword, value)
            if slope is not None:
                ds.RescaleSlope = slope[len(paths) % len(slope)]
                ds.RescaleIntercept = -10
                image[echo, index] = (
                    stored[echo, index] * np.float64(slope[len(paths) % len(slope)]) - 10
                )
            pixels = stored[echo, index]
            if meta.TransferSyntaxUID.is_little_endian:
                ds.PixelData = pixels.astype("<u2").tobytes()
            else:
                ds.PixelData = pixels.astype(">u2").tobytes()
            ds["PixelData"].VR = "OW"
            if syntax.is_compressed:
                ds.compress(syntax, generate_instance_uid=False)
            pydicom.dcmwrite(path, ds, enforce_file_format=True)
            paths.append(path)
    return Written(folder, uid, paths, image, affine)


@pytest.fixture
def write_series() -> Callable[..., Written]:
    return write


@pytest.fixture
def set_header() -> Callable[..., None]:
    """Change elements of a written file."""

    def change(path: Path, **elements: object) -> None:
        ds = pydicom.dcmread(path)
        for keyword, value in elements.items():
            setattr(ds, keyword, value)
        ds.save_as(path)

    return change
