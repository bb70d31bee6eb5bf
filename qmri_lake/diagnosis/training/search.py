"""Search for the best learning rate, depth, initial weights and frozen layers of classifiers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from qmri_lake.core.json_types import JsonObject
from qmri_lake.core.model_folder import CARD
from qmri_lake.diagnosis.labels import PainRule
from qmri_lake.diagnosis.models.classifier import Classifier
from qmri_lake.diagnosis.models.recipes import (
    DEPTHS,
    FROZEN,
    STARTS,
    Frozen,
    Recipe,
    Start,
    recipe,
)
from qmri_lake.diagnosis.training.train_classifiers import (
    ClusterLike,
    ModelSpec,
    Progress,
    TrainingTask,
    oa_folder,
    run_models,
    selected,
)
from qmri_lake.diagnosis.training.training_sets import Sets, resolve_sets
from qmri_lake.errors import InputError, NotFoundError
from qmri_lake.fusion import STRATEGIES
from qmri_lake.surface.spherical_grid import BONES

if TYPE_CHECKING:
    from qmri_lake.lake.cohort import Cohort
    from qmri_lake.lake.lake import Lake

__all__ = [
    "RATES",
    "SearchResult",
    "best_of_each_start",
    "read_search",
    "search",
    "search_size",
    "search_space",
]

RATES: Mapping[str, tuple[float, float]] = {"paper": (1e-4, 1e-5), "small": (1e-3, 1e-4)}
"""Learning rates by preset: the paper's [paper], and this package's for small models
[assumption]."""

COLUMNS = (
    "strategy",
    "bone",
    "start",
    "depth",
    "learning_rate",
    "frozen",
    "validation_auc",
    "validation_loss",
    "best_epoch",
    "error",
)


def search_space(preset: str = "paper") -> dict[str, Recipe]:
    """Return the recipes of the search. For each strategy and bone, each recipe gives one model.

    Parameters
    ----------
    preset : {"paper", "small"}

    Returns
    -------
    dict of Recipe
        34 recipes by name, such as ``imagenet-50-1e-05-first``. The paper reports 612 models for 6
        strategies and 3 bones, 34 for each strategy and bone, but does not list them. This package
        uses 24 recipes that start from ImageNet (3 depths x 2 learning rates x 4 frozen parts), 6
        that start from random weights, which can't be frozen (3 depths x 2 learning rates), and 4
        that start from the model of OA, with the depth of this model and the preset's learning rate
        (4 frozen parts). [assumption]

    Examples
    --------
    >>> import collections
    >>> collections.Counter(recipe.start for recipe in search_space().values())
    Counter({'imagenet': 24, 'random': 6, 'oa': 4})
    """
    own = recipe("pain", preset)
    rates = RATES[preset]
    found: dict[str, Recipe] = {}

    def add(start: Start, depth: int, rate: float, frozen: Frozen) -> None:
        name = f"{start}-{depth}-{rate:g}-{frozen}"
        found[name] = replace(own, start=start, depth=depth, learning_rate=rate, frozen=frozen)

    for depth in DEPTHS:
        for rate in rates:
            add("random", depth, rate, "none")
            for frozen in FROZEN:
                add("imagenet", depth, rate, frozen)
    for frozen in FROZEN:
        add("oa", own.depth, own.learning_rate, frozen)
    return found


def search_size(preset: str = "paper") -> int:
    """Return the number of models in the whole search: recipes x strategies x bones.

    Examples
    --------
    >>> search_size()
    612
    """
    return len(search_space(preset)) * len(STRATEGIES) * len(BONES)


@dataclass(frozen=True)
class SearchResult:
    """The models of a search, or of a part of it."""

    models: pd.DataFrame
    """One row per model. Columns: strategy, bone, start, depth, learning_rate and frozen;
    validation_auc, validation_loss and best_epoch, NaN if the training failed; error, "" if the
    training succeeded."""

    @property
    def trained(self) -> int:
        """Number of trained models."""
        return int((self.models["error"] == "").sum())

    @property
    def coverage(self) -> str:
        """Numbers of trained models and of all models in the search, such as "8 of 612"."""
        return f"{self.trained} of {search_size()}"

    def best(self) -> pd.DataFrame:
        """Return the best model of each strategy, bone and start: see `best_of_each_start`."""
        return best_of_each_start(self.models)


def best_of_each_start(models: pd.DataFrame) -> pd.DataFrame:
    """Return the model with the highest validation AUC for each strategy, bone and start.

    If several models have the highest AUC, the one with the lowest validation loss is returned.

    Parameters
    ----------
    models : DataFrame
        Table as in `SearchResult.models`. The table is not modified.

    Returns
    -------
    DataFrame
        One row for each strategy, bone and start with a result.
    """
    known = models[models["validation_auc"].notna()]
    order = known.sort_values(["validation_auc", "validation_loss"], ascending=[False, True])
    return order.drop_duplicates(["strategy", "bone", "start"]).sort_index().reset_index(drop=True)


def search(  # keyword-only options: the part of the paper's search, and its execution
    lake: Lake,
    *,
    out: str | os.PathLike[str],
    oa: str | os.PathLike[str] | None = None,
    preset: str = "paper",
    strategies: Sequence[str] | None = None,
    bones: Sequence[str] | None = None,
    starts: Sequence[str] | None = None,
    depths: Sequence[int] | None = None,
    learning_rates: Sequence[float] | None = None,
    frozen: Sequence[str] | None = None,
    sets: Sets = None,
    rule: PainRule = "chronic",
    cohort: Cohort | str | None = None,
    seed: int = 0,
    resume: bool = False,
    epochs: int | None = None,
    cluster: ClusterLike = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> SearchResult:
    """Search for the best models of pain, with all or some recipes of `search_space`.

    Parameters
    ----------
    lake : Lake
    out : path
        Folder of the search: see `qmri_lake.diagnosis.train_classifiers`. Each model has a folder
        ``<strategy>/<bone>/<start>-<depth>-<learning rate>-<frozen>``.
    oa : path, optional
        Folder of models of OA. Required unless `starts` excludes ``oa``.
    preset : {"paper", "small"}
        See `search_space`.
    strategies, bones, starts, depths, learning_rates, frozen : sequence, optional
        Values to search. Default: all values of `search_space`.
    sets, rule, cohort, seed, resume, epochs, cluster, workers, progress
        See `train_classifiers`. ImageNet weights are torchvision's.

    Returns
    -------
    SearchResult
        The results of all models. If a training fails, the row of the model contains the error, and
        the other trainings continue.

    Raises
    ------
    NotFoundError
        If a strategy, bone, start or frozen part is unknown.
    InputError
        If no recipe has the selected values. Also for the reasons that `train_classifiers` lists.
    RunError
        For the reasons that `train_classifiers` lists, except that models failed.
    """
    selection = {
        "start": selected(starts, STARTS, "start"),
        "frozen": selected(frozen, list(FROZEN), "frozen part"),
        "depth": depths,
        "learning_rate": learning_rates,
    }
    space = {
        name: one
        for name, one in search_space(preset).items()
        if all(values is None or getattr(one, key) in values for key, values in selection.items())
    }
    if not space:
        raise InputError(
            "no recipe in this part of the search",
            expected="at least 1 recipe",
            where="search",
            todo="search_space() lists the recipes.",
        )
    models = [
        ModelSpec((strategy, bone, name), one)
        for strategy in selected(strategies, STRATEGIES, "strategy")
        for bone in selected(bones, BONES, "bone")
        for name, one in space.items()
    ]
    models_of_oa = None
    if oa is not None or any(one.start == "oa" for one in space.values()):
        models_of_oa = oa_folder(recipe("pain", preset), oa)
    settings = {"task": "pain", "search": preset, "seed": seed, "rule": rule}
    chosen = resolve_sets(
        lake,
        Path(out),
        settings,
        models=[model.folders for model in models],
        sets=sets,
        rule=rule,
        oa=models_of_oa,
        cohort=cohort,
        resume=resume,
    )
    task = TrainingTask(
        chosen,
        str(Path(out).absolute()),
        seed,
        resume,
        oa=None if models_of_oa is None else str(models_of_oa),
        epochs=epochs,
        workers=workers,
    )
    results = run_models(task, models, cluster=cluster, progress=progress)
    return _search_result(
        _row(model.folders[0], model.folders[1], model.recipe, done.classifier, done.error)
        for model, done in zip(models, results, strict=True)
    )


def read_search(folder: str | os.PathLike[str]) -> SearchResult:
    """Return the results of the models that a search has trained so far.

    Parameters
    ----------
    folder : path
        The folder that was passed to `search` as `out`.

    Raises
    ------
    NotFoundError
        If the folder contains no model.
    """
    places = sorted(Path(folder).glob(f"*/*/*/{CARD}"))
    if not places:
        raise NotFoundError(
            f"no {CARD}",
            expected="the folder of a search, <strategy>/<bone>/<recipe>",
            where=os.fspath(folder),
            todo="Run the search first: qmri-lake train search.",
        )
    found = [Classifier.open(place.parent) for place in places]
    return _search_result(_row(one.strategy, one.bone, one.recipe, one) for one in found)


def _search_result(rows: Iterable[JsonObject]) -> SearchResult:
    return SearchResult(pd.DataFrame(list(rows), columns=list(COLUMNS)))


def _row(
    strategy: str, bone: str, one: Recipe, classifier: Classifier | None, error: str = ""
) -> JsonObject:
    card = {} if classifier is None else classifier.card
    numbers = {
        name: card.get(name, float("nan"))
        for name in ("validation_auc", "validation_loss", "best_epoch")
    }
    return {
        "strategy": strategy,
        "bone": bone,
        "start": one.start,
        "depth": one.depth,
        "learning_rate": one.learning_rate,
        "frozen": one.frozen,
        **numbers,
        "error": error,
    }
