"""Fit T2 maps: a lazy function of Datasets and a step of a run, which share a kernel."""

from __future__ import annotations

import functools
from numbers import Real
from typing import Any, Literal

import numpy as np
import xarray as xr

from qmri_lake.core.array_api import Array, namespace
from qmri_lake.errors import InputError, NotFoundError, Reason, RunError
from qmri_lake.execution.session import check_dims, map_exams
from qmri_lake.execution.step import Skip, step
from qmri_lake.masks import inside
from qmri_lake.relaxometry.echo_times import check_range, ms_per_unit
from qmri_lake.relaxometry.epg import fit_epg
from qmri_lake.relaxometry.fit_status import FitStatus
from qmri_lake.relaxometry.mono_exponential import fit_mono_exponential
from qmri_lake.relaxometry.slice_profile import Pulse, as_pulse
from qmri_lake.schema.variable import VOLUME_DIMS, Variable
from qmri_lake.tissues import NO_MASK

__all__ = ["fit_t2", "t2"]

Within = Literal["cartilage", "all"]
Model = Literal["mono", "epg"]

T2_BOUNDS = (0.0, 100.0)
"""Default bounds of accepted T2 [ms]. [assumption]"""

STATUS_FLAGS = {status.name.lower(): int(status) for status in FitStatus}

