"""Where classifiers look: mean class activation maps of presence and absence, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.report.maps import COLOURS, angles
from qmri_lake.surface.layout import POLAR_MAX

__all__ = ["cam_figure"]

_COLUMNS = {"presence": "true positive", "absence": "true negative"}
_COLOURS = "YlOrRd"
_OUTLINE: dict[str, Any] = {"colors": "#12395b", "linewidths": 1.1}
_HALF = "#5c6b7a"
_HALFWAY: dict[str, Any] = {"color": _HALF, "linewidth": 0.9, "linestyle": (0, (4, 3))}


def cam_figure(means: xr.Dataset | Sequence[xr.Dataset], *, title: str = "") -> Figure:
    """Draw mean CAMs, a row a bone and strategy: presence to the left, absence to the right.

    Parameters
    ----------
    means : Dataset or sequence of Dataset
        Of `qmri_lake.diagnosis.mean_cams`; computed here if they are lazy.
    title : str, optional

    Returns
    -------
    Figure
        Polar angle to the right, azimuth downwards, as maps are drawn; one colour scale a row, from
        0. A dark line runs around where at least half of the exams are articular, a dashed one
        parts the medial half, below, from the lateral one. Titles say how many exams each is of,
        and which part of it is medial.

    Raises
    ------
    InputError
        Nothing to draw.
    NotFoundError
        A mean lacks presence or absence.
    """
    rows = [means] if isinstance(means, xr.Dataset) else list(means)
    if not rows:
        raise InputError(
            "no means", expected="at least one", where="cam_figure", reason=Reason.ABSENT_EXAM
        )
    fig = Figure(figsize=(9.2, 3.3 * len(rows) + 0.6), layout="constrained")
    axes = fig.subplots(len(rows), 2, squeeze=False)
    for pair, row in zip(axes, rows, strict=True):
        _row(fig, list(pair), row.compute())
    lines = [
        Line2D([], [], color=_OUTLINE["colors"], linewidth=_OUTLINE["linewidths"],
               label="articular in half of the exams"),
        Line2D([], [], label="medial below, lateral above", **_HALFWAY),
    ]  # fmt: skip
    fig.legend(handles=lines, loc="outside lower center", ncols=2, fontsize=9, frameon=False,
               handlelength=3.2)  # fmt: skip
    if title:
        fig.suptitle(title, fontsize=12)
    return fig


def _row(fig: Figure, axes: list[Axes], mean: xr.Dataset) -> None:
    bone = str(mean["bone"].item())
    absent = [name for name in _COLUMNS if name not in mean["finding"].values]
    if absent:
        raise NotFoundError(
            f"no mean of {absent[0]} for the {bone}", expected=", ".join(_COLUMNS),
            where="cam_figure", todo="Make CAMs of both findings.",
        )  # fmt: skip
    most = float(mean["mean"].max())
    top = most if most > 0 else 1.0
    extent = (0.0, POLAR_MAX[bone], 180.0, -180.0)
    for ax, (finding, told) in zip(axes, _COLUMNS.items(), strict=True):
        one = mean.sel(finding=finding)
        ax.set_facecolor(COLOURS["not articular"])
        shown = ax.imshow(one["mean"].values, cmap=_COLOURS, vmin=0, vmax=top,
                          interpolation="nearest", aspect="auto", extent=extent)  # fmt: skip
        if int(one["exams"]):
            _lines(ax, one)
        else:
            words = "no CAM" if int(one["left_out"]) else f"no {told}"
            ax.text(0.5, 0.5, words, ha="center", va="center", fontsize=9, color=_HALF,
                    transform=ax.transAxes)  # fmt: skip
        angles(ax, bone, labelled=finding == "presence")
        ax.set_title(_words(one, bone, finding, told), fontsize=9.5)
    bar = fig.colorbar(shown, ax=axes, pad=0.015, aspect=22)
    bar.set_label(f"mean CAM [{mean['mean'].attrs.get('units', '')}]", fontsize=8)
    bar.ax.tick_params(labelsize=8)


def _lines(ax: Axes, one: xr.Dataset) -> None:
    articular = one["articular"].values
    if (articular >= 0.5).any():
        ax.contour(
            one["polar_angle"].values, one["azimuth"].values, articular, [0.5], **_OUTLINE
        )  # fmt: skip
    ax.axhline(0, **_HALFWAY)


def _words(one: xr.Dataset, bone: str, finding: str, told: str) -> str:
    exams, without = int(one["exams"]), int(one["left_out"])
    words = f"{exams:,} {told}{'s' * (exams != 1)}"
    if without:
        words += f" and {without:,} without a CAM"
    if exams:
        words += f"; {100 * float(one['medial_share']):.0f} % medial"
    strategy = str(one["strategy"].item())
    for plain, shown in (("_", " "), ("+", " + "), ("t2", "T2")):
        strategy = strategy.replace(plain, shown)
    return f"{bone}, {strategy}: {finding}\n{words}"
