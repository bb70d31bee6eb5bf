"""Segmentation of bones and cartilage: so far, how two masks are compared."""

from qmri_lake.segmentation import metrics

__all__ = ["metrics"]
