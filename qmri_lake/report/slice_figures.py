"""Draw slices, T2 histograms and T2 by KL grade.

Functions create figures of matplotlib without pyplot, since pyplot would keep each figure in
memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from qmri_lake.core.text import counted
from qmri_lake.report.colours import BONE_COLOURS, MAP_STYLES, T2_RANGE, TISSUE_COLOURS
from qmri_lake.report.synthetic_mark import mark_figure, mark_of_dataset
from qmri_lake.report.t2_summary import BINS
from qmri_lake.tissues import BONE, CARTILAGE, NO_MASK

__all__ = [
    "dess_figure",
    "draw_dess",
    "draw_t2",
    "exam_figure",
    "fullest_slice",
    "histogram_figure",
    "kl_figure",
    "label_directions",
    "pixel_extent",
    "t2_box",
]

_MARGIN_MM = 8.0
Box: TypeAlias = tuple[tuple[float, float], tuple[float, float]]


def exam_figure(dess: xr.Dataset | None, msme: xr.Dataset) -> Figure:
    """Draw one position of an exam: DESS with masks, MSME with T2, and an enlarged T2 map.

    Parameters
    ----------
    dess : Dataset or None
        One exam of group ``dess``, without the ``exam`` dimension. It may be lazy: only one slice
        of each volume is computed.
    msme : Dataset
        The same exam of group ``msme``, with `t2`.
    """
    chosen = fullest_slice(msme)
    fig = Figure(figsize=(11.5, 4.3), layout="constrained")
    axes = fig.subplots(1, 3)
    draw_dess(axes[0], dess, msme, chosen)
    draw_t2(axes[1], msme, chosen)
    label_directions(axes[1], msme["affine"].values)
    axes[1].set_title("MSME, second echo, with T2", fontsize=9)
    box = t2_box(msme, chosen)
    shown = draw_t2(axes[2], msme, chosen, box)
    if box is not None:
        (top, bottom), (left, right) = box
        size = right - left, bottom - top
        axes[1].add_patch(
            Rectangle((left, top), *size, fill=False, edgecolor="white", linewidth=0.8)
        )
        axes[2].set_title("T2, enlarged", fontsize=9)
    else:
        # T2 of the whole slice is not enlarged.
        axes[2].clear()
        axes[2].set_axis_off()
        if not msme["t2"].isel(slice=chosen).notnull().any():
            axes[2].text(0.5, 0.5, "no accepted T2", ha="center", transform=axes[2].transAxes)
    bar = fig.colorbar(shown, ax=axes[2], shrink=0.85, extend="both")
    bar.set_label("T2 [ms]")
    return mark_figure(fig, mark_of_dataset(msme))


def dess_figure(dess: xr.Dataset) -> Figure:
    """Draw an exam without T2: three DESS slices with masks.

    Parameters
    ----------
    dess : Dataset
        One exam of group ``dess``, without the ``exam`` dimension. It may be lazy.
    """
    count = int(dess["extent"].values[0]) if "extent" in dess else dess.sizes["slice"]
    fig = Figure(figsize=(11.5, 4.3), layout="constrained")
    # Slices through both compartments and between them, for left and right knees.
    for ax, share in zip(fig.subplots(1, 3), (0.3, 0.5, 0.7), strict=True):
        index = int(share * count)
        _draw_slice(ax, dess, index)
        ax.set_title(f"{ax.get_title()}, slice {index + 1} of {count}", fontsize=9)
    return mark_figure(fig, mark_of_dataset(dess))


def t2_box(msme: xr.Dataset, chosen: int) -> Box | None:
    """Return the box ((top, bottom), (left, right)) [mm] around the T2 of a slice.

    Return None if the slice has no T2, or if nearly the whole slice has T2.
    """
    return _bounding_box(np.isfinite(msme["t2"].isel(slice=chosen).values), _spacing(msme)[1:])


def draw_t2(ax: Axes, msme: xr.Dataset, chosen: int, box: Box | None = None) -> AxesImage:
    """Draw T2 over the second echo of a slice, optionally cropped to a box; return the T2 image."""
    plane = msme[["image", "t2"]].isel(slice=chosen)
    image, spacing = _second_echo(plane["image"]), _spacing(msme)[1:]
    _draw_gray(ax, image, spacing)
    shown = ax.imshow(plane["t2"].values, **pixel_extent(image.shape, spacing), **_t2_scale())
    if box is not None:
        (top, bottom), (left, right) = box
        ax.set_xlim(left, right)
        ax.set_ylim(bottom, top)
    return shown


def histogram_figure(histograms: Mapping[str, NDArray[np.int64]], exams: int) -> Figure:
    """Draw the distribution of T2 by tissue, in percent of the voxels of the tissue."""
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
    ax.set_title(f"T2 of accepted voxels, {counted(exams, 'exam')}", fontsize=10)
    ax.legend(frameon=False, fontsize=8)
    _style_axes(ax)
    return fig


def kl_figure(table: pd.DataFrame, tissue: str) -> Figure:
    """Draw the mean T2 of one tissue over the KL grade, one point per exam.

    `table` has columns kl and mean [ms], one row per exam.
    """
    fig = Figure(figsize=(4.6, 3.8), layout="constrained")
    ax = fig.subplots()
    known = table.dropna(subset=["kl", "mean"])
    for grade in range(5):
        values = np.sort(known["mean"][known["kl"] == grade].to_numpy())
        if not values.size:
            continue
        # Points are offset horizontally by rank, so that equal values remain visible and the figure
        # is deterministic.
        offset = np.arange(values.size) - (values.size - 1) / 2
        offset *= min(0.08, 0.6 / values.size)
        ax.plot(
            grade + offset,
            values,
            "o",
            markersize=5,
            alpha=0.7,
            color=TISSUE_COLOURS[tissue],
            markeredgewidth=0,
        )
        ax.plot([grade - 0.3, grade + 0.3], [values.mean()] * 2, color="#222222", linewidth=1.4)
    ax.set(xlabel="KL grade", ylabel="mean T2 [ms]", xticks=range(5), xlim=(-0.6, 4.6))
    ax.set_title(f"{tissue} cartilage by KL grade; line: mean", fontsize=10)
    _style_axes(ax)
    return fig


def draw_dess(ax: Axes, dess: xr.Dataset | None, msme: xr.Dataset, chosen: int) -> None:
    """Draw the DESS slice through the centre of an MSME slice, with masks."""
    if dess is None:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "no DESS", ha="center", transform=ax.transAxes)
        return
    _draw_slice(ax, dess, _matching_dess_slice(dess, msme, chosen))


def _draw_slice(ax: Axes, dess: xr.Dataset, index: int) -> None:
    names = [name for name in ("image", "bone", "cartilage") if name in dess]
    plane = dess[names].isel(slice=index).compute(scheduler="synchronous")
    image, spacing = plane["image"].values, _spacing(dess)[1:]
    _draw_gray(ax, image, spacing)
    label_directions(ax, dess["affine"].values)
    handles: list[Artist] = []
    if "bone" in plane and not (plane["bone"].values == NO_MASK).any():
        for name, colour in BONE_COLOURS.items():
            inside = plane["bone"].values == BONE[name]
            if inside.any():
                ax.contour(
                    inside,
                    [0.5],
                    colors=colour,
                    linewidths=1.0,
                    **pixel_extent(image.shape, spacing, filled=False),
                )
                handles.append(Line2D([], [], color=colour, label=name))
    if "cartilage" in plane and not (plane["cartilage"].values == NO_MASK).any():
        for name, value in CARTILAGE.items():
            inside = plane["cartilage"].values == value
            if name == "background" or not inside.any():
                continue
            layer = np.zeros((*inside.shape, 4))
            layer[inside] = to_rgba(TISSUE_COLOURS[name], 0.75)
            ax.imshow(layer, interpolation="nearest", **pixel_extent(image.shape, spacing))
            handles.append(Patch(color=TISSUE_COLOURS[name], label=name))
    ax.set_title("DESS with masks" if handles else "DESS", fontsize=9)
    if handles:
        ax.legend(handles=handles, fontsize=6, loc="lower right", framealpha=0.6, handlelength=1)


def fullest_slice(msme: xr.Dataset) -> int:
    """Return the slice with the most accepted T2, or the middle slice if none was accepted."""
    accepted = msme["t2"].notnull().sum(["row", "column"]).compute(scheduler="synchronous").values
    return int(accepted.argmax()) if accepted.any() else int(accepted.size // 2)


def _second_echo(image: xr.DataArray) -> NDArray[np.floating]:
    values: NDArray[np.floating] = image.isel(echo=min(1, image.sizes["echo"] - 1)).values
    return values


def _matching_dess_slice(dess: xr.Dataset, msme: xr.Dataset, chosen: int) -> int:
    """Return the index of the DESS slice through the centre of an MSME slice."""
    rows, columns = msme.sizes["row"], msme.sizes["column"]
    point = msme["affine"].values @ [chosen, (rows - 1) / 2, (columns - 1) / 2, 1.0]
    if "dess_to_msme" in msme and np.isfinite(msme["dess_to_msme"].values).all():
        point = np.linalg.solve(msme["dess_to_msme"].values, point)
    index = np.linalg.solve(dess["affine"].values, point)[0]
    return int(np.clip(round(index), 0, dess.sizes["slice"] - 1))


def _spacing(ds: xr.Dataset) -> NDArray[np.float64]:
    """Return the spacing of slices, rows and columns [mm]."""
    lengths: NDArray[np.float64] = np.linalg.norm(ds["affine"].values[:3, :3], axis=0)
    return lengths


def pixel_extent(
    shape: tuple[int, ...], spacing: NDArray[np.float64], filled: bool = True
) -> dict[str, Any]:
    """Return keyword arguments that place an image in mm, with rows downwards.

    With ``filled=False``, the arguments are suitable for `Axes.contour`.
    """
    height, width = shape[0] * spacing[0], shape[1] * spacing[1]
    if filled:
        return {"extent": (0, width, height, 0)}
    return {"extent": (0, width, 0, height), "origin": "lower"}


def _draw_gray(ax: Axes, image: NDArray[np.floating], spacing: NDArray[np.float64]) -> None:
    finite = image[np.isfinite(image)]
    top = float(np.percentile(finite, 99.5)) if finite.size else 1.0
    ax.imshow(image, cmap="gray", vmin=0, vmax=top, **pixel_extent(image.shape, spacing))
    ax.set_xticks([])
    ax.set_yticks([])


def _t2_scale() -> dict[str, Any]:
    low, high = T2_RANGE
    return {
        "cmap": MAP_STYLES["t2"].colours,
        "vmin": low,
        "vmax": high,
        "interpolation": "nearest",
    }


def label_directions(ax: Axes, affine: NDArray[np.float64]) -> None:
    """Label the edges of a slice with the anatomical directions of the affine."""
    down, right = axis_letters(affine[:3, 1]), axis_letters(affine[:3, 2])
    outline = [withStroke(linewidth=2, foreground="black")]  # readable on any grey level
    style: dict[str, Any] = {
        "color": "white",
        "fontsize": 8,
        "transform": ax.transAxes,
        "path_effects": outline,
    }
    ax.text(0.02, 0.5, right[1], va="center", ha="left", **style)
    ax.text(0.98, 0.5, right[0], va="center", ha="right", **style)
    ax.text(0.5, 0.98, down[1], va="top", ha="center", **style)
    ax.text(0.5, 0.02, down[0], va="bottom", ha="center", **style)


def axis_letters(vector: NDArray[np.float64]) -> tuple[str, str]:
    """Return the letters of an LPS vector's direction and of the opposite direction."""
    axis = int(np.argmax(np.abs(vector)))
    letters = (("L", "R"), ("P", "A"), ("S", "I"))[axis]
    return letters if vector[axis] > 0 else letters[::-1]


def _bounding_box(inside: NDArray[np.bool_], spacing: NDArray[np.float64]) -> Box | None:
    """Return ((top, bottom), (left, right)) in mm around the True pixels, with a margin.

    Return None if there are no True pixels, or if the box is larger than 70 % of the slice.
    """
    if not inside.any():
        return None
    edges = []
    for axis in (0, 1):
        lines = np.flatnonzero(inside.any(axis=1 - axis))
        size = inside.shape[axis] * spacing[axis]
        low = max(lines[0] * spacing[axis] - _MARGIN_MM, 0.0)
        edges.append((low, min((lines[-1] + 1) * spacing[axis] + _MARGIN_MM, size)))
    area = (edges[0][1] - edges[0][0]) * (edges[1][1] - edges[1][0])
    if area > 0.7 * inside.size * spacing[0] * spacing[1]:
        return None
    return edges[0], edges[1]


def _style_axes(ax: Axes) -> None:
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    ax.set_axisbelow(True)
