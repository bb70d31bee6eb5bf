"""Content of a mask file, in the axis order of the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from qmri_lake.core.array_api import Values
from qmri_lake.core.text import counted
from qmri_lake.masks.grids import Affine, Crop

__all__ = ["Content", "Form", "shared_note"]

Form = Literal["sform", "qform"]
"""Name of one of the two affines of a NIfTI file."""


@dataclass(slots=True)
class Content:
    """Content of a file, in the axis order of the file."""

    labels: Values
    affine: Affine | None
    """Affine of the file. None if the file does not store its position; the axes are then those of
    the exam."""
    names: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Label numbers of each label name in the file."""
    numbered: bool = True
    """Whether the numbers in `labels` are those in the file. If not, a table must use names."""
    tissues: Mapping[int, str] | None = None
    """Tissue of each number if the format defines it; replaces a table."""
    crop: Crop | None = None
    """Part of the image that the file contains, if the file declares it."""
    step: float = 0.0
    """Distance between the values that the file can store, if it stores scaled values."""
    notes: list[str] = field(default_factory=list)


def shared_note(count: int) -> list[str]:
    """Return the note on voxels that belong to two tissues; empty if there are none."""
    return [f"{counted(count, 'voxel')} with two tissues, assigned to the first"] if count else []
