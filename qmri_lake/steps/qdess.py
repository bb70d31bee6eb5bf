"""Compute T2 maps of both echoes of a DESS: a lazy function of Datasets and a step of a run."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import xarray as xr

from qmri_lake.core.array_api import Array, namespace
from qmri_lake.errors import InputError, Reason
from qmri_lake.execution.step import step
from qmri_lake.relaxometry.qdess import DIFFUSIVITY, T1, Solution, fit_qdess
from qmri_lake.schema.groups import PARAMETERS
from qmri_lake.schema.variable import VOLUME_DIMS, Variable
from qmri_lake.steps._exponential import (
    STATUS_FLAGS,
    Relaxation,
    Within,
    check_values,
    fill_outside,
    fit_lazily,
    fitted_mask,
    is_number,
    mask_of_exam,
    used_images,
    usual_values,
)

__all__ = ["fit_qdess_t2", "qdess_t2"]

QDESS_BOUNDS = (0.0, 100.0)
"""Default bounds of accepted T2 [ms]. [assumption]"""

_QDESS = Relaxation(
    "t2", "qdess", "T2", "Transverse relaxation time T2", QDESS_BOUNDS, "fit_qdess_t2"
)

VARIABLES = (
    Variable(
        "qdess",
        "t2",
        VOLUME_DIMS,
        "float32",
        "Transverse relaxation time T2, from the ratio of both echoes",
        "ms",
        "not computed, or not accepted: see t2_status",
        valid_range=(0, 1_000_000),
    ),
    Variable(
        "qdess",
        "t2_status",
        VOLUME_DIMS,
        "uint8",
        "Result of each voxel; rising: the second echo is so large that T2 has no solution",
        fill_meaning="no image, or never computed",
        flags=STATUS_FLAGS,
    ),
    Variable(
        "qdess",
        "t2_diffusion",
        (),
        "uint8",
        "Whether diffusion was considered; not if the spoiler gradient is unknown",
        fill_meaning="not computed",
        flags={"no": 0, "yes": 1},
    ),
)


def _fit_exam(
    image: Array,
    labels: Array | None,
    inside: Array | None = None,
    *,
    times: Array,
    stated: dict[str, float],
    bounds: tuple[float, float],
    **options: Any,
) -> tuple[Array, Array, np.uint8]:
    """Compute T2 of one exam: image (echo, slice, row, column), times (echo,) in ms.

    `stated` has the values of `PARAMETERS`; NaN if they are not known.
    """
    known = [float(t) for t in times]
    used = used_images(known, _QDESS, skip_first=False)
    if len(used) != 2:
        raise InputError(
            f"{len(used)} echoes",
            expected="the two echoes of a DESS",
            where="qdess_t2",
            todo="Exclude this exam.",
        )
    mask = fitted_mask(labels, inside, _QDESS)
    for name in ("repetition_time", "flip_angle"):
        if math.isnan(stated[name]):
            raise InputError(
                f"no {name}",
                expected="a value in the header or as an option",
                where="qdess_t2",
                todo=f"Give {name}=... if you know the protocol.",
                reason=Reason.UNREADABLE_VALUE,
            )
    arguments: dict[str, Any] = {**stated, **options}
    fit = fit_qdess(image[:2, ...], echo_time=known[0], mask=mask, bounds=bounds, **arguments)
    spoiler = stated["gradient_area"], stated["gradient_duration"]
    diffusion = options["diffusivity"] > 0 and not any(map(math.isnan, spoiler))
    return fit.t2, fit.status, np.uint8(diffusion)


def _check_parameters(
    *,
    within: object,
    t1: object,
    diffusivity: object,
    bounds: Any,
    solution: object,
    **stated: object,
) -> None:
    """Check the parameters when a run is planned, before any exam is computed."""
    checks = {
        **usual_values(within, bounds),
        "t1": (t1, _within(t1, 1, 100_000), "a time above 1 ms"),
        "diffusivity": (
            diffusivity,
            _within(diffusivity, 0, 1e-6),
            "m2/s, such as 1.25e-9; 0 ignores diffusion",
        ),
        "solution": (
            solution,
            isinstance(solution, str) and solution in ("analytic", "exact"),
            "analytic or exact",
        ),
    }
    for name, (high, unit) in {
        "repetition_time": (1000, "ms"),
        "flip_angle": (180, "degrees"),
        "gradient_area": (10_000, "mT ms/m"),
        "gradient_duration": (1000, "ms"),
    }.items():
        value = stated[name]
        right = value is None or (_within(value, 0, high) and value != 0)
        checks[name] = (value, right, f"a number from 0 to {high} {unit}, or None: the header's")
    check_values(checks, "step qdess_t2")


def _within(value: Any, low: float, high: float) -> bool:
    return is_number(value) and low <= float(value) <= high


def _stated(given: dict[str, float | None], header: dict[str, float]) -> dict[str, float]:
    """Return the parameters of the acquisition: the given ones, else those of the header."""
    return {
        name: header.get(name, math.nan) if (value := given[name]) is None else float(value)
        for name in PARAMETERS
    }


def _reads(*, within: Within, **_: object) -> dict[str, tuple[str, ...]]:
    extra = ("cartilage",) if within == "cartilage" else ()
    return {"qdess": ("image", "echo_time", *PARAMETERS, *extra)}


@step(
    reads=_reads, writes=VARIABLES, name="qdess_t2", memory_factor=4.0, validate=_check_parameters
)
def qdess_t2(
    qdess: xr.Dataset,
    *,
    within: Within = "cartilage",
    t1: float = T1,
    diffusivity: float = DIFFUSIVITY,
    solution: Solution = "analytic",
    bounds: tuple[float, float] = QDESS_BOUNDS,
    repetition_time: float | None = None,
    flip_angle: float | None = None,
    gradient_area: float | None = None,
    gradient_duration: float | None = None,
) -> dict[str, Array]:
    """Compute T2 of one exam; the parameters are those of `fit_qdess_t2`."""
    given = {
        "repetition_time": repetition_time,
        "flip_angle": flip_angle,
        "gradient_area": gradient_area,
        "gradient_duration": gradient_duration,
    }
    labels = mask_of_exam(qdess, _QDESS, within)
    header = {name: float(qdess[name]) for name in PARAMETERS if name in qdess}
    maps = _fit_exam(
        qdess["image"].values,
        labels,
        times=qdess["echo_time"].values,
        stated=_stated(given, header),
        bounds=(float(bounds[0]), float(bounds[1])),
        t1=float(t1),
        diffusivity=float(diffusivity),
        solution=solution,
    )
    return dict(zip((v.name for v in VARIABLES), maps, strict=True))


def fit_qdess_t2(
    ds: xr.Dataset,
    *,
    within: Within | None = None,
    t1: float = T1,
    diffusivity: float = DIFFUSIVITY,
    solution: Solution = "analytic",
    bounds: tuple[float, float] = QDESS_BOUNDS,
    repetition_time: float | None = None,
    flip_angle: float | None = None,
    gradient_area: float | None = None,
    gradient_duration: float | None = None,
) -> xr.Dataset:
    """Add T2 maps to a Dataset of qDESS images, lazily.

    Parameters
    ----------
    ds : Dataset
        Group ``qdess``: `image` (exam, echo, slice, row, column) with two echoes, or without
        ``exam``; `echo_time` (echo) or (exam, echo), with the attribute ``units``; `cartilage` for
        ``within="cartilage"``; and the acquisition, as numbers or (exam): `repetition_time` [ms],
        `flip_angle` [degrees], `gradient_area` [mT ms/m], `gradient_duration` [ms]. The Dataset is
        not modified.
    within : {"cartilage", "all"}, optional
        Voxels to compute: voxels with a cartilage or meniscus label, or all voxels. Default:
        ``cartilage`` if `ds` has labels, otherwise ``all``.
    t1 : float
        T1 of the tissue [ms]. [assumption]
    diffusivity : float
        Diffusivity of the tissue [m2/s]. 0: diffusion is ignored. [assumption]
    solution : {"analytic", "exact"}
        The closed form of Sveinsson 2017, or the exact ratio of the steady state: see
        `qmri_lake.relaxometry.fit_qdess`.
    bounds : (low, high)
        Accept low < T2 <= high [ms], as in `qmri_lake.fit_t2`. [assumption]
    repetition_time, flip_angle, gradient_area, gradient_duration : float, optional
        Values that replace those of `ds`, for all exams. Without gradient area or duration,
        diffusion is ignored.

    Returns
    -------
    Dataset
        `ds` with the lazy variables `t2` [ms] and `t2_status` (exam, slice, row, column), and
        `t2_diffusion` (exam): 1 if diffusion was considered. T2 is NaN if it was not computed or
        not accepted; `t2_status` gives the reason, such as ``rising`` for a second echo that is too
        large for a solution.

    Raises
    ------
    NotFoundError
        If `image`, `echo_time` or `cartilage` is missing.
    InputError
        If dimensions are named otherwise, times have no unit, or `within` is invalid. When
        computed: if an exam was never segmented, has not two echoes, or its repetition time or flip
        angle is unknown or out of range.
    """
    given = {
        "repetition_time": repetition_time,
        "flip_angle": flip_angle,
        "gradient_area": gradient_area,
        "gradient_duration": gradient_duration,
    }
    known = [name for name in PARAMETERS if isinstance(ds, xr.Dataset) and name in ds]
    kernel = functools.partial(
        _fit_inside,
        given=given,
        bounds=(float(bounds[0]), float(bounds[1])),
        t1=float(t1),
        diffusivity=float(diffusivity),
        solution=solution,
    )
    return fit_lazily(ds, _QDESS, kernel, VARIABLES, within, scalars=known)


def _fit_inside(
    image: Array,
    echo_time: Array,
    cartilage: Array | None = None,
    inside: Array | None = None,
    *,
    given: dict[str, float | None],
    bounds: tuple[float, float],
    t1: float,
    diffusivity: float,
    solution: Solution,
    **header: Array,
) -> tuple[Array, ...]:
    """Compute one exam inside its extent; outside, maps have the fill value, as in a lake."""
    t2, status, diffusion = _fit_exam(
        image,
        cartilage,
        inside,
        times=echo_time,
        stated=_stated(given, {name: float(value) for name, value in header.items()}),
        bounds=bounds,
        t1=t1,
        diffusivity=diffusivity,
        solution=solution,
    )
    xp = namespace(image)
    maps = fill_outside((t2, status), VARIABLES[:2], inside)
    return (*maps, xp.asarray(int(diffusion), dtype=xp.uint8))
