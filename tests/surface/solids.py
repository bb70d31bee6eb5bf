"""Bodies whose surfaces have a formula, as masks at OAI's resolution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SPACING = (0.7, 0.365, 0.365)
"""mm, of OAI's DESS."""
POLE = {"femur": (0, 0, -1), "tibia": (0, 0, 1), "patella": (0, 1, 0)}
RIM = 0.3
"""Cosine of the angle from the pole at which the cartilage of a ball ends."""


def grid(half: float, turn: float = 0.0, shift: float = 0.0) -> tuple[NDArray, tuple[int, ...]]:
    """Return a sagittal affine around the origin, turned about x and shifted, and its shape."""
    shape = tuple(int(2 * half / s) for s in SPACING)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]) * SPACING
    c, s = np.cos(turn), np.sin(turn)
    affine[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ affine[:3, :3]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2) + shift
    return affine, shape


def places(affine: NDArray, shape: tuple[int, ...]) -> NDArray:
    """Return the mm of all voxels."""
    return np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


def ball(bone: str, radius: float, thickness: float, affine: NDArray, shape: tuple[int, ...]):
    """Return a ball and a shell of cartilage around its pole."""
    p = places(affine, shape)
    r = np.linalg.norm(p, axis=-1)
    along = p @ np.array(POLE[bone], float)
    return r < radius, (r >= radius) & (r < radius + thickness) & (along > RIM * r)


def uneven(affine: NDArray, shape: tuple[int, ...]) -> tuple[NDArray, NDArray]:
    """Return a lopsided femur and its cartilage, thicker on the medial side (+x, right knee)."""
    p = places(affine, shape)
    f = np.linalg.norm(p / np.array([30.0, 22.0, 24.0]), axis=-1)
    shifted = np.linalg.norm((p - [9, 4, -3]) / np.array([15.0, 18.0, 21.0]), axis=-1)
    body = np.minimum(f, shifted)
    low = p[..., 2] < -0.25 * np.linalg.norm(p, axis=-1)
    thickness = (2.0 + 0.04 * p[..., 0]) / 22
    return body < 1, (body >= 1) & (body < 1 + thickness) & low


def femur_with_shaft(
    length: float, turn: float = 0.0, shift: float = 0.0
) -> tuple[NDArray, NDArray, NDArray]:
    """Return condyles, their shaft cut `length` mm above the lowest point; cartilage; affine."""
    affine, shape = grid(56, turn, shift)
    p = places(affine, shape)
    condyles = np.linalg.norm((p - [0, 0, -20]) / np.array([30.0, 22.0, 22.0]), axis=-1) < 1
    shaft = (np.hypot(p[..., 0], p[..., 1]) < 14) & (p[..., 2] > -20)
    bone = (condyles | shaft) & (p[..., 2] < -42 + length)
    wide = np.linalg.norm((p - [0, 0, -20]) / np.array([32.0, 24.0, 24.0]), axis=-1) < 1
    return bone, wide & ~condyles & (p[..., 2] < -22), affine
