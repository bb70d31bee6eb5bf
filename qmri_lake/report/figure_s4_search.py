"""Figure S4: the best model per initialisation in a hyperparameter search."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from qmri_lake.diagnosis.evaluation.classifier_tables import PREDICTORS
from qmri_lake.diagnosis.models.recipes import STARTS
from qmri_lake.errors import InputError, Reason
from qmri_lake.fusion import STRATEGIES, strategy_title
from qmri_lake.surface.spherical_grid import BONES

if TYPE_CHECKING:
    from qmri_lake.diagnosis.training.search import SearchResult

__all__ = ["figure_s4"]

_STYLES = {"random": ("#D55E00", "s"), "imagenet": ("#0072B2", "o"), "oa": ("#009E73", "D")}
_START_LABELS = {
    "random": "random initialisation",
    "imagenet": "pretrained on ImageNet",
    "oa": "pretrained on OA",
}
_ROW_OFFSET = 0.24


def figure_s4(searched: SearchResult, *, title: str = "") -> Figure:
    """Draw the validation AUC of the best model per initialisation, strategy and bone.

    Parameters
    ----------
    searched : SearchResult
        As returned by `qmri_lake.diagnosis.training.search.search`. The figure gives the number of
        trained models out of the 612 models of the whole search.
    title : str, optional
        Title of the figure, for example a description of the exams.

    Returns
    -------
    Figure
        One panel per bone and one row per strategy. The filled marker is the best of the three
        initialisations. Combinations without a trained model are labelled "not searched".

    Raises
    ------
    InputError
        If no model has a validation AUC.
    """
    best = searched.best()
    if best.empty:
        raise InputError(
            "no model with a validation AUC",
            expected="at least one trained model",
            where="figure_s4",
            reason=Reason.UNREADABLE_VALUE,
        )
    fig = Figure(figsize=(9.6, 4.3), layout="constrained")
    panels = fig.subplots(1, len(BONES), sharex=True, sharey=True)
    names = list(STRATEGIES)
    for ax, bone in zip(panels, BONES, strict=True):
        _draw_panel(ax, best[best["bone"] == bone])
        ax.set_title(PREDICTORS[bone], fontsize=10)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(names)), [strategy_title(name) for name in names])
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    low = min(0.5, float(best["validation_auc"].min()))
    # Leave space for the numbers to the left of the markers.
    panels[0].set_xlim(np.floor(20 * low) / 20 - 0.1, 1.02)
    panels[1].set_xlabel("AUC on the validation set", fontsize=9.5)
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=_START_LABELS[start])
        for start, (colour, marker) in _STYLES.items()
        if (best["start"] == start).any()
    ]
    fig.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8.5
    )
    text = (
        f"Best model per initialisation (filled: best per row); {searched.coverage} models trained"
    )
    fig.suptitle(f"{title + ': ' if title else ''}{text}", fontsize=10)
    return fig


def _draw_panel(ax: Axes, best: pd.DataFrame) -> None:
    """Draw the best models of one bone, one row per strategy."""
    ax.axvline(0.5, color="#999999", linewidth=0.8)
    for row, strategy in enumerate(STRATEGIES):
        if row % 2:
            ax.axhspan(row - 0.5, row + 0.5, color="#f3f5f7", zorder=0)
        models = best[best["strategy"] == strategy]
        if models.empty:
            ax.annotate(
                "not searched",
                (0.5, row),
                xycoords=("axes fraction", "data"),
                ha="center",
                va="center",
                fontsize=7,
                color="#8a949e",
            )
        highest = models["validation_auc"].max()
        for model in models.itertuples():
            colour, marker = _STYLES[str(model.start)]
            is_best = model.validation_auc == highest
            y = row + _ROW_OFFSET * (STARTS.index(model.start) - 1)
            auc = float(model.validation_auc)  # type: ignore[arg-type]
            ax.plot(
                auc,
                y,
                marker,
                color=colour,
                markersize=6,
                markeredgewidth=1.3,
                markerfacecolor=colour if is_best else "white",
            )
            ax.annotate(
                f"{auc:.3f}",
                (auc, y),
                xytext=(-6, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                fontsize=6.5,
                fontweight="bold" if is_best else "normal",
                color="#333333",
            )
