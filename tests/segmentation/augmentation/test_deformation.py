"""Deformations: distances, no folding, and agreement of labels and image."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from qmri_lake.errors import InputError, Reason
from qmri_lake.segmentation.augmentation.cartilage_thickness import thicken
from qmri_lake.segmentation.augmentation.deformation import SmoothField, bend, deform, reposition

SPACING = (0.7, 0.365, 0.365)
SHAPE = (40, 90, 90)


def shell(inner: float = 11.0, outer: float = 13.0) -> np.ndarray:
    """Cartilage of 2 mm over the lower half of a ball, mm."""
    z, y, x = (
        ((np.arange(n) - (n - 1) / 2) * s).reshape([-1 if a == axis else 1 for a in range(3)])
        for axis, (n, s) in enumerate(zip(SHAPE, SPACING, strict=True))
    )
    radius = np.sqrt(z**2 + y**2 + x**2)
    return ((radius > inner) & (radius <= outer) & (y > -2)).astype(np.uint8)


def all_places(places) -> np.ndarray:
    return np.stack([places(i) for i in range(SHAPE[0])], axis=1).astype(float)


def volume_ratio(places: np.ndarray) -> np.ndarray:
    """Determinant of the Jacobian: 1 without stretching, negative with folding."""
    slopes = [np.gradient(p, axis=(0, 1, 2)) for p in places]
    return np.linalg.det(np.moveaxis(np.array(slopes), (0, 1), (-2, -1)))


def test_deform__identity_returns_the_input() -> None:
    rng = np.random.default_rng(0)
    image, labels = rng.random(SHAPE, dtype=np.float32), rng.integers(0, 5, SHAPE, np.uint8)
    grid = np.indices(SHAPE).astype(np.float32)
    same = deform(image, labels, lambda i: grid[:, i])
    np.testing.assert_array_equal(same[0], image)
    np.testing.assert_array_equal(same[1], labels)


def test_deform__equals_scipy_and_is_0_outside_the_image() -> None:
    rng = np.random.default_rng(0)
    shape = (6, 9, 11)
    image, labels = rng.random(shape, dtype=np.float32), rng.integers(1, 5, shape, np.uint8)
    places = (np.indices(shape) + rng.uniform(-2, 2, (3, *shape))).astype(np.float32)
    new_image, new_labels = deform(image, labels, lambda i: places[:, i])
    last = np.array(shape).reshape(3, 1, 1, 1) - 1
    beyond = ((places < -0.5) | (places >= last + 0.5)).any(axis=0)
    assert 0.1 < beyond.mean() < 0.6
    linear = map_coordinates(image, np.clip(places, 0, last), order=1, mode="nearest")
    np.testing.assert_allclose(new_image, np.where(beyond, 0, linear), atol=1e-5)
    nearest = labels[tuple(np.clip(np.floor(places + 0.5), 0, last).astype(int))]
    np.testing.assert_array_equal(new_labels, np.where(beyond, 0, nearest))


@pytest.mark.parametrize("shape", [(1, 5, 6), (5, 1, 6), (5, 6, 1)])
def test_deform__single_slice_row_or_column(shape: tuple[int, int, int]) -> None:
    image, labels = np.full(shape, 7, np.float32), np.ones(shape, np.uint8)
    rng = np.random.default_rng(0)
    new_image, new_labels = deform(image, labels, bend(shape, (50, 50, 50), rng))
    assert (new_image == 7).all()
    assert (new_labels == 1).all()


def test_smooth_field__has_mean_0_and_sd_1_and_is_smooth() -> None:
    rng = np.random.default_rng(0)
    fields = SmoothField((20, 60, 60), (2.0, 1.0, 1.0), 10.0, 40, rng)
    values = np.stack([fields.slice(i) for i in range(20)], axis=1)
    assert abs(values.mean()) < 0.05
    assert 0.9 < values.std() < 1.05
    assert np.abs(np.diff(values, axis=3)).std() < 0.15
    # Along slices it is twice as far from one to the next.
    ratio = np.diff(values, axis=1).std() / np.diff(values, axis=3).std()
    assert 1.8 < ratio < 2.2


def test_reposition__keeps_shapes_in_mm() -> None:
    for seed in range(5):
        places = all_places(reposition(SHAPE, SPACING, np.random.default_rng(seed)))
        step = np.array(SPACING)
        metric = places * step[:, None, None, None]
        axes = [np.diff(metric, axis=a + 1)[:, 3, 4, 5] / step[a] for a in range(3)]
        product = np.array(axes) @ np.array(axes).T
        scale = product[0, 0]
        np.testing.assert_allclose(product, scale * np.eye(3), atol=1e-3)
        assert 0.95 <= np.sqrt(scale) <= 1.0 / 0.95 + 1e-3
        middle = metric.reshape(3, -1).mean(axis=1) - (np.array(SHAPE) - 1) / 2 * step
        assert np.abs(middle).max() <= 5
        assert np.abs(middle).max() > 0.1


def test_bend__moves_by_a_millimetre_or_so_and_folds_nowhere() -> None:
    grid = np.indices(SHAPE)
    moved = []
    for seed in range(10):
        places = all_places(bend(SHAPE, SPACING, np.random.default_rng(seed)))
        assert volume_ratio(places).min() > 0.2
        moved.append((places - grid) * np.array(SPACING)[:, None, None, None])
    assert 1 < np.std(moved) < 2


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_thicken__changes_half_of_the_cartilage(sign: float) -> None:
    labels = shell()
    image = 100 + 300 * labels.astype(np.float32)
    grid = np.indices(SHAPE)
    for seed in range(4):
        places = thicken(labels, SPACING, (1, 2, 3), sign, np.random.default_rng(seed))
        where = all_places(places)
        assert volume_ratio(where).min() > 0
        moved = np.linalg.norm((where - grid) * np.array(SPACING)[:, None, None, None], axis=0)
        assert 0.2 < moved.max() <= 0.75
        new_image, new_labels = deform(image, labels, places)
        change = np.count_nonzero(new_labels) / np.count_nonzero(labels) - 1
        assert 0.05 < sign * change < 0.6
        # Where the image is bright, and only there, the labels say cartilage.
        bright, tissue = new_image > 250, new_labels == 1
        overlap = 2 * np.count_nonzero(bright & tissue) / (bright.sum() + tissue.sum())
        assert overlap > 0.97
        # Column by column of the surface, some change and some do not.
        before, after = (a.sum(axis=1)[10:30, 25:65].astype(int) for a in (labels, new_labels))
        by = sign * (after - before)
        assert by.max() >= 2
        assert (by <= 0).any()


def test_thicken__does_not_change_distant_voxels() -> None:
    labels = shell(6, 8)
    places = all_places(thicken(labels, SPACING, (1,), 1.0, np.random.default_rng(0)))
    grid = np.indices(SHAPE)
    np.testing.assert_allclose(places[:, :3], grid[:, :3], atol=1e-4)
    np.testing.assert_allclose(places[:, :, :10], grid[:, :, :10], atol=1e-4)


def test_thicken__rejects_labels_without_cartilage() -> None:
    with pytest.raises(InputError, match="no cartilage in the labels") as caught:
        thicken(np.full(SHAPE, 4, np.uint8), SPACING, (1, 2, 3), 1.0, np.random.default_rng(0))
    assert caught.value.reason is Reason.EMPTY_MASK
