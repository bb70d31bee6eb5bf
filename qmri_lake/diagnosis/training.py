"""Training of many classifiers: who learns is drawn once, then model by model, here or anywhere."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmri_lake.compute import map_tasks, running
from qmri_lake.diagnosis.classifier import CARD, WEIGHTS, Classifier
from qmri_lake.diagnosis.labels import PainRule
from qmri_lake.diagnosis.recipes import Recipe, recipe
from qmri_lake.diagnosis.resnet import digest_of, imagenet_weights
from qmri_lake.diagnosis.training_sets import Drawn, Sets, draw
from qmri_lake.errors import (
    DiskFullError,
    InputError,
    NotFoundError,
    Reason,
    RunError,
    did_you_mean,
)
from qmri_lake.fusion import STRATEGIES
from qmri_lake.run import one_line
from qmri_lake.segmentation.checkpoints import refuse_difference
from qmri_lake.segmentation.train import EpochDone
from qmri_lake.storage import disk_full
from qmri_lake.surface.layout import BONES

if TYPE_CHECKING:
    from qmri_lake.cohort import Cohort
    from qmri_lake.lake import Lake

__all__ = ["Model", "ModelDone", "Training", "run_models", "train_classifiers"]

CACHE = "cache"


@dataclass(frozen=True, slots=True)
class Model:
    """One model of many."""

    place: tuple[str, ...]
    """Strategy, bone, and in a search the name of the recipe: its folder."""
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class ModelDone:
    """A model has ended: it is trained, or it failed."""

    name: str
    """``<strategy>/<bone>``, in a search with the recipe's name."""
    models: int
    """How many there are in all."""
    classifier: Classifier | None
    error: str = ""
    """Why it failed, in one line."""

    def __str__(self) -> str:
        if self.classifier is None:
            return f"{self.name} failed: {self.error}"
        return f"{self.name} validation AUC {self.classifier.card['validation_auc']:.3f}"


