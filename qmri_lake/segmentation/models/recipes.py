"""Recipes: architecture and training settings of each member of an ensemble."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

from qmri_lake.core.json_types import JsonMapping, JsonObject
from qmri_lake.core.text import did_you_mean
from qmri_lake.errors import InputError, NotFoundError
from qmri_lake.segmentation.models.losses import LOSSES
from qmri_lake.segmentation.models.network_view import NetworkView
from qmri_lake.segmentation.models.vnet import Architecture
from qmri_lake.tissues import BONE, CARTILAGE

__all__ = ["MASK_NAMES", "PRESETS", "TASKS", "Preset", "Recipe", "Task", "recipes"]

Task = Literal["bones", "cartilage"]
"""Tissues that an ensemble segments."""
Preset = Literal["paper", "small"]
"""``paper``: as published. ``small``: settings for a laptop. A training on volumes of
64 x 144 x 144 voxels takes minutes."""
TASKS: Mapping[Task, Mapping[str, int]] = {"bones": BONE, "cartilage": CARTILAGE}
"""Label values of each task, by name."""
PRESETS: tuple[Preset, ...] = ("paper", "small")
MASK_NAMES: Mapping[Task, str] = {"bones": "bone", "cartilage": "cartilage"}
"""Name of a task's label array in a lake."""


