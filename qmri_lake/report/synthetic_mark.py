"""The word "Synthetic" in figures of exams that are marked as synthetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from qmri_lake.core.text import counted
from qmri_lake.lake.cohort import Cohort
from qmri_lake.lake.reading import SYNTHETIC_EXAMS
from qmri_lake.lake.synthetic_exams import is_synthetic

__all__ = ["mark_figure", "mark_of_cohort", "mark_of_dataset"]

_STRIP = 0.17
"""Width of the strip that the text takes at the right of a figure [inch]. Legends and titles of
figures are at the bottom and at the top."""
_STYLE: dict[str, Any] = {
    "ha": "right",
    "va": "bottom",
    "rotation": "vertical",
    "fontsize": 8,
    "color": "#9a3412",
    "weight": "bold",
}


def mark_figure(figure: Figure, mark: str) -> Figure:
    """Print a mark along the right side of a figure, and return the figure; "" prints nothing."""
    if mark:
        strip = _STRIP / figure.get_figwidth()
        engine = figure.get_layout_engine()
        if isinstance(engine, ConstrainedLayoutEngine):
            engine.set(rect=(0, 0, 1 - strip, 1))
        figure.text(1 - 0.1 * strip, 0.02, mark, **_STYLE)
    return figure


def mark_of_cohort(cohort: Cohort) -> str:
    """Return the mark of a figure of a cohort, "" if none of its exams is synthetic."""
    return _mark(int(is_synthetic(cohort.lake)[cohort.rows].sum()), len(cohort))


def mark_of_dataset(ds: xr.Dataset | None) -> str:
    """Return the mark of a figure of a Dataset of a lake, "" if none of its exams is synthetic."""
    if ds is None or SYNTHETIC_EXAMS not in ds.attrs or "exam" not in ds.coords:
        return ""
    marked = set(str(ds.attrs[SYNTHETIC_EXAMS]).split())
    exams = [str(exam) for exam in np.atleast_1d(ds["exam"].values)]
    return _mark(sum(exam in marked for exam in exams), len(exams))


def _mark(count: int, total: int) -> str:
    if not count or count == total:
        return "Synthetic data" if count else ""
    return f"Synthetic data: {count:,} of {counted(total, 'exam')}"
