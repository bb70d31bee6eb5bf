"""Mask files of all formats, reordered to the grid of an exam or to the axis order of a lake."""

from __future__ import annotations

import itertools
from pathlib import Path

import h5py
import nibabel
import nrrd
import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.masks.files import read_mask
from qmri_lake.masks.grids import ExamGrid
from tests.conftest import Judge
from tests.masks.writers import (
    SHAPE,
    SPACES,
    affine_of,
    dess_lake,
    label_map,
    turned,
    write_imorphics,
    write_iwoai,
    write_meta_image,
    write_nifti,
    write_nrrd,
)

RIGHT = ExamGrid(SHAPE, affine_of("right"), "right")
SIX = (1, 2, 3, 4, 5, 6)


def test_read_mask__round_trip_in_every_axis_order(tmp_path: Path, judge: Judge) -> None:
    """All 48 orders and directions, in NIfTI, in three spaces of NRRD, and in MetaImage."""
    labels, affine = label_map(), affine_of("right")
    wrong, count = [], 0
    for axes in itertools.permutations(range(3)):
        for flips in itertools.chain.from_iterable(
            itertools.combinations(range(3), n) for n in range(4)
        ):
            space = list(SPACES)[count % 3]
            paths = [
                write_nifti(tmp_path / "a.nii.gz", *turned(labels, affine, axes, flips)),
                write_nrrd(tmp_path / "a.nrrd", *turned(labels, affine, axes, flips), space),
                write_meta_image(tmp_path / "a.mha", *turned(labels, affine, axes, flips)),
            ]
            for path, like in itertools.product(paths, (None, RIGHT)):
                mask = ql.read_mask(path, "oai-zib", like=like)
                count += 1
                same = np.array_equal(mask.labels, labels)
                if not (same and np.abs(mask.affine - affine).max() < 1e-4):
                    wrong.append((axes, flips, path.name))
    judge(
        "masks / round trip of NIfTI, NRRD and MetaImage, 48 orders of axes, oblique",
        required="the same voxels and affine, with and without the exam's grid",
        measured=f"{count - len(wrong)} of {count}",
        passed=not wrong and count == 288,
    )


def test_read_mask__round_trip_of_contours_and_channels(tmp_path: Path, judge: Judge) -> None:
    labels = label_map(numbers=SIX)
    labels[(labels == 3) | (labels == 2)] = 1
    labels[1, 0, 0], labels[4, 0, 0] = 3, 2  # medial is left of lateral, in a right knee
    mat = ql.read_mask(write_imorphics(tmp_path / "a.mat", labels), "imorphics", like=RIGHT)
    seg = ql.read_mask(write_iwoai(tmp_path / "a.seg", labels), "iwoai", like=RIGHT)
    same = [bool(np.array_equal(mask.labels, labels)) for mask in (mat, seg)]
    judge(
        "masks / round trip of iMorphics contours and IWOAI channels",
        required="the same voxels",
        measured=f"equal: .mat {same[0]}, .seg {same[1]}",
        passed=all(same),
    )
    for mask in (mat, seg):
        assert mask.notes == ()
        assert mask.bone is None, "no bones were segmented: that is not background"
        expected = np.array([0, 1, 2, 2, 3, 4, 4], np.uint8)[labels]
        np.testing.assert_array_equal(mask.cartilage, expected)
        np.testing.assert_array_equal(mask.affine, RIGHT.affine)


def test_read_mask__bone_and_cartilage_are_two_arrays(tmp_path: Path) -> None:
    labels = label_map(numbers=(1, 2, 3, 4, 5))
    path = write_nifti(tmp_path / "a.nii", labels, affine_of("left"))
    mask = ql.read_mask(path, "oaizib-cm")
    np.testing.assert_array_equal(mask.bone, np.array([0, 1, 0, 2, 0, 0])[labels])
    np.testing.assert_array_equal(mask.cartilage, np.array([0, 0, 1, 0, 2, 2])[labels])
    assert mask.bone is not None
    assert mask.bone.dtype == mask.labels.dtype == np.uint8
    assert "5 tibial" in repr(mask)


def test_read_mask__without_a_table_keeps_the_numbers(tmp_path: Path) -> None:
    labels = label_map(numbers=(7, 200))
    mask = ql.read_mask(write_nifti(tmp_path / "a.nii", labels, affine_of("left"), "float32"))
    np.testing.assert_array_equal(mask.labels, labels)
    assert (mask.meanings, mask.bone, mask.cartilage) == ({}, None, None)


