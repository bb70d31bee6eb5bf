"""Articular area of a bone: the surface that is covered by cartilage or denuded."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

__all__ = ["SURFACE_STATUS", "SurfaceStatus", "close_area"]


class SurfaceStatus(IntEnum):
    """State of the bone surface in a pixel of a map."""

    COVERED = 1
    """Covered by cartilage."""
    DENUDED = 2
    """Bare bone inside the articular area. Its thickness of 0 is a measurement."""
    NOT_ARTICULAR = 3
    """Outside the articular area."""


SURFACE_STATUS: Mapping[str, int] = MappingProxyType(
    {status.name.lower(): int(status) for status in SurfaceStatus}
)
"""Values of `SurfaceStatus` by the words of ``flag_meanings``: covered, denuded, not_articular."""

_GRAIN_MM = 0.75
"""Largest distance between the edge of an area and its nearest pixel. Without this allowance, every
rim of an area would be classified as denuded."""


def close_area(
    covered: NDArray[np.bool_], points: NDArray[np.float64], radius: float
) -> NDArray[np.bool_]:
    """Return the articular area: the covered area after morphological closing and hole filling.

    `covered` and `points` should have more columns than the map, since otherwise the window would
    cut the area.

    Parameters
    ----------
    covered : (azimuth, polar) bool
    points : (azimuth, polar, 3)
        Points of the surface, mm; NaN where there is no surface.
    radius : float
        Radius of the closing, mm. Bare surface is added to the area if its Euclidean distance is
        below the radius to covered surface, and above the radius to all other bare surface.
        [assumption]
    """
    known = np.isfinite(points).all(axis=2)
    covered = covered & known
    if not covered.any():
        return covered
    bare = known & ~covered
    near = np.zeros_like(covered)
    near[bare] = _distance(points[bare], covered, points, radius) <= radius
    away = bare & ~near
    closed = near.copy()
    if away.any():
        farthest = radius + _GRAIN_MM
        closed[near] = _distance(points[near], away, points, farthest) > farthest
    return _without_holes(closed | covered) & known


def _distance(
    places: NDArray[np.float64],
    area: NDArray[np.bool_],
    points: NDArray[np.float64],
    farthest: float,
) -> NDArray[np.float64]:
    """Return the distance from places (n, 3) to the edge of an area, mm; inf beyond `farthest`."""
    edge = area & ~ndimage.minimum_filter(area, 3, mode=("wrap", "nearest"))
    # An area without an edge is the whole sphere, so no point is outside.
    if not edge.any():
        return np.zeros(len(places))
    # The tree excludes points exactly at the bound.
    bound = np.nextafter(farthest, np.inf)
    return np.asarray(cKDTree(points[edge]).query(places, distance_upper_bound=bound)[0])


def _without_holes(area: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill the holes of an area, which are gaps that do not reach the far edge of the map."""
    pieces, count = ndimage.label(~area)
    same = np.arange(count + 1)

    def merge(a: int, b: int) -> None:
        if a and b:
            same[same == same[b]] = same[a]

    for a, b in zip(pieces[0], pieces[-1], strict=True):  # the first row follows the last row
        merge(int(a), int(b))
    pole = [int(piece) for piece in np.unique(pieces[:, 0]) if piece]
    for piece in pole[1:]:  # all rows meet at the pole
        merge(pole[0], piece)
    outside = np.unique(same[pieces[:, -1]])
    filled: NDArray[np.bool_] = area | ~np.isin(same[pieces], outside[outside > 0])
    return filled
