"""Masks: choose voxels by tissue, read masks made elsewhere, and bring them into a lake."""

from __future__ import annotations

from qmri_lake.masks.select import inside, tissue

__all__ = ["inside", "tissue"]
