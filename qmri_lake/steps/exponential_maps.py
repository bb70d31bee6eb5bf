"""Mono-exponential maps of any declared series: a step of a run, and a function of Datasets."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import xarray as xr

from qmri_lake.core.array_api import Array
from qmri_lake.execution.step import Step, step
from qmri_lake.relaxometry.mono_exponential import MonoExponentialFit, fit_mono_exponential
from qmri_lake.steps._exponential import (
    Relaxation,
    Within,
    check_count,
    check_values,
    fill_outside,
    fit_lazily,
    fitted_mask,
    in_ms,
    map_variables,
    mask_of_exam,
    reads_of,
    used_images,
    usual_limit,
    usual_values,
)

__all__ = ["Relaxation", "exponential_map", "exponential_step"]


def _fit_exam(
    image: Array,
    labels: Array | None,
    inside: Array | None = None,
    *,
    kind: Relaxation,
    times: Array,
    skip_first: bool,
    bounds: tuple[float, float],
    r2_min: float | None,
) -> MonoExponentialFit:
    """Fit one exam: image (images, slice, row, column), times (images,) in ms, labels or None."""
    known = [float(t) for t in times]
    used = used_images(known, kind, skip_first=skip_first)
    check_count(used, kind, "skip_first")
    mask = fitted_mask(labels, inside, kind)
    signal = image[used[0] : used[-1] + 1, ...]
    return fit_mono_exponential(
        signal, [known[k] for k in used], mask, bounds=bounds, r2_min=r2_min
    )


def exponential_step(kind: Relaxation, *, version: str = "1", doc: str = "") -> Step:
    """Declare the step that fits S0 exp(-t / T) to the images of a series.

    Parameters
    ----------
    kind : Relaxation
        Its series, whose group has been declared, its names, and the accepted range. The step has
        the name of the map.
    version : str
        Version of the results, as in `qmri_lake.step`.
    doc : str
        Docstring of the step.

    Returns
    -------
    Step
        It writes ``NAME``, ``NAME_error``, ``s0``, ``r2`` and ``NAME_status``. Its parameters are
        those of `exponential_map`.
    """

    def check(*, within: object, skip_first: Any, bounds: Any, r2_min: object) -> None:
        flag = isinstance(skip_first, (bool, np.bool_))
        check_values(
            {
                **usual_values(within, bounds),
                "skip_first": (skip_first, flag, "True or False"),
                "r2_min": usual_limit(r2_min),
            },
            f"step {kind.name}",
        )

    def reads(*, within: Within, **_: object) -> dict[str, tuple[str, ...]]:
        return reads_of(kind, within)

    def fit(
        ds: xr.Dataset,
        *,
        within: Within = "cartilage",
        skip_first: bool = False,
        bounds: tuple[float, float] = kind.bounds,
        r2_min: float | None = 0.8,
    ) -> dict[str, Array]:
        labels = mask_of_exam(ds, kind, within)
        times = ds[kind.times]
        if "units" in times.attrs:  # otherwise as declared, ms
            times = in_ms(times, kind.name)
        maps = _fit_exam(
            ds["image"].values,
            labels,
            kind=kind,
            times=times.values,
            skip_first=bool(skip_first),
            bounds=(float(bounds[0]), float(bounds[1])),
            r2_min=r2_min,
        )
        return dict(zip((v.name for v in map_variables(kind)), maps, strict=True))

    fit.__name__ = kind.name
    fit.__doc__ = doc or f"Fit {kind.title} to one exam; the parameters are those of a session."
    declare = step(
        reads=reads,
        writes=map_variables(kind),
        name=kind.name,
        version=version,
        memory_factor=2.5,
        validate=check,
    )
    return declare(fit)


def exponential_map(
    ds: xr.Dataset,
    kind: Relaxation,
    *,
    within: Within | None = None,
    skip_first: bool = False,
    bounds: tuple[float, float] | None = None,
    r2_min: float | None = 0.8,
) -> xr.Dataset:
    """Add mono-exponential maps to a Dataset of images, lazily.

    Parameters
    ----------
    ds : Dataset
        Images (exam, images, slice, row, column), or without ``exam``; their times, the same for
        all exams, or (exam, images), with the attribute ``units``; `cartilage` for
        ``within="cartilage"``. Dimensions may be in any order. The Dataset is not modified.
    kind : Relaxation
        The series, and the names of its dimension, times and maps.
    within : {"cartilage", "all"}, optional
        Voxels to fit. Default: ``cartilage`` if `ds` has labels, otherwise ``all``.
    skip_first : bool
        Whether to leave out the first image.
    bounds : (low, high), optional
        Accept low < T <= high [ms], as in `qmri_lake.fit_t2`. Default: ``kind.bounds``.
    r2_min : float or None
        Accept fits with at least this centred r2. None: no limit. [assumption]

    Returns
    -------
    Dataset
        `ds` with the lazy maps, each (exam, slice, row, column).

    Raises
    ------
    NotFoundError
        If a variable is missing.
    InputError
        If dimensions are named otherwise, times have no unit or exceed the range of a scanner, or
        `within` is invalid. When computed: if an exam was never segmented, or has fewer than two
        images.
    """
    low, high = kind.bounds if bounds is None else bounds
    variables = map_variables(kind)
    kernel = functools.partial(
        _fit_inside,
        kind=kind,
        skip_first=bool(skip_first),
        bounds=(float(low), float(high)),
        r2_min=r2_min,
    )
    return fit_lazily(ds, kind, kernel, variables, within)


def _fit_inside(
    image: Array,
    cartilage: Array | None = None,
    inside: Array | None = None,
    *,
    kind: Relaxation,
    **options: Any,
) -> tuple[Array, ...]:
    """Fit one exam inside its extent; outside, all maps have the fill value, as in a lake."""
    times = options.pop(kind.times)
    maps = _fit_exam(image, cartilage, inside, kind=kind, times=times, **options)
    return fill_outside(maps, map_variables(kind), inside)
