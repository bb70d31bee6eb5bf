"""Surfaces of bones: spherical maps of their shape and of the cartilage over them, and meshes."""

from __future__ import annotations

from qmri_lake.surface.articular import SURFACE_STATUS
from qmri_lake.surface.layout import BONES, POLAR_MAX, azimuths, directions, mirrored, polar_angles
from qmri_lake.surface.mesh import Mesh, map_mesh, mask_mesh, ray_thickness, write_mesh
from qmri_lake.surface.regions import REGIONS
from qmri_lake.surface.sphere import spherical_map

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
