"""Diagnosis: what spherical maps tell of osteoarthritis and pain, and how that is learned."""

from __future__ import annotations

from qmri_lake.diagnosis.labels import Labelled, PainRule, label_oa, label_pain

__all__ = ["Labelled", "PainRule", "label_oa", "label_pain"]
