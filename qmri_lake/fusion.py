"""Spherical maps as the three channels of an image: six strategies, and UCSF's files of maps."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.errors import InputError, NotFoundError, Reason, did_you_mean

__all__ = ["SCALES", "STRATEGIES", "merge", "read_bone_sphere", "write_bone_sphere"]

STRATEGIES: Mapping[str, tuple[str | None, str | None, str | None]] = MappingProxyType(
    {
        "t2": ("t2", "t2", "t2"),
        "thickness": ("thickness", "thickness", "thickness"),
        "bone_shape": ("bone_shape", "bone_shape", "bone_shape"),
        "bone_shape+thickness": ("thickness", "bone_shape", None),
        "thickness+t2": ("thickness", None, "t2"),
        "all": ("thickness", "bone_shape", "t2"),
    }
)
"""What goes into red, green and blue; None: zeros. Names [paper], channels [group, assumption]."""

SCALES: Mapping[str, float] = MappingProxyType({"bone_shape": 50.0, "thickness": 4.0, "t2": 80.0})
"""What is divided by: mm, mm, ms. Bone shape [group], thickness and T2 [assumption]."""

_CHANNELS = ("red", "green", "blue")
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_SD = (0.229, 0.224, 0.225)
"""Of the pictures that pretrained networks of torchvision have learned from."""
_KEY = "bone_sphere"
_SIDE = 224


def merge(
    maps: xr.DataArray | xr.Dataset,
    strategy: str,
    *,
    scale: Mapping[str, float] | None = None,
    imagenet: bool = False,
) -> xr.DataArray:
    """Merge spherical maps to images of three channels, lazily.

    Parameters
    ----------
    maps : DataArray, or Dataset with ``map``
        (..., biomarker, azimuth, polar) in any order, with the coordinate `biomarker`: bone_shape
        and thickness in mm, t2 in ms. NaN where there is no value. Not modified.
    strategy : str
        One of `STRATEGIES`.
    scale : mapping, optional
        What each biomarker is divided by, in its unit, where it differs from `SCALES`.
    imagenet : bool
        Then subtract the mean and divide by the standard deviation of ImageNet's pictures, in each
        channel, off by default [assumption]. What had no value gets what 0 becomes.

    Returns
    -------
    DataArray
        (..., channel, azimuth, polar) float32, `channel` red, green, blue. Values are not clipped;
        NaN becomes 0. [assumption]

    Raises
    ------
    NotFoundError
        No such strategy, or maps that lack a biomarker that it needs.
    InputError
        A scale that is not above 0.

    Examples
    --------
    >>> maps = xr.DataArray(
    ...     np.full((2, 224, 224), 2.0, np.float32), dims=("biomarker", "azimuth", "polar"),
    ...     coords={"biomarker": ["thickness", "bone_shape"]},
    ... )
    >>> image = merge(maps, "bone_shape+thickness")
    >>> image.sizes["channel"], image[:, 0, 0].values.tolist()
    (3, [0.5, 0.03999999910593033, 0.0])
    """
    array = _map_of(maps)
    channels = _channels(strategy)
    scales = _scales(scale)
    known = [str(name) for name in array["biomarker"].values]
    needed = [name for name in dict.fromkeys(channels) if name is not None]
    if absent := [name for name in needed if name not in known]:
        raise NotFoundError(
            f"no map of {', '.join(absent)}",
            expected=f"{', '.join(needed)} for strategy {strategy}",
            where="merge",
            todo=f"There are {', '.join(known)}.",
        )
    of = {
        name: (array.sel(biomarker=name, drop=True) / np.float32(scales[name])).fillna(0.0)
        for name in needed
    }
    zeros = xr.zeros_like(of[needed[0]])
    merged = xr.concat([of.get(name or "", zeros) for name in channels], "channel")
    merged = merged.assign_coords(channel=list(_CHANNELS))
    if imagenet:
        mean = xr.DataArray(np.array(_IMAGENET_MEAN, np.float32), dims="channel")
        merged = (merged - mean) / xr.DataArray(np.array(_IMAGENET_SD, np.float32), dims="channel")
    order = (..., "channel", "azimuth", "polar")
    attributes = {  # none of the map's own: here NaN is 0, and nothing has a unit
        "long_name": f"spherical maps, {strategy}",
        "strategy": strategy,
        "channels": ", ".join(
            f"{colour}: {f'{name} / {scales[name]:g}' if name else 0}"
            for colour, name in zip(_CHANNELS, channels, strict=True)
        ),
        "imagenet": int(imagenet),
    }
    image: xr.DataArray = merged.astype(np.float32).transpose(*order)
    image.attrs = attributes
    return image.rename("image")


def _map_of(maps: xr.DataArray | xr.Dataset) -> xr.DataArray:
    array = maps.get("map") if isinstance(maps, xr.Dataset) else maps
    wanted = ("biomarker", "azimuth", "polar")
    if array is None or "biomarker" not in array.coords or not set(wanted) <= set(array.dims):
        has = "no map" if array is None else f"dimensions {', '.join(map(str, array.dims))}"
        raise NotFoundError(
            has,
            expected=f"spherical maps along {', '.join(wanted)}, with the coordinate biomarker",
            where="merge",
            todo="Load group sphere: lake.load('sphere').",
        )
    return array


def _channels(strategy: str) -> tuple[str | None, str | None, str | None]:
    if strategy not in STRATEGIES:
        raise NotFoundError(
            f"no strategy {strategy!r}", expected=f"one of {', '.join(STRATEGIES)}", where="merge",
            todo=did_you_mean(str(strategy), tuple(STRATEGIES)),
        )  # fmt: skip
    return STRATEGIES[strategy]


def _scales(given: Mapping[str, float] | None) -> dict[str, float]:
    scales = {**SCALES, **(given or {})}
    for name, value in scales.items():
        if name not in SCALES or not (np.isfinite(value) and value > 0):
            raise InputError(
                f"scale {name}={value}", expected=f"{', '.join(SCALES)}, above 0", where="merge"
            )
    return scales


# -------------------------------------------------------------------------- UCSF's files of maps


def read_bone_sphere(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Read a spherical bone map as UCSF keeps it.

    Parameters
    ----------
    path : path
        A ``.mat`` file of MATLAB 5 to 7 with ``bone_sphere``, 224 x 224 x 3, mm, 0 for no value;
        its three channels are the same map.

    Returns
    -------
    (azimuth, polar) float32
        mm, NaN for no value.

    Raises
    ------
    NotFoundError
        No such file.
    InputError
        A file that can't be read, without ``bone_sphere``, of another size, or whose channels
        differ: what they would mean is not known.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    name = Path(path).name
    if not Path(path).is_file():
        raise NotFoundError("no such file", expected="a .mat file", where=os.fspath(path))
    try:
        found = loadmat(path, variable_names=[_KEY])
    except (OSError, ValueError, NotImplementedError, MatReadError) as error:
        kind = "a file of MATLAB 7.3" if isinstance(error, NotImplementedError) else "no .mat file"
        raise InputError(
            kind, expected="a .mat file of MATLAB 5 to 7", where=name,
            todo="Save it with save(..., '-v7').", reason=Reason.UNREADABLE_FILE,
        ) from error  # fmt: skip
    if _KEY not in found:
        raise InputError(f"no {_KEY}", expected=f"the variable {_KEY}", where=name,
                         reason=Reason.UNREADABLE_FILE)  # fmt: skip
    sphere: NDArray[Any] = found[_KEY]
    if sphere.shape != (_SIDE, _SIDE, 3):
        raise InputError(
            f"{' x '.join(map(str, sphere.shape))} values", expected="224 x 224 x 3", where=name,
            reason=Reason.GRID_MISMATCH,
        )  # fmt: skip
    if not (sphere == sphere[..., :1]).all():
        raise InputError(
            "channels that differ", expected="one map, three times", where=name,
            todo="Take the channel that you need, and build the map from it.",
            reason=Reason.UNREADABLE_FILE,
        )  # fmt: skip
    first = sphere[..., 0].astype(np.float32)
    return np.where(first == 0, np.float32(np.nan), first)


def write_bone_sphere(path: str | os.PathLike[str], shape: NDArray[Any] | xr.DataArray) -> None:
    """Write a spherical bone map as UCSF keeps it, see `read_bone_sphere`.

    Parameters
    ----------
    path : path
        Replaced if it is there.
    shape : (224, 224), azimuth and polar
        mm, NaN for no value.

    Raises
    ------
    InputError
        Another size; or a value of 0, which in the file would say that there is none.
    """
    from scipy.io import savemat

    values = np.asarray(shape, np.float64)
    if values.shape != (_SIDE, _SIDE):
        raise InputError(
            f"{' x '.join(map(str, values.shape))} values", expected="224 x 224",
            where="write_bone_sphere", reason=Reason.GRID_MISMATCH,
        )  # fmt: skip
    if (values == 0).any():
        raise InputError(
            "a distance of 0 mm", expected="above 0, or NaN for no value: in the file 0 is none",
            where="write_bone_sphere",
        )  # fmt: skip
    filled = np.nan_to_num(values, nan=0.0)
    savemat(path, {_KEY: np.repeat(filled[..., None], 3, axis=2)}, appendmat=False)
