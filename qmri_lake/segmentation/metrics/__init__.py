"""Metrics of the agreement of two masks."""

from __future__ import annotations

from qmri_lake.segmentation.metrics.mask_agreement import (
    dice,
    mean_surface_distance,
    surface_distances,
)

__all__ = ["dice", "mean_surface_distance", "surface_distances"]