VARIABLES = (
    Variable(
        "msme",
        "t2",
        VOLUME_DIMS,
        "float32",
        "Transverse relaxation time T2",
        "ms",
        "not fitted, or not accepted: see t2_status",
        valid_range=(0, 1_000_000),
    ),  # open bounds: up to 10,000 echo spacings
    Variable(
        "msme",
        "t2_error",
        VOLUME_DIMS,
        "float32",
        "Standard error of T2, from the residuals of the fit",
        "ms",
        "as t2",
    ),
    Variable("msme", "s0", VOLUME_DIMS, "float32", "Fitted signal at time 0", "", "not fitted"),
    Variable(
        "msme",
        "r2",
        VOLUME_DIMS,
        "float32",
        "Coefficient of determination of the fit, centred",
        "",
        "not fitted",
        valid_range=(-1e9, 1),
    ),
    Variable(
        "msme",
        "t2_status",
        VOLUME_DIMS,
        "uint8",
        "Result of the fit of each voxel",
        fill_meaning="no image, or never computed",
        flags=STATUS_FLAGS,
    ),
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
    # Without a mask, the fit does not depend on a registration.
    extra = ("cartilage",) if within == "cartilage" else ()
    return {"msme": ("image", "echo_time", *extra)}


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
    check_range(np.asarray(times), "t2")
    known = [k for k, t in enumerate(times) if np.isfinite(t)]
    if known and known[-1] >= len(known):
        gap = next(k for k, t in enumerate(times) if not np.isfinite(t))
        raise InputError(
            f"no time of echo {gap + 1} of {known[-1] + 1}",
            expected="a time for each echo; only absent echoes at the end have none",
            where="t2",
            todo="Leave the echo out: ds.isel(echo=[...]).",
        )
    used = known[1:] if skip_first_echo else known
    if len(used) < 2 and model == "mono":
        raise InputError(
            f"{len(used)} echoes",
            expected="at least two after the first echo is skipped",
            where="t2",
            todo="Use skip_first_echo=False, or exclude this exam.",
        )
    xp = namespace(image)
    signal = image[used[0] : used[-1] + 1, ...] if used else image[:0, ...]
    mask = inside
    if labels is not None:
        unknown = labels == NO_MASK
        if inside is not None:
            unknown = unknown | ~inside
        if bool(xp.all(unknown)) and (inside is None or bool(xp.any(inside))):
            raise InputError(
                "no cartilage mask",
                expected="labels on the MSME grid",
                where="t2",
                todo="Import or register masks first, or use within='all'.",
                reason=Reason.ABSENT_EXAM,
            )
        mask = _tissue(labels) if inside is None else _tissue(labels) & inside
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
    pair = isinstance(bounds, (tuple, list, np.ndarray)) and len(bounds) == 2
    for name, value, right, expected in (
        (
            "within",
            within,
            isinstance(within, str) and within in ("cartilage", "all"),
            "cartilage or all",
        ),
        ("model", model, isinstance(model, str) and model in ("mono", "epg"), "mono or epg"),
        (
            "skip_first_echo",
            skip_first_echo,
            skip_first_echo is None or isinstance(skip_first_echo, (bool, np.bool_)),
            "True, False, or None for the default of the model",
        ),
        (
            "bounds",
            bounds,
            pair and all(map(_is_number, bounds)) and bounds[0] < bounds[1],
            "two numbers, low < high, ms",
        ),
        ("r2_min", r2_min, r2_min is None or _is_number(r2_min), "a number, or None for no limit"),
    ):
        if not right:
            raise RunError(f"{name}={value!r}", expected=expected, where="step t2")
    _checked_pulse(model, pulse, "step t2")
    return {"skip_first_echo": _skips(model, skip_first_echo, "step t2")}


def _is_number(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, Real) and not np.isnan(float(value))


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
    labels = _labels(msme, within)
    if labels is not None and (labels != NO_MASK).any() and not _tissue(labels).any():
        raise Skip("no cartilage on the MSME grid")
    times = msme["echo_time"]
    if "units" in times.attrs:  # otherwise as declared, ms
        times = _in_ms(times)
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


def _tissue(labels: Array) -> Array:
    return (labels != 0) & (labels != NO_MASK)


def _labels(msme: xr.Dataset, within: str) -> Array | None:
    if within == "all":
        return None
    if within != "cartilage":
        raise InputError(f"within={within!r}", expected="cartilage or all", where="t2")
    return msme["cartilage"].values


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
    if not isinstance(ds, xr.Dataset):
        raise InputError(
            f"a {type(ds).__name__}",
            expected="a Dataset with image and echo_time",
            where="fit_t2",
            todo="Use xr.Dataset({'image': image, 'echo_time': ('echo', times, {'units': 'ms'})}).",
        )
    chosen = within or ("cartilage" if "cartilage" in ds else "all")
    if chosen not in ("cartilage", "all"):
        raise InputError(f"within={within!r}", expected="cartilage or all", where="fit_t2")
    skip = _skips(model, skip_first_echo, "fit_t2")
    _checked_pulse(model, pulse, "fit_t2")
    needed = ["image", "echo_time", *(["cartilage"] if chosen == "cartilage" else [])]
    for name in needed:
        if name not in ds:
            raise NotFoundError(
                f"no variable {name!r}",
                expected=f"{', '.join(needed)}",
                where="fit_t2",
                todo="Load group msme, or choose within='all'.",
            )
    dims: dict[str, tuple[str, ...]] = {"image": ("echo", *VOLUME_DIMS), "echo_time": ("echo",)}
    inputs = {name: (dims.get(name, VOLUME_DIMS), ds[name]) for name in needed}
    check_dims(inputs, "fit_t2", {"echo_time": "ds.swap_dims(echo_time='echo')"})
    inputs["echo_time"] = ("echo",), _in_ms(ds["echo_time"])
    if "extent" in ds:
        inputs["inside"] = VOLUME_DIMS, inside(ds)
    kernel = functools.partial(
        _fit_inside,
        model=model,
        skip_first_echo=skip,
        bounds=(float(bounds[0]), float(bounds[1])),
        r2_min=r2_min,
        pulse=pulse,
    )
    return ds.assign(map_exams(kernel, inputs, t2.writes[: len(_made(model))]))


def _in_ms(echo_time: xr.DataArray) -> xr.DataArray:
    """Return echo times in ms; raise an error without a unit, or with a wrong one."""
    factor = ms_per_unit(echo_time.attrs.get("units"), "fit_t2")
    times = echo_time.astype(np.float64) * factor
    if times.chunks is None:  # otherwise checked when computed
        check_range(times.values, "fit_t2")
    return times


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
    if inside is None:
        return maps
    xp = namespace(image)
    return tuple(
        xp.where(inside, values, xp.full_like(values, variable.fill))
        for variable, values in zip(_made(model), maps, strict=True)
    )
