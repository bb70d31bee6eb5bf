"""Pose of a knee: flexion, position and side, and the placement of the bones in the scanner.

Tibia and patella are moved until the cartilage surfaces touch in both compartments. A knee that has
lost medial cartilage therefore has a narrower medial joint space and a varus alignment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qmri_lake.phantom.anatomy import (
    AXIS,
    LATERAL,
    MEDIAL,
    REFERENCE_WIDTH,
    Anatomy,
    femur,
    patella,
    tibia,
)
from qmri_lake.phantom.shapes import Array

__all__ = ["Placement", "Pose", "apply", "femur_rays", "place", "rotation"]

Matrix = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Pose:
    """Pose of the leg: angles in degrees, position in mm (LPS)."""

    knee: Literal["left", "right"]
    flexion: float
    axial: float
    """Internal (+) or external (-) rotation of the whole leg."""
    lean: float
    """Abduction of the whole leg."""
    twist: float
    """Rotation of the tibia relative to the femur."""
    centre: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Placement:
    """Affine maps (4, 4) from LPS mm to the frame of each bone; `scale`: mm per unit of a frame."""

    scale: float
    knee: Matrix
    femur: Matrix
    tibia: Matrix
    patella: Matrix


def rotation(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Matrix:
    """Return the (4, 4) rotation by angles (degrees) about x, then y, then z."""
    out = np.eye(4)
    for axis, angle in enumerate((x, y, z)):
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        one = np.eye(4)
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        one[i, i], one[j, j], one[i, j], one[j, i] = c, c, -s, s
        out = one @ out
    return out


def _shift(x: float, y: float, z: float) -> Matrix:
    out = np.eye(4)
    out[:3, 3] = x, y, z
    return out


def apply(matrix: Matrix, x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
    """Apply a (4, 4) affine to coordinates, in float32."""
    m = matrix.astype(np.float32)
    mapped = [m[i, 0] * x + m[i, 1] * y + m[i, 2] * z + m[i, 3] for i in range(3)]
    return mapped[0], mapped[1], mapped[2]


def femur_rays(a: Anatomy, x: Array, angle: Array) -> tuple[Array, Array, Array]:
    """Return the outermost surface points of the femur at `x` and `angle` (degrees).

    The rays lie in sagittal planes and point to the condylar axis. 0 degrees is distal, and
    positive angles are anterior. The points are NaN where a ray does not intersect the bone.
    """
    sy, sz = -np.sin(np.radians(angle)), -np.cos(np.radians(angle))

    def value(r: Array) -> Array:
        return femur(x, AXIS[0] + r * sy, AXIS[1] + r * sz, a).distance

    steps = np.arange(50.0, 3.0, -2.0, dtype=np.float32)
    near: Array = np.full(x.shape, np.nan, np.float32)
    far: Array = np.full(x.shape, 50, np.float32)
    for step in steps:
        inside = np.isnan(near) & (value(np.full(x.shape, step, np.float32)) < 0)
        near[inside], far[inside] = step, step + 2
    for _ in range(6):
        middle = (near + far) / 2
        inside = value(middle) < 0
        near, far = np.where(inside, middle, near), np.where(inside, far, middle)
    r = (near + far) / 2
    return x, np.asarray(AXIS[0] + r * sy), np.asarray(AXIS[1] + r * sz)


def _closest(free: Array, where: NDArray[np.bool_]) -> float:
    """Return the third smallest gap, so that single points do not keep two bones apart."""
    values = free[where]
    return float(np.partition(values, 2)[2]) if values.size > 2 else 0.0


def place(a: Anatomy, pose: Pose) -> Placement:
    """Return the maps from LPS mm to the frames of the bones, so that cartilage surfaces touch."""
    scale = a.width / REFERENCE_WIDTH
    side = np.diag([1.0 if pose.knee == "right" else -1.0, 1.0, 1.0, 1.0])
    knee = (
        np.diag([1 / scale, 1 / scale, 1 / scale, 1.0])
        @ np.linalg.inv(rotation(y=pose.lean, z=pose.axial))
        @ side
        @ _shift(*(-c for c in pose.centre))
    )
    to_axis, back = _shift(0, -AXIS[0], -AXIS[1]), _shift(0, AXIS[0], AXIS[1])
    femur_turn = back @ rotation(x=0.4 * pose.flexion) @ to_axis
    tibia_turn = back @ rotation(x=-0.6 * pose.flexion, z=pose.twist) @ to_axis

    gx, ga = np.meshgrid(np.arange(-32, 33, 2.5), np.arange(-100, 116, 5), indexing="ij")
    px, py, pz = femur_rays(a, gx.ravel().astype(np.float32), ga.ravel().astype(np.float32))
    found = ~np.isnan(py)
    px, py, pz, angle = px[found], py[found], pz[found], ga.ravel()[found]
    h = np.float32(0.25)
    slopes = [
        femur(px + h * i, py + h * j, pz + h * k, a).distance
        - femur(px - h * i, py - h * j, pz - h * k, a).distance
        for i, j, k in ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    size = np.sqrt(slopes[0] ** 2 + slopes[1] ** 2 + slopes[2] ** 2)
    depth = femur(px, py, pz, a).cartilage / np.maximum(size, 1e-6)
    px, py, pz = px + depth * slopes[0], py + depth * slopes[1], pz + depth * slopes[2]
    # Points on the femoral cartilage, in the frame of the knee.
    px, py, pz = apply(np.linalg.inv(femur_turn), px, py, pz)

    distal = np.abs(angle + 10) < 55
    sides = (distal & (px > 8), distal & (px < -9))
    drop, lean, slide, gap = 0.0, 0.0, 0.0, 0.1
    for _ in range(10):
        tibia_map = tibia_turn @ back @ rotation(y=lean) @ to_axis @ _shift(0, slide, -drop)
        tx, ty, tz = apply(tibia_map, px, py, pz)
        bone = tibia(tx, ty, tz, a)
        free = bone.distance - bone.cartilage
        medial, lateral = (
            _closest(free, s & (np.hypot((tx - at[0]) / 10, (ty - at[1]) / 14) < 1)) - gap / scale
            for s, at in zip(sides, (MEDIAL, LATERAL), strict=True)
        )
        drop += (medial + lateral) / 2
        lean += float(np.degrees((medial - lateral) / 40))
        # Condyles roll back in flexion: shift the tibia until they rest in its concavities.
        under = [
            s & (np.abs(ty - 6) < 16) & (np.abs(tx - at[0]) < 10)
            for s, at in zip(sides, (MEDIAL, LATERAL), strict=True)
        ]
        stands = [float(np.mean(ty[u][np.argsort(free[u])[:6]])) for u in under if u.sum() > 6]
        slide = float(np.clip(slide + 0.5 * (6.5 - np.mean(stands)), -9, 9)) if stands else slide
    front = (angle > 30) & (np.abs(px) < 30)
    shift = -44.0
    height = 27.0 + 2.0 * a.shape[23]
    for _ in range(6):
        patella_map = rotation(x=0.3 * pose.flexion) @ _shift(3.5, -shift, -height)
        bone = patella(*apply(patella_map, px[front], py[front], pz[front]), a)
        free = bone.distance - bone.cartilage
        shift += _closest(free, np.isfinite(free)) - gap / scale
    return Placement(scale, knee, femur_turn @ knee, tibia_map @ knee, patella_map @ knee)
