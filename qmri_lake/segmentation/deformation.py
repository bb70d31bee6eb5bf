"""Deformations of a volume with its labels: another position, another bone, other cartilage.

A deformation says where each voxel of the new volume is read: the image linearly, the labels from
the nearest voxel of the same place, so that they can't part and no label is invented. Slices are
made one by one, and hold all the memory that is needed beside the volumes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmri_lake.errors import InputError, Reason
from qmri_lake.segmentation.resampling import sample_slice

__all__ = ["SmoothField", "bend", "deform", "reposition", "thicken"]

Spacing = tuple[float, float, float]
Places = Callable[[int], NDArray[np.float32]]
"""Index of a slice to the places (3, row, column) where it is read, as indices of the volume."""

_SD_OF_SPLINE = 0.332
"""SD of a cubic B-spline in 3D whose coefficients have SD 1, over all places."""

_REACH_MM = 1.5
"""How far from the surface of cartilage its displacement is felt."""
_BLUR_MM = 0.8
"""Width over which the normals of both faces of a sheet give way to each other."""


def deform(
    image: NDArray[np.float32], labels: NDArray[Any], places: Places
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Return a volume and its labels, (slice, row, column), read at other places; 0 beyond them."""
    image, labels = np.ascontiguousarray(image), np.ascontiguousarray(labels)
    new_image, new_labels = np.empty_like(image), np.empty_like(labels)
    for i in range(len(image)):
        sample_slice(image, labels, places(i), new_image[i], new_labels[i])
    return new_image, new_labels


class SmoothField:
    """Random numbers that change smoothly: a cubic B-spline in 3D, of mean 0 and SD 1.

    Parameters
    ----------
    shape : (3,)
        Slices, rows, columns.
    spacing : (3,)
        mm.
    step : float
        Distance of the spline's coefficients, mm: nothing finer than this is in the field.
    channels : int
        Fields that don't depend on each other.
    rng : Generator
    """

    def __init__(
        self,
        shape: Sequence[int],
        spacing: Spacing,
        step: float,
        channels: int,
        rng: np.random.Generator,
    ) -> None:
        self._bases = [_basis(n, s / step) for n, s in zip(shape, spacing, strict=True)]
        size = (channels, *(basis.shape[1] for basis in self._bases))
        # Without its tails, so that no field folds or blows up once in ten thousand.
        drawn = np.clip(rng.standard_normal(size, dtype=np.float32), -2.5, 2.5)
        self._coefficients = drawn / np.float32(_SD_OF_SPLINE)

    def slice(self, i: int) -> NDArray[np.float32]:
        """Return the fields (channel, row, column) in slice i."""
        along_slices, along_rows, along_columns = self._bases
        # Small sums, of which BLAS on several threads would make a long wait.
        plane = np.einsum("a,nabc->nbc", along_slices[i], self._coefficients)
        lines = np.einsum("nbc,kc->nbk", plane, along_columns)
        field: NDArray[np.float32] = np.einsum("jb,nbk->njk", along_rows, lines)
        return field


def reposition(shape: tuple[int, int, int], spacing: Spacing, rng: np.random.Generator) -> Places:
    """Return the places of a knee that lay otherwise in the coil [A].

    Turned by up to 5 degrees about each axis of the array, moved by up to 5 mm along each, and up
    to 5 % larger or smaller.
    """
    x, y, z = np.radians(rng.uniform(-5, 5, 3))
    turn = np.eye(3)
    for angle, (a, b) in ((x, (1, 2)), (y, (0, 2)), (z, (0, 1))):
        about = np.eye(3)
        about[[a, b], [a, b]] = np.cos(angle)
        about[a, b], about[b, a] = -np.sin(angle), np.sin(angle)
        turn = turn @ about
    shift, scale = rng.uniform(-5, 5, 3), rng.uniform(0.95, 1.05)
    step, middle = np.array(spacing), (np.array(shape) - 1) / 2
    matrix = turn * step / step[:, None] / scale
    start = middle - matrix @ middle + shift / step
    rows, columns = np.mgrid[: shape[1], : shape[2]]
    first = start[:, None, None] + np.tensordot(matrix[:, 1:], np.stack([rows, columns]), axes=1)
    return lambda i: (first + i * matrix[:, 0, None, None]).astype(np.float32)


