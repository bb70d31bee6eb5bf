"""Implicit surfaces: functions, negative inside and positive outside, in mm near the surface.

Arrays of coordinates may have any common shape, which is the shape of the result. Ellipsoids use
the first-order distance ``k0 (k0 - 1) / k1`` with ``k0 = |p / r|``, ``k1 = |p / r**2|``. Unions are
blended with the polynomial smooth minimum, so that neighbouring parts merge smoothly, as in bone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["capsule", "column", "ellipsoid", "smooth_max", "smooth_min", "smooth_step", "waves"]

Array = NDArray[np.floating]
Point = Sequence[float]


def ellipsoid(x: Array, y: Array, z: Array, centre: Point, radii: Point) -> Array:
    """Return the approximate signed distance (mm) to an axis-aligned ellipsoid."""
    px, py, pz = x - centre[0], y - centre[1], z - centre[2]
    qx, qy, qz = px / radii[0], py / radii[1], pz / radii[2]
    k0 = np.sqrt(qx * qx + qy * qy + qz * qz)
    qx /= radii[0]
    qy /= radii[1]
    qz /= radii[2]
    k1 = np.sqrt(qx * qx + qy * qy + qz * qz)
    return np.asarray(k0 * (k0 - 1) / np.maximum(k1, 1e-6))


def column(px: Array, py: Array, rx: Array, ry: Array) -> Array:
    """Return the approximate distance (mm) to an elliptic column whose radii may vary along it."""
    qx, qy = px / rx, py / ry
    k0 = np.sqrt(qx * qx + qy * qy)
    k1 = np.hypot(qx / rx, qy / ry)
    return np.asarray(k0 * (k0 - 1) / np.maximum(k1, 1e-6))


def capsule(
    x: Array,
    y: Array,
    z: Array,
    start: Point,
    end: Point,
    radius: float,
    end_radius: float | None = None,
    flatten: Point = (1.0, 1.0, 1.0),
) -> Array:
    """Return the distance (mm) to a capsule, tapered from `radius` to `end_radius`.

    `flatten` divides the coordinates of each axis before the distance is computed. For example,
    (3, 1, 1) makes the capsule three times as wide along x, like a flat tendon.
    """
    a = [p / f for p, f in zip(start, flatten, strict=True)]
    b = [p / f for p, f in zip(end, flatten, strict=True)]
    dx, dy, dz = (q - p for p, q in zip(a, b, strict=True))
    px, py, pz = x / flatten[0] - a[0], y / flatten[1] - a[1], z / flatten[2] - a[2]
    h = np.clip((px * dx + py * dy + pz * dz) / (dx * dx + dy * dy + dz * dz), 0, 1)
    px -= h * dx
    py -= h * dy
    pz -= h * dz
    taper = 0.0 if end_radius is None else end_radius - radius
    return np.asarray(np.sqrt(px * px + py * py + pz * pz) - (radius + taper * h))


def smooth_min(a: Array, b: Array, k: float) -> Array:
    """Return the union of two bodies, blended over `k` mm."""
    h = np.maximum(k - np.abs(a - b), 0)
    return np.asarray(np.minimum(a, b) - h * h * (0.25 / k))


def smooth_max(a: Array, b: Array, k: float) -> Array:
    """Return the intersection of two bodies, blended over `k` mm."""
    h = np.maximum(k - np.abs(a - b), 0)
    return np.asarray(np.maximum(a, b) + h * h * (0.25 / k))


def smooth_step(x: Array) -> Array:
    """Return a cubic step from 0 (x <= 0) to 1 (x >= 1)."""
    t = np.clip(x, 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def waves(x: Array, y: Array, z: Array, vectors: NDArray[np.float64]) -> Array:
    """Return a sum of plane waves with mean square 1, for the undulations of a bone surface.

    Parameters
    ----------
    x, y, z : array
        Coordinates, mm.
    vectors : (n, 4) array
        Wave vectors (rad / mm) and phases (rad).
    """
    total = np.zeros(np.shape(x), np.float32)
    for kx, ky, kz, phase in vectors.astype(np.float32):
        total += np.sin(kx * x + ky * y + kz * z + phase)
    return np.asarray(total * np.float32(np.sqrt(2 / max(len(vectors), 1))))
