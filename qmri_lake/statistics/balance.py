"""Test whether sets of exams differ in age, BMI and sex, as in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from qmri_lake.core.array_api import Values
from qmri_lake.errors import InputError

__all__ = ["BalanceTest", "one_way_manova", "pearson_chi2", "standardised_difference"]


class BalanceTest(NamedTuple):
    """Result of a test of independence.

    If the test is not possible, values are NaN and `why` gives the reason.
    """

    statistic: float
    p: float
    why: str = ""


def pearson_chi2(sex: ArrayLike, groups: ArrayLike) -> BalanceTest:
    """Test whether a category, such as sex, is independent of the set.

    The test is Pearson's chi-squared test without continuity correction. [paper]

    Parameters
    ----------
    sex : array (exam,)
        Categories; NaN and None are excluded.
    groups : array (exam,)
        The set of each exam.

    Returns
    -------
    BalanceTest
        chi2 and p; NaN if there are fewer than two categories or sets.

    Examples
    --------
    >>> test = pearson_chi2(["f", "f", "m", "m"] * 5, ["train", "test"] * 10)
    >>> test.statistic, test.p
    (0.0, 1.0)
    """
    from scipy.stats import chi2_contingency

    values, sets = _same_length(sex, groups)
    counts = pd.crosstab(values, sets)  # excludes missing values
    if min(counts.shape) < 2:
        return BalanceTest(np.nan, np.nan, "fewer than two categories or sets")
    result: Any = chi2_contingency(counts.to_numpy(), correction=False)
    return BalanceTest(float(result.statistic), float(result.pvalue))


def one_way_manova(values: ArrayLike, groups: ArrayLike) -> BalanceTest:
    """Test whether the means of several measurements, such as age and BMI, differ between sets.

    The test is a one-way MANOVA [paper] with Wilks' lambda [assumption].

    Parameters
    ----------
    values : array (exam, measurement)
        Rows with a NaN are excluded.
    groups : array (exam,)
        The set of each exam.

    Returns
    -------
    BalanceTest
        Wilks' lambda, 0 to 1 (1: no difference), and the p value of the corresponding F statistic.
        NaN if there are fewer than two sets, too few rows, or linearly dependent or constant
        measurements.
    """
    from statsmodels.multivariate.manova import MANOVA

    table = np.asarray(values, float)
    _, sets = _same_length(table[:, 0], groups)
    known = np.isfinite(table).all(axis=1)
    table, codes = table[known], pd.factorize(sets[known])[0]
    n_sets = int(codes.max()) + 1 if len(codes) else 0
    if n_sets < 2 or len(table) <= n_sets + table.shape[1]:
        return BalanceTest(np.nan, np.nan, "fewer than two sets, or too few exams")
    design = (codes[:, None] == np.arange(n_sets)).astype(float)
    within = table - design @ (design.T @ table / design.sum(axis=0)[:, None])
    if np.linalg.matrix_rank(within) < table.shape[1]:
        return BalanceTest(np.nan, np.nan, "a measurement that does not vary")
    if table.shape[1] == 1:  # analysis of variance: MANOVA of statsmodels requires two measurements
        from scipy.stats import f_oneway

        total = float(((table - table.mean(axis=0)) ** 2).sum())
        parts = [table[codes == k, 0] for k in range(n_sets)]
        return BalanceTest(float((within**2).sum()) / total, float(f_oneway(*parts).pvalue))
    contrast = np.eye(n_sets)[1:] - np.eye(n_sets)[:1]
    with np.errstate(divide="ignore", invalid="ignore"):
        # With few exams, the computation of Hotelling's trace divides by zero. It is not used here.
        tested = MANOVA(table, design).mv_test([("set", contrast, None)])
    wilks = tested.results["set"]["stat"].loc["Wilks' lambda"]
    return BalanceTest(float(wilks["Value"]), float(wilks["Pr > F"]))


def standardised_difference(values: ArrayLike, case: ArrayLike) -> float:
    """Return the standardised mean difference of cases and controls.

    The difference is (mean of cases - mean of controls) / sqrt((variance of cases + variance of
    controls) / 2). Unlike a p value, it does not depend on the number of exams. Groups are
    considered balanced if its absolute value is below 0.1 (Austin 2009).

    Parameters
    ----------
    values : array (exam,)
        Values in any unit, or 0 and 1 for a category. NaN and NA are excluded.
    case : array (exam,)
        1 for a case, 0 for a control.

    Returns
    -------
    float
        Standardised difference. NaN if one group has fewer than two values, or all values are
        equal.

    Examples
    --------
    >>> round(standardised_difference([61, 63, 60, 62], [1, 1, 0, 0]), 3)
    0.707
    """
    numbers, cases = (
        pd.array(column, dtype="Float64").to_numpy(np.float64, na_value=np.nan)
        for column in _same_length(values, case)
    )
    one, other = (numbers[(cases == k) & np.isfinite(numbers)] for k in (1, 0))
    if min(len(one), len(other)) < 2:
        return float("nan")
    spread = np.sqrt((one.var(ddof=1) + other.var(ddof=1)) / 2)
    return float((one.mean() - other.mean()) / spread) if spread > 0 else float("nan")


def _same_length(values: ArrayLike | Sequence[Any], groups: ArrayLike) -> tuple[Values, Values]:
    one, other = np.asarray(values, dtype=object), np.asarray(groups, dtype=object)
    if len(one) != len(other):
        raise InputError(
            f"{len(one)} values, {len(other)} sets",
            expected="one set for each value",
            where="balance",
        )
    return one, other
