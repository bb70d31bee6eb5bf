"""Predict findings with an ensemble of classifiers, and average predictions over bones."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qmri_lake.diagnosis.models.classifier import Classifier, find_device
from qmri_lake.diagnosis.models.images import area_average
from qmri_lake.fusion import SCALES, STRATEGIES, biomarkers_of
from qmri_lake.surface.spherical_grid import BIOMARKERS, BONES

if TYPE_CHECKING:
    import torch

__all__ = ["PREDICTION_STATUS", "PREDICTORS", "Prediction", "PredictionStatus", "predict_maps"]

PREDICTORS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {**{bone: (bone,) for bone in BONES}, "tf": ("tibia", "femur"), "ptf": BONES}
)
"""Bones over which probabilities are averaged. [paper]"""


class PredictionStatus(IntEnum):
    """Whether an exam has a prediction, or the reason why it has none."""

    PREDICTED = 0
    NO_MAP = 1
    """The map of a required bone has no values."""
    NO_MODEL = 2
    """There is no classifier of a required bone."""


PREDICTION_STATUS = {status.name.lower(): int(status) for status in PredictionStatus}
"""Flag values of the variable with the status, by the names of `PredictionStatus`."""

_CACHED_MODELS = 2 * len(STRATEGIES) * len(BONES)
"""Number of networks that a process keeps in memory: those of all strategies and bones for two
tasks."""


class Prediction(NamedTuple):
    """Predictions of exams."""

    probability: NDArray[np.float32]
    """(exam, strategy, predictor), 0 to 1, in the order of `STRATEGIES` and `PREDICTORS`; NaN
    without a prediction."""
    status: NDArray[np.uint8]
    """(exam, strategy, predictor), values of `PredictionStatus`."""


def predict_maps(
    maps: NDArray[np.float32], classifiers: Sequence[Classifier], *, device: str = "auto"
) -> Prediction:
    """Predict findings with classifiers of one task, and average predictions over bones.

    Parameters
    ----------
    maps : (exam, bone, biomarker, azimuth, polar) float32
        Maps as in group ``sphere``: bone shape [mm], thickness [mm] and T2 [ms], NaN where there is
        no value.
    classifiers : sequence of Classifier
        Classifiers of one task; at most one for each strategy and bone.
    device : str
        ``auto`` selects a GPU if there is one.

    Returns
    -------
    Prediction
        A mean over bones is NaN if one of the bones has no prediction. [assumption]

    Notes
    -----
    Probabilities are averaged: tf = (tibia + femur) / 2, ptf = (patella + tibia + femur) / 3.
    [paper]
    """
    shape = (len(maps), len(STRATEGIES), len(PREDICTORS))
    probability = np.full(shape, np.nan, np.float32)
    status = np.full(shape, PredictionStatus.NO_MODEL, np.uint8)
    present = np.asarray(np.isfinite(maps).any(axis=(-2, -1)))
    columns = {name: k for k, name in enumerate(PREDICTORS)}
    for one in classifiers:
        row, bone = list(STRATEGIES).index(one.strategy), BONES.index(one.bone)
        needed = [BIOMARKERS.index(name) for name in biomarkers_of(one.strategy)]
        with_map = present[:, bone][:, needed].all(axis=1)
        status[:, row, columns[one.bone]] = np.where(
            with_map, PredictionStatus.PREDICTED, PredictionStatus.NO_MAP
        )
        if with_map.any():
            images = _images(maps[with_map, bone], one.strategy, one.recipe.size)
            probability[with_map, row, columns[one.bone]] = _predict_images(one, images, device)
    for name, bones in PREDICTORS.items():
        members = [columns[bone] for bone in bones]
        probability[..., columns[name]] = probability[..., members].mean(axis=-1)
        status[..., columns[name]] = status[..., members].max(axis=-1)
    return Prediction(probability, status)


def _images(maps: NDArray[np.float32], strategy: str, size: int) -> NDArray[np.float32]:
    """Convert maps (exam, biomarker, azimuth, polar) to the images that `SphereImages` returns."""
    planes: dict[str | None, NDArray[np.float32] | np.float32] = {None: np.float32(0)}
    for name in biomarkers_of(strategy):
        scaled = maps[:, BIOMARKERS.index(name)] / np.float32(SCALES[name])
        scaled[np.isnan(scaled)] = 0
        planes[name] = area_average(scaled, size)
    images = np.empty((len(maps), 3, size, size), np.float32)
    for channel, plane in enumerate(STRATEGIES[strategy]):
        images[:, channel] = planes[plane]
    return images


def _predict_images(
    classifier: Classifier, images: NDArray[np.float32], device: str
) -> NDArray[np.float32]:
    import torch

    where = find_device(device)
    with torch.inference_mode():
        logits = _cached_model(classifier, where)(torch.from_numpy(images).to(where))
        found: NDArray[np.float32] = torch.softmax(logits.float(), dim=1)[:, 1].cpu().numpy()
    return found


@functools.lru_cache(maxsize=_CACHED_MODELS)
def _cached_model(classifier: Classifier, device: torch.device) -> torch.nn.Module:
    import torch

    # On a CPU, the memory format channels-last halves the time for a single image, as in runs.
    return classifier.model().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
