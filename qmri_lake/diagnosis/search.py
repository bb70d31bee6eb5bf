"""The search: learning rate x depth x start x frozen layers, for each strategy and bone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from qmri_lake.diagnosis.classifier import CARD, Classifier
from qmri_lake.diagnosis.labels import PainRule
from qmri_lake.diagnosis.recipes import DEPTHS, FROZEN, STARTS, Recipe, Start, recipe
from qmri_lake.diagnosis.training import (
    Model,
    ModelDone,
    Training,
    chosen,
    first_models,
    run_models,
)
from qmri_lake.diagnosis.training_sets import Sets, draw
from qmri_lake.errors import InputError, NotFoundError
from qmri_lake.fusion import STRATEGIES
from qmri_lake.segmentation.train import EpochDone
from qmri_lake.surface.layout import BONES

if TYPE_CHECKING:
    from qmri_lake.cohort import Cohort
    from qmri_lake.lake import Lake

__all__ = [
    "RATES", "TOTAL", "Searched", "best_of_each_start", "read_search", "search", "search_space",
]  # fmt: skip

TOTAL = 612
"""Models in the whole search. [paper]"""

RATES: Mapping[str, tuple[float, float]] = {"paper": (1e-4, 1e-5), "small": (1e-3, 1e-4)}
"""Learning rates by preset: the paper's [paper], and for small models ours [assumption]."""

COLUMNS = ("strategy", "bone", "start", "depth", "learning_rate", "frozen", "validation_auc",
           "validation_loss", "best_epoch", "error")  # fmt: skip


def search_space(preset: str = "paper") -> dict[str, Recipe]:
    """Return the recipes that are tried for each strategy and bone.

    Parameters
    ----------
    preset : {"paper", "small"}

    Returns
    -------
    dict of Recipe
        34 by name, such as ``imagenet-50-1e-05-first``: 612 for 18 models [paper]. Which 34 the
        paper does not say. Ours [assumption]: from ImageNet 3 depths x 2 learning rates x 4 frozen
        parts = 24; from random weights, of which none can be frozen, 3 x 2 = 6; from the model of
        OA, at its depth and the preset's learning rate, 4 frozen parts.

    Examples
    --------
    >>> import collections
    >>> collections.Counter(recipe.start for recipe in search_space().values())
    Counter({'imagenet': 24, 'random': 6, 'oa': 4})
    """
    own = recipe("pain", preset)
    rates = RATES[preset]
    found: dict[str, Recipe] = {}

    def add(start: Start, depth: int, rate: float, frozen: Any) -> None:
        name = f"{start}-{depth}-{rate:g}-{frozen}"
        found[name] = replace(
            own, start=start, depth=depth, learning_rate=rate, frozen=frozen
        )  # fmt: skip

    for depth in DEPTHS:
        for rate in rates:
            add("random", depth, rate, "none")
            for frozen in FROZEN:
                add("imagenet", depth, rate, frozen)
    for frozen in FROZEN:
        add("oa", own.depth, own.learning_rate, frozen)
    assert len(found) * len(STRATEGIES) * len(BONES) == TOTAL
    return found


@dataclass(frozen=True)
class Searched:
    """What a search, or a part of one, has found."""

    models: pd.DataFrame
    """A row a model that was asked for: strategy, bone, start, depth, learning_rate, frozen,
    validation_auc, validation_loss, best_epoch; error, "" where it was trained. Without a result
    numbers are NaN."""

    @property
    def trained(self) -> int:
        """Models that are trained."""
        return int((self.models["error"] == "").sum())

    @property
    def told(self) -> str:
        """How much of the search this is: "8 of 612"."""
        return f"{self.trained} of {TOTAL}"

    def best(self) -> pd.DataFrame:
        """Return the best model of each strategy, bone and start: see `best_of_each_start`."""
        return best_of_each_start(self.models)


