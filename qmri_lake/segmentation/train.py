"""Training of one network: one readable loop that can be stopped, resumed and repeated to the bit.

Everything random in an epoch comes from the seed and the number of the epoch, so a checkpoint at
the end of an epoch is all that a training needs to go on as if it had never stopped.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.errors import InputError, RunError
from qmri_lake.segmentation.backend import channel_axis, keras, make_deterministic
from qmri_lake.segmentation.checkpoints import CHECKPOINT, State, read_state, restore, save
from qmri_lake.segmentation.losses import class_weights, loss
from qmri_lake.segmentation.metrics import dice
from qmri_lake.segmentation.model_card import (
    draw_curves,
    finished_card,
    make_card,
    refuse_another,
    save_weights,
    trained_alike,
    write_card,
)
from qmri_lake.segmentation.network import Network, forget
from qmri_lake.segmentation.preparation import check_split, check_target, prepare_samples
from qmri_lake.segmentation.recipes import MASK_NAMES, Recipe, Task
from qmri_lake.segmentation.samples import SampleSet
from qmri_lake.segmentation.vnet import build_vnet, start_at_frequencies

if TYPE_CHECKING:
    from qmri_lake.lake import Lake

__all__ = ["EpochDone", "default_target", "train"]

LOG = "log.csv"


@dataclass(frozen=True, slots=True)
class EpochDone:
    """An epoch has ended, and its checkpoint is on disk."""

    name: str
    """Of the network's folder."""
    epoch: int
    epochs: int
    """The last epoch, unless patience ends first."""
    loss: float
    validation_loss: float
    best: bool
    """Whether no epoch before had a lower validation loss."""


def train(
    lake: Lake,
    recipe: Recipe,
    split: Mapping[str, Sequence[str]],
    out: str | os.PathLike[str],
    *,
    target: str | None = None,
    seed: int = 0,
    resume: bool = False,
    epochs: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    deterministic: bool = False,
    progress: Callable[[EpochDone], None] | None = None,
    preparing: Callable[[int, int], None] | None = None,
    announce: Callable[[str], None] | None = None,
    allow_missing: bool = False,
) -> Network:
    """Train one network on exams of a lake, and write its weights and model card.

    Parameters
    ----------
    lake : Lake
    recipe : Recipe
        One of `qmri_lake.segmentation.recipes.recipes`, or your own.
    split : mapping
        Exam keys by "train", "validation" and, for the card, "test".
    out : path
        Folder of the network: ``model.weights.h5`` (of the epoch with the lowest validation loss),
        ``card.json``, ``log.csv``, ``curves.png``, ``checkpoint.npz``.
    target : str, optional
        Label array of group ``dess``; default ``reference_bone`` or ``reference_cartilage``.
    seed : int
        Of weights, order, online augmentation and dropout. Offline copies are the same for all.
    resume : bool
        Go on from the checkpoint in `out`; without one, start. A training that is finished is
        opened. Without `resume`, a folder that holds a network or a checkpoint is refused.
    epochs : int, optional
        Stop after so many epochs at the latest, to go on later; default: as the recipe says.
    cache : path, optional
        Folder of prepared volumes, which members share; default ``cache`` beside `out`.
    deterministic : bool
        The same weights to the bit in every training with the same number of threads, for the
        whole process; slower.
    progress : callable, optional
        Called with an `EpochDone` after each epoch.
    preparing : callable, optional
        Called with (exams that are ready, all exams) while volumes are prepared.
    announce : callable, optional
        Called with a line that says how much will be written to `cache`, where it is 1 GB or more.
    allow_missing : bool
        Learn also from exams whose labels lack a tissue altogether, because it is not there in the
        knee; the card lists them under ``without``. By default they are refused: more often nobody
        drew it, and the network would learn that it is background.

    Returns
    -------
    Network

    Raises
    ------
    InputError
        A patient in two of the splits, an exam without labels, or without one of the classes.
    DiskFullError
        Less room than prepared volumes need, before the first is written; or none left.
    RunError
        A checkpoint in the way, or one of another recipe, seed, target or split; a loss that is
        not a number.
    """
    folder, chosen = Path(out), target or default_target(recipe.task)
    if epochs is not None and epochs < 1:
        raise InputError(f"{epochs} epochs", expected="1 or more", where="train")
    check_target(chosen, recipe)
    check_split(lake, split)
    configuration = {
        "recipe": recipe.to_dict(),
        "seed": seed,
        "target": chosen,
        "split": {name: list(keys) for name, keys in split.items()},
    }
    last = min(recipe.epochs, epochs or recipe.epochs)
    checkpoint = folder / CHECKPOINT
    state = State()
    if resume and checkpoint.is_file():
        state = read_state(checkpoint, configuration)
        if _ended(state, recipe, last) and finished_card(folder).get("epochs") == state.epoch:
            return Network.open(folder)
    elif resume and trained_alike(folder, configuration, last):
        return Network.open(folder)
    else:
        refuse_another(folder)
    training, validation, without = prepare_samples(
        lake, recipe, split, chosen, folder, cache, allow_missing=allow_missing,
        preparing=preparing, announce=announce,
    )  # fmt: skip
    counts = training.counts()
    weights = class_weights(counts) ** recipe.weight_power
    weights /= weights.mean()
    if deterministic:
        make_deterministic()
    model = build_vnet(recipe.architecture, seed=seed)
    if recipe.start_at_frequencies:
        start_at_frequencies(model, counts)
    model.compile(
        optimizer=keras().optimizers.Adam(recipe.learning_rate),
        loss=loss(recipe.loss, weights, axis=channel_axis()),
        jit_compile=False,  # XLA on a CPU is ten times slower
    )
    model.optimizer.build(model.trainable_variables)
    folder.mkdir(parents=True, exist_ok=True)
    if state.epoch:
        restore(checkpoint, model)
        if state.best_epoch == state.epoch:
            # Killed between the checkpoint and its weights, perhaps: they are the same.
            save_weights(model, folder)
    while not _ended(state, recipe, last):
        _reseed_dropout(model, seed, state.epoch)
        rng = np.random.default_rng([seed, state.epoch])
        trained = _train_epoch(model, training, rng, recipe, state.epoch)
        validated = _validate(model, validation, recipe, state.epoch)
        state.epoch += 1
        better = validated < state.best
        if better:
            state.best, state.best_epoch = validated, state.epoch
        state.log.append(
            {"epoch": state.epoch, "loss": trained, "validation_loss": validated,
             "learning_rate": float(model.optimizer.learning_rate)}
        )  # fmt: skip
        pd.DataFrame(state.log).to_csv(folder / LOG, index=False)
        save(checkpoint, model, state, configuration)
        if better:
            save_weights(model, folder)
        if progress is not None:
            progress(EpochDone(folder.name, state.epoch, last, trained, validated, better))
    draw_curves(state, folder)
    card = make_card(folder, lake, configuration, recipe, state, training)
    card |= {
        "class_weights": [float(w) for w in weights],
        "voxels": [int(n) for n in counts],
        "without": without,
    }
    # Opened by its card, measured, and only then finished: the card's last entry.
    write_card(folder, card)
    card["validation_dsc"] = _overlap(Network.open(folder), validation)
    write_card(folder, card)
    return Network.open(folder)


