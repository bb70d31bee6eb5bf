"""Columns of a lake that a cohort can be chosen by: the keys, and one clinical value an exam."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from qmri_lake.index import KEYS
from qmri_lake.storage import Node
from qmri_lake.variables import REGISTRY, Variable, decode_flags

__all__ = ["column_names", "read_column"]


def column_names(root: Node) -> list[str]:
    """Return the names of all columns, keys first, then in the order of their declaration."""
    clinical = root["clinical"].array_keys() if "clinical" in root else ()
    flat = [name for name in clinical if root[f"clinical/{name}"].ndim == 1]
    # The store lists arrays in no order.
    declared = [variable.name for variable in REGISTRY.group("clinical")]
    flat.sort(key=lambda n: (declared.index(n) if n in declared else len(declared), n))
    return ["exam", *KEYS, *flat]


def read_column(root: Node, exams: pd.DataFrame, name: str) -> pd.Series[Any]:
    """Read a column of all exams, with a nullable type; flags as words.

    The attribute ``words`` of a column of words is the closed list of those that can occur.
    """
    if name in exams:
        number = pd.api.types.is_numeric_dtype(exams[name])
        keys = exams[name].astype("Int64" if number else "string")
        if name == "knee":
            keys.attrs["words"] = ["left", "right"]
        return keys
    array = root[f"clinical/{name}"]
    variable = Variable.from_array("clinical", name, array)
    values = array[:]
    if variable.flags is not None:
        words = pd.Series(decode_flags(values, variable.flags), dtype="string")
        words.attrs["words"] = sorted(variable.flags)
        return words
    if values.dtype.kind == "T":
        return pd.Series(values.astype(object), dtype="string").replace("", pd.NA)
    if values.dtype == np.float32:
        # By the shortest decimal: bmi == 27.4 finds what was written as 27.4.
        values = values.astype(str).astype(np.float64)
    column = pd.Series(values)
    if values.dtype.kind in "iu":
        column = column.mask(column == variable.fill)
    return column.astype("Float64")
