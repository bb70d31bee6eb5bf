"""What the numbers of other people's masks mean: the tables of all known sources, in one place.

A table gives each number a tissue of `qmri_lake.tissues`. Several numbers may go to one tissue:
medial and lateral tibial cartilage are ``tibial``, a lesion is part of its bone. A structure that
a lake has no label for is ``background``, which the table then says.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qmri_lake.errors import InputError, Reason, did_you_mean
from qmri_lake.summary import counted
from qmri_lake.tissues import BONE, CARTILAGE

__all__ = ["SOURCES", "Labels", "Source", "find_source", "unknown_label"]


@dataclass(frozen=True, slots=True)
class Source:
    """What the numbers of a mask mean."""

    name: str
    words: str
    """What it is, in a phrase."""
    tissues: Mapping[int, str]
    """Tissue by number; 0 is background and not listed."""
    parts: Mapping[int, str] = field(default_factory=dict)
    """What the source itself calls a number, where several of them are one tissue here."""
    named: Mapping[str, str] = field(default_factory=dict)
    """Tissue by the name that a file gives to a label, such as that of a segment."""
    timepoint: int | None = None
    """Months, where all masks of the source are of one visit and their names don't say it."""

    def has(self, flags: Mapping[str, int]) -> bool:
        """Whether any number is a tissue of `flags`, `BONE` or `CARTILAGE`."""
        return bool(self.made(flags))

    def made(self, flags: Mapping[str, int]) -> tuple[str, ...]:
        """Tissues of `flags` that the table has, without the background, in their order."""
        given = {*self.tissues.values(), *self.named.values()}
        return tuple(name for name in flags if name in given and name != "background")

    @property
    def lacks(self) -> tuple[str, ...]:
        """Tissues that it was not segmented into, of the arrays that it makes."""
        return tuple(
            name
            for flags in (BONE, CARTILAGE)
            if self.has(flags)
            for name in flags
            if name != "background" and name not in self.made(flags)
        )

    def number_of(self, part: str) -> int | None:
        """Return the number that the source calls `part`."""
        return next((number for number, name in self.parts.items() if name == part), None)

    def __str__(self) -> str:
        listed = ", ".join(f"{number} {tissue}" for number, tissue in self.tissues.items())
        return listed or ", ".join(f"{name} {tissue}" for name, tissue in self.named.items())


Labels = str | os.PathLike[str] | Mapping[Any, str] | Source
"""Name of a known source, a YAML file, or a mapping of numbers or names to tissues."""

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
            timepoint=0,
        ),
        Source(
            "bone-lesion",
            "bones, cartilages and bone lesions (Woo et al.); a lesion is part of its bone",
            {1: "femur", 2: "femoral", 3: "tibia", 4: "tibial", 5: "patella", 6: "patellar",
             7: "femur", 8: "tibia", 9: "patella"},
            {7: "femoral bone lesion", 8: "tibial bone lesion", 9: "patellar bone lesion"},
        ),
        Source(
            "imorphics",
            "iMorphics contours of the OAI (.mat): cartilages and menisci",
            {1: "femoral", 2: "tibial", 3: "tibial", 4: "patellar", 5: "meniscus", 6: "meniscus"},
            {2: "lateral tibial cartilage", 3: "medial tibial cartilage",
             5: "lateral meniscus", 6: "medial meniscus"},
        ),
        Source(
            "iwoai",
            "IWOAI 2019 challenge (HDF5): cartilages and menisci; number = channel + 1",
            {1: "femoral", 2: "tibial", 3: "tibial", 4: "patellar", 5: "meniscus", 6: "meniscus"},
        ),
        Source(
            "pymskt",
            "the example knee of pymskt: cartilages, bones, menisci; the fibula is background",
            {1: "femoral", 2: "tibial", 3: "tibial", 4: "patellar", 5: "femur", 6: "tibia",
             7: "patella", 8: "background", 9: "meniscus", 10: "meniscus"},
            {2: "medial tibial cartilage", 3: "lateral tibial cartilage", 8: "fibula"},
        ),
        Source(
            "qmri-lake",
            "our own .npz: dess_bone as it is, dess_cartilage + 10",
            {1: "femur", 2: "tibia", 3: "patella",
             11: "femoral", 12: "tibial", 13: "patellar", 14: "meniscus"},
        ),
    )
}  # fmt: skip
"""Tables by name [G], collected from the sources' own descriptions.

The order of iwoai's two tibial and two meniscal channels does not matter: each pair is one tissue.
"""

