"""Compiled loops for rays onto a bone, and for paths from its surface through cartilage.

All functions take arrays of voxels, and matrices (3, 4) from mm to their voxels. Inner loops use
unsigned indices. With signed indices, numba checks for negative values, which count from the end;
this check prevents vectorised code. Importing this module imports numba.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, uintp
from numpy.typing import NDArray

__all__ = [
    "BLOCK",
    "MAX_THICKNESS_MM",
    "MIN_OCCUPANCY",
    "MIN_T2_WEIGHT",
    "SIGMA_MM",
    "STEP_MM",
    "average_t2_along_normals",
    "first_hit",
    "gaussian",
    "integrate_along_normals",
    "isosurface_crossings",
    "moments",
    "outward_normals",
    "smooth",
]

SIGMA_MM = 0.6
"""Standard deviation of the Gaussian with which masks are smoothed, mm."""
MAX_THICKNESS_MM = 12.0
"""Longest path through cartilage, mm; real patellae exceed 6 mm."""

STEP_MM = 0.2
"""Step along rays and normals, mm."""
BLOCK = 8
"""Side of a block, voxels: rays skip empty blocks."""
MIN_OCCUPANCY = 0.01
"""Occupancy below which cartilage has ended."""
MIN_T2_WEIGHT = 0.25
"""Smallest total weight of the voxels with a T2 in the interpolation at a sample. This is the
weight at a corner of a mask."""


def gaussian(width: float) -> NDArray[np.float32]:
    """Return the weights of a Gaussian of this sigma [voxels], cut at four sigma, with sum 1."""
    reach = np.arange(int(4 * width + 0.5) + 1)
    half = np.exp(-0.5 * (reach / width) ** 2)
    weights = np.concatenate([half[:0:-1], half])
    return np.asarray(weights / weights.sum(), np.float32)


@njit(cache=True, nogil=True)
def smooth(mask, along0, along1, along2):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return a mask (uint8) smoothed along each axis with weights (odd,), as float32.

    Outside the array, the mask is 0. The result equals that of `scipy.ndimage.gaussian_filter`
    except for rounding. This function takes a fraction of the time, because it works slice by
    slice, so that data stays in the cache, and because it skips empty rows.
    """
    n0, n1, n2 = mask.shape
    r0, r1, r2 = len(along0) // 2, len(along1) // 2, len(along2) // 2
    deep = 2 * r0 + 1
    out = np.zeros(mask.shape, np.float32)
    ring = np.zeros((n1, deep, n2), np.float32)  # input slices of the next output slice, by row
    filled = np.zeros((n1, deep), np.bool_)
    flat, held = np.zeros((n1, n2), np.float32), np.zeros(n1, np.bool_)
    line = np.zeros((1, n2 + 2 * r2), np.float32)
    rows = np.zeros(max(deep, 2 * r1 + 1, 2 * r2 + 1), np.uintp)
    shifts, none = np.arange(2 * r2 + 1).astype(np.uintp), np.zeros(len(rows), np.uintp)
    weights = np.empty(len(rows), np.float32)
    for i in range(n0 + r0):
        newest = i % deep
        for j in range(n1):
            if filled[j, newest]:
                ring[j, newest] = 0
                filled[j, newest] = False
            held[j] = False
            if i < n0:
                row, some = mask[i, j], 0
                for k in range(uintp(n2)):
                    some |= row[k]
                    line[0, k + uintp(r2)] = row[k]
                held[j] = some > 0
            if held[j]:
                flat[j] = 0
                _add(flat[j], along2, line, none, shifts, 2 * r2 + 1)
        for j in range(n1):
            count = 0
            for n in range(max(0, j - r1), min(n1, j + r1 + 1)):
                if held[n]:
                    rows[count], weights[count] = n, along1[n - j + r1]
                    count += 1
            filled[j, newest] = count > 0
            _add(ring[j, newest], weights, flat, rows, none, count)
        middle = i - r0
        for j in range(n1 if middle >= 0 else 0):
            count = 0
            for n in range(max(0, middle - r0), min(n0, i + 1)):
                if filled[j, n % deep]:
                    rows[count], weights[count] = n % deep, along0[n - middle + r0]
                    count += 1
            _add(out[middle, j], weights, ring[j], rows, none, count)
    return out


