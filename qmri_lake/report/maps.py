"""Spherical maps as pictures: the maps of an exam, and the mean maps of a cohort."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from numpy.typing import NDArray

from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.report.figures import T2_RANGE
from qmri_lake.surface.articular import SURFACE_STATUS
from qmri_lake.surface.layout import POLAR_MAX

__all__ = [
    "AROUND", "BONE_SHAPE_RANGE", "COLOURS", "ORDER", "SHOWN", "Look", "angles", "cohort_atlas",
    "cohort_mean", "draw_map", "extend", "legend", "map_atlas", "one_bone", "one_exam", "title_of",
]  # fmt: skip


class Look(NamedTuple):
    """How a biomarker is shown, the same for every exam."""

    name: str
    unit: str
    colours: str
    """Of matplotlib: perceptually uniform, and readable by the colour-blind."""
    limits: tuple[float, float]
    """Of the colours, in the unit. [assumption]"""


SHOWN: Mapping[str, Look] = MappingProxyType(
    {
        "bone_shape": Look("bone shape", "mm", "cividis", (10.0, 50.0)),
        "thickness": Look("cartilage thickness", "mm", "magma", (0.0, 4.0)),
        "t2": Look("T2", "ms", "viridis", T2_RANGE),
    }
)
"""By biomarker, in the order of a lake's maps. T2 has the colours of the pictures of slices."""

BONE_SHAPE_RANGE: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"femur": (12.0, 52.0), "tibia": (16.0, 44.0), "patella": (8.0, 26.0)}
)
"""mm: bones differ too much in size for one range. [group], rounded outwards"""

COLOURS: Mapping[str, str] = MappingProxyType(
    {"denuded": "#00D5FF", "not articular": "#E4E8EB", "no value": "#9AA5AF", "bone": "#E6DFD1"}
)
"""What no colour scale has: bared bone, and where there is nothing to show."""

ORDER = ("femur", "tibia", "patella")
AROUND = {
    "patella": ("distal", "lateral", "proximal", "medial", "distal"),
    "femur": ("posterior", "lateral", "anterior", "medial", "posterior"),
    "tibia": ("posterior", "lateral", "anterior", "medial", "posterior"),
}
_POLE = {"femur": "distal", "tibia": "proximal", "patella": "posterior"}
_LEAST = 0.5


def map_atlas(sphere: xr.Dataset) -> Figure:
    """Draw all maps of an exam: three bones by bone shape, thickness and T2.

    Parameters
    ----------
    sphere : Dataset
        One exam of group ``sphere``, with or without an ``exam`` dimension of one; lazy is fine.

    Returns
    -------
    Figure
        Polar angle to the right, azimuth downwards, as stored. Fixed colours: thickness 0 to 4 mm,
        T2 20 to 70 ms, bone shape by bone; values beyond have the end's colour. Denuded bone, bone
        that is not articular, and articular bone without a value each have a colour of their own;
        of a bone that could not be mapped the figure says so. On bone shape a line runs around the
        articular area.

    Raises
    ------
    InputError
        More than one exam.
    NotFoundError
        A variable is missing.
    """
    exam = one_exam(sphere)
    status = exam["surface_status"].values
    fig = _atlas(exam["map"].values, status, list(exam["bone"].values))
    fig.suptitle(title_of(exam), fontsize=12)
    return fig


def cohort_mean(sphere: xr.Dataset, *, least: float = _LEAST) -> xr.Dataset:
    """Return the mean maps of a cohort, lazily.

    Parameters
    ----------
    sphere : Dataset
        Group ``sphere``: `map` (exam, bone, biomarker, azimuth, polar) and `surface_status`. Not
        modified.
    least : float
        Share of the exams with a map of the bone, 0 to 1, that must have a value at a pixel.

    Returns
    -------
    Dataset
        `mean` (bone, biomarker, azimuth, polar): mm, mm, ms; NaN where fewer exams have a value.
        Thickness and T2 are of covered pixels only: bared bone lowers no mean, see `denuded`.
        `count`: exams with such a value. `denuded` (bone, azimuth, polar): exams bare there.
        `exams` (bone): exams with a map of the bone.

    Raises
    ------
    InputError
        `least` is no share.
    NotFoundError
        A variable is missing.
    """
    if not 0 <= least <= 1:
        raise InputError(f"least={least}", expected="a share, 0 to 1", where="cohort_mean")
    _check(sphere, "cohort_mean")
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
            "denuded": (status == SURFACE_STATUS["denuded"]).sum("exam").assign_attrs(
                long_name="Exams with bared bone"
            ),
            "exams": exams.drop_vars("biomarker").assign_attrs(long_name="Exams with a map"),
        }
    )  # fmt: skip


