"""Check and crop the masks of a bone and its cartilage, and smooth them to occupancies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qmri_lake.core.array_api import Array, as_array, dtype_kind, move_like, namespace, to_numpy
from qmri_lake.core.geometry import apply_affine, checked_affine, voxel_spacing
from qmri_lake.errors import InputError, Reason
from qmri_lake.surface import ray_marching_numba as compiled
from qmri_lake.surface._array_api import label, smooth
from qmri_lake.surface.components_numba import largest_piece
from qmri_lake.surface.ray_marching_numba import SIGMA_MM
from qmri_lake.tissues import BONE, CARTILAGE, NO_MASK

__all__ = ["CARTILAGE_OF", "Occupancy", "occupancy_of"]

CARTILAGE_OF = {"femur": "femoral", "tibia": "tibial", "patella": "patellar"}
"""Name of the cartilage of each bone in `qmri_lake.tissues.CARTILAGE`."""

_SECOND_PIECE = 0.001
"""Smaller pieces of a bone are reported as implausible if they have at least this share of the
voxels of its largest piece."""


@dataclass(frozen=True)
class Occupancy:
    """Input of a map: one piece of bone and its cartilage, in a box with empty edges."""

    bone: Array
    """float32, smoothed by 0.6 mm, 0 to 1. `bone`, `cartilage` and `mask` are arrays of the same
    library as the input masks."""
    cartilage: Array
    """float32, smoothed by 0.6 mm, 0 to 1."""
    mask: Array
    """uint8, cartilage before smoothing."""
    affine: NDArray[np.float64]
    """(4, 4) voxel to mm, in the frame of the map."""
    low: NDArray[np.float64]
    """(3,) centre of the first voxel of the volume, in voxels of the box."""
    high: NDArray[np.float64]
    """(3,) centre of the last voxel of the volume, in voxels of the box."""
    volume: float
    """Volume of the cartilage, mm3."""
    dropped: int
    """Number of pieces of the bone that are not mapped."""
    notes: tuple[str, ...]
    """Notes on implausible masks."""

    @property
    def inverse(self) -> NDArray[np.float64]:
        """(3, 4) mm to voxel."""
        return np.ascontiguousarray(np.linalg.inv(self.affine)[:3])

    @property
    def spacing(self) -> NDArray[np.float64]:
        """(3,) voxel spacing along the axes of the array, mm."""
        return voxel_spacing(self.affine)

    def cut(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which points (n, 3), mm, lie on a face of the volume where it cuts the bone."""
        index = apply_affine(self.inverse, points)
        # The surface of bone in the last voxels lies half a voxel beyond their centres.
        beyond = (index < self.low - 0.2) | (index > self.high + 0.2)
        return np.asarray(beyond.any(axis=-1))


def occupancy_of(
    bone: ArrayLike,
    cartilage: ArrayLike,
    affine: ArrayLike,
    name: str,
    frame: NDArray[np.float64],
) -> Occupancy:
    """Check and smooth the masks of a bone and its cartilage; labels are converted to masks.

    Parameters
    ----------
    bone, cartilage : (slice, row, column)
        Masks (bool, or 0 and 1), or labels of `qmri_lake.tissues`.
    affine : (4, 4)
        Voxel to LPS mm.
    name : {"femur", "tibia", "patella"}
    frame : (4, 4)
        LPS mm to the axes of the map.

    Raises
    ------
    InputError
        If the masks have different shapes, contain floats or 255, or are empty, or if the affine is
        invalid.
    """
    whole, tissue = as_array(bone), as_array(cartilage)
    whole, tissue = _masks(whole, move_like(tissue, whole), name)
    matrix = frame @ checked_affine(affine, name)
    spacing = voxel_spacing(matrix)
    largest, others = _largest_piece(whole)
    notes = []
    large = int((others >= _SECOND_PIECE * _count(largest)).sum())
    if large:
        notes.append(f"the {name} is in {1 + large} pieces: only the largest is mapped")
    # Outside the volume, occupancy is 0, so that a bone that is cut ends at the face.
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
        notes=tuple(notes),
    )


