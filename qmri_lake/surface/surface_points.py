"""Points on the whole surface of a bone, each with its area."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.geometry import apply_affine
from qmri_lake.surface.articular_area import SurfaceStatus
from qmri_lake.surface.occupancy import Occupancy
from qmri_lake.surface.spherical_grid import SIZE, places
from qmri_lake.surface.spherical_maps import SurfaceView
from qmri_lake.surface.thickness import measure_cartilage, normals_of

__all__ = ["SurfacePoints", "surface_points"]

_SAME_SURFACE_MM = 1.0
"""A point deeper than this below the surface of the map lies on another part of the bone."""


@dataclass(frozen=True)
class SurfacePoints:
    """Centroids of the triangles of a bone's surface: several per mm2, on all sides."""

    place: NDArray[np.float64]
    """(n, 3) mm, in the frame of the occupancy."""
    area: NDArray[np.float64]
    """(n,) area of the triangle, mm2."""
    thickness: NDArray[np.float64]
    """(n,) thickness of cartilage along the normal, mm; 0 where there is none."""
    status: NDArray[np.uint8]
    """(n,) values of `SurfaceStatus`."""


def surface_points(occupancy: Occupancy, view: SurfaceView, bone: str) -> SurfacePoints:
    """Return points of the whole surface of a bone, computed by marching cubes.

    Parameters
    ----------
    occupancy : Occupancy
    view : SurfaceView
        View of the same bone, which defines the denuded area.
    bone : {"femur", "tibia", "patella"}
    """
    from skimage.measure import marching_cubes  # this import takes 0.3 s

    index, triangles, _, _ = marching_cubes(occupancy.bone, 0.5)  # type: ignore[no-untyped-call]
    corners = apply_affine(occupancy.affine, index)
    a, b, c = np.moveaxis(corners[triangles], 1, 0)
    # Centroids are used instead of corners. Corners lie on the lines of voxels, where a thin margin
    # of cartilage is not averaged with its surroundings and would count as covered too often.
    place = (a + b + c) / 3
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    # The faces where the field of view cuts the bone are not part of its surface.
    kept = ~occupancy.cut(place)
    place, area = place[kept], area[kept]
    normals = normals_of(occupancy, place)
    thickness = measure_cartilage(occupancy, place, normals).thickness
    status = np.full(len(place), SurfaceStatus.NOT_ARTICULAR, np.uint8)
    status[_bare(place, view, bone)] = SurfaceStatus.DENUDED
    status[thickness > 0] = SurfaceStatus.COVERED
    return SurfacePoints(place, area, thickness, status)


def _bare(place: NDArray[np.float64], view: SurfaceView, bone: str) -> NDArray[np.bool_]:
    """Return which points lie on bone that is denuded in the map."""
    row, column = places(bone, place - view.centre.place)
    seen = column < SIZE
    rho = np.where(seen, view.rho[row, np.minimum(column, SIZE - 1)], np.nan)
    depth = rho - np.linalg.norm(place - view.centre.place, axis=1)
    denuded = view.status[row, np.minimum(column, SIZE - 1)] == SurfaceStatus.DENUDED
    found: NDArray[np.bool_] = seen & denuded & (depth < _SAME_SURFACE_MM)
    return found
