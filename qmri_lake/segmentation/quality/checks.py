"""Checks for implausible masks. They return short reasons that flag an exam; the exam is kept."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qmri_lake.core.geometry import voxel_spacing
from qmri_lake.errors import InputError, Reason
from qmri_lake.segmentation.quality.components import piece_volumes
from qmri_lake.segmentation.quality.laterality import Side, side_from_anatomy
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
"""Plausible volumes in adult knees, including worn cartilage, mm3. The volumes of femur and tibia
depend on the length of the shafts in the field of view. [assumption]"""

_MAX_PIECES = {
    "femur": 1,
    "tibia": 1,
    "patella": 1,
    "femoral": 3,
    "tibial": 4,
    "patellar": 3,
    "meniscus": 4,
}
"""Largest number of large pieces that can be explained by anatomy and wear."""
_LARGE = 0.05
"""A piece is large if it has at least this fraction of the volume of the largest piece."""
_TOUCHING = 10
"""A face of the volume cuts a structure if at least this number of its voxels lie on the face."""
_SHAFT_FACE = {"femur": 1.0, "tibia": -1.0}
"""Direction in which a shaft leaves the field of view: up (+z) or down."""

_DIRECTIONS = (("right", "left"), ("front", "back"), ("below", "above"))
"""Names of the directions along -x and +x, -y and +y, -z and +z (LPS)."""


def check_mask(
    affine: NDArray[np.float64],
    knee: Literal["left", "right"] | None = None,
    *,
    bone: Labels | None = None,
    cartilage: Labels | None = None,
    tissues: Collection[str] | None = None,
) -> list[str]:
    """Return the reasons why the masks of an exam are implausible.

    Parameters
    ----------
    affine : (4, 4) float64
        Voxel (slice, row, column, 1) to LPS mm.
    knee : {"left", "right"}, optional
        The side in the exam key. It is compared with the anatomy if both masks are given.
    bone, cartilage : (slice, row, column) uint8, optional
        Labels as in `qmri_lake.tissues`; no voxel may be 255.
    tissues : collection of str, optional
        Names of the bones and tissues that the source of the masks can have. Other structures are
        not checked. A side that cannot be inferred without them does not flag the exam. Default:
        all.

    Returns
    -------
    list of str
        Short reasons, such as ``"no patella"``; empty if the masks are plausible. A step joins them
        into the attribute ``flag`` of its result.

    Raises
    ------
    InputError
        If a mask has voxels that were not segmented (255).
    """
    reasons = []
    spacing = voxel_spacing(affine)
    for labels, names in ((bone, BONE), (cartilage, CARTILAGE)):
        if labels is None:
            continue
        if (labels == NO_MASK).any():
            raise InputError(
                "voxels that are 255 (not segmented)",
                expected="a label in every voxel",
                where="check_mask",
                reason=Reason.ABSENT_EXAM,
            )
        boxes = dict(enumerate(ndimage.find_objects(labels), start=1))
        for name, value in names.items():
            if value and (tissues is None or name in tissues):
                reasons += _structure(name, labels, value, boxes.get(value), affine, spacing)
    if bone is not None and cartilage is not None and knee is not None:
        reasons += _side(side_from_anatomy(bone, cartilage, affine, tissues=tissues), knee)
    return reasons


def _side(side: Side, knee: str) -> list[str]:
    if side.knee is None and side.insufficient:
        return []
    if side.knee is None:
        return [f"side cannot be inferred: {side.reason}"]
    if side.knee != knee:
        return [
            f"anatomy of a {side.knee} knee (margin {side.margin:.2f}), but stored as a {knee} knee"
        ]
    return []


def _structure(
    name: str,
    labels: Labels,
    value: int,
    box: tuple[slice, ...] | None,
    affine: NDArray[np.float64],
    spacing: NDArray[np.float64],
) -> list[str]:
    """Return the reasons why one bone or tissue is implausible."""
    if not box:
        return [f"no {name}"]
    inside = labels[box] == value
    volumes = piece_volumes(inside, spacing)
    reasons = []
    low, high = VOLUME_MM3[name]
    total = float(volumes.sum())
    if not low <= total <= high:
        reasons.append(
            f"{name} of {total / 1000:.3g} ml, expected {low / 1000:g} to {high / 1000:g} ml"
        )
    large = int((volumes >= _LARGE * volumes[0]).sum())
    if large > _MAX_PIECES[name]:
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
    """Return the directions in which a structure is cut, except the direction of its shaft."""
    directions = []
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
                directions.append(_DIRECTIONS[world][int(normal[world] > 0)])
    return directions
