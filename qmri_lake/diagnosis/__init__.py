"""Diagnosis: what spherical maps tell of osteoarthritis and pain, and how that is learned."""

from __future__ import annotations

from qmri_lake.diagnosis.cohort_cams import mean_cams, medial_share
from qmri_lake.diagnosis.explained import thickness_models
from qmri_lake.diagnosis.grad_cam import cams
from qmri_lake.diagnosis.guided import guided_thickness, unseen_knees
from qmri_lake.diagnosis.labels import Labelled, PainRule, label_oa, label_pain

__all__ = [
    "Labelled",
    "PainRule",
    "cams",
    "guided_thickness",
    "label_oa",
    "label_pain",
    "mean_cams",
    "medial_share",
    "thickness_models",
    "unseen_knees",
]  # fmt: skip
