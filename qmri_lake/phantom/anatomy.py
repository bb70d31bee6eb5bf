"""The knee as functions of position: femur, tibia, patella, fibula, cartilage and menisci.

All functions describe a *right* knee with a femur 76 mm wide, in millimetres. The module `.pose`
scales, flexes, mirrors and places the knee. The axes are +x medial, +y posterior and +z proximal;
z = 0 is near the distal end of the condyles. The proportions are those of a real knee: widths and
depths of the bones at each height, and volumes of the cartilage. `Anatomy.shape` varies the radii
between patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qmri_lake.phantom.shapes import (
    Array,
    capsule,
    column,
    ellipsoid,
    smooth_max,
    smooth_min,
    smooth_step,
    waves,
)

__all__ = [
    "REFERENCE_WIDTH",
    "TROCHLEA_DEGREES",
    "Anatomy",
    "Bone",
    "draw_anatomy",
    "femur",
    "fibula",
    "meniscus",
    "patella",
    "tibia",
]

REFERENCE_WIDTH = 76.0
"""Mediolateral femur width (mm) that the numbers of this module refer to."""

AXIS = (2.0, 17.0)
"""(y, z) of the condylar axis. The angle about this axis gives a position on femoral cartilage."""

TROCHLEA_DEGREES = 32.0
"""Femoral cartilage belongs to the trochlea if its angle from distal to anterior exceeds this."""

MEDIAL, LATERAL = (18.0, 8.0), (-20.0, 8.0)
"""(x, y) of the centres of the tibial compartments."""

N_SHAPE = 24


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Size, shape, cartilage and wear of one knee at one visit.

    Attributes
    ----------
    width : float
        Mediolateral width of the femur, mm.
    shape : 24 floats
        Standard normal shape scores.
    bumps : (3, 6, 4) array
        Wave vectors and phases of the surface undulations of femur, tibia and patella.
    thickness : 3 floats
        Healthy cartilage thickness of femur, tibia and patella, relative to the mean.
    wear_medial, wear_lateral, wear_front : float
        Fraction of the thickness lost at the centre of the medial, lateral and patellofemoral
        compartment. Above 1, the bone is denuded there.
    osteophytes : float
        Height of the marginal osteophytes, mm.
    effusion : float
        Joint effusion, 0 (dry) to 1 (swollen).
    """

    width: float
    # Python floats: NumPy scalars would promote float32 arrays to float64.
    shape: tuple[float, ...]
    bumps: NDArray[np.float64]
    thickness: tuple[float, ...]
    wear_medial: float
    wear_lateral: float
    wear_front: float
    osteophytes: float
    effusion: float


class Bone(NamedTuple):
    """A bone and its cartilage at given points."""

    distance: Array
    """Signed distance to the bone surface, mm, negative inside."""
    cartilage: Array
    """Thickness of the cartilage on the nearest bone surface, mm; 0 if there is no cartilage."""
    articular: Array
    """Distance to the edge of the articular area, mm, negative outside."""


def draw_anatomy(patient: np.random.Generator, knee: np.random.Generator) -> Anatomy:
    """Draw a healthy anatomy, which is mostly the same in both knees of a patient."""
    width = 84 + 6 * float(np.clip(patient.normal(), -2.2, 2.2))
    own = 0.3
    shape = np.sqrt(1 - own**2) * patient.normal(size=N_SHAPE) + own * knee.normal(size=N_SHAPE)
    direction = patient.normal(size=(3, 6, 3)) + own * knee.normal(size=(3, 6, 3))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    wavelength = patient.uniform(22, 55, size=(3, 6, 1))
    phase = patient.uniform(0, 2 * np.pi, size=(3, 6, 1)) + own * knee.normal(size=(3, 6, 1))
    bumps = np.concatenate([direction * 2 * np.pi / wavelength, phase], axis=-1)
    general = 0.035 * patient.normal() + 0.015 * knee.normal()
    thickness = np.clip(1 + general + 0.02 * patient.normal(size=3), 0.82, 1.2)
    # Cartilage thickness hardly increases with knee size, so undo most of the scaling by width.
    thickness *= (REFERENCE_WIDTH / width) ** 0.7
    return Anatomy(
        width=width,
        shape=tuple(np.clip(shape, -2.5, 2.5).tolist()),
        bumps=bumps,
        thickness=tuple(thickness.tolist()),
        wear_medial=0.0,
        wear_lateral=0.0,
        wear_front=0.0,
        osteophytes=0.0,
        effusion=0.1,
    )


