"""Tests of balance, against scipy's and textbook formulas."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from qmri_lake.errors import InputError
from qmri_lake.statistics import one_way_manova, pearson_chi2, standardised_difference


def test_manova__of_one_measurement_is_anova() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(["train", "validation", "test"], (30, 20, 25))
    values = rng.normal(size=75) + 0.5 * (groups == "test")
    found = one_way_manova(values[:, None], groups)
    parts = [values[groups == name] for name in np.unique(groups)]
    assert found.p == pytest.approx(stats.f_oneway(*parts).pvalue, rel=1e-9)


def test_manova__of_two_groups_is_hotelling() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(40, 2)), rng.normal([0.4, -0.2], 1, (25, 2))
    found = one_way_manova(np.concatenate([a, b]), np.repeat([0, 1], (40, 25)))
    n, p = 65, 2
    pooled = (39 * np.cov(a.T) + 24 * np.cov(b.T)) / (n - 2)
    d = a.mean(axis=0) - b.mean(axis=0)
    t2 = 40 * 25 / n * d @ np.linalg.solve(pooled, d)
    f = (n - p - 1) / (p * (n - 2)) * t2
    assert found.p == pytest.approx(stats.f.sf(f, p, n - p - 1), rel=1e-9)
    assert found.statistic == pytest.approx(1 / (1 + t2 / (n - 2)), rel=1e-9)


def test_chi2__of_a_table_by_hand() -> None:
    sex = ["f"] * 30 + ["m"] * 10 + ["f"] * 20 + ["m"] * 20 + [None]
    groups = ["train"] * 40 + ["test"] * 40 + ["test"]
    found = pearson_chi2(sex, groups)
    # Expected 25 and 15 in each row: four times 25, over them.
    assert found.statistic == pytest.approx(2 * 25 / 25 + 2 * 25 / 15)
    assert found.p == pytest.approx(stats.chi2.sf(found.statistic, 1))


def test_balance__gives_the_reason_if_there_is_no_test() -> None:
    assert pearson_chi2(["f"] * 4, ["a", "b"] * 2).why == "fewer than two categories or sets"
    flat = one_way_manova(np.ones((12, 1)), ["a", "b"] * 6)
    assert np.isnan(flat.p)
    assert flat.why == "a measurement that does not vary"
    few = one_way_manova(np.arange(3.0)[:, None], ["a", "b", "b"])
    assert few.why == "fewer than two sets, or too few exams"
    with pytest.raises(InputError, match="3 values, 2 sets"):
        pearson_chi2(["f", "m", "f"], ["a", "b"])


def test_manova__of_few_exams_is_a_number_without_a_warning() -> None:
    # Eight exams of three sets and two measurements: there Hotelling's trace divides by zero.
    values = np.random.default_rng(0).normal(size=(8, 2))
    found = one_way_manova(values, ["a", "a", "a", "b", "b", "b", "c", "c"])
    assert 0 < found.statistic < 1
    assert 0 < found.p < 1


def test_standardised_difference__by_hand() -> None:
    """Means 4 and 2; variances 4 and 1, of cases and of controls."""
    values, case = [2.0, 4.0, 6.0, 1.0, 2.0, 3.0, np.nan], [1, 1, 1, 0, 0, 0, 1]
    found = standardised_difference(values, case)
    assert found == pytest.approx(2 / np.sqrt(2.5))
    assert standardised_difference(values, [1 - c for c in case]) == pytest.approx(-found)
    column = pd.Series(values, dtype="Float64")
    assert standardised_difference(column, pd.Series(case, dtype="Int64")) == pytest.approx(found)
    assert standardised_difference(column * 12, case) == pytest.approx(found), "in another unit"
    sex = pd.Series(["female", "male", pd.NA, "male", "female", "female"], dtype="string")
    shares = standardised_difference(sex == "male", [1, 1, 1, 1, 0, 0])
    assert shares == pytest.approx((2 / 3) / np.sqrt((1 / 3) / 2))
    assert np.isnan(standardised_difference([1.0, 2.0, 3.0], [1, 1, 0]))
    assert np.isnan(standardised_difference([1.0, 1.0, 1.0, 1.0], [1, 1, 0, 0]))
    with pytest.raises(InputError, match="2 values, 1 sets"):
        standardised_difference([1, 2], [1])
