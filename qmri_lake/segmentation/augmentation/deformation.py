"""Deformations of a volume and its labels: positioning and bone shape.

A deformation gives the source position of each voxel of the new volume. At this position, the image
is interpolated linearly, and the label is taken from the nearest voxel. Slices are computed one by
one, to save memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.segmentation.augmentation.resampling_numba import sample_slice

__all__ = ["Places", "SmoothField", "Spacing", "VoxelPositions", "bend", "deform", "reposition"]

Spacing = tuple[float, float, float]
Places = Callable[[int], NDArray[np.float32]]
"""Function that maps the index of a slice to the source positions (3, row, column) of its voxels,
as indices of the volume."""

_SPLINE_SD = 0.332
"""SD of a cubic B-spline in 3D whose coefficients have SD 1."""


def deform(
    image: NDArray[np.float32], labels: Values, places: Places
) -> tuple[NDArray[np.float32], Values]:
    """Sample a volume and its labels (slice, row, column) at the source positions.

    The results are 0 where the source position is outside the volume.
    """
    image, labels = np.ascontiguousarray(image), np.ascontiguousarray(labels)
    new_image, new_labels = np.empty_like(image), np.empty_like(labels)
    for i in range(len(image)):
        sample_slice(image, labels, places(i), new_image[i], new_labels[i])
    return new_image, new_labels


class SmoothField:
    """Smooth random field: a cubic B-spline in 3D, with mean 0 and SD 1.

    Parameters
    ----------
    shape : (3,)
        Slices, rows, columns.
    spacing : (3,)
        Distance between voxel centres, mm.
    step : float
        Distance between the coefficients of the spline, mm. It is the finest scale of the field.
    channels : int
        Number of independent fields.
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
        # Without clipping, one deformation in ten thousand would fold.
        values = np.clip(rng.standard_normal(size, dtype=np.float32), -2.5, 2.5)
        self._coefficients = values / np.float32(_SPLINE_SD)

    def slice(self, i: int) -> NDArray[np.float32]:
        """Return the fields (channel, row, column) in slice i."""
        along_slices, along_rows, along_columns = self._bases
        # einsum does not use BLAS here: the threads of BLAS are slow for such small sums.
        plane = np.einsum("a,nabc->nbc", along_slices[i], self._coefficients)
        lines = np.einsum("nbc,kc->nbk", plane, along_columns)
        field: NDArray[np.float32] = np.einsum("jb,nbk->njk", along_rows, lines)
        return field


def reposition(shape: tuple[int, int, int], spacing: Spacing, rng: np.random.Generator) -> Places:
    """Simulate another position of the knee in the coil [assumption].

    The knee is rotated by up to 5 degrees about each axis of the array, shifted by up to 5 mm along
    each axis, and scaled by up to 5 %.
    """
    x, y, z = np.radians(rng.uniform(-5, 5, 3))
    rotation = np.eye(3)
    for angle, (a, b) in ((x, (1, 2)), (y, (0, 2)), (z, (0, 1))):
        about_axis = np.eye(3)
        about_axis[[a, b], [a, b]] = np.cos(angle)
        about_axis[a, b], about_axis[b, a] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ about_axis
    shift, scale = rng.uniform(-5, 5, 3), rng.uniform(0.95, 1.05)
    step, middle = np.array(spacing), (np.array(shape) - 1) / 2
    matrix = rotation * step / step[:, None] / scale
    start = middle - matrix @ middle + shift / step
    rows, columns = np.mgrid[: shape[1], : shape[2]]
    first = start[:, None, None] + np.tensordot(matrix[:, 1:], np.stack([rows, columns]), axes=1)
    return lambda i: (first + i * matrix[:, 0, None, None]).astype(np.float32)


def bend(shape: tuple[int, int, int], spacing: Spacing, rng: np.random.Generator) -> Places:
    """Simulate another shape of the knee: a smooth displacement with SD 1.5 mm [assumption]."""
    field = SmoothField(shape, spacing, 35.0, 3, rng)
    amplitude = (1.5 / np.array(spacing, np.float32))[:, None, None]
    grid = VoxelPositions(shape)
    return lambda i: grid.slice(i) + amplitude * field.slice(i)


class VoxelPositions:
    """Positions of the voxels, as indices of the volume."""

    def __init__(self, shape: Sequence[int]) -> None:
        self._plane = np.zeros((3, *shape[1:]), np.float32)
        self._plane[1:] = np.mgrid[: shape[1], : shape[2]]

    def slice(self, i: int) -> NDArray[np.float32]:
        """Return the positions (3, row, column) of slice `i`; the caller may modify the array."""
        places = self._plane.copy()
        places[0] = i
        return places


def _basis(n: int, step: float) -> NDArray[np.float32]:
    """Return the weights (n, coefficient) of a uniform cubic B-spline at 0, step, 2 step ..."""
    positions = np.arange(n) * step
    first = np.floor(positions).astype(int)
    t = positions - first
    weights = np.zeros((n, first[-1] + 4), np.float32)
    values = (1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3
    for k, value in enumerate(values):
        weights[np.arange(n), first + k] = value / 6
    return weights
