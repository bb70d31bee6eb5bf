"""The lake: exams, cohorts, lazy loading, history, derived lakes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

__all__ = ["Cohort", "Lake", "create_lake", "open_lake"]

if TYPE_CHECKING:
    from qmri_lake.lake.cohort import Cohort
    from qmri_lake.lake.lake import Lake, create_lake, open_lake

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={"cohort": ["Cohort"], "lake": ["Lake", "create_lake", "open_lake"]},
)
