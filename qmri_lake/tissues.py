"""Label values of bones and tissues, by name."""

from __future__ import annotations

__all__ = ["BONE", "CARTILAGE", "DIVIDED", "NO_MASK", "PART"]

NO_MASK = 255
"""Label of a voxel that was never segmented. It is not background."""

BONE: dict[str, int] = {"background": 0, "femur": 1, "tibia": 2, "patella": 3}
"""Labels of `bone` arrays."""

CARTILAGE: dict[str, int] = {
    "background": 0,
    "femoral": 1,
    "tibial": 2,
    "patellar": 3,
    "meniscus": 4,
}
"""Labels of `cartilage` arrays: three cartilages and the menisci."""

PART: dict[str, int] = {"undivided": 0, "medial": 1, "lateral": 2}
"""Labels of `cartilage_part` arrays: the side of the knee on which a piece of a tissue lies.
``undivided`` is background, or a tissue of which the source does not tell the side."""

DIVIDED = ("tibial", "meniscus")
"""Tissues of `CARTILAGE` that consist of a medial and a lateral part."""