@njit(cache=True, nogil=True)
def _add(out, weights, values, rows, shifts, count):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Add weighted and shifted rows of values in order, with four rows in each pass."""
    n = 0
    while n + 4 <= count:
        a, b = values[rows[n], shifts[n] :], values[rows[n + 1], shifts[n + 1] :]
        c, d = values[rows[n + 2], shifts[n + 2] :], values[rows[n + 3], shifts[n + 3] :]
        u, v, w, x = weights[n], weights[n + 1], weights[n + 2], weights[n + 3]
        for k in range(uintp(len(out))):
            out[k] = out[k] + u * a[k] + v * b[k] + w * c[k] + x * d[k]
        n += 4
    while n < count:
        a, u = values[rows[n], shifts[n] :], weights[n]
        for k in range(uintp(len(out))):
            out[k] += u * a[k]
        n += 1


@njit(cache=True, nogil=True)
def _interpolate(values, x, y, z):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Interpolate linearly; values outside the array are 0."""
    n0, n1, n2 = values.shape
    if not (x >= 0 and y >= 0 and z >= 0 and x < n0 - 1 and y < n1 - 1 and z < n2 - 1):
        return 0.0
    i, j, k = uintp(x), uintp(y), uintp(z)
    u, v, w = x - i, y - j, z - k
    a = values[i, j, k] * (1 - w) + values[i, j, k + 1] * w
    b = values[i, j + 1, k] * (1 - w) + values[i, j + 1, k + 1] * w
    c = values[i + 1, j, k] * (1 - w) + values[i + 1, j, k + 1] * w
    d = values[i + 1, j + 1, k] * (1 - w) + values[i + 1, j + 1, k + 1] * w
    return (a * (1 - v) + b * v) * (1 - u) + (c * (1 - v) + d * v) * u


@njit(cache=True, nogil=True)
def _interpolate_valid(values, x, y, z):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Interpolate linearly between the finite voxels.

    The result is NaN if the weight of the finite voxels is below `MIN_T2_WEIGHT`.
    """
    total = weight = 0.0
    i, j, k = math.floor(x), math.floor(y), math.floor(z)
    for corner in range(8):
        a, b, c = i + (corner >> 2), j + ((corner >> 1) & 1), k + (corner & 1)
        if not (0 <= a < values.shape[0] and 0 <= b < values.shape[1] and 0 <= c < values.shape[2]):
            continue
        value = values[a, b, c]
        if math.isfinite(value):
            w = (1 - abs(x - a)) * (1 - abs(y - b)) * (1 - abs(z - c))
            total += w * value
            weight += w
    return total / weight if weight >= MIN_T2_WEIGHT else np.nan


@njit(cache=True, nogil=True)
def _transform_point(m, p):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return a point transformed by a (3, 4) matrix."""
    x = m[0, 0] * p[0] + m[0, 1] * p[1] + m[0, 2] * p[2] + m[0, 3]
    y = m[1, 0] * p[0] + m[1, 1] * p[1] + m[1, 2] * p[2] + m[1, 3]
    z = m[2, 0] * p[0] + m[2, 1] * p[1] + m[2, 2] * p[2] + m[2, 3]
    return x, y, z


@njit(cache=True, nogil=True)
def _direction_in_voxels(m, d):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return a direction in voxels per mm."""
    x = m[0, 0] * d[0] + m[0, 1] * d[1] + m[0, 2] * d[2]
    y = m[1, 0] * d[0] + m[1, 1] * d[1] + m[1, 2] * d[2]
    z = m[2, 0] * d[0] + m[2, 1] * d[1] + m[2, 2] * d[2]
    return x, y, z


@njit(cache=True, nogil=True)
def blocks(bone):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return which blocks of `BLOCK` voxels contain bone; rays skip all other blocks.

    A point between two voxels is interpolated from both. Therefore blocks overlap by one layer.
    """
    n0, n1, n2 = bone.shape
    shape = (n0 - 1) // BLOCK + 1, (n1 - 1) // BLOCK + 1, (n2 - 1) // BLOCK + 1
    found = np.zeros(shape, np.bool_)
    for u, v, w in np.ndindex(found.shape):
        found[u, v, w] = _contains_bone(
            bone[
                u * BLOCK : (u + 1) * BLOCK + 1,
                v * BLOCK : (v + 1) * BLOCK + 1,
                w * BLOCK : (w + 1) * BLOCK + 1,
            ]
        )
    return found


