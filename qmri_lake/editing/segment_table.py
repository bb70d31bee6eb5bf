"""The segments of exported masks: one for each tissue, with its name, number and colour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qmri_lake.tissues import BONE, CARTILAGE

__all__ = ["SEGMENTS", "Segment", "segments_of"]

_NAMES = {
    "femoral": "femoral cartilage",
    "tibial": "tibial cartilage",
    "patellar": "patellar cartilage",
}
"""Names that people recognise, by tissue. Other tissues have their own names."""

# Colours of Okabe and Ito, which colour-blind readers can distinguish.
_COLOURS = {
    "femur": (230, 159, 0),
    "tibia": (86, 180, 233),
    "patella": (240, 228, 66),
    "femoral": (213, 94, 0),
    "tibial": (0, 114, 178),
    "patellar": (0, 158, 115),
    "meniscus": (204, 121, 167),
}


@dataclass(frozen=True, slots=True)
class Segment:
    """A tissue of an exported mask."""

    tissue: str
    """Name in `qmri_lake.tissues`."""
    name: str
    """Name in the file."""
    value: int
    """Label in the array of the lake, and in the file."""
    colour: tuple[int, int, int]
    """Red, green and blue, 0 to 255."""


def segments_of(flags: Mapping[str, int]) -> tuple[Segment, ...]:
    """Return the segments of `qmri_lake.tissues.BONE` or ``CARTILAGE``, without background."""
    return tuple(
        Segment(tissue, _NAMES.get(tissue, tissue), value, _COLOURS[tissue])
        for tissue, value in flags.items()
        if value
    )


SEGMENTS: Mapping[str, tuple[Segment, ...]] = {
    "bone": segments_of(BONE),
    "cartilage": segments_of(CARTILAGE),
}
"""Segments by kind of mask."""
