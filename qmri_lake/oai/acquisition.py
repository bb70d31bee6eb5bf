"""Acquisition of a series: the elements of its header that distinguish sequences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pydicom.tag import BaseTag, Tag

__all__ = ["ACQUISITION_TAGS", "Acquisition", "read_acquisition"]

ACQUISITION_TAGS: dict[str, BaseTag] = {
    "complex_component": Tag(0x0008, 0x9208),
    "scanning_sequence": Tag(0x0018, 0x0020),
    "sequence_variant": Tag(0x0018, 0x0021),
    "acquisition_type": Tag(0x0018, 0x0023),
    "sequence_name": Tag(0x0018, 0x0024),
    "repetition_time": Tag(0x0018, 0x0080),
    "protocol_name": Tag(0x0018, 0x1030),
    "flip_angle": Tag(0x0018, 0x1314),
    "pulse_sequence_name": Tag(0x0018, 0x9005),
    "ge_acquisition": Tag(0x0019, 0x0010),
    "ge_gradient_area": Tag(0x0019, 0x10B6),
    "ge_gradient_duration": Tag(0x0019, 0x10B7),
    "ge_creator": Tag(0x0043, 0x0010),
    "ge_component": Tag(0x0043, 0x102F),
}
_AREA_UNIT = 0.01
"""mT ms/m of 1 G us/cm, the unit of the gradient area of GE's qDESS. [group: DOSMA]"""
_GE_COMPONENTS = {"1": "PHASE", "2": "REAL", "3": "IMAGINARY"}
"""Component by the value of a private element of GE, which writes no component into ImageType."""


@dataclass(frozen=True, slots=True)
class Acquisition:
    """Elements of a header that distinguish sequences; empty or NaN if absent."""

    protocol_name: str = ""
    sequence_name: str = ""
    """SequenceName, or PulseSequenceName."""
    scanning_sequence: tuple[str, ...] = ()
    """``GR``, ``SE``, ``IR`` ..."""
    sequence_variant: tuple[str, ...] = ()
    acquisition_type: str = ""
    """``2D`` or ``3D``."""
    repetition_time: float = math.nan
    """Milliseconds."""
    flip_angle: float = math.nan
    """Degrees."""
    component: str = ""
    """``PHASE``, ``REAL``, ``IMAGINARY`` ..., where ImageType does not contain it."""
    gradient_area: float = math.nan
    """Area of the spoiler of a qDESS [mT ms/m]. GE's qDESS writes it into private elements, which
    other sequences use otherwise."""
    gradient_duration: float = math.nan
    """Duration of the spoiler of a qDESS [ms], as `gradient_area`."""

    @property
    def is_gradient_echo(self) -> bool:
        """Whether the header states a gradient echo and no spin echo."""
        return "GR" in self.scanning_sequence and "SE" not in self.scanning_sequence

    @property
    def is_spin_echo(self) -> bool:
        """Whether the header states a spin echo and no gradient echo."""
        return "SE" in self.scanning_sequence and "GR" not in self.scanning_sequence


def read_acquisition(values: Mapping[str, str]) -> Acquisition:
    """Return the acquisition from the text of the elements of `ACQUISITION_TAGS`."""
    component = values["complex_component"].upper()
    if not component and values["ge_creator"].startswith("GEMS_PARM"):
        component = _GE_COMPONENTS.get(values["ge_component"], "")
    return Acquisition(
        protocol_name=values["protocol_name"],
        sequence_name=values["sequence_name"] or values["pulse_sequence_name"],
        scanning_sequence=_parts(values["scanning_sequence"]),
        sequence_variant=_parts(values["sequence_variant"]),
        acquisition_type=values["acquisition_type"].upper(),
        repetition_time=_number(values["repetition_time"]),
        flip_angle=_number(values["flip_angle"]),
        component=component,
        **_spoiler(values),
    )


def _spoiler(values: Mapping[str, str]) -> dict[str, float]:
    """Return area and duration of the spoiler of GE's qDESS, if both are stated and above 0.

    They are the elements "User data 15" and "16" of the block GEMS_ACQU_01, in G us/cm and us.
    [group: DOSMA]
    """
    if not values["ge_acquisition"].startswith("GEMS_ACQU"):
        return {}
    area = _number(values["ge_gradient_area"]) * _AREA_UNIT
    duration = _number(values["ge_gradient_duration"]) / 1000
    if not (area > 0 and duration > 0):
        return {}
    return {"gradient_area": area, "gradient_duration": duration}


def _parts(text: str) -> tuple[str, ...]:
    return tuple(sorted(part.strip() for part in text.upper().split("\\") if part.strip()))


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
