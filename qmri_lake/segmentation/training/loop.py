"""Training loop of one network. A training can be resumed and repeated bitwise identically.

The random numbers of an epoch depend only on the seed and the number of the epoch. A checkpoint at
the end of an epoch is therefore enough to resume as if the training had not been interrupted.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.core.model_folder import CHECKPOINT, write_card
from qmri_lake.errors import InputError, RunError
from qmri_lake.segmentation.metrics import dice
from qmri_lake.segmentation.models.backend import channel_axis, keras, make_deterministic
from qmri_lake.segmentation.models.keras_types import KerasModel
from qmri_lake.segmentation.models.losses import class_weights, loss
from qmri_lake.segmentation.models.network import Network, forget
from qmri_lake.segmentation.models.recipes import MASK_NAMES, Recipe, Task
from qmri_lake.segmentation.models.vnet import build_vnet, start_at_frequencies
from qmri_lake.segmentation.training.checkpoints import read_state, restore, save
from qmri_lake.segmentation.training.dataset import SampleSet
from qmri_lake.segmentation.training.model_card import (
    finished_card,
    is_trained,
    make_card,
    refuse_existing,
    save_weights,
)
from qmri_lake.segmentation.training.preparation import check_split, check_target, prepare_samples
from qmri_lake.training.events import EpochDone
from qmri_lake.training.state import State, draw_curves

if TYPE_CHECKING:
    from qmri_lake.lake.lake import Lake

__all__ = ["default_target", "train"]

LOG = "log.csv"


def train(
    lake: Lake,
    recipe: Recipe,
    split: Mapping[str, Sequence[str]],
    out: str | os.PathLike[str],
    *,  # public options, each independent of the others
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
        One of `qmri_lake.segmentation.models.recipes.recipes`, or your own.
    split : mapping
        Exam keys by "train", "validation" and, for the card, "test".
    out : path
        Folder of the network: ``model.weights.h5`` (of the epoch with the lowest validation loss),
        ``card.json``, ``log.csv``, ``curves.png``, ``checkpoint.npz``.
    target : str, optional
        Label array of group ``dess``; default ``reference_bone`` or ``reference_cartilage``.
    seed : int
        Random seed for initial weights, order, online augmentation and dropout. Offline copies do
        not depend on it.
    resume : bool
        Resume from the checkpoint in `out`, or start from the beginning if there is no checkpoint.
        If the training is finished, its network is returned. Without `resume`, a folder with a
        network or a checkpoint raises an error.
    epochs : int, optional
        Stop after this number of epochs at the latest; the training can be resumed later. Default:
        the number in the recipe.
    cache : path, optional
        Folder of prepared volumes, which the members of an ensemble share; default ``cache``
        beside `out`.
    deterministic : bool
        Compute bitwise identical weights in every training with the same number of threads. This
        applies to the whole process and makes it slower.
    progress : callable, optional
        Called with an `EpochDone` after each epoch.
    preparing : callable, optional
        Called while volumes are prepared, with the numbers of prepared exams and of all exams.
    announce : callable, optional
        Called with a message about the size of the prepared volumes, if it is at least 1 GB.
    allow_missing : bool
        Accept exams whose labels lack a tissue altogether because the tissue is absent in the knee.
        The card lists these exams under ``without``. By default, they raise an error: usually the
        tissue was not segmented, and the network would learn that it is background.

    Returns
    -------
    Network

    Raises
    ------
    InputError
        If a patient is in two splits, or if an exam has no labels or lacks a class.
    DiskFullError
        If the disk has no space for the prepared volumes (checked before the first volume is
        written), or becomes full.
    RunError
        Without `resume`, if the folder holds a checkpoint. With `resume`, if the checkpoint has
        another recipe, seed, target or split. In both cases, if the loss is not finite.
    """
    folder, target = Path(out), target or default_target(recipe.task)
    if epochs is not None and epochs < 1:
        raise InputError(f"{epochs} epochs", expected="1 or more", where="train")
    check_target(target, recipe)
    check_split(lake, split)
    configuration = {
        "recipe": recipe.to_dict(),
        "seed": seed,
        "target": target,
        "split": {name: list(keys) for name, keys in split.items()},
    }
    last = min(recipe.epochs, epochs or recipe.epochs)
    state = _initial_state(folder, configuration, recipe, last, resume=resume)
    if state is None:
        return Network.open(folder)
    training, validation, without = prepare_samples(
        lake,
        recipe,
        split,
        target,
        folder,
        cache,
        allow_missing=allow_missing,
        preparing=preparing,
        announce=announce,
    )
    counts = training.counts()
    weights = class_weights(counts) ** recipe.weight_power
    weights /= weights.mean()
    if deterministic:
        make_deterministic()
    model = _compiled_model(recipe, weights, counts, seed)
    folder.mkdir(parents=True, exist_ok=True)
    if state.epoch:
        _restore(folder, model, state)
    while not _is_finished(state, recipe, last):
        _run_epoch(model, training, validation, recipe, seed, state)
        _save_epoch(folder, model, state, configuration)
        if progress is not None:
            progress(_event(folder.name, state, last))
    draw_curves(state, folder)
    card = make_card(folder, lake, configuration, recipe, state, training)
    card |= {
        "class_weights": [float(w) for w in weights],
        "voxels": [int(n) for n in counts],
        "without": without,
    }
    # The validation DSC is the last entry of the card: without it, the training is unfinished.
    write_card(folder, card)
    card["validation_dsc"] = _validation_dsc(Network.open(folder), validation)
    write_card(folder, card)
    return Network.open(folder)


