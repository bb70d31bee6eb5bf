"""Recipes: how each member of an ensemble is built and trained, for the paper and for a laptop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from qmri_lake.errors import InputError, NotFoundError, did_you_mean
from qmri_lake.segmentation.frame import Frame
from qmri_lake.segmentation.losses import LOSSES
from qmri_lake.segmentation.vnet import Architecture
from qmri_lake.tissues import BONE, CARTILAGE

__all__ = ["MASK_NAMES", "PRESETS", "TASKS", "Recipe", "Task", "recipes"]

Task = Literal["bones", "cartilage"]
TASKS: Mapping[Task, Mapping[str, int]] = {"bones": BONE, "cartilage": CARTILAGE}
"""What can be segmented, and the labels of each."""
MASK_NAMES: Mapping[Task, str] = {"bones": "bone", "cartilage": "cartilage"}
"""What the labels of a task are called in a lake."""


@dataclass(frozen=True)
class Recipe:
    """How one network is built and trained.

    Parameters
    ----------
    name : str
        ``bone_3d``, ``cartilage_3d`` or ``cartilage_2d``: what kind of network.
    task : {"bones", "cartilage"}
    architecture : Architecture
    frame : Frame
        What it sees of an exam.
    loss : str
        One of `qmri_lake.segmentation.losses.LOSSES`.
    learning_rate : float
        Of Adam; the highest one where `decay` is set.
    epochs, patience : int
        At most so many epochs; none after `patience` without a lower validation loss.
    batch : int
        Volumes, or slices for a 2D network, in a step.
    steps : int, optional
        Steps in an epoch; default: each volume (each slice) once.
    augment : bool
        Flip and turn at random in every step.
    copies : int
        Offline copies of each training volume, which train beside the originals.
    patch : tuple of int, optional
        Train on pieces of this size (slice, row, column; or row, column), drawn around voxels of
        all classes alike; default: on whole volumes (slices).
    validation : int, optional
        Validate on the first so many volumes only; default: on all.
    decay : bool
        Raise the learning rate over the first tenth of the steps, then lower it along a cosine.
    weight_power : float
        Class weights are inverse voxel frequencies to this power, mean 1.
    start_at_frequencies : bool
        Begin with a network that gives each class its frequency everywhere.
    """

    name: str
    task: Task
    architecture: Architecture
    frame: Frame
    loss: str
    learning_rate: float
    epochs: int
    patience: int
    batch: int = 1
    steps: int | None = None
    augment: bool = False
    copies: int = 0
    patch: tuple[int, ...] | None = None
    validation: int | None = None
    decay: bool = False
    weight_power: float = 1.0
    start_at_frequencies: bool = False

    @property
    def labels(self) -> Mapping[str, int]:
        """The classes, as in `qmri_lake.tissues`."""
        return TASKS[self.task]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as a model card holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Make a recipe of what `to_dict` returned."""
        return cls(
            **{
                **values,
                "architecture": Architecture(**values["architecture"]),
                "frame": Frame(**values["frame"]),
                "patch": None if values.get("patch") is None else tuple(values["patch"]),
            }
        )


_BONE_3D = Recipe(
    name="bone_3d",
    task="bones",
    architecture=Architecture(3, len(BONE)),
    frame=Frame(medial_first=False, crop=None),
    loss="combined",
    learning_rate=5e-4,
    epochs=500,
    patience=30,
    augment=True,
)
_CARTILAGE_3D = Recipe(
    name="cartilage_3d",
    task="cartilage",
    architecture=Architecture(3, len(CARTILAGE)),
    frame=Frame(medial_first=True, crop=(140, 344, 344)),
    loss="combined",
    learning_rate=1e-4,
    epochs=500,
    patience=30,
    copies=18,
)
_CARTILAGE_2D = replace(
    _CARTILAGE_3D,
    name="cartilage_2d",
    architecture=Architecture(2, len(CARTILAGE), convolutions=(4, 4), bottom=4),
    batch=8,
    copies=0,
)

PRESETS = ("paper", "small")
"""``paper``: as published. ``small``: what a laptop trains in minutes on 64 x 144 x 144 voxels."""

