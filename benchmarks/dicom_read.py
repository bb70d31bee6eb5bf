"""Compare reading one series with stacking the arrays `pixel_array` of pydicom.

Usage: python -m benchmarks.dicom_read [FOLDER]

Without FOLDER, a series of the size of a DESS volume (160 x 384 x 384, 12 of 16 bits) is written to
a temporary folder. Times are CPU seconds of this process, the best of five interleaved repeats.
Only their ratios are meaningful.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from benchmarks.timing import best
from qmri_lake.oai.inventory import inventory, read_series


def write_series(folder: Path, shape: tuple[int, int, int] = (160, 384, 384)) -> None:
    rng = np.random.default_rng(0)
    series = generate_uid()
    for index in range(shape[0]):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, generate_uid()
        ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.PatientID, ds.SeriesInstanceUID = "9000001", series
        ds.StudyDescription = "OAI^MR^ENROLLMENT^RIGHT"
        ds.SeriesDescription = "SAG_3D_DESS_RIGHT"
        ds.EchoTime = 4.71
        ds.ImagePositionPatient = [-0.7 * index, 0.0, 0.0]
        ds.ImageOrientationPatient = [0.0, 1.0, 0.0, 0.0, 0.0, -1.0]
        ds.PixelSpacing = [0.3646, 0.3646]
        ds.Rows, ds.Columns = shape[1:]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.PixelData = rng.integers(0, 4096, shape[1:]).astype("<u2").tobytes()
        ds.save_as(folder / f"{index + 1:03d}", enforce_file_format=True)


def stack_pixel_arrays(paths: list[Path]) -> np.ndarray:
    datasets = [pydicom.dcmread(path) for path in paths]
    datasets.sort(key=lambda ds: (ds.get("EchoTime", 0), ds.ImagePositionPatient[0]))
    return np.stack([ds.pixel_array for ds in datasets]).astype(np.float32)


def report(folder: Path) -> None:
    known = {"timepoint": 0, "knee": "right"}
    if folder.name == "knee_mese":
        known["patient"] = 1
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    (series,) = inventory(folder, **known).series
    seconds = best(
        {
            "pydicom pixel_array, stacked": lambda: stack_pixel_arrays(paths),
            "read_series": lambda: read_series(series),
            "inventory": lambda: inventory(folder, **known),
        }
    )
    plain = seconds["pydicom pixel_array, stacked"]
    print(f"{series.group} {series.shape}, {len(paths)} files")
    for name, value in seconds.items():
        print(f"  {name:30s} {value:7.3f} s   {plain / value:5.2f}x")
    total = seconds["read_series"] + seconds["inventory"]
    print(f"  {'inventory and read_series':30s} {total:7.3f} s   {plain / total:5.2f}x")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        report(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as name:
            write_series(Path(name))
            report(Path(name))
