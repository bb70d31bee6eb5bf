"""The centre of a bone: the origin of the directions of its spherical map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.array_api import Array, to_numpy
from qmri_lake.core.geometry import apply_affine
from qmri_lake.surface import _array_api as vectorised
from qmri_lake.surface import ray_marching_numba as compiled

__all__ = ["Centre", "find_centre"]

_SHAFT_CROP: Mapping[str, float] = {"femur": 0.85, "tibia": 0.60}
"""Length of the articular part, from the articular end, as a share of the width. The values are
from the group; their use as a rule is an assumption."""
_CENTRE_OF_SHORT: Mapping[str, float] = {"femur": 0.393, "tibia": 0.325}
"""Height of the centre, from the articular end, as a share of the width, if the field of view is
shorter than the articular part."""
_SPREAD_MM = 2.0
"""Distance over which smoothing blurs the cut end of a bone."""


@dataclass(frozen=True)
class Centre:
    """Origin of the directions of a map."""

    place: NDArray[np.float64]
    """(3,) position, mm, in the axes of the given affine."""
    width: float
    """Width of the articular part, left to right, mm."""
    short_shaft: bool
    """Whether the visible bone is shorter than the articular part. A rule then gives the height."""


def find_centre(occupancy: Array, affine: NDArray[np.float64], bone: str) -> Centre:
    """Find the centre of a bone: the centroid of its articular part.

    The shaft is cut at 0.85 (femur) or 0.60 (tibia) of the width, from the articular end, so that
    the centre does not depend on the field of view. A patella is not cut. If the visible bone is
    shorter than its articular part, the height of the centre is a fixed share of the width. The
    position of the centre across the bone is then computed as if the last cross-section continued.

    Parameters
    ----------
    occupancy : (slice, row, column) float32
        One smoothed piece of bone, 0 to 1, and 0 at the edges. Because of the smoothing, its extent
        is interpolated between voxels and does not depend on the grid.
    affine : (4, 4)
        Voxel to mm: x medial of a right knee, y posterior, z proximal.
    bone : {"femur", "tibia", "patella"}
    """
    kernels = compiled if isinstance(occupancy, np.ndarray) else vectorised
    moments = kernels.moments
    edge = apply_affine(affine, to_numpy(kernels.isosurface_crossings(occupancy)))
    sign = -1.0 if bone == "tibia" else 1.0
    across, height = edge[:, 0], sign * edge[:, 2]
    end = float(height.min())
    depth = height - end
    reached, length, width = float(depth.max()), np.inf, float(np.ptp(across))
    if bone in _SHAFT_CROP:
        # Length and width of the articular part depend on each other; shrink both until they agree.
        while length > _SHAFT_CROP[bone] * width:
            length = _SHAFT_CROP[bone] * width
            width = float(np.ptp(across[depth <= length]))
    total, first = moments(occupancy, affine, sign, end, length)
    short = bone in _SHAFT_CROP and reached < length
    if short:
        # Continue the last cross-section, so that the centre keeps its position across the bone.
        whole, whole_first = moments(occupancy, affine, sign, end, reached - _SPREAD_MM)
        below, below_first = moments(occupancy, affine, sign, end, reached - 3 * _SPREAD_MM)
        more = (length - reached) / (2 * _SPREAD_MM)
        total += more * (whole - below)
        first += more * (whole_first - below_first)
    place = affine[:3, :3] @ (first / total) + affine[:3, 3]
    if short:
        place[2] = sign * (end + _CENTRE_OF_SHORT[bone] * width)
    return Centre(place, width, short)
