"""True cartilage thickness at dense points of the articular surfaces, along normals.

The thickness is measured in the functions from which the images are rendered. It is therefore also
correct where two cartilages touch. Denuded bone (0 mm) is distinguished from bone that never had
cartilage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.phantom.anatomy import TROCHLEA_DEGREES, Anatomy, femur, patella, tibia
from qmri_lake.phantom.lattice import Channel, Lattice
from qmri_lake.phantom.pose import Matrix, Placement, femur_rays
from qmri_lake.phantom.sampling import interpolate, walk
from qmri_lake.phantom.shapes import Array

__all__ = ["REGIONS", "Surface", "measure", "regional"]

REGIONS = (
    "femur_medial",
    "femur_lateral",
    "trochlea",
    "tibia_medial",
    "tibia_lateral",
    "patella",
)
"""Names of the articular regions, in the order of `Surface.region`."""


@dataclass(frozen=True, slots=True)
class Surface:
    """Points of the articular bone surfaces, covered or denuded.

    Attributes
    ----------
    point, normal : (n, 3) float32
        Position (DESS LPS, mm) and outward unit normal.
    thickness : (n,) float32
        Cartilage thickness along the normal, mm; 0 where the bone is denuded.
    area : (n,) float32
        Surface area that the point represents, mm2.
    region : (n,) uint8
        Index into `REGIONS`.
    """

    point: NDArray[np.float32]
    normal: NDArray[np.float32]
    thickness: NDArray[np.float32]
    area: NDArray[np.float32]
    region: NDArray[np.uint8]


def _patch_area(x: Array, y: Array, z: Array) -> Array:
    p = np.stack([x, y, z], axis=-1).astype(np.float64)
    return np.asarray(
        np.linalg.norm(np.cross(np.gradient(p, axis=0), np.gradient(p, axis=1)), axis=-1)
    )


def _plate(a: Anatomy, u: Array, v: Array, axis: int) -> tuple[Array, Array, Array]:
    """Return surface points along z from above (tibia) or along y from behind (patella)."""

    def value(t: Array) -> Array:
        bone = tibia(u, v, t, a) if axis == 2 else patella(u, t, v, a)
        return bone.distance

    start, stop = (4.0, -20.0) if axis == 2 else (14.0, -6.0)
    near: Array = np.full(u.shape, np.nan, np.float32)
    far: Array = np.full(u.shape, start, np.float32)
    for step in np.arange(start, stop, -1.0, dtype=np.float32):
        inside = np.isnan(near) & (value(np.full(u.shape, step, np.float32)) < 0)
        near[inside], far[inside] = step, step + 1
    for _ in range(6):
        middle = (near + far) / 2
        inside = value(middle) < 0
        near, far = np.where(inside, middle, near), np.where(inside, far, middle)
    t = np.asarray((near + far) / 2)
    return (u, v, t) if axis == 2 else (u, t, v)


def _measured(
    lattice: Lattice,
    matrix: Matrix,
    xyz: tuple[Array, Array, Array],
    keep: NDArray[np.bool_],
    body: Channel,
    scale: float,
) -> tuple[Array, Array, Array, Array]:
    area = _patch_area(*xyz)[keep] * scale**2
    own = np.stack([c[keep] for c in xyz], axis=-1).astype(np.float64)
    back = np.linalg.inv(matrix)
    point = own @ back[:3, :3].T + back[:3, 3]
    h = 0.5
    normal = np.stack(
        [
            interpolate(lattice, point + h * e)[:, body]
            - interpolate(lattice, point - h * e)[:, body]
            for e in np.eye(3)
        ],
        axis=-1,
    ).astype(np.float64)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
    # Images are rendered from the lattice, so move the points to the surface of the lattice.
    point -= interpolate(lattice, point)[:, body, None] * normal
    thickness = walk(lattice, point, normal, int(body) + 4)
    return point, normal, thickness, area


def measure(a: Anatomy, placement: Placement, lattice: Lattice) -> Surface:
    """Sample the articular surfaces of a knee about every millimetre; measure cartilage there."""
    scale = placement.scale
    grids: list[tuple[Matrix, tuple[Array, Array, Array], Array, Values, Channel]] = []
    x, angle = np.meshgrid(
        np.arange(-33, 34, 1.25, dtype=np.float32),
        np.arange(-114, 122, 2.5, dtype=np.float32),
        indexing="ij",
    )
    xyz = femur_rays(a, x, angle)
    region = np.where(angle > TROCHLEA_DEGREES, 2, np.where(x > 0, 0, 1))
    grids.append((placement.femur, xyz, femur(*xyz, a).articular, region, Channel.FEMUR))
    u, v = np.meshgrid(
        np.arange(-36, 36, 1.25, dtype=np.float32),
        np.arange(-14, 31, 1.25, dtype=np.float32),
        indexing="ij",
    )
    xyz = _plate(a, u, v, 2)
    region = np.where(u > -1, 3, 4)
    grids.append((placement.tibia, xyz, tibia(*xyz, a).articular, region, Channel.TIBIA))
    u, v = np.meshgrid(
        np.arange(-24, 25, 1.25, dtype=np.float32),
        np.arange(-18, 21, 1.25, dtype=np.float32),
        indexing="ij",
    )
    xyz = _plate(a, u, v, 1)
    region = np.full(u.shape, 5)
    grids.append((placement.patella, xyz, patella(*xyz, a).articular, region, Channel.PATELLA))

    parts = []
    for matrix, points, articular, region, body in grids:
        keep = np.nan_to_num(articular, nan=-1) > 0.4
        keep &= np.isfinite(_patch_area(*points))
        parts.append((*_measured(lattice, matrix, points, keep, body, scale), region[keep]))
    point, normal, thickness, area, where = (
        np.concatenate([p[i] for p in parts]) for i in range(5)
    )
    return Surface(
        point.astype(np.float32),
        normal.astype(np.float32),
        thickness.astype(np.float32),
        area.astype(np.float32),
        where.astype(np.uint8),
    )


def regional(surface: Surface) -> dict[str, float]:
    """Return the area-weighted mean thickness (mm) and the denuded fraction of each region.

    Denuded bone has a thickness of 0.
    """
    out: dict[str, float] = {}
    for k, name in enumerate(REGIONS):
        here = surface.region == k
        weight = surface.area[here].astype(np.float64)
        out[f"thickness_{name}"] = float(np.average(surface.thickness[here], weights=weight))
        out[f"denuded_{name}"] = float(np.average(surface.thickness[here] < 0.1, weights=weight))
    return out
