"""Draw ROC curves of classifiers, in a style shared by all figures of classifiers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from qmri_lake.core.text import counted
from qmri_lake.diagnosis.evaluation.classifier_tables import PREDICTORS
from qmri_lake.errors import InputError, Reason
from qmri_lake.statistics.delong import delong_interval
from qmri_lake.statistics.interval_limits import FEWEST, NO_INTERVAL
from qmri_lake.statistics.roc import roc_curve

__all__ = ["SIDE", "SMALL", "STYLES", "check_count", "roc_figure", "set_title", "style_axes"]

# Colours of Okabe and Ito. Line styles also differ, for print without colour.
STYLES = (
    ("#009E73", (0, (1, 1))),
    ("#0072B2", (0, (4, 1.5))),
    ("#D55E00", (0, (6, 1.5, 1, 1.5))),
    ("#CC79A7", (0, (9, 2))),
    ("#111111", "-"),
    ("#E69F00", (0, (2, 2))),
)

SIDE, SMALL = 4.8, 8.5
"""Side of square axes [inch], and size of small text [pt]."""


def roc_figure(
    label: ArrayLike,
    scores: Mapping[str, ArrayLike],
    *,
    threshold: float | None = 0.5,
    patient: ArrayLike | None = None,
    title: str = "",
) -> Figure:
    """Draw the ROC curves of several classifiers on the same exams.

    Parameters
    ----------
    label : (exam,)
        1 for a case, 0 for a control.
    scores : mapping of name to (exam,)
        Scores of at most six classifiers, for example of the predictors patella, tibia, femur, tf
        and ptf.
    threshold : float or None
        Score at which each curve is marked by a dot. None: no dots.
    patient : (exam,), optional
        Patient of each exam, for the intervals of the AUC: see `ql.statistics.delong_interval`.
    title : str, optional

    Returns
    -------
    Figure
        Sensitivity over 1 - specificity. The legend gives the AUC with DeLong's 95 % interval on
        the logit scale; none is given for fewer than five patients.

    Raises
    ------
    InputError
        If the values are invalid, as in `ql.statistics.bootstrap_roc`, or if there are no
        classifiers or more than six.
    """
    check_count(scores, "roc_figure")
    truth = np.asarray(label)
    fig, ax = _square_axes()
    has_intervals = False
    ax.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    for (name, score), (colour, dashes) in zip(scores.items(), STYLES, strict=False):
        curve = roc_curve(label, score)
        area = delong_interval(label, score, patient=patient)
        interval = "" if np.isnan(area.low) else f" ({area.low:.2f}\N{EN DASH}{area.high:.2f})"
        has_intervals |= bool(interval)
        text = f"{PREDICTORS.get(name, name)}: {area.auc:.2f}{interval}"
        ax.plot(
            1 - curve["specificity"],
            curve["sensitivity"],
            color=colour,
            linestyle=dashes,
            linewidth=1.7,
            label=text,
        )
        if threshold is not None:
            positive = np.asarray(score, float) >= threshold
            point = positive[truth == 0].mean(), positive[truth == 1].mean()
            ax.plot(
                *point,
                "o",
                color=colour,
                markersize=5.5,
                markeredgecolor="white",
                markeredgewidth=0.8,
                zorder=3,
            )
    ax.set(xlabel="1 \N{MINUS SIGN} specificity", ylabel="sensitivity")
    cases = int(truth.sum())
    text = f"{counted(cases, 'case')}, {counted(truth.size - cases, 'control')}"
    if threshold is not None:
        text += f"; dots: threshold {threshold:.3g}"
    set_title(ax, title, text)
    patients = truth.size if patient is None else np.unique(np.asarray(patient)).size
    few = f" ({NO_INTERVAL})" if patients < FEWEST else ""
    ax.legend(
        title="AUC (95 % CI: DeLong, logit scale)" if has_intervals else f"AUC{few}",
        loc="lower right",
        fontsize=SMALL,
        title_fontsize=SMALL,
        frameon=False,
        handlelength=3.2,
    )
    return fig


def check_count(values: Mapping[str, ArrayLike], where: str) -> None:
    """Raise an InputError if there are no classifiers, or more classifiers than line styles."""
    if not 0 < len(values) <= len(STYLES):
        raise InputError(
            f"{len(values)} classifiers",
            expected=f"1 to {len(STYLES)}",
            where=where,
            todo="Draw one figure per strategy.",
            reason=Reason.UNREADABLE_VALUE,
        )


def _square_axes() -> tuple[Figure, Axes]:
    fig = Figure(figsize=(SIDE, SIDE), layout="constrained")
    ax = fig.subplots()
    style_axes(ax)
    return fig, ax


def style_axes(ax: Axes) -> None:
    """Set equal axes from 0 to 1, without the frame at the top and right."""
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.tick_params(labelsize=SMALL)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def set_title(ax: Axes, title: str, subtitle: str) -> None:
    """Set the title of axes, with the subtitle on its own line."""
    ax.set_title(f"{title}\n{subtitle}" if title else subtitle, fontsize=10)
