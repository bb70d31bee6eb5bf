"""Readers of image files: axes, affine, scaling, units and damage."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from qmri_lake.errors import InputError, Reason
from qmri_lake.image_files.formats import recognise_image, value_files
from qmri_lake.image_files.lake_axes import lake_geometry, read_lake_image
from qmri_lake.oai.dicom import read_dicom
from tests.image_files.writers import SHAPE, TO_RAS, knee_affine, signal, write_image

AFFINE = knee_affine("right")
NAMES = ["a.nii", "a.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "c.mha", "a.mhd"]


def error_of(path: Path, form: str | None = None) -> InputError:
    with pytest.raises(InputError) as caught:
        read_lake_image(path, form)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert caught.value.todo
    with pytest.raises(InputError):
        lake_geometry(path, form)  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize(
    ("axes", "flips"),
    [((0, 1, 2), ()), ((2, 1, 0), (1, 2)), ((1, 2, 0), (0, 2)), ((2, 0, 1), (1,))],
)
@pytest.mark.parametrize("name", NAMES)
def test_read_lake_image__restores_voxels_and_affine(
    tmp_path: Path, name: str, axes: tuple[int, ...], flips: tuple[int, ...], images: int
) -> None:
    truth = signal(1, images)
    path = write_image(tmp_path / name, truth, AFFINE, axes, flips)
    image, affine = read_lake_image(path)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, truth)
    # NIfTI and MetaImage store single precision or a few digits.
    np.testing.assert_allclose(affine, AFFINE, atol=1e-5)
    geometry = lake_geometry(path)
    assert (geometry.images, geometry.shape) == (images, SHAPE)
    np.testing.assert_array_equal(geometry.affine, affine)


@pytest.mark.parametrize(("unit", "scale"), [("mm", 1.0), ("meter", 1e-3), ("micron", 1e3)])
def test_read_lake_image__converts_units_and_rescales(
    tmp_path: Path, unit: str, scale: float
) -> None:
    truth = signal(2)
    stored = TO_RAS @ AFFINE
    stored[:3] *= scale
    image = nibabel.Nifti1Image(truth[0], stored)
    image.header.set_xyzt_units(unit)
    image.header.set_slope_inter(0.25, -7)
    nibabel.save(image, tmp_path / "a.nii")
    with (tmp_path / "a.nii").open("r+b") as file:  # NiBabel rescales the values when it saves
        header = nibabel.Nifti1Header.from_fileobj(file, check=False)
        header["scl_slope"], header["scl_inter"] = 0.25, -7
        file.seek(0)
        header.write_to(file)
    stored_values = nibabel.load(tmp_path / "a.nii").dataobj.get_unscaled()
    values, affine = read_lake_image(tmp_path / "a.nii")
    np.testing.assert_array_equal(values[0], stored_values * np.float64(0.25) - 7)
    np.testing.assert_allclose(affine, AFFINE, atol=1e-4)


def test_read_lake_image__refuses_forms_that_differ(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(signal(3)[0], TO_RAS @ AFFINE)
    moved = TO_RAS @ AFFINE
    moved[0, 3] += 9
    image.set_sform(TO_RAS @ AFFINE, 1)
    image.set_qform(moved, 1)
    nibabel.save(image, tmp_path / "a.nii")
    error = error_of(tmp_path / "a.nii")
    assert error.reason == Reason.CONTRADICTORY_AFFINES
    assert str(error).endswith(
        "sform (code 1) and qform (code 1) are 9.00 mm apart (expected the same position, within "
        "0.1 mm). Choose one of them: --form sform or --form qform, in Python form='sform' or "
        "form='qform'."
    )
    for form, shift in (("sform", 0), ("qform", -9)):
        _, affine = read_lake_image(tmp_path / "a.nii", form)  # type: ignore[arg-type]
        assert affine[0, 3] == pytest.approx(AFFINE[0, 3] + shift, abs=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_read_lake_image__refuses_voxels_without_a_value(tmp_path: Path, value: float) -> None:
    image = signal(4).astype(np.float32)
    image[0, 1, 2, 3:5] = value
    write_image(tmp_path / "a.nii", image, AFFINE)
    with pytest.raises(InputError, match="2 voxels without a value") as caught:
        read_lake_image(tmp_path / "a.nii")
    assert caught.value.reason == Reason.UNREADABLE_VALUE
    write_image(tmp_path / "b.nii", np.zeros((1, *SHAPE), np.int16), AFFINE)
    with pytest.raises(InputError, match="all voxels are 0"):
        read_lake_image(tmp_path / "b.nii")


@pytest.mark.parametrize("name", NAMES)
def test_read_lake_image__lists_a_file_that_is_cut_off(tmp_path: Path, name: str) -> None:
    path = write_image(tmp_path / name, signal(5), AFFINE)
    cut = Path(value_files(str(path))[-1])
    content = cut.read_bytes()
    cut.write_bytes(content[: len(content) - 40])
    with pytest.raises(InputError) as caught:
        read_lake_image(path)
    assert caught.value.reason in (Reason.TRUNCATED_FILE, Reason.UNREADABLE_FILE)


def test_read_lake_image__refuses_what_is_no_volume_of_numbers(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 5), np.int16), np.eye(4)), tmp_path / "flat.nii")
    assert "an array of 4 x 5" in str(error_of(tmp_path / "flat.nii"))
    colour = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colour, TO_RAS @ AFFINE), tmp_path / "colour.nii")
    with pytest.raises(InputError, match="colour values"):
        read_lake_image(tmp_path / "colour.nii")
    complex_ = np.ones(SHAPE, np.complex64)
    nibabel.save(nibabel.Nifti1Image(complex_, TO_RAS @ AFFINE), tmp_path / "complex.nii")
    with pytest.raises(InputError, match="values of type complex64"):
        read_lake_image(tmp_path / "complex.nii")
    sheared = TO_RAS @ AFFINE
    sheared[:3, 0] += 0.2 * sheared[:3, 1]
    image = nibabel.Nifti1Image(signal(6)[0], None)
    image.set_sform(sheared, 1)
    nibabel.save(image, tmp_path / "sheared.nii")
    assert "not at right angles" in str(error_of(tmp_path / "sheared.nii"))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"\0" * 128 + b"DICM" + b"\0" * 100, "DICOM"),
        (b"hello", "unknown file format"),
        (gzip.compress(b"hello", mtime=0), "unknown file format"),
        (b"NDims = 3\nDimSize = 2 2 2\n", "no ElementDataFile"),
        (
            b"NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n",
            "no Offset and no TransformMatrix and no ElementSpacing, so the position is unknown",
        ),
        (
            b"NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 2\nendian: little\nencoding: raw\n\n"
            + bytes(16),
            "0 space directions for 3 axes",
        ),
    ],
    ids=["empty", "DICOM", "text", "gzip", "MetaImage cut", "MetaImage unplaced", "NRRD unplaced"],
)
def test_read_lake_image__names_other_content(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "a.nii").write_bytes(content)
    assert found in str(error_of(tmp_path / "a.nii"))


def test_read_lake_image__meta_image_longer_than_its_header(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.mha", signal(7), AFFINE)
    path.write_bytes(path.read_bytes() + b"\0")
    assert error_of(path).reason == Reason.TRAILING_BYTES


def test_par_rec__reads_the_example_of_nibabel(tmp_path: Path) -> None:
    data = Path(nibabel.__file__).parent / "tests" / "data"
    for suffix in ("PAR", "REC"):
        shutil.copy(data / f"phantom_EPI_asc_CLEAR_2_1.{suffix}", tmp_path / f"p.{suffix}")
    assert recognise_image(str(tmp_path / "p.PAR")) == "PAR/REC"
    geometry = lake_geometry(tmp_path / "p.PAR")
    image, affine = read_lake_image(tmp_path / "p.PAR")
    reference = nibabel.load(tmp_path / "p.PAR", strict_sort=True)
    assert geometry.images == reference.shape[3] == 3
    assert sorted(image.shape[1:]) == sorted(reference.shape[:3])
    values = reference.get_fdata()
    reference.dataobj.file_like.close()
    # The same voxel at the same place, in RAS.
    index = np.array(image.shape[1:]) // 3
    place = TO_RAS @ affine @ [*index, 1]
    i, j, k = np.rint(np.linalg.solve(reference.affine, place)[:3]).astype(int)
    np.testing.assert_allclose(image[:, *index], values[i, j, k], rtol=1e-6)
    assert image[0].std() > 0
    (tmp_path / "p.REC").unlink()
    with pytest.raises(InputError, match="REC"):
        read_lake_image(tmp_path / "p.PAR")


def test_read_lake_image__geometry_of_dcm2niix(real_data: Path) -> None:
    path = real_data / "dicom_geometry" / "sagittal_gre_reference.nii"
    image, affine = read_lake_image(path)
    dicom = read_dicom(real_data / "dicom_geometry" / "sagittal_gre")
    np.testing.assert_array_equal(image, dicom.image)
    np.testing.assert_allclose(affine, dicom.affine, atol=1e-5)