def default_target(task: Task) -> str:
    """Return the name of the label array of group ``dess`` that a task is trained on.

    >>> default_target("bones")
    'reference_bone'
    """
    return f"reference_{MASK_NAMES[task]}"


def _initial_state(
    folder: Path,
    configuration: Mapping[str, object],
    recipe: Recipe,
    last: int,
    *,
    resume: bool,
) -> State | None:
    """Return the state from which training starts or resumes; None if it is finished."""
    checkpoint = folder / CHECKPOINT
    if resume and checkpoint.is_file():
        state = read_state(checkpoint, configuration)
        if _is_finished(state, recipe, last) and finished_card(folder).get("epochs") == state.epoch:
            return None
        return state
    if resume and is_trained(folder, configuration, last):
        return None
    refuse_existing(folder)
    return State()


def _compiled_model(
    recipe: Recipe, weights: NDArray[np.float64], counts: NDArray[np.int64], seed: int
) -> KerasModel:
    """Build the untrained model, its optimiser and its loss."""
    model = build_vnet(recipe.architecture, seed=seed)
    if recipe.start_at_frequencies:
        start_at_frequencies(model, counts)
    model.compile(
        optimizer=keras().optimizers.Adam(recipe.learning_rate),
        loss=loss(recipe.loss, weights, axis=channel_axis()),
        jit_compile=False,  # XLA on a CPU is ten times slower
    )
    model.optimizer.build(model.trainable_variables)
    return model


def _restore(folder: Path, model: KerasModel, state: State) -> None:
    """Restore model and optimiser from the checkpoint."""
    restore(folder / CHECKPOINT, model)
    if state.best_epoch == state.epoch:
        # The process may have been killed between writing the checkpoint and writing the weights.
        save_weights(model, folder)


def _is_finished(state: State, recipe: Recipe, last: int) -> bool:
    return state.epoch >= last or state.epoch - state.best_epoch >= recipe.patience


def _run_epoch(
    model: KerasModel,
    training: SampleSet,
    validation: SampleSet,
    recipe: Recipe,
    seed: int,
    state: State,
) -> None:
    """Train for one epoch, validate, and update the state."""
    _reseed_dropout(model, seed, state.epoch)
    rng = np.random.default_rng([seed, state.epoch])
    training_loss = _train_epoch(model, training, rng, recipe, state.epoch)
    validation_loss = _validate(model, validation, recipe, state.epoch)
    state.epoch += 1
    if validation_loss < state.best:
        state.best, state.best_epoch = validation_loss, state.epoch
    state.log.append(
        {
            "epoch": state.epoch,
            "loss": training_loss,
            "validation_loss": validation_loss,
            "learning_rate": float(model.optimizer.learning_rate),
        }
    )


