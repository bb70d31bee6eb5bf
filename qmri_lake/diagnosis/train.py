"""Train one classifier of spherical images: one loop, with checkpoints, curves and a card."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qmri_lake import __version__
from qmri_lake.diagnosis.classifier import (
    CARD,
    WEIGHTS,
    Classifier,
    find_device,
    probabilities,
)
from qmri_lake.diagnosis.loader import SphereImages, class_weights, make_loader, on_device
from qmri_lake.diagnosis.recipes import Recipe
from qmri_lake.diagnosis.resnet import digest_of, load_weights, start_resnet
from qmri_lake.errors import InputError, Reason, RunError
from qmri_lake.fusion import SCALES
from qmri_lake.segmentation.checkpoints import State, refuse_difference
from qmri_lake.segmentation.model_card import draw_curves, write_card
from qmri_lake.segmentation.room import told_when_full
from qmri_lake.segmentation.train import EpochDone

__all__ = ["CHECKPOINT", "LOG", "train_classifier"]

CHECKPOINT, LOG = "checkpoint.pth", "log.csv"


def train_classifier(
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
    """Train a ResNet to tell the labels of images, and write its weights and model card.

    Adam minimises cross-entropy of two softmax outputs, weighted by class imbalance; the weights of
    the epoch with the lowest validation loss are kept, and none follows after `recipe.patience`
    epochs without a lower one. [paper]

    Parameters
    ----------
    training, validation : SphereImages
        With labels, of the same strategy, bone and size; no patient in both.
    recipe : Recipe
        One of `qmri_lake.diagnosis.recipes.recipe`, or your own.
    out : path
        Folder of the classifier: ``model.pth`` (torchvision's names), ``card.json``, ``log.csv``,
        ``curves.png``; until it is finished ``checkpoint.pth``.
    weights : path, optional
        What it starts from, where the recipe says ``oa`` or ``imagenet``: see
        `qmri_lake.diagnosis.resnet.start_resnet`.
    seed : int
        Of what is drawn at random: weights, and the order of images.
    resume : bool
        Go on after the last epoch that is done; a classifier that is finished is opened. Otherwise
        a folder that holds one is refused.
    epochs : int, optional
        Stop after so many at the latest.
    workers : int
        Processes that read images.
    device : str
        ``auto``: a GPU where there is one, in bfloat16; weights stay float32.
    progress : callable, optional
        Called with an `EpochDone` after each epoch.

    Returns
    -------
    Classifier

    Raises
    ------
    InputError
        Images without labels, of another size than the recipe's, of two strategies or bones; a
        patient in both sets; weights that don't fit.
    RunError
        A folder in use; a checkpoint of another training; a loss that is not finite.
    DiskFullError
        No room for a checkpoint.

    Notes
    -----
    On a CPU, a training that was killed and resumed gives the weights of one that was not.
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
    for name in (CARD, WEIGHTS, CHECKPOINT):
        if (folder / name).is_file() and not resume:
            raise RunError(
                f"a {name}", expected="an empty folder, or resume=True", where=folder.name,
                todo="Go on with resume=True, or train into another folder.",
            )  # fmt: skip
    where = find_device(device)
    model, started_from = start_resnet(
        recipe.depth, recipe.start, weights=weights, frozen=recipe.frozen, seed=seed
    )
    model = model.to(where).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(  # fused: a step is a tenth of the time of small batches otherwise
        learning, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    batches = make_loader(training, batch=recipe.batch, seed=seed, workers=workers)
    unseen = make_loader(validation, batch=recipe.batch, shuffle=False, workers=workers)
    by_class = class_weights(training) if recipe.weighted else torch.ones(2)
    by_class = by_class.to(where)
    folder.mkdir(parents=True, exist_ok=True)
    state = State()
    if resume and (folder / CHECKPOINT).is_file():
        state = _restore(folder / CHECKPOINT, model, optimizer, configuration)
    while state.epoch < last and state.epoch - state.best_epoch < recipe.patience:
        batches.sampler.epoch = state.epoch  # type: ignore[attr-defined]
        trained = _train_epoch(model, batches, optimizer, by_class, where)
        validated = _loss(model, unseen, by_class, where)
        state.epoch += 1
        for value, what in ((trained, "training"), (validated, "validation")):
            if not np.isfinite(value):
                raise RunError(
                    f"a {what} loss of {value} in epoch {state.epoch}", expected="a number",
                    where=folder.name, todo="Choose a lower learning rate.",
                )  # fmt: skip
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
    load_weights(model, folder / WEIGHTS, head=True)  # of the best epoch, not of the last
    auc = roc_auc_score(validation.label, probabilities(model, unseen, where))
    card = _card(folder, training, validation, configuration, state, started_from, float(auc))
    write_card(folder, card)
    # Nobody goes on from it any more, and it is three times as large as the weights.
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return Classifier.open(folder)


def _check(training: SphereImages, validation: SphereImages, recipe: Recipe) -> None:
    faults = []
    for images, what in ((training, "training"), (validation, "validation")):
        if images.label is None:
            faults.append((f"{what} images without labels", "0 or 1 an exam"))
        if images.size != recipe.size:
            faults.append((f"{what} images of {images.size} pixels", f"{recipe.size}"))
    for name in ("strategy", "bone"):
        first, second = getattr(training, name), getattr(validation, name)
        if first != second:
            faults.append((f"{name} {first!r} in training, {second!r} in validation", "one"))
    both = {_patient(exam) for exam in training.exams} & {
        _patient(exam) for exam in validation.exams
    }
    if both:
        faults.append(
            (f"{len(both)} patients in both training and validation", "each in one: ql.split")
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
) -> dict[str, Any]:
    """Return what a training is, as its card and checkpoints say it."""
    return {
        "recipe": recipe.to_dict(),
        "strategy": training.strategy,
        "bone": training.bone,
        "scales": {name: SCALES[name] for name in sorted(SCALES)},
        "seed": seed,
        "weights": "" if weights is None else digest_of(Path(weights)),
        "split": {"train": list(training.exams), "validation": list(validation.exams)},
    }


def _train_epoch(model: Any, batches: Any, optimizer: Any, by_class: Any, device: Any) -> float:
    """Take a step a batch; return the mean loss of an image."""
    model.train()
    total = 0.0
    for image, label, _ in on_device(batches, device):
        loss = _losses(model, image, label, by_class, device)
        optimizer.zero_grad(set_to_none=True)
        loss.mean().backward()
        optimizer.step()
        total += float(loss.detach().sum())
    return total / len(batches.dataset)


def _loss(model: Any, batches: Any, by_class: Any, device: Any) -> float:
    """Return the mean loss of an image, without learning from it."""
    import torch

    model.eval()
    total = 0.0
    with torch.inference_mode():
        for image, label, _ in on_device(batches, device):
            total += float(_losses(model, image, label, by_class, device).sum())
    return total / len(batches.dataset)


def _losses(model: Any, image: Any, label: Any, by_class: Any, device: Any) -> Any:
    """Return the loss of each image; on a GPU layers compute in bfloat16."""
    import torch

    image = image.contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        logits = model(image)
    loss = torch.nn.functional.cross_entropy(logits.float(), label, reduction="none")
    # Weights are 1 on average: the mean of a batch does not depend on the classes in it.
    return loss * by_class[label]


def _write(values: Mapping[str, Any], path: Path, what: str) -> None:
    """Write with torch: whole, or what was there before stays."""
    import torch

    part = path.with_name(f"part.{path.name}")
    with told_when_full(path.parent, what), open(part, "wb") as stream:
        torch.save(values, stream)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)


def _restore(path: Path, model: Any, optimizer: Any, configuration: Mapping[str, Any]) -> State:
    import torch

    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        known = json.loads(saved["known"])
        state = State(**known["state"])
    except (OSError, RuntimeError, KeyError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise RunError(
            f"a {path.name} that can't be read ({type(error).__name__})",
            expected="one that a training wrote", where=path.parent.name,
            todo="Remove it, and train again.", reason=Reason.UNREADABLE_FILE,
        ) from error  # fmt: skip
    refuse_difference(path, known["configuration"], configuration)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return state


def _card(
    folder: Path,
    training: SphereImages,
    validation: SphereImages,
    configuration: Mapping[str, Any],
    state: State,
    started_from: str,
    validation_auc: float,
) -> dict[str, Any]:
    """Return what a reader needs to judge a classifier, and to train it again."""
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
        "digest": digest_of(folder / WEIGHTS),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"qmri_lake": __version__, "torch": torch.__version__},
    }
