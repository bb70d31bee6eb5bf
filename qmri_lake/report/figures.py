"""Figures of a report. Each returns a matplotlib Figure made without pyplot, so nothing leaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke

from qmri_lake.report.t2 import BINS, EVERYWHERE
from qmri_lake.tissues import BONE, CARTILAGE, NO_MASK

__all__ = [
    "dess_figure", "directions", "draw_dess", "draw_t2", "exam_figure", "fullest_slice",
    "histogram_figure", "kl_figure", "placed", "t2_box",
]  # fmt: skip

# Okabe and Ito's colours, which colour-blind readers can tell apart.
TISSUE_COLOURS = {
    "femoral": "#D55E00", "tibial": "#0072B2", "patellar": "#009E73", "meniscus": "#CC79A7",
    EVERYWHERE: "#444444",
}  # fmt: skip
BONE_COLOURS = {"femur": "#E69F00", "tibia": "#56B4E9", "patella": "#F0E442"}
T2_RANGE = (20.0, 70.0)
"""ms, of the colour scale: the usual range of cartilage and a little more."""
_MARGIN_MM = 8.0
Box: TypeAlias = tuple[tuple[float, float], tuple[float, float]]


def exam_figure(dess: xr.Dataset | None, msme: xr.Dataset) -> Figure:
    """Draw one exam: DESS with outlines, MSME with T2, and T2 enlarged, through one place.

    Parameters
    ----------
    dess : Dataset or None
        One exam of group ``dess``, without the ``exam`` dimension; lazy is fine: only one slice
        of each volume is computed.
    msme : Dataset
        The same exam of group ``msme``, with `t2`.
    """
    chosen = fullest_slice(msme)
    fig = Figure(figsize=(11.5, 4.3), layout="constrained")
    axes = fig.subplots(1, 3)
    draw_dess(axes[0], dess, msme, chosen)
    draw_t2(axes[1], msme, chosen)
    directions(axes[1], msme["affine"].values)
    axes[1].set_title("MSME, second echo, with T2", fontsize=9)
    box = t2_box(msme, chosen)
    shown = draw_t2(axes[2], msme, chosen, box)
    if box is not None:
        (top, bottom), (left, right) = box
        place = (left, top), right - left, bottom - top
        axes[1].add_patch(Rectangle(*place, fill=False, edgecolor="white", linewidth=0.8))
        axes[2].set_title("the same, enlarged", fontsize=9)
    else:
        # T2 of the whole slice needs no magnifier; without any T2 there is nothing to enlarge.
        axes[2].clear()
        axes[2].set_axis_off()
        if not msme["t2"].isel(slice=chosen).notnull().any():
            axes[2].text(0.5, 0.5, "no T2 was accepted", ha="center", transform=axes[2].transAxes)
    bar = fig.colorbar(shown, ax=axes[2], shrink=0.85, extend="both")
    bar.set_label("T2 [ms]")
    return fig


def dess_figure(dess: xr.Dataset) -> Figure:
    """Draw an exam that has no T2: three DESS slices with outlines of what is segmented.

    Parameters
    ----------
    dess : Dataset
        One exam of group ``dess``, without the ``exam`` dimension; lazy is fine.
    """
    count = int(dess["extent"].values[0]) if "extent" in dess else dess.sizes["slice"]
    fig = Figure(figsize=(11.5, 4.3), layout="constrained")
    # Through both compartments and between them, whichever side comes first.
    for ax, share in zip(fig.subplots(1, 3), (0.3, 0.5, 0.7), strict=True):
        index = int(share * count)
        _draw_slice(ax, dess, index)
        ax.set_title(f"{ax.get_title()}, slice {index}", fontsize=9)
    return fig


def t2_box(msme: xr.Dataset, chosen: int) -> Box | None:
    """Return mm ((top, bottom), (left, right)) around the T2 of a slice; None if it is no part."""
    return _zoom(np.isfinite(msme["t2"].isel(slice=chosen).values), _spacing(msme)[1:])


def draw_t2(ax: Axes, msme: xr.Dataset, chosen: int, box: Box | None = None) -> AxesImage:
    """Draw T2 over the second echo of a slice, all of it or a box; return what has the colours."""
    plane = msme[["image", "t2"]].isel(slice=chosen)
    image, spacing = _second_echo(plane["image"]), _spacing(msme)[1:]
    _gray(ax, image, spacing)
    shown = ax.imshow(plane["t2"].values, **placed(image.shape, spacing), **_t2_scale())
    if box is not None:
        (top, bottom), (left, right) = box
        ax.set_xlim(left, right)
        ax.set_ylim(bottom, top)
    return shown


def histogram_figure(histograms: Mapping[str, np.ndarray[Any, Any]], exams: int) -> Figure:
    """Draw the distribution of T2 by tissue, as a share of the tissue's voxels."""
    fig = Figure(figsize=(6.4, 3.8), layout="constrained")
    ax = fig.subplots()
    for name, counts in histograms.items():
        total = counts.sum()
        if not total:
            continue
        label = f"{name} ({total:,} voxels)"
        ax.stairs(
            100 * counts / total, BINS, color=TISSUE_COLOURS[name], label=label, linewidth=1.6
        )
    ax.set(xlabel="T2 [ms]", ylabel="voxels [% per ms]", xlim=(0, 100))
    ax.set_ylim(bottom=0)
    ax.set_title(f"T2 of accepted voxels, {exams} exam{'s' * (exams != 1)}", fontsize=10)
    ax.legend(frameon=False, fontsize=8)
    _tidy(ax)
    return fig


