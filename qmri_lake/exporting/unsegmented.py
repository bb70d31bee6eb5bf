"""Labels and maps without any value: exams that were never segmented or computed."""

from __future__ import annotations

import numpy as np

from qmri_lake.exporting.exam_content import ExportedArray
from qmri_lake.exporting.format_declaration import Written

__all__ = ["unsegmented"]


def unsegmented(array: ExportedArray, written: Written) -> str:
    """Return why an array is left out; "" if it has values.

    If only some voxels have no value, this is noted as a loss: formats of images have no missing
    value for labels.
    """
    if not array.is_labels:
        missing = np.isnan(array.values).all() if array.values.dtype.kind == "f" else False
        return "no value in any voxel" if missing else ""
    absent = array.values == array.variable.fill
    if absent.all():
        return array.variable.fill_meaning or "no value in any voxel"
    if absent.any():
        written.losses.append(
            f"voxels of {array.path} with {array.variable.fill_meaning!r} keep the value "
            f"{array.variable.fill}"
        )
    return ""
