"""Compiled loops of augmentation: arrays read at other places, 0 beyond the edge.

A place lies within an image up to half a voxel beyond the outermost voxel centres, for linear and
nearest alike, so that an image and its labels end at the same voxel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["sample_slice", "turn_linear", "turn_nearest"]


def turn_linear(
    volume: NDArray[np.float32], rows: NDArray[np.float32], columns: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Read every slice at the same places, linear between pixels.

    One table of places and weights serves all slices: some times faster than scipy's
    ``affine_transform`` slice by slice (``benchmarks/distance_maps.py``).

    Parameters
    ----------
    volume : array of float32, (slice, row, column)
    rows, columns : array of float32, (row, column)
        Index of the place that each pixel is read at.
    """
    n_rows, n_columns = volume.shape[1:]
    inside = _inside(rows, n_rows) & _inside(columns, n_columns)
    first_row, by_row = _split(rows, n_rows)
    first_column, by_column = _split(columns, n_columns)
    first_row[~inside] = -1
    out = np.empty(volume.shape, np.float32)
    _linear(np.ascontiguousarray(volume), first_row, first_column, by_row, by_column, out)
    return out


def turn_nearest(
    volume: NDArray[Any], rows: NDArray[np.float32], columns: NDArray[np.float32]
) -> NDArray[Any]:
    """Read every slice at the pixels nearest to the same places: no value that was not there."""
    n_rows, n_columns = volume.shape[1:]
    inside = _inside(rows, n_rows) & _inside(columns, n_columns)
    nearest = np.where(
        inside, np.floor(rows + 0.5) * n_columns + np.floor(columns + 0.5), 0
    ).astype(np.intp)
    out: NDArray[Any] = volume.reshape(len(volume), -1)[:, nearest.ravel()].reshape(volume.shape)
    out[:, ~inside] = 0
    return out


def _inside(places: NDArray[np.float32], n: int) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (places >= -0.5) & (places < n - 0.5)
    return inside


def _split(places: NDArray[np.float32], n: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the lower of the two indices around each place, and the weight of the upper one."""
    held = np.clip(places, 0, n - 1)
    first = np.clip(np.floor(held), 0, max(n - 2, 0))
    return first.astype(np.int32), (held - first).astype(np.float32)


@njit(cache=True, nogil=True)
def _linear(volume, first_row, first_column, by_row, by_column, out):  # type: ignore[no-untyped-def]
    slices, rows, columns = volume.shape
    down, along = min(rows - 1, 1), min(columns - 1, 1)
    for i in range(slices):
        for j in range(rows):
            for k in range(columns):
                r, c = first_row[j, k], first_column[j, k]
                if r < 0:
                    out[i, j, k] = 0
                    continue
                upper = volume[i, r, c]
                upper += by_column[j, k] * (volume[i, r, c + along] - upper)
                lower = volume[i, r + down, c]
                lower += by_column[j, k] * (volume[i, r + down, c + along] - lower)
                out[i, j, k] = upper + by_row[j, k] * (lower - upper)


@njit(cache=True, nogil=True)
def sample_slice(image, labels, places, image_out, label_out):  # type: ignore[no-untyped-def]
    """Read an image (trilinear) and its labels (nearest) at the places of one slice.

    image float32, labels (slice, row, column); places (3, row, column) float32, indices along the
    axes of the image; image_out, label_out (row, column).
    """
    slices, rows, columns = image.shape
    ahead = min(slices - 1, 1)
    down, along = min(rows - 1, 1), min(columns - 1, 1)
    half, zero = np.float32(0.5), np.float32(0)
    for j in range(image_out.shape[0]):
        for k in range(image_out.shape[1]):
            x, y, z = places[0, j, k], places[1, j, k], places[2, j, k]
            if not (
                -half <= x < slices - half
                and -half <= y < rows - half
                and -half <= z < columns - half
            ):
                image_out[j, k] = 0
                label_out[j, k] = 0
                continue
            label_out[j, k] = labels[int(x + half), int(y + half), int(z + half)]
            x = min(max(x, zero), np.float32(slices - 1))
            y = min(max(y, zero), np.float32(rows - 1))
            z = min(max(z, zero), np.float32(columns - 1))
            i0 = min(int(x), max(slices - 2, 0))
            j0 = min(int(y), max(rows - 2, 0))
            k0 = min(int(z), max(columns - 2, 0))
            by_x, by_y, by_z = np.float32(x - i0), np.float32(y - j0), np.float32(z - k0)
            value = zero
            for d in range(2):
                i = i0 + d * ahead
                upper = image[i, j0, k0]
                upper += by_z * (image[i, j0, k0 + along] - upper)
                lower = image[i, j0 + down, k0]
                lower += by_z * (image[i, j0 + down, k0 + along] - lower)
                upper += by_y * (lower - upper)
                value = value + by_x * (upper - value) if d else upper
            image_out[j, k] = value
