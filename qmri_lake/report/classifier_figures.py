"""Pictures of classifiers: ROC curves and calibration."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from qmri_lake.errors import InputError, Reason
from qmri_lake.report.classifier_tables import PREDICTORS
from qmri_lake.statistics.calibration import brier_score, calibration_curve
from qmri_lake.statistics.roc import delong_interval, roc_curve

__all__ = ["calibration_figure", "roc_figure"]

# Okabe and Ito's colours, and lines that differ without colour too.
_STYLES = (
    ("#009E73", (0, (1, 1))), ("#0072B2", (0, (4, 1.5))), ("#D55E00", (0, (6, 1.5, 1, 1.5))),
    ("#CC79A7", (0, (9, 2))), ("#111111", "-"), ("#E69F00", (0, (2, 2))),
)  # fmt: skip


_SIDE, _SMALL = 4.8, 8.5


def roc_figure(
    label: ArrayLike,
    scores: Mapping[str, ArrayLike],
    *,
    threshold: float | None = 0.5,
    patient: ArrayLike | None = None,
    title: str = "",
) -> Figure:
    """Draw ROC curves of classifiers of the same exams.

    Parameters
    ----------
    label : (exam,)
        1 for a case, 0 for a control.
    scores : mapping of name to (exam,)
        At most six, such as of the predictors patella, tibia, femur, tf, ptf.
    threshold : float or None
        Where each curve gets a dot; None for no dot.
    patient : (exam,), optional
        For the intervals of the legend, as of `ql.statistics.delong_interval`.
    title : str, optional

    Returns
    -------
    Figure
        Sensitivity over 1 - specificity; the legend has each AUC and DeLong's 95 % interval.

    Raises
    ------
    InputError
        As `ql.statistics.bootstrap_roc`, or no scores, or more than six.
    """
    _few(scores, "roc_figure")
    truth = np.asarray(label)
    fig, ax = _square()
    ax.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    for (name, score), (colour, dashes) in zip(scores.items(), _STYLES, strict=False):
        curve = roc_curve(label, score)
        found = delong_interval(label, score, patient=patient)
        interval = "" if np.isnan(found.low) else f" ({found.low:.2f}\N{EN DASH}{found.high:.2f})"
        words = f"{PREDICTORS.get(name, name)}: {found.auc:.2f}{interval}"
        ax.plot(1 - curve["specificity"], curve["sensitivity"], color=colour, linestyle=dashes,
                linewidth=1.7, label=words)  # fmt: skip
        if threshold is not None:
            positive = np.asarray(score, float) >= threshold
            at = positive[truth == 0].mean(), positive[truth == 1].mean()
            ax.plot(*at, "o", color=colour, markersize=5.5, markeredgecolor="white",
                    markeredgewidth=0.8, zorder=3)  # fmt: skip
    ax.set(xlabel="1 \N{MINUS SIGN} specificity", ylabel="sensitivity")
    cases = int(truth.sum())
    words = f"{cases:,} cases, {truth.size - cases:,} controls"
    if threshold is not None:
        words += f"; dots: threshold {threshold:.3g}"
    _headed(ax, title, words)
    ax.legend(title="AUC (95 % interval)", loc="lower right", fontsize=_SMALL,
              title_fontsize=_SMALL, frameon=False, handlelength=3.2)  # fmt: skip
    return fig


def calibration_figure(
    label: ArrayLike,
    probabilities: Mapping[str, ArrayLike],
    *,
    bins: int = 10,
    title: str = "",
) -> Figure:
    """Draw observed over predicted shares of cases, and the distribution of predictions.

    Parameters
    ----------
    label : (exam,)
        1 for a case, 0 for a control.
    probabilities : mapping of name to (exam,)
        0 to 1; at most six.
    bins : int
        As of `ql.statistics.calibration_curve`.
    title : str, optional

    Returns
    -------
    Figure
        Bars are 95 % intervals after Wilson; bins without an exam are not drawn. The legend has
        each Brier score, and that of a classifier which gives every exam the share of cases.

    Raises
    ------
    InputError
        As `ql.statistics.calibration_curve`, or no probabilities, or more than six.
    """
    _few(probabilities, "calibration_figure")
    share = float(np.mean(np.asarray(label, float)))
    fig = Figure(figsize=(_SIDE, 1.42 * _SIDE), layout="constrained")
    ax, below = fig.subplots(2, 1, sharex=True, height_ratios=(4.6, 1))
    _framed(ax)
    ax.set_aspect("auto")  # a square would be narrower than the panel below, which shares its axis
    ax.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    many = len(probabilities)
    for k, ((name, values), (colour, dashes)) in enumerate(
        zip(probabilities.items(), _STYLES, strict=False)
    ):
        curve = calibration_curve(label, values, bins=bins).dropna()
        aside = 0.006 * (k - (many - 1) / 2)  # bars of equal predictions stay apart
        around = np.abs(curve[["low", "high"]].to_numpy() - curve[["observed"]].to_numpy()).T
        words = f"{PREDICTORS.get(name, name)}: {brier_score(label, values):.3f}"
        x = curve["predicted"].to_numpy() + aside
        ax.plot(x, curve["observed"], color=colour, linestyle=dashes, linewidth=1.5, marker="o",
                markersize=4.5, label=words)  # fmt: skip
        ax.errorbar(
            x, curve["observed"], around, fmt="none", ecolor=colour, elinewidth=0.9, alpha=0.7
        )
        below.hist(np.asarray(values, float), bins=np.linspace(0, 1, 21), histtype="step",
                   color=colour, linestyle=dashes, linewidth=1.3)  # fmt: skip
    ax.set_ylabel("observed share of cases")
    below.set(xlabel="predicted probability", ylabel="exams")
    for side in ("top", "right"):
        below.spines[side].set_visible(False)
    below.tick_params(labelsize=_SMALL)
    total = np.asarray(label).size
    _headed(ax, title, f"{round(share * total):,} cases of {total:,}")
    # Bars may reach anywhere in the panel, so the legend is outside.
    fig.legend(title=f"Brier score (share of cases alone: {share * (1 - share):.3f})",
               loc="outside lower center", ncols=2, fontsize=_SMALL, title_fontsize=_SMALL,
               frameon=False, handlelength=3.2)  # fmt: skip
    return fig


def _few(given: Mapping[str, ArrayLike], where: str) -> None:
    if not 0 < len(given) <= len(_STYLES):
        raise InputError(
            f"{len(given)} classifiers", expected=f"1 to {len(_STYLES)}", where=where,
            todo="Draw one strategy a figure.", reason=Reason.UNREADABLE_VALUE,
        )  # fmt: skip


def _square() -> tuple[Figure, Axes]:
    fig = Figure(figsize=(_SIDE, _SIDE), layout="constrained")
    ax = fig.subplots()
    _framed(ax)
    return fig, ax


def _framed(ax: Axes) -> None:
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.tick_params(labelsize=_SMALL)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _headed(ax: Axes, title: str, words: str) -> None:
    ax.set_title(f"{title}\n{words}" if title else words, fontsize=10)
