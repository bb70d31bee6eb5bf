"""Curves, thresholds and DeLong."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from qmri_lake.errors import InputError
from qmri_lake.statistics import delong_interval, delong_test, roc_curve, youden_threshold
from tests.conftest import Judge


def two_scores(
    rng: np.random.Generator, cases: int = 50, controls: int = 80
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and two correlated scores, both of AUC 0.76: normal, cases higher by 1."""
    label = np.repeat([1, 0], [cases, controls])
    both = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], cases + controls)
    return label, *(both + label[:, None]).T


def test_delong__is_its_definition_over_all_pairs() -> None:
    rng = np.random.default_rng(0)
    label, first, second = two_scores(rng, 13, 17)
    first, second = first.round(1), second.round(1)  # ties
    parts = []
    for score in (first, second):
        x, y = score[label == 1], score[label == 0]
        parts.append((x[:, None] > y) + 0.5 * (x[:, None] == y))
    v10, v01 = (np.stack([p.mean(axis=axis) for p in parts]) for axis in (1, 0))
    s = np.cov(v10) / 13 + np.cov(v01) / 17
    found = delong_test(label, first, second)
    assert found.se == pytest.approx(np.sqrt(s[0, 0] + s[1, 1] - 2 * s[0, 1]))
    assert (found.first, found.second) == pytest.approx(
        (roc_auc_score(label, first), roc_auc_score(label, second))
    )
    assert found.z == pytest.approx((found.first - found.second) / found.se)
    assert delong_interval(label, first).se == pytest.approx(np.sqrt(s[0, 0]))


def test_delong__agrees_with_simulation(judge: Judge) -> None:
    rng = np.random.default_rng(1)
    truth = stats.norm.cdf(1 / np.sqrt(2))
    runs = [two_scores(rng) for _ in range(600)]
    tests = [delong_test(*run) for run in runs]
    intervals = [delong_interval(label, score) for label, score, _ in runs]
    covered = np.mean([found.low <= truth <= found.high for found in intervals])
    spread = np.std([t.difference for t in tests], ddof=1)
    ratio = float(np.mean([t.se for t in tests]) / spread)
    p = stats.kstest([t.p for t in tests], "uniform").pvalue
    judge(
        "DeLong / simulation of 600 cohorts of 130",
        required="SE within 10 % of the spread, covers 92.5 to 97.5 %, p uniform (KS p > 0.01)",
        measured=f"SE / spread {ratio:.3f}, covers {100 * covered:.1f} %, KS p {p:.2f}",
        passed=abs(ratio - 1) < 0.1 and 0.925 <= covered <= 0.975 and p > 0.01,
    )


@pytest.mark.parametrize(
    ("cases", "controls", "apart"), [(6, 9, 2.0), (12, 18, 2.0), (12, 18, 1.0)]
)
def test_delong_interval__of_few_patients_lies_within_0_to_1(
    cases: int, controls: int, apart: float
) -> None:
    rng = np.random.default_rng(cases)
    label = np.repeat([1, 0], [cases, controls])
    truth = stats.norm.cdf(apart / np.sqrt(2))
    found = [delong_interval(label, rng.normal(apart * label)) for _ in range(1000)]
    known = [one for one in found if one.auc < 1]
    assert all(0 < one.low < one.auc < one.high < 1 for one in known)
    assert all(np.isnan(one.low) for one in found if one.auc == 1)
    logit = np.mean([one.low <= truth <= one.high for one in known])
    linear = np.mean([abs(one.auc - truth) <= 1.96 * one.se for one in known])
    assert abs(logit - 0.95) < abs(linear - 0.95)
    assert 0.93 <= logit <= 0.98


def test_delong_interval__needs_five_patients() -> None:
    label, score = [0, 0, 1, 1, 0], [0.1, 0.4, 0.3, 0.8, 0.2]
    five = delong_interval(label, score)
    assert np.isfinite([five.low, five.high]).all()
    four = delong_interval(label, score, patient=[1, 2, 3, 4, 2])
    assert four.se > 0
    assert np.isnan([four.low, four.high]).all()


def test_delong__follows_patients_with_exams_that_resemble_each_other() -> None:
    rng = np.random.default_rng(2)
    patient = np.repeat(np.arange(60), 3)
    aucs, plain, clustered = [], [], []
    for _ in range(300):
        own = rng.normal(size=60)
        label = ((rng.random(60) < 0.4)[patient] ^ (rng.random(180) < 0.2)).astype(int)
        score = label + 1.5 * own[patient] + 0.5 * rng.normal(size=180)
        plain.append(delong_interval(label, score).se)
        found = delong_interval(label, score, patient=patient)
        clustered.append(found.se)
        aucs.append(found.auc)
    spread = np.std(aucs, ddof=1)
    assert np.mean(clustered) == pytest.approx(spread, rel=0.12)
    assert np.mean(plain) < 0.85 * spread
    alone = delong_interval(label, score, patient=np.arange(180))
    assert alone == pytest.approx(delong_interval(label, score))


def test_delong__without_spread_there_is_no_interval_and_no_p() -> None:
    found = delong_interval([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])
    assert (found.auc, found.se) == (1, 0)
    assert np.isnan([found.low, found.high]).all()
    label, first, _ = two_scores(np.random.default_rng(3))
    same = delong_test(label, first, np.exp(first))
    assert (same.difference, same.se) == (0, 0)
    assert np.isnan([same.z, same.p]).all()


def test_delong__refuses_one_patient_of_a_class() -> None:
    with pytest.raises(InputError, match=r"1 patients with a case and 2 with a control"):
        delong_interval([1, 1, 0, 0], [0.3, 0.4, 0.1, 0.2], patient=[1, 1, 2, 3])
    with pytest.raises(InputError, match=r"delong_test: only controls, 4 of them"):
        delong_test([0] * 4, [0.1] * 4, [0.2] * 4)


def test_roc_curve__starts_with_no_positive_and_ends_with_all() -> None:
    label, first, _ = two_scores(np.random.default_rng(4))
    curve = roc_curve(label, first)
    assert curve.iloc[0].tolist() == [np.inf, 0, 1]
    assert curve.iloc[-1, 1:].tolist() == [1, 0]
    area = np.trapezoid(curve["sensitivity"], 1 - curve["specificity"])
    assert area == pytest.approx(delong_interval(label, first).auc)


def test_youden_threshold__is_the_best_of_all_scores() -> None:
    label, first, _ = two_scores(np.random.default_rng(5))
    chosen = youden_threshold(label, first)

    def both(t: float) -> float:
        return float((first[label == 1] >= t).mean() + (first[label == 0] < t).mean())

    assert chosen in first
    assert both(chosen) == pytest.approx(max(both(t) for t in first))
