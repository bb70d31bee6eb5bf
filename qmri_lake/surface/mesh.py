"""Meshes of bones and cartilage, and thickness measured by rays through the meshes.

Thickness from meshes is slower to compute than thickness in the maps. It is computed independently
of the maps, and therefore serves as a reference. Rays need the extra ``view`` (trimesh, embreex).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from qmri_lake.core.array_api import Values
from qmri_lake.core.geometry import checked_affine, voxel_spacing
from qmri_lake.errors import InputError, Reason, RunError
from qmri_lake.surface.ray_marching_numba import MAX_THICKNESS_MM, SIGMA_MM

__all__ = ["Mesh", "mask_mesh", "outermost_hits", "ray_thickness", "to_trimesh"]


@dataclass(frozen=True)
class Mesh:
    """Triangles in space, with values at their corners."""

    points: NDArray[np.float64]
    """(n, 3), LPS mm."""
    triangles: NDArray[np.int64]
    """(m, 3) indices of points, counter-clockwise when seen from outside."""
    values: Mapping[str, Values] = field(default_factory=dict)
    """Values at the points, (n,), by name."""


def mask_mesh(mask: ArrayLike, affine: ArrayLike, *, sigma_mm: float = SIGMA_MM) -> Mesh:
    """Return the surface of a mask, computed by marching cubes from its smoothed occupancy.

    Parameters
    ----------
    mask : (slice, row, column) bool
    affine : (4, 4)
        Voxel to LPS mm.
    sigma_mm : float
        Standard deviation of the Gaussian, mm; 0 means no smoothing.
    """
    from skimage.measure import marching_cubes  # this import takes 0.3 s

    matrix = checked_affine(affine, "mesh")
    inside = np.asarray(mask, bool)
    if inside.ndim != 3 or not inside.any():
        raise InputError(
            f"a mask of shape {inside.shape} with {int(inside.sum())} voxels",
            expected="three axes, and at least one voxel",
            where="mesh",
            reason=Reason.EMPTY_MASK,
        )
    sigma = sigma_mm / voxel_spacing(matrix)
    margin = np.ceil(4 * sigma).astype(int) + 1
    occupancy = ndimage.gaussian_filter(
        np.pad(inside.astype(np.float32), [(int(n), int(n)) for n in margin]), sigma
    )
    index, triangles, _, _ = marching_cubes(occupancy, 0.5)  # type: ignore[no-untyped-call]
    points = (index - margin) @ matrix[:3, :3].T + matrix[:3, 3]
    # The order of the corners depends on the handedness of the axes.
    flip = np.linalg.det(matrix[:3, :3]) > 0
    return Mesh(points, triangles[:, :: -1 if flip else 1].astype(np.int64))


def ray_thickness(
    bone: Mesh, cartilage: Mesh, *, reach: float = MAX_THICKNESS_MM
) -> NDArray[np.float64]:
    """Return cartilage thickness (n,) at the points of a bone's mesh, mm; 0 on bare bone.

    Thickness is the distance between the first two intersections of the cartilage's mesh with a ray
    along the normal of the bone. The ray starts 2 mm inside the bone. Later intersections are
    ignored, since they may be on the other condyle.

    Parameters
    ----------
    bone, cartilage : Mesh
        Closed meshes, such as those of `mask_mesh`.
    reach : float
        Largest distance from the bone, mm; intersections farther away are ignored.
    """
    start = 2.0
    normals = to_trimesh(bone).vertex_normals
    hits, ray, _ = to_trimesh(cartilage).ray.intersects_location(
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


def outermost_hits(mesh: Mesh, centre: ArrayLike, rays: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance (n,) from a centre to the outermost hit on rays (n, 3), mm, or NaN."""
    origin = np.asarray(centre, np.float64)
    far = 2 * float(np.linalg.norm(mesh.points - origin, axis=1).max())
    # The rays are cast from outside, so that the first hit is the outermost hit.
    hits, ray, _ = to_trimesh(mesh).ray.intersects_location(
        origin + far * rays, -rays, multiple_hits=False
    )
    distance = np.full(len(rays), np.nan)
    distance[ray] = np.linalg.norm(hits - origin, axis=1)
    return distance


def to_trimesh(mesh: Mesh) -> Any:
    """Return a mesh as a `trimesh.Trimesh`, with its points in the same order."""
    return _library("trimesh").Trimesh(mesh.points, mesh.triangles, process=False)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RunError(
            f"no {name.partition('.')[0]}",
            expected="the packages of the extra `view`",
            where="mesh",
            todo="Install the extra: pip install 'qmri-lake[view]'.",
        ) from error