@dataclass(frozen=True)
class Recipe:
    """Architecture and training settings of one network.

    Parameters
    ----------
    name : str
        Kind of network: ``bone_3d``, ``cartilage_3d`` or ``cartilage_2d``.
    task : {"bones", "cartilage"}
    architecture : Architecture
    frame : NetworkView
        Flip, crop and scaling of the network's input.
    loss : str
        One of `qmri_lake.segmentation.models.losses.LOSSES`.
    learning_rate : float
        Learning rate of Adam; the maximum if `decay` is set.
    epochs, patience : int
        Largest number of epochs, and number of epochs without a lower validation loss after which
        the training stops.
    batch : int
        Volumes, or slices for a 2D network, per step.
    steps : int, optional
        Steps per epoch. Default: as many as are needed to use each volume (or slice) once.
    augment : bool
        Flip and rotate at random in every step.
    copies : int
        Offline copies of each training volume, in addition to the original.
    patch : tuple of int, optional
        Train on patches of this size (slice, row, column; or row, column) around voxels of random
        classes; default: on whole volumes, or whole slices for a 2D network.
    validation : int, optional
        Use only this number of validation volumes, the first in order; default: all.
    decay : bool
        Increase the learning rate over the first tenth of the steps, then decrease it along a
        cosine.
    weight_power : float
        Class weights are inverse voxel frequencies to this power, with mean 1.
    start_at_frequencies : bool
        Initialise the network so that it predicts each class with its frequency.
    """

    name: str
    task: Task
    architecture: Architecture
    frame: NetworkView
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
        """Label value of each class, by name, as in `qmri_lake.tissues`."""
        return TASKS[self.task]

    def to_dict(self) -> JsonObject:
        """Return plain values, as stored in a model card."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: JsonMapping) -> Recipe:
        """Create a recipe from the values of `to_dict`."""
        return cls(
            **{
                **values,
                "architecture": Architecture(**values["architecture"]),
                "frame": NetworkView(**values["frame"]),
                "patch": None if values.get("patch") is None else tuple(values["patch"]),
            }
        )


_BONE_3D = Recipe(
    name="bone_3d",
    task="bones",
    architecture=Architecture(3, len(BONE)),
    frame=NetworkView(medial_first=False, crop=None),
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
    frame=NetworkView(medial_first=True, crop=(140, 344, 344)),
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

_SMALL_BODY: JsonMapping = {
    "channels": 8,
    "convolutions": (1, 1, 1),
    "bottom": 1,
    "kernel": 3,
    "dropout": 0.0,
    "initial": "he_uniform",
}
_SMALL: Mapping[str, JsonMapping] = {
    # All of these settings are assumptions. Bones are large, so their networks have a coarse view
    # of the whole knee, which makes a step fast. Cartilage is thin, so its networks are trained on
    # patches at full resolution, around voxels of all classes.
    "bone_3d": {
        "architecture": Architecture(3, len(BONE), **_SMALL_BODY),
        "frame": NetworkView(medial_first=True, crop=None, shrink=(2, 4, 4)),
        "steps": 290,
        "copies": 1,
        "validation": 4,
    },
    "cartilage_3d": {
        "architecture": Architecture(3, len(CARTILAGE), **_SMALL_BODY),
        "frame": NetworkView(medial_first=True, crop=None),
        # A loss over several patches: a class that is absent in all of them has no Dice gradient.
        "patch": (16, 48, 48),
        "batch": 3,
        "steps": 75,
        "validation": 1,
        "copies": 0,
    },
    "cartilage_2d": {
        "architecture": Architecture(
            2, len(CARTILAGE), **{**_SMALL_BODY, "convolutions": (2, 2), "bottom": 2}
        ),
        "frame": NetworkView(medial_first=True, crop=None),
        "patch": (72, 72),
        "batch": 12,
        "steps": 80,
        "validation": 1,
    },
}
_FINE: JsonMapping = {
    "frame": NetworkView(medial_first=True, crop=None, shrink=(2, 2, 2)),
    "patch": (32, 40, 40),
    "steps": 185,
    "copies": 0,
    "validation": 1,
}
_SMALL_VIEWS: Mapping[tuple[str, str], JsonMapping] = {
    ("bones", "cross_entropy"): _FINE,
    ("bones", "confidence_penalty"): _FINE,
}
"""Bone networks that are trained on patches of a finer view. They make other errors than networks
with the whole view, and locate surfaces more precisely."""
_SMALL_LOSSES = ("combined", "cross_entropy", "confidence_penalty", "dice", "plain_dice")
"""Losses of the small bone networks; those that converge in few steps come first."""
_SMALL_RATES: Mapping[str, float] = {"plain_dice": 1.5e-3}
"""Learning rates that differ from the others [assumption]. At 4e-3, the plain Dice loss converges
to background everywhere."""
_SMALL_TRAINING: JsonMapping = {
    "epochs": 8,
    "decay": True,
    "weight_power": 0.25,
    "start_at_frequencies": True,
}


def recipes(task: str, preset: str = "paper", members: int | None = None) -> list[Recipe]:
    """Return the recipes of an ensemble's members.

    Parameters
    ----------
    task : {"bones", "cartilage"}
        Bones: five 3D networks, one per loss. Cartilage: three 2D and three 3D networks. [paper]
    preset : {"paper", "small"}
    members : int, optional
        Return only this number of members: for bones, networks with the first losses; for
        cartilage, 2D and 3D networks in turn.

    Raises
    ------
    NotFoundError
        If there is no such task or preset.
    InputError
        If `members` is below 1 or above the number of members.
    """
    for value, known, what in ((task, tuple(TASKS), "task"), (preset, PRESETS, "preset")):
        if value not in known:
            raise NotFoundError(
                f"no {what} {value!r}",
                expected=f"one of {', '.join(known)}",
                where="recipes",
                todo=did_you_mean(value, known),
            )
    if task == "bones":
        losses = LOSSES if preset == "paper" else _SMALL_LOSSES
        all_members = [replace(_BONE_3D, loss=name) for name in losses]
    else:
        all_members = [_CARTILAGE_2D, _CARTILAGE_3D] * 3
    if preset == "small":
        all_members = [
            replace(
                recipe,
                **{**_SMALL[recipe.name], **_SMALL_VIEWS.get((task, recipe.loss), {})},
                **_SMALL_TRAINING,
                learning_rate=_SMALL_RATES.get(recipe.loss, 4e-3),
            )
            for recipe in all_members
        ]
    total = len(all_members)
    count = total if members is None else members
    if not 1 <= count <= total:
        raise InputError(f"{count} members", expected=f"1 to {total}", where="recipes")
    return all_members[:count]
