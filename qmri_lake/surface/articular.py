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


def close_area(
    covered: NDArray[np.bool_], points: NDArray[np.float64], radius: float
) -> NDArray[np.bool_]:
    """Return the articular area: the covered one, closed, with its holes filled.

    Parameters
    ----------
    covered : (azimuth, polar) bool
    points : (azimuth, polar, 3)
        The surface, mm; NaN where there is none.
    radius : float
        Of the closing, mm, straight through space: what is nearer than that to covered surface,
        and farther than that from everything else. [assumption]

    Notes
    -----
    The edge of the map is not the edge of the area: nothing is taken away from there.
    """
    known = np.isfinite(points).all(axis=2)
    if not (covered & known).any():
        return np.zeros_like(covered)
    near = np.zeros_like(covered)
    tree = cKDTree(points[covered & known])
    near[known] = tree.query(points[known], distance_upper_bound=radius)[0] <= radius
    closed = near.copy()
    away = known & ~near
    if away.any():
        closed[near] = cKDTree(points[away]).query(points[near])[0] > radius
    return _without_holes((closed | covered) & known)


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
