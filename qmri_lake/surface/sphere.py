"""Spherical maps of one bone: its shape, the cartilage over it, and T2 in that.

From a centre inside the bone, a direction a pixel; where it leaves the bone last, the surface
lies. Bone and cartilage are smoothed first, so that the surface is not one of voxels, and cartilage
is measured as the integral of its occupancy along the surface's normal: smoothing
hardly changes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from qmri_lake.errors import InputError, Reason
from qmri_lake.surface.articular import SURFACE_STATUS, close_area
from qmri_lake.surface.centre import find_centre
from qmri_lake.surface.layout import azimuths, directions, mirrored, polar_angles
from qmri_lake.surface.march import SIGMA_MM, march

__all__ = ["spherical_map"]

_SMALLEST_PIECE = 0.001
"""Pieces of a bone below this share of it are dropped and counted."""
_SECOND_PIECE = 0.05
"""Another piece of at least this share of the largest one is worth a flag."""
_CLOSING_MM = 5.0
_VALID_DEPTH = 0.5
"""T2 needs values along at least this part of the depth."""
_DEPTHS = 16
"""Samples of T2 through the depth of cartilage."""
_WHOLE = np.ones((3, 3, 3), bool)


def spherical_map(
    bone: ArrayLike,
    cartilage: ArrayLike,
    affine: ArrayLike,
    *,
    bone_name: str,
    knee: str,
    t2: ArrayLike | None = None,
    t2_affine: ArrayLike | None = None,
    dess_to_msme: ArrayLike | None = None,
    closing: float = _CLOSING_MM,
) -> xr.Dataset:
    """Map one bone's shape, cartilage thickness and T2 onto a sphere.

    Parameters
    ----------
    bone, cartilage : (slice, row, column) bool
        Masks of one bone and of its cartilage, on one grid.
    affine : (4, 4)
        Voxel to LPS mm.
    bone_name : {"femur", "tibia", "patella"}
    knee : {"right", "left"}
        A left knee is mirrored first.
    t2 : (slice, row, column), optional
        ms, NaN where there is none; on its own grid.
    t2_affine : (4, 4)
        Of that grid, voxel to LPS mm; needed with `t2`.
    dess_to_msme : (4, 4), optional
        x_t2 = T x_mask in LPS mm; default: both lie in one world.
    closing : float
        Gaps in the covered area of twice this many mm are bare bone, not its edge. [assumption]

    Returns
    -------
    Dataset
        (azimuth, polar), 224 x 224, degrees. `bone_shape`, mm from the centre to the bone's
        outermost surface; `thickness`, mm along the surface's normal, to the first gap and at most
        12 mm, 0 where the articular area is bare; `t2`, ms, mean through the full depth, NaN where
        less than half of it has a value; `surface_status` as `SURFACE_STATUS`; `area`, mm2 a pixel.
        All but the status are NaN outside the articular area. Attributes: `centre` (LPS mm of the
        exam itself), `width` (mm), `dropped_pieces`, and `flag`: what is odd, empty where nothing.

    Raises
    ------
    InputError
        No bone, no cartilage, none of it on the bone; masks of two sizes; an affine that is not
        finite or has a spacing of zero; `t2` without `t2_affine`.
    NotFoundError
        No such bone.

    Notes
    -----
    Occupancy is smoothed by a Gaussian of 0.6 mm. A sheet of less than 0.4 mm is not seen.
    """
    masks = _Masks.checked(bone, cartilage, affine, bone_name, knee)
    smooth = _smoothed(masks)
    centre = find_centre(smooth.bone, smooth.affine, bone_name)
    rays = directions(bone_name)
    surface, normal, depth = _traced(smooth, centre.place, rays.reshape(-1, 3))
    covered = np.nan_to_num(depth[:, 2]) > 0
    shape = rays.shape[:2]
    if not covered.any():
        raise InputError(
            f"no cartilage on the {bone_name}'s articular side",
            expected="cartilage that lies on the bone, where the map looks",
            where=bone_name,
            todo="Check the labels and the knee's side.",
            reason=Reason.EMPTY_MASK,
        )
    points = centre.place + surface[:, None] * rays.reshape(-1, 3)
    articular = close_area(covered.reshape(shape), points.reshape(*shape, 3), closing).ravel()
    status = np.where(covered, SURFACE_STATUS["covered"], SURFACE_STATUS["not_articular"])
    status[articular & ~covered] = SURFACE_STATUS["denuded"]
    cosine = np.einsum("ij,ij->i", normal, rays.reshape(-1, 3))
    made = {
        "bone_shape": np.where(articular, surface, np.nan),
        "thickness": np.where(covered, depth[:, 2], np.where(articular, 0.0, np.nan)),
        "t2": np.full(len(surface), np.nan),
        "area": np.where(articular, _pixel_areas(bone_name, surface, cosine), np.nan),
    }
    if t2 is not None:
        grid = _t2_grid(t2, t2_affine, dess_to_msme, knee)
        made["t2"][covered] = _t2_through(grid, points[covered], normal[covered], depth[covered])
    units = {"bone_shape": "mm", "thickness": "mm", "t2": "ms", "area": "mm2"}
    flags = [*masks.odd, *(["short shaft: its centre is placed by rule"] * centre.short_shaft)]
    found = xr.Dataset(
        {
            name: (("azimuth", "polar"), values.reshape(shape).astype(np.float32),
                   {"units": units[name]})
            for name, values in made.items()
        },
        coords={
            "azimuth": ("azimuth", azimuths(), {"units": "degrees"}),
            "polar": ("polar", polar_angles(bone_name), {"units": "degrees"}),
        },
        attrs={
            "bone": bone_name,
            "centre": (mirrored(np.eye(4), knee)[:3, :3] @ centre.place).tolist(),
            "width": centre.width,
            "dropped_pieces": masks.dropped,
            "flag": "; ".join(flags),
        },
    )  # fmt: skip
    found["surface_status"] = (
        ("azimuth", "polar"), status.reshape(shape).astype(np.uint8),
        {"flag_values": list(SURFACE_STATUS.values()),
         "flag_meanings": " ".join(SURFACE_STATUS)},
    )  # fmt: skip
    return found


@dataclass(frozen=True)
class _Masks:
    """What a map is made of, checked, of a right knee."""

    bone: NDArray[np.bool_]
    cartilage: NDArray[np.bool_]
    affine: NDArray[np.float64]
    dropped: int
    odd: tuple[str, ...]

    @classmethod
    def checked(
        cls, bone: ArrayLike, cartilage: ArrayLike, affine: ArrayLike, name: str, knee: str
    ) -> _Masks:
        directions(name)  # says which bones there are
        whole, tissue = (np.asarray(mask) != 0 for mask in (bone, cartilage))
        if whole.ndim != 3 or whole.shape != tissue.shape:
            raise InputError(
                f"masks of {whole.shape} and {tissue.shape} voxels",
                expected="bone and cartilage on one grid of three axes",
                where=name,
                reason=Reason.GRID_MISMATCH,
            )
        matrix = _checked_affine(affine, name)
        for mask, what in ((whole, name), (tissue, "cartilage")):
            if not mask.any():
                raise InputError(
                    f"no {what}", expected=f"voxels of the {name} and of its cartilage",
                    where=name, reason=Reason.EMPTY_MASK,
                )  # fmt: skip
        pieces, count = ndimage.label(whole, _WHOLE)
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
        largest = pieces == int(sizes.argmax()) + 1
        others = np.delete(sizes, sizes.argmax())
        odd = [f"the {name} is in {1 + n} pieces"
               for n in [int((others >= _SECOND_PIECE * sizes.max()).sum())] if n]  # fmt: skip
        dropped = int((others < _SMALLEST_PIECE * sizes.max()).sum())
        return cls(largest, tissue, mirrored(matrix, knee), dropped, tuple(odd))


def _checked_affine(affine: ArrayLike, where: str) -> NDArray[np.float64]:
    matrix = np.asarray(affine, np.float64)
    good = matrix.shape == (4, 4) and bool(np.isfinite(matrix).all())
    if not good or abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
        raise InputError(
            "an affine with a spacing of zero" if good else "no finite affine",
            expected="4 x 4 numbers, voxel to mm",
            where=where,
            reason=Reason.GRID_MISMATCH,
        )
    return matrix


@dataclass(frozen=True)
class _Smooth:
    """Occupancy of bone and cartilage, smoothed, cropped to what they reach."""

    bone: NDArray[np.float32]
    cartilage: NDArray[np.float32]
    affine: NDArray[np.float64]


def _smoothed(masks: _Masks) -> _Smooth:
    sigma = SIGMA_MM / np.linalg.norm(masks.affine[:3, :3], axis=0)
    margin = np.ceil(4 * sigma).astype(int)
    either = masks.bone | masks.cartilage
    box = []
    for axis in range(3):
        lines = np.flatnonzero(either.any(axis=tuple({0, 1, 2} - {axis})))
        box.append(slice(int(lines[0]), int(lines[-1]) + 1))
    # Beyond the edge of the volume there is nothing: what it cuts off ends there.
    around = [(int(n), int(n)) for n in margin + 1]
    bone, cartilage = (
        ndimage.gaussian_filter(
            np.pad(mask[tuple(box)].astype(np.float32), around), sigma, mode="constant"
        )
        for mask in (masks.bone, masks.cartilage)
    )
    affine = masks.affine.copy()
    first = np.array([s.start for s in box]) - (margin + 1)
    affine[:3, 3] += affine[:3, :3] @ first
    return _Smooth(bone, cartilage, affine)


def _traced(
    smooth: _Smooth, centre: NDArray[np.float64], rays: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """March along all rays: distance of the surface, its normal, and the cartilage behind it."""
    affine = smooth.affine
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(smooth.bone.shape) - 1)
    places = corners @ affine[:3, :3].T + affine[:3, 3]
    farthest = float(np.linalg.norm(places - centre, axis=1).max())
    n = len(rays)
    surface, normal, depth = np.empty(n), np.empty((n, 3)), np.empty((n, 3))
    inverse = np.ascontiguousarray(np.linalg.inv(affine)[:3])
    march(smooth.bone, smooth.cartilage, inverse, centre, np.ascontiguousarray(rays), farthest,
          surface, normal, depth)  # fmt: skip
    return surface, normal, depth


def _pixel_areas(
    bone: str, surface: NDArray[np.float64], cosine: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return what a pixel covers of the surface, mm2: rho^2 sin(polar) / (n.r) a unit of angle."""
    polar = np.deg2rad(polar_angles(bone))
    step = (polar[1] - polar[0]) * 2 * np.pi / len(azimuths())
    sine = np.tile(np.sin(polar), len(azimuths()))
    area: NDArray[np.float64] = surface**2 * sine * step / np.where(cosine > 0, cosine, np.nan)
    return area


