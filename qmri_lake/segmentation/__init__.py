"""Segmentation of bones and cartilage: networks, ensembles of them, and how masks are judged.

Public names are imported on first use: Keras only when a network is built.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "Frame": "frame",
    "Network": "network",
    "NnUNet": "own_network",
    "OwnNetwork": "own_network",
    "find_networks": "network",
    "segment_exam": "ensemble",
}
_MODULES = ("checks", "components", "losses", "metrics", "scores", "side", "splits")

__all__ = [
    "Frame",
    "Network",
    "NnUNet",
    "OwnNetwork",
    "checks",
    "components",
    "find_networks",
    "losses",
    "metrics",
    "scores",
    "segment_exam",
    "side",
    "splits",
]

if TYPE_CHECKING:
    from qmri_lake.segmentation import (
        checks,
        components,
        losses,
        metrics,
        scores,
        side,
        splits,
    )
    from qmri_lake.segmentation.ensemble import segment_exam
    from qmri_lake.segmentation.frame import Frame
    from qmri_lake.segmentation.network import Network, find_networks
    from qmri_lake.segmentation.own_network import NnUNet, OwnNetwork


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"qmri_lake.segmentation.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(f"qmri_lake.segmentation.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'qmri_lake.segmentation' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
