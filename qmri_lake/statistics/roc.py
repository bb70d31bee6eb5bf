"""Curves, thresholds, and tests of AUCs after DeLong et al. (1988)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from qmri_lake.errors import InputError, Reason
from qmri_lake.statistics.bootstrap import labels_and_scores, patient_codes

__all__ = [
    "Auc", "AucDifference", "delong_interval", "delong_test", "roc_curve", "youden_threshold",
]  # fmt: skip

_Z = float(stats.norm.ppf(0.975))


class Auc(NamedTuple):
    """An AUC with its 95 % interval after DeLong; fractions of 1."""

    auc: float
    se: float
    """Standard error; 0 where no control is scored as high as a case, or none as low."""
    low: float
    """Cut at 0; NaN where `se` is 0, because nothing says how far the AUC would vary."""
    high: float
    """Cut at 1; NaN as `low`."""


class AucDifference(NamedTuple):
    """Two correlated AUCs and DeLong's test of their difference."""

    first: float
    second: float
    difference: float
    """first - second."""
    se: float
    z: float
    """difference / se; NaN where `se` is 0, as of scores of the same order."""
    p: float
    """Two-sided; NaN as `z`."""

    def __str__(self) -> str:
        return (
            f"AUC {self.first:.3f} and {self.second:.3f}, difference {self.difference:+.3f}, "
            f"SE {self.se:.3f}, p {self.p:.3g}"
        )


def roc_curve(label: ArrayLike, score: ArrayLike) -> pd.DataFrame:
    """Return the ROC curve: threshold, sensitivity, specificity, a row a corner.

    Parameters
    ----------
    label, score : (exam,)
        As of `bootstrap_roc`. Positive is score >= threshold; the first threshold is infinite.

    Raises
    ------
    InputError
        As `bootstrap_roc`.
    """
    return _curve(label, score, where="roc_curve", drop=True)


def youden_threshold(label: ArrayLike, score: ArrayLike) -> float:
    """Return the threshold of the largest sensitivity + specificity (Youden 1950).

    Parameters
    ----------
    label, score : (exam,)
        As of `bootstrap_roc`, of *validation* exams: chosen on the exams that are then tested, a
        threshold flatters them. [assumption]

    Returns
    -------
    float
        A score of an exam; of equals the highest. Positive is score >= threshold.

    Raises
    ------
    InputError
        As `bootstrap_roc`.

    Examples
    --------
    >>> from qmri_lake.statistics import youden_threshold
    >>> youden_threshold([0, 0, 1, 0, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.6, 0.8])
    0.6
    """
    curve = _curve(label, score, where="youden_threshold", drop=False).iloc[1:]
    # Rounded: equal sums of two fractions differ in their last bit.
    both = (curve["sensitivity"] + curve["specificity"]).round(12)
    return float(curve["threshold"].to_numpy()[both.to_numpy().argmax()])


def delong_interval(label: ArrayLike, score: ArrayLike, *, patient: ArrayLike | None = None) -> Auc:
    """Return an AUC and its 95 % interval after DeLong.

    Parameters
    ----------
    label, score : (exam,)
        As of `bootstrap_roc`.
    patient : (exam,), optional
        Whose exam it is: exams of a patient may then resemble each other (Obuchowski 1997). Without
        it each exam counts as a patient, and the interval is too narrow where one has several.

    Returns
    -------
    Auc

    Raises
    ------
    InputError
        As `bootstrap_roc`, or fewer than two patients of a class.

    Examples
    --------
    >>> from qmri_lake.statistics import delong_interval
    >>> found = delong_interval([0, 0, 0, 1, 1, 1], [0.1, 0.4, 0.5, 0.3, 0.6, 0.8])
    >>> print(f"{found.auc:.3f} ({found.low:.3f} to {found.high:.3f})")
    0.778 (0.291 to 1.000)
    """
    case, (values,) = labels_and_scores(label, score, where="delong_interval")
    (auc,), ((variance,),) = _aucs(case, values[None], patient, "delong_interval")
    se = float(np.sqrt(max(variance, 0.0)))
    if se == 0:
        return Auc(float(auc), 0.0, float("nan"), float("nan"))
    return Auc(float(auc), se, float(max(auc - _Z * se, 0)), float(min(auc + _Z * se, 1)))


