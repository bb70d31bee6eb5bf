"""Sensitivity, specificity and AUC of a classifier, with bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from qmri_lake.errors import InputError, Reason
from qmri_lake.statistics._inputs import labels_and_scores, patient_codes
from qmri_lake.statistics.interval_limits import NO_INTERVAL, checked_limits, limits_around

__all__ = ["Interval", "RocBootstrap", "bootstrap_roc"]

METRICS = ("sensitivity", "specificity", "auc")


class Interval(NamedTuple):
    """A mean and its 95 % confidence interval."""

    mean: float
    low: float
    """Lower limit; NaN if fewer than five patients determine the value: those with a case for the
    sensitivity, those with a control for the specificity, all patients for the AUC."""
    high: float
    """Upper limit; NaN like `low`."""


@dataclass(frozen=True)
class RocBootstrap:
    """Metrics of a classifier over resamples, as fractions of 1."""

    sensitivity: Interval
    specificity: Interval
    auc: Interval
    samples: xr.DataArray
    """(resample, metric): sensitivity, specificity, auc; NaN if a resample has only one class."""
    cases: int
    controls: int
    patients: int | None
    """Number of resampled patients; None if exams were resampled."""
    left_out: int
    """Number of resamples with only one class, which are excluded from the intervals."""

    def table(self) -> pd.DataFrame:
        """Return one row per metric, with columns metric, mean, low and high (Tables S2 and S3)."""
        rows = [(name, *getattr(self, name)) for name in METRICS]
        return pd.DataFrame(rows, columns=["metric", "mean", "low", "high"])

    def __str__(self) -> str:
        rows = []
        for name in METRICS:
            mean, low, high = getattr(self, name)
            interval = NO_INTERVAL if np.isnan(low) else f"{low:.3f} to {high:.3f}"
            rows.append(f"{name:11s} {mean:.3f} ({interval})")
        excluded = f", {self.left_out} resamples left out" if self.left_out else ""
        return "\n".join([*rows, f"{self.cases} cases, {self.controls} controls{excluded}"])


def bootstrap_roc(
    label: ArrayLike,
    score: ArrayLike,
    *,
    patient: ArrayLike | None = None,
    n_resamples: int = 100,
    seed: int | None = None,
    indices: ArrayLike | None = None,
    interval: Literal["percentile", "paper"] = "percentile",
    threshold: float = 0.5,
) -> RocBootstrap:
    """Bootstrap sensitivity, specificity and AUC of a classifier.

    Parameters
    ----------
    label : (exam,)
        1 or True for a case, 0 or False for a control.
    score : (exam,)
        Probabilities of a case, or any other finite values that are larger for cases. NaN is not
        allowed.
    patient : (exam,), optional
        Patient of each exam. Patients are drawn with replacement, each with all their exams.
        Default: exams are drawn; the intervals are then too narrow if patients have several exams.
    n_resamples : int
        Number of resamples, at least 2. Default: 100 [paper].
    seed : int, optional
        Random seed of the resamples. Default: different resamples in each call.
    indices : (resample, draw), optional
        Positions of the exams in each resample, from 0. They replace random resamples: `patient`,
        `n_resamples` and `seed` are ignored.
    interval : {"percentile", "paper"}
        ``percentile``: from the 2.5th to the 97.5th percentile of the resamples. ``paper``: 95 %
        interval of the mean of the resamples, mean +- 1.96 SD / sqrt(n), which matches the width of
        the published intervals; it is computed on the logit scale, so that it lies within 0 and 1.
        This interval shrinks with `n_resamples` and does not describe the variation between
        patients. [assumption] Neither is given for fewer than five patients: see `Interval`.
    threshold : float
        An exam is classified as a case if score >= threshold. Default: 0.5 [assumption]. It can
        also be the `youden_threshold` of the *validation* exams.

    Returns
    -------
    RocBootstrap

    Raises
    ------
    InputError
        If all labels are equal or a label is not 0 or 1; if scores are NaN or infinite; if lengths
        differ; if indices are out of range; if there is only one patient; or if fewer than two
        resamples contain both classes.

    Notes
    -----
    The AUC is the area under the trapezoidal curve, P(case > control) + P(case = control) / 2,
    where case and control are scores. A tie of a case and a control counts one half.

    Examples
    --------
    >>> import numpy as np
    >>> from qmri_lake.statistics import bootstrap_roc
    >>> rng = np.random.default_rng(0)
    >>> label = np.repeat([0, 1], 150)
    >>> score = 1 / (1 + np.exp(-rng.normal(2 * label - 1, 1.5)))
    >>> print(bootstrap_roc(label, score, patient=np.arange(300) // 2, seed=0))
    sensitivity 0.698 (0.627 to 0.780)
    specificity 0.714 (0.632 to 0.783)
    auc         0.781 (0.725 to 0.833)
    150 cases, 150 controls
    """
    truth, (values,) = labels_and_scores(label, score, where="bootstrap_roc")
    if interval not in ("percentile", "paper"):
        raise InputError(
            f"interval={interval!r}",
            expected="percentile or paper",
            where="bootstrap_roc",
            reason=Reason.UNREADABLE_VALUE,
        )
    if np.isnan(threshold):
        raise InputError(
            "threshold=nan",
            expected="a number",
            where="bootstrap_roc",
            reason=Reason.UNREADABLE_VALUE,
        )
    patients = None
    if indices is not None:
        draws, codes = _check_indices(indices, len(truth)), np.arange(len(truth))
    else:
        codes, units = patient_codes(patient, len(truth), "bootstrap_roc")
        patients = units if patient is not None else None
        if units < 2:
            raise InputError(
                f"{len(truth)} exams of 1 patient",
                expected="2 patients or more",
                where="bootstrap_roc",
                reason=Reason.UNREADABLE_VALUE,
                todo="All resamples of one patient are equal: add patients.",
            )
        if n_resamples < 2:
            raise InputError(
                f"n_resamples={n_resamples}",
                expected="2 or more",
                where="bootstrap_roc",
                reason=Reason.UNREADABLE_VALUE,
            )
        draws = np.random.default_rng(seed).integers(units, size=(n_resamples, units))
    samples = _resample(truth, values, codes, draws, threshold)
    complete = np.isfinite(samples).all(axis=1)
    if complete.sum() < 2:
        raise InputError(
            f"{int(complete.sum())} of {len(samples)} resamples with both classes",
            expected="2 or more",
            where="bootstrap_roc",
            todo="Add patients of the rarer class, or resamples.",
            reason=Reason.UNREADABLE_VALUE,
        )
    of_metric = (np.unique(codes[truth]).size, np.unique(codes[~truth]).size, np.unique(codes).size)
    sensitivity, specificity, auc = (
        _interval(column, interval, number)
        for column, number in zip(samples[complete].T, of_metric, strict=True)
    )
    return RocBootstrap(
        sensitivity=sensitivity,
        specificity=specificity,
        auc=auc,
        samples=xr.DataArray(
            samples, dims=("resample", "metric"), coords={"metric": list(METRICS)}, name="roc"
        ),
        cases=int(truth.sum()),
        controls=int((~truth).sum()),
        patients=patients,
        left_out=int((~complete).sum()),
    )


def _check_indices(indices: ArrayLike, exams: int) -> NDArray[np.intp]:
    given = np.asarray(indices)
    if given.ndim != 2 or given.dtype.kind not in "iu" or len(given) < 2 or not given.shape[1]:
        raise InputError(
            f"indices of shape {given.shape} and type {given.dtype}",
            expected="integers (resample, draw), 2 resamples or more",
            where="bootstrap_roc",
            reason=Reason.UNREADABLE_VALUE,
        )
    if given.min() < 0 or given.max() >= exams:
        raise InputError(
            f"indices {given.min()} to {given.max()}",
            expected=f"0 to {exams - 1}",
            where="bootstrap_roc",
            reason=Reason.UNREADABLE_VALUE,
        )
    return given.astype(np.intp, copy=False)


def _resample(
    case: NDArray[np.bool_],
    score: NDArray[np.float64],
    unit: NDArray[np.intp],
    draws: NDArray[np.intp],
    threshold: float,
) -> NDArray[np.float64]:
    """Return metrics (resample, metric); NaN if a resample has no case or no control."""
    from qmri_lake.statistics.classification_metrics_numba import count_resamples

    order = np.argsort(score)
    ranked = score[order]
    first = np.r_[True, ranked[1:] != ranked[:-1]]
    counts = np.empty((len(draws), 5), np.int64)
    times = np.zeros(int(unit.max()) + 1, np.int64)
    count_resamples(
        draws,
        unit[order],
        case[order],
        first,
        (ranked >= threshold).astype(np.int64),
        times,
        counts,
    )
    cases, controls, hits, rejections, twice = counts.T.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.stack([hits / cases, rejections / controls, twice / (2 * cases * controls)], 1)


def _interval(samples: NDArray[np.float64], kind: str, patients: int) -> Interval:
    mean = float(samples.mean())
    if kind == "paper":
        half = 1.96 * float(samples.std(ddof=1)) / np.sqrt(len(samples))
        return Interval(mean, *limits_around(mean, half, patients=patients, scale="logit"))
    low, high = np.quantile(samples, (0.025, 0.975))
    return Interval(mean, *checked_limits(low, high, patients=patients, scale="logit"))
