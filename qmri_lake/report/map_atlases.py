"""Draw spherical maps: all maps of an exam, and mean maps of a cohort."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.report.colours import BONE_SHAPE_RANGE, MAP_STYLES, STATE_COLOURS
from qmri_lake.report.synthetic_mark import mark_figure, mark_of_dataset
from qmri_lake.surface.articular_area import SURFACE_STATUS
from qmri_lake.surface.spherical_grid import POLAR_MAX

__all__ = [
    "AZIMUTH_LABELS",
    "BONE_ORDER",
    "cohort_atlas",
    "cohort_mean",
    "colour_legend",
    "colourbar_extend",
    "draw_map",
    "label_angles",
    "map_atlas",
    "one_bone",
    "one_exam",
    "title_of",
]

BONE_ORDER = ("femur", "tibia", "patella")
AZIMUTH_LABELS = {
    "patella": ("distal", "lateral", "proximal", "medial", "distal"),
    "femur": ("posterior", "lateral", "anterior", "medial", "posterior"),
    "tibia": ("posterior", "lateral", "anterior", "medial", "posterior"),
}
_POLE_NAMES = {"femur": "distal", "tibia": "proximal", "patella": "posterior"}
_MIN_SHARE = 0.5


def map_atlas(sphere: xr.Dataset) -> Figure:
    """Draw all maps of an exam: three bones by bone shape, thickness and T2.

    Parameters
    ----------
    sphere : Dataset
        One exam of group ``sphere``, with or without an ``exam`` dimension of size 1. It may be
        lazy.

    Returns
    -------
    Figure
        The polar angle increases to the right and the azimuth downwards, as stored. The colour
        ranges are fixed: thickness 0 to 4 mm, T2 20 to 70 ms, bone shape by bone; values outside
        are clipped. Denuded bone, bone that is not articular, and articular bone without a value
        have separate colours. A bone without maps is labelled "not mapped". On bone shape, a line
        surrounds the articular area.

    Raises
    ------
    InputError
        If there is more than one exam.
    NotFoundError
        If a variable is missing.
    """
    exam = one_exam(sphere)
    status = exam["surface_status"].values
    fig = _draw_atlas(exam["map"].values, status, list(exam["bone"].values))
    fig.suptitle(title_of(exam), fontsize=12)
    return mark_figure(fig, mark_of_dataset(exam))


def cohort_mean(sphere: xr.Dataset, *, least: float = _MIN_SHARE) -> xr.Dataset:
    """Return the mean maps of a cohort, lazily.

    Parameters
    ----------
    sphere : Dataset
        Group ``sphere``: `map` (exam, bone, biomarker, azimuth, polar) and `surface_status`. The
        dataset is not modified.
    least : float
        Minimum fraction of exams, 0 to 1, that must have a value at a pixel. Only exams with a map
        of the bone are counted.

    Returns
    -------
    Dataset
        `mean` (bone, biomarker, azimuth, polar) [mm, mm, ms], NaN where too few exams have a value.
        Thickness and T2 are averaged over covered pixels only, so denuded bone does not lower the
        mean. `count`, with the same axes: number of exams with a value. `denuded` (bone, azimuth,
        polar): number of exams with denuded bone. `exams` (bone): number of exams with a map.

    Raises
    ------
    InputError
        If `least` is not between 0 and 1.
    NotFoundError
        If a variable is missing.
    """
    if not 0 <= least <= 1:
        raise InputError(f"least = {least}", expected="a fraction, 0 to 1", where="cohort_mean")
    _require_variables(sphere, "cohort_mean")
    maps, status = sphere["map"], sphere["surface_status"]
    covered = status == SURFACE_STATUS["covered"]
    shape = maps["biomarker"] == "bone_shape"
    used = maps.where(covered | shape)
    count = used.notnull().sum("exam").transpose(*maps.dims[1:])
    exams = maps.sel(biomarker="bone_shape").notnull().any(("azimuth", "polar")).sum("exam")
    mean = used.mean("exam", dtype=np.float64).transpose(*maps.dims[1:])
    enough = (count >= least * exams) & (count > 0)
    return xr.Dataset(
        {
            "mean": mean.where(enough).assign_attrs(long_name="Mean map", least=least),
            "count": count.assign_attrs(long_name="Exams with a value"),
            "denuded": (status == SURFACE_STATUS["denuded"])
            .sum("exam")
            .assign_attrs(long_name="Exams with denuded bone"),
            "exams": exams.drop_vars("biomarker").assign_attrs(long_name="Exams with a map"),
        },
        attrs={"synthetic": mark} if (mark := mark_of_dataset(sphere)) else {},
    )


def cohort_atlas(mean: xr.Dataset) -> Figure:
    """Draw the mean maps of a cohort, and the number of exams per pixel.

    Parameters
    ----------
    mean : Dataset
        As returned by `cohort_mean`. A lazy dataset is computed.
    """
    computed = mean.compute()
    bones = list(computed["bone"].values)
    exams = computed["exams"]
    counts = computed["count"].sel(biomarker="thickness").values
    fig = _draw_atlas(computed["mean"].values, None, bones, counts=counts)
    numbers = ", ".join(f"{bone} {int(exams.sel(bone=bone)):,}" for bone in BONE_ORDER)
    least = computed["mean"].attrs.get("least", _MIN_SHARE)
    fig.suptitle(
        f"Mean over covered pixels; exams: {numbers}. "
        f"Grey: fewer than {100 * least:.0f} % of the exams have a value",
        fontsize=11,
    )
    return mark_figure(fig, computed.attrs.get("synthetic", ""))


def one_bone(exam: xr.Dataset, bone: str) -> xr.Dataset:
    """Return the maps of a bone in the form that `qmri_lake.surface.map_mesh` requires.

    Parameters
    ----------
    exam : Dataset
        One exam of group ``sphere``, without the ``exam`` dimension.
    bone : {"femur", "tibia", "patella"}

    Returns
    -------
    Dataset
        Variables (azimuth, polar) bone_shape and thickness [mm], t2 [ms] and surface_status;
        attributes bone, knee and centre.
    """
    selected = exam.sel(bone=bone)
    maps = {name: selected["map"].sel(biomarker=name, drop=True).variable for name in MAP_STYLES}
    maps["surface_status"] = selected["surface_status"].variable
    knee, centre = str(exam["knee"].item()), selected["centre"].values.tolist()
    return xr.Dataset(maps, attrs={"bone": bone, "knee": knee, "centre": centre})


def one_exam(sphere: xr.Dataset) -> xr.Dataset:
    """Return a computed dataset of one exam, without the ``exam`` dimension."""
    _require_variables(sphere, "map_atlas")
    if "exam" in sphere.dims:
        if sphere.sizes["exam"] != 1:
            raise InputError(
                f"{sphere.sizes['exam']} exams",
                expected="one exam",
                where="map_atlas",
                todo="Load one exam, lake.load('sphere', exam=...), or use cohort_mean.",
                reason=Reason.ABSENT_EXAM,
            )
        sphere = sphere.isel(exam=0)
    return sphere.compute()


def _require_variables(sphere: xr.Dataset, where: str) -> None:
    for name in ("map", "surface_status", "centre", "knee"):
        if name not in sphere:
            raise NotFoundError(
                f"no {name}",
                expected="a dataset of group sphere",
                where=where,
                todo="Run step sphere and load the group: lake.load('sphere').",
            )


def title_of(exam: xr.Dataset) -> str:
    """Return the key of an exam, or the side of the knee if the dataset is not from a lake."""
    return str(exam["exam"].item()) if "exam" in exam.coords else f"{exam['knee'].item()} knee"


def colourbar_extend(biomarker: str) -> str:
    """Return at which ends of a colour bar values may be clipped.

    Thickness is never below 0 and is only clipped at the upper end.
    """
    return "max" if biomarker == "thickness" else "both"


def _draw_atlas(
    maps: NDArray[np.floating],
    status: NDArray[np.uint8] | None,
    bones: list[str],
    counts: NDArray[np.integer] | None = None,
) -> Figure:
    """Draw maps (bone, biomarker, azimuth, polar) in a grid with one row per bone."""
    columns = len(MAP_STYLES) + (counts is not None)
    fig = Figure(figsize=(3.45 * columns, 9.6), layout="constrained")
    axes = fig.subplots(len(BONE_ORDER), columns)
    for row, bone in zip(axes, BONE_ORDER, strict=True):
        k = bones.index(bone)
        states = None if status is None else status[k]
        for ax, (j, (biomarker, style)) in zip(row, enumerate(MAP_STYLES.items()), strict=False):
            image = draw_map(ax, bone, biomarker, maps[k, j], states)
            bar = fig.colorbar(image, ax=ax, extend=colourbar_extend(biomarker), pad=0.02)
            bar.set_label(style.unit, fontsize=8)
            bar.ax.tick_params(labelsize=8)
            ax.set_title(f"{bone}: {style.name}", fontsize=10)
            label_angles(ax, bone, labelled=j == 0)
        if counts is not None:
            extent = (0, POLAR_MAX[bone], 180, -180)
            image = row[-1].imshow(
                counts[k],
                cmap="Greys",
                vmin=0,
                interpolation="nearest",
                extent=extent,
                aspect="auto",
            )
            ticks = MaxNLocator(integer=True)
            fig.colorbar(image, ax=row[-1], pad=0.02, ticks=ticks).ax.tick_params(labelsize=8)
            row[-1].set_title(f"{bone}: exams with cartilage", fontsize=10)
            label_angles(row[-1], bone, labelled=False)
    if status is None:
        colour_legend(fig, {"too few exams, or not articular": STATE_COLOURS["not articular"]})
    else:
        names = ("denuded", "not articular", "no value")
        colour_legend(fig, {name: STATE_COLOURS[name] for name in names})
    return fig


def draw_map(
    ax: Axes,
    bone: str,
    biomarker: str,
    values: NDArray[np.floating],
    states: NDArray[np.uint8] | None,
) -> AxesImage:
    """Draw a map (azimuth, polar) in the colours of its biomarker; return the coloured image."""
    style = MAP_STYLES[biomarker]
    low, high = BONE_SHAPE_RANGE[bone] if biomarker == "bone_shape" else style.limits
    extent = (0.0, POLAR_MAX[bone], 180.0, -180.0)
    ax.imshow(_background(values, states), extent=extent, aspect="auto")
    if states is not None and not _is_mapped(states):
        ax.text(0.5, 0.5, "not mapped", ha="center", transform=ax.transAxes)
    if states is not None and biomarker != "bone_shape":
        values = np.where(states == SURFACE_STATUS["covered"], values, np.nan)
    image = ax.imshow(
        values,
        cmap=style.colours,
        vmin=low,
        vmax=high,
        interpolation="nearest",
        extent=extent,
        aspect="auto",
    )
    if biomarker == "bone_shape" and states is not None:
        _outline(ax, states, POLAR_MAX[bone])
    return image


def _background(
    values: NDArray[np.floating], states: NDArray[np.uint8] | None
) -> NDArray[np.float64]:
    """Return the colours (azimuth, polar, 3) of pixels without a value."""
    plain = np.empty((*values.shape, 3))
    plain[:] = to_rgb(STATE_COLOURS["not articular"])
    if states is not None:
        if not _is_mapped(states):
            plain[:] = 1.0
        plain[states == SURFACE_STATUS["covered"]] = to_rgb(STATE_COLOURS["no value"])
        plain[states == SURFACE_STATUS["denuded"]] = to_rgb(STATE_COLOURS["denuded"])
    return plain


def _is_mapped(states: NDArray[np.uint8]) -> bool:
    """Return whether a bone was mapped. In a map every pixel has a status, even without a value."""
    return bool(np.isin(states, list(SURFACE_STATUS.values())).any())


def _outline(ax: Axes, states: NDArray[np.uint8], polar_max: float) -> None:
    articular = np.isin(states, (SURFACE_STATUS["covered"], SURFACE_STATUS["denuded"]))
    if articular.any() and not articular.all():
        ax.contour(
            articular, [0.5], extent=(0, polar_max, -180, 180), colors="white", linewidths=0.8
        )


def label_angles(ax: Axes, bone: str, *, labelled: bool) -> None:
    """Label the axes of a map; the azimuth by direction and degrees, or only by initials."""
    names = AZIMUTH_LABELS[bone]
    ticks = [-180, -90, 0, 90, 180]
    ax.set_yticks(
        ticks,
        [f"{n}  {t:d}°" for n, t in zip(names, ticks, strict=True)]
        if labelled
        else [n[0].upper() for n in names],
        fontsize=8,
    )
    ax.set_xticks(range(0, int(POLAR_MAX[bone]) + 1, 15))
    ax.tick_params(axis="x", labelsize=8)
    ax.set_xlabel(f"polar angle from {_POLE_NAMES[bone]} [°]", fontsize=8)


def colour_legend(fig: Figure, names: Mapping[str, str]) -> None:
    """Add a legend below a figure for colours outside the colour scale."""
    if names:
        fig.legend(
            handles=[
                Patch(facecolor=colour, edgecolor="#5c6b7a", linewidth=0.5, label=name)
                for name, colour in names.items()
            ],
            loc="outside lower center",
            ncols=len(names),
            fontsize=9,
            frameon=False,
        )