def bend(shape: tuple[int, int, int], spacing: Spacing, rng: np.random.Generator) -> Places:
    """Return the places of a knee of another shape: every point moves smoothly, SD 1.5 mm [A]."""
    field = SmoothField(shape, spacing, 35.0, 3, rng)
    by = (1.5 / np.array(spacing, np.float32))[:, None, None]
    grid = _Grid(shape)
    return lambda i: grid.slice(i) + by * field.slice(i)


def thicken(
    labels: NDArray[Any],
    spacing: Spacing,
    cartilage: Sequence[int],
    sign: float,
    rng: np.random.Generator,
) -> Places:
    """Return the places of a knee with thicker (sign 1) or thinner (-1) cartilage here and there.

    What lies within about 1.5 mm of the surface of cartilage moves along the surface's normal, by
    0.4 to 0.7 mm where most [A]. Both faces move: labels of cartilage don't tell which is bone.
    Labels on voxels wider than twice that stay as they are, and only the image changes.

    Parameters
    ----------
    labels : array of integers, (slice, row, column)
    spacing : (3,)
        mm.
    cartilage : sequence of int
        Labels that are cartilage; all that touch are one sheet.
    """
    mask = np.isin(labels, cartilage)
    if not mask.any():
        raise InputError(
            "no cartilage in the labels",
            expected=f"voxels of label {', '.join(map(str, cartilage))}",
            where="thicken",
            todo="Leave the exam out of training.",
            reason=Reason.EMPTY_MASK,
        )
    box = _box(mask, [int(np.ceil(3 * _REACH_MM / s)) for s in spacing])
    distance, normal = _normals(mask[box], spacing)
    field = SmoothField(labels.shape, spacing, 20.0, 1, rng)
    slices = range(box[0].start, box[0].stop)
    half = np.median(np.concatenate([field.slice(i)[0][mask[i]] for i in slices]))
    most = sign * rng.uniform(0.4, 0.7)
    step = np.array(spacing, np.float32)[:, None, None]
    grid = _Grid(labels.shape)
    first = box[0].start

    def places(i: int) -> NDArray[np.float32]:
        found = grid.slice(i)
        if i in slices:
            # From 0 to 1 over some millimetres: half of the cartilage changes, the rest does not.
            patch = 1 / (1 + np.exp(-3 * (field.slice(i)[0][box[1:]] - half)))
            by = most * patch * np.exp(-((distance[i - first] / _REACH_MM) ** 2))
            found[(slice(None), *box[1:])] -= by * normal[:, i - first] / step
        return found

    return places


def _normals(
    mask: NDArray[np.bool_], spacing: Spacing
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the distance to the surface of a mask, mm, less than 0 inside; and its gradient.

    The gradient (3, slice, row, column) has length 1 but in the middle of a sheet, where it falls
    to 0: there the ways to both faces part.
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
    """Return the smallest box that holds a mask with a margin around it, within the array."""
    found = []
    for axis, more in enumerate(margin):
        others = tuple(a for a in range(3) if a != axis)
        index = np.flatnonzero(mask.any(axis=others))
        found.append(slice(max(index[0] - more, 0), index[-1] + 1 + more))
    stops = [min(s.stop, n) for s, n in zip(found, mask.shape, strict=True)]
    return tuple(slice(s.start, stop) for s, stop in zip(found, stops, strict=True))  # type: ignore[return-value]


class _Grid:
    """The places of the voxels themselves."""

    def __init__(self, shape: Sequence[int]) -> None:
        self._plane = np.zeros((3, *shape[1:]), np.float32)
        self._plane[1:] = np.mgrid[: shape[1], : shape[2]]

    def slice(self, i: int) -> NDArray[np.float32]:
        places = self._plane.copy()
        places[0] = i
        return places


def _basis(n: int, step: float) -> NDArray[np.float32]:
    """Return the weights (n, coefficient) of a uniform cubic B-spline at 0, step, 2 step ..."""
    places = np.arange(n) * step
    first = np.floor(places).astype(int)
    t = places - first
    weights = np.zeros((n, first[-1] + 4), np.float32)
    values = (1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3
    for k, value in enumerate(values):
        weights[np.arange(n), first + k] = value / 6
    return weights
