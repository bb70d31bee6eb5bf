"""Changes to a lake: new exams, new arrays, small values, states. All of them go through a commit.

Bulk arrays are written by tasks into forks of a session, one exam a task. Everything small comes
here, because arrays of which many exams share a chunk lose values when tasks write them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import icechunk
import numpy as np
import pandas as pd
import zarr

from qmri_lake.errors import NotALakeError, NotFoundError, Reason, printable
from qmri_lake.index import KEYS, exam_key
from qmri_lake.status import STATE, declare_status, write_run
from qmri_lake.storage import Node, create_array, create_coordinate, open_root
from qmri_lake.variables import EXAM_CHUNK, Variable, with_variant

__all__ = ["Change", "append_exams", "check_format", "declare", "fill_shape", "write_table"]

FORMAT = 1
"""Version of the layout in the store; raised when an older package could not read it."""

OWN_AXIS = ("visit",)
"""Groups that do not lie on the exam axis."""


def initialise(session: icechunk.Session, version: str, profile: str | None) -> None:
    """Write the root group of a new lake: format, and an `exam` axis of length 0."""
    root = zarr.create_group(
        session.store,
        attributes={
            # Stock xarray promotes these to coordinates of every group.
            "coordinates": " ".join(KEYS),
            "qmri_lake": {"format": FORMAT, "version": version, "profile": profile or ""},
        },
    )
    columns = {"exam": "string", "patient": "int64", "timepoint": "int16", "knee": "string"}
    prose = {
        "exam": "Exam key: {patient:07d}-{months:03d}m-{knee}",
        "patient": "Patient number",
        "timepoint": "Months after enrolment, nominal",
        "knee": "Side of the knee: left or right",
    }
    for name, dtype in columns.items():
        create_array(root, Variable("", name, (), dtype, prose[name], fill_meaning=""), name, 0, {})


def check_format(root: Node | None, url: str) -> Node:
    """Return the root group of a lake; refuse another repository, or a lake that is newer."""
    about = dict(root.attrs).get("qmri_lake") if root is not None else None
    if about is None:
        raise NotALakeError(
            "an Icechunk repository without the mark of a lake", expected="one made by qmri_lake",
            where=url, todo="Check the path. If making it was interrupted, remove the folder.",
            reason=Reason.NOT_A_LAKE,
        )  # fmt: skip
    if about["format"] > FORMAT:
        raise NotALakeError(
            f"format {about['format']}, written by qmri_lake {about['version']}",
            expected=f"at most {FORMAT}", where=url, todo="Update qmri_lake.",
            reason=Reason.NOT_A_LAKE,
        )  # fmt: skip
    return root


def exam_count(root: Node) -> int:
    """Length of the exam axis."""
    length: int = root["exam"].shape[0]
    return length


def _arrays_on_exam(group: Node) -> Iterable[Node]:
    for _, array in group.arrays():
        if array.metadata.dimension_names[0] == "exam":
            yield array
    for name, child in group.groups():
        if name not in OWN_AXIS:
            yield from _arrays_on_exam(child)


def append_exams(session: icechunk.Session, exams: pd.DataFrame) -> None:
    """Append exams (columns patient, timepoint, knee) that the lake lacks.

    Every array on the exam axis grows by metadata alone. Nothing is reordered.
    """
    root = open_root(session.store, "r+")
    keys = [exam_key(*row) for row in exams[list(KEYS)].itertuples(index=False)]
    known = set(root["exam"][:].tolist())
    new = exams.assign(exam=keys).drop_duplicates("exam")
    new = new[~new["exam"].isin(known)]
    if new.empty:
        return
    start, stop = len(known), len(known) + len(new)
    for array in _arrays_on_exam(root):
        array.resize((stop, *array.shape[1:]))
    for name in ("exam", *KEYS):
        values = new[name].to_numpy()
        root[name][start:stop] = values.astype(object) if values.dtype.kind in "OTU" else values


def declare(
    root: Node,
    variables: Sequence[Variable],
    sizes: Mapping[str, int] | None = None,
    variant: str = "",
) -> None:
    """Create the arrays of `variables` that the lake lacks, all of one group.

    `sizes` fixes the group's dimensions when the group is made; later ones are read from it.
    """
    group = root.require_group(variables[0].group)
    if sizes and "sizes" not in group.attrs:
        group.attrs["sizes"] = dict(sizes)
    fixed = dict(group.attrs.get("sizes", {}))
    for variable in variables:
        name = with_variant(variable.name, variant)
        if name not in group:
            length = 0 if variable.group in OWN_AXIS else exam_count(root)
            create_array(group, variable, name, length, fixed)
        for coordinate in variable.coordinates:
            if coordinate.name not in group:
                create_coordinate(group, coordinate)


def group_sizes(root: Node, group: str) -> dict[str, int]:
    """Return the fixed sizes of a group's dimensions; empty when it does not exist yet."""
    return dict(root[group].attrs.get("sizes", {})) if group in root else {}