def _masks(bone: Array, cartilage: Array, name: str) -> tuple[Array, Array]:
    xp = namespace(bone, "spherical_map")
    if bone.ndim != 3 or bone.shape != cartilage.shape:
        raise InputError(
            f"masks of shape {tuple(bone.shape)} and {tuple(cartilage.shape)}",
            expected="bone and cartilage on one grid of three axes",
            where=name,
            reason=Reason.GRID_MISMATCH,
        )
    highest = 0
    for given, what in ((bone, "bone"), (cartilage, "cartilage")):
        if dtype_kind(given) not in "bui":
            raise InputError(
                f"{what} of dtype {given.dtype}",
                expected="a mask, or labels",
                where=name,
                todo="Convert labels to integers: .astype(np.uint8).",
                reason=Reason.UNREADABLE_VALUE,
            )
        top = 1 if dtype_kind(given) == "b" or not given.size else int(xp.max(given))
        highest = max(highest, top)
        if top >= NO_MASK and bool(xp.any(given == NO_MASK)):
            raise InputError(
                f"{what} voxels that are 255 (never segmented)",
                expected="a label in every voxel",
                where=name,
                todo="Crop the volume to the segmented part, or segment the whole volume first.",
                reason=Reason.ABSENT_EXAM,
            )
    values = 1, 1
    # Two arrays of 0 and 1 are masks, since label arrays would have larger values.
    if highest > 1:
        values = BONE[name], CARTILAGE[CARTILAGE_OF[name]]
    found = []
    for given, value, what in zip(
        (bone, cartilage), values, (name, f"{CARTILAGE_OF[name]} cartilage"), strict=True
    ):
        mask = given if dtype_kind(given) == "b" else given == value
        if not bool(xp.any(mask)):
            raise InputError(
                f"no {what}",
                expected=f"voxels of the {name} and of its cartilage",
                where=name,
                reason=Reason.EMPTY_MASK,
            )
        found.append(mask)
    return found[0], found[1]


def _count(mask: Array) -> int:
    xp = namespace(mask, "spherical_map")
    return int(xp.count_nonzero(mask))


def _padded(mask: Array, margin: NDArray[np.int_]) -> Array:
    xp = namespace(mask, "spherical_map")
    shape = tuple(int(n + 2 * m) for n, m in zip(mask.shape, margin, strict=True))
    out = move_like(xp.zeros(shape, dtype=xp.uint8), mask)
    out[tuple(slice(int(m), -int(m)) for m in margin)] = xp.astype(mask, xp.uint8)
    return out


def _smooth(mask: Array, sigma: NDArray[np.float64]) -> Array:
    if not isinstance(mask, np.ndarray):
        return smooth(mask, sigma)
    found: NDArray[np.float32] = compiled.smooth(mask, *map(compiled.gaussian, sigma))
    return found


def _box(mask: Array) -> tuple[slice, ...]:
    """Return the bounding box of a mask."""
    xp = namespace(mask, "spherical_map")
    box = [slice(None)] * 3
    for axis in range(3):
        lines = xp.any(mask[tuple(box)], axis=tuple({0, 1, 2} - {axis}))
        occupied = np.flatnonzero(to_numpy(lines))
        box[axis] = slice(int(occupied[0]), int(occupied[-1]) + 1)
    return tuple(box)


def _largest_piece(mask: Array) -> tuple[Array, NDArray[np.intp]]:
    """Return the largest piece and the voxel counts of the other pieces."""
    if isinstance(mask, np.ndarray):
        found: tuple[Array, NDArray[np.intp]] = largest_piece(np.ascontiguousarray(mask))
        return found
    xp = namespace(mask, "spherical_map")
    box = _box(mask)
    pieces, count = label(mask[box])
    if count == 1:
        return mask, np.empty(0, np.intp)
    sizes = np.bincount(to_numpy(pieces).ravel())[1:]
    largest = xp.zeros_like(mask)
    largest[box] = pieces == int(sizes.argmax()) + 1
    return largest, np.delete(sizes, sizes.argmax())
