"""NRRD masks: crops and layers of 3D Slicer, units, and headers apart from their values."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest

from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.files import read_mask
from qmri_lake.masks.grids import ExamGrid
from tests.masks.writers import SHAPE, affine_of, cropped, label_map, turned, write_crop, write_nrrd

LPS = affine_of("right")
RIGHT = ExamGrid(SHAPE, LPS, "right")
LABELS = label_map()


def error_of(path: Path, labels: object = None, like: ExamGrid | None = RIGHT) -> InputError:
    with pytest.raises(InputError) as caught:
        read_mask(path, labels, like=like)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert caught.value.todo
    return caught.value


# -- crops ---------------------------------------------------------------------------------------


def test_read_mask__a_crop_is_put_into_its_place(tmp_path: Path) -> None:
    """In all orders of axes: the offset counts in the axes of the file."""
    index = np.arange(1, LABELS.size + 1).reshape(SHAPE)
    for axes in itertools.permutations(range(3)):
        for flips in ((), (0,), (1, 2), (0, 1, 2)):
            path = write_crop(tmp_path / "a.seg.nrrd", *turned(LABELS, LPS, axes, flips))
            kept = np.isin(index, cropped(turned(index, LPS, axes, flips)[0]))
            assert 0 < kept.sum() < kept.size
            mask = read_mask(path, like=RIGHT)
            np.testing.assert_array_equal(mask.labels, np.where(kept, LABELS, 0))


def test_read_mask__a_whole_segmentation_and_one_cut_at_its_end(tmp_path: Path) -> None:
    offset = {"Segmentation_ReferenceImageExtentOffset": "0 0 0"}
    path = write_nrrd(tmp_path / "a.seg.nrrd", LABELS, LPS, **offset)
    np.testing.assert_array_equal(read_mask(path, like=RIGHT).labels, LABELS)
    assert not read_mask(path).cropped
    path = write_nrrd(tmp_path / "a.seg.nrrd", LABELS[:4], LPS, **offset)
    mask = read_mask(path, like=RIGHT)
    np.testing.assert_array_equal(mask.labels[:4], LABELS[:4])
    assert not mask.labels[4:].any()
    # Without the offset, nothing says that the other slices are background.
    path = write_nrrd(tmp_path / "a.seg.nrrd", LABELS[:4], LPS)
    assert error_of(path).reason == Reason.GRID_MISMATCH


@pytest.mark.parametrize("offset", ["0 0 0", "1 2 4", "2 1 3", "-1 2 3"])
def test_read_mask__an_offset_that_contradicts_the_origin(tmp_path: Path, offset: str) -> None:
    header = {"Segmentation_ReferenceImageExtentOffset": offset}
    error = error_of(write_crop(tmp_path / "a.seg.nrrd", LABELS, LPS, **header))
    assert error.reason == Reason.CONTRADICTORY_AFFINES
    stated = ", ".join(offset.split())
    assert f"voxel ({stated}) of the image by its offset, and at voxel (1, 2, 3)" in error.found


@pytest.mark.parametrize("offset", ["1 2", "a b c", "1.5 2 3", ""])
def test_read_mask__an_offset_that_is_no_position(tmp_path: Path, offset: str) -> None:
    path = write_crop(tmp_path / "a.seg.nrrd", LABELS, LPS)
    content = path.read_bytes().replace(b"Offset:=1 2 3", b"Offset:=" + offset.encode())
    path.write_bytes(content)
    assert error_of(path).reason == Reason.UNREADABLE_VALUE


def test_read_mask__a_crop_between_the_voxels_or_beyond_the_image(tmp_path: Path) -> None:
    moved = LPS.copy()
    moved[2, 3] += 0.1
    error = error_of(write_crop(tmp_path / "a.seg.nrrd", LABELS, moved))
    assert error.reason == Reason.GRID_MISMATCH
    assert "0.10 mm beside the voxels" in error.found
    small = ExamGrid((4, 9, 8), LPS, "right")
    lost = int(np.count_nonzero(LABELS[4:5, 2:8, 3:7]))
    error = error_of(write_crop(tmp_path / "a.seg.nrrd", LABELS, LPS), like=small)
    assert error.reason == Reason.GRID_MISMATCH
    assert f"{lost} labelled voxels outside the image" in error.found
    inside = np.where(np.arange(6)[:, None, None] < 4, LABELS, 0)
    path = write_crop(tmp_path / "a.seg.nrrd", inside, LPS)
    np.testing.assert_array_equal(read_mask(path, like=small).labels, cropped(inside)[:4])


def geometry(affine: np.ndarray, shape: tuple[int, ...] = SHAPE) -> dict[str, str]:
    """The image of a segmentation, as 3D Slicer stores it: a matrix in RAS, and bounds."""
    matrix = np.diag([-1, -1, 1, 1]) @ affine
    numbers = [*matrix.ravel(), *(n for size in shape for n in (0, size - 1))]
    text = ";".join(f"{number:.17g}" for number in numbers)
    name = "Segmentation_ConversionParameters"
    return {name: f"Smoothing factor|0.5|x&Reference image geometry|{text};|x&"}


def test_read_mask__a_crop_without_an_exam(tmp_path: Path) -> None:
    path = write_crop(tmp_path / "a.seg.nrrd", LABELS, LPS)
    mask = read_mask(path)
    assert mask.cropped
    np.testing.assert_array_equal(mask.labels, LABELS[1:5, 2:8, 3:7])
    np.testing.assert_allclose(mask.affine[:3, 3], (LPS @ [1, 2, 3, 1])[:3], atol=1e-9)
    path = write_crop(tmp_path / "a.seg.nrrd", LABELS, LPS, **geometry(LPS))
    mask = read_mask(path)
    assert not mask.cropped
    np.testing.assert_array_equal(mask.labels, cropped(LABELS))
    np.testing.assert_allclose(mask.affine, LPS, atol=1e-9)


def test_read_mask__a_crop_of_another_image_on_the_same_voxels(tmp_path: Path) -> None:
    """The segmentation was drawn on a part of the exam's image, and its offset counts in it."""
    part = LPS.copy()
    part[:3, 3] = (LPS @ [0, 1, 2, 1])[:3]
    header = {"Segmentation_ReferenceImageExtentOffset": "1 1 1", **geometry(part, (6, 8, 6))}
    path = write_crop(tmp_path / "a.seg.nrrd", LABELS, LPS, **header)
    np.testing.assert_array_equal(read_mask(path, like=RIGHT).labels, cropped(LABELS))
    # The image of another file, in a header that was copied, explains nothing.
    header = {"Segmentation_ReferenceImageExtentOffset": "1 1 1", **geometry(np.eye(4))}
    path = write_crop(tmp_path / "a.seg.nrrd", LABELS, LPS, **header)
    assert error_of(path).reason == Reason.CONTRADICTORY_AFFINES


