"""Sensitivity, specificity and AUC of a classifier, with intervals from resampled patients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from qmri_lake.errors import InputError, Reason

__all__ = ["Interval", "RocBootstrap", "bootstrap_roc", "labels_and_scores", "patient_codes"]

METRICS = ("sensitivity", "specificity", "auc")


class Interval(NamedTuple):
    """A mean and its 95 % confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class RocBootstrap:
    """What a classifier reaches over resamples; fractions of 1."""

    sensitivity: Interval
    specificity: Interval
    auc: Interval
    samples: xr.DataArray
    """(resample, metric): sensitivity, specificity, auc; NaN where a resample lacks a class."""
    cases: int
    controls: int
    patients: int | None
    """Patients that were resampled; None where exams were."""
    left_out: int
    """Resamples that drew one class only: in no interval."""

    def table(self) -> pd.DataFrame:
        """Return a row a metric: metric, mean, low, high; what Tables S2 and S3 are made of."""
        rows = [(name, *getattr(self, name)) for name in METRICS]
        return pd.DataFrame(rows, columns=["metric", "mean", "low", "high"])

    def __str__(self) -> str:
        rows = [
            f"{row.metric:11s} {row.mean:.3f} ({row.low:.3f} to {row.high:.3f})"
            for row in self.table().itertuples()
        ]
        left = f", {self.left_out} resamples left out" if self.left_out else ""
        return "\n".join([*rows, f"{self.cases} cases, {self.controls} controls{left}"])


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
        Larger for a case: probabilities, or any finite values. No NaN.
    patient : (exam,), optional
        Whose exam it is. Patients are drawn with replacement, each with all their exams. Without
        it exams are drawn, and intervals are too narrow where a patient has several.
    n_resamples : int
        2 or more; 100 in the paper. [paper]
    seed : int, optional
        Of the resamples; without it they differ from call to call.
    indices : (resample, draw), optional
        Exams of each resample, from 0, instead of drawing them: `patient`, `n_resamples` and `seed`
        then play no part.
    interval : {"percentile", "paper"}
        "percentile": from 2.5 % to 97.5 % of the resamples. "paper": 95 % interval of the mean of
        the resamples, mean +- 1.96 SD / sqrt(n), which fits the width of the printed intervals; it
        shrinks with `n_resamples`, and says nothing of other patients. [assumption]
    threshold : float
        Of a positive: score >= threshold. 0.5 [assumption]; or `youden_threshold` of the
        *validation* exams.

    Returns
    -------
    RocBootstrap

    Raises
    ------
    InputError
        One class only, NaN or infinite scores, labels other than 0 and 1, lengths that differ,
        indices of no exam, one patient, or so few of a class that fewer than two resamples hold
        both.

    Notes
    -----
    A tie of a case and a control counts one half, so that the AUC is that of the trapezoidal
    curve, P(case > control) + P(case = control) / 2.

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
            f"interval={interval!r}", expected="percentile or paper", where="bootstrap_roc",
            reason=Reason.UNREADABLE_VALUE,
        )  # fmt: skip
    if np.isnan(threshold):
        raise InputError(
            "threshold=nan", expected="a number", where="bootstrap_roc",
            reason=Reason.UNREADABLE_VALUE,
        )  # fmt: skip
    patients = None
    if indices is not None:
        drawn, codes = _checked(indices, len(truth)), np.arange(len(truth))
    else:
        codes, units = patient_codes(patient, len(truth), "bootstrap_roc")
        patients = units if patient is not None else None
        if units < 2:
            raise InputError(
                f"{len(truth)} exams of 1 patient", expected="2 patients or more",
                where="bootstrap_roc", reason=Reason.UNREADABLE_VALUE,
                todo="Every resample of one patient is the same: add patients.",
            )  # fmt: skip
        if n_resamples < 2:
            raise InputError(
                f"n_resamples={n_resamples}", expected="2 or more", where="bootstrap_roc",
                reason=Reason.UNREADABLE_VALUE,
            )  # fmt: skip
        drawn = np.random.default_rng(seed).integers(units, size=(n_resamples, units))
    found = _resampled(truth, values, codes, drawn, threshold)
    whole = np.isfinite(found).all(axis=1)
    if whole.sum() < 2:
        raise InputError(
            f"{int(whole.sum())} of {len(found)} resamples with both classes",
            expected="2 or more", where="bootstrap_roc",
            todo="Add patients of the rarer class, or resamples.", reason=Reason.UNREADABLE_VALUE,
        )  # fmt: skip
    sensitivity, specificity, auc = (_interval(column, interval) for column in found[whole].T)
    return RocBootstrap(
        sensitivity=sensitivity,
        specificity=specificity,
        auc=auc,
        samples=xr.DataArray(
            found, dims=("resample", "metric"), coords={"metric": list(METRICS)}, name="roc"
        ),
        cases=int(truth.sum()),
        controls=int((~truth).sum()),
        patients=patients,
        left_out=int((~whole).sum()),
    )


