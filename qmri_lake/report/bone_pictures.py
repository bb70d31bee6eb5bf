"""Render maps on the bone surfaces on which they were measured."""

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

from qmri_lake.core.text import did_you_mean
from qmri_lake.errors import NotFoundError
from qmri_lake.report.colours import BONE_SHAPE_RANGE, MAP_STYLES, STATE_COLOURS
from qmri_lake.report.map_atlases import (
    BONE_ORDER,
    colour_legend,
    colourbar_extend,
    one_bone,
    one_exam,
    title_of,
)
from qmri_lake.report.synthetic_mark import mark_figure, mark_of_dataset
from qmri_lake.surface.articular_area import SURFACE_STATUS
from qmri_lake.surface.mesh import Mesh
from qmri_lake.surface.mesh_export import map_mesh

__all__ = ["CAMERA", "painted_bones", "screen_axes"]

Vector = tuple[float, float, float]

_VIEW_NAMES = {
    "femur": "from below and the front",
    "tibia": "from above",
    "patella": "from behind",
}
CAMERA: Mapping[str, tuple[Vector, Vector]] = {
    "femur": ((0.0, -0.6, -0.8), (0.0, -0.8, 0.6)),
    "tibia": ((0.0, -0.3, 0.95), (0.0, -0.95, -0.3)),
    "patella": ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
}
"""Direction towards the viewer and upward direction of the picture, in LPS."""
_BAR_MM = 10.0
_MAX_EDGE_MM = 3.0


def painted_bones(sphere: xr.Dataset, biomarker: str = "thickness") -> Figure:
    """Render a map on the articular surface of each bone, in the true shape of the bone.

    Parameters
    ----------
    sphere : Dataset
        One exam of group ``sphere``, as for `map_atlas`.
    biomarker : {"thickness", "t2", "bone_shape"}
        Biomarker to show. Colours and ranges are those of `map_atlas`.

    Returns
    -------
    Figure
        Orthographic views: femur from below and the front, tibia from above, patella from behind.
        Left knees are not mirrored. The scale bar is 10 mm. Bone that is not articular has a
        neutral colour.

    Raises
    ------
    InputError
        If there is more than one exam.
    NotFoundError
        If the biomarker is unknown.
    """
    if biomarker not in MAP_STYLES:
        raise NotFoundError(
            f"unknown biomarker {biomarker!r}",
            expected=f"one of {', '.join(MAP_STYLES)}",
            where="painted_bones",
            todo=did_you_mean(biomarker, tuple(MAP_STYLES)),
        )
    exam = one_exam(sphere)
    style = MAP_STYLES[biomarker]
    fig = Figure(figsize=(12, 4.6), layout="constrained")
    axes = fig.subplots(1, len(BONE_ORDER), width_ratios=(1.2, 1.2, 0.9))
    for ax, bone in zip(axes, BONE_ORDER, strict=True):
        limits = BONE_SHAPE_RANGE[bone] if biomarker == "bone_shape" else style.limits
        ax.set_title(f"{bone}, {_VIEW_NAMES[bone]}", fontsize=10)
        ax.set_axis_off()
        scale = ScalarMappable(Normalize(*limits), mpl.colormaps[style.colours])
        _draw_bone(ax, one_bone(exam, bone), biomarker, scale)
        if biomarker == "bone_shape" or bone == BONE_ORDER[-1]:
            bar = fig.colorbar(scale, ax=ax, shrink=0.75, extend=colourbar_extend(biomarker))
            bar.set_label(f"{style.name} [{style.unit}]")
    if biomarker != "bone_shape":
        keys = ("denuded", *(("no value",) if biomarker == "t2" else ()))
        names = {name: STATE_COLOURS[name] for name in keys}
        colour_legend(fig, {**names, "not articular": STATE_COLOURS["bone"]})
    fig.suptitle(f"{title_of(exam)}: {style.name}", fontsize=12)
    return mark_figure(fig, mark_of_dataset(exam))


def screen_axes(view: Vector, up: Vector) -> NDArray[np.float64]:
    """Return the unit vectors (3, 3) right, up and towards the viewer of a picture, in LPS."""
    towards, above = (np.array(v) / np.linalg.norm(v) for v in (view, up))
    above = above - (above @ towards) * towards
    above /= np.linalg.norm(above)
    return np.stack([np.cross(above, towards), above, towards])


def _draw_bone(ax: Axes, maps: xr.Dataset, biomarker: str, scale: ScalarMappable) -> None:
    """Draw the shaded triangles of a bone, from back to front."""
    mesh = map_mesh(maps)
    ax.set_aspect("equal")
    if not len(mesh.triangles):
        ax.text(0.5, 0.5, "not mapped", ha="center", transform=ax.transAxes)
        return
    turn = screen_axes(*CAMERA[maps.attrs["bone"]])
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
    # In LPS, x increases towards the patient's left, which is medial in a right knee.
    medial = turn[0] @ [1.0 if maps.attrs["knee"] == "right" else -1.0, 0, 0]
    names = ("lateral", "medial") if medial > 0 else ("medial", "lateral")
    middle = (low[1] + high[1]) / 2
    for x, name in zip((low[0] - 3, high[0] + 3), names, strict=True):
        ax.text(x, middle, name, fontsize=8, ha="center", va="center", rotation=90)


def _face_colours(mesh: Mesh, biomarker: str, scale: ScalarMappable) -> NDArray[np.float64]:
    """Return RGB colours (m, 3) of the triangles of a mesh, from the first corner of each."""
    first = mesh.triangles[:, 0]
    status, shown = mesh.values["surface_status"][first], mesh.values[biomarker][first]
    colours = np.asarray(scale.to_rgba(np.ma.masked_invalid(shown))[:, :3], np.float64)
    if biomarker != "bone_shape":
        covered = status == SURFACE_STATUS["covered"]
        colours[~covered] = to_rgb(STATE_COLOURS["bone"])
        colours[covered & ~np.isfinite(shown)] = to_rgb(STATE_COLOURS["no value"])
        colours[status == SURFACE_STATUS["denuded"]] = to_rgb(STATE_COLOURS["denuded"])
        # Long triangles bridge discontinuities of the surface, where nothing was measured.
        corners = mesh.points[mesh.triangles]
        edges = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)
        colours[edges.max(axis=1) > _MAX_EDGE_MM] = to_rgb(STATE_COLOURS["bone"])
    return colours
