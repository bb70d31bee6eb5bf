"""Meshes of bones: thickness by rays as other programs measure it, and maps for 3D viewers.

Slower than the maps' own way and apart from it, so a reference for it. Marching cubes and rays need
the extra ``view`` (trimesh, embreex).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from qmri_lake.errors import InputError, Reason, RunError
from qmri_lake.surface.layout import directions, frame
from qmri_lake.surface.march import DEEPEST_MM, SIGMA_MM
from qmri_lake.surface.occupancy import checked_affine

__all__ = ["Mesh", "map_mesh", "mask_mesh", "outermost", "ray_thickness", "write_mesh"]


@dataclass(frozen=True)
class Mesh:
    """Triangles in space, with values at their corners."""

    points: NDArray[np.float64]
    """(n, 3), LPS mm."""
    triangles: NDArray[np.int64]
    """(m, 3) indices of points, counter-clockwise from outside."""
    values: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """By name, (n,)."""


def mask_mesh(mask: ArrayLike, affine: ArrayLike, *, sigma_mm: float = SIGMA_MM) -> Mesh:
    """Return the surface of a mask by marching cubes of its smoothed occupancy.

    Parameters
    ----------
    mask : (slice, row, column) bool
    affine : (4, 4)
        Voxel to LPS mm.
    sigma_mm : float
        Of the Gaussian, mm; 0 leaves the steps of the voxels.
    """
    from skimage.measure import marching_cubes  # 0.3 s

    matrix = checked_affine(affine, "mesh")
    inside = np.asarray(mask, bool)
    if inside.ndim != 3 or not inside.any():
        raise InputError(
            f"a mask of shape {inside.shape} with {int(inside.sum())} voxels",
            expected="three axes, and something in them", where="mesh", reason=Reason.EMPTY_MASK,
        )  # fmt: skip
    sigma = sigma_mm / np.linalg.norm(matrix[:3, :3], axis=0)
    margin = np.ceil(4 * sigma).astype(int) + 1
    occupancy = ndimage.gaussian_filter(
        np.pad(inside.astype(np.float32), [(int(n), int(n)) for n in margin]), sigma
    )
    index, triangles, _, _ = marching_cubes(occupancy, 0.5)  # type: ignore[no-untyped-call]
    points = (index - margin) @ matrix[:3, :3].T + matrix[:3, 3]
    # Marching cubes runs clockwise about what is inside, or not, with the axes' handedness.
    turn = np.linalg.det(matrix[:3, :3]) > 0
    return Mesh(points, triangles[:, :: -1 if turn else 1].astype(np.int64))


def ray_thickness(bone: Mesh, cartilage: Mesh, *, reach: float = DEEPEST_MM) -> NDArray[np.float64]:
    """Return cartilage thickness (n,) at the points of a bone's mesh, mm; 0 where there is none.

    A ray along the normal, from 2 mm inside the bone on: the distance of the first two hits of the
    cartilage's mesh. Not of the last one, which may be on the other condyle.

    Parameters
    ----------
    bone, cartilage : Mesh
        Closed, as of `mask_mesh`.
    reach : float
        Hits farther from the bone, mm, don't count.
    """
    start = 2.0
    normals = _trimesh(bone).vertex_normals
    hits, ray, _ = _trimesh(cartilage).ray.intersects_location(
        bone.points - start * normals, normals
    )
    along = ((hits - bone.points[ray]) * normals[ray]).sum(axis=1)
    ray, along = ray[along <= reach], along[along <= reach]
    order = np.lexsort((along, ray))
    ray, along = ray[order], along[order]
    first = np.flatnonzero(np.r_[True, ray[1:] != ray[:-1]]) if len(ray) else np.empty(0, np.intp)
    first = first[first + 1 < len(ray)]
    first = first[ray[first + 1] == ray[first]]
    thickness = np.zeros(len(bone.points))
    thickness[ray[first]] = along[first + 1] - along[first]
    return thickness


def outermost(mesh: Mesh, centre: ArrayLike, rays: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far (n,) a mesh reaches from a centre along unit vectors (n, 3), mm; or NaN."""
    origin = np.asarray(centre, np.float64)
    far = 2 * float(np.linalg.norm(mesh.points - origin, axis=1).max())
    # From outside: the first hit is the outermost one.
    hits, ray, _ = _trimesh(mesh).ray.intersects_location(
        origin + far * rays, -rays, multiple_hits=False
    )
    distance = np.full(len(rays), np.nan)
    distance[ray] = np.linalg.norm(hits - origin, axis=1)
    return distance