# -- segments ------------------------------------------------------------------------------------


def segments(*rows: tuple[str, int, int], **more: str) -> dict[str, str]:
    """Header of segments: name, layer, value."""
    found = {}
    for index, (name, layer, value) in enumerate(rows):
        key = f"Segment{index}"
        found |= {
            f"{key}_ID": f"Segment_{index + 1}",
            f"{key}_Name": name,
            f"{key}_Layer": str(layer),
            f"{key}_LabelValue": str(value),
        }
    return {**found, **more}


def write_layers(path: Path, layers: list[np.ndarray], **header: Any) -> Path:
    directions = np.vstack([np.full(3, np.nan), LPS[:3, :3].T])
    fields = {
        "space": "left-posterior-superior",
        "kinds": ["list", "domain", "domain", "domain"],
        "space directions": directions,
        "space origin": LPS[:3, 3],
    }
    nrrd.write(str(path), np.stack(layers), {**fields, **header})
    return path


def test_read_mask__layers_without_overlap_are_one_label_map(tmp_path: Path) -> None:
    layers = [np.where(LABELS < 3, LABELS, 0), np.where(LABELS >= 3, LABELS, 0)]
    rows = [("Femur", 0, 1), ("Cartilage", 0, 2), ("Tibia", 1, 3), ("Other", 1, 4)]
    path = write_layers(tmp_path / "a.seg.nrrd", layers, **segments(*rows))
    mask = read_mask(path, "oai-zib", like=RIGHT)
    np.testing.assert_array_equal(mask.labels, LABELS)
    named = read_mask(path, {"Femur": "femur", "Cartilage": "femoral", 3: "tibia", 4: "tibial"})
    np.testing.assert_array_equal(named.bone, mask.bone)


