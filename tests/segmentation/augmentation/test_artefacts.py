"""MR artefacts, compared with their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from qmri_lake.segmentation.augmentation.artefacts import bias_field, ghosting, noise

SPACING = (2.0, 1.0, 1.0)


def test_bias_field__is_a_smooth_factor() -> None:
    image = np.random.default_rng(1).uniform(50, 500, (20, 60, 60)).astype(np.float32)
    spread = []
    for seed in range(20):
        new = bias_field(image, SPACING, np.random.default_rng(seed))
        assert new.dtype == np.float32
        factor = new / image
        assert factor.min() > 0.5
        assert factor.max() < 2
        assert np.abs(np.diff(factor, axis=2)).max() < 0.03
        spread.append(np.log(factor).ravel())
    assert 0.08 < np.std(spread) < 0.2


def test_noise__is_rician_and_of_3_to_8_percent() -> None:
    """Rician: the mean without signal is 1.2533 sigma, the SD with high signal is sigma."""
    image = np.zeros((10, 60, 60), np.float32)
    image[:, 20:] = 1000
    sigmas = []
    for seed in range(10):
        new = noise(image, SPACING, np.random.default_rng(seed))
        sigma = new[:, 20:].std()
        assert new[:, :20].mean() == pytest.approx(1.2533 * sigma, rel=0.03)
        assert new[:, 20:].mean() == pytest.approx(1000, rel=0.01)
        sigmas.append(sigma)
    assert 29 < min(sigmas) < max(sigmas) < 81
    assert max(sigmas) > 1.3 * min(sigmas)


def test_ghosting__of_a_point() -> None:
    image = np.zeros((2, 48, 48), np.float32)
    image[0, 20, 30] = 100
    seen = set()
    for seed in range(60):
        new = ghosting(image, SPACING, np.random.default_rng(seed))
        assert new[0, 20, 30] == 100
        assert not new[1].any()
        ghosts = np.argwhere((new[0] > 0) & (image[0] == 0))
        strength = new[0][tuple(ghosts.T)]
        # At half the field of view both ghosts fall on one place.
        assert 8 <= strength.sum() <= 16
        away = np.abs(ghosts - (20, 30))
        seen |= {(int(a.argmax()), int(min(a.max(), 48 - a.max()))) for a in away}
    assert seen == {(axis, by) for axis in (0, 1) for by in (24, 16, 12)}
