"""Resize spherical maps by area averages."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["area_average"]


def area_average(images: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Resize square images by averages over areas.

    Pixels on the edge of an area are weighted by the fraction that lies inside.

    Parameters
    ----------
    images : (..., n, n) float32
    size : int
        At most n.

    Returns
    -------
    (..., size, size) float32
        Resized images. The result for an image is bitwise identical in every batch.

    Examples
    --------
    >>> area_average(np.array([[0, 3, 6], [0, 3, 6], [0, 3, 6]], np.float32), 2).tolist()
    [[1.0, 5.0], [1.0, 5.0]]
    """
    if size == images.shape[-1]:
        return images
    first, weights = _areas(images.shape[-1], size)
    for axis in (-1, -2):
        last = images.shape[axis] - 1
        sums: NDArray[np.float32] = np.zeros((), np.float32)
        for k, weight in enumerate(weights):
            part = np.take(images, np.minimum(first + k, last), axis=axis)
            sums = sums + part * (weight if axis == -1 else weight[:, None])
        images = sums
    return images


def _areas(full: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return the first pixel of each area, and the weights of this and the following pixels."""
    edges = np.arange(size + 1) * full / size
    first = np.floor(edges[:-1]).astype(np.intp)
    count = int(np.max(np.ceil(edges[1:]) - first))
    pixels = first + np.arange(count)[:, None]
    overlap = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return first, (np.clip(overlap, 0, None) * size / full).astype(np.float32)
