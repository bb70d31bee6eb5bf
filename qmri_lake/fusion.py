"""Biomarkers, strategies that merge spherical maps into images, and UCSF's map files.

`BIOMARKER_TABLE` and `STRATEGIES` are the only declarations of the paper's biomarkers and
strategies. Titles, the order of rows in tables and figures, the number of models in the search and
colour scales are derived from them. Biomarkers of other series, whose maps are arrays of their own,
are in `OTHER_BIOMARKERS`; a strategy can name them too, such as ``thickness+t1rho``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.core.text import did_you_mean
from qmri_lake.errors import InputError, NotFoundError, Reason, VariableError

__all__ = [
    "BIOMARKER_TABLE",
    "OTHER_BIOMARKERS",
    "SCALES",
    "STRATEGIES",
    "Biomarker",
    "add_biomarker",
    "biomarkers_of",
    "channels_of",
    "find_biomarker",
    "merge",
    "read_bone_sphere",
    "strategy_title",
    "write_bone_sphere",
]


Channels: TypeAlias = tuple[str | None, str | None, str | None]
"""Biomarkers in the red, green and blue channel of an image."""


class Biomarker(NamedTuple):
    """Names, scale and colours of a biomarker, which are the same for every exam."""

    title: str
    """Name in tables and messages."""
    long_name: str
    """Name in figures."""
    unit: str
    scale: float
    """Divisor of the values in images, in `unit`."""
    colours: str
    """Colour map of matplotlib: perceptually uniform, and readable by the colour-blind."""
    limits: tuple[float, float]
    """Range of the colours, in `unit`. [assumption]"""


BIOMARKER_TABLE: Mapping[str, Biomarker] = MappingProxyType(
    {
        "bone_shape": Biomarker("bone shape", "bone shape", "mm", 50.0, "cividis", (10.0, 50.0)),
        "thickness": Biomarker("thickness", "cartilage thickness", "mm", 4.0, "magma", (0.0, 4.0)),
        "t2": Biomarker("T2", "T2", "ms", 80.0, "viridis", (20.0, 70.0)),
    }
)
"""Biomarkers in the order in which a lake stores their maps. Sources of the scales: bone shape
[group], thickness and T2 [assumption]."""

_ADDED: dict[str, Biomarker] = {
    "t1rho": Biomarker("T1rho", "T1rho", "ms", 80.0, "viridis", (20.0, 80.0)),
    "t2star": Biomarker("T2*", "T2*", "ms", 50.0, "viridis", (5.0, 45.0)),
    "qdess_t2": Biomarker("T2 of qDESS", "T2 of qDESS", "ms", 80.0, "viridis", (20.0, 70.0)),
}

OTHER_BIOMARKERS: Mapping[str, Biomarker] = MappingProxyType(_ADDED)
"""Biomarkers whose spherical map is an array of its own, such as ``sphere/t1rho``. The scales and
limits of those of the package are ours [assumption]. `add_biomarker` adds others."""

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
"""Biomarkers in the red, green and blue channel of each strategy; None: the channel is zero.
Sources: names [paper], channels [group, assumption]. To add a strategy, add a line;
`strategy_title` derives its title from its name."""

SCALES: Mapping[str, float] = MappingProxyType(
    {name: biomarker.scale for name, biomarker in BIOMARKER_TABLE.items()}
)
"""Divisor of the values of each biomarker in images, in the unit of the biomarker."""

_CHANNELS = ("red", "green", "blue")
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_SD = (0.229, 0.224, 0.225)
"""Statistics of the images on which torchvision's pretrained networks were trained."""
_KEY = "bone_sphere"
_SIDE = 224


def strategy_title(strategy: str) -> str:
    """Return the title of a strategy, made from the titles of the biomarkers in its name.

    >>> strategy_title("bone_shape+thickness"), strategy_title("t2"), strategy_title("all")
    ('Bone shape + thickness', 'T2', 'All')
    """
    known = {**BIOMARKER_TABLE, **_ADDED}
    titles = [
        known[part].title if part in known else part.replace("_", " ")
        for part in strategy.split("+")
    ]
    title = " + ".join(titles)
    return title[:1].upper() + title[1:]


