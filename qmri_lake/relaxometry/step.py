"""T2 maps of a lake: lazily in a session, or as a run; both call one kernel for one exam."""

from __future__ import annotations

from numbers import Real
from typing import Any, Literal

import numpy as np
import xarray as xr

from qmri_lake.compute import one_exam_a_block
from qmri_lake.errors import InputError, NotFoundError, Reason, RunError
from qmri_lake.masks import inside
from qmri_lake.relaxometry.arguments import namespace
from qmri_lake.relaxometry.epg import fit_epg
from qmri_lake.relaxometry.mono_exponential import FitStatus, fit_mono_exponential
from qmri_lake.steps import Skip, step
from qmri_lake.tissues import NO_MASK
from qmri_lake.variables import Variable

__all__ = ["fit_t2", "t2"]

Within = Literal["cartilage", "all"]
Model = Literal["mono", "epg"]

_VOLUME = ("slice", "row", "column")
STATUS_FLAGS = {status.name.lower(): int(status) for status in FitStatus}

VARIABLES = (
    Variable("msme", "t2", _VOLUME, "float32", "Transverse relaxation time T2", "ms",
             "not fitted, or not accepted: see t2_status",
             valid_range=(0, 1_000_000)),  # open bounds: up to 10,000 echo spacings
    Variable("msme", "t2_error", _VOLUME, "float32",
             "Standard error of T2, from the residuals of the fit", "ms", "as t2"),
    Variable("msme", "s0", _VOLUME, "float32", "Fitted signal at time 0", "",
             "not fitted"),
    Variable("msme", "r2", _VOLUME, "float32",
             "Coefficient of determination of the fit, centred", "", "not fitted",
             valid_range=(-1e9, 1)),
    Variable("msme", "t2_status", _VOLUME, "uint8", "What became of the fit of each voxel",
             fill_meaning="no image, or never computed", flags=STATUS_FLAGS),
    Variable("msme", "t2_b1", _VOLUME, "float32",
             "Refocusing flip angle relative to 180 degrees; 180 + x reads as 180 - x", "",
             "as t2, or fitted by model='mono', which has none", valid_range=(0.4, 1)),
)  # fmt: skip


def _made(model: Model) -> tuple[Variable, ...]:
    """Return what a model makes, in the order of `_fit_exam`."""
    return VARIABLES if model == "epg" else VARIABLES[:-1]


def _skips(model: Model, skip_first_echo: bool | None, where: str) -> bool:
    """Whether the first echo is left out; None is what suits the model."""
    if model not in ("mono", "epg"):
        raise InputError(f"model={model!r}", expected="mono or epg", where=where)
    if model == "epg" and skip_first_echo:
        raise InputError(
            "skip_first_echo=True with model='epg'",
            expected="all echoes: the first one says most about the refocusing",
            where=where,
            todo="Leave skip_first_echo out.",
        )
    return model == "mono" if skip_first_echo is None else bool(skip_first_echo)


def _reads(*, within: Within, **_: Any) -> dict[str, tuple[str, ...]]:
    # Without a mask nothing has to be registered first.
    extra = ("cartilage",) if within == "cartilage" else ()
    return {"msme": ("image", "echo_time", *extra)}


def _fit_exam(
    image: Any,
    echo_time: Any,
    labels: Any | None,
    *,
    inside: Any | None = None,
    model: Model,
    skip_first_echo: bool,
    bounds: tuple[float, float],
    r2_min: float | None,
) -> tuple[Any, ...]:
    """Fit one exam: image (echo, slice, row, column), echo_time (echo,), labels or None.

    `inside` (slice, row, column) is where the exam has voxels; None: everywhere. Echoes without an
    echo time (another exam of the cohort has more) are not used.
    """
    times = [float(t) for t in echo_time]
    first = 1 if skip_first_echo else 0
    used = [k for k, t in enumerate(times) if np.isfinite(t)][first:]
    if len(used) < 2 and model == "mono":
        raise InputError(
            f"{len(used)} echoes",
            expected="at least two, after the first is left out",
            where="t2",
            todo="Use skip_first_echo=False, or leave this exam out.",
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
    fit = fit_epg(signal, echoes, mask, bounds=bounds, r2_min=r2_min)
    return fit.t2, fit.t2_error, fit.s0, fit.r2, fit.status, fit.b1


def _check_parameters(
    *, within: object, model: Any, skip_first_echo: Any, bounds: Any, r2_min: object
) -> dict[str, Any]:
    """Refuse parameters of the wrong kind when a run is planned, before it touches an exam."""
    pair = isinstance(bounds, (tuple, list, np.ndarray)) and len(bounds) == 2
    for name, value, right, expected in (
        ("within", within, isinstance(within, str) and within in ("cartilage", "all"),
         "cartilage or all"),
        ("model", model, isinstance(model, str) and model in ("mono", "epg"), "mono or epg"),
        ("skip_first_echo", skip_first_echo,
         skip_first_echo is None or isinstance(skip_first_echo, (bool, np.bool_)),
         "True, False, or None for what suits the model"),
        ("bounds", bounds, pair and all(map(_is_number, bounds)) and bounds[0] < bounds[1],
         "two numbers, low < high, ms"),
        ("r2_min", r2_min, r2_min is None or _is_number(r2_min), "a number, or None for no limit"),
    ):  # fmt: skip
        if not right:
            raise RunError(f"{name}={value!r}", expected=expected, where="step t2")
    return {"skip_first_echo": _skips(model, skip_first_echo, "step t2")}


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, Real) and not np.isnan(float(value))


