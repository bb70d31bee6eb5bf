"""What is odd about a mask: short texts that flag an exam, and never drop it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qmri_lake.errors import InputError, Reason
from qmri_lake.segmentation.components import piece_volumes
from qmri_lake.segmentation.side import Side, side_from_anatomy
from qmri_lake.tissues import BONE, CARTILAGE, NO_MASK

__all__ = ["VOLUME_MM3", "Side", "check_mask", "side_from_anatomy"]

Labels = NDArray[np.uint8]

VOLUME_MM3: dict[str, tuple[float, float]] = {
    "femur": (50_000, 450_000),
    "tibia": (30_000, 350_000),
    "patella": (5_000, 45_000),
    "femoral": (3_000, 35_000),
    "tibial": (800, 14_000),
    "patellar": (300, 9_000),
    "meniscus": (800, 16_000),
}
"""Usual volumes of adult knees, worn ones too, mm3; those of femur and tibia depend on how much of
the shafts the field of view holds. [assumption]"""

_PIECES = {"femur": 1, "tibia": 1, "patella": 1, "femoral": 3, "tibial": 4, "patellar": 3,
           "meniscus": 4}  # fmt: skip
"""Most large pieces that anatomy and wear explain."""
_LARGE = 0.05
"""Part of a structure's largest piece from which on a piece is large."""
_TOUCHING = 10
"""Voxels on a face of the volume from which on a structure counts as cut by it."""
_SHAFT_FACE = {"femur": 1.0, "tibia": -1.0}
"""Where a shaft leaves the field of view: up (+z) or down."""

_DIRECTIONS = (("right", "left"), ("front", "back"), ("below", "above"))
"""Names of the directions along -x and +x, -y and +y, -z and +z (LPS)."""


def check_mask(
    affine: NDArray[np.float64],
    knee: Literal["left", "right"] | None = None,
    *,
    bone: Labels | None = None,
    cartilage: Labels | None = None,
) -> list[str]:
    """List what is odd about an exam's masks.

    Parameters
    ----------
    affine : (4, 4) float64
        Voxel (slice, row, column, 1) to LPS mm.
    knee : {"left", "right"}, optional
        The side that the exam's key says; compared with that of the anatomy where both masks are
        given.
    bone, cartilage : (slice, row, column) uint8, optional
        Labels as in `qmri_lake.tissues`; no voxel may be 255.

    Returns
    -------
    list of str
        Each a short reason, such as ``"no patella"``; empty if all is usual. Join them into a
        result's attribute ``flag``.

    Raises
    ------
    InputError
        A mask with voxels that were never segmented.
    """
    reasons = []
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    for labels, names in ((bone, BONE), (cartilage, CARTILAGE)):
        if labels is None:
            continue
        if (labels == NO_MASK).any():
            raise InputError(
                "voxels that are 255, which is no mask", expected="a label in every voxel",
                where="check_mask", reason=Reason.ABSENT_EXAM,
            )  # fmt: skip
        boxes = dict(enumerate(ndimage.find_objects(labels), start=1))
        for name, value in names.items():
            if value:
                reasons += _structure(name, labels, value, boxes.get(value), affine, spacing)
    if bone is not None and cartilage is not None and knee is not None:
        reasons += _side(side_from_anatomy(bone, cartilage, affine), knee)
    return reasons


def _side(found: Side, knee: str) -> list[str]:
    if found.knee is None:
        return [f"side not told by anatomy: {found.reason}"]
    if found.knee != knee:
        return [f"looks like a {found.knee} knee (margin {found.margin:.2f}), not a {knee} one"]
    return []


def _structure(
    name: str,
    labels: Labels,
    value: int,
    box: Any,
    affine: NDArray[np.float64],
    spacing: NDArray[np.float64],
) -> list[str]:
    """Return what is odd about one bone or tissue."""
    if not box:
        return [f"no {name}"]
    inside = labels[box] == value
    volumes = piece_volumes(inside, spacing)
    reasons = []
    low, high = VOLUME_MM3[name]
    total = float(volumes.sum())
    if not low <= total <= high:
        reasons.append(f"{name} of {total / 1000:.3g} ml, usual are {low / 1000:g} to "
                       f"{high / 1000:g}")  # fmt: skip
    large = int((volumes >= _LARGE * volumes[0]).sum())
    if large > _PIECES[name]:
        reasons.append(f"{name} in {large} large pieces")
    if cut := _cut(name, inside, box, labels.shape, affine):
        reasons.append(f"{name} cut by the field of view: {', '.join(cut)}")
    return reasons


def _cut(
    name: str,
    inside: NDArray[np.bool_],
    box: tuple[slice, ...],
    shape: tuple[int, ...],
    affine: NDArray[np.float64],
) -> list[str]:
    """Return the directions in which the structure reaches a face, but for a shaft's own one."""
    found = []
    for axis in range(3):
        for index, sign in ((0, -1.0), (shape[axis] - 1, 1.0)):
            edge = box[axis].start if sign < 0 else box[axis].stop - 1
            if edge != index:
                continue
            if np.count_nonzero(inside.take(0 if sign < 0 else -1, axis=axis)) < _TOUCHING:
                continue
            normal = sign * affine[:3, axis]
            world = int(np.abs(normal).argmax())
            if not (world == 2 and np.sign(normal[2]) == _SHAFT_FACE.get(name)):
                found.append(_DIRECTIONS[world][int(normal[world] > 0)])
    return found
