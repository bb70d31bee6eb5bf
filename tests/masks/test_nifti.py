"""NIfTI masks: two affines, units of length, and labels that a library scaled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from qmri_lake.core.geometry import VoxelGrid
from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.files import read_mask
from qmri_lake.masks.grids import ExamGrid
from tests.masks.writers import SHAPE, affine_of, label_map

LPS = affine_of("right")
RAS = np.diag([-1, -1, 1, 1]) @ LPS
RIGHT = ExamGrid(SHAPE, LPS, "right")
LABELS = label_map()


def shifted(millimetres: float) -> np.ndarray:
    moved = RAS.copy()
    moved[0, 3] += millimetres
    return moved


def write(path: Path, labels: np.ndarray = LABELS, affine: np.ndarray = RAS, **forms: Any) -> Path:
    """Write a file; `forms` are pairs of an affine and its code, and the unit."""
    image = nibabel.Nifti1Image(labels, affine)
    for name in ("sform", "qform"):
        if name in forms:
            getattr(image, f"set_{name}")(*forms[name])
    if "unit" in forms:
        image.header.set_xyzt_units(forms["unit"])
    nibabel.save(image, path)
    return path


def error_of(path: Path, like: ExamGrid | None = RIGHT) -> InputError:
    with pytest.raises(InputError) as caught:
        read_mask(path, like=like)
    assert "\n" not in str(caught.value)
    assert caught.value.todo
    return caught.value


# -- sform and qform -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "forms",
    [
        {"sform": (RAS, 1), "qform": (RAS, 1)},
        {"sform": (RAS, 2), "qform": (shifted(0.05), 1)},  # within the tolerance: the sform
        {"sform": (RAS, 1), "qform": (shifted(9), 0)},  # a code of 0: absent
        {"sform": (shifted(9), 0), "qform": (RAS, 1)},
        {"sform": (RAS, 4), "qform": (None, 0)},
    ],
)
def test_read_mask__affines_that_agree_or_are_alone(tmp_path: Path, forms: dict[str, Any]) -> None:
    path = write(tmp_path / "a.nii.gz", **forms)
    mask = read_mask(path, like=RIGHT)
    np.testing.assert_array_equal(mask.labels, LABELS)
    np.testing.assert_allclose(read_mask(path).affine, LPS, atol=1e-5)
    assert mask.notes == ()


@pytest.mark.parametrize("distance", [0.15, 7.0])
@pytest.mark.parametrize("right", ["sform", "qform"])
def test_read_mask__affines_that_differ_are_refused_until_one_is_chosen(
    tmp_path: Path, distance: float, right: str
) -> None:
    other = "qform" if right == "sform" else "sform"
    path = write(tmp_path / "a.nii", **{right: (RAS, 1), other: (shifted(distance), 2)})
    error = error_of(path)
    assert error.reason == Reason.CONTRADICTORY_AFFINES
    assert f"are {distance:.2f} mm apart; the {right} is on the grid of the image" in error.found
    assert f"{other} (code 2)" in error.found
    assert "--form sform or --form qform" in error.todo
    assert error_of(path, None).found.endswith(f"are {distance:.2f} mm apart")
    mask = read_mask(path, like=RIGHT, form=right)  # type: ignore[arg-type]
    np.testing.assert_array_equal(mask.labels, LABELS)
    with pytest.raises(InputError, match=f"{distance:.2f} mm off"):
        read_mask(path, like=RIGHT, form=other)  # type: ignore[arg-type]


def test_read_mask__rotated_flipped_and_scaled_affines_differ_as_well(tmp_path: Path) -> None:
    half_turn = RAS @ np.diag([-1, -1, 1, 1])
    for other in (half_turn, RAS @ np.diag([1, 1, -1, 1]), RAS @ np.diag([1, 1, 1.1, 1])):
        path = write(tmp_path / "a.nii", sform=(RAS, 1), qform=(other, 1))
        assert error_of(path).reason == Reason.CONTRADICTORY_AFFINES


def test_read_mask__a_turn_of_180_degrees_is_no_contradiction(tmp_path: Path) -> None:
    """The rotation of a qform is least exact there."""
    labels = np.zeros((200, 4, 400), np.uint8)
    labels[3] = 1
    for degrees in (0.0, 0.1, 0.5, 4.0):
        angle = np.deg2rad(180 + degrees)
        turn = np.diag([0.7, 0.36, 0.36, 1.0])
        turn[:2, :2] = [
            [0.7 * np.cos(angle), -0.36 * np.sin(angle)],
            [0.7 * np.sin(angle), 0.36 * np.cos(angle)],
        ]
        path = write(tmp_path / "a.nii", labels, turn, sform=(turn, 1), qform=(turn, 1))
        assert read_mask(path).labels.sum() == labels.sum()


def test_read_mask__voxel_sizes_that_contradict_the_sform(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(LABELS, RAS)
    image.header["pixdim"][1:4] = 1  # programs that do not set it
    nibabel.save(image, tmp_path / "a.nii")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.nii", like=RIGHT).labels, LABELS)
    image.header["pixdim"][1:4] = 0.7, 0.36, 0.5
    nibabel.save(image, tmp_path / "a.nii")
    error = error_of(tmp_path / "a.nii")
    assert error.reason == Reason.CONTRADICTORY_AFFINES
    assert "voxels of 0.7 x 0.36 x 0.5, and the sform of 0.7 x 0.36 x 0.37" in error.found
    np.testing.assert_array_equal(read_mask(tmp_path / "a.nii", form="sform").labels, LABELS)


# -- units ---------------------------------------------------------------------------------------


def scaled(factor: float) -> np.ndarray:
    return np.diag([factor, factor, factor, 1]) @ RAS


@pytest.mark.parametrize(
    ("factor", "unit"), [(1, "mm"), (1, "unknown"), (1e3, "micron"), (1e-3, "meter")]
)
def test_read_mask__units_become_millimetres(tmp_path: Path, factor: float, unit: str) -> None:
    path = write(tmp_path / "a.nii", affine=scaled(factor), unit=unit)
    mask = read_mask(path, like=RIGHT)
    np.testing.assert_array_equal(mask.labels, LABELS)
    np.testing.assert_allclose(read_mask(path).affine, LPS, atol=1e-4)
    both = write(
        tmp_path / "b.nii", unit=unit, sform=(scaled(factor), 1), qform=(scaled(factor), 1)
    )
    np.testing.assert_array_equal(read_mask(both, like=RIGHT).labels, LABELS)


@pytest.mark.parametrize(
    ("factor", "unit", "guess"),
    [
        (1e3, "unknown", "micrometres"),
        (1e3, "mm", "micrometres"),
        (1e-3, "unknown", "metres"),
        (1e-3, "mm", "metres"),
        (0.1, "unknown", "centimetres"),
        (1, "meter", "millimetres"),
        (1, "micron", "millimetres"),
    ],
)
@pytest.mark.parametrize("like", [None, RIGHT])
def test_read_mask__a_wrong_unit_is_refused_with_a_guess(
    tmp_path: Path, factor: float, unit: str, guess: str, like: ExamGrid | None
) -> None:
    error = error_of(write(tmp_path / "a.nii", affine=scaled(factor), unit=unit), like)
    assert error.reason == Reason.IMPLAUSIBLE_VOXELS
    assert error.found.endswith(f": {guess}?")
    assert "xyzt_units" in error.todo


def test_read_mask__a_volume_that_no_knee_has(tmp_path: Path) -> None:
    """Voxels of centimetres may have a usual size, the volume has not."""
    wide = np.zeros((160, 2, 2), np.uint8)
    path = write(tmp_path / "a.nii", wide, np.diag([0.1, 0.1, 0.1, 1]))
    error = error_of(path, None)
    assert error.reason == Reason.IMPLAUSIBLE_VOXELS
    assert error.found.startswith(str(VoxelGrid((160, 2, 2), np.diag([0.1, 0.1, 0.1, 1]))))
    path = write(tmp_path / "a.nii", wide, np.diag([5, 1, 1, 1]))
    assert error_of(path, None).reason == Reason.IMPLAUSIBLE_VOXELS


# -- labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("largest", [1, 4, 10])
def test_read_mask__labels_that_a_library_scaled_are_exact(
    tmp_path: Path, dtype: type, largest: int
) -> None:
    """nibabel fills the range of the type: 1 may become 1.0000153 or 1.0039."""
    labels = label_map(numbers=tuple(range(1, largest + 1))).astype(np.float64)
    image = nibabel.Nifti1Image(labels, RAS)
    image.set_data_dtype(dtype)
    nibabel.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.nii.gz", like=RIGHT).labels, labels)


def test_read_mask__labels_that_were_scaled_and_saved_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", (LABELS * 1.0000153).astype(np.float32))
    np.testing.assert_array_equal(read_mask(path, like=RIGHT).labels, LABELS)


@pytest.mark.parametrize(
    ("values", "stored", "found"),
    [
        (LABELS / 4, "float32", "with fractions, such as 0.25, 0.5, 0.75"),
        (LABELS / 4, "uint8", "with fractions, such as 0.251, 0.498, 0.749"),
        (LABELS + 0.4 * (LABELS == 2), "float64", "with fractions, such as 2.4"),
        (LABELS * 0.999, "float32", "with fractions, such as"),
        (LABELS * 50.0, "uint8", ""),
    ],
)
def test_read_mask__fractions_are_no_labels(
    tmp_path: Path, values: np.ndarray, stored: str, found: str
) -> None:
    image = nibabel.Nifti1Image(values.astype(np.float64), RAS)
    image.set_data_dtype(stored)
    nibabel.save(image, tmp_path / "a.nii")
    error = error_of(tmp_path / "a.nii")
    assert error.reason == Reason.FRACTIONAL_LABELS
    assert found in error.found


def test_read_mask__values_that_are_no_labels_are_named(tmp_path: Path) -> None:
    values = LABELS.astype(np.float32)
    values[0, 0, 0] = np.nan
    assert "1 voxel without a value" in error_of(write(tmp_path / "a.nii", values)).found
    many = np.where(LABELS == 1, 300, LABELS.astype(np.int16))
    many[0, 0, :2] = -1
    error = error_of(write(tmp_path / "a.nii", many))
    assert error.reason == Reason.UNREADABLE_VALUE
    assert error.found.startswith("label -1 (2 voxels), 300 (")
    channels = np.stack([LABELS == number for number in range(5)], axis=-1).astype(np.uint8)
    error = error_of(write(tmp_path / "a.nii", channels))
    assert error.found == "5 volumes (6 x 9 x 8 x 5)"
    assert "argmax" in error.todo
    assert error_of(write(tmp_path / "a.nii", LABELS[0])).reason == Reason.UNREADABLE_VALUE


def test_read_mask__one_volume_in_four_dimensions(tmp_path: Path) -> None:
    for labels in (LABELS[..., None], LABELS[..., None, None]):
        path = write(tmp_path / "a.nii.gz", labels)
        np.testing.assert_array_equal(read_mask(path, like=RIGHT).labels, LABELS)


def test_read_mask__the_second_version_and_the_other_byte_order(tmp_path: Path) -> None:
    swapped = nibabel.Nifti1Header(endianness=">")
    swapped.set_data_dtype(">i2")
    for image in (
        nibabel.Nifti2Image(LABELS, RAS),
        nibabel.Nifti1Image(LABELS.astype(np.int16), RAS, swapped),
    ):
        nibabel.save(image, tmp_path / "a.nii")
        np.testing.assert_array_equal(read_mask(tmp_path / "a.nii", like=RIGHT).labels, LABELS)
