"""Draw mean class activation maps (CAMs) of a classifier, for presence and absence of disease."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.report.colours import STATE_COLOURS
from qmri_lake.report.map_atlases import label_angles
from qmri_lake.surface.spherical_grid import POLAR_MAX

__all__ = ["cam_figure"]

_GROUPS = {"presence": "true positive", "absence": "true negative"}
_COLOURS = "YlOrRd"
_OUTLINE: dict[str, Any] = {"colors": "#12395b", "linewidths": 1.1}
_HALFWAY_COLOUR = "#5c6b7a"
_HALFWAY: dict[str, Any] = {"color": _HALFWAY_COLOUR, "linewidth": 0.9, "linestyle": (0, (4, 3))}


def cam_figure(means: xr.Dataset | Sequence[xr.Dataset], *, title: str = "") -> Figure:
    """Draw mean CAMs, one row per bone and strategy: presence on the left, absence on the right.

    Parameters
    ----------
    means : Dataset or sequence of Dataset
        As returned by `qmri_lake.diagnosis.mean_cams`. Lazy datasets are computed.
    title : str, optional
        Title of the figure.

    Returns
    -------
    Figure
        The polar angle increases to the right and the azimuth downwards, as in other maps. Each
        row has one colour scale, which starts at 0. A dark outline surrounds pixels that are
        articular in at least half of the exams. A dashed line separates the medial half (below)
        from the lateral half. The titles give the number of exams and the medial share.

    Raises
    ------
    InputError
        If there are no means.
    NotFoundError
        If a dataset lacks the finding presence or absence.
    """
    rows = [means] if isinstance(means, xr.Dataset) else list(means)
    if not rows:
        raise InputError(
            "no mean CAMs",
            expected="at least one dataset of mean CAMs",
            where="cam_figure",
            reason=Reason.ABSENT_EXAM,
        )
    fig = Figure(figsize=(9.2, 3.3 * len(rows) + 0.6), layout="constrained")
    axes = fig.subplots(len(rows), 2, squeeze=False)
    for pair, row in zip(axes, rows, strict=True):
        _draw_row(fig, list(pair), row.compute())
    lines = [
        Line2D(
            [],
            [],
            color=_OUTLINE["colors"],
            linewidth=_OUTLINE["linewidths"],
            label="articular in at least half of the exams",
        ),
        Line2D([], [], label="medial below, lateral above", **_HALFWAY),
    ]
    fig.legend(
        handles=lines,
        loc="outside lower center",
        ncols=2,
        fontsize=9,
        frameon=False,
        handlelength=3.2,
    )
    if title:
        fig.suptitle(title, fontsize=12)
    return fig


def _draw_row(fig: Figure, axes: list[Axes], mean: xr.Dataset) -> None:
    bone = str(mean["bone"].item())
    missing = [name for name in _GROUPS if name not in mean["finding"].values]
    if missing:
        raise NotFoundError(
            f"no mean of {missing[0]} for the {bone}",
            expected=" and ".join(_GROUPS),
            where="cam_figure",
            todo="Compute the CAMs of both findings.",
        )
    maximum = float(mean["mean"].max())
    top = maximum if maximum > 0 else 1.0
    extent = (0.0, POLAR_MAX[bone], 180.0, -180.0)
    for ax, (finding, group) in zip(axes, _GROUPS.items(), strict=True):
        one = mean.sel(finding=finding)
        ax.set_facecolor(STATE_COLOURS["not articular"])
        image = ax.imshow(
            one["mean"].values,
            cmap=_COLOURS,
            vmin=0,
            vmax=top,
            interpolation="nearest",
            aspect="auto",
            extent=extent,
        )
        if int(one["exams"]):
            _draw_lines(ax, one)
        else:
            text = "no CAM" if int(one["left_out"]) else f"no {group}s"
            ax.text(
                0.5,
                0.5,
                text,
                ha="center",
                va="center",
                fontsize=9,
                color=_HALFWAY_COLOUR,
                transform=ax.transAxes,
            )
        label_angles(ax, bone, labelled=finding == "presence")
        ax.set_title(_panel_title(one, bone, finding, group), fontsize=9.5)
    bar = fig.colorbar(image, ax=axes, pad=0.015, aspect=22)
    bar.set_label(f"mean CAM [{mean['mean'].attrs.get('units', '')}]", fontsize=8)
    bar.ax.tick_params(labelsize=8)


def _draw_lines(ax: Axes, one: xr.Dataset) -> None:
    articular = one["articular"].values
    if (articular >= 0.5).any():
        ax.contour(one["polar_angle"].values, one["azimuth"].values, articular, [0.5], **_OUTLINE)
    ax.axhline(0, **_HALFWAY)


def _panel_title(one: xr.Dataset, bone: str, finding: str, group: str) -> str:
    exams, without = int(one["exams"]), int(one["left_out"])
    text = counted(exams, group)
    if without:
        text += f" ({without:,} more without a CAM)"
    if exams:
        text += f"; {100 * float(one['medial_share']):.0f} % medial"
    strategy = str(one["strategy"].item())
    for old, new in (("_", " "), ("+", " + "), ("t2", "T2")):
        strategy = strategy.replace(old, new)
    return f"{bone}, {strategy}: {finding}\n{text}"
