"""Initial state of an untrained V-Net."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qmri_lake.errors import InputError
from qmri_lake.segmentation.models.recipes import recipes
from qmri_lake.segmentation.models.vnet import Architecture, build_vnet, start_at_frequencies


def test_start_at_frequencies__gives_each_class_its_frequency_everywhere() -> None:
    counts = np.array([8000, 1200, 700, 100])
    small = recipes("bones", "small")[0]
    model = build_vnet(small.architecture, seed=1)
    image = np.random.default_rng(0).uniform(0, 1.5, (1, 16, 24, 24, 1)).astype(np.float32)

    def probabilities() -> np.ndarray:
        logits = np.asarray(model(image), np.float64)[0].reshape(-1, 4)
        powers = np.exp(logits)
        return powers / powers.sum(axis=1, keepdims=True)

    before = probabilities()
    start_at_frequencies(model, counts)
    after = probabilities()
    frequency = counts / counts.sum()
    assert abs(before[:, 0].mean() - frequency[0]) > 0.2  # it has something to do
    assert after.mean(axis=0) == pytest.approx(frequency, abs=0.1)
    assert (after.argmax(axis=1) == 0).all()


def test_build_vnet__activations_decrease_with_glorot_not_with_he() -> None:
    small = recipes("bones", "small")[0].architecture
    image = np.random.default_rng(0).uniform(0, 1.5, (1, 16, 24, 24, 1)).astype(np.float32)
    glorot, he = (
        float(np.std(np.asarray(build_vnet(replace(small, initial=initial), seed=1)(image))))
        for initial in ("glorot_uniform", "he_uniform")
    )
    assert glorot < he / 3


def test_architecture__rejects_an_unknown_initialisation() -> None:
    with pytest.raises(InputError, match=r"initial='zeros'.*glorot_uniform or he_uniform"):
        Architecture(3, 4, initial="zeros")