@step(reads=_reads, writes=VARIABLES, name="t2", copies=2.5, check=_check_parameters)
def t2(
    msme: xr.Dataset,
    *,
    within: Within = "cartilage",
    model: Model = "mono",
    skip_first_echo: bool | None = None,
    bounds: tuple[float, float] = (0.0, 100.0),
    r2_min: float | None = 0.8,
) -> dict[str, Any]:
    """Fit T2 to one exam; the parameters are those of `fit_t2`."""
    labels = _labels(msme, within)
    if labels is not None and (labels != NO_MASK).any() and not _tissue(labels).any():
        raise Skip("no cartilage on the MSME grid")
    maps = _fit_exam(
        msme["image"].values,
        msme["echo_time"].values,
        labels,
        model=model,
        skip_first_echo=_skips(model, skip_first_echo, "t2"),
        bounds=(float(bounds[0]), float(bounds[1])),
        r2_min=r2_min,
    )
    return dict(zip((v.name for v in _made(model)), maps, strict=True))


def _tissue(labels: Any) -> Any:
    return (labels != 0) & (labels != NO_MASK)


def _labels(msme: xr.Dataset, within: str) -> Any | None:
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
    bounds: tuple[float, float] = (0.0, 100.0),
    r2_min: float | None = 0.8,
) -> xr.Dataset:
    """Add T2 maps to a Dataset of multi-echo images, lazily.

    Parameters
    ----------
    ds : Dataset
        Of group ``msme``: `image` (exam, echo, slice, row, column), or without ``exam`` as
        `qmri_lake.read_dicom` returns it; `echo_time` [ms]; `cartilage` for
        ``within="cartilage"``. It is not modified.
    within : {"cartilage", "all"}, optional
        Voxels to fit: those of a cartilage or meniscus label, or all. Default: cartilage where
        `ds` has labels, else all.
    model : {"mono", "epg"}
        One exponential, or echo trains by extended phase graphs (beyond the paper), which find the
        refocusing too: see `qmri_lake.relaxometry.fit_epg`.
    skip_first_echo : bool, optional
        Leave out the first echo, which stimulated echoes make too dark. Default: for "mono";
        "epg" needs all echoes. [assumption]
    bounds : (low, high)
        Accept low < T2 <= high, ms. [assumption]
    r2_min : float or None
        Accept fits with at least this centred r2. [assumption]

    Returns
    -------
    Dataset
        `ds` with `t2` [ms], `t2_error` [ms], `s0`, `r2` and `t2_status`, each
        (exam, slice, row, column), lazy; with "epg" `t2_b1` too. T2 is NaN where there is none;
        `t2_status` says why.

    Raises
    ------
    NotFoundError
        No `image`, `echo_time` or `cartilage`.
    InputError
        An unknown `within` or `model`, or the first echo left out with "epg". When computed: an
        exam that was never segmented, or has fewer than two echoes ("epg": three, evenly spaced).
    """
    chosen = within or ("cartilage" if "cartilage" in ds else "all")
    if chosen not in ("cartilage", "all"):
        raise InputError(f"within={within!r}", expected="cartilage or all", where="fit_t2")
    skip = _skips(model, skip_first_echo, "fit_t2")
    made = _made(model)
    needed = ["image", "echo_time", *(["cartilage"] if chosen == "cartilage" else [])]
    for name in needed:
        if name not in ds:
            raise NotFoundError(
                f"no variable {name!r}",
                expected=f"{', '.join(needed)}",
                where="fit_t2",
                todo="Load group msme, or choose within='all'.",
            )
    inputs = {name: ds[name] for name in needed}
    if "extent" in ds:
        inputs["inside"] = inside(ds)
    core = {"image": ["echo", *_VOLUME], "echo_time": ["echo"]}
    maps = xr.apply_ufunc(
        _fit_block,
        *map(one_exam_a_block, inputs.values()),
        input_core_dims=[core.get(name, list(_VOLUME)) for name in inputs],
        output_core_dims=[list(_VOLUME)] * len(made),
        kwargs={
            "names": list(inputs),
            "model": model,
            "skip_first_echo": skip,
            "bounds": (float(bounds[0]), float(bounds[1])),
            "r2_min": r2_min,
        },
        dask="parallelized",
        output_dtypes=[np.dtype(variable.dtype) for variable in made],
        keep_attrs=False,  # those of the image are not those of the maps
    )
    added = {
        variable.name: array.assign_attrs(variable.attributes())
        for variable, array in zip(t2.writes[: len(made)], maps, strict=True)
    }
    return ds.assign(added)


def _fit_block(*arrays: Any, names: list[str], **options: Any) -> Any:
    """Fit a Dask block of any number of exams, one after another."""
    if arrays[0].ndim == 4:
        return _fit_inside(dict(zip(names, arrays, strict=True)), **options)
    xp = namespace(arrays[0])
    if not len(arrays[0]):
        shape = (0, *arrays[0].shape[2:])
        made = _made(options["model"])
        return tuple(xp.empty(shape, dtype=np.dtype(v.dtype)) for v in made)
    fits = [
        _fit_inside(dict(zip(names, exam, strict=True)), **options)
        for exam in zip(*arrays, strict=True)
    ]
    return tuple(xp.stack(list(maps)) for maps in zip(*fits, strict=True))


def _fit_inside(exam: dict[str, Any], **options: Any) -> tuple[Any, ...]:
    """Fit one exam inside its own extent; beyond it, all maps are fill, as in the lake."""
    within = exam.get("inside")
    maps = _fit_exam(
        exam["image"], exam["echo_time"], exam.get("cartilage"), inside=within, **options
    )
    if within is None:
        return tuple(maps)
    xp = namespace(exam["image"])
    return tuple(
        xp.where(within, values, xp.full_like(values, variable.fill))
        for variable, values in zip(_made(options["model"]), maps, strict=True)
    )
