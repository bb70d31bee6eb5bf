"""Side of a knee, inferred from the positions of bones and cartilage without using a header.

There are five cues. Each is a length in mm that is positive if medial is to the patient's left, as
in a right knee. The cues are measured in the axes of the leg: along the long axis of the tibial
plateau (medial to lateral), perpendicular to this axis (front to back), and up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qmri_lake.tissues import BONE, CARTILAGE

__all__ = ["Side", "side_from_anatomy"]

Labels = NDArray[np.uint8]
Points = NDArray[np.float64]

_MIN_MM3 = {
    "femur": 20_000.0,
    "tibia": 10_000.0,
    "patella": 2_000.0,
    "femoral": 1_000.0,
    "tibial": 400.0,
}
"""Smallest volume of a structure; a smaller structure may be a fragment."""

_SCALE = {"plateau": 5.5, "trochlea": 6.0, "front": 5.0, "patella": 5.0, "condyles": 4.0}
"""Typical size of each cue, mm: the mean over the synthetic knees, close to that of a real knee."""

_WEIGHT = {"plateau": 1.0, "trochlea": 1.0, "front": 1.0, "patella": 0.5, "condyles": 0.5}
_NEEDED = {"plateau": "tibial", "trochlea": "femoral", "patella": "patella"}
"""Structure that a cue needs in addition to the femur and the tibia, which all cues need."""
_LIMIT = 1.5
"""Each cue is limited to this multiple of its typical size."""

_MIN_MARGIN = 0.25
"""Smallest margin of a decision; below it, the cues contradict each other."""

_POINTS = 150_000
"""Largest number of voxels of a structure, evenly spaced, from which percentiles are computed."""


@dataclass(frozen=True, slots=True)
class Side:
    """Side of a knee, inferred from the anatomy."""

    knee: Literal["left", "right"] | None
    """None if the side is undecided; `reason` then states why."""
    margin: float
    """0 (the cues cancel out) to 1.5; about 1 in a typical knee. NaN if there are no cues."""
    reason: str = ""
    """Reason why the side is undecided; empty if it is not."""
    cues: dict[str, float] = field(default_factory=dict)
    """Cues, mm; positive in a right knee."""
    insufficient: bool = False
    """Whether the side is undecided because the source of the masks has too few structures."""


def side_from_anatomy(
    bone: Labels,
    cartilage: Labels,
    affine: NDArray[np.float64],
    *,
    tissues: Collection[str] | None = None,
) -> Side:
    """Infer the side of a knee from its bones and cartilage.

    Parameters
    ----------
    bone : (slice, row, column) uint8
        Labels of `qmri_lake.tissues.BONE`.
    cartilage : (slice, row, column) uint8
        Labels of `qmri_lake.tissues.CARTILAGE`.
    affine : (4, 4) float64
        Voxel (slice, row, column, 1) to LPS mm.
    tissues : collection of str, optional
        Names of the bones and tissues that the source of the masks can have. Cues that need another
        structure are not used. Default: all.

    Returns
    -------
    Side
        `knee` is None if a structure that the source can have is missing, if the source has no
        femur or tibia, or neither cartilage of them nor a patella, if the positions are implausible
        (the femur should be above the tibia, and the patella in front of the femur), or if the cues
        contradict each other.

    Notes
    -----
    The medial tibial cartilage is longer from front to back than the lateral tibial cartilage. The
    most anterior part of the femoral cartilage, and of the femur below it, is lateral, because the
    trochlea is higher on the lateral side.
    The patella is lateral to the middle of the femoral condyles. The medial condyle extends further
    back than the lateral condyle.
    [assumption: the choice of cues and their weights]
    """
    structures = {
        name: structure
        for labels, names in ((bone, BONE), (cartilage, CARTILAGE))
        for name, structure in _structures(labels, names, affine)
    }
    given = [name for name in _MIN_MM3 if tissues is None or name in tissues]
    if lacking := _lacking(given):
        return Side(None, float("nan"), lacking, insufficient=True)
    volume = float(abs(np.linalg.det(affine[:3, :3])))
    small = [name for name in given if structures[name].count * volume < _MIN_MM3[name]]
    if small:
        return Side(None, float("nan"), f"{' and '.join(small)} absent or too small")
    points = {name: structures[name].xyz for name in given}
    if points["femur"][:, 2].mean() < points["tibia"][:, 2].mean() + 10:
        return Side(None, float("nan"), "the femur is not above the tibia")
    if "patella" in points and points["patella"][:, 1].mean() > points["femur"][:, 1].mean():
        return Side(None, float("nan"), "the patella is not in front of the femur")
    cues = _cues(points)
    total = sum(
        weight * float(np.clip(cues[name] / _SCALE[name], -_LIMIT, _LIMIT))
        for name, weight in _WEIGHT.items()
        if name in cues
    )
    score = total / sum(weight for name, weight in _WEIGHT.items() if name in cues)
    if not abs(score) >= _MIN_MARGIN:
        reason = "the anatomical features contradict each other"
        fewer = [name for name in _NEEDED.values() if name not in given]
        if fewer:
            reason += f", and the masks have no {' and no '.join(fewer)}"
        return Side(None, abs(score), reason, cues, insufficient=bool(fewer))
    return Side("right" if score > 0 else "left", abs(score), cues=cues)


def _lacking(given: Collection[str]) -> str:
    """Return why the side cannot be inferred from the given structures; "" if it can."""
    if absent := [name for name in ("femur", "tibia") if name not in given]:
        return f"the masks have no {' and no '.join(absent)}"
    if not set(given) & set(_NEEDED.values()):
        return f"the masks have none of {', '.join(_NEEDED.values())}"
    return ""


@dataclass(frozen=True, slots=True)
class _Structure:
    """A bone or tissue."""

    xyz: Points
    """Positions of evenly spaced voxels, mm."""
    count: int
    """Number of all voxels."""


def _structures(
    labels: Labels, names: dict[str, int], affine: NDArray[np.float64]
) -> Iterator[tuple[str, _Structure]]:
    boxes = dict(enumerate(ndimage.find_objects(labels), start=1))
    for name, value in names.items():
        if name not in _MIN_MM3:
            continue
        box = boxes.get(value)
        mask = labels[box] == value if box else np.zeros((0, 0, 0), bool)
        flat = np.flatnonzero(mask)
        step = len(flat) // _POINTS + 1
        index = np.stack(np.unravel_index(flat[::step], mask.shape), axis=-1)
        corner = [axis.start for axis in box] if box else [0, 0, 0]
        xyz = (index + corner) @ affine[:3, :3].T + affine[:3, 3]
        yield name, _Structure(xyz, len(flat))


def _cues(points: dict[str, Points]) -> dict[str, float]:
    top = _percentile(points["tibia"][:, 2], 99.5)
    z = points["tibia"][:, 2]
    axes = _leg_axes(points["tibia"][(z > top - 15) & (z < top - 4)])
    turned = {name: xyz @ axes for name, xyz in points.items()}
    femur = turned["femur"]
    bottom = _percentile(femur[:, 2], 0.5)
    condyles = femur[femur[:, 2] < bottom + 30]
    middle = _middle(condyles[:, 0])
    behind = [_percentile(half[:, 1], 99.7) for half in _halves(condyles, middle)]
    cues = {}
    if "tibial" in turned:
        low, high = _halves(turned["tibial"], _middle(turned["tibial"][:, 0]))
        cues["plateau"] = _length(high[:, 1]) - _length(low[:, 1])
    if "femoral" in turned:
        cues["trochlea"] = middle - _front(turned["femoral"], 15)
    cues["front"] = middle - _front(femur[femur[:, 2] < bottom + 40], 8)
    if "patella" in turned:
        cues["patella"] = middle - float(turned["patella"][:, 0].mean())
    cues["condyles"] = behind[1] - behind[0]
    return cues


def _leg_axes(plateau: Points) -> NDArray[np.float64]:
    """Return axes (3, 3), as columns: across the plateau to the patient's left, back, and up."""
    flat = plateau[:, :2] - plateau[:, :2].mean(axis=0)
    across = np.linalg.eigh(flat.T @ flat)[1][:, 1]
    across = across if across[0] > 0 else -across
    return np.array([[across[0], -across[1], 0], [across[1], across[0], 0], [0, 0, 1]])


def _percentile(values: NDArray[np.float64], q: float) -> float:
    return float(np.percentile(values, q)) if len(values) else float("nan")


def _middle(values: NDArray[np.float64]) -> float:
    return (_percentile(values, 1) + _percentile(values, 99)) / 2


def _length(values: NDArray[np.float64]) -> float:
    return _percentile(values, 98) - _percentile(values, 2)


def _halves(points: Points, middle: float) -> tuple[Points, Points]:
    return points[points[:, 0] < middle], points[points[:, 0] >= middle]


def _front(points: Points, percent: float) -> float:
    """Return the mean medial-lateral position of the most anterior `percent` of the points, mm."""
    return float(points[points[:, 1] <= _percentile(points[:, 1], percent), 0].mean())