def _logistic(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _hill(x: Array, y: Array, centre: tuple[float, float], radii: tuple[float, float]) -> Array:
    return np.asarray(
        np.exp(-(((x - centre[0]) / radii[0]) ** 2) - ((y - centre[1]) / radii[1]) ** 2)
    )


def femur(x: Array, y: Array, z: Array, a: Anatomy) -> Bone:
    """Return the femur and its cartilage at points (mm) in the frame of the femur."""
    s = a.shape
    depth = 1 + 0.03 * s[0]  # front to back
    ost = a.osteophytes
    y = y / np.float32(depth)
    post, medial_r, lateral_r = 1.0 * s[1], 0.6 * s[2], 0.6 * s[3]
    parts = (
        ((20.5, 12 + post, 17.5), (13.2 + 0.5 * s[4], 20, 20 + medial_r)),
        ((21, -2, 14 - 0.3 * s[2]), (14, 22 + medial_r, 16.5 + medial_r)),
        ((-21, 9 + post, 18), (12.6 + 0.5 * s[5], 19, 19 + lateral_r)),
        ((-21, -6, 16), (13.5, 24.5 + lateral_r, 17 + lateral_r)),
        ((-15, -16 - 0.7 * s[6], 25), (13, 16, 15)),
        ((14, -14 - 0.5 * s[6], 21), (12, 14, 15)),
        ((20, 0, 24), (17.6 + 0.5 * ost, 19, 13)),
        ((-20, -2, 24), (17.6 + 0.5 * ost, 18, 13)),
        ((0, -9, 26), (26, 18, 16)),
        ((33.3 + ost, 6, 11), (1 + 0.6 * ost, 8, 1 + 1.2 * ost)),
        ((-33.3 - ost, 5, 12), (1 + 0.5 * ost, 7, 1 + 1.1 * ost)),
    )
    body = ellipsoid(x, y, z, *parts[0])
    for centre, radii in parts[1:]:
        body = smooth_min(body, ellipsoid(x, y, z, centre, radii), 5.0)
    flare = _logistic((38 + 1.5 * s[7] - z) / 5.0)
    bow = np.float32(-1.5) + np.float32(0.01) * (z - 40)
    shaft = column(
        x - bow,
        y + 9 + 2.5 * flare - 0.02 * (z - 40),
        (17.5 + 0.8 * s[8]) + 17 * flare,
        (14.0 + 0.6 * s[9]) + 8.0 * flare,
    )
    shaft = smooth_max(shaft, 22 - z, 6.0)
    body = smooth_min(body, shaft, 7.0)
    notch = capsule(
        x,
        y,
        z,
        (-1, 5, -10),
        (-1, 40, 21 + 0.8 * s[10]),
        9.0 + 0.7 * s[11],
        9.5 + 0.7 * s[11],
    )
    body = smooth_max(body, -notch, 3.0)
    body += np.float32(0.45) * waves(x, y, z, a.bumps[0])

    angle = np.degrees(np.arctan2(AXIS[0] - y, AXIS[1] - z))  # 0 distal, + anterior, - posterior
    radius = np.float32(25 * np.pi / 180)
    front = smooth_step((angle - 20) / 30)
    inner, outer = (
        31.0 - 12 * smooth_step((angle - 30) / 70),
        -32.0 + 9 * smooth_step((angle - 40) / 70),
    )
    back = smooth_step((-angle - 20) / 80)
    inner = inner - 2 * back
    outer = outer + 2 * back
    top = np.float32(116 + 3 * s[12]) - 0.45 * np.abs(x + 3)
    articular = np.minimum(inner - x, x - outer)
    articular = np.minimum(articular, (top - angle) * radius)
    articular = np.minimum(articular, (angle + 108 + 2 * s[13]) * radius)
    articular = np.minimum(articular, notch - 2.6 + 4.6 * front)
    # The walls and the roof of the notch have no cartilage. They are nearer to the condylar axis
    # than any condyle. The cartilage's edge at the notch is sharper than its outer edge.
    from_axis = np.hypot(AXIS[0] - y, AXIS[1] - z)
    articular = np.minimum(articular, 2 * (from_axis - 13 + 3.5 * front))

    medial, lateral = _logistic(x / 2.5), _logistic(-x / 2.5)
    usual = 2.35 + 0.35 * front + 0.30 * _hill(x, angle, (-3, 60), (12, 30))
    usual += 0.25 * _hill(x, angle, (20, -10), (9, 45)) + 0.2 * _hill(x, angle, (-21, 0), (9, 45))
    usual += 0.14 * waves(x, y, z, a.bumps[0][::-1] * (1.3, 1.3, 1.3, 1))
    lost = a.wear_medial * (0.4 * medial * (1 - front) + 0.65 * _hill(x, angle, (20, -2), (11, 38)))
    lost += a.wear_lateral * (
        0.4 * lateral * (1 - front) + 0.65 * _hill(x, angle, (-21, -2), (10, 38))
    )
    lost += a.wear_front * (0.35 * front + 0.65 * _hill(x, angle, (-10, 62), (12, 28)))
    thick = np.maximum(a.thickness[0] * usual * (1 - lost), 0) * smooth_step(articular / 4.0)
    return Bone(body, np.asarray(thick, np.float32), np.asarray(articular, np.float32))


def tibia(x: Array, y: Array, z: Array, a: Anatomy) -> Bone:
    """Return the tibia and its cartilage at points (mm) in the frame of the tibia."""
    s, ost = a.shape, a.osteophytes
    flare = _logistic((z + 25 + 1.0 * s[14]) / 5.5)
    wall = column(
        x + 2.5,
        y - 8.5 + 3.0 * (1 - flare) - 0.05 * (z + 25),
        (17.0 + 0.7 * s[15]) + (17.8 + 0.7 * s[15]) * flare,
        (16.5 + 0.6 * s[16]) + (7.2 + 0.6 * s[16]) * flare,
    )
    slope = np.float32(np.tan(np.radians(3 + 1.2 * s[17])))
    top = -7.6 - slope * (y - 8)
    top = top - 2.2 * _hill(x, y, MEDIAL, (11, 16)) - 0.8 * _hill(x, y, LATERAL, (9, 13))
    top += 6.8 * _hill(x, y, (4, 15), (3.4, 7)) + 6.4 * _hill(x, y, (-6.5, 16), (3.2, 6.5))
    top += 0.8 * ost * (_hill(x, y, (33, 8), (4, 14)) + 0.6 * _hill(x, y, (-36, 8), (4, 12)))
    body = smooth_max(wall, z - top, 3.5)
    body = smooth_min(body, ellipsoid(x, y, z, (-2, -13, -38), (9, 7, 13)), 6.0)
    for side, size in ((1.0, ost), (-1.0, 0.7 * ost)):
        spur = ((-2.5 + side * (31.2 + 1.3 * s[15] + 0.5 * size)), 8.0, -12.0)
        body = smooth_min(
            body, ellipsoid(x, y, z, spur, (1 + 0.8 * size, 12.0, 1 + 0.9 * size)), 2.5
        )
    body += np.float32(0.4) * waves(x, y, z, a.bumps[1])

    rm = np.hypot((x - MEDIAL[0]) / 14.0, (y - MEDIAL[1]) / 19.0)
    rl = np.hypot((x - LATERAL[0]) / 13.5, (y - LATERAL[1]) / 16.0)
    articular = np.maximum((1 - rm) * 14.0, (1 - rl) * 13.5)
    articular = np.minimum(articular, z - top + 3.5)  # not on the side of the plateau
    usual = np.where(x > -1, 2.2 + 0.5 * np.exp(-4 * rm**2), 2.3 + 1.1 * np.exp(-4 * rl**2))
    usual = usual + 0.12 * waves(x, y, z, a.bumps[1][::-1] * (1.3, 1.3, 1.3, 1))
    lost = np.where(
        x > -1,
        a.wear_medial * (0.45 + 0.6 * _hill(x, y, (17, 6), (9, 12))),
        a.wear_lateral * (0.45 + 0.6 * _hill(x, y, LATERAL, (9, 11))),
    )
    thick = np.maximum(a.thickness[1] * usual * (1 - lost), 0) * smooth_step(articular / 3.5)
    return Bone(body, np.asarray(thick, np.float32), np.asarray(articular, np.float32))


def patella(x: Array, y: Array, z: Array, a: Anatomy) -> Bone:
    """Return the patella and its cartilage at points (mm) in the frame of the patella.

    The origin is the centre of the bone; the articular side faces +y.
    """
    s = a.shape
    wide, high = 21.0 + 0.8 * s[18], 19.0 + 0.8 * s[19]
    body = ellipsoid(x, y, z, (0, -1, 0), (wide, 11.2 + 0.5 * s[20], high))
    # The two facets meet at the median ridge, which is medial to the centre.
    ridge = np.where(x > 2, 0.42, 0.30 + 0.02 * s[21]) * np.sqrt((x - 2) ** 2 + 4)
    facet = (y - 7.2 + ridge + 0.004 * z * z) * np.float32(0.94)
    body = smooth_max(body, facet, 3.0)
    body = smooth_min(body, ellipsoid(x, y, z, (0, -3, -high + 3), (8, 6, 7)), 5.0)
    body += np.float32(0.35) * waves(x, y, z, a.bumps[2])
    rho = np.hypot((x - 0.5) / (wide - 4.0), (z - 3.0) / (high - 7.2))
    articular = np.minimum((1 - rho) * 13.0, y + 4)
    usual = 2.05 + 0.8 * np.exp(-2.5 * rho**2)
    usual = usual + 0.12 * waves(x, y, z, a.bumps[2][::-1] * (1.3, 1.3, 1.3, 1))
    lost = a.wear_front * (0.5 + 0.6 * _hill(x, z, (-5, 3), (9, 9)))
    thick = np.maximum(a.thickness[2] * usual * (1 - lost), 0) * smooth_step(articular / 3.5)
    return Bone(body, np.asarray(thick, np.float32), np.asarray(articular, np.float32))


def fibula(x: Array, y: Array, z: Array, a: Anatomy) -> Array:
    """Return the signed distance (mm) to the fibula at points in the frame of the tibia."""
    s = a.shape
    head = ellipsoid(x, y, z, (-34 - 0.5 * s[22], 27, -23), (8.5, 9, 9.5))
    shaft = capsule(x, y, z, (-34, 27, -30), (-30, 24, -110), 6.0, 5.2)
    return smooth_min(head, shaft, 5.0)


def meniscus(x: Array, y: Array, a: Anatomy) -> Array:
    """Return the distance (mm) to the edge of the meniscal rings, seen from above, positive inside.

    A point is meniscus if it is inside a ring *and* between the cartilages of femur and tibia.
    Therefore, the wedge shape of a meniscus always fits the joint.
    """
    narrow = 1.5 * min(a.wear_medial, 1.0)
    rm = np.hypot((x - MEDIAL[0]) / 15.0, (y - MEDIAL[1]) / 20.0)
    medial = np.minimum((1.10 - rm) * 16, (rm - 0.60) * 16 - narrow)
    medial = np.minimum(medial, x - 9.0 + 6 * smooth_step((np.abs(y - 8) - 10) / 6))
    rl = np.hypot((x - LATERAL[0]) / 14.5, (y - LATERAL[1]) / 17.0)
    lateral = np.minimum((1.10 - rl) * 15, (rl - 0.56) * 15)
    lateral = np.minimum(lateral, -10.0 - x + 6 * smooth_step((np.abs(y - 8) - 7) / 5))
    return np.asarray(np.maximum(medial, lateral), np.float32)
