"""A lake at one commit: its exams, groups, variables and columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Literal, Self

import icechunk
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.core.json_types import JsonObject
from qmri_lake.errors import LakeLockedError
from qmri_lake.schema.exam_index import KEYS
from qmri_lake.schema.groups import GROUPS
from qmri_lake.schema.variable import Variable
from qmri_lake.store.arrays import Node, open_root
from qmri_lake.store.chunk_errors import check_folder, named_chunk_errors
from qmri_lake.store.columns import Column, column_names, read_column, unknown_column
from qmri_lake.store.file_checksums import damaged_snapshot
from qmri_lake.store.lake_properties import check_format, read_properties, removal_count
from qmri_lake.store.lock import writer_lock
from qmri_lake.store.process import check_process
from qmri_lake.store.recovery import damaged_commit, unreadable_commit
from qmri_lake.store.repository import (
    open_repository,
    readonly_session,
    resolve,
    storage_format,
)
from qmri_lake.store.transaction import OWN_AXIS

__all__ = ["DEIDENTIFICATION", "Mode", "Snapshot", "open_snapshot"]

DEIDENTIFICATION = "deidentification"
"""Attribute of the root group with the record of the pseudonymisation."""

Mode = Literal["r", "r+"]

_FEW = 64
"""Maximum number of exams whose keys are read singly. For more exams, whole columns are read and
cached."""


class Snapshot:
    """A lake at one commit: by default, the newest commit at the last opening or refresh."""

    def __init__(self, url: str, repo: icechunk.Repository, ref: str | None, mode: Mode) -> None:
        self.url, self.repo, self.ref, self.mode = url, repo, ref, mode
        self.location = resolve(url)
        """Absolute location of `url` when the lake was opened."""
        self.refresh()

    def refresh(self) -> Self:
        """Move to the newest commit of the branch that was opened. A tag or snapshot is fixed."""
        self._check()
        session = readonly_session(self.repo, self.ref, self.url)
        self.snapshot: str = session.snapshot_id
        self.store = session.store
        for cached in ("_root", "exams", "patients", "_column_cache", "_last_keys"):
            self.__dict__.pop(cached, None)
        return self

    def reopened(self) -> icechunk.Repository:
        """Open the repository again, to read commits.

        Icechunk caches commits, and a pruning changes the parents of those that it keeps.
        """
        return open_repository(self.location)

    def _check(self) -> None:
        """Raise an error if this process was forked, or if the folder was moved."""
        check_process(self.url)
        check_folder(self.location)

    @property
    def root(self) -> Node:
        """The root group, read-only."""
        self._check()
        return self._root

    @cached_property
    def _root(self) -> Node:
        if (fault := damaged_snapshot(self.location, self.snapshot)) is not None:
            raise damaged_commit(self.repo, self.snapshot, self.url, fault)
        try:
            root: Node | None = open_root(self.store)
        except (FileNotFoundError, icechunk.IcechunkError) as error:
            damaged = unreadable_commit(self.repo, self.snapshot, self.url, error)
            if damaged is not None:
                raise damaged from None
            if not isinstance(error, FileNotFoundError):
                raise
            root = None
        return check_format(root, self.url)

    @cached_property
    def exams(self) -> pd.DataFrame:
        """Keys of all exams, in the lake's order. Columns: exam, patient, timepoint, knee."""
        root = self.root
        with named_chunk_errors("the keys", lambda: "all exams", self.url):
            return pd.DataFrame({name: root[name][:] for name in ("exam", *KEYS)})

    @cached_property
    def patients(self) -> NDArray[np.int64]:
        """Patient number of each exam. `exams` would also read the other keys."""
        read = "exams" in self.__dict__
        return self.exams["patient"].to_numpy() if read else np.asarray(self.root["patient"][:])

    def all_patients(self) -> set[int]:
        """Return the patient numbers of all exams and visits."""
        found = set(self.patients.tolist())
        for group in OWN_AXIS:
            if f"{group}/patient" in self.root:
                found |= set(self.root[f"{group}/patient"][...].tolist())
        return found

    def keys_at(self, rows: NDArray[np.intp]) -> pd.DataFrame:
        """Return the keys of the exams at `rows`. For a few exams, only their keys are read."""
        if len(rows) > _FEW or "exams" in self.__dict__:
            return self.exams.iloc[rows]
        # Those of the last call: a selection by keys and its loading need the same.
        last: pd.DataFrame | None = self.__dict__.get("_last_keys")
        if last is None or not np.array_equal(last.index, rows):
            columns = {name: self._at(name, rows) for name in ("exam", *KEYS)}
            last = self.__dict__["_last_keys"] = pd.DataFrame(columns, index=rows)
        return last

    def _at(self, name: str, rows: NDArray[np.intp]) -> Values:
        return self.root[name].oindex[rows] if rows.size else self.root[name][:0]

    @property
    def profile(self) -> str | None:
        """The profile that set the array sizes, if any."""
        return str(read_properties(self.root)["profile"]) or None

    @property
    def removals(self) -> int:
        """Number of removals of patients. Each removal changes positions of exams."""
        return removal_count(self.root)

    @property
    def storage_format(self) -> int:
        """Icechunk's storage format of the lake: 1, or 2 since Icechunk 2."""
        return storage_format(self.repo)

    @property
    def deidentification(self) -> JsonObject | None:
        """Record of the pseudonymisation; None if the lake was not pseudonymised."""
        record: JsonObject | None = self.root.attrs.get(DEIDENTIFICATION)
        return record

    def groups(self) -> list[str]:
        """Return the names of the groups in the lake, in the order of `qmri_lake.schema.groups`."""
        found = [name for name in self.root.group_keys() if name != "status"]
        return sorted(found, key=GROUPS.position)

    def variables(self) -> dict[str, Variable]:
        """Return the stored declarations of all arrays, by ``group/name``."""
        return {
            f"{group}/{name}": Variable.from_array(group, name, array)
            for group in self.groups()
            for name, array in self.root[group].arrays()
            if array.metadata.dimension_names[0] in ("exam", "visit")  # others are coordinates
        }

    def column_names(self) -> list[str]:
        """Return the names of the columns that a query may use."""
        return column_names(self.root)

    def columns(self, names: Sequence[str]) -> dict[str, Column]:
        """Read columns by name, with nullable types; flag values are replaced by their names."""
        known = self.column_names()
        for name in names:
            if name not in known:
                raise unknown_column(name, dict.fromkeys(known))
            if name not in self._column_cache:
                self._column_cache[name] = read_column(self.root, self.exams, name)
        return {name: self._column_cache[name] for name in names}

    @cached_property
    def _column_cache(self) -> dict[str, Column]:
        return {}

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the writer's lock inside the ``with`` block, and start from the newest commit."""
        self._refuse_if_read_only()
        with writer_lock(self.location, self.url):
            self.refresh()
            yield

    def _refuse_if_read_only(self) -> None:
        if self.mode == "r":
            raise LakeLockedError(
                "the lake is open for reading only" + (f", at {self.ref!r}" if self.ref else ""),
                expected='mode="r+" and no ref',
                where=self.url,
                todo=f"Use ql.open_lake({self.url!r}).",
            )

    def __len__(self) -> int:
        return int(self.root["exam"].shape[0])


def open_snapshot(url: str, ref: str) -> Snapshot:
    """Open a lake for reading at a tag, a branch or a snapshot id."""
    return Snapshot(url, open_repository(url), ref, "r")
