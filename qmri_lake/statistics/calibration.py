"""Calibration: agreement of predicted probabilities with observed shares."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from qmri_lake.errors import InputError, Reason
from qmri_lake.statistics._inputs import labels_and_scores, patient_codes
from qmri_lake.statistics.interval_limits import checked_limits

__all__ = ["brier_score", "calibration_curve"]


def brier_score(label: ArrayLike, probability: ArrayLike) -> float:
    """Return the mean squared difference between probabilities and labels (Brier 1950).

    Parameters
    ----------
    label : (exam,)
        1 for a case, 0 for a control.
    probability : (exam,)
        Probability of a case, 0 to 1.

    Returns
    -------
    float
        Brier score, 0 to 1; smaller is better. A constant probability that equals the share q of
        cases has a score of q (1 - q).

    Raises
    ------
    InputError
        If labels or probabilities are invalid, as in `bootstrap_roc`, or if probabilities are
        outside 0 to 1.

    Examples
    --------
    >>> from qmri_lake.statistics import brier_score
    >>> round(brier_score([0, 1, 1], [0.1, 0.8, 0.6]), 3)
    0.07
    """
    case, probabilities = _checked(label, probability, "brier_score")
    return float(np.mean((probabilities - case) ** 2))


def calibration_curve(
    label: ArrayLike,
    probability: ArrayLike,
    *,
    bins: int = 10,
    patient: ArrayLike | None = None,
) -> pd.DataFrame:
    """Return predicted and observed shares of cases in bins of equal width.

    Parameters
    ----------
    label, probability : (exam,)
        See `brier_score`.
    bins : int
        Number of bins from 0 to 1. A probability on the edge of two bins belongs to the upper bin,
        and a probability of 1 to the last bin. [assumption]
    patient : (exam,), optional
        Patient of each exam. Default: each exam is one patient.

    Returns
    -------
    DataFrame
        One row per bin. Columns: `above` and `below`, the edges of the bin; `exams`, the number of
        exams; `predicted`, the mean probability; `observed`, the share of cases; `low` and `high`,
        the 95 % Wilson interval (1927) of the share, which assumes independent exams. Values are
        NaN in a bin without exams, and intervals also in a bin of fewer than five patients.

    Raises
    ------
    InputError
        For the reasons that `brier_score` lists, or if there are fewer than two bins.

    Examples
    --------
    >>> from qmri_lake.statistics import calibration_curve
    >>> label, probability = [0, 0, 0, 1, 0, 0, 1, 1], [0.1, 0.2, 0.2, 0.3, 0.4, 0.6, 0.7, 0.9]
    >>> print(calibration_curve(label, probability, bins=2).round(2).to_string(index=False))
     above  below  exams  predicted  observed  low  high
       0.0    0.5      5       0.24      0.20 0.04  0.62
       0.5    1.0      3       0.73      0.67  NaN   NaN
    """
    case, probabilities = _checked(label, probability, "calibration_curve")
    if bins < 2:
        raise InputError(
            f"bins={bins}",
            expected="2 or more",
            where="calibration_curve",
            reason=Reason.UNREADABLE_VALUE,
        )
    codes, _ = patient_codes(patient, len(case), "calibration_curve")
    edges = np.linspace(0, 1, bins + 1)
    bin_of_exam = np.clip(np.searchsorted(edges, probabilities, side="right") - 1, 0, bins - 1)
    rows = []
    for k in range(bins):
        inside = bin_of_exam == k
        exams, cases = int(inside.sum()), int(case[inside].sum())
        values = (np.nan,) * 4
        if exams:
            ends = stats.binomtest(cases, exams).proportion_ci(method="wilson")
            patients = np.unique(codes[inside]).size
            limits = checked_limits(ends.low, ends.high, patients=patients, scale="logit")
            values = (float(probabilities[inside].mean()), cases / exams, *limits)
        rows.append((edges[k], edges[k + 1], exams, *values))
    names = ["above", "below", "exams", "predicted", "observed", "low", "high"]
    return pd.DataFrame(rows, columns=names)


def _checked(
    label: ArrayLike, probability: ArrayLike, where: str
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    case, (values,) = labels_and_scores(label, probability, where=where)
    if values.min() < 0 or values.max() > 1:
        raise InputError(
            f"scores {values.min():.3g} to {values.max():.3g}",
            expected="probabilities, 0 to 1",
            where=where,
            reason=Reason.UNREADABLE_VALUE,
            todo="Pass the softmax output for cases, not logits.",
        )
    return case, values