def test_read_mask__like_is_an_exam_of_a_lake(tmp_path: Path) -> None:
    lake = dess_lake(tmp_path / "l.lake", 2)
    labels = label_map()
    path = write_nifti(tmp_path / "a.nii", *turned(labels, affine_of("left"), (2, 1, 0), (1,)))
    one = lake.load("dess", patient=9000001, timepoint=0, knee="left")
    for like in (one, one.isel(exam=0)):
        mask = ql.read_mask(path, "oai-zib", like=like)
        np.testing.assert_array_equal(mask.labels, labels)
        np.testing.assert_array_equal(mask.affine, one.affine[0])
    with pytest.raises(NotFoundError, match="a Dataset of 2 exams"):
        ql.read_mask(path, "oai-zib", like=lake.load("dess"))
    with pytest.raises(InputError, match=r"mm off \(expected the grid of the image, within"):
        ql.read_mask(path, "oai-zib", like=lake.load("dess", exam="9000001-000m-right"))


def test_read_mask__segments_by_name(tmp_path: Path) -> None:
    labels = label_map(numbers=(1, 2, 3))
    names = {
        "Segment0_Name": "Femur",
        "Segment0_LabelValue": "2",
        "Segment1_Name": "medial tibial cartilage",
        "Segment1_LabelValue": "1",
        "Segment2_Name": "lateral tibial cartilage",
        "Segment2_LabelValue": "3",
    }
    path = write_nrrd(tmp_path / "a.seg.nrrd", labels, affine_of("right"), **names)
    table = {"Femur": "femur", "medial tibial cartilage": "tibial", 3: "tibial"}
    mask = ql.read_mask(path, table)
    assert mask.meanings == {3: "tibial", 2: "femur", 1: "tibial"}
    np.testing.assert_array_equal(mask.bone, (labels == 2).astype(np.uint8))
    with pytest.raises(InputError, match=r"no label named 'Tibia' \(expected one of Femur, medial"):
        ql.read_mask(path, {"Tibia": "tibia"})
    with pytest.raises(InputError, match="label 2 is patella, and femur by its name 'Femur'"):
        ql.read_mask(path, {2: "patella", "Femur": "femur"})


def test_read_mask__our_own_npz(tmp_path: Path) -> None:
    bone, cartilage = label_map(1, (1, 2, 3)), label_map(2, (1, 2, 3, 4))
    cartilage[bone > 0] = 0
    arrays = {"dess_bone": bone, "dess_cartilage": cartilage, "dess_affine": RIGHT.affine}
    np.savez(tmp_path / "a.npz", **arrays)
    mask = ql.read_mask(tmp_path / "a.npz", "qmri-lake", like=RIGHT)
    np.testing.assert_array_equal(mask.bone, bone)
    np.testing.assert_array_equal(mask.cartilage, cartilage)
    np.savez(tmp_path / "a.npz", dess_cartilage=cartilage, dess_affine=RIGHT.affine)
    mask = ql.read_mask(tmp_path / "a.npz", "qmri-lake")
    np.testing.assert_array_equal(mask.cartilage, cartilage)
    assert mask.bone is None
    for changed, reason in (
        ({"dess_bone": np.ones_like(bone)}, Reason.UNREADABLE_VALUE),
        ({"dess_bone": np.full_like(bone, 255)}, Reason.UNKNOWN_LABEL),
        ({"dess_affine": np.eye(3)}, Reason.GRID_MISMATCH),
    ):
        np.savez(tmp_path / "a.npz", **{**arrays, **changed})
        with pytest.raises(InputError) as caught:
            ql.read_mask(tmp_path / "a.npz", "qmri-lake")
        assert caught.value.reason == reason