def kl_figure(table: pd.DataFrame, tissue: str) -> Figure:
    """Draw each exam's mean T2 of one tissue over its KL grade.

    `table` has columns kl and mean [ms], one row an exam.
    """
    fig = Figure(figsize=(4.6, 3.8), layout="constrained")
    ax = fig.subplots()
    known = table.dropna(subset=["kl", "mean"])
    for grade in range(5):
        values = np.sort(known["mean"][known["kl"] == grade].to_numpy())
        if not values.size:
            continue
        # Spread sideways by rank, so that equal values stay visible and nothing is random.
        aside = np.arange(values.size) - (values.size - 1) / 2
        aside *= min(0.08, 0.6 / values.size)
        ax.plot(grade + aside, values, "o", markersize=5, alpha=0.7, color=TISSUE_COLOURS[tissue],
                markeredgewidth=0)  # fmt: skip
        ax.plot([grade - 0.3, grade + 0.3], [values.mean()] * 2, color="#222222", linewidth=1.4)
    ax.set(xlabel="KL grade", ylabel="mean T2 [ms]", xticks=range(5), xlim=(-0.6, 4.6))
    ax.set_title(f"{tissue} cartilage by grade; the line is the mean", fontsize=10)
    _tidy(ax)
    return fig


def draw_dess(ax: Axes, dess: xr.Dataset | None, msme: xr.Dataset, chosen: int) -> None:
    """Draw the DESS slice through the middle of an MSME slice, with its masks."""
    if dess is None:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "no DESS", ha="center", transform=ax.transAxes)
        return
    _draw_slice(ax, dess, _same_place(dess, msme, chosen))


def _draw_slice(ax: Axes, dess: xr.Dataset, index: int) -> None:
    names = [name for name in ("image", "bone", "cartilage") if name in dess]
    plane = dess[names].isel(slice=index).compute(scheduler="synchronous")
    image, spacing = plane["image"].values, _spacing(dess)[1:]
    _gray(ax, image, spacing)
    directions(ax, dess["affine"].values)
    handles: list[Any] = []
    if "bone" in plane and not (plane["bone"].values == NO_MASK).any():
        for name, colour in BONE_COLOURS.items():
            inside = plane["bone"].values == BONE[name]
            if inside.any():
                ax.contour(inside, [0.5], colors=colour, linewidths=1.0,
                           **placed(image.shape, spacing, filled=False))  # fmt: skip
                handles.append(Line2D([], [], color=colour, label=name))
    if "cartilage" in plane and not (plane["cartilage"].values == NO_MASK).any():
        for name, value in CARTILAGE.items():
            inside = plane["cartilage"].values == value
            if name == "background" or not inside.any():
                continue
            layer = np.zeros((*inside.shape, 4))
            layer[inside] = to_rgba(TISSUE_COLOURS[name], 0.75)
            ax.imshow(layer, interpolation="nearest", **placed(image.shape, spacing))
            handles.append(Patch(color=TISSUE_COLOURS[name], label=name))
    ax.set_title("DESS with masks" if handles else "DESS", fontsize=9)
    if handles:
        ax.legend(handles=handles, fontsize=6, loc="lower right", framealpha=0.6, handlelength=1)


