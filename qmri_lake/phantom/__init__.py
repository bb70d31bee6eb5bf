"""A synthetic OAI: realistic knees of fictitious patients, with known ground truth."""

from __future__ import annotations

from qmri_lake.phantom.archive import Archive, write_archive
from qmri_lake.phantom.exam_truth import Exam, Truth, exams, knee
from qmri_lake.phantom.lake import TruthResult, add_true_exams
from qmri_lake.phantom.population import population

__all__ = [
    "Archive",
    "Exam",
    "Truth",
    "TruthResult",
    "add_true_exams",
    "exams",
    "knee",
    "population",
    "write_archive",
]
