"""A trained classifier on disk: its card, its weights, and what it says of images."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmri_lake.diagnosis.loader import SphereImages, make_loader, on_device
from qmri_lake.diagnosis.recipes import Recipe
from qmri_lake.diagnosis.resnet import digest_of, load_weights, make_resnet
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.fusion import SCALES

__all__ = ["CARD", "DIGITS", "WEIGHTS", "Classifier", "find_device", "probabilities"]

CARD, WEIGHTS = "card.json", "model.pth"
DIGITS = 12


@dataclass(frozen=True)
class Classifier:
    """A classifier of one bone's images, opened by its card; its weights are read when it predicts.

    Attributes
    ----------
    folder : str
    recipe : Recipe
    strategy, bone : str
        The images that it was trained on, and can be asked about.
    digest : str
        First digits of the SHA-256 of its weights.
    """

    folder: str
    recipe: Recipe
    strategy: str
    bone: str
    digest: str

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Classifier:
        """Open a classifier that `qmri_lake.diagnosis.train.train_classifier` finished.

        Raises
        ------
        NotFoundError
            No card there, or no weights.
        InputError
            Weights that are not those of the card; images that were scaled otherwise.
        """
        path = Path(folder)
        for name in (CARD, WEIGHTS):
            if not (path / name).is_file():
                raise NotFoundError(
                    f"no {name}", expected="a classifier that was trained", where=str(path),
                    todo="Finish its training: go on with resume=True.",
                )  # fmt: skip
        card = json.loads((path / CARD).read_text(encoding="utf-8"))
        found = digest_of(path / WEIGHTS)
        if found != card["digest"]:
            raise InputError(
                f"weights with SHA-256 {found[:DIGITS]}", expected=f"{card['digest'][:DIGITS]}",
                where=str(path), todo="Card and weights are of two trainings: train again.",
                reason=Reason.MODEL_MISMATCH,
            )  # fmt: skip
        if card["scales"] != dict(SCALES):
            raise InputError(
                f"images scaled by {card['scales']}", expected=str(dict(SCALES)), where=str(path),
                todo="They are scaled otherwise now: train again.", reason=Reason.MODEL_MISMATCH,
            )  # fmt: skip
        recipe = Recipe.from_dict(card["recipe"])
        return cls(str(path), recipe, card["strategy"], card["bone"], found[:DIGITS])

    @property
    def identity(self) -> str:
        """Name and digest: what a run records."""
        return f"{Path(self.folder).name}@{self.digest}"

    @property
    def card(self) -> dict[str, Any]:
        """All that is known of its training."""
        found: dict[str, Any] = json.loads((Path(self.folder) / CARD).read_text(encoding="utf-8"))
        return found

    def model(self) -> Any:
        """Return the network with its weights, in evaluation mode, on the CPU."""
        model = make_resnet(self.recipe.depth)
        load_weights(model, Path(self.folder) / WEIGHTS, digest=self.digest, head=True)
        return model.eval()

    def predict(
        self, images: SphereImages, *, batch: int = 64, workers: int = 0, device: str = "auto"
    ) -> NDArray[np.float32]:
        """Return how probable it is that what was learned is present.

        Parameters
        ----------
        images : SphereImages
            Of the same strategy, bone and size.
        batch, workers
            As of `qmri_lake.diagnosis.loader.make_loader`.
        device : str
            ``auto``: a GPU where there is one.

        Returns
        -------
        (exam,) float32
            0 to 1, the second of two softmax outputs [paper], in the order of ``images.exams``.

        Raises
        ------
        InputError
            Other images; a map without a value.
        """
        for what, found, own in (
            ("strategy", images.strategy, self.strategy),
            ("bone", images.bone, self.bone),
            ("size", images.size, self.recipe.size),
        ):
            if found != own:
                raise InputError(
                    f"images of {what} {found!r}", expected=f"{own!r}", where=self.identity,
                    reason=Reason.MODEL_MISMATCH,
                )  # fmt: skip
        loader = make_loader(images, batch=batch, shuffle=False, workers=workers)
        return probabilities(self.model(), loader, find_device(device))


def find_device(name: str) -> Any:
    """Return a torch device; ``auto``: a GPU where there is one."""
    import torch

    return torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    )


def probabilities(model: Any, loader: Any, device: Any) -> NDArray[np.float32]:
    """Return the probability (image,) of "present", in the order of the loader's dataset."""
    import torch

    model = model.to(device).eval()
    found = np.full(len(loader.dataset), np.nan, np.float32)
    with torch.inference_mode():
        for images, _, position in on_device(loader, device):
            present = torch.softmax(model(images).float(), dim=1)[:, 1]
            found[position.cpu().numpy()] = present.cpu().numpy()
    return found
