"""Predictions of a lake's exams: lazily in a session, or as runs; both call one kernel."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.diagnosis.classifier import WEIGHTS, Classifier
from qmri_lake.diagnosis.ensemble import (
    PREDICTION_STATUS,
    PREDICTORS,
    identity,
    open_classifiers,
    predict_maps,
)
from qmri_lake.diagnosis.recipes import TASKS
from qmri_lake.errors import InputError, NotFoundError, RunError
from qmri_lake.fusion import STRATEGIES
from qmri_lake.steps import BLOCK, Skip, step
from qmri_lake.surface.layout import BIOMARKERS, BONES, SIZE
from qmri_lake.variables import Coordinate, Variable

__all__ = ["predict", "predict_oa", "predict_pain"]

_DIMS = ("strategy", "predictor")
_NAMES = (
    Coordinate("strategy", ("strategy",), tuple(STRATEGIES), "What the images are merged of"),
    Coordinate("predictor", ("predictor",), tuple(PREDICTORS),
               "Bone, or mean over bones: tf tibia and femur, ptf all three"),
)  # fmt: skip
_WORDS = {"oa": "osteoarthritis (KL > 1)", "pain": "knee pain"}
_BLOCK = 64
"""Exams whose maps are in memory at once."""
_PROCESS = 2**30
"""Python with torch and MONAI, before a classifier is read."""


def _variables(task: str) -> tuple[Variable, ...]:
    words = _WORDS[task]
    common: dict[str, Any] = {
        "sizes": {"strategy": len(STRATEGIES), "predictor": len(PREDICTORS)},
        "coordinates": _NAMES,
    }
    return (
        Variable("prediction", task, _DIMS, "float32", f"Probability of {words}", "",
                 f"none: see {task}_status", valid_range=(0, 1), **common),
        Variable("prediction", f"{task}_status", _DIMS, "uint8", f"Whether {words} was predicted",
                 "", "never computed", flags=PREDICTION_STATUS, **common),
    )  # fmt: skip


VARIABLES: Mapping[str, tuple[Variable, ...]] = {task: _variables(task) for task in TASKS}


# ------------------------------------------------------------------------------------- steps


def _checker(task: str) -> Any:
    def check(*, models: Any) -> dict[str, Any]:
        # Open from here on: what tasks load is what the run records, or the run ends.
        return {"models": open_classifiers(models, task=task)}

    return check


def _recorded(*, models: Sequence[Classifier]) -> dict[str, Any]:
    return {"models": [identity(model) for model in models]}


def _memory(sizes: Mapping[str, int], *, models: Sequence[Classifier]) -> int:
    weights = sum((Path(model.folder) / WEIGHTS).stat().st_size for model in models)
    return _PROCESS + weights + BLOCK * 4 * 4 * len(BONES) * len(BIOMARKERS) * SIZE**2


def _run(spheres: Sequence[xr.Dataset], models: Any, task: str) -> list[xr.Dataset | Skip]:
    order = ("bone", "biomarker", "azimuth", "polar")
    try:
        classifiers = open_classifiers(models, task=task)
        maps = np.stack([sphere["map"].transpose(*order).values for sphere in spheres])
        found = predict_maps(maps, classifiers)
    except (InputError, NotFoundError) as error:  # of the models: it would fail every exam
        raise RunError(
            error.found, expected=error.expected, where=error.where, todo=error.todo,
            reason=error.reason,
        ) from error  # fmt: skip
    results: list[xr.Dataset | Skip] = []
    for exam, probability, status in zip(maps, found.probability, found.status, strict=True):
        if np.isnan(probability).all():
            results.append(Skip(f"no map that a classifier needs: {_lacking(exam)}"))
            continue
        values = zip(VARIABLES[task], (probability, status), strict=True)
        result = xr.Dataset({v.name: (_DIMS, a) for v, a in values})
        partial = (status == PREDICTION_STATUS["no_map"]).any()
        results.append(result.assign_attrs(flag=_lacking(exam)) if partial else result)
    return results


def _run_one(sphere: xr.Dataset, models: Any, task: str) -> xr.Dataset:
    (result,) = _run([sphere], models, task)
    if isinstance(result, Skip):
        raise result
    return result


def _lacking(maps: NDArray[np.float32]) -> str:
    """Say which maps of an exam have no value."""
    empty = ~np.asarray(np.isfinite(maps).any(axis=(-2, -1)))
    parts = []
    for k, name in enumerate(BIOMARKERS):
        bones = [bone for bone, none in zip(BONES, empty[:, k], strict=True) if none]
        if bones:
            title = "T2" if name == "t2" else name.replace("_", " ")
            parts.append(f"no {title} of {', '.join(bones)}")
    return "; ".join(parts)


_READS = {"sphere": ("map",)}


@step(
    reads=_READS, writes=VARIABLES["oa"], gpu=True, check=_checker("oa"), recorded=_recorded,
    memory=_memory, together=functools.partial(_run, task="oa"),
)  # fmt: skip
def predict_oa(sphere: xr.Dataset, *, models: Any) -> xr.Dataset:
    """Predict osteoarthritis of one exam; the parameter is that of `predict`.

    An exam that lacks a map which a classifier needs is flagged, and skipped if none is there.
    """
    return _run_one(sphere, models, "oa")


@step(
    reads=_READS, writes=VARIABLES["pain"], gpu=True, check=_checker("pain"), recorded=_recorded,
    memory=_memory, together=functools.partial(_run, task="pain"),
)  # fmt: skip
def predict_pain(sphere: xr.Dataset, *, models: Any) -> xr.Dataset:
    """Predict pain of one exam, likewise."""
    return _run_one(sphere, models, "pain")


# ----------------------------------------------------------------------------------- session


def predict(sphere: xr.Dataset, models: Any) -> xr.Dataset:
    """Predict osteoarthritis, pain, or both, from spherical maps, lazily.

    Parameters
    ----------
    sphere : Dataset
        Group ``sphere``: `map` (exam, bone, biomarker, azimuth, polar), mm, mm and ms, with the
        coordinates `bone` and `biomarker`; without ``exam`` for one exam. It is not modified.
    models : path, Classifier, or sequence of them
        Folders of classifiers, as ``qmri-lake train oa`` and ``train pain`` write them, or
        classifiers.

    Returns
    -------
    Dataset
        As group ``prediction``: `oa` or `pain` (exam, strategy, predictor) float32, 0 to 1, of
        each bone's classifier and their means [paper]; NaN where there is none, with the reason in
        `oa_status` or `pain_status`. A block of exams is one task.

    Raises
    ------
    NotFoundError
        No maps, or none of a bone or biomarker; no classifier.
    InputError
        Models that are none, or two of one strategy and bone. When computed: weights that have
        changed.
    """
    classifiers = open_classifiers(models)
    maps = _ordered(sphere)
    tasks = [task for task in TASKS if any(c.recipe.task == task for c in classifiers)]
    writes = {"oa": predict_oa.writes, "pain": predict_pain.writes}
    made = [variable for task in tasks for variable in writes[task]]
    arrays = xr.apply_ufunc(
        _predict_block,
        maps,
        input_core_dims=[["bone", "biomarker", "azimuth", "polar"]],
        output_core_dims=[list(_DIMS)] * len(made),
        kwargs={"ensembles": [[c for c in classifiers if c.recipe.task == t] for t in tasks]},
        dask="parallelized",
        output_dtypes=[np.dtype(variable.dtype) for variable in made],
        dask_gufunc_kwargs={"output_sizes": dict(made[0].sizes)},
        keep_attrs=False,
    )
    of_exams = sphere.drop_vars(
        [n for n, v in sphere.variables.items()
         if n in sphere.data_vars or not {*v.dims} <= {"exam"}]
    )  # fmt: skip
    return of_exams.assign_coords({c.name: c.as_variable() for c in _NAMES}).assign(
        {
            variable.name: array.variable._replace(attrs=variable.attributes())
            for variable, array in zip(made, arrays, strict=True)
        }
    )


def _ordered(sphere: xr.Dataset) -> xr.DataArray:
    """Return maps in the lake's order of bones and biomarkers, in blocks of exams."""
    if "map" not in sphere:
        raise NotFoundError(
            "no variable 'map'", expected="spherical maps", where="predict",
            todo="Load group sphere: lake.load('sphere').",
        )  # fmt: skip
    maps = sphere["map"]
    for dim, known in (("bone", BONES), ("biomarker", BIOMARKERS)):
        there = maps[dim].values.tolist() if dim in maps.dims and dim in maps.coords else []
        if missing := [name for name in known if name not in there]:
            raise NotFoundError(
                f"no map of {', '.join(missing)}", expected=f"{dim} {', '.join(known)}",
                where="predict", todo="Predict from whole maps, and select of the result.",
            )  # fmt: skip
    maps = maps.sel(bone=list(BONES), biomarker=list(BIOMARKERS))
    chunks: dict[Any, int] = {dim: -1 for dim in maps.dims if dim != "exam"}
    if "exam" in maps.dims and maps.chunks is None:
        chunks["exam"] = _BLOCK
    return xr.DataArray(maps.variable.chunk(chunks))


def _predict_block(
    maps: NDArray[np.float32], ensembles: Sequence[Sequence[Classifier]]
) -> tuple[NDArray[Any], ...]:
    """Predict a Dask block of any number of exams, or one exam."""
    exams = maps if maps.ndim == 5 else maps[None]
    found = [array for members in ensembles for array in predict_maps(exams, members)]
    return tuple(found) if maps.ndim == 5 else tuple(array[0] for array in found)
