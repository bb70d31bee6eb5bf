"""Segmentation of bones and cartilage: networks, ensembles, and the evaluation of masks.

Public names are imported on first use; Keras is imported when a network is built.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import lazy_loader

__all__ = [
    "Network",
    "NetworkView",
    "NnUNet",
    "OwnNetwork",
    "checks",
    "components",
    "find_networks",
    "losses",
    "metrics",
    "scores",
    "segment_exam",
]

if TYPE_CHECKING:
    from qmri_lake.segmentation import metrics
    from qmri_lake.segmentation.evaluation import scores
    from qmri_lake.segmentation.models import losses
    from qmri_lake.segmentation.models.custom import NnUNet, OwnNetwork
    from qmri_lake.segmentation.models.ensemble import segment_exam
    from qmri_lake.segmentation.models.network import Network, find_networks
    from qmri_lake.segmentation.models.network_view import NetworkView
    from qmri_lake.segmentation.quality import checks, components

_ALIASES = {
    "Frame": "qmri_lake.segmentation.models.network_view:NetworkView",
    "side": "qmri_lake.segmentation.quality.laterality",
    "splits": "qmri_lake.lake.split_by_patient",
}
"""Names of version 0.1 that are still supported: module, or module:attribute."""

_attached, __dir__, _ = lazy_loader.attach(
    __name__,
    submodules=["metrics"],
    submod_attrs={
        "evaluation": ["scores"],
        "models": ["losses"],
        "models.custom": ["NnUNet", "OwnNetwork"],
        "models.ensemble": ["segment_exam"],
        "models.network_view": ["NetworkView"],
        "models.network": ["Network", "find_networks"],
        "quality": ["checks", "components"],
    },
)


def __getattr__(name: str) -> Any:
    if name in _ALIASES:
        module, _, attribute = _ALIASES[name].partition(":")
        found = importlib.import_module(module)
        return getattr(found, attribute) if attribute else found
    return _attached(name)