def labels_and_scores(
    label: ArrayLike, *scores: ArrayLike, where: str
) -> tuple[NDArray[np.bool_], list[NDArray[np.float64]]]:
    """Return labels as booleans and scores as floats, or say what is wrong with them."""

    def wrong(found: str, expected: str, todo: str = "") -> InputError:
        return InputError(
            found, expected=expected, where=where, todo=todo, reason=Reason.UNREADABLE_VALUE
        )

    unknown = pd.isna(np.asarray(label, object))
    if unknown.any():
        raise wrong(f"{int(unknown.sum())} exams without a label", "0 or 1",
                    "Leave them out before, and say how many.")  # fmt: skip
    given = np.asarray(label)
    if given.ndim != 1:
        raise wrong(f"labels with {given.ndim} axes", "one axis, exam")
    odd = ~np.isin(given, (0, 1))
    if odd.any():
        names = ", ".join(sorted({str(v) for v in given[odd]})[:3])
        raise wrong(f"{int(odd.sum())} labels of {names}", "0 or 1")
    numbers = given.astype(np.float64)
    if numbers.size == 0:
        raise wrong("no exam", "cases and controls")
    if numbers.min() == numbers.max():
        name = "cases" if numbers[0] else "controls"
        raise wrong(f"{numbers.size} {name} only", "cases and controls",
                    "With one class there is no curve: take a cohort that has both.")  # fmt: skip
    checked = []
    for score in scores:
        raw = np.asarray(score)
        if raw.dtype.kind not in "biufO":
            raise wrong(f"scores of type {raw.dtype}", "numbers")
        values = raw.astype(np.float64)
        if values.shape != numbers.shape:
            raise wrong(f"scores of shape {values.shape}", f"{numbers.shape}, as the labels")
        lacking = int((~np.isfinite(values)).sum())
        if lacking:
            raise wrong(f"{lacking} of {values.size} scores that are not finite", "finite scores",
                        "Leave out exams without a prediction, and say how many.")  # fmt: skip
        checked.append(values)
    return numbers == 1, checked


def patient_codes(
    patient: ArrayLike | None, exams: int, where: str
) -> tuple[NDArray[np.intp], int]:
    """Return whose each exam is, from 0, and the number of patients; without any, one an exam."""
    if patient is None:
        return np.arange(exams), exams
    given = np.asarray(patient)
    if given.shape != (exams,):
        raise InputError(
            f"patients of shape {given.shape}", expected=f"({exams},), as the labels",
            where=where, reason=Reason.UNREADABLE_VALUE,
        )  # fmt: skip
    if pd.isna(given).any():
        raise InputError(
            f"{int(pd.isna(given).sum())} exams without a patient", expected="one each",
            where=where, reason=Reason.UNREADABLE_VALUE,
        )  # fmt: skip
    codes, names = pd.factorize(given)
    return codes, len(names)


def _checked(indices: ArrayLike, exams: int) -> NDArray[np.intp]:
    given = np.asarray(indices)
    if given.ndim != 2 or given.dtype.kind not in "iu" or len(given) < 2 or not given.shape[1]:
        raise InputError(
            f"indices of shape {given.shape} and type {given.dtype}",
            expected="integers (resample, draw), 2 resamples or more", where="bootstrap_roc",
            reason=Reason.UNREADABLE_VALUE,
        )  # fmt: skip
    if given.min() < 0 or given.max() >= exams:
        raise InputError(
            f"indices {given.min()} to {given.max()}", expected=f"0 to {exams - 1}",
            where="bootstrap_roc", reason=Reason.UNREADABLE_VALUE,
        )  # fmt: skip
    return given.astype(np.intp, copy=False)


def _resampled(
    case: NDArray[np.bool_],
    score: NDArray[np.float64],
    unit: NDArray[np.intp],
    drawn: NDArray[np.intp],
    threshold: float,
) -> NDArray[np.float64]:
    """Return (resample, metric); NaN where a resample has no case, or no control."""
    from qmri_lake.statistics.resampled_counts import count_resamples

    order = np.argsort(score)
    ranked = score[order]
    first = np.r_[True, ranked[1:] != ranked[:-1]]
    counts = np.empty((len(drawn), 5), np.int64)
    times = np.zeros(int(unit.max()) + 1, np.int64)
    count_resamples(
        drawn,
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


def _interval(samples: NDArray[np.float64], kind: str) -> Interval:
    mean = float(samples.mean())
    if kind == "paper":
        half = 1.96 * float(samples.std(ddof=1)) / np.sqrt(len(samples))
        return Interval(mean, mean - half, mean + half)
    low, high = np.quantile(samples, (0.025, 0.975))
    return Interval(mean, float(low), float(high))
