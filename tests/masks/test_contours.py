"""Contours of iMorphics become voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.contours import FIELDS, fill_contour, read_contours
from tests.masks.writers import label_map, write_imorphics


def test_fill_contour__y_counts_from_the_bottom() -> None:
    inside = fill_contour(np.array([(1, 0), (3, 0), (3, 1), (1, 1)]), 4, 5)
    expected = np.zeros((4, 5), dtype=bool)
    expected[3, 1:3] = True
    np.testing.assert_array_equal(inside, expected)


def test_fill_contour__a_disc_has_its_area() -> None:
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    points = 50 + 20.3 * np.column_stack([np.cos(angle), np.sin(angle)])
    inside = fill_contour(points, 100, 110)
    row, column = np.nonzero(inside)
    assert inside.sum() == pytest.approx(np.pi * 20.3**2, rel=0.01)
    assert (row.mean() + 0.5, column.mean() + 0.5) == pytest.approx((50, 50), abs=0.05)
    away = np.hypot(row + 0.5 - 50, column + 0.5 - 50)
    assert away.max() <= 20.3


def test_fill_contour__adjacent_contours_partition_the_voxels() -> None:
    """A triangle and its complement in a box, with corners on the centres of pixels."""
    box = np.array([(0, 0), (8, 0), (8, 8), (0, 8)])
    low = np.array([(0.5, 0.5), (7.5, 0.5), (7.5, 7.5)])
    high = np.array([(0.5, 0.5), (7.5, 7.5), (0.5, 7.5)])
    frame = np.array([(0.5, 0.5), (7.5, 0.5), (7.5, 7.5), (0.5, 7.5)])
    parts = [fill_contour(points, 8, 8).astype(int) for points in (low, high)]
    np.testing.assert_array_equal(sum(parts), fill_contour(frame, 8, 8))
    assert fill_contour(box, 8, 8).all()


def test_fill_contour__beyond_the_image_is_cut() -> None:
    assert fill_contour(np.array([(-5, -5), (20, -5), (20, 20), (-5, 20)]), 6, 7).all()
    assert not fill_contour(np.array([(9, 9), (12, 9), (12, 12)]), 6, 7).any()


def test_read_contours__round_trip(tmp_path: Path) -> None:
    labels = label_map(numbers=(1, 2, 3, 4, 5, 6))
    path = write_imorphics(tmp_path / "a.mat", labels)
    read, shared = read_contours(str(path), *labels.shape[1:])
    np.testing.assert_array_equal(read, labels)
    assert shared == 0


def test_read_contours__voxels_of_two_tissues_are_counted(tmp_path: Path) -> None:
    structs = np.empty((1, 1), dtype=[(name, object) for name in FIELDS])
    for name in FIELDS:
        structs[0, 0][name] = np.zeros((0, 0))
    box = np.array([(0, 0), (2, 0), (2, 2), (0, 2)], float)
    structs[0, 0]["FemoralCartilage"] = box  # a contour alone, without a cell around it
    structs[0, 0]["MedialMeniscus"] = box + np.array([1, 0])
    savemat(tmp_path / "a.mat", {"datastruct": structs})
    labels, shared = read_contours(str(tmp_path / "a.mat"), 3, 4)
    assert labels[0].tolist() == [[0, 0, 0, 0], [1, 1, 6, 0], [1, 1, 6, 0]]
    assert shared == 2


@pytest.mark.parametrize(
    ("content", "reason", "found"),
    [
        ({"other": 1}, Reason.UNREADABLE_FILE, "no struct array named datastruct"),
        ({"datastruct": np.zeros(3)}, Reason.UNREADABLE_FILE, "no struct array named datastruct"),
        (
            {"datastruct": {"FemoralCartilage": np.zeros((4, 1))}},
            Reason.UNREADABLE_VALUE,
            r"a contour of shape \(4, 1\)",
        ),
        (
            {"datastruct": {"FemoralCartilage": np.full((4, 2), np.nan)}},
            Reason.UNREADABLE_VALUE,
            "points that are not finite",
        ),
    ],
)
def test_read_contours__files_without_contours(
    tmp_path: Path, content: dict[str, object], reason: Reason, found: str
) -> None:
    savemat(tmp_path / "a.mat", content)
    with pytest.raises(InputError, match=found) as caught:
        read_contours(str(tmp_path / "a.mat"), 9, 9)
    assert caught.value.reason == reason