def test_read_mask__the_anatomy_determines_the_slice_order_of_contours(tmp_path: Path) -> None:
    """A right and a left knee, with slices from medial and from lateral."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[1, 2:5, 1:4], labels[4, 3:6, 2:7] = 3, 2  # medial first: a right knee's order
    for index, drawn in enumerate((labels, labels[::-1])):
        path = write_imorphics(tmp_path / f"{index}.mat", drawn)
        for knee, expected in (("right", labels), ("left", labels[::-1])):
            mask = read_mask(path, "imorphics", like=ExamGrid(SHAPE, affine_of(knee), knee))
            np.testing.assert_array_equal(mask.labels, expected)
            assert len(mask.notes) == (not np.array_equal(drawn, expected))
    mask = read_mask(path, "imorphics", like=ExamGrid(SHAPE, affine_of("right")))
    np.testing.assert_array_equal(mask.labels, labels[::-1])
    assert "slices in the order of the exam" in mask.notes[0]


def test_read_mask__voxels_in_two_channels_are_counted(tmp_path: Path) -> None:
    path = write_iwoai(tmp_path / "a.seg", label_map(numbers=SIX))
    with h5py.File(path, "r+") as file:
        file["data"][0, 0, 0] = [0, 1, 0, 0, 1, 0]
    mask = read_mask(path, "iwoai", like=RIGHT)
    assert mask.labels[0, 0, 0] == 2
    assert mask.notes == ("1 voxel with two tissues, assigned to the first",)


# -- what can't be read --------------------------------------------------------------------------


def error_of(path: Path, labels: object = "oai-zib", like: ExamGrid | None = RIGHT) -> InputError:
    with pytest.raises(InputError) as caught:
        read_mask(path, labels, like=like)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert caught.value.todo
    return caught.value


def test_read_mask__a_label_outside_the_table_is_named(tmp_path: Path) -> None:
    labels = label_map()
    labels[2, 2, 2:5], labels[0, 0, 0] = 9, 17
    error = error_of(write_nifti(tmp_path / "a.nii", labels, RIGHT.affine))
    assert error.reason == Reason.UNKNOWN_LABEL
    assert error.found == "unknown label 9 (3 voxels), 17 (1 voxel)"
    assert error.expected.startswith("0, 1 femur, 2 femoral")
    seg = write_iwoai(tmp_path / "a.seg", label_map(numbers=SIX))
    assert error_of(seg, {1: "femoral"}).reason == Reason.UNKNOWN_LABEL


def test_read_mask__another_grid(tmp_path: Path) -> None:
    labels, affine = label_map(), affine_of("right")
    shifted, spaced, turned_by = affine.copy(), affine.copy(), affine.copy()
    shifted[0, 3] += 0.05
    spaced[:3, 2] *= 1.2
    angle = np.deg2rad(2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned_by[:2, :3] = turn @ affine[:2, :3]
    cases = [
        (labels, shifted, "the grid of the mask is 0.05 mm off"),
        (labels, spaced, "a mask of 6 x 9 x 8 voxels of 0.7 x 0.36 x 0.444 mm"),
        (labels, turned_by, "mm off"),
        (labels[:-1], affine, "a mask of 5 x 9 x 8 voxels of 0.7 x 0.36 x 0.37 mm"),
        (
            labels.repeat(2, 2),
            affine @ np.diag([1, 1, 0.5, 1]),
            "a mask of 6 x 9 x 16 voxels of 0.7 x 0.36 x 0.185 mm",
        ),
    ]
    for array, other, found in cases:
        error = error_of(write_nifti(tmp_path / "a.nii", array, other))
        assert error.reason == Reason.GRID_MISMATCH
        assert found in error.found
    seg = write_iwoai(tmp_path / "a.seg", label_map(numbers=SIX)[:-1])
    assert error_of(seg, "iwoai").found == "a mask of 5 x 9 x 8"
    mat = write_imorphics(tmp_path / "a.mat", label_map(numbers=SIX)[:-1])
    assert error_of(mat, "imorphics").found == "a mask of 5 x 9 x 8"


def test_read_mask__no_position(tmp_path: Path) -> None:
    labels = label_map()
    image = nibabel.Nifti1Image(labels, None)
    nibabel.save(image, tmp_path / "a.nii")
    nrrd.write(str(tmp_path / "a.nrrd"), labels)
    for name in ("a.nii", "a.nrrd"):
        error = error_of(tmp_path / name)
        assert error.reason == Reason.GRID_MISMATCH
        assert "so the position is unknown" in error.found
    flat = write_nrrd(tmp_path / "b.nrrd", labels, affine_of("right") @ np.diag([1, 0, 1, 1.0]))
    assert "voxels without volume" in error_of(flat).found
    for path in (write_iwoai(tmp_path / "a.seg", labels), tmp_path / "a.mat"):
        write_imorphics(tmp_path / "a.mat", labels)
        assert "does not store its position" in error_of(path, "iwoai", None).found


def test_read_mask__values_that_are_not_labels(tmp_path: Path) -> None:
    labels, affine = label_map(), affine_of("right")
    for values, dtype, reason in (
        (labels * 0.5, "float32", Reason.FRACTIONAL_LABELS),
        (labels - 1.0, "int16", Reason.UNREADABLE_VALUE),
        (labels * 99.0, "int16", Reason.UNREADABLE_VALUE),
    ):
        error = error_of(write_nifti(tmp_path / "a.nii", values, affine, dtype))
        assert error.reason == reason
    seg = write_iwoai(tmp_path / "a.seg", labels)
    with h5py.File(seg, "r+") as file:
        file["data"][0, 0, 0, 0] = 3
    assert "value 3 in a channel" in error_of(seg, "iwoai").found
    with h5py.File(seg, "w") as file:
        file["data"] = labels
    assert error_of(seg, "iwoai").reason == Reason.UNREADABLE_FILE


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.npz", "a.mat", "a.seg"])
def test_read_mask__a_damaged_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not what its name says" * 30)
    error = error_of(tmp_path / name)
    assert error.reason == Reason.UNREADABLE_FILE
    assert error.where == str(tmp_path / name)


def test_read_mask__other_files(tmp_path: Path) -> None:
    assert "no such file" in error_of(tmp_path / "a.nii").found
    # As OAI-ZIB delivers its masks: without a position.
    (tmp_path / "9001104.segmentation_masks.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 6 9 8\nElementType = MET_UCHAR\n"
        "ElementSpacing = 0.7 0.36 0.36\nElementDataFile = 9001104.segmentation_masks.raw\n"
    )
    (tmp_path / "9001104.segmentation_masks.raw").write_bytes(bytes(6 * 9 * 8))
    error = error_of(tmp_path / "9001104.segmentation_masks.mhd")
    assert error.found == "no Offset and no TransformMatrix, so the position is unknown"
    assert "convert the mask to NIfTI" in error.todo


# -- a real knee ---------------------------------------------------------------------------------


def test_read_mask__real_knee(real_data: Path, judge: Judge) -> None:
    path = real_data / "knee_segmentation/right_knee_labels.nrrd"
    mask = ql.read_mask(path, "pymskt")
    raw, header = nrrd.read(str(path))
    directions, origin = header["space directions"], header["space origin"]
    voxels = np.argwhere(raw)[::997]
    world = origin + sum(voxels[:, [axis]] * directions[axis] for axis in range(3))
    index = (world - mask.affine[:3, 3]) @ np.linalg.inv(mask.affine[:3, :3]).T
    off = float(np.abs(index - np.rint(index)).max())
    same = mask.labels[tuple(np.rint(index).astype(int).T)] == raw[tuple(voxels.T)]
    judge(
        "masks / oblique NRRD of a real knee: positions of the voxels",
        required="every voxel at the position in the header, to 1e-6 voxels, with its label",
        measured=f"{int(same.sum()):,} of {len(voxels):,} voxels, {off:.1e} voxels off",
        passed=bool(same.all()) and off < 1e-6 and mask.labels.shape == (160, 384, 384),
    )
    volume = abs(np.linalg.det(mask.affine[:3, :3]))
    expected = {1: 11845.6, 2: 1917.2, 3: 1848.1}
    measured = {n: float((mask.labels == n).sum() * volume) for n in expected}
    judge(
        "masks / oblique NRRD of a real knee: femoral, medial, lateral tibial cartilage",
        required="11,845.6, 1,917.2, 1,848.1 mm3 to 1 %",
        measured=", ".join(f"{v:,.1f}" for v in measured.values()) + " mm3",
        passed=all(abs(measured[n] / v - 1) < 0.01 for n, v in expected.items()),
    )
    # Slices count to the right of the patient, rows down, columns back; the oblique one as well.
    assert (np.sign(mask.affine[[0, 2, 1], [0, 1, 2]]) == [-1, -1, 1]).all()
    medial, lateral = (np.argwhere(mask.labels == n)[:, 0].mean() for n in (2, 3))
    assert medial < lateral, "a right knee: medial is to its left"