def _save_epoch(
    folder: Path, model: KerasModel, state: State, configuration: Mapping[str, object]
) -> None:
    """Write log and checkpoint, and the weights if the epoch is the best so far."""
    pd.DataFrame(state.log).to_csv(folder / LOG, index=False)
    save(folder / CHECKPOINT, model, state, configuration)
    if state.best_epoch == state.epoch:
        save_weights(model, folder)


def _event(name: str, state: State, last: int) -> EpochDone:
    row, best = state.log[-1], state.best_epoch == state.epoch
    return EpochDone(name, state.epoch, last, row["loss"], row["validation_loss"], best)


def _train_epoch(
    model: KerasModel, training: SampleSet, rng: np.random.Generator, recipe: Recipe, epoch: int
) -> float:
    """Update the weights for one epoch; return the mean loss of its steps."""
    steps = training.steps
    total = steps * recipe.epochs
    losses = []
    for n, (image, target) in enumerate(training.batches(rng)):
        if recipe.decay:
            model.optimizer.learning_rate = _learning_rate(recipe, (epoch * steps + n) / total)
        losses.append(float(model.train_on_batch(*_in_layout(image, target))))
        _check_loss(losses[-1], recipe, f"epoch {epoch + 1}, step {n + 1}")
    return float(np.mean(losses))


def _learning_rate(recipe: Recipe, done: float) -> float:
    """Return the learning rate after a fraction of all steps: linear warm-up, cosine decay."""
    warm = 0.1
    rise = min(done / warm, 1.0)
    fall = 0.5 * (1 + math.cos(math.pi * max(done - warm, 0.0) / (1 - warm)))
    return recipe.learning_rate * max(rise * fall, 0.01)


def _validate(model: KerasModel, validation: SampleSet, recipe: Recipe, epoch: int) -> float:
    """Return the mean loss over the validation volumes, without augmentation or dropout."""
    losses = [
        float(model.test_on_batch(*_in_layout(image, target)))
        for image, target in validation.batches(None)
    ]
    mean = float(np.mean(losses))
    _check_loss(mean, recipe, f"epoch {epoch + 1}, validation")
    return mean


def _check_loss(value: float, recipe: Recipe, when: str) -> None:
    """Raise a RunError if the loss is not finite, since the weights would not recover."""
    if not np.isfinite(value):
        raise RunError(
            f"a loss of {value} in {when}",
            expected="a finite number",
            where=recipe.name,
            todo="Train with a lower learning rate, into another folder.",
        )


def _in_layout(
    image: NDArray[np.float32], target: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    axis = channel_axis()
    return np.moveaxis(image, -1, axis), np.moveaxis(target, -1, axis)


def _reseed_dropout(model: KerasModel, seed: int, epoch: int) -> None:
    """Seed the dropout of an epoch with the seed and the number of the epoch only."""
    for n, layer in enumerate(model.layers):
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            values = np.random.default_rng([seed, epoch, n]).integers(0, 2**31 - 1, 2)
            generator.state.assign(values.astype(np.uint32))


def _validation_dsc(network: Network, validation: SampleSet) -> dict[str, float | None]:
    """Return the mean DSC of each class over the validation volumes, on the grid of the network.

    The DSC is None for a class that occurs neither in the labels nor in the predictions.
    """
    scores: dict[str, list[float]] = {name: [] for name, value in network.labels.items() if value}
    for sample in validation.samples:
        image, labels, _ = sample.open()
        predicted = network.predict(np.asarray(image)).argmax(axis=0)
        for name, values in scores.items():
            value = network.labels[name]
            values.append(dice(predicted == value, labels == value))
    forget(network)  # free the memory for the next member of the ensemble
    finite = {name: np.array(values)[np.isfinite(values)] for name, values in scores.items()}
    return {name: float(values.mean()) if values.size else None for name, values in finite.items()}
