"""Deformation that thickens or thins cartilage in some regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmri_lake.errors import InputError, Reason
from qmri_lake.segmentation.augmentation.deformation import (
    Places,
    SmoothField,
    Spacing,
    VoxelPositions,
)

__all__ = ["thicken"]

_RANGE_MM = 1.5
"""Distance from the surface of cartilage at which the displacement has decreased to 1/e."""
_BLUR_MM = 0.8
"""Width of the zone in which the normals turn from one face of the cartilage to the other."""


def thicken(
    labels: NDArray[Any],
    spacing: Spacing,
    cartilage: Sequence[int],
    sign: float,
    rng: np.random.Generator,
) -> Places:
    """Simulate cartilage that is thicker (sign 1) or thinner (sign -1) in some regions.

    Voxels within about 1.5 mm of the surface of cartilage move along its normal. The largest
    displacement is drawn from 0.4 to 0.7 mm [assumption]. Both faces move, since labels of
    cartilage do not distinguish the side of the bone. If voxels are wider than twice the
    displacement, only the image changes; the labels do not.

    Parameters
    ----------
    labels : array of integers, (slice, row, column)
    spacing : (3,)
        Distance between voxel centres, mm.
    cartilage : sequence of int
        Labels of cartilage; adjacent labels form one sheet.
    sign : {1, -1}
    rng : Generator

    Raises
    ------
    InputError
        If the labels have no cartilage.
    """
    mask = np.isin(labels, cartilage)
    if not mask.any():
        raise InputError(
            "no cartilage in the labels",
            expected=f"voxels of label {', '.join(map(str, cartilage))}",
            where="thicken",
            todo="Exclude the exam from training.",
            reason=Reason.EMPTY_MASK,
        )
    box = _box(mask, [int(np.ceil(3 * _RANGE_MM / s)) for s in spacing])
    distance, normal = _normals(mask[box], spacing)
    field = SmoothField(labels.shape, spacing, 20.0, 1, rng)
    slices = range(box[0].start, box[0].stop)
    median = np.median(np.concatenate([field.slice(i)[0][mask[i]] for i in slices]))
    maximum = sign * rng.uniform(0.4, 0.7)
    step = np.array(spacing, np.float32)[:, None, None]
    grid = VoxelPositions(labels.shape)
    first = box[0].start

    def places(i: int) -> NDArray[np.float32]:
        positions = grid.slice(i)
        if i in slices:
            # A smooth transition from 0 to 1: half of the cartilage changes, the rest does not.
            weight = 1 / (1 + np.exp(-3 * (field.slice(i)[0][box[1:]] - median)))
            shift = maximum * weight * np.exp(-((distance[i - first] / _RANGE_MM) ** 2))
            positions[(slice(None), *box[1:])] -= shift * normal[:, i - first] / step
        return positions

    return places


def _normals(
    mask: NDArray[np.bool_], spacing: Spacing
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the signed distance to the surface of a mask (mm, negative inside) and its gradient.

    The gradient (3, slice, row, column) has length 1, except in the middle of a sheet, where it
    decreases to 0.
    """
    import edt
    from scipy.ndimage import gaussian_filter

    outside = edt.edt(np.ascontiguousarray(~mask), anisotropy=spacing)
    inside = edt.edt(np.ascontiguousarray(mask), anisotropy=spacing)
    distance = gaussian_filter(outside - inside, [_BLUR_MM / s for s in spacing])
    gradient = [
        np.gradient(distance, s, axis=axis) if distance.shape[axis] > 1 else np.zeros_like(distance)
        for axis, s in enumerate(spacing)
    ]
    return distance, np.stack(gradient)


def _box(mask: NDArray[np.bool_], margin: Sequence[int]) -> tuple[slice, slice, slice]:
    """Return the smallest box around a mask with a margin, within the array."""
    box = []
    for axis, n in enumerate(margin):
        others = tuple(a for a in range(3) if a != axis)
        index = np.flatnonzero(mask.any(axis=others))
        box.append(slice(max(index[0] - n, 0), min(index[-1] + 1 + n, mask.shape[axis])))
    return box[0], box[1], box[2]
