"""Intervals of means lie within the range of their quantity, and have their nominal coverage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from qmri_lake.errors import InputError
from qmri_lake.statistics import mean_interval
from qmri_lake.statistics.interval_limits import Scale

Draw = Callable[[np.random.Generator, int], np.ndarray]

QUANTITIES: dict[str, tuple[Scale, float, Draw]] = {
    "DSC of bones, mean 0.97": ("logit", 0.97, lambda rng, n: rng.beta(97, 3, n)),
    "DSC of cartilage, mean 0.85": ("logit", 0.85, lambda rng, n: rng.beta(17, 3, n)),
    "DSC of a failing network, mean 0.85": ("logit", 0.85, lambda rng, n: rng.beta(6.8, 1.2, n)),
    "MPTS, SD 24 % as in the paper": (
        "log",
        0.3 * float(np.exp(0.24**2 / 2)),
        lambda rng, n: 0.3 * np.exp(rng.normal(0, 0.24, n)),
    ),
    "difference": ("linear", 0.1, lambda rng, n: rng.normal(0.1, 0.3, n)),
}
RANGE = {"logit": (0, 1), "log": (0, np.inf), "linear": (-np.inf, np.inf)}


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("patients", [8, 30])
def test_mean_interval__has_its_nominal_coverage(quantity: str, patients: int) -> None:
    scale, mean, draw = QUANTITIES[quantity]
    rng = np.random.default_rng(patients)
    intervals = [mean_interval(draw(rng, patients), scale=scale)[1:] for _ in range(4000)]
    held = np.mean([low <= mean <= high for low, high in intervals])
    assert 0.93 <= held <= 0.97


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("patients", [3, 5, 8, 30])
def test_mean_interval__lies_within_the_range(quantity: str, patients: int) -> None:
    scale, _, draw = QUANTITIES[quantity]
    lowest, highest = RANGE[scale]
    rng = np.random.default_rng(patients)
    for _ in range(200):
        mean, low, high = mean_interval(draw(rng, patients), scale=scale)
        if patients < 5:
            assert np.isnan([low, high]).all()
        else:
            assert lowest <= low <= mean <= high <= highest


def test_mean_interval__of_extreme_shares() -> None:
    mean, low, high = mean_interval([0.0, 1.0, 1.0, 1.0, 1.0], scale="logit")
    assert 0 < low < mean < high < 1
    assert np.isnan(mean_interval([1.0] * 6, scale="logit")[1:]).all()
    assert np.isnan(mean_interval([0.0] * 6, scale="log")[1:]).all()


def test_mean_interval__is_the_t_interval_on_the_linear_scale() -> None:
    values = np.random.default_rng(0).normal(0.4, 0.1, 28)
    low, high = stats.t.interval(0.95, 27, values.mean(), stats.sem(values))
    np.testing.assert_allclose(mean_interval(values), (values.mean(), low, high))
    assert mean_interval([*values, np.nan]) == mean_interval(values)
    assert mean_interval([0.3])[0] == 0.3
    assert np.isnan(mean_interval([0.3])[1:]).all()
    assert np.isnan(mean_interval([])).all()


def test_mean_interval__of_a_wrong_scale() -> None:
    with pytest.raises(InputError, match=r"values from 0.5 to 95 .*expected 0 to 1 for scale"):
        mean_interval([0.5, 95.0], scale="logit")
