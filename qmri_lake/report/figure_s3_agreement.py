"""Figure S3: agreement of means over spherical maps with means over their source data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qmri_lake.errors import NotFoundError
from qmri_lake.report.synthetic_mark import mark_figure, mark_of_dataset
from qmri_lake.statistics.agreement import bland_altman
from qmri_lake.surface.articular_area import SURFACE_STATUS

__all__ = ["COLUMNS", "figure_s3", "map_agreement", "means_of_maps"]

COLUMNS = ("exam", "bone", "biomarker", "source", "plain", "area")
"""Columns of a table of agreement. `source` is the mean over the source data. `plain` and `area`
are means over the spherical map, unweighted and weighted by area. Units are mm (thickness) and ms
(T2)."""

_BONES = {"femur": "F", "tibia": "T", "patella": "P"}
"""Bones in the order of the panels, with the region that contains all cartilage of the bone."""
_BIOMARKERS = {"thickness": ("Thickness", "mm"), "t2": ("T2", "ms")}
_MIN_EXAMS = 3
"""Minimum number of exams for a mean difference."""


def means_of_maps(sphere: xr.Dataset) -> xr.Dataset:
    """Return the mean of each map over its covered pixels, lazily.

    Parameters
    ----------
    sphere : Dataset
        Group ``sphere``: `map`, `surface_status` and `area`. The dataset is not modified.

    Returns
    -------
    Dataset
        `plain` and `area` (exam, bone, biomarker), means of thickness [mm] and t2 [ms]. In `plain`
        all pixels have the same weight. In `area` each pixel is weighted by the bone surface that
        it represents, rho^2 sin(polar) / (n.r). Values are NaN if no covered pixel has a value.
        [assumption]
    """
    values = sphere["map"].sel(biomarker=list(_BIOMARKERS))
    covered = values.where(sphere["surface_status"] == SURFACE_STATUS["covered"])
    weights = sphere["area"].fillna(0)
    over = ("azimuth", "polar")
    return xr.Dataset(
        {
            "plain": covered.mean(over, dtype=np.float64),
            "area": covered.astype(np.float64).weighted(weights).mean(over),
        }
    )


def map_agreement(sphere: xr.Dataset, region: xr.Dataset) -> pd.DataFrame:
    """Compare means over maps with means over their source data.

    Parameters
    ----------
    sphere : Dataset
        Group ``sphere``.
    region : Dataset
        Group ``region`` of the same exams: `thickness` [mm], the area-weighted mean over the bone
        surface, and `t2` [ms], the mean over voxels. Regions F, T and P contain all cartilage of a
        bone.

    Returns
    -------
    DataFrame
        One row per exam, bone and biomarker, with `COLUMNS`; NaN where there is no value.

    Raises
    ------
    NotFoundError
        If a region or a variable is missing.
    """
    codes = [str(name) for name in region["region"].values] if "region" in region.coords else []
    missing = [code for code in _BONES.values() if code not in codes]
    missing += [name for name in _BIOMARKERS if name not in region]
    if missing:
        raise NotFoundError(
            f"no {', '.join(missing)}",
            expected="thickness and t2 of regions F, T and P",
            where="group region",
            todo="Run step region and load the group: lake.load('region').",
        )
    means = means_of_maps(sphere).compute()
    source = region[list(_BIOMARKERS)].sel(region=list(_BONES.values())).compute()
    keys = [str(exam) for exam in sphere["exam"].values]
    position = {str(exam): k for k, exam in enumerate(region["exam"].values)}
    rows = []
    for bone, code in _BONES.items():
        for biomarker in _BIOMARKERS:
            mean = means.sel(bone=bone, biomarker=biomarker)
            values = source[biomarker].sel(region=code).values
            for k, exam in enumerate(keys):
                value = float(values[position[exam]]) if exam in position else np.nan
                rows.append(
                    (exam, bone, biomarker, value, float(mean["plain"][k]), float(mean["area"][k]))
                )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table.attrs["synthetic"] = mark_of_dataset(sphere)
    return table


def figure_s3(table: pd.DataFrame) -> Figure:
    """Draw Figure S3: six Bland-Altman panels, thickness and T2 of femur, tibia and patella.

    Parameters
    ----------
    table : DataFrame
        One row per exam, bone and biomarker, with `COLUMNS`, as returned by `map_agreement`.

    Returns
    -------
    Figure
        The mean over the map minus the source mean is plotted against the source mean. A solid
        black line marks zero. For plain means, a solid grey line marks the mean difference and
        dashed grey lines +- 2 SD [paper]. Filled points are plain means, open points are
        area-weighted means. The bias and limits of both are printed. There are no limits for fewer
        than five patients, and no bias for fewer than three exams.

    Raises
    ------
    NotFoundError
        If a column is missing.
    """
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise NotFoundError(
            f"no column {', '.join(missing)}", expected=", ".join(COLUMNS), where="figure_s3"
        )
    fig = Figure(figsize=(12, 7.4), layout="constrained")
    axes = fig.subplots(len(_BIOMARKERS), len(_BONES))
    for row, (biomarker, (name, unit)) in zip(axes, _BIOMARKERS.items(), strict=True):
        for ax, bone in zip(row, _BONES, strict=True):
            rows = table[(table["bone"] == bone) & (table["biomarker"] == biomarker)]
            _draw_panel(ax, rows, unit)
            ax.set_title(f"{name}, {bone}", fontsize=11)
            ax.set_xlabel(f"mean over source [{unit}]", fontsize=9)
        row[0].set_ylabel(f"map \N{MINUS SIGN} source [{unit}]", fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    if handles:
        fig.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    return mark_figure(fig, table.attrs.get("synthetic", ""))


def _draw_panel(ax: Axes, table: pd.DataFrame, unit: str) -> None:
    source = table["source"].to_numpy(float)
    ax.axhline(0, color="black", linewidth=1.2, label="zero")
    lines = []
    for column, name in (("plain", "plain"), ("area", "area-weighted")):
        means = table[column].to_numpy(float)
        known = np.isfinite(source) & np.isfinite(means)
        style: dict[str, Any] = (
            {"color": "#0B5C8A", "alpha": 0.75, "markeredgewidth": 0}
            if column == "plain"
            else {"markerfacecolor": "none", "markeredgecolor": "#D55E00", "alpha": 0.6}
        )
        ax.plot(
            source[known],
            (means - source)[known],
            "o",
            markersize=4.5,
            linestyle="none",
            label=f"one exam, {name} mean",
            **style,
        )
        n = int(known.sum())
        if n < _MIN_EXAMS:
            lines.append(f"{name}: n = {n}, too few exams for a mean")
            continue
        # An exam key starts with the number of its patient.
        patient = table["exam"].astype(str).str.partition("-")[0]
        result = bland_altman(source, means, patient=patient)
        has_limits = np.isfinite(result.lower)
        limits = (
            f"limits {_format_signed(result.lower)} to {_format_signed(result.upper)}"
            if has_limits
            else "no limits (< 5 patients)"
        )
        lines.append(f"{name}: {_format_signed(result.bias)} {unit}, {limits}, n = {result.n:,}")
        if column == "plain":
            ax.axhline(result.bias, color="#808080", linewidth=1.4, label="mean difference")
        if column == "plain" and has_limits:
            for k, limit in enumerate((result.lower, result.upper)):
                ax.axhline(
                    limit,
                    color="#808080",
                    linewidth=1.2,
                    linestyle="--",
                    label="mean \N{PLUS-MINUS SIGN} 2 SD" if k else None,
                )
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.22 * (high - low))  # space for the text
    ax.text(0.03, 0.97, "\n".join(lines), transform=ax.transAxes, va="top", fontsize=8)
    ax.tick_params(labelsize=8)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _format_signed(value: float) -> str:
    """Format a difference with its sign; values that are rounded to zero are positive."""
    return f"{value:+z.2f}".replace("-", "\N{MINUS SIGN}")
