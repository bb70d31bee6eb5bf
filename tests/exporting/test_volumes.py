"""Exported volumes, opened by other programs: equal voxels, positions, names and lineage."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk

import qmri_lake as ql
from qmri_lake.exporting.export_result import ExportResult
from tests.exporting.lakes import ECHOES, KEYS

POSITION_MM = 1e-4
"""Largest difference of a position: float32 in the header of NIfTI has 2e-5 mm at 200 mm."""


@pytest.fixture(scope="module")
def nifti(export_lake: ql.Lake, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    return ql.export(export_lake, tmp_path_factory.mktemp("nifti"), format="nifti")


@pytest.fixture(scope="module")
def nrrds(export_lake: ql.Lake, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    return ql.export(export_lake, tmp_path_factory.mktemp("nrrd"), format="nrrd")


def stored(lake: ql.Lake, path: str, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Values within the extent, and the affine, read with Zarr alone."""
    group = path.partition("/")[0]
    extent = tuple(slice(0, n) for n in lake.root[f"{group}/extent"][row])
    return lake.root[path][(row, ..., *extent)], lake.root[f"{group}/affine"][row]


def corners(shape: tuple[int, ...]) -> np.ndarray:
    """Indices (8, 4) of the corner voxels of a volume."""
    ends = [(0, n - 1) for n in shape]
    return np.array([[i, j, k, 1] for i in ends[0] for j in ends[1] for k in ends[2]], float)


def test_nifti__nibabel_reads_equal_voxels_at_equal_positions(
    export_lake: ql.Lake, nifti: ExportResult
) -> None:
    assert (nifti.written, nifti.problems) == (3, ())
    for row, exam in enumerate(KEYS):
        for path in ("msme/image", "dess/image", "dess/cartilage", "msme/t2", "msme/t2__epg"):
            name = path.replace("/", "_")
            file = nifti.out / exam / f"{exam}_{name}.nii.gz"
            if row == 2 and "image" not in path:
                assert not file.exists()
                continue
            image, (values, affine) = nib.load(file), stored(export_lake, path, row)
            np.testing.assert_array_equal(np.asanyarray(image.dataobj).T, values)
            assert image.get_data_dtype() == values.dtype
            at = corners(values.shape[-3:])
            lps = at @ affine.T
            for ras in (image.get_sform(coded=True), image.get_qform(coded=True)):
                assert ras[1] == 1
                found = at[:, [2, 1, 0, 3]] @ ras[0].T * [-1, -1, 1, 1]
                assert np.abs(found - lps).max() < POSITION_MM
            assert image.header.get_xyzt_units()[0] == "mm"


def test_nifti__sidecar_has_units_labels_echoes_and_lineage_without_patients(
    export_lake: ql.Lake, nifti: ExportResult
) -> None:
    exam = KEYS[0]
    about = json.loads((nifti.out / exam / f"{exam}_msme_t2__epg.json").read_text())
    assert about["units"] == "ms"
    assert about["synthetic"] is True
    assert about["lineage"]["run"] == 3
    assert about["lineage"]["parameters"] == {"within": "all"}
    assert about["lineage"]["lake_snapshot"] == export_lake.snapshot
    image = json.loads((nifti.out / exam / f"{exam}_msme_image.json").read_text())
    assert image["echo_times_ms"] == ECHOES.tolist()
    np.testing.assert_allclose(image["EchoTime"], ECHOES / 1000)
    labels = json.loads((nifti.out / exam / f"{exam}_dess_cartilage.json").read_text())
    assert labels["labels"]["4"] == "meniscus"
    assert labels["labels"]["255"] == "no mask"
    np.testing.assert_array_equal(
        labels["affine_lps_slice_row_column_mm"], export_lake.root["dess/affine"][0]
    )
    everything = "".join(p.read_text() for p in nifti.out.rglob("*.json"))
    assert "1.2.3.0" not in everything  # no UID
    assert "1234567" not in everything  # no patient of a training set
    third = json.loads((nifti.out / KEYS[2] / f"{KEYS[2]}_msme_image.json").read_text())
    assert "synthetic" not in third


def test_nifti__lists_what_was_never_computed_and_what_labels_cannot_say(
    nifti: ExportResult,
) -> None:
    left = nifti.left_out.set_index("variable")["exam"]
    for path in ("dess/cartilage", "dess/bone", "msme/t2", "msme/t2__epg"):
        assert left[path] == KEYS[2]
    assert nifti.losses["voxels of dess/cartilage with 'no mask' keep the value 255"] == 2
    assert "values missing in 1 exam" in str(nifti)


