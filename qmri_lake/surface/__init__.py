"""Surfaces of bones: spherical maps of their shape and of the cartilage over them."""

from __future__ import annotations

from qmri_lake.surface.articular import SURFACE_STATUS
from qmri_lake.surface.layout import POLAR_MAX, azimuths, directions, mirrored, polar_angles
from qmri_lake.surface.sphere import spherical_map

__all__ = [
    "POLAR_MAX",
    "SURFACE_STATUS",
    "azimuths",
    "directions",
    "mirrored",
    "polar_angles",
    "spherical_map",
]