def map_mesh(ds: xr.Dataset, axes: ArrayLike | None = None) -> Mesh:
    """Return a spherical map as a mesh in the scanner's space, its variables at the corners.

    Parameters
    ----------
    ds : Dataset
        Of `spherical_map`. Pixels without a surface are left out.
    axes : (3, 3), optional
        Those that the map was made with.
    """
    back = np.linalg.inv(frame(ds.attrs["knee"], axes))[:3, :3]
    rays = directions(ds.attrs["bone"]) @ back.T
    points = np.array(ds.attrs["centre"]) + ds["bone_shape"].values[..., None] * rays
    rows, columns = points.shape[:2]
    number = np.arange(rows * columns).reshape(rows, columns)
    below = np.roll(number, -1, axis=0)  # the first row follows the last one
    a, b, c, d = number[:, :-1], below[:, :-1], below[:, 1:], number[:, 1:]
    triangles = np.concatenate(
        [np.stack(corners, axis=-1).reshape(-1, 3) for corners in ((a, b, c), (a, c, d))]
    )
    flat = points.reshape(-1, 3)
    seen = np.isfinite(flat).all(axis=1)
    triangles = triangles[seen[triangles].all(axis=1)]
    normals = np.cross(
        flat[triangles[:, 1]] - flat[triangles[:, 0]], flat[triangles[:, 2]] - flat[triangles[:, 0]]
    )
    outward = ((flat[triangles].mean(axis=1) - ds.attrs["centre"]) * normals).sum()
    new = np.cumsum(seen) - 1
    return Mesh(
        flat[seen],
        new[triangles[:, :: 1 if outward > 0 else -1]],
        {str(name): ds[name].values.ravel()[seen] for name in ds.data_vars},
    )


def write_mesh(mesh: Mesh, path: str | os.PathLike[str]) -> None:
    """Write a mesh, values included, for a 3D viewer.

    Parameters
    ----------
    mesh : Mesh
    path : path
        ``.vtk`` (legacy, text) or ``.ply`` (binary; needs the extra ``view``).

    Raises
    ------
    InputError
        Another suffix.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".vtk":
        Path(path).write_text(_vtk(mesh), encoding="ascii")
    elif suffix == ".ply":
        shape = _trimesh(mesh)
        for name, values in mesh.values.items():
            shape.vertex_attributes[name] = values
        shape.export(path)
    else:
        raise InputError(
            f"suffix {suffix!r}", expected=".vtk or .ply", where=os.fspath(path),
            reason=Reason.UNREADABLE_VALUE,
        )  # fmt: skip


def _vtk(mesh: Mesh) -> str:
    def lines(rows: NDArray[Any], form: str) -> str:
        return "\n".join(" ".join(format(v, form) for v in row) for row in rows.tolist())

    n, m = len(mesh.points), len(mesh.triangles)
    text = ["# vtk DataFile Version 3.0", "LPS, mm", "ASCII", "DATASET POLYDATA"]
    text += [f"POINTS {n} double", lines(mesh.points, ".9g")]
    text += [f"POLYGONS {m} {4 * m}", lines(np.insert(mesh.triangles, 0, 3, axis=1), "d")]
    if mesh.values:
        text.append(f"POINT_DATA {n}")
    for name, values in mesh.values.items():
        kind, form = ("int", "d") if values.dtype.kind in "biu" else ("double", ".9g")
        text += [f"SCALARS {name} {kind} 1", "LOOKUP_TABLE default", lines(values[:, None], form)]
    return "\n".join(text) + "\n"


def _trimesh(mesh: Mesh) -> Any:
    return _library("trimesh").Trimesh(mesh.points, mesh.triangles, process=False)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RunError(
            f"no {name.partition('.')[0]}",
            expected="the extra `view`",
            where="mesh",
            todo="Install it: pip install 'qmri-lake[view]'.",
        ) from error
