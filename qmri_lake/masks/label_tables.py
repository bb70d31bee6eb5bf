"""Label tables that are given as a name, a YAML file, text or a mapping."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qmri_lake.core.text import counted, did_you_mean
from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.sources import SOURCES, Source
from qmri_lake.tissues import BONE, CARTILAGE

__all__ = ["Labels", "find_source", "unknown_label"]

Labels = str | os.PathLike[str] | Mapping[Any, str] | Source
"""Name of a known source, a YAML file, or a mapping from numbers or label names to tissues."""

_TISSUES = tuple(dict.fromkeys([*BONE, *CARTILAGE]))


def find_source(labels: Labels) -> Source:
    """Return the table for `labels`.

    Parameters
    ----------
    labels : str, path or mapping
        A name in `SOURCES`; a ``.yaml`` file that contains a mapping; text such as
        ``"1=femur,2=femoral"``; or a mapping. The mapping assigns tissues (keys of
        `qmri_lake.tissues.BONE` and ``CARTILAGE``) to numbers (1 to 255) or to label names in the
        file.

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
    for key, tissue in table.items():
        if tissue not in _TISSUES:
            raise InputError(
                f"no tissue {tissue!r}",
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
                f"label {text}: {tissue}",
                expected="numbers from 1 to 255; 0 is always background",
                where=where,
                todo="Remove background from the table.",
                reason=Reason.UNKNOWN_LABEL,
            )
    source = Source("own table", "a table of the caller", tissues, named=named)
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
