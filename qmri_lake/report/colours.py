"""Colours of figures and of the exam page: tissues, bones, maps, states of a surface, and overlap.

Colours of tissues and bones are those of Okabe and Ito, which colour-blind readers can distinguish.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from qmri_lake.fusion import BIOMARKER_TABLE
from qmri_lake.report.t2_summary import ALL_VOXELS

__all__ = [
    "BONE_COLOURS",
    "BONE_SHAPE_RANGE",
    "MAP_STYLES",
    "OVERLAP_COLOURS",
    "STATE_COLOURS",
    "T2_RANGE",
    "TISSUE_COLOURS",
    "MapStyle",
]

TISSUE_COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "femoral": "#D55E00",
        "tibial": "#0072B2",
        "patellar": "#009E73",
        "meniscus": "#CC79A7",
        ALL_VOXELS: "#444444",
    }
)
"""Colour of each cartilage and the meniscus, and of the voxels of exams without a mask."""

BONE_COLOURS: Mapping[str, str] = MappingProxyType(
    {"femur": "#E69F00", "tibia": "#56B4E9", "patella": "#F0E442"}
)
"""Colour of each bone."""

OVERLAP_COLOURS: Mapping[str, str] = MappingProxyType(
    {"true positive": "#00C853", "false positive": "#00FFFF", "false negative": "#FF00FF"}
)
"""Colours of the overlap of two masks in Figure S2: green, cyan, magenta. [paper]"""

STATE_COLOURS: Mapping[str, str] = MappingProxyType(
    {"denuded": "#00D5FF", "not articular": "#E4E8EB", "no value": "#9AA5AF", "bone": "#E6DFD1"}
)
"""Colours of the pixels of a map without a value, by their state. They occur in no colour scale."""

T2_RANGE = BIOMARKER_TABLE["t2"].limits
"""Range of the T2 colour scale [ms], slightly larger than the usual range of cartilage."""

BONE_SHAPE_RANGE: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"femur": (12.0, 52.0), "tibia": (16.0, 44.0), "patella": (8.0, 26.0)}
)
"""Range of the colour scale of bone shape by bone [mm], since sizes differ too much for a common
range. [group], with limits rounded outwards"""


class MapStyle(NamedTuple):
    """Colours and range of a biomarker, the same for all exams."""

    name: str
    unit: str
    colours: str
    """Name of a colormap of matplotlib, perceptually uniform and suitable for colour-blind
    readers."""
    limits: tuple[float, float]
    """Range of the colour scale, in `unit`. [assumption]"""


MAP_STYLES: Mapping[str, MapStyle] = MappingProxyType(
    {
        name: MapStyle(biomarker.long_name, biomarker.unit, biomarker.colours, biomarker.limits)
        for name, biomarker in BIOMARKER_TABLE.items()
    }
)
"""Styles by biomarker, in the order of the maps of a lake. T2 has the same colours as in slices."""
