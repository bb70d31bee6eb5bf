"""Removal of small pieces of labels."""

from __future__ import annotations

import numpy as np
import pytest

from qmri_lake.errors import InputError
from qmri_lake.phantom import exams, knee
from qmri_lake.segmentation.quality.components import piece_volumes, remove_small

SPACING = (0.7, 0.4, 0.4)


def pieces(*sizes, value=2):
    """Separate cuboids of 1 x 1 x n voxels."""
    labels = np.zeros((3, 2 * len(sizes) + 1, max(sizes) + 2), np.uint8)
    for k, n in enumerate(sizes):
        labels[1, 2 * k + 1, 1 : n + 1] = value
    return labels


def test_remove_small__keeps_the_largest_and_other_large_pieces():
    labels = pieces(100, 60, 5, 4, 1)
    before = labels.copy()
    cleaned = remove_small(labels, spacing=SPACING)
    assert (cleaned.voxels, cleaned.pieces) == (5, 2)
    assert np.array_equal(labels, before)  # what came in is not modified
    before[:, 7:] = 0  # the pieces of 4 voxels and of 1
    assert np.array_equal(cleaned.labels, before)


def test_remove_small__compares_pieces_within_each_label():
    labels = np.concatenate([pieces(100, 3, value=1), pieces(100, 3, value=4)[:, :, ::-1]])
    labels[3:][labels[3:] > 0] = 4
    labels[4, 1] = 0  # of label 4 only the piece of 3 voxels is left
    cleaned = remove_small(labels, spacing=SPACING)
    assert (cleaned.labels == 4).sum() == 3
    assert (cleaned.labels == 1).sum() == 100
    assert cleaned[1:] == (3, 1)


def test_remove_small__by_volume():
    labels = pieces(100, 60, 50)
    voxel = float(np.prod(SPACING))
    assert remove_small(labels, spacing=SPACING, min_mm3=50 * voxel)[1:] == (0, 0)
    assert remove_small(labels, spacing=SPACING, min_mm3=51 * voxel)[1:] == (50, 1)
    # The largest stays, however small: an absent tissue is for the checks to tell.
    assert remove_small(labels, spacing=SPACING, min_mm3=1e6)[1:] == (110, 2)


def test_remove_small__corners_connect():
    labels = np.zeros((6, 6, 6), np.uint8)
    labels[range(6), range(6), range(6)] = 3
    assert remove_small(labels, spacing=SPACING, fraction=1)[1:] == (0, 0)


def test_remove_small__empty_mask():
    empty = np.zeros((3, 4, 5), np.uint8)
    assert np.array_equal(remove_small(empty, spacing=SPACING).labels, empty)
    assert piece_volumes(empty > 0, SPACING).size == 0


def test_remove_small__keeps_anatomy_and_removes_islands():
    truth = knee(exams(1)[0])
    spacing = np.linalg.norm(truth.dess_affine[:3, :3], axis=0)
    for labels, names in ((truth.dess_bone, 3), (truth.dess_cartilage, 4)):
        clean = remove_small(labels, spacing=spacing).labels
        assert (clean != labels).mean() < 1e-4  # crumbs of a few voxels
        for value in range(1, names + 1):
            had = piece_volumes(labels == value, spacing)
            assert np.array_equal(piece_volumes(clean == value, spacing), had[had > 0.05 * had[0]])
        dirty = clean.copy()
        dirty[2:4, 2:6, 2:6] = 2  # a corner of the volume, where there is no bone
        assert (clean[2:4, 2:6, 2:6] == 0).all()
        again = remove_small(dirty, spacing=spacing)
        assert np.array_equal(again.labels, clean)
        assert again[1:] == (32, 1)


def test_remove_small__rejects_voxels_that_were_not_segmented():
    with pytest.raises(InputError, match=r"voxels that are 255 \(not segmented\)"):
        remove_small(np.full((2, 2, 2), 255, np.uint8), spacing=SPACING)


def test_remove_small__rejects_an_invalid_spacing():
    with pytest.raises(InputError, match="three lengths above 0, mm"):
        remove_small(pieces(3), spacing=(0, 1, 1))


def test_piece_volumes__largest_first():
    volumes = piece_volumes(pieces(3, 10, 5) > 0, SPACING)
    np.testing.assert_allclose(volumes, np.array([10, 5, 3]) * 0.112)
