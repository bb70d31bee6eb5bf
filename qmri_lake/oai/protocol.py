"""OAI's imaging protocol: which series are wanted, by the names that its scanners gave them."""

from __future__ import annotations

import re

__all__ = ["classify", "ignored_kind"]

_GROUPS = {"dess": re.compile(r"^SAG_3D_DESS"), "msme": re.compile(r"^SAG_T2_MAP")}
_IGNORED = {
    "T2_CALC": re.compile(r"T2_?CALC"),
    "localizer": re.compile(r"LOCALI[SZ]ER|LOCATOR|SCOUT|PRESCRIPTION|SURVEY"),
    "reformat": re.compile(r"MPR(?![A-Z])|REFORMAT|RFMT"),
}
_OAI_NAME = re.compile(r"^(AX|COR|SAG)_(IW|T1|T2|3D)_")
_SIDE = re.compile(r"[_ ]*(LEFT|RIGHT)$")


def classify(series_description: str) -> str:
    """Return the group that an OAI name stands for, or "" for other names.

    >>> classify("SAG_T2_MAP_RIGHT")
    'msme'
    """
    text = series_description.upper()
    return next((group for group, name in _GROUPS.items() if name.search(text)), "")


def ignored_kind(series_description: str, study_description: str, image_type: str) -> str:
    """Return under which name a series is counted and passed over, or "" if it is wanted.

    Computed T2 maps, localizers and reformats are passed over wherever they come from; every
    other series of an OAI study is too, unless it is a DESS or a T2 (multi-echo) series.
    """
    text = series_description.upper()
    for kind, name in _IGNORED.items():
        if name.search(text) or (kind != "T2_CALC" and name.search(image_type.upper())):
            return kind
    if classify(text):
        return ""
    if _OAI_NAME.search(text) or study_description.upper().startswith("OAI"):
        return _SIDE.sub("", text) or "series without a name"
    return ""
