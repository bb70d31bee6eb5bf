"""A synthetic OAI: believable knees of patients who do not exist, everything about them known."""

from __future__ import annotations

from .archive import Archive, write_archive
from .knee import Exam, Truth, exams, knee
from .population import population
from .true_lake import TruthResult, add_true_exams

__all__ = [
    "Archive", "Exam", "Truth", "TruthResult", "add_true_exams", "exams", "knee", "population",
    "write_archive",
]  # fmt: skip
