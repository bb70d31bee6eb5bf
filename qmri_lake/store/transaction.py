"""Changes that a commit applies to a lake: new exams, new arrays, small values and states.

Tasks write bulk arrays into forks of a session, one exam per task. The committer writes all small
values, because a chunk contains the small values of many exams and tasks would overwrite each
other's values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import icechunk
import numpy as np
import pandas as pd

from qmri_lake.core.array_api import Values
from qmri_lake.core.json_types import JsonObject
from qmri_lake.errors import NotFoundError, RunError, printable
from qmri_lake.schema.exam_index import KEYS, exam_key
from qmri_lake.schema.groups import GROUPS
from qmri_lake.schema.privacy import Privacy
from qmri_lake.schema.variable import EXAM_CHUNK, Variable, with_variant
from qmri_lake.store.arrays import Node, create_array, create_coordinate, create_root, open_root
from qmri_lake.store.columns import Column
from qmri_lake.store.lake_properties import FORMAT, PROPERTIES, removal_count
from qmri_lake.store.runs import write_run
from qmri_lake.store.status import (
    INPUT_RUNS,
    STATE,
    UNKNOWN_RUN,
    declare_input_runs,
    declare_status,
    read_status,
)

__all__ = [
    "Transaction",
    "append_exams",
    "arrays_on_exam",
    "declare",
    "fill_shape",
    "merge_forks",
    "set_rows",
    "write_table",
]

OWN_AXIS = tuple(group.name for group in GROUPS if group.axis != "exam")
"""Groups whose first axis is not the exam axis."""


KEY_VARIABLES = (
    Variable(
        "",
        "exam",
        (),
        "string",
        "Exam key: {patient:07d}-{months:03d}m-{knee}",
        fill_meaning="",
        privacy=Privacy.EXAM,
    ),
    Variable(
        "", "patient", (), "int64", "Patient number", fill_meaning="", privacy=Privacy.PATIENT
    ),
    Variable(
        "",
        "timepoint",
        (),
        "int16",
        "Months after enrolment, nominal",
        fill_meaning="",
        privacy=Privacy.INTERVAL,
    ),
    Variable(
        "",
        "knee",
        (),
        "string",
        "Side of the knee: left or right",
        fill_meaning="",
        privacy=Privacy.WORD,
    ),
)
"""Declarations of the exam key and its parts, which the root group contains."""


def initialise(session: icechunk.Session, version: str, profile: str | None) -> None:
    """Write the root group of a new lake: format, and an `exam` axis of length 0."""
    root = create_root(
        session.store,
        attributes={
            # Plain xarray then treats these as coordinates of every group.
            "coordinates": " ".join(KEYS),
            PROPERTIES: {"format": FORMAT, "version": version, "profile": profile or ""},
        },
    )
    for variable in KEY_VARIABLES:
        create_array(root, variable, variable.name, 0, {})


def exam_count(root: Node) -> int:
    """Return the length of the exam axis."""
    return root["exam"].shape[0]


def arrays_on_exam(group: Node) -> Iterator[Node]:
    """Yield all arrays whose first dimension is the exam axis."""
    for _, array in group.arrays():
        if array.metadata.dimension_names[0] == "exam":
            yield array
    for name, child in group.groups():
        if name not in OWN_AXIS:
            yield from arrays_on_exam(child)


def append_exams(session: icechunk.Session, exams: pd.DataFrame) -> None:
    """Append the exams (columns patient, timepoint, knee) that the lake does not have yet.

    All arrays on the exam axis become longer, and nothing is reordered. Apart from the new keys,
    only metadata changes.
    """
    root = open_root(session.store, "r+")
    keys = [exam_key(*row) for row in exams[list(KEYS)].itertuples(index=False)]
    known = set(root["exam"][:].tolist())
    new = exams.assign(exam=keys).drop_duplicates("exam")
    new = new[~new["exam"].isin(known)]
    if new.empty:
        return
    start, stop = len(known), len(known) + len(new)
    for array in arrays_on_exam(root):
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
    """Create the missing arrays of `variables`, which all belong to one group.

    `sizes` sets the sizes of the dimensions of a new group; those of an existing group are kept.
    The declaration of an existing array is extended by values that a later version has added.
    """
    group = root.require_group(variables[0].group)
    if sizes and "sizes" not in group.attrs:
        group.attrs["sizes"] = dict(sizes)
    fixed = dict(group.attrs.get("sizes", {}))
    for variable in variables:
        name = with_variant(variable.name, variant)
        if name not in group:
            length = _own_length(group) if variable.group in OWN_AXIS else exam_count(root)
            create_array(group, variable, name, length, fixed)
        else:
            _extend_declaration(group[name], variable)
        for coordinate in variable.coordinates:
            if coordinate.name not in group:
                create_coordinate(group, coordinate)


def _extend_declaration(array: Node, variable: Variable) -> None:
    """Store the names of values, or the wider range, that a later version has declared.

    Otherwise the results of a later run would be invalid in this lake. No name is removed or gets
    another value, and the range does not become narrower.
    """
    new, old = variable.attributes(), dict(array.attrs)
    changed: JsonObject = {}
    if variable.flags is not None and "flag_values" in old:
        stored = dict(zip(old["flag_meanings"].split(), old["flag_values"], strict=True))
        if stored != variable.flags and stored.items() <= variable.flags.items():
            changed |= {name: new[name] for name in ("flag_values", "flag_meanings")}
    if variable.valid_range is not None and "valid_min" in old:
        low, high = variable.valid_range
        if (
            low <= old["valid_min"]
            and old["valid_max"] <= high
            and (low < old["valid_min"] or old["valid_max"] < high)
        ):
            changed |= {name: new[name] for name in ("valid_min", "valid_max")}
    if changed:
        array.attrs.update(changed | {"long_name": new["long_name"]})


def _own_length(group: Node) -> int:
    """Return the length of the own axis of a group, 0 if it has no array."""
    return next((array.shape[0] for _, array in group.arrays()), 0)


def group_sizes(root: Node, group: str) -> dict[str, int]:
    """Return the fixed sizes of a group's dimensions; empty if the group does not exist."""
    return dict(root[group].attrs.get("sizes", {})) if group in root else {}


