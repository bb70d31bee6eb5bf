"""DICOM objects, opened again by pydicom and highdicom: equal values at equal positions."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.uid import ParametricMapStorage

import qmri_lake as ql
from qmri_lake.exporting.export_result import ExportResult
from tests.exporting.lakes import KEYS

NAMES = ["dess/image", "dess/bone", "dess/cartilage", "msme/image", "msme/t2"]


@pytest.fixture(scope="module")
def dicom(export_lake: ql.Lake, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    return ql.export(export_lake, tmp_path_factory.mktemp("dicom"), format="dicom", variables=NAMES)


def file(result: ExportResult, name: str, exam: str = KEYS[0]) -> Path:
    return result.out / exam / f"{exam}_{name}.dcm"


def test_parametric_map__has_the_voxels_positions_and_unit(
    export_lake: ql.Lake, dicom: ExportResult
) -> None:
    assert dicom.problems == ()
    for name, values, group in (
        ("msme_t2", export_lake.root["msme/t2"][0], "msme"),
        ("msme_image_echo-2", export_lake.root["msme/image"][0, 1], "msme"),
        ("dess_image", export_lake.root["dess/image"][0], "dess"),
    ):
        made = hd.imread(file(dicom, name))
        assert made.SOPClassUID == ParametricMapStorage
        volume = made.get_volume(apply_real_world_transform=False, dtype=np.float32)
        affine = export_lake.root[f"{group}/affine"][0]
        volume = volume.match_geometry(
            hd.VolumeGeometry(
                affine,
                values.shape,
                "PATIENT",
                frame_of_reference_uid=made.FrameOfReferenceUID,
            )
        )
        np.testing.assert_array_equal(volume.array, values)
        np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
    (item,) = (
        hd.imread(file(dicom, "msme_t2"))
        .SharedFunctionalGroupsSequence[0]
        .RealWorldValueMappingSequence
    )
    assert item.MeasurementUnitsCodeSequence[0].CodeValue == "ms"


def test_segmentation__has_named_segments_with_equal_voxels(
    export_lake: ql.Lake, dicom: ExportResult
) -> None:
    made = hd.seg.segread(file(dicom, "dess_cartilage"))
    labels = export_lake.root["dess/cartilage"][0]
    described = {n: made.get_segment_description(n).segment_label for n in made.segment_numbers}
    assert list(described.values()) == ["femoral", "tibial", "patellar", "meniscus", "no mask"]
    affine = export_lake.root["dess/affine"][0]
    volume = made.get_volume(combine_segments=True, relabel=False).match_geometry(
        hd.VolumeGeometry(
            affine, labels.shape, "PATIENT", frame_of_reference_uid=made.FrameOfReferenceUID
        )
    )
    np.testing.assert_array_equal(np.where(labels == 255, 5, labels), volume.array)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)


def test_dicom__is_one_study_that_refers_to_nothing_and_names_the_exam_only(
    dicom: ExportResult,
) -> None:
    found = [pydicom.dcmread(path) for path in sorted((dicom.out / KEYS[0]).glob("*.dcm"))]
    assert len(found) == 1 + 1 + 1 + 3 + 1
    assert len({ds.StudyInstanceUID for ds in found}) == 1
    assert len({ds.SOPInstanceUID for ds in found}) == len(found)
    frames = {ds.FrameOfReferenceUID for ds in found}
    assert len(frames) == 2  # dess and msme
    for ds in found:
        assert (str(ds.PatientID), str(ds.PatientName)) == (KEYS[0], f"{KEYS[0]}^")
        assert (ds.PatientBirthDate, ds.PatientSex, ds.StudyDate) == ("", "", "")
        assert ds[0x0008001C].value == "YES"
        text = str(ds)
        assert "Referenced SOP Instance UID" not in text
    other = pydicom.dcmread(file(dicom, "dess_image", KEYS[2]))
    assert 0x0008001C not in other
    assert any("don't refer to the images" in loss for loss in dicom.losses)