@njit(cache=True, nogil=True)
def _contains_bone(block):  # type: ignore[no-untyped-def]  # pragma: no cover
    for i in range(block.shape[0]):
        for j in range(block.shape[1]):
            for k in range(block.shape[2]):
                if block[i, j, k] >= 0.5:
                    return True
    return False


@njit(cache=True, nogil=True)
def first_hit(bone, inverse, centre, rays, surface):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Fill `surface` (n,) with the distance from the centre to the outermost bone surface, mm.

    The distance is NaN for a ray that hits no bone.
    """
    c = _transform_point(inverse, centre)
    held = blocks(bone)
    for r in range(rays.shape[0]):
        e = _direction_in_voxels(inverse, rays[r])
        t = np.inf  # where the ray leaves the box of voxels
        for axis in range(3):
            if e[axis] > 0:
                t = min(t, (bone.shape[axis] - 1 - c[axis]) / e[axis])
            elif e[axis] < 0:
                t = min(t, -c[axis] / e[axis])
        while t > 0:
            x, y, z = c[0] + t * e[0], c[1] + t * e[1], c[2] + t * e[2]
            if x >= 0 and y >= 0 and z >= 0:
                i, j, k = int(x) // BLOCK, int(y) // BLOCK, int(z) // BLOCK
                if not held[i, j, k]:
                    # Only whole steps are skipped, so that the samples stay the same.
                    t -= STEP_MM * (
                        1
                        + int(
                            min(
                                _mm_in_block(x, e[0], i),
                                _mm_in_block(y, e[1], j),
                                _mm_in_block(z, e[2], k),
                            )
                            / STEP_MM
                        )
                    )
                    continue
            if _interpolate(bone, x, y, z) >= 0.5:
                break
            t -= STEP_MM
        if t <= 0:
            surface[r] = np.nan
            continue
        inside, outside = t, t + STEP_MM
        for _ in range(14):  # to a precision of 0.02 micrometres
            t = (inside + outside) / 2
            if _interpolate(bone, c[0] + t * e[0], c[1] + t * e[1], c[2] + t * e[2]) < 0.5:
                outside = t
            else:
                inside = t
        surface[r] = t


@njit(cache=True, nogil=True)
def _mm_in_block(x, e, block):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the distance to the end of a block, mm, backwards along a ray of `e` voxels per mm."""
    if e > 0:
        return (x - block * BLOCK) / e
    return (x - (block + 1) * BLOCK) / e if e < 0 else np.inf


@njit(cache=True, nogil=True)
def outward_normals(values, inverse, points, normals):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Fill `normals` (n, 3) with unit vectors against the gradient, in mm.

    A normal is NaN where the gradient is 0.
    """
    m = inverse
    for r in range(points.shape[0]):
        x, y, z = _transform_point(m, points[r])
        # Differences span half a voxel to each side. The transpose transforms a gradient from
        # voxels to mm.
        gi = _interpolate(values, x - 0.5, y, z) - _interpolate(values, x + 0.5, y, z)
        gj = _interpolate(values, x, y - 0.5, z) - _interpolate(values, x, y + 0.5, z)
        gk = _interpolate(values, x, y, z - 0.5) - _interpolate(values, x, y, z + 0.5)
        length = 0.0
        for axis in range(3):
            normals[r, axis] = m[0, axis] * gi + m[1, axis] * gj + m[2, axis] * gk
            length += normals[r, axis] ** 2
        for axis in range(3):
            normals[r, axis] = normals[r, axis] / math.sqrt(length) if length > 0 else np.nan


@njit(cache=True, nogil=True)
def integrate_along_normals(cartilage, mask, inverse, points, normals, reach, thickness, end):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Fill `thickness` (n,) of cartilage along normals, and `end` (n,) of the path through it, mm.

    Cartilage that begins more than `reach` mm from the bone is ignored, because it belongs to
    another surface.

    Thickness is the integral of `cartilage`, which is smoothed occupancy. The unsmoothed `mask`
    determines whether there is cartilage at a point, since smoothing spreads cartilage beyond its
    rim. Thickness is 0 where there is no cartilage.
    """
    for r in range(points.shape[0]):
        thickness[r] = end[r] = 0.0
        if not math.isfinite(points[r, 0] + normals[r, 0]):
            continue
        p, v = _transform_point(inverse, points[r]), _direction_in_voxels(inverse, normals[r])
        begin = -3 * SIGMA_MM
        while begin <= reach:
            if (
                _interpolate(mask, p[0] + begin * v[0], p[1] + begin * v[1], p[2] + begin * v[2])
                >= 0.5
            ):
                break
            begin += STEP_MM
        if begin > reach:
            continue
        amount = before = 0.0
        falling = False
        s = -3 * SIGMA_MM
        while s <= MAX_THICKNESS_MM:
            here = _interpolate(cartilage, p[0] + s * v[0], p[1] + s * v[1], p[2] + s * v[2])
            if s > begin and here < before and here < 0.5:
                falling = True
            # At the first gap, the cartilage has ended, or the next piece begins.
            if falling and (here < MIN_OCCUPANCY or here > before):
                break
            amount += here * STEP_MM
            before = here
            s += STEP_MM
        thickness[r], end[r] = amount, s