_SMALL_BODY: Mapping[str, Any] = {
    "channels": 8, "convolutions": (1, 1, 1), "bottom": 1, "kernel": 3, "dropout": 0.0,
    "initial": "he_uniform",
}  # fmt: skip
_SMALL: Mapping[str, Mapping[str, Any]] = {
    # All of this is ours [A]. Bones are large: a coarse view shows the whole knee at once, and a
    # step costs little. Cartilage is thin: pieces at full resolution, around all classes alike.
    "bone_3d": {
        "architecture": Architecture(3, len(BONE), **_SMALL_BODY),
        "frame": Frame(medial_first=True, crop=None, shrink=(2, 4, 4)),
        "steps": 290,
        "copies": 1,
        "validation": 4,
    },
    "cartilage_3d": {
        "architecture": Architecture(3, len(CARTILAGE), **_SMALL_BODY),
        "frame": Frame(medial_first=True, crop=None),
        "patch": (24, 48, 48),
        "steps": 150,
        "validation": 1,
        "copies": 0,
    },
    "cartilage_2d": {
        "architecture": Architecture(
            2, len(CARTILAGE), **{**_SMALL_BODY, "convolutions": (2, 2), "bottom": 2}
        ),
        "frame": Frame(medial_first=True, crop=None),
        "patch": (72, 72),
        "batch": 12,
        "steps": 80,
        "validation": 1,
    },
}
_FINE: Mapping[str, Any] = {
    "frame": Frame(medial_first=True, crop=None, shrink=(2, 2, 2)),
    "patch": (32, 40, 40),
    "steps": 185,
    "copies": 0,
    "validation": 1,
}
_SMALL_VIEWS: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("bones", "cross_entropy"): _FINE, ("bones", "confidence_penalty"): _FINE,
}  # fmt: skip
"""Bone networks that see pieces of a finer view: beside one that sees the whole, they err
elsewhere, and they know better where a surface lies."""
_SURE_FIRST = ("combined", "cross_entropy", "confidence_penalty", "dice", "plain_dice")
"""Losses of the small bone networks: a few members are those that learn most in so few steps."""
_SMALL_RATES: Mapping[str, float] = {"plain_dice": 1.5e-3}
"""Rates of their own [A]: at 4e-3 this softmax becomes sure of background, and stays so."""
_SMALL_TRAINING: Mapping[str, Any] = {
    "epochs": 8, "decay": True, "weight_power": 0.25,
    "start_at_frequencies": True,
}  # fmt: skip


def recipes(task: str, preset: str = "paper", members: int | None = None) -> list[Recipe]:
    """Return the recipes of an ensemble's members.

    Parameters
    ----------
    task : {"bones", "cartilage"}
        Bones: five 3D networks, one a loss. Cartilage: three 2D and three 3D networks. [paper]
    preset : {"paper", "small"}
    members : int, optional
        Only so many: the first losses, or 2D and 3D in turn.

    Raises
    ------
    NotFoundError
        No such task or preset.
    InputError
        More members than the ensemble has, or none.
    """
    for value, known, what in ((task, tuple(TASKS), "task"), (preset, PRESETS, "preset")):
        if value not in known:
            raise NotFoundError(
                f"no {what} {value!r}", expected=f"one of {', '.join(known)}", where="recipes",
                todo=did_you_mean(value, known),
            )  # fmt: skip
    if task == "bones":
        found = [replace(_BONE_3D, loss=n) for n in (LOSSES if preset == "paper" else _SURE_FIRST)]
    else:
        found = [_CARTILAGE_2D, _CARTILAGE_3D] * 3
    if preset == "small":
        found = [
            replace(
                recipe,
                **{**_SMALL[recipe.name], **_SMALL_VIEWS.get((task, recipe.loss), {})},
                **_SMALL_TRAINING,
                learning_rate=_SMALL_RATES.get(recipe.loss, 4e-3),
            )
            for recipe in found
        ]
    count = len(found) if members is None else members
    if not 1 <= count <= len(found):
        raise InputError(f"{count} members", expected=f"1 to {len(found)}", where="recipes")
    return found[:count]
