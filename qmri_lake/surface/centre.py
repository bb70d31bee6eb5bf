"""The centre of a bone, from which its spherical map is seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmri_lake.surface import march, vectorised
from qmri_lake.surface.layout import led

__all__ = ["Centre", "find_centre"]

_SHAFT_CROP: Mapping[str, float] = {"femur": 0.85, "tibia": 0.60}
"""Length that counts, from the articular end, as a share of the width. [group; as a rule: ours]"""
_CENTRE_OF_SHORT: Mapping[str, float] = {"femur": 0.393, "tibia": 0.325}
"""Where the centre lies if the bone is shorter than that: from the articular end, same share."""
_SPREAD_MM = 2.0
"""How far smoothing spreads the end of a bone that is cut off."""


@dataclass(frozen=True)
class Centre:
    """Where a map is seen from."""

    place: NDArray[np.float64]
    """(3,), mm, in the axes of the affine that was given."""
    width: float
    """Of the bone's counted part, left to right, mm."""
    short_shaft: bool
    """Whether the bone is shorter than what counts: its height is then placed by rule."""


def find_centre(occupancy: Any, affine: NDArray[np.float64], bone: str) -> Centre:
    """Find the centre of a bone: the centroid of its articular part.

    The shaft is cut at 0.85 (femur) or 0.60 (tibia) of the width, from the articular end, so that
    the centre does not move with the field of view. A patella counts whole. The centre of a
    shorter bone is placed by rule along z; across, as if its last cross-section went on.

    Parameters
    ----------
    occupancy : (slice, row, column) float32
        Of one piece, smoothed, 0 to 1, and 0 at the edges: extents lie between voxels then, and
        another grid finds the same ones.
    affine : (4, 4)
        Voxel to mm: x medial of a right knee, y posterior, z proximal.
    bone : {"femur", "tibia", "patella"}
    """
    kernels = march if isinstance(occupancy, np.ndarray) else vectorised
    crossings, moments = kernels.crossings, kernels.moments
    edge = led(affine, vectorised.host(crossings(occupancy)))
    sign = -1.0 if bone == "tibia" else 1.0
    across, height = edge[:, 0], sign * edge[:, 2]
    end = float(height.min())
    depth = height - end
    reached, length, width = float(depth.max()), np.inf, float(np.ptp(across))
    if bone in _SHAFT_CROP:
        # The width of what counts says how much counts: from above, to where both agree.
        while length > _SHAFT_CROP[bone] * width:
            length = _SHAFT_CROP[bone] * width
            width = float(np.ptp(across[depth <= length]))
    total, first = moments(occupancy, affine, sign, end, length)
    short = bone in _SHAFT_CROP and reached < length
    if short:
        # The missing shaft goes on as it ends: the centre then keeps its place across the bone.
        whole, whole_first = moments(occupancy, affine, sign, end, reached - _SPREAD_MM)
        below, below_first = moments(occupancy, affine, sign, end, reached - 3 * _SPREAD_MM)
        more = (length - reached) / (2 * _SPREAD_MM)
        total += more * (whole - below)
        first += more * (whole_first - below_first)
    place = affine[:3, :3] @ (first / total) + affine[:3, 3]
    if short:
        place[2] = sign * (end + _CENTRE_OF_SHORT[bone] * width)
    return Centre(place, width, short)
