"""Diagnosis: what spherical maps tell of osteoarthritis and pain, and how that is learned.

Public names are imported on first use: torch only when images are read.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "Classifier": "classifier",
    "Evaluation": "evaluation",
    "Labelled": "labels",
    "PainRule": "labels",
    "evaluate": "evaluation",
    "label_oa": "labels",
    "label_pain": "labels",
    "open_classifiers": "ensemble",
    "train_classifiers": "training",
}

__all__ = [
    "Classifier",
    "Evaluation",
    "Labelled",
    "PainRule",
    "evaluate",
    "label_oa",
    "label_pain",
    "open_classifiers",
    "train_classifiers",
]

if TYPE_CHECKING:
    from qmri_lake.diagnosis.classifier import Classifier
    from qmri_lake.diagnosis.ensemble import open_classifiers
    from qmri_lake.diagnosis.evaluation import Evaluation, evaluate
    from qmri_lake.diagnosis.labels import Labelled, PainRule, label_oa, label_pain
    from qmri_lake.diagnosis.training import train_classifiers


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"qmri_lake.diagnosis.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'qmri_lake.diagnosis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
