"""Spherical maps of one bone: its shape, the cartilage over it, and T2 in that.

From a centre inside the bone, a direction a pixel; where it leaves the bone last, the surface
lies. Bone and cartilage are smoothed first, so that the surface is not one of voxels, and cartilage
is measured as the integral of its occupancy along the surface's normal: smoothing
hardly changes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from qmri_lake.errors import InputError, Reason
from qmri_lake.surface import vectorised
from qmri_lake.surface.articular import SURFACE_STATUS, close_area
from qmri_lake.surface.centre import Centre, find_centre
from qmri_lake.surface.layout import (
    SIZE,
    azimuths,
    directions,
    frame,
    pixel_areas,
    polar_angles,
)
from qmri_lake.surface.march import meet
from qmri_lake.surface.occupancy import Occupancy, occupancy_of
from qmri_lake.surface.thickness import cover_of, mean_t2, normals_of

__all__ = ["Method", "View", "check_options", "look_at", "spherical_map"]

Method = Literal["normal", "nearest"]

_CLOSING_MM = 5.0
_BEYOND = 20.0
"""Degrees beyond the window that are looked at, so that its edge is no edge of cartilage."""
_ELSEWHERE = 0.5
"""Part of the cartilage's volume that should lie over the surface that the map sees."""


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
    method: Method = "normal",
    axes: ArrayLike | None = None,
    closing: float = _CLOSING_MM,
    articular: ArrayLike | None = None,
) -> xr.Dataset:
    """Map one bone's shape, cartilage thickness and T2 onto a sphere.

    Parameters
    ----------
    bone, cartilage : (slice, row, column)
        On one grid: masks of one bone and its cartilage (bool, or 0 and 1), or labels of
        `qmri_lake.tissues`, of which this bone's are taken.
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
    method : {"normal", "nearest"}
        Thickness along the surface's normal to the first gap, at most 12 mm [assumption], or the
        distance to the nearest point of the articular surface [group].
    axes : (3, 3), optional
        Rows: unit vectors to the left, the back and the top of the bone itself, in LPS. Default:
        the scanner's axes. [assumption]
    closing : float
        Gaps in the covered area of less than twice this many mm are bare bone, not its edge; a
        tibia's two sides are closed each for itself. [assumption]
    articular : (azimuth, polar) bool, optional
        The articular area, of a template, instead of the closed covered one.

    Returns
    -------
    Dataset
        (azimuth, polar), 224 x 224, degrees. `bone_shape`, mm from the centre to the bone's
        outermost surface; `thickness`, mm, 0 where the articular area is bare, NaN outside of it;
        `t2`, ms, mean through the full depth, NaN where less than half of it has a value;
        `surface_status` as `SURFACE_STATUS`; `area`, mm2 of surface a pixel. All are NaN where no
        surface is seen, or only the face of the volume that cuts the bone. Attributes: `centre`
        (LPS mm of the exam itself), `width` (mm), `short_shaft` (1: the field of view ends before
        the centre's crop, so the centre is placed by rule), `dropped_pieces`, and `flag`: what is
        odd, empty where nothing.

    Raises
    ------
    InputError
        No bone, no cartilage, none of it on the bone; masks of two sizes; an affine that is not
        finite, has a spacing of zero or is not at right angles; `t2` without `t2_affine`.
    NotFoundError
        No such bone.

    Notes
    -----
    Occupancy is smoothed by a Gaussian of 0.6 mm. [group, assumption]
    CuPy masks, and T2, are measured on their GPU; the map, 1 MB, comes back as NumPy arrays.

    Examples
    --------
    >>> import qmri_lake as ql
    >>> exam = ql.phantom.knee(ql.phantom.exams(1)[0], shape=(40, 96, 96))
    >>> ds = ql.surface.spherical_map(
    ...     exam.dess_bone, exam.dess_cartilage, exam.dess_affine, bone_name="femur", knee="right"
    ... )
    >>> dict(ds.sizes), ds.flag
    ({'azimuth': 224, 'polar': 224}, '')
    """
    polar_angles(bone_name, 1)  # says which bones there are
    to_map = frame(knee, axes)
    check_options(method, closing, articular)
    occupancy = occupancy_of(bone, cartilage, affine, bone_name, to_map)
    seen = look_at(occupancy, bone_name, method=method, closing=closing, articular=articular)
    window, shape = np.s_[:, :SIZE], seen.rho.shape
    area = pixel_areas(bone_name, seen.rho, np.einsum("ijk,ijk->ij", seen.normals, seen.rays))
    known = seen.status != SURFACE_STATUS["not_articular"]
    made = {
        "bone_shape": seen.rho[window],
        "thickness": np.where(known, seen.thickness[window], np.nan),
        "t2": np.full((SIZE, SIZE), np.nan),
        "area": area[window],
    }
    if t2 is not None:
        there = np.eye(4) if dess_to_msme is None else np.asarray(dess_to_msme, np.float64)
        all_t2 = mean_t2(
            occupancy, seen.points.reshape(-1, 3), seen.normals.reshape(-1, 3), seen.end, t2,
            t2_affine, there @ np.linalg.inv(to_map),
        ).reshape(shape)  # fmt: skip
        made["t2"] = np.where(seen.thickness > 0, all_t2, np.nan)[window]
    flags = list(occupancy.odd)
    missing = int(np.isnan(seen.rho[window]).sum())
    if missing:
        flags.append(
            f"{missing} pixels see no end of the {bone_name}, {missing / SIZE**2:.1%} of its map: "
            "the field of view cuts it"
        )
    over = float(np.nansum((area * seen.thickness)[window]))
    if over < _ELSEWHERE * occupancy.volume:
        flags.append(
            f"only {over / occupancy.volume:.0%} of the cartilage lies where the map sees the "
            f"{bone_name}"
        )
    return _dataset(made, seen.status, bone_name).assign_attrs(
        bone=bone_name,
        knee=knee,
        centre=(np.linalg.inv(to_map)[:3, :3] @ seen.centre.place).tolist(),
        width=seen.centre.width,
        short_shaft=int(seen.centre.short_shaft),
        dropped_pieces=occupancy.dropped,
        flag="; ".join(flags),
    )


