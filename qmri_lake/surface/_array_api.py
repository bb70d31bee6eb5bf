"""Paths along rays and normals in array operations, for volumes that are not NumPy arrays (CuPy).

The functions take the same steps as the loops of `ray_marching_numba`, with operations of the array
API standard: all points of a block take each step together. Volumes stay on their device. Points
may be on the host; results are on the device of the volume.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qmri_lake.core.array_api import Array, _is_cupy, move_like, namespace, to_numpy
from qmri_lake.surface.ray_marching_numba import (
    MAX_THICKNESS_MM,
    MIN_OCCUPANCY,
    MIN_T2_WEIGHT,
    SIGMA_MM,
    STEP_MM,
    gaussian,
)

__all__ = [
    "average_t2_along_normals",
    "first_hit",
    "integrate_along_normals",
    "isosurface_crossings",
    "label",
    "moments",
    "outward_normals",
    "smooth",
]

BLOCK = 1 << 20
"""Number of samples in a block: enough for a GPU, with temporaries of at most about 100 MB."""
AHEAD = 16
"""Number of steps along a ray between two checks for a hit."""

Matrix = NDArray[np.float64]


def label(mask: Array) -> tuple[Array, int]:
    """Return an array of the pieces of a mask, numbered from 1, and the number of pieces."""
    whole = np.ones((3, 3, 3), bool)
    if _is_cupy(mask):
        import cupy
        from cupyx.scipy import ndimage as on_gpu  # type: ignore[import-not-found]

        return on_gpu.label(mask, cupy.asarray(whole))  # type: ignore[no-any-return]
    # The array API and most libraries that follow it cannot label pieces.
    found, count = ndimage.label(to_numpy(mask), whole)
    return move_like(found, mask), count


def smooth(mask: Array, sigma: NDArray[np.float64]) -> Array:
    """Return a mask smoothed by a Gaussian of `sigma` voxels, float32; outside, the mask is 0."""
    xp = namespace(mask, "spherical_map")
    values = xp.astype(mask, xp.float32)
    for axis, width in enumerate(sigma.tolist()):
        weights = gaussian(width).tolist()
        radius, size = len(weights) // 2, values.shape[axis]
        total = xp.zeros_like(values, dtype=xp.float64)
        for n, w in zip(range(-radius, radius + 1), weights, strict=True):
            if abs(n) < size:
                here, there = [slice(None)] * 3, [slice(None)] * 3
                here[axis] = slice(max(0, -n), size - max(0, n))
                there[axis] = slice(max(0, n), size - max(0, -n))
                part = xp.astype(values[tuple(there)], xp.float64)
                total[tuple(here)] = total[tuple(here)] + w * part
        values = xp.astype(total, xp.float32)
    return values


def first_hit(bone: Array, inverse: Matrix, centre: Matrix, rays: Array) -> Array:
    """Return the distance (n,) from the centre to the outermost bone surface on each ray, mm.

    The distance is NaN where a ray hits no bone.
    """
    xp = namespace(bone, "spherical_map")
    c = (inverse[:, :3] @ centre + inverse[:, 3]).tolist()

    def block(rays: Array) -> Array:
        e = _directions_in_voxels(inverse, rays)
        t = xp.full_like(e[0], math.inf)  # where the ray leaves the box of voxels
        for axis in range(3):
            nonzero = xp.where(e[axis] == 0, 1.0, e[axis])
            face = xp.where(e[axis] > 0, xp.full_like(t, bone.shape[axis] - 1 - c[axis]), -c[axis])
            t = xp.where(e[axis] == 0, t, xp.minimum(t, face / nonzero))
        steps = move_like(STEP_MM * np.arange(AHEAD), bone)
        active = t > 0
        while bool(xp.any(active)):
            chosen = xp.nonzero(active)[0]
            begin = xp.take(t, chosen)
            depth = xp.reshape(begin[:, None] - steps[None, :], (-1,))
            samples = [
                c[axis] + depth * _repeated(xp, xp.take(e[axis], chosen), AHEAD)
                for axis in range(3)
            ]
            hit = (depth > 0) & (_interpolate(xp, bone, *samples) >= 0.5)
            hit = xp.reshape(hit, (-1, AHEAD))
            any_hit = xp.any(hit, axis=1)
            first = xp.astype(xp.argmax(xp.astype(hit, xp.int8), axis=1), xp.float64)
            begin = begin - STEP_MM * xp.where(any_hit, first, float(AHEAD))
            t[active] = begin
            active[active] = ~any_hit & (begin > 0)
        inside, outside = t, t + STEP_MM
        for _ in range(14):
            middle = (inside + outside) / 2
            out = _interpolate(xp, bone, *(c[axis] + middle * e[axis] for axis in range(3))) < 0.5
            inside, outside = xp.where(out, inside, middle), xp.where(out, middle, outside)
        return (xp.where(t > 0, middle, math.nan),)

    return _in_blocks(block, bone, AHEAD, rays)[0]


def outward_normals(values: Array, inverse: Matrix, points: Array) -> Array:
    """Return unit vectors (n, 3) against the gradient, in mm; NaN where the gradient is 0."""
    xp = namespace(values, "spherical_map")

    def block(points: Array) -> Array:
        at = _transform_points(inverse, points)
        slope = []
        for axis in range(3):
            # Differences span half a voxel to each side. The transpose transforms a gradient from
            # voxels to mm.
            low, high = list(at), list(at)
            low[axis], high[axis] = at[axis] - 0.5, at[axis] + 0.5
            slope.append(_interpolate(xp, values, *low) - _interpolate(xp, values, *high))
        m = inverse.tolist()
        out = [sum(m[row][axis] * slope[row] for row in range(3)) for axis in range(3)]
        length = xp.sqrt(sum(v * v for v in out))
        safe = xp.where(length > 0, length, 1.0)
        return (xp.stack([xp.where(length > 0, v / safe, math.nan) for v in out], axis=1),)

    return _in_blocks(block, values, 1, points)[0]


def integrate_along_normals(
    cartilage: Array, mask: Array, inverse: Matrix, points: Array, normals: Array, reach: float
) -> tuple[Array, Array]:
    """Return the thickness (n,) of cartilage along normals, and the end (n,) of the path, mm.

    The method is that of `qmri_lake.surface.ray_marching_numba.integrate_along_normals`.
    """
    xp = namespace(cartilage, "spherical_map")

    def block(points: Array, normals: Array) -> Array:
        p, v = _transform_points(inverse, points), _directions_in_voxels(inverse, normals)
        active = xp.isfinite(points[:, 0] + normals[:, 0])
        started = falling = active & False
        amount = before = end = xp.zeros_like(points[:, 0])
        s = -3 * SIGMA_MM
        while s <= MAX_THICKNESS_MM and bool(xp.any(active)):
            sample = [p[axis] + s * v[axis] for axis in range(3)]
            here = _interpolate(xp, cartilage, *sample)
            falling = falling | (started & (here < before) & (here < 0.5))
            if s > reach:
                active = active & started
            else:
                started = started | (active & (_interpolate(xp, mask, *sample) >= 0.5))
            # At the first gap, the cartilage has ended, or the next piece begins.
            gap = active & falling & ((here < MIN_OCCUPANCY) | (here > before))
            end, active = xp.where(gap, s, end), active & ~gap
            amount = amount + xp.where(active, here * STEP_MM, 0.0)
            before = xp.where(active, here, before)
            s += STEP_MM
        end = xp.where(active, s, end)
        return xp.where(started, amount, 0.0), xp.where(started, end, 0.0)

    thickness, end = _in_blocks(block, cartilage, 1, points, normals)
    return thickness, end


def average_t2_along_normals(
    cartilage: Array,
    inverse: Matrix,
    t2: Array,
    to_t2: Matrix,
    points: Array,
    normals: Array,
    end: Array,
    least: float,
) -> Array:
    """Return the mean T2 (n,) along normals up to `end`, as in `ray_marching_numba`."""
    xp = namespace(cartilage, "spherical_map")

    def block(points: Array, normals: Array, end: Array) -> Array:
        p, v = _transform_points(inverse, points), _directions_in_voxels(inverse, normals)
        q, w = _transform_points(to_t2, points), _directions_in_voxels(to_t2, normals)
        total = known = amount = xp.zeros_like(end)
        s, last = -3 * SIGMA_MM, float(xp.max(end))
        while s < last:
            here = _interpolate(xp, cartilage, *(p[axis] + s * v[axis] for axis in range(3)))
            here = xp.where(s < end, here, 0.0)
            value = _interpolate_valid(xp, t2, *(q[axis] + s * w[axis] for axis in range(3)))
            valid = xp.isfinite(value)
            amount = amount + here
            total = total + xp.where(valid, here * xp.where(valid, value, 0.0), 0.0)
            known = known + xp.where(valid, here, 0.0)
            s += STEP_MM
        enough = (known > 0) & (known >= least * amount)
        return (xp.where(enough, total / xp.where(enough, known, 1.0), math.nan),)

    return _in_blocks(block, cartilage, 1, points, normals, end)[0]


def isosurface_crossings(values: Array) -> Array:
    """Return the positions (n, 3), in voxels, where lines along the axes cross the level 0.5."""
    xp = namespace(values, "spherical_map")
    found = []
    inside = values >= 0.5
    for axis in range(3):
        low, high = [slice(None)] * 3, [slice(None)] * 3
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        differ = inside[tuple(low)] != inside[tuple(high)]
        a, b = (xp.astype(values[tuple(part)][differ], xp.float64) for part in (low, high))
        place = [xp.astype(n, xp.float64) for n in xp.nonzero(differ)]
        place[axis] = place[axis] + (a - 0.5) / (a - b)
        found.append(xp.stack(place, axis=1))
    return xp.concat(found)


def moments(
    values: Array, affine: Matrix, sign: float, end: float, length: float
) -> tuple[float, NDArray[np.float64]]:
    """Return the sum of occupancy and its first moments, as in `ray_marching_numba.moments`."""
    xp = namespace(values, "spherical_map")
    x, y, z, shift = affine[2].tolist()
    height = max(abs(x), abs(y), abs(z))
    _, rows, columns = values.shape
    j, k = (
        xp.reshape(move_like(np.arange(n, dtype=np.float64), values), shape)
        for n, shape in ((rows, (1, rows, 1)), (columns, (1, 1, columns)))
    )
    total, first = 0.0, np.zeros(3)
    slab = max(1, BLOCK // (rows * columns))
    for start in range(0, values.shape[0], slab):
        stop = min(start + slab, values.shape[0])
        part = xp.astype(values[start:stop, :, :], xp.float64)
        here = np.arange(start, stop, dtype=np.float64)
        i = xp.reshape(move_like(here, values), (-1, 1, 1))
        share = (length - sign * (x * i + y * j + z * k + shift) + end) / height + 0.5
        weight = part * xp.clip(share, 0.0, 1.0)
        total += float(xp.sum(weight))
        first += [float(xp.sum(weight * n)) for n in (i, j, k)]
    return total, first


def _in_blocks(
    block: Callable[..., tuple[Array, ...]], beside: Array, wide: int, *points: Array
) -> Array:
    """Call `block` with parts of the points (n, ...), and join the results.

    Each point has `wide` samples, which limits the number of points in a part.
    """
    xp = namespace(beside, "spherical_map")
    size, count = BLOCK // wide, points[0].shape[0]
    parts = [
        block(*(move_like(p[start : min(start + size, count), ...], beside) for p in points))
        for start in range(0, max(count, 1), size)
    ]
    return [xp.concat(part) for part in zip(*parts, strict=True)]


def _interpolate(xp: ModuleType, values: Array, x: Array, y: Array, z: Array) -> Array:
    """Interpolate linearly at points (n,); values outside the array are 0."""
    n0, n1, n2 = values.shape
    inside = (x >= 0) & (y >= 0) & (z >= 0) & (x < n0 - 1) & (y < n1 - 1) & (z < n2 - 1)
    x, y, z = (xp.where(inside, p, 0.0) for p in (x, y, z))
    i, j, k = (xp.floor(p) for p in (x, y, z))
    u, v, w = x - i, y - j, z - k
    first = xp.astype((i * n1 + j) * n2 + k, xp.int64)
    flat = xp.reshape(values, (-1,))

    def line(offset: int) -> Array:
        a, b = (xp.astype(xp.take(flat, first + n), xp.float64) for n in (offset, offset + 1))
        return a * (1 - w) + b * w

    low = line(0) * (1 - v) + line(n2) * v
    high = line(n1 * n2) * (1 - v) + line((n1 + 1) * n2) * v
    return xp.where(inside, low * (1 - u) + high * u, 0.0)


def _interpolate_valid(xp: ModuleType, values: Array, x: Array, y: Array, z: Array) -> Array:
    """Interpolate linearly between the finite voxels.

    The result is NaN if the weight of the finite voxels is below `MIN_T2_WEIGHT`.
    """
    n0, n1, n2 = values.shape
    known = xp.isfinite(x + y + z)
    x, y, z = (xp.where(known, p, -2.0) for p in (x, y, z))
    i, j, k = (xp.floor(p) for p in (x, y, z))
    flat = xp.reshape(values, (-1,))
    total = weight = xp.zeros_like(x)
    for corner in range(8):
        a, b, c = i + (corner >> 2), j + ((corner >> 1) & 1), k + (corner & 1)
        within = (a >= 0) & (a < n0) & (b >= 0) & (b < n1) & (c >= 0) & (c < n2)
        index = xp.astype(xp.where(within, (a * n1 + b) * n2 + c, 0.0), xp.int64)
        value = xp.astype(xp.take(flat, index), xp.float64)
        w = (1 - xp.abs(x - a)) * (1 - xp.abs(y - b)) * (1 - xp.abs(z - c))
        valid = within & xp.isfinite(value)
        total = total + xp.where(valid, w * xp.where(valid, value, 0.0), 0.0)
        weight = weight + xp.where(valid, w, 0.0)
    enough = weight >= MIN_T2_WEIGHT
    return xp.where(enough, total / xp.where(enough, weight, 1.0), math.nan)


def _transform_points(matrix: Matrix, points: Array) -> list[Array]:
    """Return points (n, 3) transformed by a (3, 4) matrix, one array for each axis."""
    rotated = _directions_in_voxels(matrix, points)
    return [v + shift for v, shift in zip(rotated, matrix[:, 3].tolist(), strict=True)]


def _directions_in_voxels(matrix: Matrix, points: Array) -> list[Array]:
    """Return directions (n, 3) in voxels per mm, one array for each axis."""
    columns = [points[:, axis] for axis in range(3)]
    return [
        row[0] * columns[0] + row[1] * columns[1] + row[2] * columns[2] for row in matrix.tolist()
    ]


def _repeated(xp: ModuleType, values: Array, times: int) -> Array:
    return xp.reshape(xp.broadcast_to(values[:, None], (values.shape[0], times)), (-1,))
