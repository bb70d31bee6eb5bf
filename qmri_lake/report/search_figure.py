"""Figure S4: the best model of each start in a search, by biomarker and bone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from qmri_lake.diagnosis.recipes import STARTS
from qmri_lake.errors import InputError, Reason
from qmri_lake.fusion import STRATEGIES
from qmri_lake.report.classifier_tables import PREDICTORS, TITLES
from qmri_lake.surface.layout import BONES

if TYPE_CHECKING:
    from qmri_lake.diagnosis.search import Searched

__all__ = ["figure_s4"]

_STYLES = {"random": ("#D55E00", "s"), "imagenet": ("#0072B2", "o"), "oa": ("#009E73", "D")}
_WORDS = {"random": "random start", "imagenet": "ImageNet", "oa": "model of OA"}
_APART = 0.24


def figure_s4(searched: Searched, *, title: str = "") -> Figure:
    """Draw the validation AUC of the best model of each start, for each biomarker and bone.

    Parameters
    ----------
    searched : Searched
        Of `qmri_lake.diagnosis.search.search`. Where it is a part of the search, the figure says
        how many of 612 models were trained.
    title : str, optional
        Such as whose knees these are.

    Returns
    -------
    Figure
        A panel a bone and a row a strategy; filled: the best of the three starts. What was not
        searched says so.

    Raises
    ------
    InputError
        No model with a result.
    """
    best = searched.best()
    if best.empty:
        raise InputError(
            "no model with a validation AUC", expected="a search that trained one",
            where="figure_s4", reason=Reason.UNREADABLE_VALUE,
        )  # fmt: skip
    fig = Figure(figsize=(9.6, 4.3), layout="constrained")
    panels = fig.subplots(1, len(BONES), sharex=True, sharey=True)
    names = list(STRATEGIES)
    for ax, bone in zip(panels, BONES, strict=True):
        ax.axvline(0.5, color="#999999", linewidth=0.8)
        for row, strategy in enumerate(names):
            if row % 2:
                ax.axhspan(row - 0.5, row + 0.5, color="#f3f5f7", zorder=0)
            here = best[(best["bone"] == bone) & (best["strategy"] == strategy)]
            if here.empty:
                ax.annotate("not searched", (0.5, row), xycoords=("axes fraction", "data"),
                            ha="center", va="center", fontsize=7, color="#8a949e")  # fmt: skip
            highest = here["validation_auc"].max()
            for one in here.itertuples():
                colour, mark = _STYLES[str(one.start)]
                top = one.validation_auc == highest
                at = row + _APART * (STARTS.index(one.start) - 1)
                auc = float(one.validation_auc)  # type: ignore[arg-type]
                ax.plot(auc, at, mark, color=colour, markersize=6, markeredgewidth=1.3,
                        markerfacecolor=colour if top else "white")  # fmt: skip
                ax.annotate(f"{auc:.3f}", (auc, at), xytext=(-6, 0), textcoords="offset points",
                            ha="right", va="center", fontsize=6.5,
                            fontweight="bold" if top else "normal", color="#333333")  # fmt: skip
        ax.set_title(PREDICTORS[bone], fontsize=10)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(names)), [TITLES[name] for name in names])
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    low = min(0.5, float(best["validation_auc"].min()))
    # Room for the numbers on the left of marks.
    panels[0].set_xlim(np.floor(20 * low) / 20 - 0.1, 1.02)
    panels[1].set_xlabel("AUC on the validation exams", fontsize=9.5)
    handles = [
        Line2D([], [], color=colour, marker=mark, linestyle="", label=_WORDS[start])
        for start, (colour, mark) in _STYLES.items()
        if (best["start"] == start).any()
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False,
               fontsize=8.5)  # fmt: skip
    told = f"best of each start; {searched.told} models trained; filled: best of its row"
    fig.suptitle(f"{title + ': ' if title else ''}{told}", fontsize=10)
    return fig
