"""Rules of a derivation that copies the content of a lake unchanged.

The subclass `qmri_lake.lake.deidentification.Deidentification` contains the rules of a derivation
that omits identifiers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.core.json_types import JsonMapping, JsonObject
from qmri_lake.core.text import counted
from qmri_lake.lake.cohort import Cohort
from qmri_lake.schema.variable import Variable
from qmri_lake.store.arrays import Node
from qmri_lake.store.snapshot import Snapshot

__all__ = ["CopyRules"]


class CopyRules:
    """Copy all content of the source unchanged."""

    record: JsonObject | None = None
    """Record of the pseudonymisation, which the derived lake stores; None without
    pseudonymisation."""

    def order(self, cohort: Cohort) -> Cohort:
        """Return the cohort in the order of the derived lake."""
        return cohort

    def visits(self, keys: pd.DataFrame, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the rows of visits in the order of the derived lake."""
        return rows

    def keys(self, exams: pd.DataFrame) -> pd.DataFrame:
        """Return exam, patient, timepoint and knee as the derived lake stores them."""
        return exams

    def arrays(self, copied: Mapping[str, Variable], names: Sequence[str]) -> dict[str, Variable]:
        """Return the arrays to copy among those of the products `names`."""
        return dict(copied)

    def step(self, name: str) -> str:
        """Return the name of a step in the derived lake."""
        return name

    def group_attributes(self, group: str, attributes: JsonMapping) -> JsonObject:
        """Return the attributes of a group."""
        return dict(attributes)

    def attributes(self, variable: Variable, name: str, attributes: JsonMapping) -> JsonObject:
        """Return the attributes of the array `name` of a variable."""
        return dict(attributes)

    def has_coordinate(self, group: str, array: Node, name: str) -> bool:
        """Return whether labels of a dimension are copied."""
        return True

    def coordinate_attributes(self, group: str, name: str, attributes: JsonMapping) -> JsonObject:
        """Return the attributes of the labels of a dimension."""
        return dict(attributes)

    def values(self, variable: Variable, values: Values, patients: Values) -> Values:
        """Return the small values of an array, whose rows belong to `patients`."""
        return values

    def messages(self, messages: Values) -> Values:
        """Return the messages of a status."""
        return messages

    def run(self, record: JsonMapping) -> JsonObject:
        """Return the record of a run."""
        return dict(record)

    def lineage(self, record: JsonObject) -> JsonObject:
        """Return the record of the origin."""
        return record

    def profile(self, name: str) -> str:
        """Return the name of the profile."""
        return name

    def begin_message(self, cohort: Cohort, lake: Snapshot, name: str) -> str:
        """Return the message of the first commit; `name` is the name of the source."""
        return f"Derive {counted(len(cohort), 'exam')} from {name} at {lake.snapshot[:8]}"
