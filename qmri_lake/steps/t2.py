"""Fit T2 maps: a lazy function of Datasets and a step of a run, which share a kernel."""

from __future__ import annotations

import functools
from typing import Any, Literal

import numpy as np
import xarray as xr

from qmri_lake.core.array_api import Array
from qmri_lake.errors import InputError
from qmri_lake.execution.step import step
from qmri_lake.relaxometry.epg import fit_epg
from qmri_lake.relaxometry.mono_exponential import fit_mono_exponential
from qmri_lake.relaxometry.slice_profile import Pulse, as_pulse
from qmri_lake.schema.variable import VOLUME_DIMS, Variable
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

__all__ = ["fit_t2", "t2"]

Model = Literal["mono", "epg"]

T2_BOUNDS = (0.0, 100.0)
"""Default bounds of accepted T2 [ms]. [assumption]"""

_T2 = Relaxation(
    "t2", "msme", "T2", "Transverse relaxation time T2", T2_BOUNDS, "fit_t2", grid="MSME"
)

VARIABLES = (
    *map_variables(_T2),
    Variable(
        "msme",
        "t2_b1",
        VOLUME_DIMS,
        "float32",
        "Transmit field relative to nominal; of hard pulses 1 + x reads as 1 - x",
        "",
        "as t2, or fitted by model='mono', which has none",
        valid_range=(0.4, 1.4),
    ),
)


def _made(model: Model) -> tuple[Variable, ...]:
    """Return the variables of a model, in the order of `_fit_exam`."""
    return VARIABLES if model == "epg" else VARIABLES[:-1]


def _skips(model: Model, skip_first_echo: bool | None, where: str) -> bool:
    """Return whether the first echo is skipped; None is the default of the model."""
    if model not in ("mono", "epg"):
        raise InputError(f"model={model!r}", expected="mono or epg", where=where)
    if model == "epg" and skip_first_echo:
        raise InputError(
            "skip_first_echo=True with model='epg'",
            expected="all echoes, since the first echo is needed to estimate the refocusing angle",
            where=where,
            todo="Omit skip_first_echo.",
        )
    return model == "mono" if skip_first_echo is None else bool(skip_first_echo)


def _checked_pulse(model: Model, pulse: Pulse, where: str) -> None:
    """Raise an error for an invalid pulse, and for sinc pulses of a model that has no pulses."""
    if as_pulse(pulse) is not None and model != "epg":
        raise InputError(
            f"pulse={pulse!r} with model={model!r}",
            expected="pulse='hard', since an exponential has no pulses",
            where=where,
            todo="Use model='epg', or omit pulse.",
        )


def _reads(*, within: Within, **_: object) -> dict[str, tuple[str, ...]]:
    return reads_of(_T2, within)


def _fit_exam(
    image: Array,
    echo_time: Array,
    labels: Array | None,
    *,
    inside: Array | None = None,
    model: Model,
    skip_first_echo: bool,
    bounds: tuple[float, float],
    r2_min: float | None,
    pulse: Pulse,
) -> tuple[Array, ...]:
    """Fit one exam: image (echo, slice, row, column), echo_time (echo,), labels or None.

    `inside` (slice, row, column) marks the voxels of the exam; None: all voxels. Echoes without an
    echo time are ignored, since the array has the length of the longest echo train of the cohort.
    """
    times = [float(t) for t in echo_time]
    used = used_images(times, _T2, skip_first=skip_first_echo)
    if model == "mono":
        check_count(used, _T2, "skip_first_echo")
    signal = image[used[0] : used[-1] + 1, ...] if used else image[:0, ...]
    mask = fitted_mask(labels, inside, _T2)
    echoes = [times[k] for k in used]
    if model == "mono":
        return fit_mono_exponential(signal, echoes, mask, bounds=bounds, r2_min=r2_min)
    fit = fit_epg(signal, echoes, mask, bounds=bounds, r2_min=r2_min, pulse=pulse)
    return fit.t2, fit.t2_error, fit.s0, fit.r2, fit.status, fit.b1


def _check_parameters(
    *,
    within: object,
    model: Any,
    skip_first_echo: Any,
    bounds: Any,
    r2_min: object,
    pulse: Any,
) -> dict[str, object]:
    """Check the parameters when a run is planned, before any exam is fitted."""
    usual = usual_values(within, bounds)
    check_values(
        {
            "within": usual["within"],
            "model": (
                model,
                isinstance(model, str) and model in ("mono", "epg"),
                "mono or epg",
            ),
            "skip_first_echo": (
                skip_first_echo,
                skip_first_echo is None or isinstance(skip_first_echo, (bool, np.bool_)),
                "True, False, or None for the default of the model",
            ),
            "bounds": usual["bounds"],
            "r2_min": usual_limit(r2_min),
        },
        "step t2",
    )
    _checked_pulse(model, pulse, "step t2")
    return {"skip_first_echo": _skips(model, skip_first_echo, "step t2")}