def train_classifiers(
    lake: Lake,
    task: str,
    *,
    preset: str = "paper",
    out: str | os.PathLike[str],
    strategies: Sequence[str] | None = None,
    bones: Sequence[str] | None = None,
    sets: Sets = None,
    rule: PainRule = "chronic",
    oa: str | os.PathLike[str] | None = None,
    start: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    cohort: Cohort | str | None = None,
    seed: int = 0,
    resume: bool = False,
    epochs: int | None = None,
    cluster: Any = None,
    workers: int = 0,
    progress: Callable[[EpochDone | ModelDone], None] | None = None,
) -> list[Classifier]:
    """Train the classifiers of a task, one a strategy and bone.

    Parameters
    ----------
    lake : Lake
        With spherical maps, and KL grades or answers about pain.
    task : {"oa", "pain"}
    preset : {"paper", "small"}
        See `qmri_lake.diagnosis.recipes.recipe`.
    out : path
        ``split.json``; ``training.json``, what was asked, and counts of who learns and who not;
        ``<strategy>/<bone>``, a folder a classifier (`train_classifier`); ``cache``, packed maps,
        which may be removed afterwards.
    strategies, bones : sequence of str, optional
        Default all, of `qmri_lake.fusion.STRATEGIES` and `qmri_lake.surface.BONES`. More can follow
        with `resume`.
    sets : CohortSplit, or path of a saved one, optional
        Of the exams with a label. Default: models of pain that start from `oa` take its split,
        patient by patient, since its models have seen its patients; others `ql.split`.
        [assumption]
    rule : str
        Of pain: see `qmri_lake.diagnosis.label_pain`.
    oa : path, optional
        Folder of trained models of OA. Models of pain start from that of the same strategy and
        bone [paper], so it is needed unless `start` says otherwise.
    start : {"random", "imagenet", "oa"}, optional
        In place of the recipe's.
    weights : path, optional
        A file of ImageNet weights, in place of torchvision's own.
    cohort : Cohort or query, optional
        Exams to choose from. Default: all.
    seed : int
        Of the split, and of each model.
    resume : bool
        Go on where it stopped, from the lake's snapshot of then: models that are finished are
        opened, and one that was interrupted goes on after its last epoch.
    epochs : int, optional
        Stop each model after so many at the latest.
    cluster : optional
        As of `ql.cluster`: a model a task, one a GPU. Default: this process, one after another.
    workers : int
        Processes that read images, a model.
    progress : callable, optional
        Called with an `EpochDone` after each epoch, but not on a cluster, and a `ModelDone` after
        each model.

    Returns
    -------
    list of Classifier
        In the order of strategies and bones.

    Raises
    ------
    NotFoundError
        No such task, preset, strategy, bone or rule; no model in `oa`.
    InputError
        No exam with a label, or one class only; a patient in two sets, or one that the models of
        OA have learned from in a set that judges.
    RunError
        A training in the way; with `resume`, one of another task, preset, seed, rule or cohort;
        no `oa`, or no need of `oa` or `weights`. Models that failed, after all others have ended:
        by name, with the reason of the first; `progress` gets that of each.
    DiskFullError
        No room.
    """
    asked_recipe = recipe(task, preset)
    if start is not None:
        asked_recipe = replace(asked_recipe, start=start)  # type: ignore[arg-type]
    models = [
        Model((strategy, bone), asked_recipe)
        for strategy in chosen(strategies, STRATEGIES, "strategy")
        for bone in chosen(bones, BONES, "bone")
    ]
    first = first_models(asked_recipe, oa)
    if asked_recipe.start != "imagenet" and weights is not None:
        raise RunError(
            f"ImageNet weights {Path(weights).name} for a start from {asked_recipe.start}",
            expected="one or the other", where="train_classifiers",
            todo='Leave weights out, or start="imagenet".',
        )  # fmt: skip
    if asked_recipe.start == "imagenet" and weights is None:
        imagenet_weights(asked_recipe.depth)  # told once, not by each model
    asked = {"task": task, "preset": preset, "start": asked_recipe.start, "seed": seed,
             **({"rule": rule} if task == "pain" else {})}  # fmt: skip
    drawn = draw(
        lake, Path(out), asked, sets=sets, rule=rule, oa=first, cohort=cohort, resume=resume
    )
    training = Training(
        drawn, str(Path(out).absolute()), seed, resume,
        oa=None if first is None else str(first),
        weights=None if weights is None else str(Path(weights).absolute()),
        epochs=epochs, workers=workers,
    )  # fmt: skip
    ended = run_models(training, models, cluster=cluster, progress=progress)
    failed = [done for done in ended if done.classifier is None]
    if failed:
        raise RunError(
            f"{len(failed)} of {len(models)} models that failed "
            f"({', '.join(done.name for done in failed)}), the first one: {failed[0].error}",
            expected="all of them trained", where=Path(out).name,
            todo="Mend that, and go on with resume=True: what is finished stays.",
        )  # fmt: skip
    return [done.classifier for done in ended if done.classifier is not None]


def run_models(
    training: Training,
    models: Sequence[Model],
    *,
    cluster: Any,
    progress: Callable[[EpochDone | ModelDone], None] | None,
) -> list[ModelDone]:
    """Train models here or on a cluster; return what became of each, in their order."""
    found: dict[str, ModelDone] = {}
    with running(cluster) as client:
        work = training if client is not None else replace(training, progress=progress)
        for done in map_tasks(work, None, models, cluster=client, lost=_lost, gpu=True):
            told = replace(done, models=len(models))
            found[told.name] = told
            if progress is not None:
                progress(told)
    return [found["/".join(model.place)] for model in models]


# ----------------------------------------------------------------------------- a model's task


