"""Which knee a mask is of, from anatomy alone: no header, only where its voxels lie.

Five cues, each a length in mm that is positive when the patient's left is medial, as in a right
knee. They are measured in a frame that turns with the leg: along the long axis of the tibial
plateau (medial to lateral), across it (front to back), and up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qmri_lake.tissues import BONE, CARTILAGE

__all__ = ["Side", "side_from_anatomy"]

Labels = NDArray[np.uint8]
Points = NDArray[np.float64]

_LEAST_MM3 = {"femur": 20_000.0, "tibia": 10_000.0, "patella": 2_000.0, "femoral": 1_000.0,
              "tibial": 400.0}  # fmt: skip
"""Less of it than this can't be told from a fragment."""

_SCALE = {"plateau": 5.5, "trochlea": 6.0, "front": 5.0, "patella": 5.0, "condyles": 4.0}
"""Usual size of each cue, mm: means of the synthetic knees, near to those of a real one."""

_WEIGHT = {"plateau": 1.0, "trochlea": 1.0, "front": 1.0, "patella": 0.5, "condyles": 0.5}
_LIMIT = 1.5
"""No cue counts for more than so many times its usual size."""

_LEAST_MARGIN = 0.25
"""Below it the cues contradict each other, and nothing is said."""

_POINTS = 150_000
"""Voxels of a structure that are looked at, evenly spread: enough for its percentiles."""


@dataclass(frozen=True, slots=True)
class Side:
    """What anatomy says of the side of a knee."""

    knee: Literal["left", "right"] | None
    """None: undecided, see `reason`."""
    margin: float
    """0 (the cues cancel out) to 1.5; about 1 in a usual knee. NaN where there are no cues."""
    reason: str = ""
    """Why it is undecided."""
    cues: dict[str, float] = field(default_factory=dict)
    """mm; positive speaks for a right knee."""


def side_from_anatomy(bone: Labels, cartilage: Labels, affine: NDArray[np.float64]) -> Side:
    """Tell the side of a knee from its bones and cartilage.

    Parameters
    ----------
    bone : (slice, row, column) uint8
        `qmri_lake.tissues.BONE`.
    cartilage : (slice, row, column) uint8
        `qmri_lake.tissues.CARTILAGE`.
    affine : (4, 4) float64
        Voxel (slice, row, column, 1) to LPS mm.

    Returns
    -------
    Side
        `knee` is None, never a guess, when a structure is missing, the bones are not where bones
        are (femur above tibia, patella in front), or the cues contradict each other.

    Notes
    -----
    The medial tibial cartilage is longer from front to back than the lateral one; the front of the
    femoral cartilage, and of the femur below it, lies lateral, for there the trochlea is higher;
    the patella lies lateral of the middle; the medial condyle reaches further back.
    [assumption: the choice of cues and their weights]
    """
    points = {
        name: found
        for labels, names in ((bone, BONE), (cartilage, CARTILAGE))
        for name, found in _structures(labels, names, affine)
    }
    volume = float(abs(np.linalg.det(affine[:3, :3])))
    absent = [name for name, least in _LEAST_MM3.items() if points[name].count * volume < least]
    if absent:
        return Side(None, float("nan"), f"too little of {' and '.join(absent)}")
    at = {name: found.xyz for name, found in points.items()}
    if at["femur"][:, 2].mean() < at["tibia"][:, 2].mean() + 10:
        return Side(None, float("nan"), "the femur is not above the tibia")
    if at["patella"][:, 1].mean() > at["femur"][:, 1].mean():
        return Side(None, float("nan"), "the patella is not in front of the femur")
    cues = _cues(at)
    total = sum(
        weight * float(np.clip(cues[name] / _SCALE[name], -_LIMIT, _LIMIT))
        for name, weight in _WEIGHT.items()
    )
    score = total / sum(_WEIGHT.values())
    if not abs(score) >= _LEAST_MARGIN:
        return Side(None, abs(score), "its features contradict each other", cues)
    return Side("right" if score > 0 else "left", abs(score), cues=cues)


@dataclass(frozen=True, slots=True)
class _Structure:
    xyz: Points
    count: int


def _structures(
    labels: Labels, names: dict[str, int], affine: NDArray[np.float64]
) -> Iterator[tuple[str, _Structure]]:
    boxes = dict(enumerate(ndimage.find_objects(labels), start=1))
    for name, value in names.items():
        if name not in _LEAST_MM3:
            continue
        box = boxes.get(value)
        mask = labels[box] == value if box else np.zeros((0, 0, 0), bool)
        flat = np.flatnonzero(mask)
        step = len(flat) // _POINTS + 1
        index = np.stack(np.unravel_index(flat[::step], mask.shape), axis=-1)
        corner = [axis.start for axis in box] if box else [0, 0, 0]
        xyz = (index + corner) @ affine[:3, :3].T + affine[:3, 3]
        yield name, _Structure(xyz, len(flat))


def _cues(at: dict[str, Points]) -> dict[str, float]:
    top = _percentile(at["tibia"][:, 2], 99.5)
    z = at["tibia"][:, 2]
    turn = _leg_axes(at["tibia"][(z > top - 15) & (z < top - 4)])
    femur, patella, femoral, tibial = (
        at[name] @ turn for name in ("femur", "patella", "femoral", "tibial")
    )
    bottom = _percentile(femur[:, 2], 0.5)
    condyles = femur[femur[:, 2] < bottom + 30]
    middle = _middle(condyles[:, 0])
    low, high = _halves(tibial, _middle(tibial[:, 0]))
    behind = [_percentile(half[:, 1], 99.7) for half in _halves(condyles, middle)]
    return {
        "plateau": _length(high[:, 1]) - _length(low[:, 1]),
        "trochlea": middle - _front(femoral, 15),
        "front": middle - _front(femur[femur[:, 2] < bottom + 40], 8),
        "patella": middle - float(patella[:, 0].mean()),
        "condyles": behind[1] - behind[0],
    }


def _leg_axes(plateau: Points) -> NDArray[np.float64]:
    """Return axes (3, 3), as columns: across the plateau to the patient's left, back, and up."""
    flat = plateau[:, :2] - plateau[:, :2].mean(axis=0)
    across = np.linalg.eigh(flat.T @ flat)[1][:, 1]
    across = across if across[0] > 0 else -across
    return np.array([[across[0], -across[1], 0], [across[1], across[0], 0], [0, 0, 1]])


def _percentile(values: Any, q: float) -> float:
    return float(np.percentile(values, q)) if len(values) else float("nan")


def _middle(values: Any) -> float:
    return (_percentile(values, 1) + _percentile(values, 99)) / 2


def _length(values: Any) -> float:
    return _percentile(values, 98) - _percentile(values, 2)


def _halves(points: Points, middle: float) -> tuple[Points, Points]:
    return points[points[:, 0] < middle], points[points[:, 0] >= middle]


def _front(points: Points, share: float) -> float:
    """Return where the most anterior `share` percent lies, across the leg."""
    return float(points[points[:, 1] <= _percentile(points[:, 1], share), 0].mean())
