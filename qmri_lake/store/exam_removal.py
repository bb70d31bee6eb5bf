"""Removal of a patient from the newest commit: exams, visits, and mentions in texts.

The last exams of the lake move to the rows of the removed ones. Therefore only as many exams are
copied as are removed, and every other exam keeps its row. The order of exams has no other meaning.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import icechunk
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from qmri_lake.core.patient_traces import PatientTraces
from qmri_lake.errors import RunError
from qmri_lake.store.arrays import Node, open_root
from qmri_lake.store.lake_properties import read_properties, update_properties
from qmri_lake.store.transaction import OWN_AXIS, arrays_on_exam, exam_count, set_rows

__all__ = ["Presence", "find_patient", "remove_patient", "stored_size"]


@dataclass(frozen=True, slots=True)
class Presence:
    """Where a commit names a patient."""

    rows: NDArray[np.intp]
    """Rows of the exams."""
    visits: int
    """Number of rows in groups with their own axis."""
    mentions: int
    """Number of texts and attributes that name the patient, except those of the exams' rows."""
    names: tuple[str, ...]
    """Paths of groups and arrays whose name contains the number."""

    def __bool__(self) -> bool:
        return bool(self.rows.size or self.visits or self.mentions or self.names)


def find_patient(root: Node, traces: PatientTraces) -> Presence:
    """Find everything in a commit that names a patient."""
    rows = np.flatnonzero(root["patient"][:] == traces.patient)
    visits = sum(
        int((root[f"{group}/patient"][:] == traces.patient).sum())
        for group in OWN_AXIS
        if f"{group}/patient" in root
    )
    mentions, names = 0, []
    for path, node, is_array in _nodes(root):
        if traces.in_text(path):
            names.append(path)
        mentions += traces.in_value(dict(node.attrs))
        if is_array and node.dtype.kind == "T":
            named = _named(node[...], traces)
            if node.metadata.dimension_names[0] == "exam":
                named[rows] = False
            mentions += int(named.sum())
    return Presence(rows, visits, mentions, tuple(names))


def stored_size(root: Node, rows: NDArray[np.intp]) -> int:
    """Return the number of stored bytes of the volumes and maps of some exams."""
    sizes = [
        _size(array, key)
        for array in arrays_on_exam(root)
        if _one_exam_in_a_chunk(array)
        for row in rows
        for key in _chunk_keys(array, int(row))
    ]
    return sum(sizes)


def remove_patient(session: icechunk.Session, traces: PatientTraces) -> None:
    """Remove a patient from the newest commit; the change can be applied again on another commit.

    Raises
    ------
    RunError
        If the name of a group or array contains the number of the patient.
    """
    root = open_root(session.store, "r+")
    present = find_patient(root, traces)
    if present.names:
        raise RunError(
            f"the name {present.names[0]} contains the number of the patient",
            expected="names of groups and arrays without patient numbers",
            todo="Remove this table or variant, then repeat.",
        )
    _remove_exams(root, present.rows)
    for group in OWN_AXIS:
        if f"{group}/patient" in root:
            _remove_own_rows(root[group], root[f"{group}/patient"][:] != traces.patient)
    for _, node, is_array in _nodes(root):
        _clean_attributes(node, traces)
        if is_array and node.dtype.kind == "T":
            _clean_texts(node, traces)
    removals = read_properties(root).get("removals", [])
    entry = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "exams": len(present.rows),
    }
    update_properties(root, removals=[*removals, entry])


