"""Soft tissues around the joint: outline, muscles, tendons, ligaments, vessels, fluid pouches."""

from __future__ import annotations

import numpy as np

from qmri_lake.phantom.anatomy import Anatomy
from qmri_lake.phantom.shapes import Array, capsule, column, ellipsoid, smooth_min

__all__ = ["cortex", "muscle", "outline", "pouch", "tendon", "vessel"]


def outline(x: Array, y: Array, z: Array, fat: float) -> Array:
    """Return the signed distance (mm) to the skin; `fat` (mm) widens the leg."""
    low = np.clip(-z / 70, 0, 1)
    high = np.clip(z / 70, 0, 1)
    leg = column(x - 1, y - 8 - 4 * high, 53 + fat - 5 * low + 4 * high, 55 + fat - 5 * low)
    cap = ellipsoid(x, y, z, (-3, -36, 24), (30 + fat / 2, 27 + fat / 2, 44))
    return np.asarray(smooth_min(leg, cap, 12.0), np.float32)


def muscle(x: Array, y: Array, z: Array) -> Array:
    """Return the signed distance (mm) to the nearest muscle belly."""
    bellies = (
        ((26, 36, 8), (30, 40, 110), 9, 17),  # semimembranosus
        ((14, 48, 20), (18, 52, 110), 4, 9),  # semitendinosus
        ((-31, 36, 8), (-28, 42, 110), 8, 15),  # biceps femoris
        ((22, 36, 12), (20, 46, -110), 8, 17),  # medial gastrocnemius
        ((-22, 36, 12), (-20, 46, -110), 8, 15),  # lateral gastrocnemius
        ((6, 31, -32), (2, 34, -110), 7, 12),  # popliteus, soleus
        ((33, -14, 34), (34, -8, 110), 8, 20),  # vastus medialis
        ((-34, -8, 52), (-34, -4, 110), 5, 20),  # vastus lateralis
        ((-3, -32, 66), (-3, -36, 110), 4, 15),  # vastus intermedius, rectus femoris
        ((-30, 2, -34), (-30, 2, -110), 7, 15),  # tibialis anterior
    )
    nearest = np.full(np.shape(x), 1e3, np.float32)
    for start, end, first, last in bellies:
        np.minimum(nearest, capsule(x, y, z, start, end, first, last), out=nearest)
    return nearest


def tendon(x: Array, y: Array, z: Array, patella: tuple[float, float, float]) -> Array:
    """Return the signed distance (mm) to tendons and ligaments.

    `patella` is the centre of the patella.
    """
    px, py, pz = patella
    flat = (2.6, 1.0, 1.0)
    cords = (
        capsule(x, y, z, (px, py - 3, pz - 17), (-2, -19.5, -38), 2.5, 2.5, flat),
        capsule(x, y, z, (px, py - 2, pz + 17), (-3, -27, 96), 3.0, 3.0, flat),
        capsule(x, y, z, (-8, 16, 18), (1, 1, -6), 3.6),  # anterior cruciate
        capsule(x, y, z, (5, 6, 8), (1, 33, -14), 4.4),  # posterior cruciate
        capsule(x, y, z, (37.5, 2, 18), (31, 2, -42), 1.2, 1.2, (1, 4, 1)),  # medial collateral
        capsule(x, y, z, (-38, 6, 18), (-37, 24, -20), 1.6),  # lateral collateral
    )
    nearest = cords[0]
    for cord in cords[1:]:
        nearest = np.minimum(nearest, cord)
    return np.asarray(nearest, np.float32)


def vessel(x: Array, y: Array, z: Array) -> Array:
    """Return the signed distance (mm) to the popliteal vessels and some subcutaneous veins."""
    vessels = (
        capsule(x, y, z, (-1, 36, 110), (-3, 40, -110), 2.8),
        capsule(x, y, z, (4, 42, 110), (2, 45, -110), 3.2),
        capsule(x, y, z, (47, 26, 110), (46, 20, -110), 1.6),
        capsule(x, y, z, (8, 57, 30), (10, 58, -110), 1.4),
    )
    nearest = vessels[0]
    for one in vessels[1:]:
        nearest = np.minimum(nearest, one)
    return np.asarray(nearest, np.float32)


def pouch(x: Array, y: Array, z: Array, a: Anatomy) -> Array:
    """Return the signed distance (mm) to joint fluid, which increases with `Anatomy.effusion`."""
    full = a.effusion
    pools = (
        ellipsoid(x, y, z, (-3, -31, 55), (15 + 5 * full, 1.2 + 3.5 * full, 13 + 5 * full)),
        ellipsoid(x, y, z, (33, -6, 26), (2.0 + 3 * full, 9, 9 + 3 * full)),
        ellipsoid(x, y, z, (-35, -8, 27), (2.0 + 3 * full, 8, 9 + 3 * full)),
        ellipsoid(x, y, z, (14, 37, 6), (7, 1.5 + 4 * full, 8 + 5 * full)),  # popliteal cyst
    )
    nearest = pools[0]
    for one in pools[1:]:
        nearest = smooth_min(nearest, one, 2.0)
    return np.asarray(nearest, np.float32)


def cortex(z: Array) -> Array:
    """Return the thickness (mm) of cortical bone, thin at the joint and thick along the shafts."""
    shaft = np.clip((np.abs(z) - 24) / 45, 0, 1)
    return np.asarray(0.7 + 3.2 * shaft, np.float32)
