"""One knee evaluated on a coarse lattice, for sampling on any image grid.

Distances and thicknesses are nearly linear between lattice points 1.5 mm apart. Interpolating these
values gives boundaries that are exact to a few hundredths of a millimetre, and the same knee on all
image grids.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qmri_lake.phantom import soft
from qmri_lake.phantom.anatomy import Anatomy, femur, fibula, meniscus, patella, tibia
from qmri_lake.phantom.pose import Placement, apply
from qmri_lake.phantom.shapes import Array

__all__ = ["SPACING", "Channel", "Lattice", "build_lattice"]

SPACING = 1.5
"""Distance between lattice points, mm."""

_SLAB = 6
"""Number of planes that are evaluated at once."""

_FAR = 30.0
"""Distance (mm) stored for points far from a bone."""


class Channel(IntEnum):
    """Channels along the last axis of `Lattice.values` (mm; distances are negative inside)."""

    FEMUR = 0
    TIBIA = 1
    PATELLA = 2
    FIBULA = 3
    FEMORAL = 4
    TIBIAL = 5
    PATELLAR = 6
    MENISCUS = 7
    SKIN = 8
    MUSCLE = 9
    TENDON = 10
    POUCH = 11
    VESSEL = 12
    CORTEX = 13
    TEXTURE = 14


@dataclass(frozen=True, slots=True)
class Lattice:
    """Values (z, y, x, channel) float32, and the position (x, y, z) of the first point, LPS mm."""

    values: NDArray[np.float32]
    origin: tuple[float, float, float]
    spacing: float
    effusion: float

    def from_world(self) -> NDArray[np.float64]:
        """Return the (4, 4) map from scanner LPS mm to lattice indices (x, y, z)."""
        out = np.diag([1 / self.spacing] * 3 + [1.0])
        out[:3, 3] = [-o / self.spacing for o in self.origin]
        return out


def _unit_slope(distance: Array, spacing: float) -> Array:
    """Divide an implicit function by its slope to obtain a distance in mm near the surface."""
    gz, gy, gx = np.gradient(distance, spacing)
    return np.asarray(distance / np.clip(np.sqrt(gz * gz + gy * gy + gx * gx), 0.5, 1.6))


def _box_around(body: Channel, x: Array, y: Array, z: Array) -> tuple[slice, slice, slice]:
    """Return the lattice box that contains a bone and its cartilage."""
    if body == Channel.FEMUR:
        near = z > -14
    elif body == Channel.TIBIA:
        near = z < 12
    else:
        near = (np.abs(x) < 36) & (np.abs(y) < 26) & (np.abs(z) < 36)
    out = []
    for axis in range(3):
        index = np.flatnonzero(near.any(axis=tuple(k for k in range(3) if k != axis)))
        # The slope requires two planes, even if the bone is outside the field of view.
        first, last = (int(index[0]), int(index[-1])) if index.size else (0, 1)
        out.append(slice(max(first - 1, 0), last + 2))
    return out[0], out[1], out[2]


def _slabs(planes: int) -> list[slice]:
    """Divide a box into slabs whose intermediate arrays fit into the processor cache."""
    return [slice(at, at + _SLAB) for at in range(0, planes, _SLAB)]


def build_lattice(
    a: Anatomy,
    placement: Placement,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    *,
    fat: float = 0.0,
    texture: np.random.Generator | None = None,
) -> Lattice:
    """Evaluate a knee on the box from `low` to `high` (LPS, mm).

    With a generator for `texture`, soft tissues are also evaluated. Without a generator, only
    bones, cartilage and menisci are evaluated, which suffices for labels.
    """
    n = [int(np.ceil((h - b) / SPACING)) + 1 for b, h in zip(low, high, strict=True)]
    axes = [(b + SPACING * np.arange(k)).astype(np.float32) for b, k in zip(low, n, strict=True)]
    z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    scale = np.float32(placement.scale)
    channels = 15 if texture is not None else 8
    values = np.empty((*x.shape, channels), np.float32)

    for body, cartilage, function, matrix in (
        (Channel.FEMUR, Channel.FEMORAL, femur, placement.femur),
        (Channel.TIBIA, Channel.TIBIAL, tibia, placement.tibia),
        (Channel.PATELLA, Channel.PATELLAR, patella, placement.patella),
    ):
        own = apply(matrix, x, y, z)
        box = _box_around(body, *own)
        values[..., body] = _FAR
        values[..., cartilage] = 0
        distance = np.empty(own[0][box].shape, np.float32)
        near = values[(*box, cartilage)]
        for part in _slabs(len(distance)):
            px, py, pz = (axis[box][part] for axis in own)
            bone = function(px, py, pz, a)
            distance[part], near[part] = bone.distance * scale, bone.cartilage * scale
        values[(*box, body)] = _unit_slope(distance, SPACING)
    tibial = apply(placement.tibia, x, y, z)
    for part in _slabs(len(x)):
        tx, ty, tz = (axis[part] for axis in tibial)
        values[part, ..., Channel.FIBULA] = fibula(tx, ty, tz, a) * scale
        values[part, ..., Channel.MENISCUS] = meniscus(tx, ty, a) * scale
    if texture is not None:
        kx, ky, kz = apply(placement.knee, x, y, z)
        at = np.linalg.inv(placement.patella @ np.linalg.inv(placement.knee))[:3, 3]
        middle = (float(at[0]), float(at[1]), float(at[2]))
        noise = ndimage.gaussian_filter(
            texture.standard_normal(x.shape, dtype=np.float32), 0.9, mode="wrap"
        )
        wobble = ndimage.gaussian_filter(
            texture.standard_normal(x.shape, dtype=np.float32), 8.0, mode="wrap"
        )
        noise, wobble = noise / noise.std(), wobble / wobble.std()
        values[..., Channel.SKIN] = soft.outline(kx, ky, kz, fat) * scale + 1.5 * wobble
        values[..., Channel.MUSCLE] = soft.muscle(kx, ky, kz) * scale + 1.5 * wobble + 0.4 * noise
        values[..., Channel.TENDON] = soft.tendon(kx, ky, kz, middle) * scale
        values[..., Channel.POUCH] = soft.pouch(kx, ky, kz, a) * scale + 0.6 * wobble
        values[..., Channel.VESSEL] = soft.vessel(kx, ky, kz) * scale
        values[..., Channel.CORTEX] = soft.cortex(kz)
        values[..., Channel.TEXTURE] = noise
    return Lattice(values, (float(low[0]), float(low[1]), float(low[2])), SPACING, a.effusion)