def best_of_each_start(models: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the highest validation AUC; of equals that with the lowest loss.

    Parameters
    ----------
    models : DataFrame
        As `Searched.models`. Not modified.

    Returns
    -------
    DataFrame
        A row a strategy, bone and start that has any result.
    """
    known = models[models["validation_auc"].notna()]
    order = known.sort_values(["validation_auc", "validation_loss"], ascending=[False, True])
    return order.drop_duplicates(["strategy", "bone", "start"]).sort_index().reset_index(drop=True)


def search(
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
    cluster: Any = None,
    workers: int = 0,
    progress: Callable[[EpochDone | ModelDone], None] | None = None,
) -> Searched:
    """Search for the best models of pain, all 612 or a declared part.

    Parameters
    ----------
    lake : Lake
    out : path
        As of `qmri_lake.diagnosis.training.train_classifiers`, a folder a model:
        ``<strategy>/<bone>/<start>-<depth>-<learning rate>-<frozen>``.
    oa : path, optional
        Folder of models of OA: needed unless `starts` leaves out ``oa``.
    preset : {"paper", "small"}
        See `search_space`.
    strategies, bones, starts, depths, learning_rates, frozen : sequence, optional
        The part of the space that is searched; default all of it.
    sets, rule, cohort, seed, resume, epochs, cluster, workers, progress
        As of `train_classifiers`; ImageNet weights are torchvision's own.

    Returns
    -------
    Searched
        A model that failed is a row with its error, and stops no other.

    Raises
    ------
    NotFoundError
        No such strategy, bone, start or frozen part.
    InputError
        A part of the space that is empty; and what `train_classifiers` refuses.
    RunError
        As `train_classifiers`, but for models that failed.
    """
    wanted = {
        "start": chosen(starts, STARTS, "start"),
        "frozen": chosen(frozen, list(FROZEN), "frozen part"),
        "depth": depths, "learning_rate": learning_rates,
    }  # fmt: skip
    space = {
        name: one for name, one in search_space(preset).items()
        if all(values is None or getattr(one, key) in values for key, values in wanted.items())
    }  # fmt: skip
    if not space:
        raise InputError(
            "a part of the search without a model", expected="some of its 34 recipes",
            where="search", todo="search_space() lists them.",
        )  # fmt: skip
    models = [
        Model((strategy, bone, name), one)
        for strategy in chosen(strategies, STRATEGIES, "strategy")
        for bone in chosen(bones, BONES, "bone")
        for name, one in space.items()
    ]
    first = None
    if oa is not None or any(one.start == "oa" for one in space.values()):
        first = first_models(recipe("pain", preset), oa)
    asked = {"task": "pain", "search": preset, "seed": seed, "rule": rule}
    drawn = draw(
        lake, Path(out), asked, sets=sets, rule=rule, oa=first, cohort=cohort, resume=resume
    )
    training = Training(
        drawn, str(Path(out).absolute()), seed, resume, oa=None if first is None else str(first),
        epochs=epochs, workers=workers,
    )  # fmt: skip
    ended = run_models(training, models, cluster=cluster, progress=progress)
    return _searched(
        _row(model.place[0], model.place[1], model.recipe, done.classifier, done.error)
        for model, done in zip(models, ended, strict=True)
    )


def read_search(folder: str | os.PathLike[str]) -> Searched:
    """Return what a search has found, of the models that it has trained so far.

    Parameters
    ----------
    folder : path
        What `search` was given as `out`.

    Raises
    ------
    NotFoundError
        No model there.
    """
    places = sorted(Path(folder).glob(f"*/*/*/{CARD}"))
    if not places:
        raise NotFoundError(
            f"no {CARD}", expected="a folder of `search`, <strategy>/<bone>/<recipe>",
            where=os.fspath(folder), todo="Search first: qmri-lake train search.",
        )  # fmt: skip
    found = [Classifier.open(place.parent) for place in places]
    return _searched(_row(one.strategy, one.bone, one.recipe, one) for one in found)


def _searched(rows: Iterable[dict[str, Any]]) -> Searched:
    return Searched(pd.DataFrame(list(rows), columns=list(COLUMNS)))


def _row(
    strategy: str, bone: str, one: Recipe, classifier: Classifier | None, error: str = ""
) -> dict[str, Any]:
    card = {} if classifier is None else classifier.card
    numbers = {name: card.get(name, float("nan"))
               for name in ("validation_auc", "validation_loss", "best_epoch")}  # fmt: skip
    return {
        "strategy": strategy, "bone": bone, "start": one.start, "depth": one.depth,
        "learning_rate": one.learning_rate, "frozen": one.frozen, **numbers, "error": error,
    }  # fmt: skip
