"""Draw curves of the losses over epochs."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

__all__ = ["curves_figure"]


def curves_figure(log: pd.DataFrame, best_epoch: int, title: str) -> Figure:
    """Draw the training and validation loss of each epoch.

    Parameters
    ----------
    log : DataFrame
        Columns epoch, loss and validation_loss, as in ``log.csv``.
    best_epoch : int
        The epoch whose weights were kept; 0: no epoch.
    title : str
        Title of the axes.
    """
    fig = Figure(figsize=(5.2, 3.2), layout="constrained")
    ax = fig.subplots()
    ax.plot(log["epoch"], log["loss"], color="#0072B2", label="training")
    ax.plot(log["epoch"], log["validation_loss"], color="#D55E00", label="validation")
    if best_epoch:
        ax.axvline(best_epoch, color="0.6", linewidth=0.8, linestyle="--", label="weights kept")
    ax.set_xlabel("epoch")
    ax.set_ylabel("loss")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_title(title, fontsize=9)
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return fig
