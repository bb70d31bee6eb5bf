"""The largest piece of a mask, against scipy's pieces."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from qmri_lake.surface.components_numba import largest_piece


@pytest.mark.parametrize("shape", [(7, 11, 13), (1, 9, 8), (6, 1, 9), (5, 7, 1), (1, 1, 1)])
@pytest.mark.parametrize("share", [0.03, 0.1, 0.3, 1.0])
def test_largest_piece__as_scipy_finds_it(shape: tuple[int, int, int], share: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random(shape) < share
        mask[tuple(rng.integers(shape))] = True  # never empty
        pieces, count = ndimage.label(mask, np.ones((3, 3, 3)))
        sizes = np.bincount(pieces.ravel())[1:]
        largest, others = largest_piece(mask)
        assert (largest == (pieces == sizes.argmax() + 1)).all()
        assert sorted(others) == sorted(np.delete(sizes, sizes.argmax()))
        assert len(others) == count - 1


def test_largest_piece__a_mask_in_one_piece_is_not_copied() -> None:
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True  # they share a corner
    largest, others = largest_piece(mask)
    assert np.shares_memory(largest, mask)
    assert len(others) == 0
