"""Offline augmentation of the cartilage networks: 18 copies of every training volume [paper].

The copies simulate positioning, bone shape, cartilage thickness and MR artefacts [paper]. The
methods and the number of copies of each kind are not from the paper [assumption]. For 148 volumes
there are 148 x 18 = 2,664 copies [paper].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.errors import InputError, Reason
from qmri_lake.segmentation.augmentation import artefacts, cartilage_thickness, deformation
from qmri_lake.tissues import CARTILAGE

__all__ = ["COPIES", "COPY_NAMES", "Copy", "copies", "copy_of"]

COPY_NAMES = (
    "positioning_1",
    "bone_shape_1",
    "thickening_1",
    "bias_field_1",
    "positioning_2",
    "bone_shape_2",
    "thinning_1",
    "noise_1",
    "positioning_3",
    "bone_shape_3",
    "thickening_2",
    "ghosting_1",
    "positioning_4",
    "bone_shape_4",
    "thinning_2",
    "bias_field_2",
    "positioning_5",
    "noise_2",
)
"""Kind of each copy, ordered so that the first few copies include all kinds."""

COPIES = len(COPY_NAMES)
"""Number of copies of a volume: 18 [paper]."""

_CARTILAGE = tuple(CARTILAGE[name] for name in ("femoral", "tibial", "patellar"))
_ARTEFACTS = {
    "bias_field": artefacts.bias_field,
    "noise": artefacts.noise,
    "ghosting": artefacts.ghosting,
}


class Copy(NamedTuple):
    """An augmented volume.

    Attributes
    ----------
    image : array of float32, (slice, row, column)
        Signal in the unit of the original; 0 outside its field of view.
    labels : (slice, row, column), same dtype as the original
        Labels of the original; background outside its field of view.
    name : str
        One of `COPY_NAMES`.
    """

    image: NDArray[np.float32]
    labels: Values
    name: str


def copies(
    image: Values,
    labels: Values,
    spacing: Sequence[float],
    *,
    seed: int | Sequence[int],
    n: int = COPIES,
) -> Iterator[Copy]:
    """Yield the first `n` copies (0 to 18) of a volume; each is computed when it is requested.

    The other parameters are those of `copy_of`.
    """
    if not 0 <= n <= COPIES:
        raise InputError(f"n={n}", expected=f"0 to {COPIES} copies", where="copies")
    # Not a generator function, so that errors are raised here and not at the first copy.
    checked = _checked(image, labels, spacing)
    return (_copy(*checked, number, seed) for number in range(n))


def copy_of(
    image: Values,
    labels: Values,
    spacing: Sequence[float],
    number: int,
    *,
    seed: int | Sequence[int],
) -> Copy:
    """Return one copy of a volume, independently of the others.

    Parameters
    ----------
    image : (slice, row, column)
        Magnitude signal, 0 or more, any unit.
    labels : array of integers, (slice, row, column)
        Values of `qmri_lake.tissues.CARTILAGE`.
    spacing : (3,)
        Distance between voxel centres along the array axes, mm.
    number : int
        Index of the copy in `COPY_NAMES`, 0 to 17.
    seed : int or sequence of int
        Random seed of this volume; it should differ between volumes. Equal seeds give equal copies.

    Raises
    ------
    InputError
        If the shapes differ, if labels contain 255 or no cartilage, or if there is no such copy.
    """
    if not 0 <= number < COPIES:
        raise InputError(f"copy {number}", expected=f"0 to {COPIES - 1}", where="copy_of")
    return _copy(*_checked(image, labels, spacing), number, seed)


def _copy(
    image: NDArray[np.float32],
    labels: Values,
    spacing: deformation.Spacing,
    number: int,
    seed: int | Sequence[int],
) -> Copy:
    rng = np.random.default_rng([*np.atleast_1d(seed).tolist(), number])
    name = COPY_NAMES[number]
    kind = name.rpartition("_")[0]
    if kind in _ARTEFACTS:
        return Copy(_ARTEFACTS[kind](image, spacing, rng), labels.copy(), name)
    shape = (image.shape[0], image.shape[1], image.shape[2])
    if kind == "positioning":
        places = deformation.reposition(shape, spacing, rng)
    elif kind == "bone_shape":
        places = deformation.bend(shape, spacing, rng)
    else:
        sign = 1.0 if kind == "thickening" else -1.0
        places = cartilage_thickness.thicken(labels, spacing, _CARTILAGE, sign, rng)
    return Copy(*deformation.deform(image, labels, places), name)


def _checked(
    image: Values, labels: Values, spacing: Sequence[float]
) -> tuple[NDArray[np.float32], Values, deformation.Spacing]:
    if image.ndim != 3 or labels.shape != image.shape:
        raise InputError(
            f"an image of shape {image.shape} and labels of shape {labels.shape}",
            expected="the same shape (slice, row, column)",
            where="copies",
            reason=Reason.GRID_MISMATCH,
        )
    known = set(CARTILAGE.values())
    unknown = sorted(set(np.unique(labels).tolist()) - known)
    if unknown:
        raise InputError(
            f"label {unknown[0]}",
            expected=f"0 to {max(known)}",
            where="copies",
            todo="Label 255 means that the voxel was not segmented: exclude such exams.",
            reason=Reason.UNKNOWN_LABEL,
        )
    step = np.asarray(spacing, np.float64)
    if step.shape != (3,) or not (np.isfinite(step) & (step > 0)).all():
        raise InputError(
            f"spacing {step.tolist()}", expected="3 lengths above 0, mm", where="copies"
        )
    lengths = (float(step[0]), float(step[1]), float(step[2]))
    return image.astype(np.float32, copy=False), labels, lengths
