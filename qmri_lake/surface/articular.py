"""Which pixels of a map are articular, and which of those have lost their cartilage."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

__all__ = ["SURFACE_STATUS", "close_area"]

SURFACE_STATUS: Mapping[str, int] = MappingProxyType(
    {"covered": 1, "denuded": 2, "not_articular": 3}
)
"""States of a pixel: with cartilage; bare inside the articular area, where thickness 0 is a
measurement; outside of it."""

_GRAIN_MM = 0.75
"""How far the nearest pixel of an area may lie from its edge: else every rim would be denuded."""


def close_area(
    covered: NDArray[np.bool_], points: NDArray[np.float64], radius: float
) -> NDArray[np.bool_]:
    """Return the articular area: the covered one, closed, with its holes filled.

    Give more columns than the map has: the area ends where the surface is bare, not where the
    window does.

    Parameters
    ----------
    covered : (azimuth, polar) bool
    points : (azimuth, polar, 3)
        The surface, mm; NaN where there is none.
    radius : float
        Of the closing, mm, straight through space: what is nearer than that to covered surface,
        and farther than that from everything else. [assumption]
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
    """Return how far places (n, 3) are from the edge of an area, mm; inf beyond `farthest`."""
    edge = area & ~ndimage.minimum_filter(area, 3, mode=("wrap", "nearest"))
    # An area without an edge is the whole sphere: nobody is outside of it.
    if not edge.any():
        return np.zeros(len(places))
    # The bound is not reached itself.
    bound = np.nextafter(farthest, np.inf)
    return np.asarray(cKDTree(points[edge]).query(places, distance_upper_bound=bound)[0])


def _without_holes(area: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill what the area encloses: pieces outside of it that don't reach the map's far edge."""
    pieces, count = ndimage.label(~area)
    same = np.arange(count + 1)

    def merge(a: int, b: int) -> None:
        if a and b:
            same[same == same[b]] = same[a]

    for a, b in zip(pieces[0], pieces[-1], strict=True):  # the first row follows the last one
        merge(int(a), int(b))
    pole = [int(piece) for piece in np.unique(pieces[:, 0]) if piece]
    for piece in pole[1:]:  # all rows meet at the pole
        merge(pole[0], piece)
    outside = np.unique(same[pieces[:, -1]])
    filled: NDArray[np.bool_] = area | ~np.isin(same[pieces], outside[outside > 0])
    return filled
