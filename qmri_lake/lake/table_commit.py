"""The commit that writes the columns of a user's own table into a lake."""

from __future__ import annotations

import re
from dataclasses import dataclass

import icechunk
import numpy as np
import pandas as pd

from qmri_lake.errors import InputError, Reason
from qmri_lake.lake.table_content import TableContent, TableOptions, TableSource
from qmri_lake.lake.table_join import Join, join_rows
from qmri_lake.lake.visits import read_visits
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.exam_index import KEYS
from qmri_lake.schema.privacy import OWN_TABLE
from qmri_lake.store.arrays import Node, open_root
from qmri_lake.store.runs import canonical, new_run, read_runs
from qmri_lake.store.transaction import Transaction, declare, write_table

__all__ = ["TableCommit"]

_GROUPS = ("visit", "clinical")


@dataclass(frozen=True, eq=False)
class TableCommit:
    """The commit that writes a table. It can be repeated on top of another commit."""

    read: TableContent
    options: TableOptions
    source: TableSource

    @property
    def names(self) -> set[str]:
        """Names of the columns to store."""
        return {column.name for column in self.read.columns}

    def join(self, root: Node) -> Join:
        """Join the rows with the exams and visits of a lake."""
        exams = pd.DataFrame({name: root[name][:] for name in KEYS})
        return join_rows(self.read.rows, exams, read_visits(root, ()), self.source.name)

    def parameters(self) -> dict[str, object]:
        """Return the parameters that the run records."""
        columns = self.read.columns
        return {
            "source": self.source.name,
            "sha256": self.source.digest,
            **self.options.keys,
            "columns": {column.name: column.source for column in columns},
            "units": {column.name: column.unit for column in columns if column.unit},
            "text": sorted(self.options.text),
            "missing": sorted(self.options.missing),
        }

    def check_existing(self, root: Node) -> None:
        """Raise an error if the lake has a column that must not be replaced."""
        steps = _steps_of_columns(root)
        own = {v.name for group in _GROUPS for v in REGISTRY.group(group)}
        exists = sorted(self.names & (own | set(steps)))
        tables = [name for name in exists if steps.get(name, "").startswith(OWN_TABLE)]
        if not exists or (len(tables) == len(exists) and self.may_replace(root)):
            return
        others = [name for name in exists if name not in tables]
        raise InputError(
            f"the lake has {', '.join(others or tables)}"
            + (", from another source than a table" if others else ", from an earlier table"),
            expected="new names",
            where=self.source.name,
            todo="Store the columns under other names: --prefix own_."
            if others
            else "Replace the earlier columns: --replace. Or store the columns under other names: "
            "--prefix own_.",
            reason=Reason.EXISTING_COLUMN,
        )

    def may_replace(self, root: Node) -> bool:
        """Return whether to replace columns: if requested, or if they are of the same table."""
        if self.options.replace:
            return True
        return self._is_same_table(root)

    def _is_same_table(self, root: Node) -> bool:
        """Return whether the lake has these columns from this table, read in the same way."""
        steps = {step for name, step in _steps_of_columns(root).items() if name in self.names}
        latest = {str(r["step"]): r["parameters"] for _, r in sorted(read_runs(root).items())}
        wanted = canonical(self.parameters())
        return len(steps) == 1 and canonical(latest.get(steps.pop(), {})) == wanted

    def step(self, root: Node) -> str:
        """Return the name of the table's step: the file name, numbered if another table has it."""
        stem = self.source.name.partition(".")[0]
        plain = OWN_TABLE + (re.sub(r"[^0-9A-Za-z]+", "_", stem).strip("_").lower() or "table")
        taken = {step for name, step in _steps_of_columns(root).items() if name not in self.names}
        name, number = plain, 2
        while name in taken:
            name, number = f"{plain}_{number}", number + 1
        return name

    def differs(self, root: Node) -> bool:
        """Return whether the columns or values of the table differ from those in the lake."""
        if not self._is_same_table(root):
            return True
        join = self.join(root)
        keys = read_visits(root, ())
        if len(join.visit_keys) != len(keys):
            return True
        for column in self.read.columns:
            for group, positions in (("visit", join.visits), ("clinical", join.exams)):
                path = f"{group}/{column.name}"
                if path not in root:
                    return True
                stored, wanted = root[path][:], join.values(column, positions)
                floats = wanted.dtype.kind == "f" and stored.dtype.kind == "f"
                if not np.array_equal(stored, wanted, equal_nan=floats):
                    return True
        return False

    def __call__(self, session: icechunk.Session) -> None:
        """Apply the commit to a session."""
        root = open_root(session.store, "r+")
        self.check_existing(root)
        join, step = self.join(root), self.step(root)
        run, record = new_run(root, step, session.snapshot_id)
        self._remove(root, step)
        variables = [
            column.variable("visit", self.source.name, step) for column in self.read.columns
        ]
        declare(root, [*(REGISTRY[f"visit/{name}"] for name in KEYS), *variables])
        values = {column.name: join.values(column, join.visits) for column in self.read.columns}
        write_table(root, "visit", join.visit_keys.assign(**values))
        change = Transaction()
        for column in self.read.columns:
            variable = column.variable("clinical", self.source.name, step)
            declare(root, [variable])
            root[variable.path][:] = join.values(column, join.exams)
        for row in np.flatnonzero(join.exams >= 0).tolist():
            change.set_state(step, row, "done", run)
        for row in np.flatnonzero(join.ambiguous).tolist():
            change.set_state(step, row, "failed", run, "several rows with different values")
        counts = {"done": int((join.exams >= 0).sum()), "failed": int(join.ambiguous.sum())}
        change.runs[run] = {**record, "parameters": self.parameters(), "counts": counts}
        change(session)

    def _remove(self, root: Node, step: str) -> None:
        """Remove the columns that are replaced, and the status of tables without other columns."""
        before = _steps_of_columns(root)
        for name in self.names & set(before):
            for group in _GROUPS:
                if f"{group}/{name}" in root:
                    del root[group][name]
        left = set(_steps_of_columns(root).values())
        for old in {*before.values(), step} - left:
            if f"status/{old}" in root and old.startswith(OWN_TABLE):
                del root["status"][old]


def _steps_of_columns(root: Node) -> dict[str, str]:
    """Return the step that wrote each column of the groups `clinical` and `visit`."""
    return {
        name: str(array.attrs.get("step", ""))
        for group in _GROUPS
        if group in root
        for name, array in root[group].arrays()
    }
