"""Train one classifier of spherical maps, with checkpoints, learning curves and a model card."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from qmri_lake.core.atomic_write import atomic_write
from qmri_lake.core.digest import sha256_of
from qmri_lake.core.disk_full import disk_full_errors
from qmri_lake.core.json_types import JsonMapping, JsonObject
from qmri_lake.core.model_folder import CARD, write_card
from qmri_lake.core.version import __version__
from qmri_lake.diagnosis.data.sphere_images import SphereImages
from qmri_lake.diagnosis.models.batches import Batch, class_weights, make_loader, on_device
from qmri_lake.diagnosis.models.classifier import WEIGHTS, Classifier, find_device, probabilities
from qmri_lake.diagnosis.models.recipes import Recipe
from qmri_lake.diagnosis.models.resnet import load_weights, start_resnet
from qmri_lake.errors import InputError, Reason, RunError
from qmri_lake.fusion import SCALES
from qmri_lake.training.events import EpochDone
from qmri_lake.training.state import State, draw_curves, refuse_difference

if TYPE_CHECKING:
    import torch
    from torch.utils.data import DataLoader

__all__ = ["CHECKPOINT", "LOG", "train_classifier"]

CHECKPOINT, LOG = "checkpoint.pth", "log.csv"


def train_classifier(  # keyword-only options: files, seed and execution
    training: SphereImages,
    validation: SphereImages,
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    seed: int = 0,
    resume: bool = False,
    epochs: int | None = None,
    workers: int = 0,
    device: str = "auto",
    progress: Callable[[EpochDone], None] | None = None,
) -> Classifier:
    """Train a ResNet to predict the labels of images; write its weights and model card.

    Adam minimises the cross-entropy of two softmax outputs, weighted to compensate for class
    imbalance. The weights of the epoch with the lowest validation loss are kept. Training stops
    after `recipe.patience` epochs without a lower validation loss. [paper]

    Parameters
    ----------
    training, validation : SphereImages
        Images with labels, of the same strategy, bone and size. No patient may be in both sets.
    recipe : Recipe
        From `qmri_lake.diagnosis.models.recipes.recipe`, or a custom recipe.
    out : path
        Folder of the classifier: ``model.pth`` (torchvision's names), ``card.json``, ``log.csv``,
        ``curves.png``; during training also ``checkpoint.pth``.
    weights : path, optional
        Initial weights, if the recipe starts from ``oa`` or ``imagenet``: see
        `qmri_lake.diagnosis.models.resnet.start_resnet`.
    seed : int
        Random seed of the weights and of the order of images.
    resume : bool
        Resume after the last finished epoch; a finished classifier is opened. Default: a folder
        that contains a training raises an error.
    epochs : int, optional
        Maximum number of epochs.
    workers : int
        Number of processes that read images.
    device : str
        ``auto`` selects a GPU if there is one. A GPU computes in bfloat16; weights are float32.
    progress : callable, optional
        Called with an `EpochDone` after each epoch.

    Returns
    -------
    Classifier

    Raises
    ------
    InputError
        If images have no labels or another size than the recipe's; if the sets have different
        strategies or bones; if a patient is in both sets; if the weights don't fit.
    RunError
        If the folder contains a training and `resume` is not set, or a checkpoint of another
        training; if the loss is not finite.
    DiskFullError
        If there is no space for a checkpoint.

    Notes
    -----
    On a CPU, a killed and resumed training gives bitwise the same weights as an uninterrupted
    training.
    """
    import torch
    from sklearn.metrics import roc_auc_score

    _check(training, validation, recipe)
    folder = Path(out)
    last = recipe.epochs if epochs is None else min(epochs, recipe.epochs)
    configuration = _configuration(training, validation, recipe, seed, weights)
    if (folder / CARD).is_file() and resume:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        refuse_difference(folder / CARD, card, configuration)
        return Classifier.open(folder)
    if not resume:
        _require_empty(folder)
    where = find_device(device)
    model, started_from = start_resnet(
        recipe.depth, recipe.start, weights=weights, frozen=recipe.frozen, seed=seed
    )
    model = model.to(where).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(  # fused: much faster for small batches
        learning, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    batches = make_loader(training, batch=recipe.batch, seed=seed, workers=workers)
    held_out = make_loader(validation, batch=recipe.batch, shuffle=False, workers=workers)
    by_class = class_weights(training) if recipe.weighted else torch.ones(2)
    by_class = by_class.to(where)
    folder.mkdir(parents=True, exist_ok=True)
    state = State()
    if resume and (folder / CHECKPOINT).is_file():
        state = _restore(folder / CHECKPOINT, model, optimizer, configuration)
    while state.epoch < last and state.epoch - state.best_epoch < recipe.patience:
        batches.sampler.epoch = state.epoch  # type: ignore[attr-defined]
        trained = _train_epoch(model, batches, optimizer, by_class, where)
        validated = _loss(model, held_out, by_class, where)
        state.epoch += 1
        _require_finite(trained, validated, state.epoch, folder)
        better = validated < state.best
        if better:
            state.best, state.best_epoch = validated, state.epoch
            _write(model.state_dict(), folder / WEIGHTS, "weights")
        state.log.append({"epoch": state.epoch, "loss": trained, "validation_loss": validated})
        pd.DataFrame(state.log).to_csv(folder / LOG, index=False)
        known = json.dumps({"state": asdict(state), "configuration": configuration})
        saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "known": known}
        _write(saved, folder / CHECKPOINT, "a checkpoint")
        if progress is not None:
            progress(EpochDone(folder.name, state.epoch, last, trained, validated, better))
    draw_curves(state, folder)
    load_weights(model, folder / WEIGHTS, head=True)  # of the best epoch, not the last
    auc = roc_auc_score(validation.label, probabilities(model, held_out, where))
    card = _card(folder, training, validation, configuration, state, started_from, float(auc))
    write_card(folder, card)
    # No longer needed, and three times as large as the weights.
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return Classifier.open(folder)


def _require_empty(folder: Path) -> None:
    for name in (CARD, WEIGHTS, CHECKPOINT):
        if (folder / name).is_file():
            raise RunError(
                f"the folder contains a {name}",
                expected="an empty folder, or resume=True",
                where=folder.name,
                todo="Resume with resume=True, or train into another folder.",
            )


def _require_finite(trained: float, validated: float, epoch: int, folder: Path) -> None:
    for value, name in ((trained, "training"), (validated, "validation")):
        if not np.isfinite(value):
            raise RunError(
                f"{name} loss {value} in epoch {epoch}",
                expected="a finite number",
                where=folder.name,
                todo="Use a lower learning rate.",
            )


def _check(training: SphereImages, validation: SphereImages, recipe: Recipe) -> None:
    faults = []
    for images, what in ((training, "training"), (validation, "validation")):
        if images.label is None:
            faults.append((f"{what} images without labels", "0 or 1 for each exam"))
        if images.size != recipe.size:
            faults.append((f"{what} images of {images.size} pixels", f"{recipe.size}"))
    for name in ("strategy", "bone"):
        first, second = getattr(training, name), getattr(validation, name)
        if first != second:
            faults.append((f"{name} {first!r} in training, {second!r} in validation", "the same"))
    both = {_patient(exam) for exam in training.exams} & {
        _patient(exam) for exam in validation.exams
    }
    if both:
        faults.append(
            (
                f"{len(both)} patients in both training and validation",
                "each in one: see ql.split",
            )
        )
    for found, expected in faults:
        raise InputError(
            found, expected=expected, where="train_classifier", reason=Reason.UNREADABLE_VALUE
        )


def _patient(exam: str) -> str:
    return exam.partition("-")[0]


def _configuration(
    training: SphereImages,
    validation: SphereImages,
    recipe: Recipe,
    seed: int,
    weights: str | os.PathLike[str] | None,
) -> JsonObject:
    """Return the settings that identify a training in its card and checkpoints."""
    return {
        "recipe": recipe.to_dict(),
        "strategy": training.strategy,
        "bone": training.bone,
        "scales": {name: SCALES[name] for name in sorted(SCALES)},
        "seed": seed,
        "weights": "" if weights is None else sha256_of(Path(weights)),
        "split": {"train": list(training.exams), "validation": list(validation.exams)},
    }


def _train_epoch(
    model: torch.nn.Module,
    batches: DataLoader[Batch],
    optimizer: torch.optim.Optimizer,
    by_class: torch.Tensor,
    device: torch.device,
) -> float:
    """Optimise with one step per batch; return the mean loss per image."""
    model.train()
    total, images = 0.0, 0
    for image, label, _ in on_device(batches, device):
        loss = _losses(model, image, label, by_class, device)
        optimizer.zero_grad(set_to_none=True)
        loss.mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += float(loss.detach().sum())
        images += len(image)
    return total / images


def _loss(
    model: torch.nn.Module,
    batches: DataLoader[Batch],
    by_class: torch.Tensor,
    device: torch.device,
) -> float:
    """Return the mean loss per image, without training."""
    import torch

    model.eval()
    total, images = 0.0, 0
    with torch.inference_mode():
        for image, label, _ in on_device(batches, device):
            total += float(_losses(model, image, label, by_class, device).sum())
            images += len(image)
    return total / images


def _losses(
    model: torch.nn.Module,
    image: torch.Tensor,
    label: torch.Tensor | None,
    by_class: torch.Tensor,
    device: torch.device,
) -> torch.Tensor:
    """Return the loss of each image; on a GPU, layers are computed in bfloat16."""
    import torch

    assert label is not None  # checked before
    image = image.contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        logits = model(image)
    loss = torch.nn.functional.cross_entropy(logits.float(), label, reduction="none")
    # The mean class weight over the training set is 1, so the loss of a batch is not renormalised.
    return loss * by_class[label]


def _write(values: JsonMapping, path: Path, what: str) -> None:
    """Write a file with torch, atomically: if an error occurs, the old file is kept."""
    import torch

    with (
        disk_full_errors(path.parent, what),
        atomic_write(path) as unfinished,
        open(unfinished, "wb") as stream,
    ):
        torch.save(values, stream)


def _restore(
    path: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    configuration: JsonMapping,
) -> State:
    import torch

    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        known = json.loads(saved["known"])
        state = State(**known["state"])
    except (OSError, RuntimeError, KeyError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise RunError(
            f"{path.name} can't be read ({type(error).__name__})",
            expected="a checkpoint of a training",
            where=path.parent.name,
            todo="Delete it and train again.",
            reason=Reason.UNREADABLE_FILE,
        ) from error
    refuse_difference(path, known["configuration"], configuration)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return state


def _card(
    folder: Path,
    training: SphereImages,
    validation: SphereImages,
    configuration: JsonMapping,
    state: State,
    started_from: str,
    validation_auc: float,
) -> JsonObject:
    """Return the model card: the values needed to assess a classifier and to train it again."""
    import torch

    counts = {}
    for name, images in (("train", training), ("validation", validation)):
        assert images.label is not None  # checked before
        counts[name] = np.bincount(images.label, minlength=2).tolist()
    return {
        "name": folder.name,
        "classes": {"absent": 0, "present": 1},
        **configuration,
        "started_from": started_from,
        "exams": counts,
        "lake": {"name": Path(training.url).name, "snapshot": training.snapshot},
        "epochs": state.epoch,
        "best_epoch": state.best_epoch,
        "validation_loss": state.best,
        "validation_auc": validation_auc,
        "digest": sha256_of(folder / WEIGHTS),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"qmri_lake": __version__, "torch": torch.__version__},
    }
