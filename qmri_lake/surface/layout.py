"""Where the pixels of a spherical map lie: angles, directions, sizes, and the mirror of left knees.

A map has 224 x 224 pixels. Its rows are azimuths, its columns polar angles from the pole that
looks at the joint. Directions are those of a right knee in the scanner's LPS axes: a left knee is
mirrored first, so that medial is on the same side of all maps. Fitted to published figures. [group]
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qmri_lake.errors import InputError, NotFoundError, Reason, did_you_mean

__all__ = [
    "BIOMARKERS", "BONES", "POLAR_MAX", "SIZE", "azimuths", "directions", "frame", "led",
    "mirrored", "pixel_areas", "places", "polar_angles",
]  # fmt: skip

BONES = ("patella", "tibia", "femur")
"""In the order of a lake's maps."""

BIOMARKERS = ("bone_shape", "thickness", "t2")
"""Likewise: what a map shows."""

SIZE = 224
"""Rows and columns of a map."""

POLAR_MAX: Mapping[str, float] = MappingProxyType({"femur": 105.0, "tibia": 75.0, "patella": 90.0})
"""Degrees from the pole to the last column's far edge. Femur [group], the others [assumption]."""

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
    """Return the azimuth (degrees, -180 to 180) of each row's middle.

    0 is anterior, or proximal for the patella; +90 medial, -90 lateral.
    """
    return -180 + (np.arange(SIZE) + 0.5) * 360 / SIZE


def polar_angles(bone: str, columns: int = SIZE) -> NDArray[np.float64]:
    """Return the polar angle (degrees) of each column's middle, from the articular pole.

    More `columns` than a map has go on beyond its window.
    """
    return (np.arange(columns) + 0.5) * _of(POLAR_MAX, bone) / SIZE


def directions(bone: str, columns: int = SIZE) -> NDArray[np.float64]:
    """Return unit vectors from the centre through the pixels of a right knee's bone.

    Parameters
    ----------
    bone : {"femur", "tibia", "patella"}
    columns : int
        As of `polar_angles`.

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
    """Return the pixels that look in directions (n, 3), of any length: rows and columns.

    Columns go on beyond the window as those of `directions` do.
    """
    pole, zero = (np.array(_of(axes, bone)) for axes in (_POLE, _ZERO))
    across = np.rad2deg(np.arctan2(towards @ np.array(_MEDIAL), towards @ zero))
    row = np.floor((across + 180) * SIZE / 360).astype(np.intp) % SIZE
    length = np.linalg.norm(towards, axis=-1)
    down = np.rad2deg(np.arccos(np.clip(towards @ pole / length, -1, 1)))
    return row, np.floor(down * SIZE / _of(POLAR_MAX, bone)).astype(np.intp)


def mirrored(affine: NDArray[np.float64], knee: str) -> NDArray[np.float64]:
    """Return the affine of a knee as a right one: a left knee's is mirrored left to right.

    Voxels stay where they are, so nothing is resampled. T2 grids are mirrored the same way, and a
    transform between two grids with M T M, M = diag(-1, 1, 1, 1).

    Parameters
    ----------
    affine : (4, 4)
        Voxel to LPS mm.
    knee : {"right", "left"}

    Raises
    ------
    InputError
        Another side.
    """
    if knee not in ("right", "left"):
        raise InputError(f"knee {knee!r}", expected="right or left", where="spherical map")
    return np.diag([-1.0, 1.0, 1.0, 1.0]) @ affine if knee == "left" else np.array(affine, float)


def frame(knee: str, axes: ArrayLike | None = None) -> NDArray[np.float64]:
    """Return the map from the scanner's LPS mm to where pixels are laid out: of a right knee.

    Parameters
    ----------
    knee : {"right", "left"}
    axes : (3, 3), optional
        Rows: unit vectors to the left, the back and the top of the bone, in the scanner's LPS.
        Default: the scanner's own axes.

    Raises
    ------
    InputError
        Axes that are not at right angles, or of another handedness.
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


def led(matrix: NDArray[np.float64], points: NDArray[Any]) -> NDArray[np.float64]:
    """Return where a matrix (3, 4) or (4, 4) leads points (..., 3).

    Not by `@`: BLAS starts threads for so many rows, which take more CPU time than the product.
    """
    found = np.einsum("...j,ij->...i", points, matrix[:3, :3]) + matrix[:3, 3]
    return np.asarray(found, np.float64)


def pixel_areas(
    bone: str, surface: NDArray[np.float64], cosine: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return what each pixel covers of the surface, mm2: rho^2 sin(polar) / (n.r) a unit of angle.

    Parameters
    ----------
    bone : {"femur", "tibia", "patella"}
    surface, cosine : (azimuth, polar)
        rho, mm, and n.r: of the ray and the surface's normal. A ray that grazes the surface would
        stand for any area: below 0.1 a cosine counts as 0.1. [assumption]
    """
    polar = np.deg2rad(polar_angles(bone, surface.shape[1]))
    step = (polar[1] - polar[0]) * 2 * np.pi / SIZE
    area: NDArray[np.float64] = surface**2 * np.sin(polar) * step / np.maximum(cosine, 0.1)
    return area


def _of(values: Mapping[str, T], bone: str) -> T:
    if bone not in values:
        raise NotFoundError(
            f"no bone {bone!r}", expected=f"one of {', '.join(values)}", where="spherical map",
            todo=did_you_mean(bone, tuple(values)),
        )  # fmt: skip
    return values[bone]