@dataclass(frozen=True)
class View:
    """A bone as it is seen from its centre: a map, and some columns beyond its window."""

    centre: Centre
    rays: NDArray[np.float64]
    """(azimuth, polar, 3) unit vectors."""
    rho: NDArray[np.float64]
    """(azimuth, polar), mm to the surface; NaN where none is seen."""
    points: NDArray[np.float64]
    """(azimuth, polar, 3) of the surface, mm."""
    normals: NDArray[np.float64]
    """(azimuth, polar, 3) outward."""
    thickness: NDArray[np.float64]
    """(azimuth, polar), mm; 0 where there is none."""
    end: NDArray[np.float64]
    """(azimuth x polar,) as of `qmri_lake.surface.thickness.Cover`."""
    status: NDArray[np.uint8]
    """(azimuth, polar) of the window alone, as `SURFACE_STATUS`."""


def look_at(
    occupancy: Occupancy,
    bone_name: str,
    *,
    method: Method = "normal",
    closing: float = _CLOSING_MM,
    articular: ArrayLike | None = None,
) -> View:
    """Find a bone's surface, the cartilage over it, and what of it is articular.

    Parameters and errors are those of `spherical_map`.
    """
    step = polar_angles(bone_name, 1)[0] * 2
    rays = directions(bone_name, SIZE + int(np.ceil(_BEYOND / step)))
    shape, window = rays.shape[:2], np.s_[:, :SIZE]
    centre = find_centre(occupancy.bone, occupancy.affine, bone_name)
    rho, points = _surface(occupancy, centre.place, rays)
    normals = normals_of(occupancy, points.reshape(-1, 3))
    cover = cover_of(occupancy, points.reshape(-1, 3), normals, method)
    thickness = cover.thickness.reshape(shape)
    covered = thickness > 0
    if not covered[window].any():
        raise InputError(
            f"no cartilage on the {bone_name}'s articular side",
            expected="cartilage that lies on the bone, where the map looks",
            where=bone_name,
            todo="Check the labels and the affine.",
            reason=Reason.EMPTY_MASK,
        )
    within = (
        _closed(bone_name, covered, points, closing)[window]
        if articular is None
        else np.asarray(articular, bool) & np.isfinite(rho)[window]
    )
    status = np.full((SIZE, SIZE), SURFACE_STATUS["not_articular"], np.uint8)
    status[within] = SURFACE_STATUS["denuded"]
    status[covered[window]] = SURFACE_STATUS["covered"]
    return View(
        centre, rays, rho, points, normals.reshape(rays.shape), thickness, cover.end, status
    )


def check_options(method: str, closing: float, articular: ArrayLike | None) -> None:
    """Refuse options that no map can be made with."""
    faults = []
    if method not in get_args(Method):
        faults.append((f"method {method!r}", "normal or nearest"))
    if not 0 <= closing < np.inf:
        faults.append((f"closing {closing}", "mm, not negative"))
    if articular is not None and np.shape(articular) != (SIZE, SIZE):
        faults.append((f"an articular area of {np.shape(articular)}", f"{SIZE} x {SIZE} pixels"))
    for found, expected in faults:
        raise InputError(
            found, expected=expected, where="spherical map", reason=Reason.UNREADABLE_VALUE
        )


def _surface(
    occupancy: Occupancy, centre: NDArray[np.float64], rays: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return rho (azimuth, polar) and the points; NaN where no surface, or only a cut, is met."""
    flat = np.ascontiguousarray(rays.reshape(-1, 3))
    if isinstance(occupancy.bone, np.ndarray):
        surface = np.empty(len(flat))
        meet(occupancy.bone, occupancy.inverse, centre, flat, surface)
    else:
        surface = vectorised.host(vectorised.meet(occupancy.bone, occupancy.inverse, centre, flat))
    points = centre + surface[:, None] * flat
    cut = occupancy.cut(points)
    surface[cut], points[cut] = np.nan, np.nan
    return surface.reshape(rays.shape[:2]), points.reshape(rays.shape)


def _closed(
    bone: str, covered: NDArray[np.bool_], points: NDArray[np.float64], radius: float
) -> NDArray[np.bool_]:
    if bone != "tibia":
        return close_area(covered, points, radius)
    # Between its plateaus bone was never covered, however near they are.
    medial = (azimuths() > 0)[:, None]
    return (close_area(covered & medial, points, radius) & medial) | (
        close_area(covered & ~medial, points, radius) & ~medial
    )


def _dataset(
    made: dict[str, NDArray[np.float64]], status: NDArray[np.uint8], bone: str
) -> xr.Dataset:
    units = {"bone_shape": "mm", "thickness": "mm", "t2": "ms", "area": "mm2"}
    dims = ("azimuth", "polar")
    found = xr.Dataset(
        {
            name: (dims, values.astype(np.float32), {"units": units[name]})
            for name, values in made.items()
        },
        coords={
            "azimuth": ("azimuth", azimuths(), {"units": "degrees"}),
            "polar": ("polar", polar_angles(bone), {"units": "degrees"}),
        },
    )
    flags = {
        "flag_values": list(SURFACE_STATUS.values()),
        "flag_meanings": " ".join(SURFACE_STATUS),
    }
    found["surface_status"] = (dims, status, flags)
    return found
