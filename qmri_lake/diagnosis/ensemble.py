"""Ensembles of classifiers: opened together, asked together, their means over bones."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qmri_lake.diagnosis.classifier import CARD, DIGITS, Classifier, find_device
from qmri_lake.diagnosis.map_reader import area_average, biomarkers_of
from qmri_lake.diagnosis.resnet import digest_of
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.fusion import SCALES, STRATEGIES
from qmri_lake.surface.layout import BIOMARKERS, BONES

__all__ = [
    "PREDICTION_STATUS", "PREDICTORS", "Predicted", "identity", "open_classifiers", "predict_maps",
]  # fmt: skip

PREDICTORS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {**{bone: (bone,) for bone in BONES}, "tf": ("tibia", "femur"), "ptf": BONES}
)
"""The bones whose probabilities a prediction is the mean of. [paper]"""

PREDICTION_STATUS = {"predicted": 0, "no_map": 1, "no_model": 2}
"""Of a prediction: there is one; none, since a map of a bone that it needs has no value; none,
since no classifier of such a bone was given."""

_IN_MEMORY = 36
"""Networks that a process keeps: six strategies of three bones, for two tasks."""


class Predicted(NamedTuple):
    """What classifiers say of exams."""

    probability: NDArray[np.float32]
    """(exam, strategy, predictor), 0 to 1, in the order of `STRATEGIES` and `PREDICTORS`; NaN
    where there is none."""
    status: NDArray[np.uint8]
    """Likewise, `PREDICTION_STATUS`."""


def open_classifiers(models: Any, *, task: str | None = None) -> tuple[Classifier, ...]:
    """Open the classifiers of an ensemble.

    Parameters
    ----------
    models : path, Classifier, or sequence of them
        Folders of a classifier or of many, as ``qmri-lake train oa`` and ``train pain`` write them
        (``<strategy>/<bone>``); those that are not finished are passed over.
    task : {"oa", "pain"}, optional
        What all of them must tell.

    Returns
    -------
    tuple of Classifier
        In the order of tasks, strategies and bones, whatever the order was.

    Raises
    ------
    NotFoundError
        No classifier there.
    InputError
        Another task; two of one task, strategy and bone; what is neither a path nor a classifier;
        what `Classifier.open` refuses.
    """
    single = isinstance(models, (str, os.PathLike, Classifier))
    found: list[Classifier] = []
    for item in [models] if single else list(models):
        if isinstance(item, (str, os.PathLike)):
            found += [Classifier.open(folder) for folder in _folders(Path(item))]
        elif isinstance(item, Classifier):
            found.append(item)
        else:
            raise _wrong(f"a {type(item).__name__}", "a folder or a Classifier", "models")
    if not found:
        raise NotFoundError(
            "no classifier", expected="at least one that is finished", where=f"models {models}",
            todo="Give a folder that qmri-lake train oa, or train pain, wrote.",
        )  # fmt: skip
    seen: dict[tuple[str, ...], Classifier] = {}
    for one in found:
        key = (one.recipe.task, one.strategy, one.bone)
        if task is not None and one.recipe.task != task:
            raise _wrong(f"a classifier of {one.recipe.task}", f"one of {task}", one.folder)
        if key in seen:
            raise _wrong(f"two classifiers of {', '.join(key)}", "one", one.folder,
                         f"The other one is {seen[key].folder}.")  # fmt: skip
        seen[key] = one
    places = [list(STRATEGIES), list(BONES)]
    return tuple(
        sorted(
            found,
            key=lambda c: (c.recipe.task, places[0].index(c.strategy), places[1].index(c.bone)),
        )
    )


def _folders(path: Path) -> list[Path]:
    if (path / CARD).is_file():
        return [path]
    return sorted(card.parent for card in path.glob(f"*/*/{CARD}"))


def _wrong(found: str, expected: str, where: str, todo: str = "") -> InputError:
    return InputError(
        found, expected=expected, where=where, todo=todo, reason=Reason.MODEL_MISMATCH
    )


def identity(classifier: Classifier) -> str:
    """Return what a run records of a classifier: what it sees, and the digest of its card.

    The card holds the digest of the weights, so that another training is another classifier, and
    the same one in another folder is not.
    """
    card = digest_of(Path(classifier.folder) / CARD)[:DIGITS]
    return f"{classifier.strategy}/{classifier.bone}@{card}"


def predict_maps(
    maps: NDArray[np.float32], classifiers: Sequence[Classifier], *, device: str = "auto"
) -> Predicted:
    """Ask classifiers of one task about exams, and take their means over bones.

    Parameters
    ----------
    maps : (exam, bone, biomarker, azimuth, polar) float32
        As in group ``sphere``: mm, mm and ms, NaN where there is no value.
    classifiers : sequence of Classifier
        Of one task, at most one a strategy and bone.
    device : str
        ``auto``: a GPU where there is one.

    Returns
    -------
    Predicted
        A mean over bones is NaN where one of them has none. [assumption]

    Notes
    -----
    tf = (tibia + femur) / 2, ptf = (patella + tibia + femur) / 3, of probabilities. [paper]
    """
    shape = (len(maps), len(STRATEGIES), len(PREDICTORS))
    probability = np.full(shape, np.nan, np.float32)
    status = np.full(shape, PREDICTION_STATUS["no_model"], np.uint8)
    present = np.asarray(np.isfinite(maps).any(axis=(-2, -1)))
    columns = {name: k for k, name in enumerate(PREDICTORS)}
    for one in classifiers:
        row, bone = list(STRATEGIES).index(one.strategy), BONES.index(one.bone)
        needed = [BIOMARKERS.index(name) for name in biomarkers_of(one.strategy)]
        with_map = present[:, bone][:, needed].all(axis=1)
        status[:, row, columns[one.bone]] = np.where(
            with_map, PREDICTION_STATUS["predicted"], PREDICTION_STATUS["no_map"]
        )
        if with_map.any():
            images = _images(maps[with_map, bone], one.strategy, one.recipe.size)
            probability[with_map, row, columns[one.bone]] = _ask(one, images, device)
    for name, bones in PREDICTORS.items():
        members = [columns[bone] for bone in bones]
        probability[..., columns[name]] = probability[..., members].mean(axis=-1)
        status[..., columns[name]] = status[..., members].max(axis=-1)
    return Predicted(probability, status)


def _images(maps: NDArray[np.float32], strategy: str, size: int) -> NDArray[np.float32]:
    """Return what `SphereImages` gives, of maps (exam, biomarker, azimuth, polar) in memory."""
    planes: dict[str | None, Any] = {None: np.float32(0)}
    for name in biomarkers_of(strategy):
        scaled = maps[:, BIOMARKERS.index(name)] / np.float32(SCALES[name])
        scaled[np.isnan(scaled)] = 0
        planes[name] = area_average(scaled, size)
    images = np.empty((len(maps), 3, size, size), np.float32)
    for channel, plane in enumerate(STRATEGIES[strategy]):
        images[:, channel] = planes[plane]
    return images


def _ask(classifier: Classifier, images: NDArray[np.float32], device: str) -> NDArray[np.float32]:
    import torch

    where = find_device(device)
    with torch.inference_mode():
        logits = _loaded(classifier, where)(torch.from_numpy(images).to(where))
        found: NDArray[np.float32] = torch.softmax(logits.float(), dim=1)[:, 1].cpu().numpy()
    return found


@functools.lru_cache(maxsize=_IN_MEMORY)
def _loaded(classifier: Classifier, device: Any) -> Any:
    import torch

    # Channels last: one image, as a run asks for, takes half the time on a CPU.
    return classifier.model().to(device, memory_format=torch.channels_last)
