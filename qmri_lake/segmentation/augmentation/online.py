"""Online augmentation of the bone networks [paper]: random flips and rotations at every step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.errors import InputError, Reason
from qmri_lake.segmentation.augmentation.resampling import turn_linear, turn_nearest

__all__ = ["augment"]


def augment(
    image: Values,
    labels: Values,
    phi: Values,
    rng: np.random.Generator,
    *,
    flip: float = 0.5,
    rotation: float = 0.5,
    degrees: int = 5,
    spacing: tuple[float, float] = (1.0, 1.0),
) -> tuple[NDArray[np.float32], Values, NDArray[np.float32]]:
    """Flip and rotate a volume, its labels and its distance maps at random.

    Parameters
    ----------
    image : (slice, row, column)
        Signal, any unit.
    labels : array of integers, (slice, row, column)
    phi : (class, slice, row, column), 0 to 1
        Distance maps from `distance_maps`. They are rotated like the image rather than recomputed.
    rng : Generator
        Generators with equal states give equal volumes.
    flip, rotation : float, 0 to 1
        Probability of reversing the order of the slices, and probability of a rotation in the
        sagittal plane.
    degrees : int
        Largest angle. All integer angles from -degrees to degrees except 0 are equally likely
        [assumption]. If 0 were included, the share of rotated volumes would be below `rotation`.
    spacing : (2,)
        Size of a pixel along rows and columns, in any unit, for pixels that are not square.

    Returns
    -------
    image : array of float32, (slice, row, column)
        Signal, interpolated linearly between pixels.
    labels : array of the same dtype, (slice, row, column)
        Labels of the nearest pixels, since a mean of labels would be another tissue [assumption].
    phi : array of float32, (class, slice, row, column)
        Distance maps, interpolated linearly.

    Raises
    ------
    InputError
        If the shapes differ, or a probability is not between 0 and 1.

    Notes
    -----
    All three arrays are 0 outside the field of view of the original. This means no signal,
    background, and the smallest weight [assumption]. The results may be views of the arguments, so
    do not modify them.
    """
    _check(image, labels, phi, flip, rotation, degrees)
    # Always draw three random numbers, so that the random state does not depend on the outcomes.
    is_flipped, is_rotated = rng.random() < flip, rng.random() < rotation and degrees > 0
    angle = int(rng.integers(-degrees, degrees)) if degrees > 0 else 0
    angle += angle >= 0
    image = image.astype(np.float32, copy=False)
    phi = phi.astype(np.float32, copy=False)
    if is_rotated:
        rows, columns = _rotated_grid(image.shape[1:], angle, spacing)
        image = turn_linear(image, rows, columns)
        labels = turn_nearest(labels, rows, columns)
        phi = turn_linear(phi.reshape((-1, *image.shape[1:])), rows, columns).reshape(phi.shape)
    if is_flipped:
        image, labels, phi = image[::-1], labels[::-1], phi[:, ::-1]
    return image, labels, phi


def _rotated_grid(
    shape: tuple[int, ...], angle: float, spacing: tuple[float, float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the source row and column of each pixel of a slice, (row, column) each."""
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    middle = [(n - 1) / 2 for n in shape]
    down, along = ((np.arange(n) - m) * s for n, m, s in zip(shape, middle, spacing, strict=True))
    rows = (cos * down[:, None] - sin * along) / spacing[0] + middle[0]
    columns = (sin * down[:, None] + cos * along) / spacing[1] + middle[1]
    return rows.astype(np.float32), columns.astype(np.float32)


def _check(
    image: Values,
    labels: Values,
    phi: Values,
    flip: float,
    rotation: float,
    degrees: int,
) -> None:
    if image.ndim != 3 or labels.shape != image.shape or phi.shape[1:] != image.shape:
        raise InputError(
            f"an image of shape {image.shape}, labels of shape {labels.shape}, "
            f"phi of shape {phi.shape}",
            expected="the same (slice, row, column), and (class, slice, row, column) for phi",
            where="augment",
            reason=Reason.GRID_MISMATCH,
        )
    for name, value in (("flip", flip), ("rotation", rotation)):
        if not 0 <= value <= 1:
            raise InputError(f"{name}={value}", expected="0 to 1", where="augment")
    if degrees < 0 or degrees != int(degrees):
        raise InputError(f"degrees={degrees}", expected="an integer of at least 0", where="augment")
