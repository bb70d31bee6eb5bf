"""Sampling of all slices of a volume at the same positions; samples outside the image are 0.

A position is inside an image up to half a voxel beyond the outermost voxel centres. This holds for
linear and for nearest-neighbour interpolation, so that an image and its labels end at the same
voxel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.segmentation.augmentation.resampling_numba import sample_linear

__all__ = ["turn_linear", "turn_nearest"]


def turn_linear(
    volume: NDArray[np.float32], rows: NDArray[np.float32], columns: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Sample every slice at the same positions by linear interpolation.

    One table of positions and weights serves all slices, which is several times faster than scipy's
    ``affine_transform`` slice by slice (``benchmarks/distance_maps.py``).

    Parameters
    ----------
    volume : array of float32, (slice, row, column)
    rows, columns : array of float32, (row, column)
        Source position of each pixel, as indices.
    """
    n_rows, n_columns = volume.shape[1:]
    inside = _inside(rows, n_rows) & _inside(columns, n_columns)
    first_row, by_row = _split(rows, n_rows)
    first_column, by_column = _split(columns, n_columns)
    first_row[~inside] = -1
    out = np.empty(volume.shape, np.float32)
    sample_linear(np.ascontiguousarray(volume), first_row, first_column, by_row, by_column, out)
    return out


def turn_nearest(volume: Values, rows: NDArray[np.float32], columns: NDArray[np.float32]) -> Values:
    """Sample every slice at the same positions by nearest-neighbour interpolation."""
    n_rows, n_columns = volume.shape[1:]
    inside = _inside(rows, n_rows) & _inside(columns, n_columns)
    nearest = np.where(
        inside, np.floor(rows + 0.5) * n_columns + np.floor(columns + 0.5), 0
    ).astype(np.intp)
    out: Values = volume.reshape(len(volume), -1)[:, nearest.ravel()].reshape(volume.shape)
    out[:, ~inside] = 0
    return out


def _inside(positions: NDArray[np.float32], n: int) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (positions >= -0.5) & (positions < n - 0.5)
    return inside


def _split(positions: NDArray[np.float32], n: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the lower of the two indices around each position, and the weight of the upper."""
    clipped = np.clip(positions, 0, n - 1)
    first = np.clip(np.floor(clipped), 0, max(n - 2, 0))
    return first.astype(np.int32), (clipped - first).astype(np.float32)
