"""Training of one network: one readable loop that can be stopped, resumed and repeated to the bit.

Everything random in an epoch comes from the seed and the number of the epoch, so a checkpoint at
the end of an epoch is all that a training needs to go on as if it had never stopped.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake import __version__
from qmri_lake.errors import InputError, Reason, RunError
from qmri_lake.segmentation.backend import backend_name, channel_axis, keras
from qmri_lake.segmentation.losses import class_weights, loss
from qmri_lake.segmentation.metrics import dice
from qmri_lake.segmentation.network import CARD, WEIGHTS, Network
from qmri_lake.segmentation.recipes import Recipe
from qmri_lake.segmentation.samples import SampleSet
from qmri_lake.segmentation.vnet import build_vnet

if TYPE_CHECKING:
    from qmri_lake.lake import Lake

__all__ = ["EpochDone", "train"]

CHECKPOINT = "checkpoint.npz"
LOG = "log.csv"


@dataclass(frozen=True, slots=True)
class EpochDone:
    """An epoch has ended, and its checkpoint is on disk."""

    name: str
    epoch: int
    epochs: int
    loss: float
    validation_loss: float
    best: bool


@dataclass
class _State:
    """Where a training is, apart from weights and optimiser."""

    epoch: int = 0
    best: float = math.inf
    best_epoch: int = 0
    log: list[dict[str, float]] = field(default_factory=list)


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
    progress: Callable[[EpochDone], None] | None = None,
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
        Of weights, order, augmentation and dropout.
    resume : bool
        Go on from the checkpoint in `out`; without one, start. Without `resume`, a folder that has
        a checkpoint is refused.
    epochs : int, optional
        Stop at this epoch at the latest, to go on later.
    cache : path, optional
        Folder of prepared volumes, which members share; default ``cache`` beside `out`.
    progress : callable, optional
        Called with an `EpochDone` after each epoch.

    Returns
    -------
    Network

    Raises
    ------
    InputError
        A patient in two of the splits, an exam without labels, a class that no exam shows.
    RunError
        A checkpoint in the way, or one of another recipe, seed or split.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = target or f"reference_{recipe.task.removesuffix('s')}"
    _check_split(lake, split)
    configuration = {
        "recipe": recipe.to_dict(),
        "seed": seed,
        "target": chosen,
        "split": {name: list(keys) for name, keys in split.items()},
    }
    store = Path(cache) if cache is not None else folder.parent / "cache"
    training = SampleSet(
        lake, split["train"], recipe, chosen, store, copies=recipe.copies, seed=seed
    )
    validation = SampleSet(lake, split["validation"], recipe, chosen, store)
    counts = training.counts()
    weights = _class_weights(counts, recipe)
    keras().utils.set_random_seed(seed)
    model = build_vnet(recipe.architecture, seed=seed)
    model.compile(
        optimizer=keras().optimizers.Adam(recipe.learning_rate),
        loss=loss(recipe.loss, weights, axis=channel_axis()),
        jit_compile=False,  # XLA on a CPU is ten times slower
    )
    model.optimizer.build(model.trainable_variables)
    checkpoint = folder / CHECKPOINT
    state = _State()
    if checkpoint.is_file():
        if not resume:
            raise RunError(
                f"a {CHECKPOINT}",
                expected="an empty folder, or resume=True",
                where=folder.name,
                todo="Give --resume to go on, or another folder.",
            )
        state = _restore(checkpoint, model, configuration)
    last = min(recipe.epochs, epochs or recipe.epochs)
    while state.epoch < last and state.epoch - state.best_epoch < recipe.patience:
        _reseed_dropout(model, seed, state.epoch)
        rng = np.random.default_rng([seed, state.epoch])
        trained = _train_epoch(model, training, rng, recipe, state.epoch)
        validated = _validate(model, validation)
        state.epoch += 1
        better = validated < state.best
        if better:
            state.best, state.best_epoch = validated, state.epoch
            _save_weights(model, folder)
        state.log.append(
            {"epoch": state.epoch, "loss": trained, "validation_loss": validated,
             "learning_rate": float(model.optimizer.learning_rate)}
        )  # fmt: skip
        _save(checkpoint, model, state, configuration)
        if progress is not None:
            done = EpochDone(folder.name, state.epoch, recipe.epochs, trained, validated, better)
            progress(done)
    pd.DataFrame(state.log).to_csv(folder / LOG, index=False)
    _write_card(folder, lake, recipe, configuration, state, weights, counts)
    network = Network.open(folder)
    metrics = _overlap(network, validation)
    _update_card(folder, {"validation_dsc": metrics})
    from qmri_lake.report.training import curves_figure

    curves_figure(pd.DataFrame(state.log), state.best_epoch, folder.name).savefig(
        folder / "curves.png", dpi=110
    )
    return network


def _check_split(lake: Lake, split: Mapping[str, Sequence[str]]) -> None:
    """Refuse a patient in two splits: the network would be tested on what it has seen."""
    patient = dict(zip(lake.exams["exam"], lake.exams["patient"], strict=True))
    owner: dict[int, str] = {}
    for name, keys in split.items():
        for key in keys:
            if key not in patient:
                raise InputError(
                    f"no exam {key}", expected="an exam of this lake", where=f"split {name}",
                    reason=Reason.ABSENT_EXAM,
                )  # fmt: skip
            other = owner.setdefault(patient[key], name)
            if other != name:
                raise InputError(
                    f"the patient of {key} in {other} and in {name}",
                    expected="each patient in one split",
                    where="split",
                    todo="Split by patient: qmri_lake.segmentation.splits.split_by_patient.",
                )
    for name in ("train", "validation"):
        if not split.get(name):
            raise InputError(f"no exam in {name}", expected="at least one", where="split")


def _class_weights(counts: NDArray[np.int64], recipe: Recipe) -> NDArray[np.float64]:
    missing = [name for name, value in recipe.labels.items() if not counts[value]]
    if missing:
        raise InputError(
            f"no voxel of {', '.join(missing)} in the training exams",
            expected="all classes",
            where=recipe.name,
            todo="Choose exams whose labels have them.",
            reason=Reason.EMPTY_MASK,
        )
    powered = class_weights(counts) ** recipe.weight_power
    weights: NDArray[np.float64] = powered / powered.mean()
    return weights


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
        if not np.isfinite(losses[-1]):
            raise RunError(
                f"a loss of {losses[-1]} in epoch {epoch + 1}, step {n + 1}",
                expected="a number",
                where=recipe.name,
                todo="Use a lower learning rate.",
            )
    return float(np.mean(losses))


def _rate(recipe: Recipe, done: float) -> float:
    """Return the learning rate after a share of all steps: a rise, then a cosine."""
    warm = 0.1
    rise = min(done / warm, 1.0)
    fall = 0.5 * (1 + math.cos(math.pi * max(done - warm, 0.0) / (1 - warm)))
    return recipe.learning_rate * max(rise * fall, 0.01)


def _validate(model: Any, validation: SampleSet) -> float:
    """Return the mean loss over the validation volumes, without augmentation or dropout."""
    losses = [
        float(model.test_on_batch(*_in_layout(image, target)))
        for image, target in validation.batches(None)
    ]
    return float(np.mean(losses))


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


def _overlap(network: Network, validation: SampleSet) -> dict[str, float]:
    """Return the mean DSC of each class over the validation volumes, as the network sees them."""
    found: dict[str, list[float]] = {}
    for sample in validation.samples:
        image, labels, _ = sample.open()
        predicted = network.predict(np.asarray(image)).argmax(axis=0)
        for name, value in network.labels.items():
            if value:
                found.setdefault(name, []).append(dice(predicted == value, labels == value))
    return {name: float(np.nanmean(values)) for name, values in found.items()}


# ------------------------------------------------------------------------------- what is kept


def _save_weights(model: Any, folder: Path) -> None:
    part = folder / f"part.{WEIGHTS}"
    model.save_weights(part)
    part.replace(folder / WEIGHTS)


def _save(path: Path, model: Any, state: _State, configuration: Mapping[str, Any]) -> None:
    """Write a checkpoint: whole, or the one before stays."""
    convert = keras().ops.convert_to_numpy
    arrays = {f"model_{n}": convert(v) for n, v in enumerate(model.trainable_variables)}
    arrays |= {f"optimizer_{n}": convert(v) for n, v in enumerate(model.optimizer.variables)}
    known = {
        "epoch": state.epoch, "best": state.best, "best_epoch": state.best_epoch, "log": state.log,
        "configuration": configuration, "backend": backend_name(),
    }  # fmt: skip
    part = path.with_name(f"part.{path.name}")
    with open(part, "wb") as stream:
        np.savez(stream, known=np.array(json.dumps(known)), **arrays)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)


def _restore(path: Path, model: Any, configuration: Mapping[str, Any]) -> _State:
    with np.load(path) as saved:
        known = json.loads(str(saved["known"]))
        # As JSON has them: tuples are lists there.
        wanted = json.loads(json.dumps(configuration))
        for name, value in wanted.items():
            if known["configuration"].get(name) != value:
                raise RunError(
                    f"a checkpoint of another {name}",
                    expected="the one that is asked for",
                    where=path.parent.name,
                    todo="Resume with what it was started with, or train into another folder.",
                )
        for n, variable in enumerate(model.trainable_variables):
            variable.assign(saved[f"model_{n}"])
        for n, variable in enumerate(model.optimizer.variables):
            variable.assign(saved[f"optimizer_{n}"])
    return _State(known["epoch"], known["best"], known["best_epoch"], known["log"])


def _write_card(
    folder: Path,
    lake: Lake,
    recipe: Recipe,
    configuration: Mapping[str, Any],
    state: _State,
    weights: NDArray[np.float64],
    counts: NDArray[np.int64],
) -> None:
    from importlib.metadata import version

    card = {
        "name": folder.name,
        "classes": dict(recipe.labels),
        **configuration,
        "lake": {"name": Path(lake.url).name, "snapshot": lake.snapshot},
        "class_weights": [float(w) for w in weights],
        "voxels": [int(n) for n in counts],
        "epochs": state.epoch,
        "best_epoch": state.best_epoch,
        "validation_loss": state.best,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "qmri_lake": __version__,
            "keras": version("keras"),
            backend_name(): version({"tensorflow": "tensorflow", "torch": "torch"}[backend_name()]),
            "numpy": version("numpy"),
        },
    }
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def _update_card(folder: Path, values: Mapping[str, Any]) -> None:
    path = folder / CARD
    card = {**json.loads(path.read_text(encoding="utf-8")), **values}
    path.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
