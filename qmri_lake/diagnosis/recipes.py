"""Recipes: how a classifier is built and trained, for the paper and for a laptop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from qmri_lake.errors import InputError, NotFoundError, did_you_mean

__all__ = ["DEPTHS", "FROZEN", "PRESETS", "SIZES", "STARTS", "TASKS", "Recipe", "recipe"]

Task = Literal["oa", "pain"]
Start = Literal["random", "imagenet", "oa"]
Frozen = Literal["none", "first", "first_two", "all"]

TASKS: tuple[Task, ...] = ("oa", "pain")
"""What is told from spherical maps: osteoarthritis (KL > 1), chronic pain."""
DEPTHS = (18, 34, 50)
SIZES = (224, 64)
"""Pixels along azimuth and polar angle: as the maps are, or averaged over areas."""
STARTS: tuple[Start, ...] = ("random", "imagenet", "oa")
"""Where weights come from: drawn by the seed, learned from ImageNet, or the model of OA of the same
strategy and bone."""
FROZEN: Mapping[Frozen, tuple[str, ...]] = {
    "none": (),
    "first": ("conv1", "bn1", "layer1"),
    "first_two": ("conv1", "bn1", "layer1", "layer2"),
    "all": ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"),
}
"""Parts that do not learn. The paper says "layer": a layer is taken as one of torchvision's four,
the first one with the convolution before it, and of "all" only the last, linear one learns.
[assumption]"""
PRESETS = ("paper", "small")
"""``paper``: as published. ``small``: what a laptop trains in minutes."""


@dataclass(frozen=True)
class Recipe:
    """How one classifier is built and trained.

    Parameters
    ----------
    task : {"oa", "pain"}
    depth : {18, 34, 50}
        Of the ResNet.
    size : {224, 64}
        Pixels along each side of an image.
    start : {"random", "imagenet", "oa"}
        See `STARTS`.
    frozen : {"none", "first", "first_two", "all"}
        See `FROZEN`.
    learning_rate : float
        Of Adam.
    weight_decay : float
        Adam's own, which is added to the gradient (L2), not decoupled.
    batch : int
        Images in a step.
    epochs, patience : int
        At most so many epochs; none after `patience` without a lower validation loss.
    weighted : bool
        Weight the loss by class imbalance.

    Raises
    ------
    InputError
        A value that a recipe can't have.
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
                    f"{name}={value}", expected=f"a number from {least_value}", where="recipe"
                )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as a model card holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Make a recipe of what `to_dict` returned."""
        return cls(**values)


_CHOICES: Mapping[str, tuple[object, ...]] = {
    "task": TASKS, "depth": DEPTHS, "size": SIZES, "start": STARTS, "frozen": tuple(FROZEN),
}  # fmt: skip

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
_SMALL = replace(  # all of this is ours [A]
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
"""Of small models that start from one of OA: a tenth of its rate, since fewer exams have a label
and what the model knows is to be kept. [assumption]"""


def recipe(task: str, preset: str = "paper") -> Recipe:
    """Return the recipe of a classifier.

    Parameters
    ----------
    task : {"oa", "pain"}
        A model of pain starts from that of OA of the same strategy and bone. [paper]
    preset : {"paper", "small"}
        ``paper``: ResNet 50 from ImageNet, Adam 1e-5, weight decay 0.9, batch 300, at most 100
        epochs, patience 15, weighted loss [paper]. ``small``: ResNet 18 from a random start, images
        of 64 x 64, and its own rates [assumption].

    Raises
    ------
    NotFoundError
        No such task or preset.

    Examples
    --------
    >>> recipe("pain").start, recipe("oa", "small").size
    ('oa', 64)
    """
    for value, known, what in ((task, TASKS, "task"), (preset, PRESETS, "preset")):
        if value not in known:
            raise NotFoundError(
                f"no {what} {value!r}", expected=f"one of {', '.join(known)}", where="recipe",
                todo=did_you_mean(str(value), known),
            )  # fmt: skip
    found = _PAPER if preset == "paper" else _SMALL
    if task == "oa":
        return found
    rate = found.learning_rate if preset == "paper" else _SMALL_PAIN_RATE
    return replace(found, task="pain", start="oa", learning_rate=rate)
