"""Diagnosis: what is to be learned from the maps, and by what rule it is so."""

from __future__ import annotations

from qmri_lake.diagnosis.labels import Labelled, PainRule, label_oa, label_pain

__all__ = ["Labelled", "PainRule", "label_oa", "label_pain"]
