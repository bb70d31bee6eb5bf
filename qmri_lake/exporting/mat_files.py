"""MATLAB files: any array of an exam, one structure for each group."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat

from qmri_lake.core.atomic_write import atomic_write
from qmri_lake.core.json_types import JsonObject
from qmri_lake.core.text import format_bytes
from qmri_lake.errors import InputError, Reason
from qmri_lake.exporting.exam_content import ExamContent, ExportedArray, is_volume
from qmri_lake.exporting.format_declaration import Each, Format, Written
from qmri_lake.exporting.netcdf_files import refuse_visits
from qmri_lake.exporting.unsegmented import unsegmented

__all__ = ["MAT", "MAX_BYTES"]

MAX_BYTES = 2**31 - 1024
"""Largest structure in a MATLAB file of version 5, whose lengths are 32-bit numbers. A margin is
kept for the names."""


def write_mat(content: ExamContent, paths: Sequence[str], stem: Path) -> Written:
    """Write the variables of one group as ``.mat`` of version 5.

    Raises
    ------
    InputError
        If the arrays together are larger than such a file can hold (``not_exportable``).
    """
    written = Written()
    values: dict[str, Any] = {}
    about: dict[str, Any] = {}
    total = 0
    group = ""
    for path in paths:
        array = content.read(path)
        group = array.variable.group
        if is_volume(array.variable) and (reason := unsegmented(array, Written())):
            written.left_out[path] = reason
            continue
        total += array.values.nbytes
        if total > MAX_BYTES:
            raise InputError(
                f"{format_bytes(total)} of {group}",
                expected=f"at most {format_bytes(MAX_BYTES)}, the limit of MATLAB's version 5",
                where=content.exam,
                todo="Name fewer variables of the group, or export netcdf, which MATLAB reads.",
                reason=Reason.NOT_EXPORTABLE,
            )
        values[array.name] = _plain(array)
        about[array.name] = _attributes(content, array)
    if not values:
        return written
    file = stem.with_name(f"{stem.name}.mat")
    top = {
        "exam": content.exam,
        "knee": content.knee,
        "synthetic": content.synthetic,
        group: values,
        "attributes": about,
    }
    with atomic_write(file) as unfinished:
        savemat(unfinished, top, do_compression=True, long_field_names=True, oned_as="column")
    written.files.append(file)
    return written


def _plain(array: ExportedArray) -> Any:
    """Return the values in a type of MATLAB: texts as a cell array of strings."""
    if array.values.dtype.kind in "TOU":
        texts = array.values.astype(object)
        return str(texts.item()) if texts.ndim == 0 else texts
    return array.values


def _attributes(content: ExamContent, array: ExportedArray) -> JsonObject:
    """Return the attributes of a variable as a structure."""
    variable = array.variable
    found: dict[str, Any] = {
        "description": variable.description,
        "units": variable.unit,
        "dimensions": np.array(variable.dims or ("value",), object),
        "missing_value": variable.fill if isinstance(variable.fill, (int, float)) else "",
        "missing_value_meaning": variable.fill_meaning,
        "lineage": json.dumps(array.lineage),
    }
    if variable.flags is not None:
        found["label_values"] = np.array(list(variable.flags.values()))
        found["label_names"] = np.array(list(variable.flags), object)
    if array.affine is not None:
        found["affine_lps_mm"] = array.affine
    if array.times is not None:
        found[f"{array.image_axis}_times_ms"] = array.times
    for name, (_, values, _) in content.coordinates(array.path).items():
        found[name] = values if values.dtype.kind != "U" else values.astype(object)
    return found


MAT = Format(
    name="mat",
    suffix=".mat",
    each=Each.GROUP,
    content="any array of an exam, one file for each group: a structure of arrays, and "
    "`attributes` with units, label names, affine, echo times and lineage",
    loses="groups of more than 2 GiB do not fit (export netcdf); indices count from 0 in the "
    "affine, from 1 in MATLAB",
    readers="MATLAB, Octave, `scipy.io.loadmat`, R `R.matlab`",
    refuse=refuse_visits,
    writer=write_mat,
    pattern="{exam}/{exam}_{group}",
    memory_factor=4.0,
    together=True,
)
