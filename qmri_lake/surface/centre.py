"""The centre of a bone, from which its spherical map is seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Centre", "find_centre"]

_SHAFT_CROP: Mapping[str, float] = {"femur": 0.85, "tibia": 0.60}
"""Length that counts, from the articular end, as a share of the width. [group; as a rule: ours]"""
_CENTRE_OF_SHORT: Mapping[str, float] = {"femur": 0.393, "tibia": 0.325}
"""Where the centre lies if the bone is shorter than that: from the articular end, same share."""


@dataclass(frozen=True)
class Centre:
    """Where a map is seen from."""

    place: NDArray[np.float64]
    """(3,), mm, in the axes of the affine that was given."""
    width: float
    """Of the bone, left to right, mm."""
    short_shaft: bool
    """Whether the bone is shorter than what counts: its height is then placed by rule."""


def find_centre(occupancy: NDArray[np.float32], affine: NDArray[np.float64], bone: str) -> Centre:
    """Find the centre of a bone: the centroid of its articular part.

    The shaft is cut at 0.85 (femur) or 0.60 (tibia) of the width, from the articular end, so that
    the centre does not move with the field of view. A patella counts whole.

    Parameters
    ----------
    occupancy : (slice, row, column) float32
        Of one piece, smoothed, 0 to 1, and 0 at the edges: extents lie between voxels then, and
        another grid finds the same ones.
    affine : (4, 4)
        Voxel to LPS mm, of a right knee.
    bone : {"femur", "tibia", "patella"}
    """
    edge = np.concatenate(_crossings(occupancy)) @ affine[:3, :3].T + affine[:3, 3]
    low, high = edge.min(axis=0), edge.max(axis=0)
    width = float(high[0] - low[0])
    index = np.argwhere(occupancy > 0)
    points, weights = index @ affine[:3, :3].T + affine[:3, 3], occupancy[tuple(index.T)]
    if bone not in _SHAFT_CROP:
        return Centre(np.average(points, axis=0, weights=weights), width, False)
    depth = points[:, 2] - low[2] if bone == "femur" else high[2] - points[:, 2]
    length = _SHAFT_CROP[bone] * width
    # A voxel that the cut goes through counts in part.
    height = float(np.abs(affine[2, :3]).max())
    weights = weights * np.clip((length - depth) / height + 0.5, 0, 1)
    place = np.average(points, axis=0, weights=weights)
    short = float(high[2] - low[2]) < length
    if short:
        from_end = _CENTRE_OF_SHORT[bone] * width
        place[2] = low[2] + from_end if bone == "femur" else high[2] - from_end
    return Centre(place, width, short)


def _crossings(occupancy: NDArray[np.float32]) -> list[NDArray[np.float64]]:
    """Return where lines of voxels cross the level 0.5, in voxels, along each axis."""
    found = []
    for axis in range(3):
        lines = np.moveaxis(occupancy, axis, 0)
        a, b = lines[:-1], lines[1:]
        at = np.argwhere((a >= 0.5) != (b >= 0.5))
        here, there = a[tuple(at.T)], b[tuple(at.T)]
        places = at.astype(np.float64)
        places[:, 0] += (here - 0.5) / (here - there)
        order = [1, 2]
        order.insert(axis, 0)
        found.append(places[:, order])
    return found
