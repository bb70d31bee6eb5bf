"""Distance maps, against scipy and the definition."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, distance_transform_edt

from qmri_lake.errors import InputError, Reason
from qmri_lake.phantom import exams, knee
from qmri_lake.segmentation.models.distance_maps import distance_maps

DESS = (0.7, 0.365, 0.365)


def slow_maps(labels: np.ndarray, n_classes: int, spacing: tuple[float, ...]) -> np.ndarray:
    """The definition: on each side, the distance to its voxels adjacent to the other side."""
    maps = np.zeros((n_classes, *labels.shape))
    for value in range(n_classes):
        inside = labels == value
        if inside.all() or not inside.any():
            continue
        for side in (inside, ~inside):
            border = side & binary_dilation(~side)
            distance = distance_transform_edt(~border, sampling=spacing)
            farthest = distance[side].max()
            maps[value][side] = 1 - distance[side] / farthest if farthest else 1
    return maps


@pytest.fixture(scope="module")
def cartilage() -> np.ndarray:
    return knee(exams(1)[0], shape=(32, 96, 96)).dess_cartilage


@pytest.mark.parametrize("parallel", [1, 2])
def test_distance_maps__equals_scipy_on_a_knee(cartilage: np.ndarray, parallel: int) -> None:
    spacing = (3.5, 1.46, 1.4)  # three lengths: a transposed one would show
    assert set(np.unique(cartilage)) == {0, 1, 2, 3, 4}
    maps = distance_maps(cartilage, 5, spacing, parallel=parallel)
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, slow_maps(cartilage, 5, spacing), atol=1e-5)


def test_distance_maps__equals_scipy_on_noise() -> None:
    rng = np.random.default_rng(0)
    for shape in ((7, 9, 11), (1, 12, 5), (6, 1, 8)):
        labels = rng.integers(0, 3, shape).astype(np.uint8)
        labels[:, : shape[1] // 2] = 1
        np.testing.assert_allclose(
            distance_maps(labels, 3, DESS), slow_maps(labels, 3, DESS), atol=1e-5
        )


def test_distance_maps__slice(cartilage: np.ndarray) -> None:
    rows = cartilage[16]
    maps = distance_maps(rows, 5, (0.5, 0.8))
    assert maps.shape == (5, *rows.shape)
    np.testing.assert_allclose(maps, slow_maps(rows, 5, (0.5, 0.8)), atol=1e-5)


def test_distance_maps__by_hand() -> None:
    """A bar of five: 2 mm a voxel, its middle 4 mm from its ends, which are boundary."""
    labels = np.zeros((3, 11), np.int64)
    labels[:, 3:8] = 1
    phi = distance_maps(labels, 2, (1.0, 2.0))[1]
    expected = [0, 0.5, 1, 1, 0.5, 0, 0.5, 1, 1, 0.5, 0]
    np.testing.assert_allclose(phi, [expected] * 3)


def test_distance_maps__sheet_of_one_voxel_is_boundary() -> None:
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[:, 4] = 1
    phi = distance_maps(labels, 2, (1, 1, 1))[1]
    assert (phi[:, 3:6] == 1).all()
    assert (phi[:, [0, 8]] == 0).all()


def test_distance_maps__absent_class_is_0() -> None:
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1:3, 2, 3] = 2
    maps = distance_maps(labels, 4, (1, 1, 1))
    assert not maps[[1, 3]].any()
    assert maps[2].max() == 1
    assert not distance_maps(np.zeros((4, 5, 6), np.uint8), 2, (1, 1, 1)).any()


def test_distance_maps__two_classes_share_a_boundary() -> None:
    """With two classes the inside of one is the outside of the other."""
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[2:5, 3:7, :6] = 1
    background, bone = distance_maps(labels, 2, DESS)
    np.testing.assert_array_equal(background, bone)


@pytest.mark.parametrize("value", [255, 5, -1])
def test_distance_maps__unknown_label(value: int) -> None:
    labels = np.zeros((3, 4, 5), np.int16)
    labels[1, 1, 1] = value
    with pytest.raises(InputError, match=rf"label {value} \(expected 0 to 4") as caught:
        distance_maps(labels, 5, DESS)
    assert caught.value.reason is Reason.UNKNOWN_LABEL


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, 1, np.nan)])
def test_distance_maps__bad_spacing(spacing: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="expected 3 lengths above 0, mm"):
        distance_maps(np.zeros((3, 4, 5), np.uint8), 2, spacing)


def test_distance_maps__rejects_probabilities() -> None:
    with pytest.raises(InputError, match="labels of dtype float32"):
        distance_maps(np.zeros((3, 4, 5), np.float32), 2, DESS)
