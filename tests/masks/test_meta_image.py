"""MetaImage files: those of ITK, their values in another file, and headers that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.files import read_mask
from qmri_lake.masks.grids import ExamGrid
from tests.masks.writers import SHAPE, affine_of, label_map, turned, write_meta_image

RIGHT = ExamGrid(SHAPE, affine_of("right"), "right")
LABELS = label_map()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("packed", [True, False])
def test_read_mask__each_type_of_itk(tmp_path: Path, dtype: type, packed: bool) -> None:
    labels, affine = turned(LABELS.astype(dtype), RIGHT.affine, (2, 1, 0), (1,))
    for name in ("a.mha", "a.mhd"):
        path = write_meta_image(tmp_path / name, labels, affine, packed=packed)
        mask = read_mask(path, "oai-zib", like=RIGHT)
        np.testing.assert_array_equal(mask.labels, LABELS)


def test_read_mask__position_is_that_of_itk(tmp_path: Path) -> None:
    path = write_meta_image(tmp_path / "a.mha", LABELS, RIGHT.affine)
    mask = read_mask(path)
    image = sitk.ReadImage(str(path))
    for index in np.argwhere(LABELS == 3)[::7].tolist():
        point = image.TransformIndexToPhysicalPoint(index)
        found = np.linalg.solve(mask.affine, [*point, 1])[:3].round().astype(int)
        assert mask.labels[tuple(found)] == 3


def replaced(path: Path, line: str, by: str) -> Path:
    content = path.read_bytes()
    start = content.index(line.encode())
    stop = content.index(b"\n", start)
    new = content[:start] + by.encode() + content[stop + (not by) :]
    path.write_bytes(new)
    return path


@pytest.mark.parametrize(
    ("line", "by", "reason", "found"),
    [
        ("Offset", "", Reason.GRID_MISMATCH, "no Offset"),
        ("TransformMatrix", "", Reason.GRID_MISMATCH, "no TransformMatrix"),
        ("ElementSpacing", "", Reason.GRID_MISMATCH, "no ElementSpacing"),
        ("ElementSpacing", "ElementSpacing = 700 360 370", Reason.IMPLAUSIBLE_VOXELS, "700"),
        ("Offset", "Offset = 1 2", Reason.UNREADABLE_FILE, "Offset = '1 2'"),
        ("Offset", "Offset = nan 0 0", Reason.UNREADABLE_FILE, "Offset = 'nan 0 0'"),
        ("DimSize", "DimSize = 6 9 9", Reason.TRUNCATED_FILE, "432 of 486 bytes"),
        ("DimSize", "DimSize = 6 9 7", Reason.TRAILING_BYTES, "more bytes than the header"),
        ("NDims", "NDims = 2", Reason.UNREADABLE_FILE, "DimSize = '6 9 8'"),
        ("ElementType", "ElementType = MET_FLOAT", Reason.TRUNCATED_FILE, "432 of 1,728 bytes"),
        ("ElementType", "ElementType = MET_OTHER", Reason.UNREADABLE_FILE, "'MET_OTHER'"),
        ("BinaryData = ", "BinaryData = False", Reason.UNREADABLE_FILE, "values as text"),
        ("CompressedData", "CompressedData = no", Reason.UNREADABLE_FILE, "CompressedData = 'no'"),
        ("ElementDataFile", "ElementDataFile = ../a.raw", Reason.UNREADABLE_FILE, "not beside"),
        ("ElementDataFile", "ElementDataFile = LIST", Reason.UNREADABLE_FILE, "'LIST', is not"),
    ],
)
def test_read_mask__headers_that_are_refused(
    tmp_path: Path, line: str, by: str, reason: Reason, found: str
) -> None:
    path = write_meta_image(tmp_path / "a.mha", LABELS, RIGHT.affine, packed=False)
    replaced(path, line, by)
    with pytest.raises(InputError) as caught:
        read_mask(path, like=RIGHT)
    assert (caught.value.reason, "\n" in str(caught.value)) == (reason, False)
    assert found in caught.value.found


def test_read_mask__values_beside_the_header(tmp_path: Path) -> None:
    path = write_meta_image(tmp_path / "a.mhd", LABELS, RIGHT.affine, packed=False)
    raw = tmp_path / "a.raw"
    raw.write_bytes(raw.read_bytes()[:-1])
    with pytest.raises(InputError, match="431 of 432 bytes"):
        read_mask(path, like=RIGHT)
    raw.unlink()
    with pytest.raises(InputError, match=r"'a\.raw', is not beside the header"):
        read_mask(path, like=RIGHT)
