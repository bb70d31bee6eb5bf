"""Enhanced (multi-frame) MR files: the header of each frame, from its functional groups.

An element of a frame is taken from its per-frame groups, else from the shared groups, else from the
file. Values are mapped to signal as in dcm2niix: by RescaleSlope and RescaleIntercept. In files of
Philips without them, or with 1 and 0, the real-world value mapping is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.elements import Elements, element_text
from qmri_lake.oai.header_values import parse_number

__all__ = [
    "FACETS",
    "FRAME_TAGS",
    "GROUPS",
    "component_of",
    "frame_texts",
    "is_enhanced",
    "kept_components",
]

GROUPS = (Tag(0x5200, 0x9229), Tag(0x5200, 0x9230))
"""Sequences of the shared and of the per-frame functional groups."""
_CLASSES = {"1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4"}
"""Enhanced MR Image Storage, Legacy Converted Enhanced MR Image Storage."""
_REAL_WORLD = Tag(0x0040, 0x9096)
_REAL_WORLD_TABLE = Tag(0x0040, 0x9212)
_REAL_WORLD_INTERCEPT, _REAL_WORLD_SLOPE = Tag(0x0040, 0x9224), Tag(0x0040, 0x9225)
_LARGEST_SLOPE = 1e38
"""Philips stores a slope of 1.8e308 if there is no mapping."""

FACETS: Mapping[str, BaseTag] = {
    "stack": Tag(0x0020, 0x9056),
    "temporal position": Tag(0x0020, 0x9128),
    "acquisition": Tag(0x0020, 0x0012),
    "b-value": Tag(0x0018, 0x9087),
    "flip angle": Tag(0x0018, 0x1314),
    "inversion time": Tag(0x0018, 0x9079),
    "trigger delay": Tag(0x0020, 0x9153),
}
"""Elements that number the volumes of a file."""
FRAME_TAGS = {
    "effective_echo_time": Tag(0x0018, 0x9082),
    "frame_type": Tag(0x0008, 0x9007),
    "component": Tag(0x0008, 0x9208),
    "frame_laterality": Tag(0x0020, 0x9072),
    **FACETS,
}
"""Elements of the frames of enhanced files only, by key."""
_COMPUTED = re.compile(r".*MAP|ADC|.*FRACTION")
"""Parts of a frame type of computed maps. ``T2`` alone means T2-weighted."""
_COMPONENTS = {
    "P": "phase",
    "PHASE": "phase",
    "R": "real",
    "REAL": "real",
    "I": "imaginary",
    "IMAGINARY": "imaginary",
}


def is_enhanced(sop_class: str) -> bool:
    """Return whether the files of a class have functional groups."""
    return sop_class in _CLASSES


def component_of(frame_type: str, component: str) -> str:
    r"""Return ``magnitude``, ``phase``, ``real``, ``imaginary`` or ``computed map``.

    >>> component_of(r"ORIGINAL\PRIMARY\PHASE MAP\P\FFE", "PHASE")
    'phase'
    """
    parts = frame_type.upper().split("\\")[2:]
    for part in (component.upper(), *parts):
        if part in _COMPONENTS:
            return _COMPONENTS[part]
    return "computed map" if any(map(_COMPUTED.fullmatch, parts)) else "magnitude"


def kept_components(components: Sequence[str]) -> list[bool]:
    """Return which images of a series are used: only magnitude images, if there are any.

    Images of classic files have no component and are all used.
    """
    magnitude = "magnitude" in components
    return [component in ("", "magnitude") or not magnitude for component in components]


def frame_texts(
    elements: Elements,
    texts: Mapping[str, str],
    tags: Mapping[str, BaseTag],
    frames: int,
    name: str,
) -> list[dict[str, str]]:
    """Return the texts of the header elements of each frame.

    Parameters
    ----------
    elements : Elements
        Header of the file, with its `GROUPS`.
    texts : mapping
        Texts of the elements of the file, by key.
    tags : mapping
        Tag of each key. Tags of acquisition and geometry are looked up in the groups.
    frames : int
        Number of frames.
    name : str
        Name of the file, for messages.

    Returns
    -------
    list of dict
        `texts` with the values of the frame, and the keys of `FACETS` and ``component``.

    Raises
    ------
    InputError
        If the numbers of groups and frames differ, or if a frame is mapped by a table.
    """
    wanted = {tag: key for key, tag in {**tags, **FRAME_TAGS}.items() if _is_of_frame(tag)}
    dataset = Dataset(elements.found)
    shared_items, items = (_items(dataset, tag) for tag in GROUPS)
    if len(items) != frames and not (frames == 1 and not items):
        raise InputError(
            f"functional groups of {counted(len(items), 'frame')}",
            expected=f"NumberOfFrames, {frames}",
            where=name,
            todo="Copy or export the file again.",
            reason=Reason.UNREADABLE_VALUE,
        )
    own = dict.fromkeys(FRAME_TAGS, "") | {
        key: element_text(elements.found[tag])
        for key, tag in FRAME_TAGS.items()
        if tag in elements.found
    }
    shared = _merge(shared_items, wanted)
    result = []
    for item in items or [Dataset()]:
        frame = {**texts, **own, **shared, **_merge([item], wanted)}
        frame["echo_time"] = frame.pop("effective_echo_time") or frame["echo_time"]
        frame["image_type"] = frame.pop("frame_type") or frame["image_type"]
        frame["image_laterality"] = frame.pop("frame_laterality") or frame["image_laterality"]
        frame["component"] = component_of(frame["image_type"], frame["component"])
        _apply_real_world(frame, name)
        result.append(frame)
    return result


def _is_of_frame(tag: BaseTag) -> bool:
    """Whether an element can differ between frames, unlike those of patient, series and size."""
    return tag in FRAME_TAGS.values() or tag.group == 0x0018 or tag in _GEOMETRY


_GEOMETRY = {
    Tag(0x0020, 0x0032),  # ImagePositionPatient
    Tag(0x0020, 0x0037),  # ImageOrientationPatient
    Tag(0x0028, 0x0030),  # PixelSpacing
    Tag(0x0028, 0x1052),  # RescaleIntercept
    Tag(0x0028, 0x1053),  # RescaleSlope
    Tag(0x0028, 0x1054),  # RescaleType
}


def _text(dataset: Dataset, tag: BaseTag) -> str:
    return element_text(dataset.get_item(tag)) if tag in dataset else ""


def _items(dataset: Dataset, tag: BaseTag) -> list[Dataset]:
    return list(dataset[tag].value or ()) if tag in dataset else []


def _merge(items: Iterable[Dataset], wanted: Mapping[BaseTag, str]) -> dict[str, str]:
    """Return the wanted elements of the functional groups of items."""
    found: dict[str, str] = {}
    for item in items:
        for tag in item.keys():
            if tag.is_private:
                continue
            if item.get_item(tag).VR not in ("SQ", "UN", None):
                continue
            element = item[tag]
            if element.VR != "SQ" or not element.value:
                continue
            if tag == _REAL_WORLD:
                found |= _real_world(element.value)
                continue
            group = element.value[0]
            for inner in group.keys():
                if inner in wanted and (text := _text(group, inner)):
                    found[wanted[inner]] = text
    return found


def _real_world(mappings: Iterable[Dataset]) -> dict[str, str]:
    """Return the linear mapping to real-world values; empty for a placeholder."""
    linear = set()
    for mapping in mappings:
        slope = _text(mapping, _REAL_WORLD_SLOPE)
        if not slope:
            return {"real_world": "table"}
        if abs(parse_number(slope)) < _LARGEST_SLOPE:
            linear.add((slope, _text(mapping, _REAL_WORLD_INTERCEPT) or "0"))
    if len(linear) > 1:
        return {"real_world": "several"}
    return {"real_world": "\\".join(linear.pop())} if linear else {}


def _apply_real_world(frame: dict[str, str], name: str) -> None:
    """If the rescaling changes no value, use the real-world value mapping of Philips instead."""
    mapping = frame.pop("real_world", "")
    slope, intercept = frame["slope"] or "1", frame["intercept"] or "0"
    if not mapping or not frame["manufacturer"].upper().startswith("PHILIPS"):
        return
    if parse_number(slope) != 1 or parse_number(intercept) != 0:
        return
    if "\\" not in mapping:
        raise InputError(
            f"{'a table' if mapping == 'table' else 'several functions'} in "
            "RealWorldValueMappingSequence",
            expected="one slope and one intercept",
            where=name,
            todo="Export the series without real-world values.",
            reason=Reason.MODALITY_LUT,
        )
    frame["slope"], frame["intercept"] = mapping.split("\\")
