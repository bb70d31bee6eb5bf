"""Online augmentation of the bone networks [P]: flips and rotations, drawn at every step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmri_lake.errors import InputError, Reason
from qmri_lake.segmentation.resampling import turn_linear, turn_nearest

__all__ = ["augment"]


def augment(
    image: NDArray[Any],
    labels: NDArray[Any],
    phi: NDArray[Any],
    rng: np.random.Generator,
    *,
    flip: float = 0.5,
    rotation: float = 0.5,
    degrees: int = 5,
    spacing: tuple[float, float] = (1.0, 1.0),
) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[np.float32]]:
    """Return a volume, its labels and distance maps, flipped left to right and turned by chance.

    Parameters
    ----------
    image : (slice, row, column)
        Signal, any unit.
    labels : array of integers, (slice, row, column)
    phi : (class, slice, row, column), 0 to 1
        As `distance_maps` makes it; turned along, not computed anew.
    rng : Generator
        The same state gives the same volume.
    flip, rotation : float, 0 to 1
        Probability that slices are reversed, and that the volume is turned in its sagittal plane.
    degrees : int
        Largest angle. A rotation is by a whole degree in -degrees..degrees, each as likely as the
        others, and not by 0 [A]: else fewer volumes than `rotation` says would be turned.
    spacing : (2,)
        Size of a pixel along rows and columns, in any unit: angles are kept where it isn't square.

    Returns
    -------
    image : array of float32, (slice, row, column)
        Linear between pixels.
    labels : array of the same dtype, (slice, row, column)
        Nearest neighbour: a mean of label numbers would be another tissue [A].
    phi : array of float32, (class, slice, row, column)
        Linear.

    Raises
    ------
    InputError
        Arrays of different shapes, a probability that is none.

    Notes
    -----
    All three are 0 where the turned volume reaches beyond the image: no signal, background, and the
    smallest weight [A]. Arrays may be views of those given: don't write to them.
    """
    _check(image, labels, phi, flip, rotation, degrees)
    # Always three draws, so that one choice does not move the next.
    flipped, turned = rng.random() < flip, rng.random() < rotation and degrees > 0
    angle = int(rng.integers(-degrees, degrees)) if degrees > 0 else 0
    angle += angle >= 0
    image = image.astype(np.float32, copy=False)
    phi = phi.astype(np.float32, copy=False)
    if turned:
        rows, columns = _turned(image.shape[1:], angle, spacing)
        image = turn_linear(image, rows, columns)
        labels = turn_nearest(labels, rows, columns)
        phi = turn_linear(phi.reshape((-1, *image.shape[1:])), rows, columns).reshape(phi.shape)
    if flipped:
        image, labels, phi = image[::-1], labels[::-1], phi[:, ::-1]
    return image, labels, phi


def _turned(
    shape: tuple[int, ...], angle: float, spacing: tuple[float, float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return where each pixel of a slice comes from: row and column, (row, column) each."""
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    middle = [(n - 1) / 2 for n in shape]
    down, along = ((np.arange(n) - m) * s for n, m, s in zip(shape, middle, spacing, strict=True))
    rows = (cos * down[:, None] - sin * along) / spacing[0] + middle[0]
    columns = (sin * down[:, None] + cos * along) / spacing[1] + middle[1]
    return rows.astype(np.float32), columns.astype(np.float32)


def _check(
    image: NDArray[Any],
    labels: NDArray[Any],
    phi: NDArray[Any],
    flip: float,
    rotation: float,
    degrees: int,
) -> None:
    if image.ndim != 3 or labels.shape != image.shape or phi.shape[1:] != image.shape:
        raise InputError(
            f"an image of {image.shape}, labels of {labels.shape}, phi of {phi.shape}",
            expected="(slice, row, column) twice, and (class, slice, row, column)",
            where="augment",
            reason=Reason.GRID_MISMATCH,
        )
    for name, value in (("flip", flip), ("rotation", rotation)):
        if not 0 <= value <= 1:
            raise InputError(f"{name}={value}", expected="0 to 1", where="augment")
    if degrees < 0 or degrees != int(degrees):
        raise InputError(f"degrees={degrees}", expected="a whole number", where="augment")