_TISSUES = tuple(dict.fromkeys([*BONE, *CARTILAGE]))


def find_source(labels: Labels) -> Source:
    """Return the table that `labels` stands for.

    Parameters
    ----------
    labels : str, path or mapping
        A name in `SOURCES`; a ``.yaml`` file that holds a mapping; text such as
        ``"1=femur,2=femoral"``; or a mapping of numbers (1 to 255), or of the names that a file
        gives to its labels, to tissues (keys of `qmri_lake.tissues.BONE` and ``CARTILAGE``).

    Raises
    ------
    InputError
        No such source, or a table that can't be one (``unknown_label``).
    """
    if isinstance(labels, Source):
        return labels
    if isinstance(labels, Mapping):
        return _from_mapping(labels, "labels")
    text = os.fspath(labels)
    if text in SOURCES:
        return SOURCES[text]
    if text.endswith((".yaml", ".yml")):
        return _from_mapping(_read_yaml(text), text)
    if "=" in text:
        pairs = [part.partition("=") for part in text.split(",") if part.strip()]
        return _from_mapping({key.strip(): tissue.strip() for key, _, tissue in pairs}, "labels")
    raise InputError(
        f"labels {text!r}",
        expected=f"one of {', '.join(SOURCES)}; a .yaml file; or 1=femur,2=femoral ...",
        where="labels",
        todo=did_you_mean(text, SOURCES),
        reason=Reason.UNKNOWN_LABEL,
    )


def _read_yaml(path: str) -> Mapping[Any, Any]:
    import yaml  # type: ignore[import-untyped]

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        found = f"a table that can't be read ({' '.join(str(error).split())})"
    else:
        if isinstance(content, Mapping):
            return content
        found = f"a {type(content).__name__}"
    raise InputError(
        found,
        expected="lines such as 1: femur",
        where=path,
        todo="Write one number, a colon and a tissue a line.",
        reason=Reason.UNREADABLE_FILE,
    )


def _from_mapping(table: Mapping[Any, Any], where: str) -> Source:
    tissues: dict[int, str] = {}
    named: dict[str, str] = {}
    for key, tissue in table.items():
        if tissue not in _TISSUES:
            raise InputError(
                f"the tissue {tissue!r}",
                expected=f"one of {', '.join(_TISSUES)}",
                where=where,
                todo=did_you_mean(str(tissue), _TISSUES),
                reason=Reason.UNKNOWN_LABEL,
            )
        text = str(key).strip()
        if not text.isdecimal():
            named[text] = tissue
        elif 0 < int(text) < 256:
            tissues[int(text)] = tissue
        elif int(text) or tissue != "background":
            raise InputError(
                f"{text}: {tissue}",
                expected="numbers of 1 to 255; 0 is always background",
                where=where,
                todo="Leave background out of the table.",
                reason=Reason.UNKNOWN_LABEL,
            )
    source = Source("own table", "a table of the caller", tissues, named=named)
    if not (source.has(BONE) or source.has(CARTILAGE)):
        raise InputError(
            "a table without any tissue",
            expected=f"numbers of {', '.join(_TISSUES[1:])}",
            where=where,
            todo="Say what the numbers mean: 1=femur,2=femoral ...",
            reason=Reason.UNKNOWN_LABEL,
        )
    return source


def unknown_label(counts: Mapping[int, int], expected: str, where: str, todo: str) -> InputError:
    """Return the error for labels (voxels by number) that a table does not name."""
    words = ", ".join(f"{number} ({counted(count, 'voxel')})" for number, count in counts.items())
    return InputError(
        f"label {words}", expected=expected, where=where, todo=todo, reason=Reason.UNKNOWN_LABEL
    )