def fullest_slice(msme: xr.Dataset) -> int:
    """Return the slice with the most accepted T2, the middle one if none was accepted."""
    accepted = msme["t2"].notnull().sum(["row", "column"]).compute(scheduler="synchronous").values
    return int(accepted.argmax()) if accepted.any() else int(accepted.size // 2)


def _second_echo(image: xr.DataArray) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = image.isel(echo=min(1, image.sizes["echo"] - 1)).values
    return values


def _same_place(dess: xr.Dataset, msme: xr.Dataset, chosen: int) -> int:
    """Return the DESS slice through the middle of an MSME slice."""
    rows, columns = msme.sizes["row"], msme.sizes["column"]
    point = msme["affine"].values @ [chosen, (rows - 1) / 2, (columns - 1) / 2, 1.0]
    if "dess_to_msme" in msme and np.isfinite(msme["dess_to_msme"].values).all():
        point = np.linalg.solve(msme["dess_to_msme"].values, point)
    index = np.linalg.solve(dess["affine"].values, point)[0]
    return int(np.clip(round(index), 0, dess.sizes["slice"] - 1))


def _spacing(ds: xr.Dataset) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return mm between slices, rows and columns."""
    lengths: np.ndarray[Any, np.dtype[np.float64]] = np.linalg.norm(
        ds["affine"].values[:3, :3], axis=0
    )
    return lengths


def placed(
    shape: tuple[int, ...], spacing: np.ndarray[Any, Any], filled: bool = True
) -> dict[str, Any]:
    """Return matplotlib's extent in mm, rows downwards; of pixel centres for a contour."""
    height, width = shape[0] * spacing[0], shape[1] * spacing[1]
    if filled:
        return {"extent": (0, width, height, 0)}
    return {"extent": (0, width, 0, height), "origin": "lower"}


def _gray(ax: Axes, image: np.ndarray[Any, Any], spacing: np.ndarray[Any, Any]) -> None:
    finite = image[np.isfinite(image)]
    top = float(np.percentile(finite, 99.5)) if finite.size else 1.0
    ax.imshow(image, cmap="gray", vmin=0, vmax=top, **placed(image.shape, spacing))
    ax.set_xticks([])
    ax.set_yticks([])


def _t2_scale() -> dict[str, Any]:
    low, high = T2_RANGE
    return {"cmap": "viridis", "vmin": low, "vmax": high, "interpolation": "nearest"}


def directions(ax: Axes, affine: np.ndarray[Any, Any]) -> None:
    """Write the anatomical directions at the edges of a slice, from the affine."""
    down, right = _direction(affine[:3, 1]), _direction(affine[:3, 2])
    outline = [withStroke(linewidth=2, foreground="black")]  # readable on any gray
    style: dict[str, Any] = {
        "color": "white", "fontsize": 8, "transform": ax.transAxes, "path_effects": outline
    }  # fmt: skip
    ax.text(0.02, 0.5, right[1], va="center", ha="left", **style)
    ax.text(0.98, 0.5, right[0], va="center", ha="right", **style)
    ax.text(0.5, 0.98, down[1], va="top", ha="center", **style)
    ax.text(0.5, 0.02, down[0], va="bottom", ha="center", **style)


def _direction(vector: np.ndarray[Any, Any]) -> tuple[str, str]:
    """Return the letters of where an LPS vector points, and of where it comes from."""
    axis = int(np.argmax(np.abs(vector)))
    letters = (("L", "R"), ("P", "A"), ("S", "I"))[axis]
    return letters if vector[axis] > 0 else letters[::-1]


def _zoom(inside: np.ndarray[Any, Any], spacing: np.ndarray[Any, Any]) -> Box | None:
    """Return ((top, bottom), (left, right)) in mm around what is to be seen.

    None if that is nothing, or so much of the slice that enlarging shows no more.
    """
    if not inside.any():
        return None
    edges = []
    for axis in (0, 1):
        found = np.flatnonzero(inside.any(axis=1 - axis))
        size = inside.shape[axis] * spacing[axis]
        low = max(found[0] * spacing[axis] - _MARGIN_MM, 0.0)
        edges.append((low, min((found[-1] + 1) * spacing[axis] + _MARGIN_MM, size)))
    shown = (edges[0][1] - edges[0][0]) * (edges[1][1] - edges[1][0])
    if shown > 0.7 * inside.size * spacing[0] * spacing[1]:
        return None
    return edges[0], edges[1]


def _tidy(ax: Axes) -> None:
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    ax.set_axisbelow(True)
