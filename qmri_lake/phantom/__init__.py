"""A synthetic OAI: believable knees of patients who do not exist, everything about them known."""

from __future__ import annotations

from .archive import Archive, write_archive
from .knee import Exam, Truth, exams, knee
from .population import population

__all__ = ["Archive", "Exam", "Truth", "exams", "knee", "population", "write_archive"]
