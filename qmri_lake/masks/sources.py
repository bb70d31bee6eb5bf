"""Label tables of known sources of masks.

A table maps each label number to a tissue of `qmri_lake.tissues`. Several numbers may map to one
tissue: medial and lateral tibial cartilage are both ``tibial``, and a lesion is part of its bone.
The table then also says which part a number is, if the source tells it. Structures for which a lake
has no label are ``background``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qmri_lake.tissues import BONE, CARTILAGE

__all__ = ["SOURCES", "Source"]


@dataclass(frozen=True, slots=True)
class Source:
    """Label table of a source of masks."""

    name: str
    words: str
    """Short description of the source."""
    tissues: Mapping[int, str]
    """Tissue of each label number; 0 is background and is not listed."""
    parts: Mapping[int, str] = field(default_factory=dict)
    """Name of a number in the source, if `tissues` maps several numbers to one tissue."""
    named: Mapping[str, str] = field(default_factory=dict)
    """Tissue of each label name in the file, such as the name of a segment."""
    sides: Mapping[int | str, str] = field(default_factory=dict)
    """``medial`` or ``lateral``, by number or label name. Labels of which the source does not tell
    it are not listed."""
    timepoint: int | None = None
    """Visit [months], if all masks of the source are from one visit that no file name contains."""

    def has(self, flags: Mapping[str, int]) -> bool:
        """Return whether the table has a tissue of `flags`, which is `BONE` or `CARTILAGE`."""
        return bool(self.tissues_in(flags))

    def tissues_in(self, flags: Mapping[str, int]) -> tuple[str, ...]:
        """Return the tissues of `flags` in the table, in this order and without background."""
        given = {*self.tissues.values(), *self.named.values()}
        return tuple(name for name in flags if name in given and name != "background")

    @property
    def missing_tissues(self) -> tuple[str, ...]:
        """Tissues that the source does not label, although it labels others of the same array."""
        return tuple(
            name
            for flags in (BONE, CARTILAGE)
            if self.has(flags)
            for name in flags
            if name != "background" and name not in self.tissues_in(flags)
        )

    def __str__(self) -> str:
        listed = ", ".join(f"{number} {tissue}" for number, tissue in self.tissues.items())
        return listed or ", ".join(f"{name} {tissue}" for name, tissue in self.named.items())


_WITH_LESIONS = {
    1: "femur",
    2: "femoral",
    3: "tibia",
    4: "tibial",
    5: "patella",
    6: "patellar",
    7: "femur",
    8: "tibia",
    9: "patella",
}
"""Labels of Woo et al., arXiv:2211.16696."""

_LESIONS = {7: "femoral bone lesion", 8: "tibial bone lesion", 9: "patellar bone lesion"}

SOURCES: Mapping[str, Source] = {
    source.name: source
    for source in (
        Source(
            "oai-zib",
            "OAI-ZIB: bones and cartilages of femur and tibia, 507 knees at baseline",
            {1: "femur", 2: "femoral", 3: "tibia", 4: "tibial"},
            timepoint=0,
        ),
        Source(
            "oaizib-cm",
            "OAIZIB-CM: OAI-ZIB with the tibial cartilage in two parts",
            {1: "femur", 2: "femoral", 3: "tibia", 4: "tibial", 5: "tibial"},
            {4: "medial tibial cartilage", 5: "lateral tibial cartilage"},
            sides={4: "medial", 5: "lateral"},
            timepoint=0,
        ),
        Source(
            "bone-lesion",
            "bones, cartilages and bone lesions (Woo et al.); a lesion is part of its bone",
            _WITH_LESIONS,
            _LESIONS,
        ),
        Source(
            "akoa",
            "OAI-AKOA: the same nine labels, of knees at two visits; the name has the month",
            _WITH_LESIONS,
            _LESIONS,
        ),
        Source(
            "oai-zib-uq",
            "OAI-ZIB-UQ: the same nine labels, of OAI-ZIB knees at baseline",
            _WITH_LESIONS,
            _LESIONS,
            timepoint=0,
        ),
        Source(
            "skm-tea",
            "SKM-TEA (NIfTI): cartilages and menisci, medial and lateral",
            {1: "patellar", 2: "femoral", 3: "tibial", 4: "tibial", 5: "meniscus", 6: "meniscus"},
            {
                3: "medial tibial cartilage",
                4: "lateral tibial cartilage",
                5: "medial meniscus",
                6: "lateral meniscus",
            },
            sides={3: "medial", 4: "lateral", 5: "medial", 6: "lateral"},
        ),
        Source(
            "imorphics",
            "iMorphics contours of the OAI (.mat): cartilages and menisci",
            {1: "femoral", 2: "tibial", 3: "tibial", 4: "patellar", 5: "meniscus", 6: "meniscus"},
            {
                2: "lateral tibial cartilage",
                3: "medial tibial cartilage",
                5: "lateral meniscus",
                6: "medial meniscus",
            },
            sides={2: "lateral", 3: "medial", 5: "lateral", 6: "medial"},
        ),
        Source(
            "iwoai",
            "IWOAI 2019 challenge (HDF5): cartilages and menisci; number = channel + 1",
            {1: "femoral", 2: "tibial", 3: "tibial", 4: "patellar", 5: "meniscus", 6: "meniscus"},
        ),
        Source(
            "pymskt",
            "the example knee of pymskt: cartilages, bones, menisci; the fibula is background",
            {
                1: "femoral",
                2: "tibial",
                3: "tibial",
                4: "patellar",
                5: "femur",
                6: "tibia",
                7: "patella",
                8: "background",
                9: "meniscus",
                10: "meniscus",
            },
            {2: "medial tibial cartilage", 3: "lateral tibial cartilage", 8: "fibula"},
            sides={2: "medial", 3: "lateral"},
        ),
        Source(
            "qmri-lake",
            ".npz of this package: dess_bone unchanged, dess_cartilage + 10",
            {
                1: "femur",
                2: "tibia",
                3: "patella",
                11: "femoral",
                12: "tibial",
                13: "patellar",
                14: "meniscus",
            },
        ),
    )
}
"""Table of each source by name, from the descriptions of the sources [group].

Descriptions: skm-tea, the file DATASET.md of Desai et al. (NeurIPS 2021); akoa, oai-zib-uq and
bone-lesion, the README of the masks of Woo et al. (arXiv:2211.16696); oaizib-cm, Yao et al.
(CartiMorph). The challenge of iwoai does not document the order of the two tibial and of the two
meniscal channels, and pymskt not that of the menisci; their sides are therefore not stored.
"""