def test_read_mask__equal_numbers_in_several_layers_need_names(tmp_path: Path) -> None:
    layers = [np.where(LABELS == number, 1, 0) for number in (1, 2)]
    rows = [("Femur", 0, 1), ("Tibia", 1, 1)]
    path = write_layers(tmp_path / "a.seg.nrrd", layers, **segments(*rows))
    mask = read_mask(path, {"Femur": "femur", "Tibia": "tibia"}, like=RIGHT)
    np.testing.assert_array_equal(mask.bone, np.where(LABELS < 3, LABELS, 0))
    assert mask.notes == ("labels numbered as segments: Femur, Tibia",)
    error = error_of(path, {1: "femur"})
    assert error.reason == Reason.UNKNOWN_LABEL
    assert "equal numbers in several layers" in error.found
    # Files of older versions have a layer for each segment, and say neither layer nor number.
    header = {"Segment0_ID": "a", "Segment0_Name": "Femur", "Segment1_ID": "b"}
    path = write_layers(tmp_path / "b.seg.nrrd", layers, **header, Segment1_Name="Tibia")
    old = read_mask(path, {"Femur": "femur", "Tibia": "tibia"}, like=RIGHT)
    np.testing.assert_array_equal(old.labels, mask.labels)


def test_read_mask__overlapping_segments_are_refused(tmp_path: Path) -> None:
    other = np.where(LABELS == 2, 2, 0)
    other[LABELS == 1] = 2
    count = int((LABELS == 1).sum())
    rows = [("Femur", 0, 1), ("Cartilage", 1, 2)]
    layers = [np.where(LABELS == 1, 1, 0), other]
    error = error_of(write_layers(tmp_path / "a.seg.nrrd", layers, **segments(*rows)))
    assert error.reason == Reason.OVERLAPPING_LABELS
    assert error.found == f"{count} voxels both in 'Cartilage' and in 'Femur'"


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], Reason.UNREADABLE_VALUE),
        ([("Femur", 0, 1), ("Tibia", 2, 2)], Reason.UNREADABLE_VALUE),
        ([("Femur", 0, 1)], Reason.UNKNOWN_LABEL),
        ([("Femur", 0, 1), ("Tibia", 1, 3)], Reason.UNKNOWN_LABEL),
    ],
)
def test_read_mask__layers_that_segments_do_not_explain(
    tmp_path: Path, rows: list[tuple[str, int, int]], reason: Reason
) -> None:
    layers = [np.where(LABELS == number, number, 0) for number in (1, 2)]
    path = write_layers(tmp_path / "a.seg.nrrd", layers, **segments(*rows))
    assert error_of(path).reason == reason


def test_read_mask__segments_of_one_name_are_one_tissue(tmp_path: Path) -> None:
    rows = [("Tibia", 0, 1), ("Tibia", 0, 2), ("Femur", 0, 3), ("Other", 0, 4)]
    path = write_nrrd(tmp_path / "a.seg.nrrd", LABELS, LPS, **segments(*rows))
    mask = read_mask(path, {"Tibia": "tibia", "Femur": "femur", "Other": "background"})
    np.testing.assert_array_equal(mask.bone, np.array([0, 2, 2, 1, 0])[LABELS])


