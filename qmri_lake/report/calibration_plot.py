"""Draw calibration plots of classifiers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from qmri_lake.diagnosis.evaluation.classifier_tables import PREDICTORS
from qmri_lake.report.classifier_figures import (
    SIDE,
    SMALL,
    STYLES,
    check_count,
    set_title,
    style_axes,
)
from qmri_lake.statistics.calibration import brier_score, calibration_curve

__all__ = ["calibration_figure"]


def calibration_figure(
    label: ArrayLike,
    probabilities: Mapping[str, ArrayLike],
    *,
    bins: int = 10,
    patient: ArrayLike | None = None,
    title: str = "",
) -> Figure:
    """Draw the calibration curve and the distribution of predicted probabilities.

    Parameters
    ----------
    label : (exam,)
        1 for a case, 0 for a control.
    probabilities : mapping of name to (exam,)
        Probabilities of a case, 0 to 1, of at most six classifiers.
    bins : int
        Number of bins, as in `ql.statistics.calibration_curve`.
    patient : (exam,), optional
        Patient of each exam. Default: each exam is one patient.
    title : str, optional
        Title of the figure.

    Returns
    -------
    Figure
        Observed proportion of cases over predicted probability, with Wilson's 95 % intervals. Empty
        bins are not drawn, and bins of fewer than five patients have no interval. The legend gives
        the Brier scores, and the Brier score of a constant prediction equal to the prevalence.

    Raises
    ------
    InputError
        If the values are invalid, as in `ql.statistics.calibration_curve`, or if there are no
        classifiers or more than six.
    """
    check_count(probabilities, "calibration_figure")
    share = float(np.mean(np.asarray(label, float)))
    fig = Figure(figsize=(SIDE, 1.42 * SIDE), layout="constrained")
    ax, below = fig.subplots(2, 1, sharex=True, height_ratios=(4.6, 1))
    style_axes(ax)
    ax.set_aspect("auto")  # square axes would be narrower than the panel below, which shares x
    ax.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    number, lacking = len(probabilities), 0
    for k, ((name, values), (colour, dashes)) in enumerate(
        zip(probabilities.items(), STYLES, strict=False)
    ):
        curve = calibration_curve(label, values, bins=bins, patient=patient)
        curve = curve.dropna(subset=["observed"])
        offset = 0.006 * (k - (number - 1) / 2)  # so that bars of equal predictions don't overlap
        errors = np.abs(curve[["low", "high"]].to_numpy() - curve[["observed"]].to_numpy()).T
        text = f"{PREDICTORS.get(name, name)}: {brier_score(label, values):.3f}"
        x = curve["predicted"].to_numpy() + offset
        ax.plot(
            x,
            curve["observed"],
            color=colour,
            linestyle=dashes,
            linewidth=1.5,
            marker="o",
            markersize=4.5,
            label=text,
        )
        known = np.isfinite(errors).all(axis=0)
        ax.errorbar(
            x[known],
            curve["observed"][known],
            errors[:, known],
            fmt="none",
            ecolor=colour,
            elinewidth=0.9,
            alpha=0.7,
        )
        lacking += int((~known).sum())
        below.hist(
            np.asarray(values, float),
            bins=np.linspace(0, 1, 21),
            histtype="step",
            color=colour,
            linestyle=dashes,
            linewidth=1.3,
        )
    ax.set_ylabel("observed proportion of cases")
    below.set(xlabel="predicted probability", ylabel="exams")
    for side in ("top", "right"):
        below.spines[side].set_visible(False)
    below.tick_params(labelsize=SMALL)
    total = np.asarray(label).size
    text = f"{round(share * total):,} cases of {total:,}"
    if lacking:
        text += "\nno intervals in bins of fewer than five patients"
    set_title(ax, title, text)
    # Error bars may cover any part of the panel, so the legend is outside.
    fig.legend(
        title=f"Brier score (constant prediction: {share * (1 - share):.3f})",
        loc="outside lower center",
        ncols=2,
        fontsize=SMALL,
        title_fontsize=SMALL,
        frameon=False,
        handlelength=3.2,
    )
    return fig
