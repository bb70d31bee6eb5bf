"""Bootstrapped sensitivity, specificity and AUC."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import recall_score, roc_auc_score

from qmri_lake.errors import InputError
from qmri_lake.statistics import bootstrap_roc
from tests.conftest import Judge


def classified(
    exams: int = 240, *, seed: int = 0, decimals: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and scores with ties."""
    rng = np.random.default_rng(seed)
    label = (rng.random(exams) < 0.35).astype(int)
    return label, (1 / (1 + np.exp(-rng.normal(label - 0.5, 1.0)))).round(decimals)


@pytest.mark.slow
def test_bootstrap_roc__equals_scikit_learn_on_the_same_resamples(judge: Judge) -> None:
    apart = 0.0
    for seed, decimals in ((0, 1), (1, 2), (2, 15)):
        label, score = classified(seed=seed, decimals=decimals)
        indices = np.random.default_rng(seed).integers(len(label), size=(100, 180))
        found = bootstrap_roc(label, score, indices=indices, threshold=0.4)
        for drawn, mine in zip(indices, found.samples.values, strict=True):
            y, s = label[drawn], score[drawn]
            theirs = (
                recall_score(y, s >= 0.4),
                recall_score(y, s >= 0.4, pos_label=0),
                roc_auc_score(y, s),
            )
            apart = max(apart, float(np.abs(mine - theirs).max()))
    judge(
        "bootstrap_roc / scikit-learn's AUC, sensitivity, specificity on the same resamples",
        required="distance <= 1e-12",
        measured=f"{apart:.1e}",
        passed=apart <= 1e-12,
    )


def test_bootstrap_roc__draws_patients_with_all_their_exams() -> None:
    label, score = classified(60)
    patient = np.arange(60) // 3
    found = bootstrap_roc(label, score, patient=patient, seed=4, n_resamples=20)
    drawn = np.random.default_rng(4).integers(20, size=(20, 20))
    exams = (3 * drawn[:, :, None] + np.arange(3)).reshape(20, -1)
    same = bootstrap_roc(label, score, indices=exams)
    np.testing.assert_array_equal(found.samples, same.samples)
    assert found.patients == 20
    assert same.patients is None


def test_bootstrap_roc__copies_of_exams_narrow_no_interval_of_patients() -> None:
    label, score = classified(80)
    patient = np.arange(80)
    once = bootstrap_roc(label, score, patient=patient, seed=0, n_resamples=400)
    copies = {"label": np.tile(label, 4), "score": np.tile(score, 4)}
    by_patient = bootstrap_roc(**copies, patient=np.tile(patient, 4), seed=0, n_resamples=400)
    by_exam = bootstrap_roc(**copies, seed=0, n_resamples=400)
    assert by_patient.auc == pytest.approx(once.auc)
    assert by_exam.auc.high - by_exam.auc.low < 0.7 * (once.auc.high - once.auc.low)


def test_bootstrap_roc__covers_the_true_auc_if_patients_are_resampled() -> None:
    """Four correlated exams per patient: 95 % intervals by patient and by exam, 200 cohorts."""
    rng = np.random.default_rng(0)
    patient, truth = np.repeat(np.arange(60), 4), 0.7601  # normal, cases higher by 1 SD
    by_patient, by_exam = 0, 0
    for seed in range(200):
        label = (np.arange(60) % 3 == 0)[patient]
        alike, own = np.sqrt(0.8) * rng.normal(size=60)[patient], rng.normal(size=240)
        score = label + alike + np.sqrt(0.2) * own
        for names in (patient, None):
            found = bootstrap_roc(label, score, patient=names, n_resamples=200, seed=seed)
            inside = found.auc.low <= truth <= found.auc.high
            by_patient += inside if names is not None else 0
            by_exam += inside if names is None else 0
    assert 0.88 <= by_patient / 200 <= 0.99
    assert by_exam / 200 < 0.8


def test_bootstrap_roc__interval_of_the_paper_is_of_the_mean() -> None:
    label, score = classified()
    wide = bootstrap_roc(label, score, seed=0)
    narrow = bootstrap_roc(label, score, seed=0, interval="paper")
    samples = wide.samples.sel(metric="auc").values
    assert wide.auc == pytest.approx((samples.mean(), *np.percentile(samples, (2.5, 97.5))))
    half = 1.96 * samples.std(ddof=1) / 10
    assert narrow.auc == pytest.approx(  # the logit scale changes less than is printed
        (samples.mean(), samples.mean() - half, samples.mean() + half), abs=5e-5
    )
    assert narrow.table()["metric"].tolist() == ["sensitivity", "specificity", "auc"]


def test_bootstrap_roc__counts_resamples_of_one_class() -> None:
    label, score = np.array([1, 0, 0, 0, 0, 0]), np.array([0.9, 0.1, 0.2, 0.3, 0.4, 0.5])
    found = bootstrap_roc(label, score, seed=0)
    lacking = int(np.isnan(found.samples.sel(metric="auc")).sum())
    assert found.left_out == lacking > 0
    assert f"{lacking} resamples left out" in str(found)
    assert found.auc == (1, 1, 1)
    assert found.sensitivity.mean == 1
    assert np.isnan(found.sensitivity[1:]).all(), "of one patient"
    assert "sensitivity 1.000 (no interval: fewer than five patients)" in str(found)
    with pytest.raises(InputError, match=r"0 of 2 resamples with both classes"):
        bootstrap_roc(label, score, indices=[[1, 2], [0, 0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": [1, 1, 1, 1]}, r"only cases, 4 of them.*cases and controls"),
        ({"label": [0, 0, 0, 0]}, "only controls, 4 of them"),
        ({"label": [0, 1, np.nan, 1]}, "1 exams without a label"),
        ({"label": [0, 1, 2, 3]}, "2 labels of 2, 3"),
        ({"label": ["no", "yes", "no", "no"]}, "4 labels of no, yes"),
        ({"label": [], "score": []}, "no exam"),
        ({"score": [0.1, np.nan, 0.3, 0.4]}, r"1 of 4 scores are not finite"),
        ({"score": [0.1, 0.2]}, r"scores of shape \(2,\)"),
        ({"score": ["a", "b", "c", "d"]}, r"scores of type <U1 \(expected numbers"),
        ({"threshold": float("nan")}, "threshold=nan"),
        ({"patient": [7, 7, 7, 7]}, "4 exams of 1 patient"),
        ({"patient": [1, 2]}, r"patients of shape \(2,\)"),
        ({"patient": [1, 2, np.nan, 3]}, "1 exams without a patient"),
        ({"indices": [[0, 4], [0, 1]]}, r"indices 0 to 4.*0 to 3"),
        ({"indices": [[0.0, 1.0], [0.0, 1.0]]}, "type float64"),
        ({"interval": "student"}, "'student'.*percentile or paper"),
        ({"n_resamples": 1}, "n_resamples=1"),
    ],
)
def test_bootstrap_roc__refuses_invalid_input(change: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"label": [0, 1, 0, 1], "score": [0.1, 0.2, 0.3, 0.4], **change}
    with pytest.raises(InputError, match=message):
        bootstrap_roc(**given)  # type: ignore[arg-type]
