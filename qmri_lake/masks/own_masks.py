"""Reader of the ``.npz`` masks of this package, on the grid of the DESS image."""

from __future__ import annotations

import numpy as np

from qmri_lake.core.text import counted, format_shape
from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.content import Content
from qmri_lake.masks.label_tables import unknown_label
from qmri_lake.masks.label_values import as_numbers
from qmri_lake.masks.npz_arrays import read_arrays
from qmri_lake.masks.voxel_units import in_millimetres
from qmri_lake.tissues import BONE, CARTILAGE

__all__ = ["read_own_masks"]

_CARTILAGE_FROM = 10
"""Offset that is added to the cartilage labels of an .npz file, so that bone and cartilage form one
label map."""


def read_own_masks(path: str) -> Content:
    """Read bone and cartilage as one label map, whose tissues the names of the arrays define.

    Raises
    ------
    InputError
        If the file is damaged, has no mask with its affine, or has values that are not labels.
    """
    arrays, names = read_arrays(path, ("dess_bone", "dess_cartilage", "dess_affine"))
    affine = arrays.get("dess_affine")
    found = [arrays[name] for name in ("dess_bone", "dess_cartilage") if name in arrays]
    if not found or affine is None or affine.shape != (4, 4):
        raise InputError(
            f"no complete mask; the arrays are {', '.join(names[:8]) or 'none'}",
            expected="dess_affine (4, 4), and dess_bone or dess_cartilage or both",
            where=path,
            todo="Write the file with np.savez_compressed(path, dess_bone=..., dess_affine=...).",
            reason=Reason.GRID_MISMATCH if found else Reason.UNREADABLE_FILE,
        )
    if any(array.shape != found[0].shape or array.ndim != 3 for array in found):
        raise InputError(
            f"masks of {' and '.join(format_shape(array.shape) for array in found)}",
            expected="(slice, row, column), equal for bone and cartilage",
            where=path,
            todo="Write both masks on the grid of the DESS image.",
            reason=Reason.GRID_MISMATCH,
        )
    slices, rows, columns = found[0].shape
    labels = np.zeros((slices, rows, columns), np.uint8)
    tissues: dict[int, str] = {}
    for name, flags, start in (
        ("dess_bone", BONE, 0),
        ("dess_cartilage", CARTILAGE, _CARTILAGE_FROM),
    ):
        if name not in arrays:
            continue
        given = as_numbers(arrays[name], f"{path}, {name}")
        unknown = np.setdiff1d(given, list(flags.values()))
        if unknown.size:
            raise unknown_label(
                {int(n): int((given == n).sum()) for n in unknown},
                ", ".join(f"{v} {k}" for k, v in flags.items()),
                f"{path}, {name}",
                "Write 0 for background, or omit the array.",
            )
        if both := int(((labels > 0) & (given > 0)).sum()):
            raise InputError(
                f"{counted(both, 'voxel')} labelled both bone and cartilage",
                expected="one tissue for each voxel",
                where=path,
                todo="Import this file with `qmri-lake ingest --masks`, which keeps both labels.",
                reason=Reason.UNREADABLE_VALUE,
            )
        labels[given > 0] = given[given > 0] + start
        tissues |= {value + start: name for name, value in flags.items() if value}
    matrix = in_millimetres(
        np.asarray(affine, np.float64),
        (slices, rows, columns),
        "",
        path,
        "Write dess_affine in mm (LPS).",
    )
    return Content(labels, matrix, tissues=tissues)
