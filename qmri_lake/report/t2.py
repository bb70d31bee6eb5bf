"""T2 of a cohort by tissue: gathered exam by exam, so that memory does not grow with the cohort."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from qmri_lake.tissues import CARTILAGE, NO_MASK

if TYPE_CHECKING:
    from qmri_lake.cohort import Cohort
    from qmri_lake.lake import Lake

__all__ = ["BINS", "EVERYWHERE", "T2Summary", "summarise_t2"]

BINS = np.arange(0.0, 101.0, 1.0)
"""Edges of the histograms, ms."""

EVERYWHERE = "all voxels"
"""Where an exam has no mask, T2 is told of all voxels together."""

_TISSUES = {name: value for name, value in CARTILAGE.items() if name != "background"}


@dataclass
class T2Summary:
    """T2 of the exams of a cohort."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    histograms: dict[str, np.ndarray[Any, np.dtype[np.int64]]] = field(default_factory=dict)
    """Voxels a ms by tissue, edges `BINS`; accepted voxels only."""
    outcomes: dict[str, int] = field(default_factory=dict)
    """Voxels by what became of their fit."""

    @property
    def table(self) -> pd.DataFrame:
        """One row for each exam and tissue.

        Columns: exam, tissue, voxels (fitted or tried), accepted, mean, sd and median of T2 [ms]
        over accepted voxels; NaN where there are none.
        """
        columns = ["exam", "tissue", "voxels", "accepted", "mean", "sd", "median"]
        return pd.DataFrame(self.rows, columns=columns)

    def add(
        self, exam: str, t2: Any, status: Any, labels: Any | None, flags: dict[str, int]
    ) -> None:
        """Take one exam: `t2`, `status` and `labels` of one shape, flags of the status."""
        tried = status != flags.get("outside", NO_MASK)
        tried &= status != NO_MASK
        for name, value in flags.items():
            count = int((status[tried] == value).sum())
            if count:
                self.outcomes[name] = self.outcomes.get(name, 0) + count
        regions = {EVERYWHERE: tried}
        if labels is not None and (labels != NO_MASK).any():
            regions = {name: tried & (labels == value) for name, value in _TISSUES.items()}
        for name, inside in regions.items():
            if not inside.any():
                continue
            values = t2[inside]
            values = values[np.isfinite(values)].astype(np.float64)
            counts = np.histogram(values, BINS)[0]
            self.histograms[name] = self.histograms.get(name, np.zeros_like(counts)) + counts
            known = values.size > 0
            self.rows.append(
                {
                    "exam": exam,
                    "tissue": name,
                    "voxels": int(inside.sum()),
                    "accepted": int(values.size),
                    "mean": float(values.mean()) if known else np.nan,
                    "sd": float(values.std(ddof=1)) if values.size > 1 else np.nan,
                    "median": float(np.median(values)) if known else np.nan,
                }
            )


def summarise_t2(
    lake: Lake, cohort: Cohort, progress: Callable[[int, int], None] | None = None
) -> T2Summary:
    """Gather T2 of the exams of `cohort`, which must have it.

    Parameters
    ----------
    lake : Lake
    cohort : Cohort
        As ``lake.cohort(...).require("msme/t2")``.
    progress : callable, optional
        Called with (done, total) exams.
    """
    summary = T2Summary()
    if not len(cohort):
        return summary
    ds = lake.load("msme", cohort)
    meanings = str(ds["t2_status"].attrs["flag_meanings"]).split()
    flags = dict(zip(meanings, ds["t2_status"].attrs["flag_values"], strict=True))
    names = [name for name in ("t2", "t2_status", "cartilage") if name in ds]
    for k, exam in enumerate(ds["exam"].values):
        one: xr.Dataset = ds[names].isel(exam=k).compute(scheduler="synchronous")
        labels = one["cartilage"].values if "cartilage" in one else None
        summary.add(str(exam), one["t2"].values, one["t2_status"].values, labels, flags)
        if progress is not None:
            progress(k + 1, len(cohort))
    return summary
