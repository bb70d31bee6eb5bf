"""The 18 copies of a training volume."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from qmri_lake.errors import InputError, Reason
from qmri_lake.phantom import exams, knee
from qmri_lake.segmentation.augmentation.offline import COPIES, COPY_NAMES, Copy, copies, copy_of

SIGNAL = np.array([150, 400, 420, 440, 60], np.float32)
"""Signal of background, the three cartilages, and meniscus."""


@pytest.fixture(scope="module")
def volume() -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    truth = knee(exams(1)[0], shape=(48, 128, 128))
    spacing = tuple(np.linalg.norm(truth.dess_affine[:3, :3], axis=0).tolist())
    return SIGNAL[truth.dess_cartilage], truth.dess_cartilage, spacing


@pytest.fixture(scope="module")
def made(volume: tuple) -> list[Copy]:
    return list(copies(*volume, seed=7))


def test_copies__as_many_as_the_paper(made: list[Copy]) -> None:
    assert COPIES == 18
    assert 148 * COPIES == 2664
    assert tuple(copy.name for copy in made) == COPY_NAMES
    assert len(set(COPY_NAMES)) == 18
    kinds = {name.rpartition("_")[0] for name in COPY_NAMES}
    assert {"positioning", "bone_shape", "thickening", "thinning"} < kinds


def test_copies__all_differ(volume: tuple, made: list[Copy]) -> None:
    images = [volume[0], *(copy.image for copy in made)]
    for i, image in enumerate(images):
        for other in images[:i]:
            assert np.mean(np.abs(image - other) > 1) > 1e-3


def test_copies__only_known_labels(volume: tuple, made: list[Copy]) -> None:
    for copy in made:
        assert copy.image.shape == copy.labels.shape == volume[0].shape
        assert copy.image.dtype == np.float32
        assert copy.labels.dtype == volume[1].dtype
        assert set(np.unique(copy.labels)) == {0, 1, 2, 3, 4}
        assert np.isfinite(copy.image).all()
        assert copy.image.min() >= 0


def test_copies__image_and_labels_agree(volume: tuple, made: list[Copy]) -> None:
    """Most voxels of each tissue keep their signal, in particular away from the boundary."""
    for copy in made:
        artefact = copy.name.startswith(("bias", "noise", "ghost"))
        for value, signal in enumerate(SIGNAL):
            tissue = copy.labels == value
            if value == 0:
                tissue &= copy.image > 0  # beyond the edge there is no signal
            inner = binary_erosion(tissue, iterations=1)
            inner = inner if inner.any() else tissue
            measured = np.median(copy.image[inner])
            # Ghosts and noise add to the dark meniscus.
            room = (0.35 if artefact else 0.12) * signal + (40 if artefact else 0)
            assert measured == pytest.approx(float(signal), abs=float(room)), (copy.name, value)
        if artefact:
            np.testing.assert_array_equal(copy.labels, volume[1])
        elif not copy.name.startswith("thi"):
            assert np.mean(copy.labels != volume[1]) > 1e-3


def test_copies__thickness_changes_as_named(volume: tuple) -> None:
    """Finer than the phantom, whose 1.1 mm pixels are wider than the added thickness."""
    labels = np.zeros((30, 60, 60), np.uint8)
    labels[5:25, 28:34, 8:52] = 2
    image = SIGNAL[labels]
    for number, name in enumerate(COPY_NAMES):
        if name.startswith("thi"):
            copy = copy_of(image, labels, (0.7, 0.365, 0.365), number, seed=0)
            ratio = np.count_nonzero(copy.labels) / np.count_nonzero(labels)
            assert (ratio > 1.03) if name.startswith("thick") else (ratio < 0.97)


def test_copy_of__same_seed_same_copy(volume: tuple, made: list[Copy]) -> None:
    for number in (0, 1, 2, 3, 7, 11):
        again = copy_of(*volume, number, seed=7)
        assert again.name == made[number].name
        np.testing.assert_array_equal(again.image, made[number].image)
        np.testing.assert_array_equal(again.labels, made[number].labels)
        other = copy_of(*volume, number, seed=[7, 1])
        assert (other.image != made[number].image).any()


def test_copies__one_at_a_time(volume: tuple) -> None:
    """Memory does not increase with the number of copies."""
    image, labels, spacing = volume
    kept = image.copy(), labels.copy()
    tracemalloc.start()
    for copy in copies(image, labels, spacing, seed=0, n=8):
        del copy
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * image.nbytes
    np.testing.assert_array_equal(image, kept[0])
    np.testing.assert_array_equal(labels, kept[1])


def test_copies__fewer(volume: tuple, made: list[Copy]) -> None:
    few = list(copies(*volume, seed=7, n=2))
    assert [copy.name for copy in few] == ["positioning_1", "bone_shape_1"]
    np.testing.assert_array_equal(few[1].image, made[1].image)


def test_copies__invalid_input_raises_immediately(volume: tuple) -> None:
    image, labels, spacing = volume
    with pytest.raises(InputError, match=r"label 255 \(expected 0 to 4") as caught:
        copies(image, np.where(labels == 4, 255, labels), spacing, seed=0)
    assert caught.value.reason is Reason.UNKNOWN_LABEL
    with pytest.raises(InputError, match=r"n=19 \(expected 0 to 18"):
        copies(image, labels, spacing, seed=0, n=19)
    with pytest.raises(InputError, match=r"copy 18 \(expected 0 to 17"):
        copy_of(image, labels, spacing, 18, seed=0)
    with pytest.raises(InputError, match="expected 3 lengths"):
        copies(image, labels, (1, 1), seed=0)
    with pytest.raises(InputError) as caught:
        copies(image[1:], labels, spacing, seed=0)
    assert caught.value.reason is Reason.GRID_MISMATCH
