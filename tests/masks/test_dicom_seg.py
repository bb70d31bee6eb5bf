"""DICOM SEG files that highdicom writes, on the series of a lake's image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

import qmri_lake as ql
from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.files import read_mask
from qmri_lake.masks.grids import ExamGrid
from qmri_lake.masks.recognition import MaskFormat, recognise
from tests.masks.writers import label_map
from tests.oai.conftest import write as write_series

highdicom = pytest.importorskip("highdicom")

SHAPE = (6, 8, 6)
NAMES = {1: "Femur", 2: "Femoral cartilage", 3: "Tibia", 4: "Tibial cartilage"}
TABLE = {
    "Femur": "femur",
    "Femoral cartilage": "femoral",
    "Tibia": "tibia",
    "Tibial cartilage": "tibial",
}
ELEMENTS: dict[str, object] = {
    "FrameOfReferenceUID": "1.2.4",
    "StudyTime": "101500",
    "StudyID": "1",
    "AccessionNumber": "",
    "PatientSex": "",
    "ReferringPhysicianName": "",
    "Manufacturer": "Someone",
}


class Series:
    """A DICOM series, and its images in the order of the slices."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "oai"
        place = self.folder / "00m/0.C.2/9000001/20040824/1"
        self.affine = write_series(place, elements=ELEMENTS).affine
        self.images = [pydicom.dcmread(path) for path in sorted(place.iterdir())]
        self.grid = ExamGrid(SHAPE, self.affine, "right")

    def write(self, path: Path, labels: np.ndarray, kind: str = "BINARY", **options: Any) -> Path:
        """Write a segmentation: labels (slice, row, column), or masks with a last axis."""
        names = options.pop("names", NAMES)
        described = [
            highdicom.seg.SegmentDescription(
                segment_number=number,
                segment_label=name,
                segmented_property_category=codes.SCT.AnatomicalStructure,
                segmented_property_type=codes.SCT.Bone,
                algorithm_type="MANUAL",
            )
            for number, name in names.items()
        ]
        seg = highdicom.seg.Segmentation(
            source_images=self.images,
            pixel_array=labels,
            segmentation_type=kind,
            segment_descriptions=described,
            series_instance_uid=generate_uid(),
            series_number=9,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="Someone",
            manufacturer_model_name="Something",
            software_versions="1",
            device_serial_number="1",
            **options,
        )
        seg.save_as(path)
        return path


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    return Series(tmp_path_factory.mktemp("series"))


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_read_mask__segments_by_number_and_by_name(
    series: Series, tmp_path: Path, kind: str
) -> None:
    labels = label_map(shape=SHAPE)
    path = series.write(tmp_path / "IM0001", labels, kind)
    assert recognise(path) == MaskFormat.DICOM_SEG
    assert recognise(path).has_position
    for table in ("oai-zib", TABLE):
        for like in (None, series.grid):
            mask = read_mask(path, table, like=like)
            np.testing.assert_array_equal(mask.labels, labels)
            np.testing.assert_allclose(mask.affine, series.affine, atol=1e-4)
            assert mask.meanings == {1: "femur", 2: "femoral", 3: "tibia", 4: "tibial"}


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_read_mask__omitted_slices_are_background(
    series: Series, tmp_path: Path, kind: str
) -> None:
    """highdicom omits slices without a segment, at the ends and in the middle."""
    labels = label_map(shape=SHAPE)
    labels[[0, 3, 5]] = 0
    path = series.write(tmp_path / "a.dcm", labels, kind)
    mask = read_mask(path, "oai-zib", like=series.grid)
    np.testing.assert_array_equal(mask.labels, labels)
    assert read_mask(path, "oai-zib").cropped, "the number of slices is not known"
    moved = series.affine.copy()
    moved[:3, 3] += 0.1
    with pytest.raises(InputError, match=r"lies 0\.1. mm beside the voxels"):
        read_mask(path, "oai-zib", like=ExamGrid(SHAPE, moved, "right"))


def test_read_mask__segmentations_that_are_refused(series: Series, tmp_path: Path) -> None:
    labels = label_map(shape=SHAPE)
    masks = np.stack([labels == number for number in NAMES], axis=-1)
    masks[2, 3, 1:4, :2] = True
    overlapping = series.write(tmp_path / "a.dcm", masks.astype(np.uint8))
    with pytest.raises(InputError, match=r"both in 'Femoral cartilage' and in 'Femur'") as caught:
        read_mask(overlapping, "oai-zib", like=series.grid)
    assert caught.value.reason == Reason.OVERLAPPING_LABELS
    fractional = series.write(
        tmp_path / "b.dcm", (labels == 1).astype(np.float32) / 2, "FRACTIONAL", names={1: "Femur"}
    )
    with pytest.raises(InputError, match="a fractional segmentation") as caught:
        read_mask(fractional, "oai-zib", like=series.grid)
    assert caught.value.reason == Reason.FRACTIONAL_LABELS
    with pytest.raises(InputError, match="no label named 'Patella'"):
        read_mask(series.write(tmp_path / "c.dcm", labels), {"Patella": "patella"})
    with pytest.raises(InputError, match="unknown label 4 "):
        read_mask(tmp_path / "c.dcm", {1: "femur", 2: "femoral", 3: "tibia"})
    cut = tmp_path / "c.dcm"
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(InputError) as caught:
        read_mask(cut, "oai-zib", like=series.grid)
    assert caught.value.reason in (Reason.UNREADABLE_FILE, Reason.TRUNCATED_FILE)
    assert "\n" not in str(caught.value)


def test_ingest_masks__dicom_images_beside_a_segmentation_are_no_masks(
    series: Series, tmp_path: Path
) -> None:
    labels = label_map(shape=SHAPE)
    lake = ql.ingest(series.folder, tmp_path / "l.lake").lake
    folder = tmp_path / "masks" / "9000001-000m-right"
    folder.mkdir(parents=True)
    series.write(folder / "seg.dcm", labels)
    series.images[0].save_as(folder / "image.dcm")
    result = ql.ingest_masks(tmp_path / "masks", lake, labels=TABLE)
    assert result.problems == ()
    assert result.notes[0] == "1 other file ignored (.dcm)"
    ds = result.lake.load("dess").isel(exam=0)
    np.testing.assert_array_equal(ql.tissue(ds.reference_cartilage, "femoral"), labels == 2)
