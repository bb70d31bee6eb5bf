"""The ways of rays and normals in array operations, for volumes that are not NumPy's (CuPy).

The same steps as the compiled loops of `qmri_lake.surface.march`, in the array API standard: all
points take a step together, a block of them at a time. Volumes stay where they are; points may
come from the host, and what a kernel returns lies beside its volume.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from qmri_lake.relaxometry.arguments import namespace
from qmri_lake.surface.march import (
    DEEPEST_MM,
    NOTHING,
    QUARTER,
    SIGMA_MM,
    STEP_MM,
    gaussian,
)

__all__ = [
    "as_array", "crossings", "downhill", "host", "kind", "label", "meet", "moments", "moved",
    "smooth", "t2_through", "through",
]  # fmt: skip

BLOCK = 1 << 20
"""Samples at a time: they fill a GPU, and bound the temporaries to some 100 MB."""
AHEAD = 16
"""Steps that a ray takes at once, before it is asked if it has met the bone."""

Matrix = NDArray[np.float64]


def as_array(values: ArrayLike | Any) -> Any:
    """Return an array of any array-API library or CuPy as it is, everything else as NumPy's."""
    if hasattr(values, "__array_namespace__") or _is_cupy(values):
        return values
    return np.asarray(values)


def moved(values: Any, beside: Any) -> Any:
    """Return an array in the library, and on the device, of another one."""
    if type(values) is type(beside):
        return values
    if _is_cupy(beside):
        return namespace(beside, "spherical_map").asarray(values)
    return namespace(beside, "spherical_map").asarray(values, device=beside.device)


def host(values: Any) -> NDArray[Any]:
    """Return an array as NumPy's: on purpose, so for CuPy as well."""
    return np.asarray(values.get() if _is_cupy(values) else values)


def kind(values: Any) -> str:
    """Return "b", "u", "i", "f" ... as NumPy calls the kind of an array's type."""
    return np.dtype(str(values.dtype).rpartition(".")[2]).kind


def label(mask: Any) -> tuple[Any, int]:
    """Return the pieces of a mask, numbered from 1, and how many there are."""
    whole = np.ones((3, 3, 3), bool)
    if _is_cupy(mask):
        import cupy
        from cupyx.scipy import ndimage as on_gpu  # type: ignore[import-not-found]

        return on_gpu.label(mask, cupy.asarray(whole))  # type: ignore[no-any-return]
    # The array API knows no pieces, nor do most of its libraries.
    found, count = ndimage.label(host(mask), whole)
    return moved(found, mask), count


def smooth(mask: Any, sigma: NDArray[np.float64]) -> Any:
    """Return a mask smoothed by a Gaussian, float32; `sigma` in voxels. Nothing lies around it."""
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


def meet(bone: Any, inverse: Matrix, centre: Matrix, rays: Any) -> Any:
    """Return (n,) mm from the centre to where each ray leaves the bone last; or NaN."""
    xp = namespace(bone, "spherical_map")
    c = (inverse[:, :3] @ centre + inverse[:, 3]).tolist()

    def block(rays: Any) -> Any:
        e = _turned(inverse, rays)
        t = xp.full_like(e[0], math.inf)  # where the ray leaves the box of voxels
        for axis in range(3):
            nonzero = xp.where(e[axis] == 0, 1.0, e[axis])
            way = xp.where(e[axis] > 0, xp.full_like(t, bone.shape[axis] - 1 - c[axis]), -c[axis])
            t = xp.where(e[axis] == 0, t, xp.minimum(t, way / nonzero))
        steps = moved(STEP_MM * np.arange(AHEAD), bone)
        looking = t > 0
        while bool(xp.any(looking)):
            chosen = xp.nonzero(looking)[0]
            begin = xp.take(t, chosen)
            ways = xp.reshape(begin[:, None] - steps[None, :], (-1,))
            samples = [
                c[axis] + ways * _repeated(xp, xp.take(e[axis], chosen), AHEAD) for axis in range(3)
            ]
            hit = (ways > 0) & (_at(xp, bone, *samples) >= 0.5)
            hit = xp.reshape(hit, (-1, AHEAD))
            any_hit = xp.any(hit, axis=1)
            first = xp.astype(xp.argmax(xp.astype(hit, xp.int8), axis=1), xp.float64)
            begin = begin - STEP_MM * xp.where(any_hit, first, float(AHEAD))
            t[looking] = begin
            looking[looking] = ~any_hit & (begin > 0)
        inside, outside = t, t + STEP_MM
        for _ in range(14):
            middle = (inside + outside) / 2
            out = _at(xp, bone, *(c[axis] + middle * e[axis] for axis in range(3))) < 0.5
            inside, outside = xp.where(out, inside, middle), xp.where(out, middle, outside)
        return (xp.where(t > 0, middle, math.nan),)

    return _in_blocks(block, bone, AHEAD, rays)[0]


