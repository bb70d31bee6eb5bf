"""Train many classifiers on the same sets, each as one task on this machine or a cluster."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from qmri_lake.core.digest import sha256_of
from qmri_lake.core.disk_full import disk_full
from qmri_lake.core.model_folder import CARD
from qmri_lake.core.text import did_you_mean, one_line
from qmri_lake.diagnosis.labels import PainRule
from qmri_lake.diagnosis.models.classifier import WEIGHTS, Classifier
from qmri_lake.diagnosis.models.recipes import Recipe, recipe
from qmri_lake.diagnosis.models.resnet import imagenet_weights
from qmri_lake.diagnosis.training.training_sets import Sets, TrainingSets, resolve_sets
from qmri_lake.errors import DiskFullError, InputError, NotFoundError, Reason, RunError
from qmri_lake.execution.cluster import running
from qmri_lake.execution.task_queue import map_tasks
from qmri_lake.fusion import STRATEGIES
from qmri_lake.surface.spherical_grid import BONES
from qmri_lake.training.events import EpochDone
from qmri_lake.training.state import refuse_difference

if TYPE_CHECKING:
    from distributed import Client
    from distributed.deploy.cluster import Cluster

    from qmri_lake.lake.cohort import Cohort
    from qmri_lake.lake.lake import Lake

__all__ = ["ModelDone", "ModelSpec", "TrainingTask", "run_models", "train_classifiers"]

CACHE = "cache"
ClusterLike: TypeAlias = "Client | Cluster | str | None"
"""A cluster as returned or accepted by `ql.cluster`; None: this process."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Recipe and folders of a model to be trained."""

    folders: tuple[str, ...]
    """Nested folders of the model: strategy, bone and, in a search, name of the recipe."""
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class ModelDone:
    """Event reported when the training of a model has finished or failed."""

    name: str
    """Name of the model: ``<strategy>/<bone>``, in a search ``<strategy>/<bone>/<recipe>``."""
    models: int
    """Number of models that are trained in this call."""
    classifier: Classifier | None
    error: str = ""
    """Error message in one line; "" if the model was trained."""

    def __str__(self) -> str:
        if self.classifier is None:
            return f"{self.name} failed: {self.error}"
        return f"{self.name} validation AUC {self.classifier.card['validation_auc']:.3f}"


Progress: TypeAlias = Callable[[EpochDone | ModelDone], None]