@dataclass(frozen=True)
class _T2Grid:
    values: NDArray[np.float64]
    from_mm: NDArray[np.float64]


def _t2_grid(
    t2: ArrayLike, affine: ArrayLike | None, transform: ArrayLike | None, knee: str
) -> _T2Grid:
    """Return T2 and the way from a right knee's mm to its voxels."""
    if affine is None:
        raise InputError("t2 without t2_affine", expected="both", where="spherical map")
    there = np.eye(4) if transform is None else np.asarray(transform, np.float64)
    own = np.linalg.inv(_checked_affine(affine, "t2")) @ there @ mirrored(np.eye(4), knee)
    return _T2Grid(np.asarray(t2, np.float64), own)


def _t2_through(
    grid: _T2Grid, points: NDArray[Any], normal: NDArray[Any], depth: NDArray[Any]
) -> NDArray[np.float64]:
    """Return the mean T2 along the normal, through the full depth; trilinear over valid voxels."""
    share = (np.arange(_DEPTHS) + 0.5) / _DEPTHS
    along = depth[:, :1] + (depth[:, 1:2] - depth[:, :1]) * share
    places = points[:, None] + along[..., None] * normal[:, None]
    index = places @ grid.from_mm[:3, :3].T + grid.from_mm[:3, 3]
    valid = np.isfinite(grid.values)
    at = index.reshape(-1, 3).T
    weight = ndimage.map_coordinates(
        valid.astype(np.float64), at, order=1, mode="constant", cval=0.0
    )
    total = ndimage.map_coordinates(
        np.where(valid, grid.values, 0.0), at, order=1, mode="constant", cval=0.0
    )
    known = weight.reshape(along.shape) >= _VALID_DEPTH
    values = total.reshape(along.shape) / np.where(known, weight.reshape(along.shape), 1.0)
    count = known.sum(axis=1)
    mean = np.where(known, values, 0.0).sum(axis=1) / np.maximum(count, 1)
    return np.where(count >= _VALID_DEPTH * _DEPTHS, mean, np.nan)