@njit(cache=True, nogil=True)
def average_t2_along_normals(cartilage, inverse, t2, to_t2, points, normals, end, least, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Fill `out` (n,) with the mean T2 along normals up to `end`, weighted by the occupancy.

    The mean is NaN where T2 is known in less than the fraction `least` of the cartilage.
    """
    for r in range(points.shape[0]):
        p, v = _transform_point(inverse, points[r]), _direction_in_voxels(inverse, normals[r])
        q, w = _transform_point(to_t2, points[r]), _direction_in_voxels(to_t2, normals[r])
        total = known = amount = 0.0
        s = -3 * SIGMA_MM
        while s < end[r]:
            here = _interpolate(cartilage, p[0] + s * v[0], p[1] + s * v[1], p[2] + s * v[2])
            if here > 0:
                amount += here
                value = _interpolate_valid(t2, q[0] + s * w[0], q[1] + s * w[1], q[2] + s * w[2])
                if math.isfinite(value):
                    total += here * value
                    known += here
            s += STEP_MM
        out[r] = total / known if known > 0 and known >= least * amount else np.nan


@njit(cache=True, nogil=True)
def isosurface_crossings(values):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the positions (n, 3), in voxels, where lines along the axes cross the level 0.5."""
    n0, n1, n2 = values.shape
    found, count = np.empty((4096, 3)), 0
    crossed = np.zeros(n2, np.uint8)
    for i in range(n0):
        for j in range(n1):
            row = values[i, j]
            below, beside = values[min(i + 1, n0 - 1), j], values[i, min(j + 1, n1 - 1)]
            some = 0
            for k in range(uintp(n2)):
                a = row[k] >= 0.5
                crossed[k] = (a != (below[k] >= 0.5)) | (a != (beside[k] >= 0.5))
            for k in range(uintp(n2 - 1)):
                crossed[k] |= (row[k] >= 0.5) != (row[k + uintp(1)] >= 0.5)
            for k in range(uintp(n2)):
                some |= crossed[k]
            if not some:
                continue
            if count + 3 * n2 > len(found):
                more = np.empty((2 * len(found) + 3 * n2, 3))
                more[:count] = found[:count]
                found = more
            for k in range(n2):
                if not crossed[k]:
                    continue
                a = values[i, j, k]
                for axis in range(3):
                    u, v, w = i + (axis == 0), j + (axis == 1), k + (axis == 2)
                    if u == n0 or v == n1 or w == n2:
                        continue
                    b = values[u, v, w]
                    if (a >= 0.5) != (b >= 0.5):
                        found[count, 0], found[count, 1], found[count, 2] = i, j, k
                        found[count, axis] += (a - 0.5) / (a - b)
                        count += 1
    return found[:count].copy()


@njit(cache=True, nogil=True, fastmath={"reassoc", "nnan", "nsz"})  # allows vectorised sums
def moments(values, affine, sign, end, length):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the sum of occupancy and its first moments (3,), voxels, up to `length` mm from `end`.

    Depth is `sign` * z - `end`. A voxel that the cut passes through is counted partially.
    """
    total = mx = my = mz = 0.0
    height = max(abs(affine[2, 0]), abs(affine[2, 1]), abs(affine[2, 2]))
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            row = along = 0.0
            for k in range(values.shape[2]):
                z = affine[2, 0] * i + affine[2, 1] * j + affine[2, 2] * k + affine[2, 3]
                share = (length - sign * z + end) / height + 0.5
                weight = values[i, j, k] * min(max(share, 0.0), 1.0)
                row += weight
                along += weight * k
            total += row
            mx += row * i
            my += row * j
            mz += along
    return total, np.array([mx, my, mz])
