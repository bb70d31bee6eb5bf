"""Offline augmentation of the cartilage networks: 18 copies of every training volume [P].

That they simulate how the patient lies, the shape of bones, the thickness of cartilage and MR
artefacts is the paper's; how they do, and how many are of each kind, is ours [A]. With 148 volumes
there are 148 x 18 = 2,664 copies [P].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qmri_lake.errors import InputError, Reason
from qmri_lake.segmentation import artefacts, deformation
from qmri_lake.tissues import CARTILAGE

__all__ = ["COPIES", "COPY_NAMES", "Copy", "copies", "copy_of"]

COPY_NAMES = (
    "positioning_1", "bone_shape_1", "thickening_1", "bias_field_1",
    "positioning_2", "bone_shape_2", "thinning_1", "noise_1",
    "positioning_3", "bone_shape_3", "thickening_2", "ghosting_1",
    "positioning_4", "bone_shape_4", "thinning_2", "bias_field_2",
    "positioning_5", "noise_2",
)  # fmt: skip
"""What was done to each copy, mixed so that the first few are of every kind."""

COPIES = len(COPY_NAMES)
"""Copies of a volume: 18 [P]."""

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
        Signal in the unit of the original; 0 beyond its edge.
    labels : array of the original's dtype, (slice, row, column)
        Only labels of the original; background beyond its edge.
    name : str
        One of `COPY_NAMES`.
    """

    image: NDArray[np.float32]
    labels: NDArray[Any]
    name: str


def copies(
    image: NDArray[Any],
    labels: NDArray[Any],
    spacing: Sequence[float],
    *,
    seed: int | Sequence[int],
    n: int = COPIES,
) -> Iterator[Copy]:
    """Yield the copies of a volume, each made when it is asked for, from the original.

    Parameters are those of `copy_of`; the first `n` copies are made, 0 to 18.
    """
    if not 0 <= n <= COPIES:
        raise InputError(f"n={n}", expected=f"0 to {COPIES} copies", where="copies")
    # Not a generator itself: what is wrong shows here, and not at the first copy.
    checked = _checked(image, labels, spacing)
    return (_copy(*checked, number, seed) for number in range(n))


def copy_of(
    image: NDArray[Any],
    labels: NDArray[Any],
    spacing: Sequence[float],
    number: int,
    *,
    seed: int | Sequence[int],
) -> Copy:
    """Return one copy of a volume; the others need not be made for it.

    Parameters
    ----------
    image : (slice, row, column)
        Magnitude signal, 0 or more, any unit.
    labels : array of integers, (slice, row, column)
        As in `qmri_lake.tissues.CARTILAGE`.
    spacing : (3,)
        Distance of voxel centres along the array axes, mm.
    number : int
        0 to 17, as in `COPY_NAMES`.
    seed : int or sequence of int
        Of this volume: give every volume its own. The same one makes the same copy.

    Raises
    ------
    InputError
        Arrays of different shapes; "no mask", or no cartilage, in labels; no such copy.
    """
    if not 0 <= number < COPIES:
        raise InputError(f"copy {number}", expected=f"0 to {COPIES - 1}", where="copy_of")
    return _copy(*_checked(image, labels, spacing), number, seed)


def _copy(
    image: NDArray[np.float32],
    labels: NDArray[Any],
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
        places = deformation.thicken(labels, spacing, _CARTILAGE, sign, rng)
    return Copy(*deformation.deform(image, labels, places), name)


def _checked(
    image: NDArray[Any], labels: NDArray[Any], spacing: Sequence[float]
) -> tuple[NDArray[np.float32], NDArray[Any], deformation.Spacing]:
    if image.ndim != 3 or labels.shape != image.shape:
        raise InputError(
            f"an image of {image.shape} and labels of {labels.shape}",
            expected="(slice, row, column) twice",
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
            todo="255 means that there is no mask: leave such exams out.",
            reason=Reason.UNKNOWN_LABEL,
        )
    step = np.asarray(spacing, np.float64)
    if step.shape != (3,) or not (np.isfinite(step) & (step > 0)).all():
        raise InputError(
            f"spacing {step.tolist()}", expected="3 lengths above 0, mm", where="copies"
        )
    lengths = (float(step[0]), float(step[1]), float(step[2]))
    return image.astype(np.float32, copy=False), labels, lengths