def delong_test(
    label: ArrayLike, first: ArrayLike, second: ArrayLike, *, patient: ArrayLike | None = None
) -> AucDifference:
    """Test whether two classifiers of the same exams have the same AUC.

    Parameters
    ----------
    label, first, second : (exam,)
        The labels and both scores, as of `bootstrap_roc`.
    patient : (exam,), optional
        As of `delong_interval`.

    Returns
    -------
    AucDifference

    Raises
    ------
    InputError
        As `delong_interval`.

    Examples
    --------
    >>> from qmri_lake.statistics import delong_test
    >>> label = [0, 0, 0, 0, 1, 1, 1, 1]
    >>> first = [0.1, 0.2, 0.3, 0.6, 0.5, 0.7, 0.8, 0.9]
    >>> print(delong_test(label, first, [0.2, 0.6, 0.4, 0.3, 0.1, 0.7, 0.5, 0.8]))
    AUC 0.938 and 0.688, difference +0.250, SE 0.204, p 0.221
    """
    case, scores = labels_and_scores(label, first, second, where="delong_test")
    (one, other), covariance = _aucs(case, np.stack(scores), patient, "delong_test")
    contrast = np.array([1.0, -1.0])
    # What is left of equal components is rounding, and no spread.
    variance = float(contrast @ covariance @ contrast)
    se = float(np.sqrt(variance)) if variance > 1e-15 * np.trace(covariance) else 0.0
    difference = float(one - other)
    z = difference / se if se > 0 else float("nan")
    return AucDifference(
        float(one), float(other), difference, se, z, float(2 * stats.norm.sf(abs(z)))
    )


def _curve(label: ArrayLike, score: ArrayLike, *, where: str, drop: bool) -> pd.DataFrame:
    from sklearn import metrics

    case, (values,) = labels_and_scores(label, score, where=where)
    false, true, thresholds = metrics.roc_curve(case, values, drop_intermediate=drop)
    return pd.DataFrame({"threshold": thresholds, "sensitivity": true, "specificity": 1 - false})


def _aucs(
    case: NDArray[np.bool_], scores: NDArray[np.float64], patient: ArrayLike | None, where: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the AUC of each row of scores, and the covariance of these AUCs.

    From midranks (Sun and Xu 2014): the share of controls below each case, and of cases above each
    control, ties as one half.
    """
    m, n = int(case.sum()), int((~case).sum())
    ranks = stats.rankdata(scores, axis=1)
    above = (ranks[:, case] - stats.rankdata(scores[:, case], axis=1)) / n
    below = 1 - (ranks[:, ~case] - stats.rankdata(scores[:, ~case], axis=1)) / m
    auc = above.mean(axis=1)
    codes, patients = patient_codes(patient, len(case), where)
    of_cases, of_controls = np.unique(codes[case]).size, np.unique(codes[~case]).size
    if min(of_cases, of_controls) < 2:
        raise InputError(
            f"{of_cases} patients with a case and {of_controls} with a control",
            expected="2 or more of each", where=where, reason=Reason.UNREADABLE_VALUE,
            todo="One patient has no spread: add patients.",
        )  # fmt: skip

    def by_patient(parts: NDArray[np.float64], whose: NDArray[np.intp]) -> NDArray[np.float64]:
        return np.stack(
            [np.bincount(whose, row, minlength=patients) for row in parts - auc[:, None]]
        )

    x, y = by_patient(above, codes[case]) / m, by_patient(below, codes[~case]) / n
    both = x @ y.T * patients / (patients - 1)
    return auc, (
        x @ x.T * of_cases / (of_cases - 1)
        + y @ y.T * of_controls / (of_controls - 1)
        + both + both.T
    )  # fmt: skip