def cohort_atlas(mean: xr.Dataset) -> Figure:
    """Draw the mean maps of a cohort, and beside them how many exams each pixel is of.

    Parameters
    ----------
    mean : Dataset
        Of `cohort_mean`; computed here if it is lazy.
    """
    made = mean.compute()
    bones = list(made["bone"].values)
    exams = made["exams"]
    fig = _atlas(
        made["mean"].values, None, bones, counts=made["count"].sel(biomarker="thickness").values
    )
    most = ", ".join(f"{bone} {int(exams.sel(bone=bone)):,}" for bone in ORDER)
    least = made["mean"].attrs.get("least", _LEAST)
    fig.suptitle(
        f"Mean of covered pixels; exams: {most}. Blank: a value in fewer than {least:.0%} of them",
        fontsize=11,
    )
    return fig


def one_bone(exam: xr.Dataset, bone: str) -> xr.Dataset:
    """Return the maps of a bone as `qmri_lake.surface.map_mesh` takes them.

    Parameters
    ----------
    exam : Dataset
        One exam of group ``sphere``, without the ``exam`` dimension.
    bone : {"femur", "tibia", "patella"}

    Returns
    -------
    Dataset
        (azimuth, polar): bone_shape, thickness [mm], t2 [ms], surface_status; attributes bone,
        knee, centre.
    """
    mine = exam.sel(bone=bone)
    maps = {
        name: mine["map"].sel(biomarker=name, drop=True).variable for name in SHOWN
    } | {"surface_status": mine["surface_status"].variable}  # fmt: skip
    knee, centre = str(exam["knee"].item()), mine["centre"].values.tolist()
    return xr.Dataset(maps, attrs={"bone": bone, "knee": knee, "centre": centre})


def one_exam(sphere: xr.Dataset) -> xr.Dataset:
    """Return the one exam that a picture is of, computed."""
    _check(sphere, "map_atlas")
    if "exam" in sphere.dims:
        if sphere.sizes["exam"] != 1:
            raise InputError(
                f"{sphere.sizes['exam']} exams", expected="one", where="pictures of maps",
                todo="Choose one: lake.load('sphere', exam=...), or see cohort_mean.",
                reason=Reason.ABSENT_EXAM,
            )  # fmt: skip
        sphere = sphere.isel(exam=0)
    return sphere.compute()


def _check(sphere: xr.Dataset, where: str) -> None:
    for name in ("map", "surface_status", "centre", "knee"):
        if name not in sphere:
            raise NotFoundError(
                f"no {name}", expected="group sphere", where=where,
                todo="Load it: lake.load('sphere', ...), after lake.run('sphere').",
            )  # fmt: skip


def title_of(exam: xr.Dataset) -> str:
    """Return the key of an exam; arrays that were never in a lake have none."""
    return str(exam["exam"].item()) if "exam" in exam.coords else f"{exam['knee'].item()} knee"


def extend(biomarker: str) -> str:
    """Say at which ends of a colour bar values may go on: no thickness is below 0."""
    return "max" if biomarker == "thickness" else "both"


