"""The pixels of a spherical map: angles, directions, areas, and the mirroring of left knees.

A map has 224 x 224 pixels. Its rows are azimuths; its columns are polar angles from the pole that
faces the joint. Directions are those of a right knee in the scanner's LPS axes. A left knee is
mirrored first, so that medial is on the same side of all maps. The grid was fitted to published
figures. [group]
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qmri_lake.core.text import did_you_mean
from qmri_lake.errors import InputError, NotFoundError, Reason

__all__ = [
    "BIOMARKERS",
    "BONES",
    "POLAR_MAX",
    "SIZE",
    "azimuths",
    "directions",
    "frame",
    "mirrored",
    "pixel_areas",
    "places",
    "polar_angles",
]

BONES = ("patella", "tibia", "femur")
"""Bones, in the order of the maps of a lake."""

BIOMARKERS = ("bone_shape", "thickness", "t2")
"""Quantities of a map, in the order of the maps of a lake."""

SIZE = 224
"""Rows and columns of a map."""

POLAR_MAX: Mapping[str, float] = MappingProxyType({"femur": 105.0, "tibia": 75.0, "patella": 90.0})
"""Angle from the pole to the far edge of the last column, degrees. The value for the femur is from
the group; the others are assumptions."""

T = TypeVar("T")
Vector = tuple[float, float, float]
_MEDIAL: Vector = (1.0, 0.0, 0.0)
_POLE: Mapping[str, Vector] = {
    "femur": (0.0, 0.0, -1.0),  # distal
    "tibia": (0.0, 0.0, 1.0),  # proximal
    "patella": (0.0, 1.0, 0.0),  # posterior [assumption]
}
_ZERO: Mapping[str, Vector] = {
    "femur": (0.0, -1.0, 0.0),  # anterior
    "tibia": (0.0, -1.0, 0.0),
    "patella": (0.0, 0.0, 1.0),  # proximal [assumption]
}


def azimuths() -> NDArray[np.float64]:
    """Return the azimuth (degrees, -180 to 180) of the centre of each row.

    0 is anterior (for the patella, proximal), +90 is medial, and -90 is lateral.
    """
    return -180 + (np.arange(SIZE) + 0.5) * 360 / SIZE


def polar_angles(bone: str, columns: int = SIZE) -> NDArray[np.float64]:
    """Return the polar angle (degrees) of the centre of each column, from the articular pole.

    If `columns` is larger than in a map, the additional columns lie beyond the window of the map.
    """
    return (np.arange(columns) + 0.5) * _of(POLAR_MAX, bone) / SIZE


def directions(bone: str, columns: int = SIZE) -> NDArray[np.float64]:
    """Return unit vectors from the centre of a right knee's bone through the pixels of its map.

    Parameters
    ----------
    bone : {"femur", "tibia", "patella"}
    columns : int
        Number of columns, as in `polar_angles`.

    Returns
    -------
    (azimuth, polar, 3) float64
        LPS: x to the patient's left, which is medial for a right knee.
    """
    around = np.deg2rad(azimuths())[:, None, None]
    down = np.deg2rad(polar_angles(bone, columns))[None, :, None]
    pole, zero = (np.array(_of(axes, bone)) for axes in (_POLE, _ZERO))
    flat = np.cos(around) * zero + np.sin(around) * np.array(_MEDIAL)
    found: NDArray[np.float64] = np.cos(down) * pole + np.sin(down) * flat
    return found


def places(bone: str, towards: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows and columns of the pixels in the directions of vectors (n, 3) of any length.

    Columns continue beyond the window, like those of `directions`.
    """
    pole, zero = (np.array(_of(axes, bone)) for axes in (_POLE, _ZERO))
    across = np.rad2deg(np.arctan2(towards @ np.array(_MEDIAL), towards @ zero))
    row = np.floor((across + 180) * SIZE / 360).astype(np.intp) % SIZE
    length = np.linalg.norm(towards, axis=-1)
    down = np.rad2deg(np.arccos(np.clip(towards @ pole / length, -1, 1)))
    return row, np.floor(down * SIZE / _of(POLAR_MAX, bone)).astype(np.intp)


def mirrored(affine: NDArray[np.float64], knee: str) -> NDArray[np.float64]:
    """Return the affine of a knee; the affine of a left knee is mirrored from left to right.

    Voxels are not resampled. T2 grids are mirrored in the same way. A transform T between two grids
    becomes M T M with M = diag(-1, 1, 1, 1).

    Parameters
    ----------
    affine : (4, 4)
        Voxel to LPS mm.
    knee : {"right", "left"}

    Raises
    ------
    InputError
        If `knee` is neither "right" nor "left".
    """
    if knee not in ("right", "left"):
        raise InputError(f"knee {knee!r}", expected="right or left", where="spherical map")
    return np.diag([-1.0, 1.0, 1.0, 1.0]) @ affine if knee == "left" else np.array(affine, float)


def frame(knee: str, axes: ArrayLike | None = None) -> NDArray[np.float64]:
    """Return the transform (4, 4) from the scanner's LPS mm to the axes of a right knee's map.

    Parameters
    ----------
    knee : {"right", "left"}
    axes : (3, 3), optional
        Rows: unit vectors to the left, the back and the top of the bone, in the scanner's LPS.
        Default: the scanner's own axes.

    Raises
    ------
    InputError
        If the axes are not at right angles, or are left-handed.
    """
    turn = np.eye(4)
    if axes is not None:
        given = np.asarray(axes, np.float64)
        if (
            given.shape != (3, 3)
            or not np.allclose(given @ given.T, np.eye(3), atol=1e-6)
            or np.linalg.det(given) < 0
        ):
            raise InputError(
                f"axes {given.round(3).tolist()}",
                expected="three unit vectors at right angles: left, posterior, superior",
                where="spherical map",
                reason=Reason.INCONSISTENT_GEOMETRY,
            )
        turn[:3, :3] = given
    return mirrored(turn, knee)


def pixel_areas(
    bone: str, surface: NDArray[np.float64], cosine: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the surface area of each pixel, mm2.

    The area is rho^2 sin(polar) / (n.r), multiplied by both angular steps of a pixel in radians.

    Parameters
    ----------
    bone : {"femur", "tibia", "patella"}
    surface, cosine : (azimuth, polar)
        rho, mm, and n.r, the cosine between the ray and the normal of the surface. A cosine below
        0.1 counts as 0.1, since the area of a grazing ray would be unbounded. [assumption]
    """
    polar = np.deg2rad(polar_angles(bone, surface.shape[1]))
    step = (polar[1] - polar[0]) * 2 * np.pi / SIZE
    area: NDArray[np.float64] = surface**2 * np.sin(polar) * step / np.maximum(cosine, 0.1)
    return area


def _of(values: Mapping[str, T], bone: str) -> T:
    if bone not in values:
        raise NotFoundError(
            f"no bone {bone!r}",
            expected=f"one of {', '.join(values)}",
            where="spherical map",
            todo=did_you_mean(bone, tuple(values)),
        )
    return values[bone]
