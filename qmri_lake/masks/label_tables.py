"""Label tables that are given as a name, a YAML file, text or a mapping."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qmri_lake.core.text import counted, did_you_mean
from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.sources import SOURCES, Source
from qmri_lake.tissues import BONE, CARTILAGE, DIVIDED, PART

__all__ = ["Labels", "find_source", "unknown_label"]

Labels = str | os.PathLike[str] | Mapping[Any, str] | Source
"""Name of a known source, a YAML file, or a mapping from numbers or label names to tissues."""

_TISSUES = tuple(dict.fromkeys([*BONE, *CARTILAGE]))
_SIDES = tuple(name for name, value in PART.items() if value)
_PARTS = {f"{side} {tissue}": (tissue, side) for tissue in DIVIDED for side in _SIDES}
"""Tissue and side of each word for a part of a tissue, such as ``medial tibial``."""


def find_source(labels: Labels) -> Source:
    """Return the table for `labels`.

    Parameters
    ----------
    labels : str, path or mapping
        A name in `SOURCES`; a ``.yaml`` file that contains a mapping; text such as
        ``"1=femur,2=femoral"``; or a mapping. The mapping assigns tissues (keys of
        `qmri_lake.tissues.BONE` and ``CARTILAGE``) to numbers (1 to 255) or to label names in the
        file. A part of a tissue is given as ``"medial tibial"``, ``"lateral meniscus"`` and so on.

    Raises
    ------
    InputError
        If there is no such source, or the table is invalid (``unknown_label``).
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
        f"labels = {text!r}",
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
        found = f"unreadable table: {' '.join(str(error).split())}"
    else:
        if isinstance(content, Mapping):
            return content
        found = f"a {type(content).__name__} instead of a mapping"
    raise InputError(
        found,
        expected="lines such as 1: femur",
        where=path,
        todo="Write lines with a number, a colon and a tissue.",
        reason=Reason.UNREADABLE_FILE,
    )


def _from_mapping(table: Mapping[Any, Any], where: str) -> Source:
    tissues: dict[int, str] = {}
    named: dict[str, str] = {}
    sides: dict[int | str, str] = {}
    for key, word in table.items():
        tissue, side = _PARTS.get(str(word), (str(word), ""))
        if tissue not in _TISSUES:
            raise InputError(
                f"no tissue {word!r}",
                expected=f"one of {', '.join((*_TISSUES, *_PARTS))}",
                where=where,
                todo=did_you_mean(str(word), (*_TISSUES, *_PARTS)),
                reason=Reason.UNKNOWN_LABEL,
            )
        text = str(key).strip()
        number = int(text) if text.isdecimal() else None
        if number is None:
            named[text] = tissue
        elif 0 < number < 256:
            tissues[number] = tissue
        elif number or tissue != "background":
            raise InputError(
                f"label {text}: {tissue}",
                expected="numbers from 1 to 255; 0 is always background",
                where=where,
                todo="Remove background from the table.",
                reason=Reason.UNKNOWN_LABEL,
            )
        if side:
            sides[text if number is None else number] = side
    source = Source("own table", "a table of the caller", tissues, named=named, sides=sides)
    if not (source.has(BONE) or source.has(CARTILAGE)):
        raise InputError(
            "a table without any tissue",
            expected=f"numbers for one or more of {', '.join(_TISSUES[1:])}",
            where=where,
            todo="Define the numbers: 1=femur,2=femoral ...",
            reason=Reason.UNKNOWN_LABEL,
        )
    return source


def unknown_label(counts: Mapping[int, int], expected: str, where: str, todo: str) -> InputError:
    """Return the error for labels that a table does not contain.

    `counts` is the number of voxels of each label.
    """
    words = ", ".join(f"{number} ({counted(count, 'voxel')})" for number, count in counts.items())
    return InputError(
        f"unknown label {words}",
        expected=expected,
        where=where,
        todo=todo,
        reason=Reason.UNKNOWN_LABEL,
    )