def train_classifiers(  # keyword-only options: the paper's settings, and execution
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
    cluster: ClusterLike = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> list[Classifier]:
    """Train the classifiers of a task: one for each strategy and bone.

    Parameters
    ----------
    lake : Lake
        A lake with spherical maps, and with KL grades or answers about pain.
    task : {"oa", "pain"}
    preset : {"paper", "small"}
        See `qmri_lake.diagnosis.models.recipes.recipe`.
    out : path
        Folder of the training. It contains ``split.json``; ``training.json``, with the settings and
        the counts of exams; ``<strategy>/<bone>``, one folder per classifier (see
        `train_classifier`); and ``cache``, with packed maps, which may be deleted afterwards.
    strategies, bones : sequence of str, optional
        Names in `qmri_lake.fusion.STRATEGIES` and `qmri_lake.surface.BONES`. Default: all. Other
        strategies and bones can be added later with `resume`.
    sets : CohortSplit, or path of a saved split, optional
        Training, validation and test set; exams without a label are excluded. Default: models of
        pain that start from `oa` use the same split of patients as the models of OA, so that no
        test patient was used to train the models of OA. Other models use `ql.split` with the labels
        as outcome. [assumption] Each set must have cases and controls with the maps of each model.
    rule : str
        Definition of pain: see `qmri_lake.diagnosis.label_pain`.
    oa : path, optional
        Folder of trained models of OA. Required unless `start` is given: a model of pain starts
        from the model of OA with the same strategy and bone [paper].
    start : {"random", "imagenet", "oa"}, optional
        Initial weights. Default: those of the recipe.
    weights : path, optional
        A file of ImageNet weights. Default: torchvision's weights.
    cohort : Cohort or query, optional
        Exams from which the sets are chosen. Default: all exams of the lake.
    seed : int
        Random seed of the split and of each model.
    resume : bool
        Resume an interrupted training, with the snapshot of the lake at its start. Finished models
        are opened, and interrupted models resume after their last epoch.
    epochs : int, optional
        Maximum number of epochs of each model.
    cluster : optional
        See `ql.cluster`. Each model is one task and uses one GPU. Default: this process, one model
        after another.
    workers : int
        Number of processes that read images, for each model.
    progress : callable, optional
        Called with an `EpochDone` after each epoch, except on a cluster, and with a `ModelDone`
        after each model.

    Returns
    -------
    list of Classifier
        The trained classifiers, in the order of strategies and bones.

    Raises
    ------
    NotFoundError
        If the task, preset, strategy, bone or rule is unknown, or `oa` contains no model.
    InputError
        If no exam has a label, or all labels are equal; if a patient is in two sets; if a patient
        on whom the models of OA were trained is in the validation or test set; if a set has no
        cases or no controls with the maps of a model. Nothing is written then.
    RunError
        If the folder contains a training and `resume` is not set, or a training with another task,
        preset, seed, rule or cohort; if `oa` is missing; if `oa` or `weights` is given but not
        used. Also if models failed: this error is raised after all other models have finished. The
        message lists the failed models and contains the first error; `progress` receives all
        errors.
    DiskFullError
        If the disk is full.
    """
    base = recipe(task, preset)
    if start is not None:
        base = replace(base, start=start)  # type: ignore[arg-type]
    models = [
        ModelSpec((strategy, bone), base)
        for strategy in selected(strategies, STRATEGIES, "strategy")
        for bone in selected(bones, BONES, "bone")
    ]
    models_of_oa = oa_folder(base, oa)
    if base.start != "imagenet" and weights is not None:
        raise RunError(
            f"ImageNet weights {Path(weights).name} with start={base.start!r}",
            expected="no weights",
            where="train_classifiers",
            todo='Omit weights, or pass start="imagenet".',
        )
    if base.start == "imagenet" and weights is None:
        imagenet_weights(base.depth)  # download once; an error is raised here, not in each model
    settings = {
        "task": task,
        "preset": preset,
        "start": base.start,
        "seed": seed,
        **({"rule": rule} if task == "pain" else {}),
    }
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
    task_of_model = TrainingTask(
        chosen,
        str(Path(out).absolute()),
        seed,
        resume,
        oa=None if models_of_oa is None else str(models_of_oa),
        weights=None if weights is None else str(Path(weights).absolute()),
        epochs=epochs,
        workers=workers,
    )
    results = run_models(task_of_model, models, cluster=cluster, progress=progress)
    failed = [done for done in results if done.classifier is None]
    if failed:
        raise RunError(
            f"{len(failed)} of {len(models)} models failed "
            f"({', '.join(done.name for done in failed)}); first error: {failed[0].error}",
            expected="all models trained",
            where=Path(out).name,
            todo="Fix the cause and rerun with resume=True; finished models are kept.",
        )
    return [done.classifier for done in results if done.classifier is not None]


def run_models(
    task: TrainingTask,
    models: Sequence[ModelSpec],
    *,
    cluster: ClusterLike,
    progress: Progress | None,
) -> list[ModelDone]:
    """Train models in this process or on a cluster; return their results in the same order."""
    results: dict[str, ModelDone] = {}
    with running(cluster) as client:
        # A callback can't be sent to workers.
        train = task if client is not None else replace(task, progress=progress)
        for result in map_tasks(train, None, models, cluster=client, lost=_task_failed, gpu=True):
            done = replace(result, models=len(models))
            results[done.name] = done
            if progress is not None:
                progress(done)
    return [results["/".join(model.folders)] for model in models]


# ------------------------------------------------------------------------ the task of one model


@dataclass(frozen=True)
class TrainingTask:
    """A callable that trains one model; it is pickled for each task of a cluster."""

    sets: TrainingSets
    out: str
    seed: int
    resume: bool
    oa: str | None = None
    weights: str | None = None
    epochs: int | None = None
    workers: int = 0
    progress: Progress | None = None

    def __call__(self, _: object, model: ModelSpec) -> ModelDone:
        """Train a model; errors are returned instead of raised, so that other models continue."""
        name = "/".join(model.folders)
        try:
            return ModelDone(name, 0, self.train(model))
        except Exception as error:
            full = disk_full(error, name)
            if full is not None:
                raise full from error
            return ModelDone(name, 0, None, one_line(error))

    def train(self, model: ModelSpec) -> Classifier:
        """Train a model, or open it if it is finished."""
        from qmri_lake.diagnosis.data.map_reader import with_maps
        from qmri_lake.diagnosis.data.sphere_images import SphereImages
        from qmri_lake.diagnosis.training.loop import train_classifier
        from qmri_lake.lake.lake import open_lake

        strategy, bone = model.folders[:2]
        folder = Path(self.out).joinpath(*model.folders)
        weights = self._weights(model.recipe, strategy, bone)
        if self.resume and (folder / CARD).is_file():
            # Open the finished model without reading images, which would take minutes.
            card = json.loads((folder / CARD).read_text(encoding="utf-8"))
            known = {
                "recipe": model.recipe.to_dict(),
                "seed": self.seed,
                "strategy": strategy,
                "bone": bone,
                "weights": sha256_of(Path(weights)) if weights else "",
            }
            refuse_difference(folder / CARD, card, known)
            return Classifier.open(folder)
        lake = open_lake(self.sets.url, ref=self.sets.snapshot, mode="r")
        training, validation = (
            SphereImages(
                with_maps(lake.cohort().of_exams(keys, f"{name} set"), strategy, bone),
                self.sets.label,
                strategy=strategy,
                bone=bone,
                size=model.recipe.size,
                cache=Path(self.out) / CACHE,
            )
            for name, keys in self.sets.exams.items()
        )

        def report_epoch(done: EpochDone) -> None:
            if self.progress is not None:
                self.progress(replace(done, name="/".join(model.folders)))

        return train_classifier(
            training,
            validation,
            model.recipe,
            folder,
            weights=weights,
            seed=self.seed,
            resume=self.resume,
            epochs=self.epochs,
            workers=self.workers,
            progress=report_epoch,
        )

    def _weights(self, recipe: Recipe, strategy: str, bone: str) -> str | None:
        if recipe.start != "oa":
            return self.weights if recipe.start == "imagenet" else None
        assert self.oa is not None  # checked before
        model = Classifier.open(Path(self.oa) / strategy / bone)
        for name, wanted in (("task", "oa"), ("depth", recipe.depth), ("size", recipe.size)):
            found = getattr(model.recipe, name)
            if found != wanted:
                raise InputError(
                    f"{name} {found} of the initial model",
                    expected=f"{name} {wanted}",
                    where=model.folder,
                    todo="Use models of OA that were trained with the same preset.",
                    reason=Reason.MODEL_MISMATCH,
                )
        return str(Path(model.folder) / WEIGHTS)


def _task_failed(model: ModelSpec, error: BaseException) -> ModelDone:
    """Return the result of a task whose worker died; if the disk is full, raise the error."""
    if isinstance(error, DiskFullError):
        raise error
    return ModelDone("/".join(model.folders), 0, None, one_line(error))


def oa_folder(recipe: Recipe, oa: str | os.PathLike[str] | None) -> Path | None:
    """Return the folder of models of OA, or None if the recipe does not start from them."""
    if recipe.start != "oa":
        if oa is not None:
            raise RunError(
                f"models of OA in {Path(oa).name} with start={recipe.start!r}",
                expected="no models of OA",
                where="train_classifiers",
                todo='Omit oa, or pass start="oa".',
            )
        return None
    if oa is None:
        raise RunError(
            f"no models of OA, from which models of {recipe.task} start",
            expected="oa=FOLDER",
            where="train_classifiers",
            todo="Train them first: qmri-lake train oa; then pass --oa FOLDER.",
        )
    if not any(Path(oa).glob(f"*/*/{CARD}")):
        raise NotFoundError(
            "no model",
            expected="trained models of OA, <strategy>/<bone>",
            where=str(oa),
            todo="Train them first: qmri-lake train oa.",
        )
    return Path(oa).absolute()  # workers may have another working directory


def selected(given: Sequence[str] | None, known: Iterable[str], what: str) -> list[str]:
    """Return the given names in the order of `known`; raise an error for unknown names."""
    names = [given] if isinstance(given, str) else list(known if given is None else given)
    for name in names:
        if name not in known:
            raise NotFoundError(
                f"no {what} {name!r}",
                expected=f"one of {', '.join(known)}",
                where="train_classifiers",
                todo=did_you_mean(str(name), list(known)),
            )
    return [name for name in known if name in names]
