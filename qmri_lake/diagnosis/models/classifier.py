"""Open a trained classifier with its model card and weights, and predict with it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.digest import sha256_of
from qmri_lake.core.json_types import JsonObject
from qmri_lake.core.model_folder import CARD
from qmri_lake.diagnosis.models.batches import Batch, ImageSet, make_loader, on_device
from qmri_lake.diagnosis.models.recipes import Recipe
from qmri_lake.diagnosis.models.resnet import load_weights, make_resnet
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.fusion import SCALES

if TYPE_CHECKING:
    import torch
    from torch.utils.data import DataLoader

__all__ = ["DIGITS", "WEIGHTS", "Classifier", "find_device", "probabilities"]

WEIGHTS = "model.pth"
DIGITS = 12
"""Number of leading digits of the SHA-256 of the weights that identify a classifier."""


@dataclass(frozen=True)
class Classifier:
    """A classifier of images of one bone; `model` and `predict` read its weights.

    Attributes
    ----------
    folder : str
    recipe : Recipe
    strategy, bone : str
        Strategy and bone of the training images, and of the images that it can classify.
    digest : str
        First digits of the SHA-256 of the weights.
    """

    folder: str
    recipe: Recipe
    strategy: str
    bone: str
    digest: str

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Classifier:
        """Open a classifier written by `qmri_lake.diagnosis.training.loop.train_classifier`.

        Raises
        ------
        NotFoundError
            If the folder has no card or no weights.
        InputError
            If the weights are not those named in the card, or `qmri_lake.fusion.SCALES` have
            changed since the training.
        """
        path = Path(folder)
        for name in (CARD, WEIGHTS):
            if not (path / name).is_file():
                raise NotFoundError(
                    f"no {name}",
                    expected="a trained classifier",
                    where=str(path),
                    todo="Finish its training with resume=True.",
                )
        card = json.loads((path / CARD).read_text(encoding="utf-8"))
        found = sha256_of(path / WEIGHTS)
        if found != card["digest"]:
            raise InputError(
                f"weights with SHA-256 {found[:DIGITS]}",
                expected=f"{card['digest'][:DIGITS]}",
                where=str(path),
                todo="The card belongs to another training: train again.",
                reason=Reason.MODEL_MISMATCH,
            )
        if card["scales"] != dict(SCALES):
            raise InputError(
                f"images scaled by {card['scales']}",
                expected=str(dict(SCALES)),
                where=str(path),
                todo="The scales have changed: train again.",
                reason=Reason.MODEL_MISMATCH,
            )
        recipe = Recipe.from_dict(card["recipe"])
        return cls(str(path), recipe, card["strategy"], card["bone"], found[:DIGITS])

    @property
    def identity(self) -> str:
        """Name of the folder and digest of the weights."""
        return f"{Path(self.folder).name}@{self.digest}"

    @property
    def card(self) -> JsonObject:
        """The model card: settings and results of the training."""
        found: JsonObject = json.loads((Path(self.folder) / CARD).read_text(encoding="utf-8"))
        return found

    def model(self) -> torch.nn.Module:
        """Return the network with its weights, in evaluation mode, on the CPU."""
        model = make_resnet(self.recipe.depth)
        load_weights(model, Path(self.folder) / WEIGHTS, digest=self.digest, head=True)
        return model.eval()

    def predict(
        self, images: ImageSet, *, batch: int = 64, workers: int = 0, device: str = "auto"
    ) -> NDArray[np.float32]:
        """Return the probability that the finding is present.

        Parameters
        ----------
        images : ImageSet
            Images with the strategy, bone and size of the classifier.
        batch, workers
            See `qmri_lake.diagnosis.models.batches.make_loader`.
        device : str
            ``auto`` selects a GPU if there is one.

        Returns
        -------
        (exam,) float32
            Probability, 0 to 1: the second of two softmax outputs [paper], in the order of
            ``images.exams``.

        Raises
        ------
        InputError
            If the images have another strategy, bone or size, or a map has no values.
        """
        for what, found, own in (
            ("strategy", images.strategy, self.strategy),
            ("bone", images.bone, self.bone),
            ("size", images.size, self.recipe.size),
        ):
            if found != own:
                raise InputError(
                    f"images of {what} {found!r}",
                    expected=f"{own!r}",
                    where=self.identity,
                    reason=Reason.MODEL_MISMATCH,
                )
        loader = make_loader(images, batch=batch, shuffle=False, workers=workers)
        return probabilities(self.model(), loader, find_device(device))


def find_device(name: str) -> torch.device:
    """Return the torch device of a name; ``auto`` is a GPU if there is one."""
    import torch

    return torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    )


def probabilities(
    model: torch.nn.Module, loader: DataLoader[Batch], device: torch.device
) -> NDArray[np.float32]:
    """Return the probability (image,) of label 1, in the order of the loader's dataset."""
    import torch

    model = model.to(device).eval()
    found = np.full(len(loader.dataset), np.nan, np.float32)  # type: ignore[arg-type]
    with torch.inference_mode():
        for images, _, position in on_device(loader, device):
            present = torch.softmax(model(images).float(), dim=1)[:, 1]
            found[position.cpu().numpy()] = present.cpu().numpy()
    return found