def write_table(root: Node, group: str, table: pd.DataFrame) -> None:
    """Replace the content of a group with its own axis (``visit``) by the rows of `table`.

    Arrays of the group that `table` does not contain, such as columns that a user added, are
    aligned by key: rows move with their keys, and new rows get the fill value.
    """
    stored = _key_index(pd.DataFrame({name: root[f"{group}/{name}"][:] for name in KEYS}))
    first = np.flatnonzero(~stored.duplicated())
    found = stored[first].get_indexer(_key_index(table))
    known = found >= 0
    for name, array in root[group].arrays():
        old = array[:]
        array.resize((len(table),))
        if name in table:
            array[:] = _stored(table[name], array)
        else:
            kept = np.full(len(table), array.fill_value, old.dtype)
            kept[known] = old[first[found[known]]]
            array[:] = kept


def _key_index(table: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(
        table[list(KEYS)].astype({"patient": "int64", "timepoint": "int64", "knee": str})
    )


def _stored(column: Column, array: Node) -> Values:
    """Convert a column to the type of an array; missing values become the array's fill value."""
    if array.dtype.kind == "T":
        return np.asarray(column.fillna("").astype(str), dtype=object)
    return np.asarray(column.astype("Float64").fillna(array.fill_value).astype(array.dtype))


@dataclass
class Transaction:
    """The changes of one commit. If another writer commits first, they are applied again.

    Rows are positions on the exam axis. The position of an exam changes only when a patient is
    removed; see `removals`.
    """

    forks: list[icechunk.ForkSession] = field(default_factory=list)
    small: dict[str, dict[int, object]] = field(default_factory=dict)
    """Values of small arrays, by path of the array, then by row."""
    erased: dict[tuple[str, str], set[int]] = field(default_factory=dict)
    """Rows to reset to the fill value if the exam has a result, by step and path of the array."""
    states: dict[str, dict[int, tuple[str, int, str]]] = field(default_factory=dict)
    """(state, run, message) by step, then by row."""
    inputs: dict[str, dict[int, Mapping[str, int]]] = field(default_factory=dict)
    """Runs whose results were read, by step, then by row, then by the step that wrote the input."""
    runs: dict[int, Mapping[str, object]] = field(default_factory=dict)
    """Records of runs, by number."""
    removals: int | None = None
    """Number of removals of patients when the rows were determined; None: in the same session."""
    rewritten: bool = False
    """Whether other writers had added exams when the changes were applied; see `merge_forks`."""

    def set_state(
        self,
        step: str,
        row: int,
        state: str,
        run: int,
        message: str = "",
        inputs: Mapping[str, int] | None = None,
    ) -> None:
        """Set the state of an exam in a step, and the runs whose results were read, by step."""
        self.states.setdefault(step, {})[row] = (state, run, printable(message))
        self.inputs.setdefault(step, {})[row] = inputs or {}

    def set_small(self, path: str, row: int, value: object) -> None:
        """Set the value of a small array for one exam."""
        self.small.setdefault(path, {})[row] = value

    def erase(self, step: str, path: str, row: int) -> None:
        """Reset the value of an exam, such as a map or a small value, to the fill value.

        Nothing is reset if the exam has no result of the step when the changes are applied.
        """
        self.erased.setdefault((step, path), set()).add(row)

    def set_column(self, path: str, rows: Sequence[int], values: Values) -> None:
        """Set the values of a small array for many exams."""
        self.small.setdefault(path, {}).update(zip(rows, values, strict=True))

    def __len__(self) -> int:
        return len({row for rows in self.states.values() for row in rows})

    def __call__(self, session: icechunk.Session) -> None:
        """Apply the changes to a session.

        Raises
        ------
        RunError
            If another writer has removed a patient since the rows were determined.
        """
        if self.removals is not None:
            _check_rows(open_root(session.store), self.removals)
        self.rewritten = bool(self.forks) and not merge_forks(session, self.forks)
        root = open_root(session.store, "r+")
        for path, values in self.small.items():
            if path not in root:
                raise NotFoundError(f"no array {path}", expected="a declared array")
            set_rows(root[path], values)
        self._erase(root)
        for step, marks in self.states.items():
            group = declare_status(root, step, exam_count(root))
            set_rows(group["state"], {row: STATE[mark[0]] for row, mark in marks.items()})
            set_rows(group["run"], {row: mark[1] for row, mark in marks.items()})
            set_rows(group["message"], {row: mark[2] for row, mark in marks.items()})
            _set_input_runs(root, group, self.inputs[step])
        for number, record in self.runs.items():
            write_run(root, number, record)

    def _erase(self, root: Node) -> None:
        """Remove values of earlier results, also of a result that another writer has committed."""
        length = exam_count(root)
        has_result = {
            step: read_status(root, step, length).usable
            for step in {step for step, _ in self.erased}
        }
        for (step, path), rows in self.erased.items():
            if replaced := [row for row in rows if has_result[step][row]]:
                _erase_rows(root[path], replaced)


def _set_input_runs(root: Node, group: Node, inputs: Mapping[int, Mapping[str, int]]) -> None:
    """Store the runs whose results were read. Numbers of an earlier result are removed."""
    needed = {name for runs in inputs.values() for name in runs}
    if INPUT_RUNS in group:
        needed |= set(group[INPUT_RUNS].array_keys())
    for name in sorted(needed):
        array = declare_input_runs(group, name, exam_count(root))
        set_rows(array, {row: runs.get(name, UNKNOWN_RUN) for row, runs in inputs.items()})


def _check_rows(root: Node, removals: int) -> None:
    if removal_count(root) != removals:
        raise RunError(
            "another process has removed a patient from the lake",
            expected="the exams that the lake had at the start",
            todo="Start again: committed exams are kept.",
        )


def merge_forks(session: icechunk.Session, forks: Sequence[icechunk.ForkSession]) -> bool:
    """Apply the chunks of forks to a session; return whether Icechunk could merge them directly.

    Icechunk merges the chunks of a fork into the manifests that the arrays had when the fork was
    made. If another writer has made the arrays longer since then, the merge would lose the chunks
    of the exams that were added. In that case the chunks are read from the fork and written again.
    """
    length = exam_count(open_root(session.store))
    lengths = {
        fork.snapshot_id: exam_count(open_root(fork.store))
        for fork in {fork.snapshot_id: fork for fork in forks}.values()
    }
    old = [fork for fork in forks if lengths[fork.snapshot_id] != length]
    if current := [fork for fork in forks if lengths[fork.snapshot_id] == length]:
        session.merge(*current)
    if not old:
        return True
    root = open_root(session.store, "r+")
    for fork in old:
        source = open_root(fork.store)
        for path, chunks in fork.status().updated_chunks.items():
            array, target = source[path.strip("/")], root[path.strip("/")]
            for chunk in chunks:
                place = _place_of_chunk(array, chunk)
                target[place] = array[place]
    return False


def _place_of_chunk(array: Node, chunk: Sequence[int]) -> tuple[slice, ...]:
    """Return the elements of a stored chunk, or of a shard if the array has shards."""
    sizes = array.shards or array.chunks
    return tuple(slice(at * size, (at + 1) * size) for at, size in zip(chunk, sizes, strict=True))


def _erase_rows(array: Node, rows: Iterable[int]) -> None:
    """Reset rows to the fill value. Zarr removes chunks that contain only the fill value."""
    if array.chunks[0] == EXAM_CHUNK:
        empty = np.full(array.shape[1:], array.fill_value, dtype=array.dtype)
        set_rows(array, dict.fromkeys(rows, empty if empty.ndim else array.fill_value))
        return
    for row in rows:
        array[row] = array.fill_value


def set_rows(array: Node, values: Mapping[int, object]) -> None:
    """Write scattered rows; each chunk with such a row is read and written once."""
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


def fill_shape(values: Values, shape: Sequence[int], fill: object) -> Values:
    """Pad `values` at the end of each axis with `fill`, to the `shape` of a whole shard."""
    if values.shape == tuple(shape):
        return values
    full = np.full(shape, fill, dtype=values.dtype)
    full[tuple(slice(0, n) for n in values.shape)] = values
    return full
