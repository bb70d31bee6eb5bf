"""Compute ROC curves, and thresholds by Youden's index (1950)."""

from __future__ import annotations

import pandas as pd
from numpy.typing import ArrayLike

from qmri_lake.statistics._inputs import labels_and_scores

__all__ = ["roc_curve", "youden_threshold"]


def roc_curve(label: ArrayLike, score: ArrayLike) -> pd.DataFrame:
    """Return the ROC curve as a table of thresholds, sensitivities and specificities.

    Parameters
    ----------
    label, score : (exam,)
        See `bootstrap_roc`.

    Returns
    -------
    DataFrame
        Columns threshold, sensitivity and specificity, one row per corner of the curve. An exam is
        classified as a case if score >= threshold; the first threshold is infinite.

    Raises
    ------
    InputError
        If labels or scores are invalid, as in `bootstrap_roc`.
    """
    return _curve(label, score, where="roc_curve", drop=True)


def youden_threshold(label: ArrayLike, score: ArrayLike) -> float:
    """Return the threshold that maximises sensitivity + specificity (Youden 1950).

    Parameters
    ----------
    label, score : (exam,)
        See `bootstrap_roc`. Use *validation* exams: a threshold chosen on the test exams
        overestimates their metrics. [assumption]

    Returns
    -------
    float
        The score of an exam; if several thresholds have the same sum, the highest of them. An exam
        is classified as a case if score >= threshold.

    Raises
    ------
    InputError
        If labels or scores are invalid, as in `bootstrap_roc`.

    Examples
    --------
    >>> from qmri_lake.statistics import youden_threshold
    >>> youden_threshold([0, 0, 1, 0, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.6, 0.8])
    0.6
    """
    curve = _curve(label, score, where="youden_threshold", drop=False).iloc[1:]
    # Sums are rounded, since equal sums of two fractions may differ in the last bit.
    both = (curve["sensitivity"] + curve["specificity"]).round(12)
    return float(curve["threshold"].to_numpy()[both.to_numpy().argmax()])


def _curve(label: ArrayLike, score: ArrayLike, *, where: str, drop: bool) -> pd.DataFrame:
    from sklearn import metrics

    case, (values,) = labels_and_scores(label, score, where=where)
    false, true, thresholds = metrics.roc_curve(case, values, drop_intermediate=drop)
    return pd.DataFrame({"threshold": thresholds, "sensitivity": true, "specificity": 1 - false})