def merge(
    maps: xr.DataArray | xr.Dataset,
    strategy: str,
    *,
    scale: Mapping[str, float] | None = None,
    imagenet: bool = False,
) -> xr.DataArray:
    """Merge spherical maps into images with three channels, lazily.

    Parameters
    ----------
    maps : DataArray, or Dataset with ``map``
        (..., biomarker, azimuth, polar) in any order, with the coordinate `biomarker`: bone_shape
        and thickness in mm, t2 in ms; of a Dataset also arrays of `OTHER_BIOMARKERS` (..., azimuth,
        polar). NaN where there is no value. Not modified.
    strategy : str
        One of `STRATEGIES`, or biomarkers joined by ``+``, as in `channels_of`.
    scale : mapping, optional
        Divisors by biomarker, in the unit of the biomarker. They replace those of `SCALES`.
    imagenet : bool
        Subtract the mean of ImageNet's images from each channel and divide by their standard
        deviation; off by default [assumption]. Pixels without a value count as 0.

    Returns
    -------
    DataArray
        (..., channel, azimuth, polar) float32, `channel` red, green, blue. Values are not clipped;
        NaN becomes 0. [assumption]

    Raises
    ------
    NotFoundError
        If the strategy is unknown, or the maps lack a biomarker that the strategy needs.
    InputError
        If a scale is not above 0.

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
    channels = channels_of(strategy, "merge")
    needed = [name for name in dict.fromkeys(channels) if name is not None]
    scales = _scales(scale)
    planes = _planes(maps, needed, strategy)
    scaled = {name: (planes[name] / np.float32(scales[name])).fillna(0.0) for name in needed}
    zeros = xr.zeros_like(scaled[needed[0]])
    merged = xr.concat([scaled.get(name or "", zeros) for name in channels], "channel")
    merged = merged.assign_coords(channel=list(_CHANNELS))
    if imagenet:
        mean = xr.DataArray(np.array(_IMAGENET_MEAN, np.float32), dims="channel")
        merged = (merged - mean) / xr.DataArray(np.array(_IMAGENET_SD, np.float32), dims="channel")
    order = (..., "channel", "azimuth", "polar")
    attributes = {  # not copied from the maps: in images NaN is 0, and values have no unit
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


def _planes(
    maps: xr.DataArray | xr.Dataset, needed: Sequence[str], strategy: str
) -> dict[str, xr.DataArray]:
    """Return the map of each biomarker: an array of its own, or a plane of ``map``."""
    own = {
        name: maps[name]
        for name in needed
        if name in _ADDED and isinstance(maps, xr.Dataset) and name in maps
    }
    if len(own) == len(needed):
        return own
    array = _map_of(maps)
    known = [str(name) for name in array["biomarker"].values]
    if absent := [name for name in needed if name not in known and name not in own]:
        raise NotFoundError(
            f"no map of {', '.join(absent)}",
            expected=f"{', '.join(needed)} for strategy {strategy}",
            where="merge",
            todo=f"The maps contain {', '.join([*known, *own])}.",
        )
    return own | {name: array.sel(biomarker=name, drop=True) for name in needed if name not in own}


def _map_of(maps: xr.DataArray | xr.Dataset) -> xr.DataArray:
    array = maps.get("map") if isinstance(maps, xr.Dataset) else maps
    dims = ("biomarker", "azimuth", "polar")
    if array is None or "biomarker" not in array.coords or not set(dims) <= set(array.dims):
        raise NotFoundError(
            "no map" if array is None else f"dimensions {', '.join(map(str, array.dims))}",
            expected=f"spherical maps along {', '.join(dims)}, with the coordinate biomarker",
            where="merge",
            todo="Load group sphere: lake.load('sphere').",
        )
    return array


def _scales(replaced: Mapping[str, float] | None) -> dict[str, float]:
    known = {**SCALES, **{name: biomarker.scale for name, biomarker in _ADDED.items()}}
    scales = {**known, **(replaced or {})}
    for name, value in scales.items():
        if name not in known or not (np.isfinite(value) and value > 0):
            raise InputError(
                f"scale {name}={value}",
                expected=f"a number above 0 for {', '.join(known)}",
                where="merge",
            )
    return scales


def add_biomarker(name: str, biomarker: Biomarker) -> None:
    """Add a biomarker whose spherical map is ``sphere/NAME``. Adding it again has no effect.

    Raises
    ------
    VariableError
        If another biomarker has this name, or the scale is not above 0.
    """
    known = BIOMARKER_TABLE.get(name) or _ADDED.get(name)
    if known is not None and known != biomarker:
        raise VariableError(
            f"a second declaration of biomarker {name}",
            expected="the same as the first",
            todo="Choose another name.",
        )
    if "+" in name or not (np.isfinite(biomarker.scale) and biomarker.scale > 0):
        raise VariableError(
            f"biomarker {name!r} with scale {biomarker.scale}",
            expected="a name without +, and a scale above 0",
        )
    if known is None:
        _ADDED[name] = biomarker


def find_biomarker(name: str) -> Biomarker:
    """Return a biomarker of the paper, or one of `OTHER_BIOMARKERS`.

    Raises
    ------
    NotFoundError
        If there is no such biomarker.
    """
    known = {**BIOMARKER_TABLE, **_ADDED}
    if name not in known:
        raise NotFoundError(
            f"no biomarker {name!r}",
            expected=f"one of {', '.join(known)}",
            where="fusion",
            todo=did_you_mean(name, tuple(known)),
        )
    return known[name]


def channels_of(strategy: str, where: str = "spherical images") -> Channels:
    """Return the biomarkers in the red, green and blue channel; None: the channel is zero.

    `strategy` is one of `STRATEGIES`, or up to three biomarkers joined by ``+``, at least one of
    them of `OTHER_BIOMARKERS`. Biomarkers fill the channels in the order of their names; a single
    one fills all three, as in the strategies of the paper. [assumption]

    Raises
    ------
    NotFoundError
        If the strategy or a biomarker is unknown.

    Examples
    --------
    >>> channels_of("thickness+t1rho"), channels_of("qdess_t2")
    (('thickness', 't1rho', None), ('qdess_t2', 'qdess_t2', 'qdess_t2'))
    """
    if strategy in STRATEGIES:
        return STRATEGIES[strategy]
    parts = str(strategy).split("+")
    known = {*BIOMARKER_TABLE, *_ADDED}
    fits = len(parts) <= len(_CHANNELS) and len({*parts}) == len(parts)
    if not (fits and {*parts} <= known and {*parts} & _ADDED.keys()):
        raise NotFoundError(
            f"no strategy {strategy!r}",
            expected=f"one of {', '.join(STRATEGIES)}, or up to three biomarkers joined by +, "
            f"with one of {', '.join(_ADDED)}",
            where=where,
            todo=did_you_mean(str(strategy), (*STRATEGIES, *_ADDED)),
        )
    if len(parts) == 1:
        return parts[0], parts[0], parts[0]
    first, second, third = (*parts, None)[:3]
    return first, second, third


# ------------------------------------------------------------------------------ UCSF's map files


def read_bone_sphere(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Read a spherical bone map in UCSF's format.

    Parameters
    ----------
    path : path
        A ``.mat`` file of MATLAB 5 to 7 with ``bone_sphere``, 224 x 224 x 3 [mm], 0 for no value.
        Its three channels contain the same map.

    Returns
    -------
    (azimuth, polar) float32
        The map [mm]; NaN where it has no value.

    Raises
    ------
    NotFoundError
        If there is no such file.
    InputError
        If the file can't be read or has no ``bone_sphere``, or if that array has another size or
        channels that differ. The meaning of different channels is unknown.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    name = Path(path).name
    if not Path(path).is_file():
        raise NotFoundError("no such file", expected="a .mat file", where=os.fspath(path))
    try:
        variables = loadmat(path, variable_names=[_KEY])
    except (OSError, ValueError, NotImplementedError, MatReadError) as error:
        newer = isinstance(error, NotImplementedError)
        raise InputError(
            "a file of MATLAB 7.3" if newer else "not a .mat file",
            expected="a .mat file of MATLAB 5 to 7",
            where=name,
            todo="Save it with save(..., '-v7').",
            reason=Reason.UNREADABLE_FILE,
        ) from error
    if _KEY not in variables:
        raise InputError(
            f"no {_KEY}", expected=f"the variable {_KEY}", where=name, reason=Reason.UNREADABLE_FILE
        )
    sphere: Values = variables[_KEY]
    if sphere.shape != (_SIDE, _SIDE, 3):
        raise InputError(
            f"{' x '.join(map(str, sphere.shape))} values",
            expected="224 x 224 x 3",
            where=name,
            reason=Reason.GRID_MISMATCH,
        )
    if not (sphere == sphere[..., :1]).all():
        raise InputError(
            "channels that differ",
            expected="the same map in all three",
            where=name,
            todo="Choose one channel and build the map from it.",
            reason=Reason.UNREADABLE_FILE,
        )
    first = sphere[..., 0].astype(np.float32)
    return np.where(first == 0, np.float32(np.nan), first)


def write_bone_sphere(path: str | os.PathLike[str], shape: Values | xr.DataArray) -> None:
    """Write a spherical bone map in UCSF's format: see `read_bone_sphere`.

    Parameters
    ----------
    path : path
        The ``.mat`` file. An existing file is replaced.
    shape : (224, 224), azimuth and polar
        The map [mm]; NaN where it has no value.

    Raises
    ------
    InputError
        If the map has another size, or contains 0, which means "no value" in the file.
    """
    from scipy.io import savemat

    values = np.asarray(shape, np.float64)
    if values.shape != (_SIDE, _SIDE):
        raise InputError(
            f"{' x '.join(map(str, values.shape))} values",
            expected="224 x 224",
            where="write_bone_sphere",
            reason=Reason.GRID_MISMATCH,
        )
    if (values == 0).any():
        raise InputError(
            "a distance of 0 mm",
            expected="above 0, or NaN where there is no value: the file uses 0 for NaN",
            where="write_bone_sphere",
        )
    filled = np.nan_to_num(values, nan=0.0)
    savemat(path, {_KEY: np.repeat(filled[..., None], 3, axis=2)}, appendmat=False)


def biomarkers_of(strategy: str) -> list[str]:
    """Return the biomarkers that a strategy needs, each once, in the order of the channels.

    >>> biomarkers_of("thickness+t2")
    ['thickness', 't2']
    """
    channels = channels_of(strategy)
    return [name for name in dict.fromkeys(channels) if name is not None]