def _recorded(*, pulse: Pulse, **parameters: object) -> dict[str, object]:
    """Return the parameters that a run records: those of sinc pulses in full.

    Hard pulses are not recorded, so that results of earlier versions stay up to date.
    """
    sinc = as_pulse(pulse)
    return parameters if sinc is None else {**parameters, "pulse": sinc.as_mapping()}


@step(
    reads=_reads,
    writes=VARIABLES,
    name="t2",
    memory_factor=2.5,
    validate=_check_parameters,
    recorded_parameters=_recorded,
)
def t2(
    msme: xr.Dataset,
    *,
    within: Within = "cartilage",
    model: Model = "mono",
    skip_first_echo: bool | None = None,
    bounds: tuple[float, float] = T2_BOUNDS,
    r2_min: float | None = 0.8,
    pulse: Pulse = "hard",
) -> dict[str, Array]:
    """Fit T2 to one exam; the parameters are those of `fit_t2`."""
    labels = mask_of_exam(msme, _T2, within)
    times = msme["echo_time"]
    if "units" in times.attrs:  # otherwise as declared, ms
        times = in_ms(times, "fit_t2")
    maps = _fit_exam(
        msme["image"].values,
        times.values,
        labels,
        model=model,
        skip_first_echo=_skips(model, skip_first_echo, "t2"),
        bounds=(float(bounds[0]), float(bounds[1])),
        r2_min=r2_min,
        pulse=pulse,
    )
    return dict(zip((v.name for v in _made(model)), maps, strict=True))


def fit_t2(
    ds: xr.Dataset,
    *,
    within: Within | None = None,
    model: Model = "mono",
    skip_first_echo: bool | None = None,
    bounds: tuple[float, float] = T2_BOUNDS,
    r2_min: float | None = 0.8,
    pulse: Pulse = "hard",
) -> xr.Dataset:
    """Add T2 maps to a Dataset of multi-echo images, lazily.

    Parameters
    ----------
    ds : Dataset
        Group ``msme``: `image` (exam, echo, slice, row, column), or without ``exam`` as returned by
        `qmri_lake.read_dicom`; `echo_time` (echo), the same for all exams, or (exam, echo), with
        the attribute ``units``: ms, s or us; `cartilage` for ``within="cartilage"``. Dimensions may
        be in any order. The Dataset is not modified.
    within : {"cartilage", "all"}, optional
        Voxels to fit: voxels with a cartilage or meniscus label, or all voxels. Default:
        ``cartilage`` if `ds` has labels, otherwise ``all``.
    model : {"mono", "epg"}
        ``mono``: one exponential. ``epg``: simulated echo trains by extended phase graphs (beyond
        the paper), which also estimate the transmit field: see `qmri_lake.relaxometry.fit_epg`.
    skip_first_echo : bool, optional
        Whether to skip the first echo. It is too dark relative to the other echoes, since they
        contain stimulated echoes. Default: True for ``mono``; ``epg`` needs all echoes.
        [assumption]
    bounds : (low, high)
        Accept low < T2 <= high [ms]. If `low` is 0, T2 must also be at least half the first echo
        time of the fit; otherwise its status is ``below_resolution``. [assumption]
    r2_min : float or None
        Accept fits with at least this centred r2. None: no limit. [assumption]
    pulse : {"hard", "sinc"} or mapping
        Pulses of ``epg``: hard pulses, or the slice profile of sinc pulses. A mapping gives
        parameters of `qmri_lake.relaxometry.SincPulse`. [assumption]

    Returns
    -------
    Dataset
        `ds` with the lazy variables `t2` [ms], `t2_error` [ms], `s0`, `r2` and `t2_status`, each
        (exam, slice, row, column); with ``epg`` also `t2_b1`. T2 is NaN if it was not fitted or not
        accepted; `t2_status` gives the reason.

    Raises
    ------
    NotFoundError
        If `image`, `echo_time` or `cartilage` is missing.
    InputError
        If dimensions are named otherwise, echo times have no unit or exceed the range of a scanner,
        `within`, `model` or `pulse` is invalid, or the first echo is skipped with ``epg``, or
        `pulse` is not ``hard`` with ``mono``. When computed:
        if an exam was never segmented or has too few echoes. ``mono`` needs at least two echoes,
        ``epg`` at least three that are evenly spaced.
    """
    skip = _skips(model, skip_first_echo, "fit_t2")
    _checked_pulse(model, pulse, "fit_t2")
    kernel = functools.partial(
        _fit_inside,
        model=model,
        skip_first_echo=skip,
        bounds=(float(bounds[0]), float(bounds[1])),
        r2_min=r2_min,
        pulse=pulse,
    )
    return fit_lazily(ds, _T2, kernel, t2.writes[: len(_made(model))], within)


def _fit_inside(
    image: Array,
    echo_time: Array,
    cartilage: Array | None = None,
    inside: Array | None = None,
    *,
    model: Model,
    **options: Any,
) -> tuple[Array, ...]:
    """Fit one exam inside its extent; outside, all maps have the fill value, as in a lake."""
    maps = _fit_exam(image, echo_time, cartilage, inside=inside, model=model, **options)
    return fill_outside(maps, _made(model), inside)
