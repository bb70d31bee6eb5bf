"""Calibration and Brier score."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import calibration, metrics

from qmri_lake.errors import InputError
from qmri_lake.statistics import brier_score, calibration_curve


def test_calibration_curve__is_scikit_learns_with_counts_and_empty_bins() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(400) * 0.85
    label = (rng.random(400) < probability).astype(int)
    found = calibration_curve(label, probability, bins=10)
    observed, predicted = calibration.calibration_curve(label, probability, n_bins=10)
    filled = found[found["exams"] > 0]
    np.testing.assert_allclose(filled["observed"], observed)
    np.testing.assert_allclose(filled["predicted"], predicted)
    assert found["exams"].sum() == 400
    empty = found.loc[found["exams"] == 0, ["predicted", "observed", "low", "high"]]
    assert np.isnan(empty.to_numpy()).all()
    assert len(empty) == 1
    assert ((filled["low"] <= filled["observed"]) & (filled["observed"] <= filled["high"])).all()
    assert brier_score(label, probability) == pytest.approx(
        metrics.brier_score_loss(label, probability)
    )


def test_calibration_curve__an_edge_belongs_to_the_upper_bin() -> None:
    found = calibration_curve([0, 1, 0, 1], [0.0, 0.5, 0.5, 1.0], bins=2)
    assert found["exams"].tolist() == [1, 3]


def test_calibration_curve__gives_no_interval_of_fewer_than_five_patients() -> None:
    label, probability = [0, 0, 0, 0, 1, 1], [0.1, 0.1, 0.2, 0.2, 0.3, 0.9]
    found = calibration_curve(label, probability, bins=2)
    assert np.isfinite(found[["low", "high"]].to_numpy()).all(axis=1).tolist() == [True, False]
    assert found["observed"].notna().all()
    by_patient = calibration_curve(label, probability, bins=2, patient=[1, 1, 2, 3, 4, 5])
    assert by_patient[["low", "high"]].isna().all(axis=None)


def test_calibration__refuses_logits() -> None:
    with pytest.raises(InputError, match=r"scores -1 to 2.*not logits"):
        brier_score([0, 1], [-1, 2])
    with pytest.raises(InputError, match="bins=1"):
        calibration_curve([0, 1], [0.1, 0.2], bins=1)