def downhill(values: Any, inverse: Matrix, points: Any) -> Any:
    """Return (n, 3) unit vectors against the gradient, in mm; NaN where it is flat."""
    xp = namespace(values, "spherical_map")

    def block(points: Any) -> Any:
        at = _led(inverse, points)
        slope = []
        for axis in range(3):
            # Half a voxel each way; the transpose leads a gradient from voxels to mm.
            low, high = list(at), list(at)
            low[axis], high[axis] = at[axis] - 0.5, at[axis] + 0.5
            slope.append(_at(xp, values, *low) - _at(xp, values, *high))
        m = inverse.tolist()
        out = [sum(m[row][axis] * slope[row] for row in range(3)) for axis in range(3)]
        length = xp.sqrt(sum(v * v for v in out))
        safe = xp.where(length > 0, length, 1.0)
        return (xp.stack([xp.where(length > 0, v / safe, math.nan) for v in out], axis=1),)

    return _in_blocks(block, values, 1, points)[0]


def through(
    cartilage: Any, mask: Any, inverse: Matrix, points: Any, normals: Any, reach: float
) -> tuple[Any, Any]:
    """Return thickness and end (n,), mm: cartilage along normals, and where it was left.

    As `qmri_lake.surface.march.through`.
    """
    xp = namespace(cartilage, "spherical_map")

    def block(points: Any, normals: Any) -> Any:
        p, v = _led(inverse, points), _turned(inverse, normals)
        going = xp.isfinite(points[:, 0] + normals[:, 0])
        begun = falling = going & False
        amount = before = end = xp.zeros_like(points[:, 0])
        s = -3 * SIGMA_MM
        while s <= DEEPEST_MM and bool(xp.any(going)):
            way = [p[axis] + s * v[axis] for axis in range(3)]
            here = _at(xp, cartilage, *way)
            falling = falling | (begun & (here < before) & (here < 0.5))
            if s > reach:
                going = going & begun
            else:
                begun = begun | (going & (_at(xp, mask, *way) >= 0.5))
            # The first gap: nothing is left, or the next piece begins.
            gap = going & falling & ((here < NOTHING) | (here > before))
            end, going = xp.where(gap, s, end), going & ~gap
            amount = amount + xp.where(going, here * STEP_MM, 0.0)
            before = xp.where(going, here, before)
            s += STEP_MM
        end = xp.where(going, s, end)
        return xp.where(begun, amount, 0.0), xp.where(begun, end, 0.0)

    thickness, end = _in_blocks(block, cartilage, 1, points, normals)
    return thickness, end


def t2_through(
    cartilage: Any, inverse: Matrix, t2: Any, to_t2: Matrix, points: Any, normals: Any, end: Any,
    least: float,
) -> Any:  # fmt: skip
    """Return (n,) mean T2 along normals up to `end`, as `qmri_lake.surface.march.t2_through`."""
    xp = namespace(cartilage, "spherical_map")

    def block(points: Any, normals: Any, end: Any) -> Any:
        p, v = _led(inverse, points), _turned(inverse, normals)
        q, w = _led(to_t2, points), _turned(to_t2, normals)
        total = known = amount = xp.zeros_like(end)
        s, last = -3 * SIGMA_MM, float(xp.max(end))
        while s < last:
            here = _at(xp, cartilage, *(p[axis] + s * v[axis] for axis in range(3)))
            here = xp.where(s < end, here, 0.0)
            value = _valid_at(xp, t2, *(q[axis] + s * w[axis] for axis in range(3)))
            valid = xp.isfinite(value)
            amount = amount + here
            total = total + xp.where(valid, here * xp.where(valid, value, 0.0), 0.0)
            known = known + xp.where(valid, here, 0.0)
            s += STEP_MM
        enough = (known > 0) & (known >= least * amount)
        return (xp.where(enough, total / xp.where(enough, known, 1.0), math.nan),)

    return _in_blocks(block, cartilage, 1, points, normals, end)[0]


