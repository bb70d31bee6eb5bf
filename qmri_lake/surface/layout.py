"""Where the pixels of a spherical map lie: angles, directions, sizes, and the mirror of left knees.

A map has 224 x 224 pixels. Its rows are azimuths, its columns polar angles from the pole that
looks at the joint. Directions are those of a right knee in the scanner's LPS axes: a left knee is
mirrored first, so that medial is on the same side of all maps. Fitted to published figures. [group]
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from qmri_lake.errors import InputError, NotFoundError, did_you_mean

__all__ = ["POLAR_MAX", "SIZE", "azimuths", "directions", "mirrored", "polar_angles"]

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


def polar_angles(bone: str) -> NDArray[np.float64]:
    """Return the polar angle (degrees) of each column's middle, from the articular pole."""
    return (np.arange(SIZE) + 0.5) * _of(POLAR_MAX, bone) / SIZE


def directions(bone: str) -> NDArray[np.float64]:
    """Return unit vectors from the centre through the pixels of a right knee's bone.

    Parameters
    ----------
    bone : {"femur", "tibia", "patella"}

    Returns
    -------
    (azimuth, polar, 3) float64
        LPS: x to the patient's left, which is medial for a right knee.
    """
    around = np.deg2rad(azimuths())[:, None, None]
    down = np.deg2rad(polar_angles(bone))[None, :, None]
    pole, zero = (np.array(_of(axes, bone)) for axes in (_POLE, _ZERO))
    flat = np.cos(around) * zero + np.sin(around) * np.array(_MEDIAL)
    found: NDArray[np.float64] = np.cos(down) * pole + np.sin(down) * flat
    return found


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


def _of(values: Mapping[str, T], bone: str) -> T:
    if bone not in values:
        raise NotFoundError(
            f"no bone {bone!r}", expected=f"one of {', '.join(values)}", where="spherical map",
            todo=did_you_mean(bone, tuple(values)),
        )  # fmt: skip
    return values[bone]