def test_read_mask__voxels_outside_the_extent_of_their_segment(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3, 2:5, 3:6] = 1
    fits = segments(("Femur", 0, 1), Segment0_Extent="1 2 2 4 3 5")
    path = write_nrrd(tmp_path / "a.seg.nrrd", labels, LPS, **fits)
    np.testing.assert_array_equal(read_mask(path, like=RIGHT).labels, labels)
    for extent, outside in (("1 1 2 4 3 5", 9), ("0 -1 0 -1 0 -1", 18)):
        header = {**fits, "Segment0_Extent": extent}
        error = error_of(write_nrrd(tmp_path / "a.seg.nrrd", labels, LPS, **header))
        assert error.reason == Reason.CONTRADICTORY_AFFINES
        assert f"{outside} voxels of segment 'Femur' outside its extent" in error.found


# -- units and files -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "unit"), [(1, "mm"), (0.1, "cm"), (1e3, "um"), (1e-3, "meters")]
)
def test_read_mask__space_units_become_millimetres(
    tmp_path: Path, factor: float, unit: str
) -> None:
    affine = np.diag([factor, factor, factor, 1]) @ LPS
    path = write_nrrd(tmp_path / "a.nrrd", LABELS, affine, **{"space units": [unit] * 3})
    np.testing.assert_array_equal(read_mask(path, like=RIGHT).labels, LABELS)
    np.testing.assert_allclose(read_mask(path).affine, LPS, atol=1e-9)


def test_read_mask__space_units_that_can_not_be(tmp_path: Path) -> None:
    for units, factor, found in (
        (["inch"] * 3, 1, "space units inch"),
        (["mm", "mm", "cm"], 1, "space units cm, mm"),
        (["m"] * 3, 1e3, ": micrometres?"),  # the micro sign is lost
        (["mm"] * 3, 1e3, ": micrometres?"),
    ):
        affine = np.diag([factor, factor, factor, 1]) @ LPS
        path = write_nrrd(tmp_path / "a.nrrd", LABELS, affine, **{"space units": units})
        error = error_of(path)
        assert error.reason == Reason.IMPLAUSIBLE_VOXELS
        assert found in error.found


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii"])
def test_read_mask__values_in_a_file_beside_the_header(tmp_path: Path, encoding: str) -> None:
    path = write_nrrd(tmp_path / "a.nhdr", LABELS, LPS, encoding=encoding)
    np.testing.assert_array_equal(read_mask(path, like=RIGHT).labels, LABELS)
    (data,) = (file for file in tmp_path.iterdir() if file != path)
    content = data.read_bytes()
    data.write_bytes(content[: len(content) // 2])
    assert error_of(path).reason in (Reason.TRUNCATED_FILE, Reason.UNREADABLE_FILE)
    data.unlink()
    error = error_of(path)
    assert error.found == f"the file of the values, {data.name!r}, is not beside the header"
    (tmp_path / "inner").mkdir()
    moved = tmp_path / "inner" / "a.nhdr"
    data.write_bytes(content)
    for name in (f"../{data.name}", str(data), "LIST"):
        moved.write_text(path.read_text().replace(data.name, name))
        assert "is not beside the header" in error_of(moved).found


def test_read_mask__skipped_bytes(tmp_path: Path) -> None:
    path = write_nrrd(tmp_path / "a.nrrd", LABELS, LPS, encoding="raw")
    header, _, values = path.read_bytes().partition(b"\n\n")
    for skip, content in ((5, b"12345" + values), (-1, b"any text before" + values)):
        line = f"\nbyte skip: {skip}\n\n".encode()
        path.write_bytes(header + line + content)
        np.testing.assert_array_equal(read_mask(path, like=RIGHT).labels, LABELS)
