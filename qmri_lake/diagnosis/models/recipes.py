"""Recipes: architecture and training settings of classifiers, as published or for laptops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

from qmri_lake.core.json_types import JsonMapping, JsonObject
from qmri_lake.core.text import did_you_mean
from qmri_lake.errors import InputError, NotFoundError

__all__ = ["DEPTHS", "FROZEN", "PRESETS", "SIZES", "STARTS", "TASKS", "Recipe", "recipe"]

Task = Literal["oa", "pain"]
Start = Literal["random", "imagenet", "oa"]
Frozen = Literal["none", "first", "first_two", "all"]

TASKS: tuple[Task, ...] = ("oa", "pain")
"""Tasks of classifiers of spherical maps: osteoarthritis (KL > 1) and chronic pain."""
DEPTHS = (18, 34, 50)
SIZES = (224, 64)
"""Number of pixels along azimuth and polar angle: 224 as in the maps, or 64 by area averages."""
STARTS: tuple[Start, ...] = ("random", "imagenet", "oa")
"""Initial weights: random, trained on ImageNet, or those of the model of OA with the same strategy
and bone."""
FROZEN: Mapping[Frozen, tuple[str, ...]] = {
    "none": (),
    "first": ("conv1", "bn1", "layer1"),
    "first_two": ("conv1", "bn1", "layer1", "layer2"),
    "all": ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"),
}
"""Parts that are not trained. A "layer" of the paper is assumed to be one of torchvision's four
layers; the first includes the preceding convolution. With "all", only the last, linear layer is
trained. [assumption]"""
PRESETS = ("paper", "small")
"""``paper``: as published. ``small``: trains on a laptop in minutes."""


@dataclass(frozen=True)
class Recipe:
    """Architecture and training settings of one classifier.

    Parameters
    ----------
    task : {"oa", "pain"}
    depth : {18, 34, 50}
        Number of layers of the ResNet.
    size : {224, 64}
        Number of pixels along each side of an image.
    start : {"random", "imagenet", "oa"}
        See `STARTS`.
    frozen : {"none", "first", "first_two", "all"}
        See `FROZEN`.
    learning_rate : float
        Learning rate of Adam.
    weight_decay : float
        Weight decay of Adam, added to the gradient (L2) and not decoupled.
    batch : int
        Number of images per step.
    epochs, patience : int
        Maximum number of epochs, and number of epochs without a lower validation loss after which
        training stops.
    weighted : bool
        Whether the loss is weighted to compensate for class imbalance.

    Raises
    ------
    InputError
        If a value is not allowed.
    """

    task: Task
    depth: int
    size: int
    start: Start
    learning_rate: float
    weight_decay: float
    batch: int
    epochs: int
    patience: int
    frozen: Frozen = "none"
    weighted: bool = True

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise InputError(
                    f"{name}={getattr(self, name)!r}",
                    expected=f"one of {', '.join(map(str, known))}",
                    where="recipe",
                )
        least = {"learning_rate": 0, "weight_decay": 0, "batch": 1, "epochs": 1, "patience": 1}
        for name, least_value in least.items():
            value = getattr(self, name)
            if not least_value <= value < float("inf"):
                raise InputError(
                    f"{name}={value}",
                    expected=f"a finite number of at least {least_value}",
                    where="recipe",
                )

    def to_dict(self) -> JsonObject:
        """Return the values as JSON types, as in a model card."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: JsonMapping) -> Recipe:
        """Return the recipe with the values that `to_dict` returned."""
        return cls(**values)


_CHOICES: Mapping[str, tuple[object, ...]] = {
    "task": TASKS,
    "depth": DEPTHS,
    "size": SIZES,
    "start": STARTS,
    "frozen": tuple(FROZEN),
}

_PAPER = Recipe(
    task="oa",
    depth=50,
    size=224,
    start="imagenet",
    learning_rate=1e-5,
    weight_decay=0.9,
    batch=300,
    epochs=100,
    patience=15,
)
_SMALL = replace(  # [assumption]
    _PAPER,
    depth=18,
    size=64,
    start="random",
    learning_rate=1e-3,
    weight_decay=1e-4,
    batch=16,
    epochs=30,
    patience=8,
)
_SMALL_PAIN_RATE = 1e-4
"""Learning rate of small models of pain that start from a model of OA. It is a tenth of the rate
for OA, since fewer exams have a label and the learned features should be kept. [assumption]"""


def recipe(task: str, preset: str = "paper") -> Recipe:
    """Return the recipe of a classifier.

    Parameters
    ----------
    task : {"oa", "pain"}
        A model of pain starts from the model of OA with the same strategy and bone. [paper]
    preset : {"paper", "small"}
        ``paper``: ResNet 50 from ImageNet, Adam with a learning rate of 1e-5 and a weight decay of
        0.9, batches of 300 images, at most 100 epochs, patience of 15 epochs, weighted loss
        [paper]. ``small``: ResNet 18 with random initial weights, images of 64 x 64 pixels, and
        other learning rates [assumption].

    Raises
    ------
    NotFoundError
        If the task or preset is unknown.

    Examples
    --------
    >>> recipe("pain").start, recipe("oa", "small").size
    ('oa', 64)
    """
    for value, known, what in ((task, TASKS, "task"), (preset, PRESETS, "preset")):
        if value not in known:
            raise NotFoundError(
                f"no {what} {value!r}",
                expected=f"one of {', '.join(known)}",
                where="recipe",
                todo=did_you_mean(str(value), known),
            )
    found = _PAPER if preset == "paper" else _SMALL
    if task == "oa":
        return found
    rate = found.learning_rate if preset == "paper" else _SMALL_PAIN_RATE
    return replace(found, task="pain", start="oa", learning_rate=rate)
