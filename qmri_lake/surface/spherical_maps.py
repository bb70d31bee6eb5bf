"""Spherical maps of one bone: its shape, cartilage thickness and T2.

Each pixel is a direction from a centre inside the bone. The surface is where the ray leaves the
bone for the last time. Bone and cartilage are smoothed first, so that the surface has no voxel
steps. Thickness is the integral of occupancy along the normal of the surface; smoothing hardly
changes this integral.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from qmri_lake.core.array_api import to_numpy
from qmri_lake.errors import InputError, Reason
from qmri_lake.surface import _array_api as vectorised
from qmri_lake.surface.articular_area import SURFACE_STATUS, SurfaceStatus, close_area
from qmri_lake.surface.bone_centre import Centre, find_centre
from qmri_lake.surface.occupancy import Occupancy, occupancy_of
from qmri_lake.surface.ray_marching_numba import first_hit
from qmri_lake.surface.spherical_grid import (
    SIZE,
    azimuths,
    directions,
    frame,
    pixel_areas,
    polar_angles,
)
from qmri_lake.surface.thickness import mean_t2, measure_cartilage, normals_of

__all__ = [
    "MAP_STATUS",
    "MapStatus",
    "Method",
    "SurfaceView",
    "cast_rays",
    "check_options",
    "spherical_map",
]

Method = Literal["normal", "nearest"]


class MapStatus(IntEnum):
    """State of the map of a bone."""

    MAPPED = 0
    SHORT_SHAFT = 1
    """Mapped. The field of view cuts the shaft, so a rule determines the height of the centre."""
    ODD = 2
    """Mapped, but the masks or the map are implausible."""
    ABSENT = 3
    """Not mapped, since there is no bone, or no cartilage on the bone."""


MAP_STATUS: Mapping[str, int] = MappingProxyType(
    {status.name.lower(): int(status) for status in MapStatus}
)
"""Values of `MapStatus` by the words of ``flag_meanings``."""

_CLOSING_MM = 5.0
_MARGIN_DEGREES = 20.0
"""Width of the margin beyond the window that is also measured, degrees. Without a margin, the edge
of the window would be treated as an edge of cartilage."""
_MIN_COVERED_SHARE = 0.5
"""Smallest share of the cartilage volume over the mapped surface for a plausible map."""


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
        Masks of one bone and its cartilage (bool, or 0 and 1) on one grid, or label arrays of
        `qmri_lake.tissues`, from which the labels of this bone and its cartilage are selected.
    affine : (4, 4)
        Voxel to LPS mm.
    bone_name : {"femur", "tibia", "patella"}
    knee : {"right", "left"}
        A left knee is mirrored first.
    t2 : (slice, row, column), optional
        T2, ms, on its own grid; NaN where there is none.
    t2_affine : (4, 4)
        Voxel to LPS mm of the grid of `t2`; needed with `t2`.
    dess_to_msme : (4, 4), optional
        Transform T in x_t2 = T x_mask, in LPS mm; default: the identity.
    method : {"normal", "nearest"}
        ``"normal"``: thickness along the normal of the surface to the first gap, at most 12 mm
        [assumption]. ``"nearest"``: distance to the nearest point of the articular surface [group].
    axes : (3, 3), optional
        Rows: unit vectors to the left, the back and the top of the bone itself, in LPS. Default:
        the scanner's axes. [assumption]
    closing : float
        Radius of the morphological closing of the covered area, mm. Gaps narrower than twice this
        radius are denuded bone inside the articular area. The two sides of a tibia are closed
        separately. [assumption]
    articular : (azimuth, polar) bool, optional
        Articular area of a template, instead of the closed covered area.

    Returns
    -------
    Dataset
        (azimuth, polar), 224 x 224, degrees. `bone_shape`: distance from the centre to the
        outermost surface of the bone, mm. `thickness`: mm, 0 where the articular area is bare, NaN
        outside the articular area. `t2`: mean through the full depth, ms, NaN where less than half
        of the depth has a value. `surface_status`: as in `SurfaceStatus`. `area`: surface in the
        pixel, mm2. All are NaN where the ray hits no surface, or only the face of the volume that
        cuts the bone. Attributes: `centre` (LPS mm of the exam), `width` (mm), `short_shaft` (1 if
        the field of view cuts the articular part, so that a rule determines the height of the
        centre), `dropped_pieces`, and `flag` (notes on implausible results, or empty).

    Raises
    ------
    InputError
        If there is no bone, no cartilage, or no cartilage on the bone; if the masks have different
        shapes; if the affine contains NaN or infinity, has a spacing of zero or is not at right
        angles; or if `t2` is given without `t2_affine`.
    NotFoundError
        If there is no such bone.

    Notes
    -----
    Occupancy is smoothed by a Gaussian of 0.6 mm. [group, assumption]
    CuPy arrays are processed on their GPU; the map (1 MB) is returned as NumPy arrays.

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
    polar_angles(bone_name, 1)  # raises an error for an unknown bone
    to_map = frame(knee, axes)
    check_options(method, closing, articular)
    occupancy = occupancy_of(bone, cartilage, affine, bone_name, to_map)
    view = cast_rays(occupancy, bone_name, method=method, closing=closing, articular=articular)
    window, shape = np.s_[:, :SIZE], view.rho.shape
    area = pixel_areas(bone_name, view.rho, np.einsum("ijk,ijk->ij", view.normals, view.rays))
    known = view.status != SurfaceStatus.NOT_ARTICULAR
    maps = {
        "bone_shape": view.rho[window],
        "thickness": np.where(known, view.thickness[window], np.nan),
        "t2": np.full((SIZE, SIZE), np.nan),
        "area": area[window],
    }
    if t2 is not None:
        transform = np.eye(4) if dess_to_msme is None else np.asarray(dess_to_msme, np.float64)
        all_t2 = mean_t2(
            occupancy,
            view.points.reshape(-1, 3),
            view.normals.reshape(-1, 3),
            view.end,
            t2,
            t2_affine,
            transform @ np.linalg.inv(to_map),
        ).reshape(shape)
        maps["t2"] = np.where(view.thickness > 0, all_t2, np.nan)[window]
    flags = list(occupancy.notes)
    missing = int(np.isnan(view.rho[window]).sum())
    if missing:
        flags.append(
            f"no surface of the {bone_name} in {missing} pixels, {missing / SIZE**2:.1%} of its "
            "map: the field of view cuts it"
        )
    covered_volume = float(np.nansum((area * view.thickness)[window]))
    if covered_volume < _MIN_COVERED_SHARE * occupancy.volume:
        flags.append(
            f"only {covered_volume / occupancy.volume:.0%} of the cartilage lies over the surface "
            f"in the map of the {bone_name}"
        )
    return _dataset(maps, view.status, bone_name).assign_attrs(
        bone=bone_name,
        knee=knee,
        centre=(np.linalg.inv(to_map)[:3, :3] @ view.centre.place).tolist(),
        width=view.centre.width,
        short_shaft=int(view.centre.short_shaft),
        dropped_pieces=occupancy.dropped,
        flag="; ".join(flags),
    )


@dataclass(frozen=True)
class SurfaceView:
    """The surface of a bone along rays from its centre, for a map and columns beyond its window."""

    centre: Centre
    rays: NDArray[np.float64]
    """(azimuth, polar, 3) unit vectors."""
    rho: NDArray[np.float64]
    """(azimuth, polar) distance from the centre to the surface, mm; NaN if a ray hits none."""
    points: NDArray[np.float64]
    """(azimuth, polar, 3) points of the surface, mm."""
    normals: NDArray[np.float64]
    """(azimuth, polar, 3) outward unit normals."""
    thickness: NDArray[np.float64]
    """(azimuth, polar) thickness of cartilage, mm; 0 where there is none."""
    end: NDArray[np.float64]
    """(azimuth x polar,) end of cartilage, as in `qmri_lake.surface.thickness.CartilageDepth`."""
    status: NDArray[np.uint8]
    """(azimuth, polar) `SurfaceStatus`, only inside the window."""


def cast_rays(
    occupancy: Occupancy,
    bone_name: str,
    *,
    method: Method = "normal",
    closing: float = _CLOSING_MM,
    articular: ArrayLike | None = None,
) -> SurfaceView:
    """Find the surface of a bone, the cartilage over it, and its articular area.

    Parameters and errors are those of `spherical_map`.
    """
    step = polar_angles(bone_name, 1)[0] * 2
    rays = directions(bone_name, SIZE + int(np.ceil(_MARGIN_DEGREES / step)))
    shape, window = rays.shape[:2], np.s_[:, :SIZE]
    centre = find_centre(occupancy.bone, occupancy.affine, bone_name)
    rho, points = _surface(occupancy, centre.place, rays)
    normals = normals_of(occupancy, points.reshape(-1, 3))
    depth = measure_cartilage(occupancy, points.reshape(-1, 3), normals, method)
    thickness = depth.thickness.reshape(shape)
    covered = thickness > 0
    if not covered[window].any():
        raise InputError(
            f"no cartilage on the articular side of the {bone_name}",
            expected="cartilage on the bone, in the window of the map",
            where=bone_name,
            todo="Check the labels and the affine.",
            reason=Reason.EMPTY_MASK,
        )
    within = (
        _close_articular(bone_name, covered, points, closing)[window]
        if articular is None
        else np.asarray(articular, bool) & np.isfinite(rho)[window]
    )
    status = np.full((SIZE, SIZE), SurfaceStatus.NOT_ARTICULAR, np.uint8)
    status[within] = SurfaceStatus.DENUDED
    status[covered[window]] = SurfaceStatus.COVERED
    return SurfaceView(
        centre, rays, rho, points, normals.reshape(rays.shape), thickness, depth.end, status
    )


def check_options(method: str, closing: float, articular: ArrayLike | None) -> None:
    """Raise an error for invalid options of a map."""
    faults = []
    if method not in get_args(Method):
        faults.append((f"method {method!r}", "normal or nearest"))
    if not 0 <= closing < np.inf:
        faults.append((f"closing {closing}", "a radius of at least 0 mm"))
    if articular is not None and np.shape(articular) != (SIZE, SIZE):
        faults.append(
            (f"an articular area of shape {np.shape(articular)}", f"{SIZE} x {SIZE} pixels")
        )
    for found, expected in faults:
        raise InputError(
            found, expected=expected, where="spherical map", reason=Reason.UNREADABLE_VALUE
        )


def _surface(
    occupancy: Occupancy, centre: NDArray[np.float64], rays: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return rho (azimuth, polar) and the points; NaN where a ray hits no surface or a cut face."""
    flat = np.ascontiguousarray(rays.reshape(-1, 3))
    if isinstance(occupancy.bone, np.ndarray):
        surface = np.empty(len(flat))
        first_hit(occupancy.bone, occupancy.inverse, centre, flat, surface)
    else:
        surface = to_numpy(vectorised.first_hit(occupancy.bone, occupancy.inverse, centre, flat))
    points = centre + surface[:, None] * flat
    cut = occupancy.cut(points)
    surface[cut], points[cut] = np.nan, np.nan
    return surface.reshape(rays.shape[:2]), points.reshape(rays.shape)


def _close_articular(
    bone: str, covered: NDArray[np.bool_], points: NDArray[np.float64], radius: float
) -> NDArray[np.bool_]:
    if bone != "tibia":
        return close_area(covered, points, radius)
    # Bone between the plateaus is never covered, even if the plateaus are close to each other.
    medial = (azimuths() > 0)[:, None]
    return (close_area(covered & medial, points, radius) & medial) | (
        close_area(covered & ~medial, points, radius) & ~medial
    )


def _dataset(
    maps: dict[str, NDArray[np.float64]], status: NDArray[np.uint8], bone: str
) -> xr.Dataset:
    units = {"bone_shape": "mm", "thickness": "mm", "t2": "ms", "area": "mm2"}
    dims = ("azimuth", "polar")
    ds = xr.Dataset(
        {
            name: (dims, values.astype(np.float32), {"units": units[name]})
            for name, values in maps.items()
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
    ds["surface_status"] = (dims, status, flags)
    return ds
