"""Predict osteoarthritis and pain of a lake's exams, lazily in a session or as steps of a run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.diagnosis.models.classifier import WEIGHTS, Classifier
from qmri_lake.diagnosis.models.ensemble import Models, open_classifiers, recorded_name
from qmri_lake.diagnosis.models.prediction import (
    PREDICTION_STATUS,
    PREDICTORS,
    PredictionStatus,
    predict_maps,
)
from qmri_lake.diagnosis.models.recipes import TASKS
from qmri_lake.errors import InputError, NotFoundError, RunError
from qmri_lake.execution.session import exam_coords, map_exams
from qmri_lake.execution.step import EXAMS_PER_BATCH, Skip, step
from qmri_lake.fusion import BIOMARKER_TABLE, STRATEGIES
from qmri_lake.schema.variable import Coordinate, Variable
from qmri_lake.surface.spherical_grid import BIOMARKERS, BONES, SIZE

__all__ = ["predict", "predict_oa", "predict_pain"]

_DIMS = ("strategy", "predictor")
_NAMES = (
    Coordinate("strategy", ("strategy",), tuple(STRATEGIES), "What the images are merged of"),
    Coordinate(
        "predictor",
        ("predictor",),
        tuple(PREDICTORS),
        "Bone, or mean over bones: tf tibia and femur, ptf all three",
    ),
)
_FINDINGS = {"oa": "osteoarthritis (KL > 1)", "pain": "knee pain"}
_BLOCK = 64
"""Number of exams per block."""
_PROCESS = 2**30
"""Memory of Python with torch and MONAI, without classifiers, in bytes."""


def _variables(task: str) -> tuple[Variable, ...]:
    words = _FINDINGS[task]
    common: dict[str, Any] = {
        "sizes": {"strategy": len(STRATEGIES), "predictor": len(PREDICTORS)},
        "coordinates": _NAMES,
    }
    return (
        Variable(
            "prediction",
            task,
            _DIMS,
            "float32",
            f"Probability of {words}",
            "",
            f"none: see {task}_status",
            valid_range=(0, 1),
            **common,
        ),
        Variable(
            "prediction",
            f"{task}_status",
            _DIMS,
            "uint8",
            f"Whether {words} was predicted",
            "",
            "never computed",
            flags=PREDICTION_STATUS,
            **common,
        ),
    )


VARIABLES: Mapping[str, tuple[Variable, ...]] = {task: _variables(task) for task in TASKS}


# ------------------------------------------------------------------------------------- steps


def _checker(task: str) -> Callable[..., dict[str, object]]:
    def check(*, models: Models) -> dict[str, object]:
        # Opened here, so that the run records exactly the classifiers that its tasks load.
        return {"models": open_classifiers(models, task=task)}

    return check


def _recorded(*, models: Sequence[Classifier]) -> dict[str, object]:
    return {"models": [recorded_name(model) for model in models]}


def _memory(sizes: Mapping[str, int], *, models: Sequence[Classifier]) -> int:
    weights = sum((Path(model.folder) / WEIGHTS).stat().st_size for model in models)
    return _PROCESS + weights + EXAMS_PER_BATCH * 4 * 4 * len(BONES) * len(BIOMARKERS) * SIZE**2


def _run(spheres: Sequence[xr.Dataset], models: Models, task: str) -> list[xr.Dataset | Skip]:
    order = ("bone", "biomarker", "azimuth", "polar")
    try:
        classifiers = open_classifiers(models, task=task)
        maps = np.stack([sphere["map"].transpose(*order).values for sphere in spheres])
        found = predict_maps(maps, classifiers)
    except (InputError, NotFoundError) as error:  # an error of the models would occur in every exam
        raise RunError(
            error.found,
            expected=error.expected,
            where=error.where,
            todo=error.todo,
            reason=error.reason,
        ) from error
    results: list[xr.Dataset | Skip] = []
    for exam, probability, status in zip(maps, found.probability, found.status, strict=True):
        if np.isnan(probability).all():
            results.append(Skip(f"no map that a classifier needs: {_missing_maps(exam)}"))
            continue
        values = zip(VARIABLES[task], (probability, status), strict=True)
        result = xr.Dataset({v.name: (_DIMS, a) for v, a in values})
        partial = (status == PredictionStatus.NO_MAP).any()
        results.append(result.assign_attrs(flag=_missing_maps(exam)) if partial else result)
    return results


def _run_one(sphere: xr.Dataset, models: Models, task: str) -> xr.Dataset:
    (result,) = _run([sphere], models, task)
    if isinstance(result, Skip):
        raise result
    return result


def _missing_maps(maps: NDArray[np.float32]) -> str:
    """Return a text that lists the maps of an exam without values."""
    empty = ~np.asarray(np.isfinite(maps).any(axis=(-2, -1)))
    parts = []
    for k, name in enumerate(BIOMARKERS):
        bones = [bone for bone, absent in zip(BONES, empty[:, k], strict=True) if absent]
        if bones:
            parts.append(f"no {BIOMARKER_TABLE[name].title} of {', '.join(bones)}")
    return "; ".join(parts)


_READS = {"sphere": ("map",)}


@step(
    reads=_READS,
    writes=VARIABLES["oa"],
    gpu=True,
    validate=_checker("oa"),
    recorded_parameters=_recorded,
    memory=_memory,
    batch_function=functools.partial(_run, task="oa"),
)
def predict_oa(sphere: xr.Dataset, *, models: Models) -> xr.Dataset:
    """Predict osteoarthritis for one exam; for `models` see `predict`.

    If a map that a classifier needs is missing, the exam is flagged. If all these maps are missing,
    the exam is skipped.
    """
    return _run_one(sphere, models, "oa")


@step(
    reads=_READS,
    writes=VARIABLES["pain"],
    gpu=True,
    validate=_checker("pain"),
    recorded_parameters=_recorded,
    memory=_memory,
    batch_function=functools.partial(_run, task="pain"),
)
def predict_pain(sphere: xr.Dataset, *, models: Models) -> xr.Dataset:
    """Predict pain for one exam: see `predict_oa`."""
    return _run_one(sphere, models, "pain")


# ----------------------------------------------------------------------------------- session


def predict(sphere: xr.Dataset, models: Models) -> xr.Dataset:
    """Predict osteoarthritis, pain, or both from spherical maps, lazily.

    Parameters
    ----------
    sphere : Dataset
        Group ``sphere``: `map` (exam, bone, biomarker, azimuth, polar) [mm, mm, ms], with the
        coordinates `bone` and `biomarker`; a single exam has no dimension ``exam``. The dataset is
        not modified.
    models : path, Classifier, or sequence of them
        Classifiers, or folders of classifiers as written by ``qmri-lake train oa`` and ``qmri-lake
        train pain``.

    Returns
    -------
    Dataset
        Variables of group ``prediction``: `oa` or `pain` (exam, strategy, predictor) float32, 0 to
        1, the probabilities from the classifier of each bone and their means over bones [paper].
        Values are NaN if there is no prediction; `oa_status` or `pain_status` gives the reason.
        Each block of exams is one Dask task.

    Raises
    ------
    NotFoundError
        If there are no maps, no map of a bone or biomarker, or no classifier.
    InputError
        If an item of `models` is not a classifier, or two classifiers have the same strategy and
        bone. When computed: if weights have changed.
    """
    classifiers = open_classifiers(models)
    maps = _ordered(sphere)
    tasks = [task for task in TASKS if any(c.recipe.task == task for c in classifiers)]
    writes = {"oa": predict_oa.writes, "pain": predict_pain.writes}
    made = [variable for task in tasks for variable in writes[task]]
    ensembles = [[c for c in classifiers if c.recipe.task == task] for task in tasks]
    arrays = map_exams(
        functools.partial(_predict_block, ensembles=ensembles),
        {"maps": (("bone", "biomarker", "azimuth", "polar"), maps)},
        made,
        batch=_BLOCK,
    )
    return (
        exam_coords(sphere).assign_coords({c.name: c.as_variable() for c in _NAMES}).assign(arrays)
    )


def _ordered(sphere: xr.Dataset) -> xr.DataArray:
    """Return maps in the lake's order of bones and biomarkers."""
    if "map" not in sphere:
        raise NotFoundError(
            "no variable 'map'",
            expected="spherical maps",
            where="predict",
            todo="Load group sphere: lake.load('sphere').",
        )
    maps = sphere["map"]
    for dim, known in (("bone", BONES), ("biomarker", BIOMARKERS)):
        present = maps[dim].values.tolist() if dim in maps.dims and dim in maps.coords else []
        if missing := [name for name in known if name not in present]:
            raise NotFoundError(
                f"no map of {', '.join(missing)}",
                expected=f"{dim} {', '.join(known)}",
                where="predict",
                todo="Pass complete maps, and select from the result.",
            )
    return maps.sel(bone=list(BONES), biomarker=list(BIOMARKERS))


def _predict_block(
    maps: NDArray[np.float32], ensembles: Sequence[Sequence[Classifier]]
) -> list[Values]:
    """Compute the predictions of a block of exams."""
    return [array for members in ensembles for array in predict_maps(maps, members)]