def _atlas(
    maps: NDArray[Any],
    status: NDArray[Any] | None,
    bones: list[str],
    counts: NDArray[Any] | None = None,
) -> Figure:
    """Draw maps (bone, biomarker, azimuth, polar) in a grid, a row a bone."""
    columns = len(SHOWN) + (counts is not None)
    fig = Figure(figsize=(3.45 * columns, 9.6), layout="constrained")
    axes = fig.subplots(len(ORDER), columns)
    for row, bone in zip(axes, ORDER, strict=True):
        k = bones.index(bone)
        where = {"extent": (0, POLAR_MAX[bone], 180, -180), "aspect": "auto"}
        states = None if status is None else status[k]
        for ax, (j, (biomarker, look)) in zip(row, enumerate(SHOWN.items()), strict=False):
            shown = draw_map(ax, bone, biomarker, maps[k, j], states)
            bar = fig.colorbar(shown, ax=ax, extend=extend(biomarker), pad=0.02)
            bar.set_label(look.unit, fontsize=8)
            bar.ax.tick_params(labelsize=8)
            ax.set_title(f"{bone}: {look.name}", fontsize=10)
            angles(ax, bone, labelled=j == 0)
        if counts is not None:
            shown = row[-1].imshow(
                counts[k], cmap="Greys", vmin=0, interpolation="nearest", **where
            )
            fig.colorbar(shown, ax=row[-1], pad=0.02).ax.tick_params(labelsize=8)
            row[-1].set_title(f"{bone}: exams with cartilage", fontsize=10)
            angles(row[-1], bone, labelled=False)
    keys = ("denuded", "not articular", "no value") if status is not None else ("not articular",)
    names = {name: COLOURS[name] for name in keys}
    if status is None:
        names = {"too few exams, or not articular": COLOURS["not articular"]}
    legend(fig, names)
    return fig


def draw_map(
    ax: Axes, bone: str, biomarker: str, values: NDArray[Any], states: NDArray[Any] | None
) -> AxesImage:
    """Draw a map (azimuth, polar) in its biomarker's colours; return what a colour bar is of."""
    look = SHOWN[biomarker]
    limits = BONE_SHAPE_RANGE[bone] if biomarker == "bone_shape" else look.limits
    where: dict[str, Any] = {"extent": (0, POLAR_MAX[bone], 180, -180), "aspect": "auto"}
    ax.imshow(_background(values, states), **where)
    if states is not None and not _mapped(states):
        ax.text(0.5, 0.5, "not mapped", ha="center", transform=ax.transAxes)
    if states is not None and biomarker != "bone_shape":
        values = np.where(states == SURFACE_STATUS["covered"], values, np.nan)
    shown = ax.imshow(values, cmap=look.colours, vmin=limits[0], vmax=limits[1],
                      interpolation="nearest", **where)  # fmt: skip
    if biomarker == "bone_shape" and states is not None:
        _outline(ax, states, POLAR_MAX[bone])
    return shown


def _background(values: NDArray[Any], states: NDArray[Any] | None) -> NDArray[np.float64]:
    """Return the colours (azimuth, polar, 3) of pixels without a value."""
    plain = np.empty((*values.shape, 3))
    plain[:] = to_rgb(COLOURS["not articular"])
    if states is not None:
        if not _mapped(states):
            plain[:] = 1.0
        plain[states == SURFACE_STATUS["covered"]] = to_rgb(COLOURS["no value"])
        plain[states == SURFACE_STATUS["denuded"]] = to_rgb(COLOURS["denuded"])
    return plain


def _mapped(states: NDArray[Any]) -> bool:
    """Tell a bone that was mapped from one that is absent: each pixel of a map has a status."""
    return bool(np.isin(states, list(SURFACE_STATUS.values())).any())


def _outline(ax: Axes, states: NDArray[Any], polar_max: float) -> None:
    articular = np.isin(states, (SURFACE_STATUS["covered"], SURFACE_STATUS["denuded"]))
    if articular.any() and not articular.all():
        ax.contour(
            articular, [0.5], extent=(0, polar_max, -180, 180), colors="white", linewidths=0.8
        )


def angles(ax: Axes, bone: str, *, labelled: bool) -> None:
    """Name the directions around a bone's map: in words with degrees, or by initials."""
    names = AROUND[bone]
    ticks = [-180, -90, 0, 90, 180]
    ax.set_yticks(ticks, [f"{n}  {t:d}°" for n, t in zip(names, ticks, strict=True)]
                  if labelled else [n[0].upper() for n in names], fontsize=8)  # fmt: skip
    ax.set_xticks(range(0, int(POLAR_MAX[bone]) + 1, 15))
    ax.tick_params(axis="x", labelsize=8)
    ax.set_xlabel(f"polar angle from {_POLE[bone]} [°]", fontsize=8)


def legend(fig: Figure, names: Mapping[str, str]) -> None:
    """Name colours that are no values, under a figure."""
    if names:
        fig.legend(
            handles=[
                Patch(facecolor=colour, edgecolor="#5c6b7a", linewidth=0.5, label=name)
                for name, colour in names.items()
            ],
            loc="outside lower center", ncols=len(names), fontsize=9, frameon=False,
        )  # fmt: skip
