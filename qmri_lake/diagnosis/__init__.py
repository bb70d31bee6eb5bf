"""Train and evaluate classifiers of osteoarthritis and pain that use spherical maps.

Public names are imported on first use. Torch is imported only when images are read.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import lazy_loader

__all__ = [
    "Classifier",
    "Evaluation",
    "LabelledCohort",
    "PainRule",
    "cams",
    "evaluate",
    "guided_thickness",
    "label_oa",
    "label_pain",
    "mean_cams",
    "medial_share",
    "open_classifiers",
    "thickness_models",
    "train_classifiers",
    "unseen_knees",
    "with_all_maps",
]

if TYPE_CHECKING:
    from qmri_lake.diagnosis.data.map_reader import with_all_maps
    from qmri_lake.diagnosis.evaluation.guided_thickness import guided_thickness, unseen_knees
    from qmri_lake.diagnosis.evaluation.mean_cams import mean_cams, medial_share
    from qmri_lake.diagnosis.evaluation.prediction_metrics import Evaluation, evaluate
    from qmri_lake.diagnosis.evaluation.thickness_models import thickness_models
    from qmri_lake.diagnosis.labels import LabelledCohort, PainRule, label_oa, label_pain
    from qmri_lake.diagnosis.models.classifier import Classifier
    from qmri_lake.diagnosis.models.ensemble import open_classifiers
    from qmri_lake.diagnosis.models.grad_cam import cams
    from qmri_lake.diagnosis.training.train_classifiers import train_classifiers

_ALIASES = {"Labelled": "qmri_lake.diagnosis.labels:LabelledCohort"}
"""Names of version 0.1 that still work, each with its new location as ``module:attribute``."""

_attached, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "data.map_reader": ["with_all_maps"],
        "models.classifier": ["Classifier"],
        "evaluation.mean_cams": ["mean_cams", "medial_share"],
        "models.ensemble": ["open_classifiers"],
        "evaluation.prediction_metrics": ["Evaluation", "evaluate"],
        "evaluation.thickness_models": ["thickness_models"],
        "models.grad_cam": ["cams"],
        "evaluation.guided_thickness": ["guided_thickness", "unseen_knees"],
        "labels": ["LabelledCohort", "PainRule", "label_oa", "label_pain"],
        "training.train_classifiers": ["train_classifiers"],
    },
)


def __getattr__(name: str) -> Any:
    if name in _ALIASES:
        module, _, attribute = _ALIASES[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    return _attached(name)
