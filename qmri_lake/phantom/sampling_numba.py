"""Compiled loops that read, classify and sample a lattice."""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["interpolate_points", "sample_voxels", "walk_normals"]


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _read(values, x, y, z, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    nz, ny, nx, channels = values.shape
    x = min(max(x, np.float32(0)), np.float32(nx - 1.001))
    y = min(max(y, np.float32(0)), np.float32(ny - 1.001))
    z = min(max(z, np.float32(0)), np.float32(nz - 1.001))
    i, j, k = int(z), int(y), int(x)
    c, b, a = z - np.float32(i), y - np.float32(j), x - np.float32(k)
    one = np.float32(1)
    w0, w1 = (one - c) * (one - b) * (one - a), (one - c) * (one - b) * a
    w2, w3 = (one - c) * b * (one - a), (one - c) * b * a
    w4, w5 = c * (one - b) * (one - a), c * (one - b) * a
    w6, w7 = c * b * (one - a), c * b * a
    for n in range(channels):
        out[n] = (
            w0 * values[i, j, k, n]
            + w1 * values[i, j, k + 1, n]
            + w2 * values[i, j + 1, k, n]
            + w3 * values[i, j + 1, k + 1, n]
            + w4 * values[i + 1, j, k, n]
            + w5 * values[i + 1, j, k + 1, n]
            + w6 * values[i + 1, j + 1, k, n]
            + w7 * values[i + 1, j + 1, k + 1, n]
        )


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _classify(v, film):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return (tissue, label, depth, margin); labels: 1-3 bones, 4-6 cartilages, 7 meniscus."""
    femur, tibia, patella, fibula = v[0], v[1], v[2], v[3]
    cf, ct, cp = femur - v[4], tibia - v[5], patella - v[6]
    soft = v.size > 8
    margin = min(abs(femur), abs(tibia), abs(patella), abs(fibula), abs(cf), abs(ct), abs(cp))
    if femur < 0 or tibia < 0 or patella < 0 or fibula < 0:
        label, inside, least = 0, fibula, fibula
        if femur <= least:
            label, inside, least = 1, femur, femur
        if tibia <= least:
            label, inside, least = 2, tibia, tibia
        if patella <= least:
            label, inside = 3, patella
        tissue = 1
        if soft:
            shell = v[13]
            if label == 3:
                shell = np.float32(0.8)
            elif label == 0:
                shell = np.float32(1.4)
            margin = min(margin, abs(inside + shell))
            if -inside < shell:
                tissue = 2
        return tissue, label, np.float32(0), margin
    if (cf < 0 and v[4] > 0.05) or (ct < 0 and v[5] > 0.05) or (cp < 0 and v[6] > 0.05):
        label, depth, least = 0, np.float32(0), np.float32(0)
        if v[4] > 0.05 and cf < least:
            label, depth, least = 4, femur / v[4], cf
        if v[5] > 0.05 and ct < least:
            label, depth, least = 5, tibia / v[5], ct
        if v[6] > 0.05 and cp < least:
            label, depth = 6, patella / v[6]
        # Where two cartilages meet, the margin is the distance to the surface between them.
        margin = min(margin, abs(cf - ct), abs(cf - cp))
        return 3, label, depth, margin
    wedge = min(9 - femur, 7 - tibia, 10.5 - femur - tibia)
    ring = min(v[7], wedge)
    margin = min(margin, abs(ring))
    if ring > 0:
        return 4, 7, np.float32(0), margin
    if not soft:
        return 0, 0, np.float32(0), margin
    skin, muscle, tendon, pouch, vessel = v[8], v[9], v[10], v[11], v[12]
    between = max(cf, min(ct, cp))
    margin = min(margin, abs(between - film), abs(pouch), abs(tendon), abs(vessel))
    margin = min(margin, abs(skin), abs(skin + np.float32(1.6)), abs(muscle))
    if skin > 0:
        return 0, 0, np.float32(0), margin
    if between < film and max(v[4], v[5], v[6]) > 0.2:
        return 5, 0, np.float32(0), margin
    if vessel < 0:
        return 10, 0, np.float32(0), margin
    if tendon < 0:
        return 8, 0, np.float32(0), margin
    if pouch < 0:
        return 5, 0, np.float32(0), margin
    if skin > -1.6:
        return 9, 0, np.float32(0), margin
    if muscle < 0:
        return 6, 0, np.float32(0), margin
    return 7, 0, np.float32(0), margin


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def sample_voxels(  # type: ignore[no-untyped-def]  # pragma: no cover
    values, matrix, steps, guard, film, bone, cartilage, fraction, depth, share, texture
):
    """Fill labels, fractions, depth, cartilage share and texture of all voxels of a grid."""
    slices, rows, columns = bone.shape
    n = steps.shape[0]
    v = np.empty(values.shape[3], np.float32)
    votes = np.zeros(8, np.int64)
    soft = fraction.shape[3] > 0
    for s in range(slices):
        for r in range(rows):
            for c in range(columns):
                x = matrix[0, 0] * s + matrix[0, 1] * r + matrix[0, 2] * c + matrix[0, 3]
                y = matrix[1, 0] * s + matrix[1, 1] * r + matrix[1, 2] * c + matrix[1, 3]
                z = matrix[2, 0] * s + matrix[2, 1] * r + matrix[2, 2] * c + matrix[2, 3]
                _read(values, x, y, z, v)
                tissue, label, deep, margin = _classify(v, film)
                if soft:
                    texture[s, r, c] = v[14]
                deepest = deep
                cartilages = 1 if tissue == 3 else 0
                # Depth varies everywhere in cartilage, so cartilage is always sub-sampled.
                if margin > guard and tissue != 3:
                    if soft:
                        fraction[s, r, c, tissue] = 1
                else:
                    votes[:] = 0
                    deepest, cartilages = np.float32(0), 0
                    for i in range(n):
                        ds, dr, dc = steps[i, 0], steps[i, 1], steps[i, 2]
                        _read(
                            values,
                            x + matrix[0, 0] * ds + matrix[0, 1] * dr + matrix[0, 2] * dc,
                            y + matrix[1, 0] * ds + matrix[1, 1] * dr + matrix[1, 2] * dc,
                            z + matrix[2, 0] * ds + matrix[2, 1] * dr + matrix[2, 2] * dc,
                            v,
                        )
                        tissue, one, deep, margin = _classify(v, film)
                        votes[one] += 1
                        if soft:
                            fraction[s, r, c, tissue] += np.float32(1) / np.float32(n)
                        if tissue == 3:
                            deepest += deep
                            cartilages += 1
                    best = -1
                    for i in range(8):
                        # If two labels have the same number of votes, the label of the centre wins.
                        count = 2 * votes[i] + (1 if i == label else 0)
                        if count > best:
                            best, winner = count, i
                    label = winner
                if label < 4:
                    bone[s, r, c] = label
                else:
                    cartilage[s, r, c] = label - 3
                if cartilages > 0:
                    depth[s, r, c] = deepest / np.float32(cartilages)
                    share[s, r, c] = np.float32(cartilages) / np.float32(n)


@numba.njit(cache=True)
def walk_normals(values, points, normals, label, step, length, film):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the length of each normal inside a cartilage, up to where another tissue begins."""
    out = np.zeros(points.shape[0], np.float32)
    v = np.empty(values.shape[3], np.float32)
    steps = int(length / step)
    for p in range(points.shape[0]):
        for i in range(steps):
            along = np.float32((i + 0.5) * step)
            _read(
                values,
                points[p, 0] + along * normals[p, 0],
                points[p, 1] + along * normals[p, 1],
                points[p, 2] + along * normals[p, 2],
                v,
            )
            _, one, _, _ = _classify(v, film)
            if one == label:
                out[p] += step
            elif one > 3 or (one == 0 and i > 1):
                break
    return out


@numba.njit(cache=True)
def interpolate_points(values, points, channels):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Interpolate all channels at points in lattice indices."""
    out = np.empty((points.shape[0], channels), np.float32)
    v = np.empty(values.shape[3], np.float32)
    for p in range(points.shape[0]):
        _read(values, points[p, 0], points[p, 1], points[p, 2], v)
        out[p] = v
    return out