@dataclass(frozen=True)
class Training:
    """What a worker needs to train one model of many; pickled once a task."""

    drawn: Drawn
    out: str
    seed: int
    resume: bool
    oa: str | None = None
    weights: str | None = None
    epochs: int | None = None
    workers: int = 0
    progress: Callable[[Any], None] | None = None

    def __call__(self, _: object, model: Model) -> ModelDone:
        """Train a model; what fails is told, so that the others go on."""
        name = "/".join(model.place)
        try:
            return ModelDone(name, 0, self.train(model))
        except Exception as error:
            full = disk_full(error, name)
            if full is not None:
                raise full from error
            return ModelDone(name, 0, None, one_line(error))

    def train(self, model: Model) -> Classifier:
        """Train a model, or open it where it is finished."""
        from qmri_lake.diagnosis.loader import SphereImages
        from qmri_lake.diagnosis.map_reader import with_maps
        from qmri_lake.diagnosis.train import train_classifier
        from qmri_lake.lake import open_lake

        strategy, bone = model.place[:2]
        folder = Path(self.out).joinpath(*model.place)
        weights = self._weights(model.recipe, strategy, bone)
        if self.resume and (folder / CARD).is_file():
            # Without its images: to read all maps again only to open it would take minutes.
            card = json.loads((folder / CARD).read_text(encoding="utf-8"))
            known = {
                "recipe": model.recipe.to_dict(), "seed": self.seed, "strategy": strategy,
                "bone": bone, "weights": digest_of(Path(weights)) if weights else "",
            }  # fmt: skip
            refuse_difference(folder / CARD, card, known)
            return Classifier.open(folder)
        lake = open_lake(self.drawn.url, ref=self.drawn.snapshot, mode="r")
        training, validation = (
            SphereImages(
                with_maps(lake.cohort().of_exams(keys, f"{name} set"), strategy, bone),
                self.drawn.label, strategy=strategy, bone=bone, size=model.recipe.size,
                cache=Path(self.out) / CACHE,
            )
            for name, keys in self.drawn.exams.items()
        )  # fmt: skip

        def epoch(done: EpochDone) -> None:
            if self.progress is not None:
                self.progress(replace(done, name="/".join(model.place)))

        return train_classifier(
            training, validation, model.recipe, folder, weights=weights, seed=self.seed,
            resume=self.resume, epochs=self.epochs, workers=self.workers, progress=epoch,
        )  # fmt: skip

    def _weights(self, recipe: Recipe, strategy: str, bone: str) -> str | None:
        if recipe.start != "oa":
            return self.weights if recipe.start == "imagenet" else None
        assert self.oa is not None  # checked before
        model = Classifier.open(Path(self.oa) / strategy / bone)
        for name, wanted in (("task", "oa"), ("depth", recipe.depth), ("size", recipe.size)):
            found = getattr(model.recipe, name)
            if found != wanted:
                raise InputError(
                    f"a model of {name} {found}", expected=f"{wanted}", where=model.folder,
                    todo="Start from models of OA that were trained with the same preset.",
                    reason=Reason.MODEL_MISMATCH,
                )  # fmt: skip
        return str(Path(model.folder) / WEIGHTS)


def _lost(model: Model, error: BaseException) -> ModelDone:
    """Make a failure of a task that brought nothing: its worker died; no room ends them all."""
    if isinstance(error, DiskFullError):
        raise error
    return ModelDone("/".join(model.place), 0, None, one_line(error))


def first_models(asked_recipe: Recipe, oa: str | os.PathLike[str] | None) -> Path | None:
    """Return the folder of models of OA, if there is need of one."""
    if asked_recipe.start != "oa":
        if oa is not None:
            raise RunError(
                f"models of OA in {Path(oa).name} for a start from {asked_recipe.start}",
                expected="one or the other", where="train_classifiers",
                todo='Leave oa out, or start="oa".',
            )  # fmt: skip
        return None
    if oa is None:
        raise RunError(
            f"no models of OA for models of {asked_recipe.task}, which start from them",
            expected="oa=FOLDER", where="train_classifiers",
            todo="Train them first: qmri-lake train oa; then give --oa FOLDER.",
        )  # fmt: skip
    if not any(Path(oa).glob(f"*/*/{CARD}")):
        raise NotFoundError(
            "no model", expected="trained models of OA, <strategy>/<bone>", where=str(oa),
            todo="Train them first: qmri-lake train oa.",
        )  # fmt: skip
    return Path(oa).absolute()  # a worker may be elsewhere


def chosen(given: Sequence[str] | None, known: Iterable[str], what: str) -> list[str]:
    """Return the names that are asked for, in their own order, or say which is unknown."""
    names = [given] if isinstance(given, str) else list(known if given is None else given)
    for name in names:
        if name not in known:
            raise NotFoundError(
                f"no {what} {name!r}", expected=f"one of {', '.join(known)}",
                where="train_classifiers", todo=did_you_mean(str(name), list(known)),
            )  # fmt: skip
    return [name for name in known if name in names]
