"""Maps painted back on the bones that they were measured on."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from qmri_lake.errors import NotFoundError, did_you_mean
from qmri_lake.report.maps import (
    BONE_SHAPE_RANGE,
    COLOURS,
    ORDER,
    SHOWN,
    extend,
    legend,
    one_bone,
    one_exam,
    title_of,
)
from qmri_lake.surface.articular import SURFACE_STATUS
from qmri_lake.surface.mesh import Mesh, map_mesh

__all__ = ["CAMERA", "painted_bones", "screen"]

Vector = tuple[float, float, float]

_SEEN_FROM = {
    "femur": "from below and the front",
    "tibia": "from above",
    "patella": "from behind",
}
CAMERA: Mapping[str, tuple[Vector, Vector]] = {
    "femur": ((0.0, -0.6, -0.8), (0.0, -0.8, 0.6)),
    "tibia": ((0.0, -0.3, 0.95), (0.0, -0.95, -0.3)),
    "patella": ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
}
"""To the viewer and up the picture, LPS."""
_BAR_MM = 10.0
_JUMP_MM = 3.0


def painted_bones(sphere: xr.Dataset, biomarker: str = "thickness") -> Figure:
    """Draw a map on the bones that it was measured on: their articular sides, in true shape.

    Parameters
    ----------
    sphere : Dataset
        One exam of group ``sphere``, as for `map_atlas`.
    biomarker : {"thickness", "t2", "bone_shape"}
        Colours and ranges are those of `map_atlas`.

    Returns
    -------
    Figure
        Femur from below and the front, tibia from above, patella from behind: orthographic, with
        the side of the knee as it is, a bar of 10 mm. Bone that is not articular is plain.

    Raises
    ------
    InputError
        More than one exam.
    NotFoundError
        No such biomarker.
    """
    if biomarker not in SHOWN:
        raise NotFoundError(
            f"no biomarker {biomarker!r}", expected=f"one of {', '.join(SHOWN)}",
            where="painted_bones", todo=did_you_mean(biomarker, tuple(SHOWN)),
        )  # fmt: skip
    exam = one_exam(sphere)
    look = SHOWN[biomarker]
    fig = Figure(figsize=(12, 4.6), layout="constrained")
    axes = fig.subplots(1, len(ORDER), width_ratios=(1.2, 1.2, 0.9))
    for ax, bone in zip(axes, ORDER, strict=True):
        limits = BONE_SHAPE_RANGE[bone] if biomarker == "bone_shape" else look.limits
        ax.set_title(f"{bone}, {_SEEN_FROM[bone]}", fontsize=10)
        ax.set_axis_off()
        scale = ScalarMappable(Normalize(*limits), mpl.colormaps[look.colours])
        _paint(ax, one_bone(exam, bone), biomarker, scale)
        if biomarker == "bone_shape" or bone == ORDER[-1]:
            bar = fig.colorbar(scale, ax=ax, shrink=0.75, extend=extend(biomarker))
            bar.set_label(f"{look.name} [{look.unit}]")
    if biomarker != "bone_shape":
        keys = ("denuded", *(("no value",) if biomarker == "t2" else ()))
        names = {name: COLOURS[name] for name in keys}
        legend(fig, {**names, "not articular": COLOURS["bone"]})
    fig.suptitle(f"{title_of(exam)}: {look.name}", fontsize=12)
    return fig


def screen(view: Vector, up: Vector) -> NDArray[np.float64]:
    """Return the rows right, up and towards the viewer (3, 3) of a picture, LPS."""
    towards, above = (np.array(v) / np.linalg.norm(v) for v in (view, up))
    above = above - (above @ towards) * towards
    above /= np.linalg.norm(above)
    return np.stack([np.cross(above, towards), above, towards])


def _paint(ax: Axes, maps: xr.Dataset, biomarker: str, scale: ScalarMappable) -> None:
    """Draw a bone's shaded triangles from behind to the front."""
    mesh = map_mesh(maps)
    ax.set_aspect("equal")
    if not len(mesh.triangles):
        ax.text(0.5, 0.5, "not mapped", ha="center", transform=ax.transAxes)
        return
    turn = screen(*CAMERA[maps.attrs["bone"]])
    placed = (mesh.points - maps.attrs["centre"]) @ turn.T
    corners = placed[mesh.triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    size = np.linalg.norm(normals, axis=1)
    front = (normals[:, 2] > 0) & (size > 0)
    normals = normals[front] / size[front, None]
    light = np.array([-0.35, 0.45, 0.82])
    shade = 0.5 + 0.5 * np.clip(normals @ (light / np.linalg.norm(light)), 0, 1)
    faces = _face_colours(mesh, biomarker, scale)[front] * shade[:, None]
    order = np.argsort(corners[front, :, 2].mean(axis=1))
    ax.add_collection(
        PolyCollection(
            corners[front][order, :, :2],
            facecolors=faces[order],
            edgecolors=faces[order],
            linewidths=0.3,
            rasterized=True,
        )
    )
    low, high = placed[:, :2].min(axis=0), placed[:, :2].max(axis=0)
    ax.set_xlim(low[0] - 6, high[0] + 6)
    ax.set_ylim(low[1] - 8, high[1] + 4)
    ax.plot([low[0], low[0] + _BAR_MM], [low[1] - 5] * 2, color="black", linewidth=2)
    ax.text(low[0] + _BAR_MM + 1, low[1] - 5, f"{_BAR_MM:.0f} mm", fontsize=8, va="center")
    # x of LPS grows to the patient's left: medial in a right knee.
    medial = turn[0] @ [1.0 if maps.attrs["knee"] == "right" else -1.0, 0, 0]
    names = ("lateral", "medial") if medial > 0 else ("medial", "lateral")
    middle = (low[1] + high[1]) / 2
    for x, name in zip((low[0] - 3, high[0] + 3), names, strict=True):
        ax.text(x, middle, name, fontsize=8, ha="center", va="center", rotation=90)


def _face_colours(mesh: Mesh, biomarker: str, scale: ScalarMappable) -> NDArray[np.float64]:
    """Return RGB (m, 3) of a mesh's triangles: each has that of its first corner."""
    first = mesh.triangles[:, 0]
    status, shown = mesh.values["surface_status"][first], mesh.values[biomarker][first]
    colours = np.asarray(scale.to_rgba(np.ma.masked_invalid(shown))[:, :3], np.float64)
    if biomarker != "bone_shape":
        covered = status == SURFACE_STATUS["covered"]
        colours[~covered] = to_rgb(COLOURS["bone"])
        colours[covered & ~np.isfinite(shown)] = to_rgb(COLOURS["no value"])
        colours[status == SURFACE_STATUS["denuded"]] = to_rgb(COLOURS["denuded"])
        # Where the surface jumps, a triangle spans bone that no ray has seen.
        corners = mesh.points[mesh.triangles]
        edges = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)
        colours[edges.max(axis=1) > _JUMP_MM] = to_rgb(COLOURS["bone"])
    return colours
