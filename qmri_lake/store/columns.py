"""Columns that queries use to select exams: the keys and the clinical values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from qmri_lake.core.text import did_you_mean
from qmri_lake.errors import QueryError
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.exam_index import KEYS
from qmri_lake.schema.variable import Variable, decode_flags
from qmri_lake.store.arrays import Node

__all__ = ["Column", "column_names", "read_column", "unknown_column"]


Column: TypeAlias = "pd.Series[Any]"
"""One value per exam."""


def column_names(root: Node) -> list[str]:
    """Return the names of all columns: the keys, then the others in the order of declaration."""
    clinical = root["clinical"].array_keys() if "clinical" in root else ()
    flat = [name for name in clinical if root[f"clinical/{name}"].ndim == 1]
    # The store lists arrays in arbitrary order.
    declared = [variable.name for variable in REGISTRY.group("clinical")]
    flat.sort(key=lambda n: (declared.index(n) if n in declared else len(declared), n))
    return ["exam", *KEYS, *flat]


def read_column(root: Node, exams: pd.DataFrame, name: str) -> Column:
    """Read a column of all exams with a nullable type; flag values are replaced by their names.

    If a column contains names, its attribute ``words`` lists all names that can occur.
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
        # Conversion via the shortest decimal, so that bmi == 27.4 matches the float32 value 27.4.
        values = values.astype(str).astype(np.float64)
    column = pd.Series(values)
    if values.dtype.kind in "iu":
        column = column.mask(column == variable.fill)
    return column.astype("Float64")


def unknown_column(name: str, known: Mapping[str, object]) -> QueryError:
    """Return the error for an unknown column; it suggests the most similar names."""
    return QueryError(
        f"no column {name!r}",
        expected=f"one of {', '.join(known)}",
        where="query",
        todo=did_you_mean(name, known) or f"A string needs quotes: '{name}'.",
    )
