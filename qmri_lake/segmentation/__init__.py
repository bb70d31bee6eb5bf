"""Segmentation of bones and cartilage: networks, ensembles of them, and how masks are judged.

Public names are imported on first use: Keras only when a network is built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

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

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submodules=["checks", "components", "losses", "metrics", "scores", "side", "splits"],
    submod_attrs={
        "ensemble": ["segment_exam"],
        "frame": ["Frame"],
        "network": ["Network", "find_networks"],
        "own_network": ["NnUNet", "OwnNetwork"],
    },
)
