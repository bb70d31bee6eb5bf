"""Masks of a bone and its cartilage, checked, cropped and smoothed, so that they have a surface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qmri_lake.errors import InputError, Reason
from qmri_lake.relaxometry.arguments import namespace
from qmri_lake.surface import march
from qmri_lake.surface.layout import led
from qmri_lake.surface.march import SIGMA_MM
from qmri_lake.surface.pieces import largest_piece
from qmri_lake.surface.vectorised import as_array, host, kind, label, moved, smooth
from qmri_lake.tissues import BONE, CARTILAGE, NO_MASK

__all__ = ["CARTILAGE_OF", "Occupancy", "checked_affine", "occupancy_of"]

CARTILAGE_OF = {"femur": "femoral", "tibia": "tibial", "patella": "patellar"}
"""The cartilage of each bone, as `qmri_lake.tissues.CARTILAGE` calls it."""

_SECOND_PIECE = 0.001
"""Smaller pieces of a bone are dropped and counted; one of this share of the largest is odd."""
_SQUARE = 1e-3
"""Cosine between two array axes up to which they count as at right angles."""

Affine = NDArray[np.float64]


@dataclass(frozen=True)
class Occupancy:
    """What a map is made of: one piece of bone, its cartilage, on a box with empty edges."""

    bone: Any
    """float32, smoothed by 0.6 mm, 0 to 1. This and the next two are of the library that the masks
    came in."""
    cartilage: Any
    """float32, likewise."""
    mask: Any
    """uint8, cartilage as it came."""
    affine: NDArray[np.float64]
    """(4, 4) voxel to mm, in the frame of the map."""
    low: NDArray[np.float64]
    """(3,) centre of the volume's first voxel, in voxels of the box; `high`, of its last one."""
    high: NDArray[np.float64]
    volume: float
    """Of the cartilage, mm3."""
    dropped: int
    """Pieces of bone that are not part of the map."""
    odd: tuple[str, ...]
    """What is strange about the masks, in words."""

    @property
    def inverse(self) -> NDArray[np.float64]:
        """(3, 4) mm to voxel."""
        return np.ascontiguousarray(np.linalg.inv(self.affine)[:3])

    @property
    def spacing(self) -> NDArray[np.float64]:
        """(3,) mm along the axes of the array."""
        found: NDArray[np.float64] = np.linalg.norm(self.affine[:3, :3], axis=0)
        return found

    def cut(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which points (n, 3), mm, lie on a face of the volume, where no bone ends."""
        index = led(self.inverse, points)
        # A surface of the last voxels alone lies half a voxel beyond their centres.
        beyond = (index < self.low - 0.2) | (index > self.high + 0.2)
        return np.asarray(beyond.any(axis=-1))


def occupancy_of(
    bone: ArrayLike,
    cartilage: ArrayLike,
    affine: ArrayLike,
    name: str,
    frame: NDArray[np.float64],
) -> Occupancy:
    """Check masks, or take those of a bone from labels, and smooth them.

    Parameters
    ----------
    bone, cartilage : (slice, row, column)
        Masks (bool, or 0 and 1), or labels of `qmri_lake.tissues`.
    affine : (4, 4)
        Voxel to LPS mm.
    name : {"femur", "tibia", "patella"}
    frame : (4, 4)
        LPS mm to the axes of the map.
    """
    whole, tissue = as_array(bone), as_array(cartilage)
    whole, tissue = _masks(whole, moved(tissue, whole), name)
    matrix = frame @ checked_affine(affine, name)
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    largest, others = _largest_piece(whole)
    odd = []
    large = int((others >= _SECOND_PIECE * _count(largest)).sum())
    if large:
        odd.append(f"the {name} is in {1 + large} pieces: only the largest is mapped")
    # Beyond the edge of the volume there is nothing: what it cuts off ends there.
    sigma = SIGMA_MM / spacing
    margin = np.ceil(4 * sigma).astype(int) + 1
    box = _box(largest | tissue)
    bone_box, mask = (_padded(m[box], margin) for m in (largest, tissue))
    first = np.array([s.start for s in box]) - margin
    matrix[:3, 3] += matrix[:3, :3] @ first
    return Occupancy(
        bone=_smooth(bone_box, sigma),
        cartilage=_smooth(mask, sigma),
        mask=mask,
        affine=matrix,
        low=-first.astype(np.float64),
        high=np.array(whole.shape) - 1.0 - first,
        volume=float(_count(tissue) * spacing.prod()),
        dropped=len(others),
        odd=tuple(odd),
    )


def checked_affine(affine: ArrayLike, where: str, *, square: bool = True) -> Affine:
    """Return an affine as float64; refuse one that is not finite, or flat, or not at right angles.

    Smoothing needs right angles; interpolating in a grid (`square` False) does not.
    """
    matrix = np.asarray(affine, np.float64)
    fault = ""
    if matrix.shape != (4, 4):
        fault = f"an affine of {' x '.join(map(str, matrix.shape)) or 'one number'}"
    elif not np.isfinite(matrix).all():
        fault = "no finite affine"
    else:
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        unit = matrix[:3, :3] / np.maximum(spacing, 1e-6)
        if not (spacing > 1e-6).all():
            fault = f"an affine with a spacing of zero: {spacing.round(4).tolist()} mm"
        elif square and not np.allclose(unit.T @ unit, np.eye(3), atol=_SQUARE):
            fault = "an affine whose axes are not at right angles"
        elif abs(np.linalg.det(unit)) < _SQUARE:
            fault = "an affine whose axes lie in one plane"
    if fault:
        raise InputError(
            fault,
            expected="4 x 4 numbers, voxel to LPS mm",
            where=where,
            reason=Reason.INCONSISTENT_GEOMETRY,
        )
    return matrix


def _masks(bone: Any, cartilage: Any, name: str) -> tuple[Any, Any]:
    xp = namespace(bone, "spherical_map")
    if bone.ndim != 3 or bone.shape != cartilage.shape:
        raise InputError(
            f"masks of {bone.shape} and {cartilage.shape} voxels",
            expected="bone and cartilage on one grid of three axes",
            where=name,
            reason=Reason.GRID_MISMATCH,
        )
    highest = 0
    for given, what in ((bone, "bone"), (cartilage, "cartilage")):
        if kind(given) not in "bui":
            raise InputError(
                f"{what} of {given.dtype}", expected="a mask, or labels", where=name,
                todo="If they are labels, say so: .astype(np.uint8).",
                reason=Reason.UNREADABLE_VALUE,
            )  # fmt: skip
        top = 1 if kind(given) == "b" or not given.size else int(xp.max(given))
        highest = max(highest, top)
        if top >= NO_MASK and bool(xp.any(given == NO_MASK)):
            raise InputError(
                f"voxels of {what} that are 255, which is no mask",
                expected="a label in every voxel",
                where=name,
                todo="Crop the volume to its extent; segment it first if it never was.",
                reason=Reason.ABSENT_EXAM,
            )
    values = 1, 1
    # Two arrays of 0 and 1 are masks: of labels at least one would know more than one tissue.
    if highest > 1:
        values = BONE[name], CARTILAGE[CARTILAGE_OF[name]]
    found = []
    for given, value, what in zip(
        (bone, cartilage), values, (name, f"{CARTILAGE_OF[name]} cartilage"), strict=True
    ):
        mask = given if kind(given) == "b" else given == value
        if not bool(xp.any(mask)):
            raise InputError(
                f"no {what}", expected=f"voxels of the {name} and of its cartilage",
                where=name, reason=Reason.EMPTY_MASK,
            )  # fmt: skip
        found.append(mask)
    return found[0], found[1]


def _count(mask: Any) -> int:
    xp = namespace(mask, "spherical_map")
    return int(xp.count_nonzero(mask))


def _padded(mask: Any, margin: NDArray[np.int_]) -> Any:
    xp = namespace(mask, "spherical_map")
    shape = tuple(int(n + 2 * m) for n, m in zip(mask.shape, margin, strict=True))
    out = moved(xp.zeros(shape, dtype=xp.uint8), mask)
    out[tuple(slice(int(m), -int(m)) for m in margin)] = xp.astype(mask, xp.uint8)
    return out


def _smooth(mask: Any, sigma: NDArray[np.float64]) -> Any:
    if not isinstance(mask, np.ndarray):
        return smooth(mask, sigma)
    found: NDArray[np.float32] = march.smooth(mask, *map(march.gaussian, sigma))
    return found


def _box(mask: Any) -> tuple[slice, ...]:
    """Return the box that holds a mask: axis by axis, the rest already cut to it."""
    xp = namespace(mask, "spherical_map")
    box = [slice(None)] * 3
    for axis in range(3):
        lines = xp.any(mask[tuple(box)], axis=tuple({0, 1, 2} - {axis}))
        held = np.flatnonzero(host(lines))
        box[axis] = slice(int(held[0]), int(held[-1]) + 1)
    return tuple(box)


def _largest_piece(mask: Any) -> tuple[Any, NDArray[np.intp]]:
    """Return the largest piece and the voxel counts of the others."""
    if isinstance(mask, np.ndarray):
        found: tuple[Any, NDArray[np.intp]] = largest_piece(np.ascontiguousarray(mask))
        return found
    xp = namespace(mask, "spherical_map")
    box = _box(mask)
    pieces, count = label(mask[box])
    if count == 1:
        return mask, np.empty(0, np.intp)
    sizes = np.bincount(host(pieces).ravel())[1:]
    largest = xp.zeros_like(mask)
    largest[box] = pieces == int(sizes.argmax()) + 1
    return largest, np.delete(sizes, sizes.argmax())
