"""Diagnosis: what spherical maps tell of osteoarthritis and pain, and how that is learned.

Public names are imported on first use: torch only when images are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

__all__ = [
    "Classifier",
    "Evaluation",
    "Labelled",
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
]

if TYPE_CHECKING:
    from qmri_lake.diagnosis.classifier import Classifier
    from qmri_lake.diagnosis.cohort_cams import mean_cams, medial_share
    from qmri_lake.diagnosis.ensemble import open_classifiers
    from qmri_lake.diagnosis.evaluation import Evaluation, evaluate
    from qmri_lake.diagnosis.explained import thickness_models
    from qmri_lake.diagnosis.grad_cam import cams
    from qmri_lake.diagnosis.guided import guided_thickness, unseen_knees
    from qmri_lake.diagnosis.labels import Labelled, PainRule, label_oa, label_pain
    from qmri_lake.diagnosis.training import train_classifiers

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "classifier": ["Classifier"],
        "cohort_cams": ["mean_cams", "medial_share"],
        "ensemble": ["open_classifiers"],
        "evaluation": ["Evaluation", "evaluate"],
        "explained": ["thickness_models"],
        "grad_cam": ["cams"],
        "guided": ["guided_thickness", "unseen_knees"],
        "labels": ["Labelled", "PainRule", "label_oa", "label_pain"],
        "training": ["train_classifiers"],
    },
)