def _remove_exams(root: Node, rows: NDArray[np.intp]) -> None:
    """Remove rows of the exam axis; the last exams that stay move to the free rows."""
    if not rows.size:
        return
    before = exam_count(root)
    after = before - len(rows)
    free = rows[rows < after]
    moved = np.setdiff1d(np.arange(after, before), rows)
    for array in arrays_on_exam(root):
        if _one_exam_in_a_chunk(array):
            for old, new in zip(moved.tolist(), free.tolist(), strict=True):
                _copy_chunks(array, old, new)
        else:
            # A chunk contains values beyond the end of the axis too. They are overwritten.
            empty = np.full(array.shape[1:], array.fill_value, dtype=array.dtype)
            values: dict[int, object] = dict.fromkeys(
                range(after, before), empty if empty.ndim else array.fill_value
            )
            if free.size:
                values |= dict(zip(free.tolist(), array.oindex[moved], strict=True))
            set_rows(array, values)
        array.resize((after, *array.shape[1:]))


def _remove_own_rows(group: Node, keep: NDArray[np.bool_]) -> None:
    """Remove rows of a group with its own axis; the others keep their order."""
    if keep.all():
        return
    for _, array in group.arrays():
        if array.shape[:1] != keep.shape:
            continue  # a coordinate of another dimension
        old = array[...]
        values = np.full(old.shape, array.fill_value, dtype=old.dtype)
        values[: int(keep.sum())] = old[keep]
        array[...] = values
        array.resize((int(keep.sum()), *array.shape[1:]))


def _clean_attributes(node: Node, traces: PatientTraces) -> None:
    attributes = dict(node.attrs)
    for name, value in attributes.items():
        if traces.in_text(name):
            del node.attrs[name]
        if traces.in_value({name: value}):
            node.attrs[traces.without(name)] = traces.without(value)


def _clean_texts(array: Node, traces: PatientTraces) -> None:
    values = array[...]
    named = _named(values, traces)
    if not named.any():
        return
    for place in zip(*np.nonzero(named), strict=True):
        values[place] = _without(str(values[place]), traces)
    array[...] = values


def _without(text: str, traces: PatientTraces) -> str:
    """Remove mentions from a text, or from the values of a JSON object such as a run's record."""
    try:
        record = json.loads(text)
    except ValueError:
        return cast(str, traces.without(text))
    return json.dumps(traces.without(record)) if isinstance(record, dict) else traces.without(text)


def _named(values: Any, traces: PatientTraces) -> NDArray[np.bool_]:
    flat = [traces.in_text(text) for text in np.asarray(values, dtype=object).ravel().tolist()]
    return np.array(flat, dtype=bool).reshape(values.shape)


def _nodes(group: Node, path: str = "") -> Iterator[tuple[str, Node, bool]]:
    """Yield the path of each group and array, the node, and whether it is an array."""
    yield path, group, False
    for name, array in group.arrays():
        yield f"{path}/{name}".lstrip("/"), array, True
    for name, child in group.groups():
        yield from _nodes(child, f"{path}/{name}".lstrip("/"))


def _one_exam_in_a_chunk(array: Node) -> bool:
    return (array.shards or array.chunks)[0] == 1


def _chunk_keys(array: Node, row: int) -> Iterator[str]:
    """Yield the keys in the store of the chunks of one exam."""
    stored = cast("zarr.Array[Any]", array)
    sizes = array.shards or array.chunks
    counts = [
        math.ceil(length / size) for length, size in zip(array.shape[1:], sizes[1:], strict=True)
    ]
    for rest in itertools.product(*map(range, counts)):
        yield f"{stored.path}/{stored.metadata.encode_chunk_key((row, *rest))}"


def _copy_chunks(array: Node, old: int, new: int) -> None:
    """Copy the stored bytes of an exam to another row, without decoding: a chunk may be damaged."""
    store = cast("zarr.Array[Any]", array).store
    for source, target in zip(_chunk_keys(array, old), _chunk_keys(array, new), strict=True):
        data = sync(store.get(source, default_buffer_prototype()))
        sync(store.delete(target) if data is None else store.set(target, data))


def _size(array: Node, key: str) -> int:
    store = cast("zarr.Array[Any]", array).store
    return sync(store.getsize(key)) if sync(store.exists(key)) else 0
