"""Clinical rows of all visits, with or without an MRI."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from qmri_lake.errors import InputError
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.exam_index import KEYS
from qmri_lake.schema.variable import Variable
from qmri_lake.store.arrays import Node

__all__ = ["read_visits", "require_visits", "visit_columns"]


def require_visits(root: Node, where: str) -> None:
    """Raise an error if the lake has no group ``visit``."""
    if "visit/patient" not in root:
        raise InputError(
            "the lake has no visits",
            expected="a lake with the group visit",
            where=where,
            todo="Ingest the clinical tables.",
        )


def visit_columns(root: Node) -> dict[str, Variable]:
    """Return the declarations of the stored columns of visits except keys and texts, by name.

    The columns of the package come first, in their order, then those of users' tables.
    """
    if "visit" not in root:
        return {}
    declared = {v.name: v for v in REGISTRY.group("visit") if v.path in root}
    others = {
        name: Variable.from_array("visit", name, array)
        for name, array in sorted(root["visit"].arrays(), key=lambda item: item[0])
        if name not in declared
    }
    return {
        name: variable
        for name, variable in {**declared, **others}.items()
        if name not in KEYS and variable.dtype != "string"
    }


def read_visits(root: Node, names: Sequence[str]) -> pd.DataFrame:
    """Read the keys and the given columns of all visits. Without stored visits, return no rows.

    Returns
    -------
    DataFrame
        Columns patient, timepoint [months] and knee, and one float column for each name. Flags are
        numbers; missing values, and columns that are not stored, are NaN.
    """
    stored = visit_columns(root) if names else {}
    columns = {
        name: root[f"visit/{name}"][:] if f"visit/{name}" in root else np.empty(0) for name in KEYS
    }
    for name in names:
        if name not in stored:
            columns[name] = np.full(len(columns["patient"]), np.nan)
            continue
        values = root[f"visit/{name}"][:]
        missing = values == stored[name].fill
        columns[name] = np.where(missing, np.nan, values.astype(np.float64))
    return _typed(pd.DataFrame(columns))


def _typed(visits: pd.DataFrame) -> pd.DataFrame:
    return visits.astype({"patient": "int64", "timepoint": "int64", "knee": str})