def write_table(root: Node, group: str, table: pd.DataFrame) -> None:
    """Replace a group with its own axis (``visit``) by the rows of `table`."""
    for name, array in root[group].arrays():
        array.resize((len(table),))
        array[:] = _stored(table[name], array)


def _stored(column: pd.Series[Any], array: Node) -> np.ndarray[Any, Any]:
    """Replace missing values by the array's fill, in the array's own type."""
    if array.dtype.kind == "T":
        return np.asarray(column.fillna("").astype(str), dtype=object)
    return np.asarray(column.astype("Float64").fillna(array.fill_value).astype(array.dtype))


@dataclass
class Change:
    """All that one commit holds; applied again, as a whole, when another commit came first.

    Rows are positions on the exam axis, which never change.
    """

    forks: list[icechunk.ForkSession] = field(default_factory=list)
    small: dict[str, dict[int, Any]] = field(default_factory=dict)
    """Values by path of the array, then by row."""
    erased: dict[str, set[int]] = field(default_factory=dict)
    """Rows that get the fill value back, by path of the array."""
    states: dict[str, dict[int, tuple[str, int, str]]] = field(default_factory=dict)
    """(state, run, message) by step, then by row."""
    runs: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    """Records of runs, by number."""

    def set_state(self, step: str, row: int, state: str, run: int, message: str = "") -> None:
        """Mark an exam in a step."""
        self.states.setdefault(step, {})[row] = (state, run, printable(message))

    def set_small(self, path: str, row: int, value: Any) -> None:
        """Set the value of a small array for an exam."""
        self.small.setdefault(path, {})[row] = value

    def erase(self, path: str, row: int) -> None:
        """Take the value of an exam away: a map, or a small value."""
        self.erased.setdefault(path, set()).add(row)

    def set_column(self, path: str, rows: Sequence[int], values: np.ndarray[Any, Any]) -> None:
        """Set the values of a small array for many exams."""
        self.small.setdefault(path, {}).update(zip(rows, values, strict=True))

    def __len__(self) -> int:
        return len({row for rows in self.states.values() for row in rows})

    def __call__(self, session: icechunk.Session) -> None:
        """Apply to a session."""
        if self.forks:
            session.merge(*self.forks)
        root = open_root(session.store, "r+")
        for path, values in self.small.items():
            if path not in root:
                raise NotFoundError(f"no array {path}", expected="one that was declared")
            _set_rows(root[path], values)
        for path, gone in self.erased.items():
            _erase_rows(root[path], gone)
        for step, marks in self.states.items():
            group = declare_status(root, step, exam_count(root))
            _set_rows(group["state"], {row: STATE[mark[0]] for row, mark in marks.items()})
            _set_rows(group["run"], {row: mark[1] for row, mark in marks.items()})
            _set_rows(group["message"], {row: mark[2] for row, mark in marks.items()})
        for number, record in self.runs.items():
            write_run(root, number, record)


def _erase_rows(array: Node, rows: Iterable[int]) -> None:
    """Give rows their fill back; Zarr removes a chunk that is all fill."""
    if array.chunks[0] == EXAM_CHUNK:
        empty = np.full(array.shape[1:], array.fill_value, dtype=array.dtype)
        _set_rows(array, dict.fromkeys(rows, empty if empty.ndim else array.fill_value))
        return
    for row in rows:
        array[row] = array.fill_value


def _set_rows(array: Node, values: Mapping[int, Any]) -> None:
    """Write scattered rows, chunk by chunk: each touched chunk is read and written once."""
    rows = np.fromiter(values, dtype=np.int64, count=len(values))
    order = np.argsort(rows)
    rows = rows[order]
    listed = list(values.values())
    if array.dtype.kind == "T":
        data = np.array(listed, dtype=np.dtypes.StringDType())[order]
    else:
        data = np.asarray(listed, dtype=array.dtype)[order]
    for chunk in np.unique(rows // EXAM_CHUNK):
        inside = rows // EXAM_CHUNK == chunk
        start, stop = int(chunk) * EXAM_CHUNK, min((int(chunk) + 1) * EXAM_CHUNK, array.shape[0])
        block = array[start:stop]
        block[rows[inside] - start] = data[inside]
        array[start:stop] = block


def fill_shape(
    values: np.ndarray[Any, Any], shape: Sequence[int], fill: Any
) -> np.ndarray[Any, Any]:
    """Return `values` in the corner of a full array, so that a whole shard is written."""
    if values.shape == tuple(shape):
        return values
    full = np.full(shape, fill, dtype=values.dtype)
    full[tuple(slice(0, n) for n in values.shape)] = values
    return full