def default_target(task: Task) -> str:
    """Return the label array of group ``dess`` that a task learns from: what is imported as such.

    >>> default_target("bones")
    'reference_bone'
    """
    return f"reference_{MASK_NAMES[task]}"


def _ended(state: State, recipe: Recipe, last: int) -> bool:
    return state.epoch >= last or state.epoch - state.best_epoch >= recipe.patience


def _train_epoch(
    model: Any, training: SampleSet, rng: np.random.Generator, recipe: Recipe, epoch: int
) -> float:
    """Take the steps of one epoch; return the mean loss."""
    steps = training.steps
    total = steps * recipe.epochs
    losses = []
    for n, (image, target) in enumerate(training.batches(rng)):
        if recipe.decay:
            model.optimizer.learning_rate = _rate(recipe, (epoch * steps + n) / total)
        losses.append(float(model.train_on_batch(*_in_layout(image, target))))
        _check_loss(losses[-1], recipe, f"epoch {epoch + 1}, step {n + 1}")
    return float(np.mean(losses))


def _rate(recipe: Recipe, done: float) -> float:
    """Return the learning rate after a share of all steps: a rise, then a cosine."""
    warm = 0.1
    rise = min(done / warm, 1.0)
    fall = 0.5 * (1 + math.cos(math.pi * max(done - warm, 0.0) / (1 - warm)))
    return recipe.learning_rate * max(rise * fall, 0.01)


def _validate(model: Any, validation: SampleSet, recipe: Recipe, epoch: int) -> float:
    """Return the mean loss over the validation volumes, without augmentation or dropout."""
    losses = [
        float(model.test_on_batch(*_in_layout(image, target)))
        for image, target in validation.batches(None)
    ]
    mean = float(np.mean(losses))
    _check_loss(mean, recipe, f"epoch {epoch + 1}, validation")
    return mean


def _check_loss(value: float, recipe: Recipe, when: str) -> None:
    """Stop where weights have blown up: no later epoch would bring them back."""
    if not np.isfinite(value):
        raise RunError(
            f"a loss of {value} in {when}",
            expected="a number",
            where=recipe.name,
            todo="Use a lower learning rate, in another folder.",
        )


def _in_layout(
    image: NDArray[np.float32], target: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    axis = channel_axis()
    return np.moveaxis(image, -1, axis), np.moveaxis(target, -1, axis)


def _reseed_dropout(model: Any, seed: int, epoch: int) -> None:
    """Start the dropout of an epoch from the seed and its number, whatever came before."""
    for n, layer in enumerate(model.layers):
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            drawn = np.random.default_rng([seed, epoch, n]).integers(0, 2**31 - 1, 2)
            generator.state.assign(drawn.astype(np.uint32))


def _overlap(network: Network, validation: SampleSet) -> dict[str, float | None]:
    """Return the mean DSC of each class over the validation volumes, as the network sees them.

    None for a class that neither labels nor predictions have.
    """
    found: dict[str, list[float]] = {name: [] for name, value in network.labels.items() if value}
    for sample in validation.samples:
        image, labels, _ = sample.open()
        predicted = network.predict(np.asarray(image)).argmax(axis=0)
        for name, values in found.items():
            value = network.labels[name]
            values.append(dice(predicted == value, labels == value))
    forget(network)  # the next member of the ensemble needs the room
    means = {name: np.array(values)[np.isfinite(values)] for name, values in found.items()}
    return {name: float(known.mean()) if known.size else None for name, known in means.items()}
