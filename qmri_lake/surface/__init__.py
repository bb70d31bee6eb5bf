"""Bone surfaces: spherical maps of shape, cartilage thickness and T2, and meshes."""

from __future__ import annotations

from qmri_lake.surface.articular_area import SURFACE_STATUS
from qmri_lake.surface.mesh import Mesh, mask_mesh, ray_thickness
from qmri_lake.surface.mesh_export import map_mesh, write_mesh
from qmri_lake.surface.regions import REGIONS
from qmri_lake.surface.spherical_grid import (
    BONES,
    POLAR_MAX,
    azimuths,
    directions,
    mirrored,
    polar_angles,
)
from qmri_lake.surface.spherical_maps import spherical_map

__all__ = [
    "BONES",
    "POLAR_MAX",
    "REGIONS",
    "SURFACE_STATUS",
    "Mesh",
    "azimuths",
    "directions",
    "map_mesh",
    "mask_mesh",
    "mirrored",
    "polar_angles",
    "ray_thickness",
    "spherical_map",
    "write_mesh",
]
