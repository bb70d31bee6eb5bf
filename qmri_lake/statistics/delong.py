"""Intervals and tests of AUCs by the method of DeLong et al. (1988)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from qmri_lake.errors import InputError, Reason
from qmri_lake.statistics._inputs import labels_and_scores, patient_codes
from qmri_lake.statistics.interval_limits import limits_around

__all__ = ["Auc", "AucDifference", "delong_interval", "delong_test"]

_Z = float(stats.norm.ppf(0.975))


class Auc(NamedTuple):
    """An AUC with its 95 % interval by DeLong's method, as fractions of 1."""

    auc: float
    se: float
    """Standard error; 0 if cases and controls are completely separated."""
    low: float
    """Lower end, at least 0. NaN if `se` is 0, since the variation of the AUC is then unknown, and
    for fewer than five patients."""
    high: float
    """Upper end, at most 1; NaN like `low`."""


class AucDifference(NamedTuple):
    """AUCs of two classifiers on the same exams, and DeLong's test of their difference."""

    first: float
    second: float
    difference: float
    """AUC of the first classifier minus AUC of the second."""
    se: float
    z: float
    """difference / se. NaN if `se` is 0, for example if both scores order exams equally."""
    p: float
    """Two-sided p value; NaN if `z` is NaN."""

    def __str__(self) -> str:
        return (
            f"AUC {self.first:.3f} and {self.second:.3f}, difference {self.difference:+.3f}, "
            f"SE {self.se:.3f}, p {self.p:.3g}"
        )


def delong_interval(label: ArrayLike, score: ArrayLike, *, patient: ArrayLike | None = None) -> Auc:
    """Return an AUC and its 95 % interval by DeLong's method, on the logit scale.

    The interval is symmetric about the logit of the AUC, with the standard error of DeLong divided
    by AUC (1 - AUC) (delta method; Pepe 2003). It therefore lies within 0 and 1, while AUC +- 1.96
    SE can exceed 1, and its coverage is closer to 95 % for AUCs near 1 and few patients.

    Parameters
    ----------
    label, score : (exam,)
        See `bootstrap_roc`.
    patient : (exam,), optional
        Patient of each exam. Exams of a patient may be correlated (Obuchowski 1997). Default: exams
        are assumed to be independent; the interval is then too narrow if patients have several
        exams.

    Returns
    -------
    Auc

    Raises
    ------
    InputError
        If labels or scores are invalid, as in `bootstrap_roc`, or if a class has fewer than two
        patients.

    Examples
    --------
    >>> from qmri_lake.statistics import delong_interval
    >>> found = delong_interval([0, 0, 0, 1, 1, 1], [0.1, 0.4, 0.5, 0.3, 0.6, 0.8])
    >>> print(f"{found.auc:.3f} ({found.low:.3f} to {found.high:.3f})")
    0.778 (0.173 to 0.983)
    """
    case, (values,) = labels_and_scores(label, score, where="delong_interval")
    (auc,), ((variance,),) = _aucs(case, values[None], patient, "delong_interval")
    se = float(np.sqrt(max(variance, 0.0)))
    half = _Z * se if se > 0 else float("nan")
    _, patients = patient_codes(patient, len(case), "delong_interval")
    return Auc(float(auc), se, *limits_around(float(auc), half, patients=patients, scale="logit"))


def delong_test(
    label: ArrayLike, first: ArrayLike, second: ArrayLike, *, patient: ArrayLike | None = None
) -> AucDifference:
    """Test whether two classifiers have the same AUC on the same exams.

    Parameters
    ----------
    label, first, second : (exam,)
        The labels, and the scores of both classifiers: see `bootstrap_roc`.
    patient : (exam,), optional
        See `delong_interval`.

    Returns
    -------
    AucDifference

    Raises
    ------
    InputError
        For the reasons that `delong_interval` lists.

    Examples
    --------
    >>> from qmri_lake.statistics import delong_test
    >>> label = [0, 0, 0, 0, 1, 1, 1, 1]
    >>> first = [0.1, 0.2, 0.3, 0.6, 0.5, 0.7, 0.8, 0.9]
    >>> print(delong_test(label, first, [0.2, 0.6, 0.4, 0.3, 0.1, 0.7, 0.5, 0.8]))
    AUC 0.938 and 0.688, difference +0.250, SE 0.204, p 0.221
    """
    case, scores = labels_and_scores(label, first, second, where="delong_test")
    (auc_first, auc_second), covariance = _aucs(case, np.stack(scores), patient, "delong_test")
    contrast = np.array([1.0, -1.0])
    # A smaller variance is a rounding error: the components of both AUCs are equal.
    variance = float(contrast @ covariance @ contrast)
    se = float(np.sqrt(variance)) if variance > 1e-15 * np.trace(covariance) else 0.0
    difference = float(auc_first - auc_second)
    z = difference / se if se > 0 else float("nan")
    return AucDifference(
        float(auc_first), float(auc_second), difference, se, z, float(2 * stats.norm.sf(abs(z)))
    )


def _aucs(
    case: NDArray[np.bool_], scores: NDArray[np.float64], patient: ArrayLike | None, where: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the AUC of each row of scores, and the covariance of these AUCs.

    Midranks (Sun and Xu 2014) give the share of controls below each case, and the share of cases
    above each control; ties count one half.
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
            expected="2 or more patients with each class",
            where=where,
            reason=Reason.UNREADABLE_VALUE,
            todo="Add patients.",
        )

    def by_patient(parts: NDArray[np.float64], codes: NDArray[np.intp]) -> NDArray[np.float64]:
        return np.stack(
            [np.bincount(codes, row, minlength=patients) for row in parts - auc[:, None]]
        )

    x, y = by_patient(above, codes[case]) / m, by_patient(below, codes[~case]) / n
    both = x @ y.T * patients / (patients - 1)
    return auc, (
        x @ x.T * of_cases / (of_cases - 1)
        + y @ y.T * of_controls / (of_controls - 1)
        + both
        + both.T
    )