def crossings(values: Any) -> Any:
    """Return (n, 3) voxel positions where lines of voxels cross the level 0.5, along all axes."""
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
    values: Any, affine: Matrix, sign: float, end: float, length: float
) -> tuple[float, NDArray[np.float64]]:
    """Return the sum of occupancy and its first moments, as `qmri_lake.surface.march.moments`."""
    xp = namespace(values, "spherical_map")
    x, y, z, shift = affine[2].tolist()
    height = max(abs(x), abs(y), abs(z))
    _, rows, columns = values.shape
    j, k = (
        xp.reshape(moved(np.arange(n, dtype=np.float64), values), shape)
        for n, shape in ((rows, (1, rows, 1)), (columns, (1, 1, columns)))
    )
    total, first = 0.0, np.zeros(3)
    slab = max(1, BLOCK // (rows * columns))
    for start in range(0, values.shape[0], slab):
        stop = min(start + slab, values.shape[0])
        part = xp.astype(values[start:stop, :, :], xp.float64)
        here = np.arange(start, stop, dtype=np.float64)
        i = xp.reshape(moved(here, values), (-1, 1, 1))
        share = (length - sign * (x * i + y * j + z * k + shift) + end) / height + 0.5
        weight = part * xp.clip(share, 0.0, 1.0)
        total += float(xp.sum(weight))
        first += [float(xp.sum(weight * n)) for n in (i, j, k)]
    return total, first


def _in_blocks(block: Callable[..., tuple[Any, ...]], beside: Any, wide: int, *points: Any) -> Any:
    """Run `block` on parts of points (n, ...), each point `wide` samples; join what it returns."""
    xp = namespace(beside, "spherical_map")
    size, count = BLOCK // wide, points[0].shape[0]
    parts = [
        block(*(moved(p[start : min(start + size, count), ...], beside) for p in points))
        for start in range(0, max(count, 1), size)
    ]
    return [xp.concat(part) for part in zip(*parts, strict=True)]


def _at(xp: Any, values: Any, x: Any, y: Any, z: Any) -> Any:
    """Interpolate linearly at points (n,); 0 outside."""
    n0, n1, n2 = values.shape
    inside = (x >= 0) & (y >= 0) & (z >= 0) & (x < n0 - 1) & (y < n1 - 1) & (z < n2 - 1)
    x, y, z = (xp.where(inside, p, 0.0) for p in (x, y, z))
    i, j, k = (xp.floor(p) for p in (x, y, z))
    u, v, w = x - i, y - j, z - k
    first = xp.astype((i * n1 + j) * n2 + k, xp.int64)
    flat = xp.reshape(values, (-1,))

    def line(offset: int) -> Any:
        a, b = (xp.astype(xp.take(flat, first + n), xp.float64) for n in (offset, offset + 1))
        return a * (1 - w) + b * w

    low = line(0) * (1 - v) + line(n2) * v
    high = line(n1 * n2) * (1 - v) + line((n1 + 1) * n2) * v
    return xp.where(inside, low * (1 - u) + high * u, 0.0)


def _valid_at(xp: Any, values: Any, x: Any, y: Any, z: Any) -> Any:
    """Interpolate linearly over what is finite; NaN where that holds too little of the weight."""
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
    enough = weight >= QUARTER
    return xp.where(enough, total / xp.where(enough, weight, 1.0), math.nan)


def _led(matrix: Matrix, points: Any) -> list[Any]:
    """Return where a (3, 4) matrix leads points (n, 3), an array an axis."""
    turned = _turned(matrix, points)
    return [v + shift for v, shift in zip(turned, matrix[:, 3].tolist(), strict=True)]


def _turned(matrix: Matrix, points: Any) -> list[Any]:
    """Return directions (n, 3) in voxels: how far one mm along them goes."""
    columns = [points[:, axis] for axis in range(3)]
    return [
        row[0] * columns[0] + row[1] * columns[1] + row[2] * columns[2] for row in matrix.tolist()
    ]


def _repeated(xp: Any, values: Any, times: int) -> Any:
    return xp.reshape(xp.broadcast_to(values[:, None], (values.shape[0], times)), (-1,))


def _is_cupy(values: Any) -> bool:
    return type(values).__module__.partition(".")[0] == "cupy"
