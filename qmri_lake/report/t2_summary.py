"""Summarise T2 of a cohort by tissue.

Exams are computed one after another, so that memory does not grow with the cohort.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.tissues import CARTILAGE, NO_MASK

if TYPE_CHECKING:
    from qmri_lake.lake.cohort import Cohort
    from qmri_lake.lake.lake import Lake

__all__ = ["ALL_VOXELS", "BINS", "T2Summary", "summarise_t2"]

BINS = np.arange(0.0, 101.0, 1.0)
"""Edges of the bins of histograms [ms]."""

ALL_VOXELS = "all voxels"
"""Name in place of a tissue for all voxels of exams without a mask."""

_TISSUES = {name: value for name, value in CARTILAGE.items() if name != "background"}


@dataclass
class T2Summary:
    """Summary of T2 in the exams of a cohort."""

    rows: list[dict[str, object]] = field(default_factory=list)
    histograms: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """Number of accepted voxels in each bin of 1 ms with edges `BINS`, by tissue."""
    outcomes: dict[str, int] = field(default_factory=dict)
    """Number of voxels by the outcome of their fit."""

    @property
    def table(self) -> pd.DataFrame:
        """Table of T2, one row per exam and tissue.

        Columns: exam; tissue; voxels, the number of voxels with an attempted fit; accepted, the
        number of accepted voxels; mean, sd and median of T2 [ms] over accepted voxels, NaN if there
        are none.
        """
        columns = ["exam", "tissue", "voxels", "accepted", "mean", "sd", "median"]
        return pd.DataFrame(self.rows, columns=columns)

    def add(
        self,
        exam: str,
        t2: NDArray[np.floating],
        status: NDArray[np.integer],
        labels: NDArray[np.integer] | None,
        flags: Mapping[str, int],
    ) -> None:
        """Add one exam: arrays `t2`, `status` and `labels` of equal shape, and the status flags."""
        tried = status != flags.get("outside", NO_MASK)
        tried &= status != NO_MASK
        for name, value in flags.items():
            count = int((status[tried] == value).sum())
            if count:
                self.outcomes[name] = self.outcomes.get(name, 0) + count
        regions = {ALL_VOXELS: tried}
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
    """Summarise T2 of a cohort by tissue.

    Parameters
    ----------
    lake : Lake
    cohort : Cohort
        All exams must have T2: ``lake.cohort(...).require("msme/t2")``.
    progress : callable, optional
        Called with the numbers of completed exams and of all exams.
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
