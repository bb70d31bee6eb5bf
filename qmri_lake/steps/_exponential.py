"""Mono-exponential maps of one exam: the parts that the steps t2, t1rho and t2star share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import numpy as np
import xarray as xr

from qmri_lake.core.array_api import Array, namespace
from qmri_lake.errors import InputError, NotFoundError, Reason, RunError
from qmri_lake.execution.session import check_dims, map_exams
from qmri_lake.execution.step import Skip
from qmri_lake.masks import inside
from qmri_lake.relaxometry.echo_times import check_range, ms_per_unit
from qmri_lake.relaxometry.fit_status import FitStatus
from qmri_lake.schema.groups import GROUPS
from qmri_lake.schema.variable import VOLUME_DIMS, Variable
from qmri_lake.tissues import NO_MASK

__all__ = [
    "STATUS_FLAGS",
    "Relaxation",
    "Within",
    "check_count",
    "check_values",
    "fill_outside",
    "fit_lazily",
    "fitted_mask",
    "in_ms",
    "is_number",
    "map_variables",
    "mask_of_exam",
    "reads_of",
    "used_images",
    "usual_limit",
    "usual_values",
]

Within = Literal["cartilage", "all"]

STATUS_FLAGS = {status.name.lower(): int(status) for status in FitStatus}


@dataclass(frozen=True)
class Relaxation:
    """A relaxation time that is fitted in each voxel: its series, names and accepted range."""

    name: str
    """Name of the map, such as ``t2``."""
    group: str
    """Group of the series."""
    title: str
    """Name in text, such as ``T2*``."""
    long_name: str
    """Description of the map, such as ``Transverse relaxation time T2``."""
    bounds: tuple[float, float]
    """Default bounds of accepted values [ms]."""
    function: str
    """Name of the function for Datasets, for messages."""
    grid: str = ""
    """Name of the series in messages. Default: the label of the group."""

    @property
    def axis(self) -> str:
        """Dimension of the images of a scan."""
        return GROUPS[self.group].image_axis

    @property
    def times(self) -> str:
        """Variable of the times of the images."""
        return GROUPS[self.group].times

    @property
    def where(self) -> str:
        """Name of the series in messages."""
        return self.grid or GROUPS[self.group].label

    @property
    def noun(self) -> str:
        """One image of a scan, in messages."""
        return "echo" if self.axis == "echo" else f"{self.axis.replace('_', '-')} image"

    @property
    def nouns(self) -> str:
        """Images of a scan, in messages."""
        return "echoes" if self.axis == "echo" else f"{self.noun}s"


def map_variables(kind: Relaxation) -> tuple[Variable, ...]:
    """Return the variables of a mono-exponential fit, in the order of `MonoExponentialFit`."""
    name, group = kind.name, kind.group
    return (
        Variable(
            group,
            name,
            VOLUME_DIMS,
            "float32",
            kind.long_name,
            "ms",
            f"not fitted, or not accepted: see {name}_status",
            valid_range=(0, 1_000_000),  # open bounds: up to 10,000 echo spacings
        ),
        Variable(
            group,
            f"{name}_error",
            VOLUME_DIMS,
            "float32",
            f"Standard error of {kind.title}, from the residuals of the fit",
            "ms",
            f"as {name}",
        ),
        Variable(group, "s0", VOLUME_DIMS, "float32", "Fitted signal at time 0", "", "not fitted"),
        Variable(
            group,
            "r2",
            VOLUME_DIMS,
            "float32",
            "Coefficient of determination of the fit, centred",
            "",
            "not fitted",
            valid_range=(-1e9, 1),
        ),
        Variable(
            group,
            f"{name}_status",
            VOLUME_DIMS,
            "uint8",
            "Result of the fit of each voxel",
            fill_meaning="no image, or never computed",
            flags=STATUS_FLAGS,
        ),
    )


def reads_of(kind: Relaxation, within: Within) -> dict[str, tuple[str, ...]]:
    """Return what a step reads. Without a mask, a fit does not depend on a registration."""
    extra = ("cartilage",) if within == "cartilage" else ()
    return {kind.group: ("image", kind.times, *extra)}


def used_images(times: Sequence[float], kind: Relaxation, *, skip_first: bool) -> list[int]:
    """Return the indices of the images that are fitted.

    Images without a time are ignored, since the array has the length of the longest scan of the
    cohort.
    """
    check_range(np.asarray(times), kind.name)
    known = [k for k, t in enumerate(times) if np.isfinite(t)]
    if known and known[-1] >= len(known):
        gap = next(k for k, t in enumerate(times) if not np.isfinite(t))
        raise InputError(
            f"no time of {kind.noun} {gap + 1} of {known[-1] + 1}",
            expected=f"a time for each {kind.noun}; only absent {kind.nouns} at the end have none",
            where=kind.name,
            todo=f"Leave the {kind.noun} out: ds.isel({kind.axis}=[...]).",
        )
    return known[1:] if skip_first else known


def check_count(used: Sequence[int], kind: Relaxation, option: str) -> None:
    """Raise an error for fewer than two images."""
    if len(used) < 2:
        raise InputError(
            f"{len(used)} {kind.nouns}",
            expected=f"at least two after the first {kind.noun} is skipped",
            where=kind.name,
            todo=f"Use {option}=False, or exclude this exam.",
        )


def fitted_mask(labels: Array | None, inside: Array | None, kind: Relaxation) -> Array | None:
    """Return the voxels to fit: those with a label, inside the exam. None: all voxels.

    Raises
    ------
    InputError
        If the exam was never segmented.
    """
    if labels is None:
        return inside
    xp = namespace(labels)
    unknown = labels == NO_MASK
    if inside is not None:
        unknown = unknown | ~inside
    if bool(xp.all(unknown)) and (inside is None or bool(xp.any(inside))):
        raise InputError(
            "no cartilage mask",
            expected=f"labels on the {kind.where} grid",
            where=kind.name,
            todo="Import or register masks first, or use within='all'.",
            reason=Reason.ABSENT_EXAM,
        )
    return _tissue(labels) if inside is None else _tissue(labels) & inside


def _tissue(labels: Array) -> Array:
    return (labels != 0) & (labels != NO_MASK)


def mask_of_exam(ds: xr.Dataset, kind: Relaxation, within: str) -> Array | None:
    """Return the labels of one exam, for a step; raise `Skip` if there is no cartilage."""
    if within == "all":
        return None
    if within != "cartilage":
        raise InputError(f"within={within!r}", expected="cartilage or all", where=kind.name)
    labels = ds["cartilage"].values
    if (labels != NO_MASK).any() and not _tissue(labels).any():
        raise Skip(f"no cartilage on the {kind.where} grid")
    return labels


def check_values(values: Mapping[str, tuple[object, bool, str]], where: str) -> None:
    """Raise an error for an invalid parameter, when a run is planned.

    `values` gives for each name the value, whether it is valid, and what is expected.
    """
    for name, (value, right, expected) in values.items():
        if not right:
            raise RunError(f"{name}={value!r}", expected=expected, where=where)


def usual_values(within: object, bounds: Any) -> dict[str, tuple[object, bool, str]]:
    """Return the checks of `within` and `bounds`, for `check_values`."""
    pair = isinstance(bounds, (tuple, list, np.ndarray)) and len(bounds) == 2
    return {
        "within": (
            within,
            isinstance(within, str) and within in ("cartilage", "all"),
            "cartilage or all",
        ),
        "bounds": (
            bounds,
            pair and all(map(is_number, bounds)) and bounds[0] < bounds[1],
            "two numbers, low < high, ms",
        ),
    }


def usual_limit(r2_min: object) -> tuple[object, bool, str]:
    """Return the check of `r2_min`, for `check_values`."""
    return r2_min, r2_min is None or is_number(r2_min), "a number, or None for no limit"


def is_number(value: object) -> bool:
    """Whether a parameter is a number, and not NaN or a bool."""
    if isinstance(value, bool):
        return False
    return isinstance(value, Real) and not np.isnan(float(value))


def in_ms(times: xr.DataArray, where: str) -> xr.DataArray:
    """Return times in ms; raise an error without a unit, or with a wrong one."""
    factor = ms_per_unit(times.attrs.get("units"), where)
    converted = times.astype(np.float64) * factor
    if converted.chunks is None:  # otherwise checked when computed
        check_range(converted.values, where)
    return converted


def fit_lazily(
    ds: xr.Dataset,
    kind: Relaxation,
    kernel: Any,
    variables: Sequence[Variable],
    within: Within | None,
    *,
    scalars: Sequence[str] = (),
) -> xr.Dataset:
    """Add maps to a Dataset of the series, lazily.

    Parameters
    ----------
    ds : Dataset
        Of the group of `kind`, or of other files with the same names.
    kernel : callable
        Fits one exam: it takes `image`, the times by the name of their variable, and, if there are
        any, `cartilage` and `inside`, the voxels of the exam; it returns an array for each of
        `variables`.
    within : {"cartilage", "all"}, optional
        Default: cartilage if `ds` has labels.
    scalars : sequence of str
        Variables with one value for each exam that the kernel also takes.
    """
    where, times = kind.function, kind.times
    if not isinstance(ds, xr.Dataset):
        raise InputError(
            f"a {type(ds).__name__}",
            expected=f"a Dataset with image and {times}",
            where=where,
            todo=f"Use xr.Dataset({{'image': image, {times!r}: ({kind.axis!r}, times, "
            "{'units': 'ms'})}).",
        )
    chosen = within or ("cartilage" if "cartilage" in ds else "all")
    if chosen not in ("cartilage", "all"):
        raise InputError(f"within={within!r}", expected="cartilage or all", where=where)
    needed = ["image", times, *(["cartilage"] if chosen == "cartilage" else [])]
    for name in needed:
        if name not in ds:
            raise NotFoundError(
                f"no variable {name!r}",
                expected=f"{', '.join(needed)}",
                where=where,
                todo=f"Load group {kind.group}, or choose within='all'.",
            )
    dims: dict[str, tuple[str, ...]] = {"image": (kind.axis, *VOLUME_DIMS), times: (kind.axis,)}
    inputs = {name: (dims.get(name, VOLUME_DIMS), ds[name]) for name in needed}
    check_dims(inputs, where, {times: f"ds.swap_dims({times}={kind.axis!r})"})
    inputs[times] = (kind.axis,), in_ms(ds[times], where)
    inputs |= {name: ((), ds[name]) for name in scalars}
    if "extent" in ds:
        inputs["inside"] = VOLUME_DIMS, inside(ds)
    return ds.assign(map_exams(kernel, inputs, variables))


def fill_outside(
    maps: Sequence[Array], variables: Sequence[Variable], inside: Array | None
) -> tuple[Array, ...]:
    """Return maps with fill values outside the extent of the exam, as in a lake."""
    if inside is None:
        return tuple(maps)
    xp = namespace(maps[0])
    return tuple(
        xp.where(inside, values, xp.full_like(values, variable.fill))
        for variable, values in zip(variables, maps, strict=True)
    )