def test_nifti__an_affine_with_shear_is_in_the_sform_only(tmp_path: Path) -> None:
    from qmri_lake.exporting.exam_content import ExportedArray
    from qmri_lake.exporting.nifti_files import write_image
    from qmri_lake.schema.builtin import REGISTRY

    affine = np.diag([3.0, 0.5, 0.5, 1.0])
    affine[0, 1] = 0.01  # 1.1 degrees
    values = np.zeros((4, 20, 20), np.float32)
    array = ExportedArray("dess/image", REGISTRY["dess/image"], values, affine, None, {})
    (loss,) = write_image(array, tmp_path / "a.nii.gz", {"exam": "x"})
    assert "sform only" in loss
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.get_qform(coded=True)[1] == 0
    np.testing.assert_allclose(image.affine, array.ras_affine, atol=1e-6)


def test_nrrd__pynrrd_and_simpleitk_read_equal_voxels_at_equal_positions(
    export_lake: ql.Lake, nrrds: ExportResult
) -> None:
    for row, exam in enumerate(KEYS[:2]):
        for path in ("msme/image", "dess/image", "dess/bone", "msme/t2"):
            suffix = ".seg.nrrd" if path.endswith("bone") else ".nrrd"
            file = nrrds.out / exam / f"{exam}_{path.replace('/', '_')}{suffix}"
            values, affine = stored(export_lake, path, row)
            data, header = nrrd.read(str(file))
            echoes = values.ndim == 4
            np.testing.assert_array_equal(data.transpose((0, 3, 2, 1) if echoes else None), values)
            assert json.loads(header["qmri_lake"])["variable"] == path
            image = sitk.ReadImage(str(file))
            itk = sitk.GetArrayFromImage(image)
            np.testing.assert_array_equal(np.moveaxis(itk, -1, 0) if echoes else itk, values)
            at = corners(values.shape[-3:])
            for index, lps in zip(at[:, [2, 1, 0]].astype(int), at @ affine.T, strict=True):
                found = image.TransformIndexToPhysicalPoint(index.tolist())
                np.testing.assert_allclose(found, lps[:3], atol=POSITION_MM)


def test_nrrd__segments_have_names_colours_and_tight_extents(
    export_lake: ql.Lake, nrrds: ExportResult
) -> None:
    exam = KEYS[0]
    file = nrrds.out / exam / f"{exam}_dess_cartilage.seg.nrrd"
    header = nrrd.read_header(str(file))
    names = {header[k]: k.partition("_")[0] for k in header if k.endswith("_Name")}
    assert list(names) == ["femoral", "tibial", "patellar", "meniscus", "no mask"]
    # The truth of tests.exporting.lakes: columns 1 to 4, rows 2 to 5, slices 1 and 2.
    assert header[f"{names['femoral']}_Extent"] == "1 4 2 5 1 2"
    assert header[f"{names['tibial']}_Extent"] == "0 -1 0 -1 0 -1"
    colours = {header[f"{segment}_Color"] for segment in names.values()}
    assert len(colours) == 5
    values, _ = stored(export_lake, "dess/bone", 0)
    names = {1: "femur", 2: "tibia", 3: "patella"}
    mask = ql.read_mask(nrrds.out / exam / f"{exam}_dess_bone.seg.nrrd", labels=names)
    np.testing.assert_array_equal(mask.bone, values)


def test_pattern__names_files_and_refuses_repeated_names(
    export_lake: ql.Lake, tmp_path: Path
) -> None:
    result = ql.export(
        export_lake.cohort("kl == 1"),
        tmp_path / "a",
        format="nifti",
        variables="dess/image",
        pattern="{knee}/{patient}_{timepoint:03d}_{group}",
    )
    assert result.files == (
        "right/9000001_000_dess.json",
        "right/9000001_000_dess.nii.gz",
    )
    with pytest.raises(ql.errors.InputError, match="the name '9000001'") as raised:
        ql.export(export_lake, tmp_path / "b", format="nifti", pattern="{patient}")
    assert "another name for each file" in str(raised.value)
    for wrong, found in {
        "{side}": "field {side}",
        "../x": "inside the folder",
        "{": "pattern",
    }.items():
        with pytest.raises(ql.errors.InputError, match=found):
            ql.export(export_lake, tmp_path / "c", format="nifti", pattern=wrong)
