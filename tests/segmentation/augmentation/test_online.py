"""Online augmentation: flips and rotations of image, labels and distance maps together."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import rotate

from qmri_lake.errors import InputError, Reason
from qmri_lake.phantom import exams, knee
from qmri_lake.segmentation.augmentation.online import augment
from qmri_lake.segmentation.models.distance_maps import distance_maps

Volume = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def volume() -> Volume:
    """Bones, and an image with signal 100, 200, 300, 400 by label."""
    labels = knee(exams(1)[0], shape=(24, 96, 96)).dess_bone
    image = (100.0 * (labels + 1)).astype(np.float32)
    return image, labels, distance_maps(labels, 4, (1, 1, 1))


def turned(volume: Volume, seed: int = 0, **options: float) -> Volume:
    options = {"flip": 0, "rotation": 1, "degrees": 5, **options}
    return augment(*volume, np.random.default_rng(seed), **options)  # type: ignore[arg-type]


def test_augment__flip_is_exact(volume: Volume) -> None:
    image, labels, phi = augment(*volume, np.random.default_rng(0), flip=1, rotation=0)
    np.testing.assert_array_equal(image, volume[0][::-1])
    np.testing.assert_array_equal(labels, volume[1][::-1])
    np.testing.assert_array_equal(phi, volume[2][:, ::-1])


def test_augment__without_flip_and_rotation_returns_the_input(volume: Volume) -> None:
    for made, given in zip(
        augment(*volume, np.random.default_rng(0), flip=0, rotation=0), volume, strict=True
    ):
        np.testing.assert_array_equal(made, given)


def test_augment__rotation_equals_scipy_by_a_whole_degree(volume: Volume) -> None:
    """The angle is one of -5..5 except 0, and each of them occurs."""
    inner = np.s_[:, 12:84, 12:84]  # scipy treats the edge differently
    images = {
        a: rotate(volume[0], a, axes=(1, 2), reshape=False, order=1)[inner] for a in range(-5, 6)
    }
    drawn = []
    for seed in range(60):
        image, _, _ = turned(volume, seed)
        off = {a: np.abs(image[inner] - images[a]).max() for a in images}
        nearest = min(off, key=lambda a: off[a])
        assert off[nearest] < 0.1
        drawn.append(nearest)
    assert set(drawn) == {-5, -4, -3, -2, -1, 1, 2, 3, 4, 5}


def test_augment__labels_are_nearest_and_of_known_values(volume: Volume) -> None:
    rng = np.random.default_rng(1)
    labels = rng.choice(np.array([0, 3, 200], np.uint8), volume[1].shape)
    image = labels.astype(np.float32)
    out, found, _ = augment(image, labels, volume[2], rng, flip=0, rotation=1)
    assert set(np.unique(found)) == {0, 3, 200}
    assert found.dtype == np.uint8
    assert len(np.unique(out)) > 100  # linear, unlike the labels


def test_augment__image_and_labels_stay_together(volume: Volume) -> None:
    image, labels, phi = turned(volume)
    outside = image == 0
    assert not labels[outside].any()
    assert not phi[:, outside].any()
    assert 0 < outside.mean() < 0.1
    # A label is that of the pixel with most weight, a quarter at least; labels differ by up to 3.
    off = np.abs(image - 100.0 * (labels + 1))[~outside]
    assert off.max() <= 225.1
    alike, shifted = (
        np.mean(np.abs(image - 100.0 * (a + 1))[~outside] < 1)
        for a in (labels, np.roll(labels, 1, axis=2))
    )
    assert alike > 0.97
    assert shifted < alike - 0.005


def test_augment__phi_follows_the_labels(volume: Volume) -> None:
    """Compared with the distance maps of the rotated labels."""
    _, labels, phi = turned(volume)
    anew = distance_maps(labels, 4, (1, 1, 1))
    inner = np.s_[:, :, 12:84, 12:84]
    assert np.abs(phi - anew)[inner].mean() < 0.03
    assert phi.min() >= 0
    assert phi.max() <= 1


def test_augment__pixels_that_are_not_square() -> None:
    """A cone of 20 mm does not change; with pixels of 1 x 2 mm it is an ellipse in indices."""
    down, along = np.mgrid[-30:31, -15:16] * np.array([1.0, 2.0])[:, None, None]
    cone = np.maximum(20 - np.hypot(down, along), 0).astype(np.float32)[None]
    labels, phi = (cone > 5).astype(np.uint8), np.zeros((1, *cone.shape), np.float32)
    kept, _, _ = turned((cone, labels, phi), spacing=(1.0, 2.0))
    moved, _, _ = turned((cone, labels, phi))
    assert np.abs(kept - cone).mean() < 0.3 * np.abs(moved - cone).mean()


def test_augment__probabilities(volume: Volume) -> None:
    image = np.arange(2.0 * 9).reshape(2, 3, 3).astype(np.float32)
    labels, phi = np.zeros((2, 3, 3), np.uint8), np.zeros((1, 2, 3, 3), np.float32)
    rng = np.random.default_rng(0)
    seen = [augment(image, labels, phi, rng)[0] for _ in range(2000)]
    flipped = np.array([s[0, 1, 1] > s[1, 1, 1] for s in seen])
    still = np.array([np.isin(s, image).all() and s[0, 0, 1] % 9 == 1 for s in seen])
    assert 0.45 < flipped.mean() < 0.55
    assert 0.45 < still.mean() < 0.55
    assert 0.2 < (flipped & still).mean() < 0.3


def test_augment__same_state_same_volume(volume: Volume) -> None:
    kept = [a.copy() for a in volume]
    first, second = (turned(volume, 3, flip=0.5) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(volume, kept, strict=True):
        np.testing.assert_array_equal(a, b)  # the input is not written to


def test_augment__single_row(volume: Volume) -> None:
    image = np.ones((3, 1, 9), np.float32)
    out, _, _ = turned((image, np.ones_like(image, np.uint8), np.ones((2, 3, 1, 9), np.float32)))
    assert (out[:, 0, 2:7] == 1).all()


def test_augment__bad_input(volume: Volume) -> None:
    image, labels, phi = volume
    with pytest.raises(InputError, match="labels of") as caught:
        augment(image, labels[1:], phi, np.random.default_rng(0))
    assert caught.value.reason is Reason.GRID_MISMATCH
    with pytest.raises(InputError, match=r"flip=1\.5 \(expected 0 to 1"):
        turned(volume, flip=1.5)
    with pytest.raises(InputError, match=r"degrees=0\.5"):
        turned(volume, degrees=0.5)
