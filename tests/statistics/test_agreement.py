"""Agreement of two measurements."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from qmri_lake.errors import InputError
from qmri_lake.statistics import bland_altman


def test_bland_altman__equals_scipy_and_the_definition() -> None:
    rng = np.random.default_rng(0)
    source = rng.normal(2.0, 0.3, 40)
    other = 1.05 * source + rng.normal(0.02, 0.05, 40)
    found = bland_altman(source, other)
    difference = other - source
    assert found.bias == pytest.approx(difference.mean())
    assert (found.lower, found.upper) == pytest.approx(
        (
            difference.mean() - 2 * difference.std(ddof=1),
            difference.mean() + 2 * difference.std(ddof=1),
        )
    )
    interval = stats.ttest_1samp(difference, 0.0).confidence_interval(0.95)
    assert (found.bias_low, found.bias_high) == pytest.approx(tuple(interval))
    line = stats.linregress(source, other)
    assert (found.slope, found.r) == pytest.approx((line.slope, line.rvalue))
    assert (found.n, found.left_out) == (40, 0)


def test_bland_altman__excludes_and_counts_missing_values() -> None:
    found = bland_altman([1, 2, 3, 4, np.nan], [1.1, np.nan, 3.1, 4.1, 5])
    assert (found.n, found.left_out) == (3, 2)
    assert found.bias == pytest.approx(0.1)
    assert "2 left out" in str(found)
    assert np.isnan([found.lower, found.upper, found.bias_low]).all()
    assert "no interval: fewer than five patients" in str(found)


def test_bland_altman__counts_patients_rather_than_pairs() -> None:
    pairs = [1.0, 2, 3, 4, 5, 6], [1.1, 2, 3.1, 4, 5.2, 6.1]
    assert np.isfinite(bland_altman(*pairs).lower)
    found = bland_altman(*pairs, patient=[1, 1, 2, 2, 3, 4])
    assert np.isnan([found.lower, found.upper, found.bias_low, found.bias_high]).all()
    assert (found.bias, found.n) == (bland_altman(*pairs).bias, 6)


def test_bland_altman__a_constant_reference_has_no_slope() -> None:
    found = bland_altman([2.0, 2.0, 2.0], [2.0, 2.1, 2.2])
    assert np.isnan([found.slope, found.r]).all()
    assert found.bias == pytest.approx(0.1)


def test_bland_altman__refuses_invalid_values() -> None:
    with pytest.raises(InputError, match=r"2 pairs.*3 or more"):
        bland_altman([1, 2, np.nan], [1, 2, 3])
    with pytest.raises(InputError, match="4 measured values"):
        bland_altman([1, 2, 3], [1, 2, 3, 4])
    with pytest.raises(InputError, match="infinite values"):
        bland_altman([1, 2, np.inf], [1, 2, 3])
    with pytest.raises(InputError, match="2 axes"):
        bland_altman(np.ones((3, 3)), np.ones(3))
