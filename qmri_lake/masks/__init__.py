"""Masks: select voxels by tissue, and read external mask files."""

from __future__ import annotations

from qmri_lake.masks.select import inside, tissue

__all__ = ["inside", "tissue"]
