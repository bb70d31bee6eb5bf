"""Columns of several tables, merged by key. Tables that contradict each other are reported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from qmri_lake.errors import Problem, Reason

__all__ = ["Columns"]


class Columns:
    """Columns by name. A key (a patient, or a reading) has at most one value in a column."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        """One problem for each column whose values differ between two tables."""
        self._columns: dict[str, pd.Series] = {}
        self._tables: dict[str, str] = {}
        self._refused: dict[str, pd.Index] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def add(self, name: str, values: pd.Series, table: str) -> None:
        """Add the values of a table, with a unique index of keys; missing values are ignored.

        If another table gives a different value for a key, neither value is used.
        """
        new = values.dropna()
        if name not in self._columns:
            self._columns[name], self._tables[name] = new, table
            return
        old = self._columns[name]
        both = old.index.intersection(new.index)
        differ = both[(old[both] != new[both]).to_numpy(bool)]
        if len(differ):
            self.problems.append(
                Problem(
                    Reason.CONFLICTING_ROWS,
                    f"{table} column {name}",
                    f"{len(differ):,} values differ from those in {self._tables[name]}",
                    "tables that agree",
                    "Remove the wrong table. None of these values was used.",
                )
            )
        refused = self._refused.get(name, differ).union(differ)
        self._refused[name] = refused
        merged = pd.concat([old, new[~new.index.isin(both)]])
        self._columns[name] = merged[~merged.index.isin(refused)]

    def get(self, name: str) -> pd.Series:
        """Return the values of a column by key, without missing values; empty if unknown."""
        return self._columns.get(name, pd.Series(dtype=float))

    def refused(self, name: str) -> set[Any]:
        """Return the keys for which tables contradict each other."""
        return set(self._refused[name].tolist()) if name in self._refused else set()

    def by_key(self, name: str) -> dict[Any, Any]:
        """Return the values of a column by key, as plain Python values."""
        return dict(zip(self.get(name).index.tolist(), self.get(name).tolist(), strict=True))
