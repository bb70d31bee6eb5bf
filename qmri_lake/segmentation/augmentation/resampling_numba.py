"""Compiled loops of augmentation: sampling of arrays at given positions; 0 outside the image."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["sample_linear", "sample_slice"]


@njit(cache=True, nogil=True)
def sample_linear(volume, first_row, first_column, by_row, by_column, out):  # type: ignore[no-untyped-def]
    """Sample every slice linearly.

    `volume` and `out` are (slice, row, column) float32. `first_row` and `first_column` are (row,
    column) int32 and hold the lower indices; `first_row` is -1 outside the image. `by_row` and
    `by_column` are (row, column) float32, 0 to 1, and hold the weights of the upper indices.
    """
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
    """Sample an image (trilinear) and its labels (nearest) at the positions of one slice.

    `image` (float32) and `labels` are (slice, row, column). `places` is (3, row, column) float32
    and holds indices along the axes of the image. `image_out` and `label_out` are (row, column).
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
