"""Rays from outside onto a bone, and the cartilage along its normals: compiled loops."""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["BELOW_NOTHING", "SIGMA_MM", "march"]

SIGMA_MM = 0.6
"""Of the Gaussian that makes a surface of voxels, mm."""
BELOW_NOTHING = 0.01
"""Occupancy that is none: cartilage has ended."""

_STEP = 0.2
_DEEPEST = 12.0
_REACH = 1.5
"""Cartilage that begins farther from the bone, mm, lies on something else."""
_BEGUN = 0.25
"""Occupancy that is cartilage: a sheet of 0.4 mm, smoothed, has it in its middle."""


@numba.njit(cache=True)
def _at(values, x, y, z):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Interpolate linearly; 0 outside."""
    i, j, k = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
    n0, n1, n2 = values.shape
    if i < 0 or j < 0 or k < 0 or i >= n0 - 1 or j >= n1 - 1 or k >= n2 - 1:
        return 0.0
    u, v, w = x - i, y - j, z - k
    a = values[i, j, k] * (1 - w) + values[i, j, k + 1] * w
    b = values[i, j + 1, k] * (1 - w) + values[i, j + 1, k + 1] * w
    c = values[i + 1, j, k] * (1 - w) + values[i + 1, j, k + 1] * w
    d = values[i + 1, j + 1, k] * (1 - w) + values[i + 1, j + 1, k + 1] * w
    return (a * (1 - v) + b * v) * (1 - u) + (c * (1 - v) + d * v) * u


@numba.njit(cache=True, parallel=False, nogil=True)
def march(bone, cartilage, inverse, centre, directions, farthest, surface, normal, depth):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Fill surface (n,), normal (n, 3) and depth (n, 3): begin, end and amount of cartilage.

    `inverse` (3, 4) leads from mm to voxels. NaN where a ray meets no bone; depth 0 where it meets
    bone without cartilage.
    """
    m = inverse
    for r in range(directions.shape[0]):
        dx, dy, dz = directions[r]
        # In voxels: where the centre is, and how far one mm along the ray goes.
        cx = m[0, 0] * centre[0] + m[0, 1] * centre[1] + m[0, 2] * centre[2] + m[0, 3]
        cy = m[1, 0] * centre[0] + m[1, 1] * centre[1] + m[1, 2] * centre[2] + m[1, 3]
        cz = m[2, 0] * centre[0] + m[2, 1] * centre[1] + m[2, 2] * centre[2] + m[2, 3]
        ex = m[0, 0] * dx + m[0, 1] * dy + m[0, 2] * dz
        ey = m[1, 0] * dx + m[1, 1] * dy + m[1, 2] * dz
        ez = m[2, 0] * dx + m[2, 1] * dy + m[2, 2] * dz
        t = farthest
        while t > 0 and _at(bone, cx + t * ex, cy + t * ey, cz + t * ez) < 0.5:
            t -= _STEP
        if t <= 0:
            surface[r] = np.nan
            normal[r] = np.nan
            depth[r] = np.nan
            continue
        inside, outside = t, t + _STEP
        for _ in range(20):
            t = (inside + outside) / 2
            if _at(bone, cx + t * ex, cy + t * ey, cz + t * ez) < 0.5:
                outside = t
            else:
                inside = t
        surface[r] = t
        px, py, pz = cx + t * ex, cy + t * ey, cz + t * ez
        # Minus the gradient: differences over half a voxel each way, led to mm by the transpose.
        gi = _at(bone, px - 0.5, py, pz) - _at(bone, px + 0.5, py, pz)
        gj = _at(bone, px, py - 0.5, pz) - _at(bone, px, py + 0.5, pz)
        gk = _at(bone, px, py, pz - 0.5) - _at(bone, px, py, pz + 0.5)
        nx = m[0, 0] * gi + m[1, 0] * gj + m[2, 0] * gk
        ny = m[0, 1] * gi + m[1, 1] * gj + m[2, 1] * gk
        nz = m[0, 2] * gi + m[1, 2] * gj + m[2, 2] * gk
        length = np.sqrt(nx * nx + ny * ny + nz * nz)
        if length == 0:
            normal[r] = np.nan
            depth[r] = np.nan
            continue
        nx, ny, nz = nx / length, ny / length, nz / length
        normal[r, 0], normal[r, 1], normal[r, 2] = nx, ny, nz
        vx = m[0, 0] * nx + m[0, 1] * ny + m[0, 2] * nz
        vy = m[1, 0] * nx + m[1, 1] * ny + m[1, 2] * nz
        vz = m[2, 0] * nx + m[2, 1] * ny + m[2, 2] * nz
        amount, before = 0.0, 0.0
        begin, end = np.nan, np.nan
        begun = falling = False
        s = -3 * SIGMA_MM
        while s <= _DEEPEST:
            here = _at(cartilage, px + s * vx, py + s * vy, pz + s * vz)
            if not begun and here >= _BEGUN:
                if s > _REACH:
                    break
                begun = True
            if begun and here < before and here < 0.5:
                falling = True
            # The first gap: nothing is left, or the next piece begins.
            if falling and (here < BELOW_NOTHING or here > before):
                break
            if not begun and s > _REACH:
                break
            if here >= 0.5:
                if np.isnan(begin):
                    begin = s
                end = s
            amount += here * _STEP
            before = here
            s += _STEP
        depth[r, 0], depth[r, 1] = begin, end
        depth[r, 2] = amount if begun else 0.0
