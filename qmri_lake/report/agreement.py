"""Figure S3: whether means over spherical maps agree with means over what they were made from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qmri_lake.errors import NotFoundError
from qmri_lake.statistics.agreement import bland_altman
from qmri_lake.surface.articular import SURFACE_STATUS

__all__ = ["COLUMNS", "figure_s3", "map_agreement", "means_of_maps"]

COLUMNS = ("exam", "bone", "biomarker", "source", "plain", "area")
"""Of a table of agreement: `source`, and the spherical mean with either weight; mm or ms."""

_BONES = {"femur": "F", "tibia": "T", "patella": "P"}
"""In the order of the panels, and the regions that are all of a bone."""
_BIOMARKERS = {"thickness": ("Thickness", "mm"), "t2": ("T2", "ms")}
_FEWEST = 3


def means_of_maps(sphere: xr.Dataset) -> xr.Dataset:
    """Return the mean of each map over its covered pixels, lazily.

    Parameters
    ----------
    sphere : Dataset
        Group ``sphere``: `map`, `surface_status`, `area`. Not modified.

    Returns
    -------
    Dataset
        (exam, bone, biomarker), thickness [mm] and t2 [ms]: `plain`, each pixel counts as one;
        `area`, each as the bone surface that it stands for, rho^2 sin(polar) / (n.r). NaN where no
        covered pixel has a value. [assumption]
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
    """Return means over maps beside means over their sources.

    Parameters
    ----------
    sphere : Dataset
        Group ``sphere``.
    region : Dataset
        Group ``region`` of the same exams: `thickness` [mm], area-weighted over the bone's surface,
        and `t2` [ms], over voxels; regions F, T and P are all of a bone's cartilage.

    Returns
    -------
    DataFrame
        A row an exam, bone and biomarker, with `COLUMNS`; NaN where there is no value.

    Raises
    ------
    NotFoundError
        A region or a variable is missing.
    """
    named = [str(name) for name in region["region"].values] if "region" in region.coords else []
    lacking = [code for code in _BONES.values() if code not in named]
    lacking += [name for name in _BIOMARKERS if name not in region]
    if lacking:
        raise NotFoundError(
            f"no {', '.join(lacking)}", expected="thickness and t2 of regions F, T and P",
            where="group region", todo="Load it: lake.load('region'), after its step has run.",
        )  # fmt: skip
    means = means_of_maps(sphere).compute()
    source = region[list(_BIOMARKERS)].sel(region=list(_BONES.values())).compute()
    keys = [str(exam) for exam in sphere["exam"].values]
    place = {str(exam): k for k, exam in enumerate(region["exam"].values)}
    rows = []
    for bone, code in _BONES.items():
        for biomarker in _BIOMARKERS:
            mine = means.sel(bone=bone, biomarker=biomarker)
            theirs = source[biomarker].sel(region=code).values
            for k, exam in enumerate(keys):
                value = float(theirs[place[exam]]) if exam in place else np.nan
                rows.append(
                    (exam, bone, biomarker, value, float(mine["plain"][k]), float(mine["area"][k]))
                )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def figure_s3(table: pd.DataFrame) -> Figure:
    """Draw Figure S3: six Bland-Altman panels, thickness and T2 of femur, tibia and patella.

    Parameters
    ----------
    table : DataFrame
        With `COLUMNS`, such as of `map_agreement`: a row an exam, bone and biomarker.

    Returns
    -------
    Figure
        Spherical mean minus source mean against source mean. Zero a black solid line, the mean
        difference a grey solid one, +- 2 SD grey dashed ones [paper]: of the plain mean. Points of
        the area-weighted mean are open. Both biases, with their limits, are printed; panels of
        fewer than three exams print only their number.

    Raises
    ------
    NotFoundError
        A column is missing.
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
            mine = table[(table["bone"] == bone) & (table["biomarker"] == biomarker)]
            _panel(ax, mine, unit)
            ax.set_title(f"{name}, {bone}", fontsize=11)
            ax.set_xlabel(f"source mean [{unit}]", fontsize=9)
        row[0].set_ylabel(f"spherical - source [{unit}]".replace("-", "\N{MINUS SIGN}"), fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    if handles:
        fig.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    return fig


def _panel(ax: Axes, table: pd.DataFrame, unit: str) -> None:
    source = table["source"].to_numpy(float)
    ax.axhline(0, color="black", linewidth=1.2, label="zero")
    lines = []
    for column, name in (("plain", "plain"), ("area", "area-weighted")):
        measured = table[column].to_numpy(float)
        known = np.isfinite(source) & np.isfinite(measured)
        style: dict[str, Any] = (
            {"color": "#0B5C8A", "alpha": 0.75, "markeredgewidth": 0}
            if column == "plain"
            else {"markerfacecolor": "none", "markeredgecolor": "#D55E00", "alpha": 0.6}
        )
        ax.plot(source[known], (measured - source)[known], "o", markersize=4.5, linestyle="none",
                label=f"an exam, {name} mean", **style)  # fmt: skip
        n = int(known.sum())
        if n < _FEWEST:
            lines.append(f"{name}: n {n}, too few for limits")
            continue
        found = bland_altman(source, measured)
        lines.append(
            f"{name}: {_signed(found.bias)} {unit}, limits {_signed(found.lower)} to "
            f"{_signed(found.upper)}, n {found.n:,}"
        )
        if column == "plain":
            ax.axhline(found.bias, color="#808080", linewidth=1.4, label="mean difference")
            for k, limit in enumerate((found.lower, found.upper)):
                ax.axhline(limit, color="#808080", linewidth=1.2, linestyle="--",
                           label="mean \N{PLUS-MINUS SIGN} 2 SD" if k else None)  # fmt: skip
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.22 * (high - low))  # room for the numbers
    ax.text(0.03, 0.97, "\n".join(lines), transform=ax.transAxes, va="top", fontsize=8)
    ax.tick_params(labelsize=8)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _signed(value: float) -> str:
    """Spell a difference with its sign, that of the axes; what rounds to nothing is not below 0."""
    return f"{value:+z.2f}".replace("-", "\N{MINUS SIGN}")
