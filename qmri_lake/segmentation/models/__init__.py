"""Segmentation networks: architectures, losses, weights, and prediction by an ensemble."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["losses", "recipes", "vnet"]
)
