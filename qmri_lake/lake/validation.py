"""Validation of a whole lake: a list of all faults with their locations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.core.text import counted
from qmri_lake.schema.exam_index import KEYS, exam_key
from qmri_lake.schema.groups import GROUPS
from qmri_lake.schema.variable import Variable
from qmri_lake.store.repository import first_line
from qmri_lake.store.runs import read_runs
from qmri_lake.store.status import STATE, read_status, status_steps
from qmri_lake.store.transaction import OWN_AXIS
from qmri_lake.tissues import CARTILAGE, DIVIDED, PART

if TYPE_CHECKING:
    from qmri_lake.store.snapshot import Snapshot

__all__ = ["exam_faults", "shallow_faults"]

_SMALLEST_VOXEL_MM3 = 1e-9


def shallow_faults(lake: Snapshot) -> Iterator[str]:
    """Yield the faults of all small arrays: location, finding and expectation in a line."""
    yield from _catch_unreadable("exam", _key_faults(lake))
    yield from _catch_unreadable("status", _status_faults(lake))
    # The store lists arrays in arbitrary order.
    for path, variable in sorted(lake.variables().items()):
        yield from _catch_unreadable(path, _array_faults(lake, path, variable))
    yield from _catch_unreadable("images", _image_faults(lake))


def _catch_unreadable(place: str, found: Iterator[str]) -> Iterator[str]:
    """Yield faults. If a chunk is missing or damaged, its error is the last fault."""
    try:
        yield from found
    except Exception as error:  # each codec has its own error classes
        yield _unreadable(place, error)


def _unreadable(place: str, error: Exception) -> str:
    return f"{place}: unreadable chunk: {first_line(error)} (expected a readable chunk)"


def _key_faults(lake: Snapshot) -> Iterator[str]:
    exams = lake.exams
    for key in exams["exam"][exams["exam"].duplicated()]:
        yield f"exam {key}: duplicate key (expected unique keys)"
    for row in exams.itertuples(index=False):
        right = exam_key(*(getattr(row, name) for name in KEYS))
        if row.exam != right:
            yield f"exam {row.exam}: key does not match its coordinates (expected {right})"
    for knee in set(exams["knee"]) - {"left", "right"}:
        yield f"coordinate knee: {knee!r} (expected left or right)"


def _status_faults(lake: Snapshot) -> Iterator[str]:
    runs = read_runs(lake.root)
    for step in status_steps(lake.root):
        status = read_status(lake.root, step, len(lake.exams))
        for value in np.setdiff1d(status.state, list(STATE.values())):
            yield f"status/{step}: state {value} (expected one of {', '.join(STATE)})"
        touched = status.state != STATE["pending"]
        for number in np.setdiff1d(status.run[touched], list(runs)):
            yield f"status/{step}: run {number} without a record (expected a record in runs)"


def exam_faults(lake: Snapshot) -> Callable[[int], Iterator[str]]:
    """Return a function that reads all volumes of the exam at a row, and yields their faults."""
    exams = lake.exams["exam"].to_numpy()
    volumes = [
        (path, variable, lake.root[path], _done(lake, path, variable))
        for path, variable in sorted(lake.variables().items())
        if variable.bulk and variable.group not in OWN_AXIS
    ]

    def check(row: int) -> Iterator[str]:
        for path, variable, array, done in volumes:
            if row >= array.shape[0]:
                continue  # a fault of the small arrays
            place = f"{path} of {exams[row]}"
            try:
                values = array[row]
            except Exception as error:  # this array is unreadable; read the others too
                yield _unreadable(place, error)
                continue
            for fault in variable.faults(values):
                yield f"{place}: {fault} (expected {variable.expectation})"
            yield from _part_faults(lake, path, place, values, row)
            if done[row] and np.isnan(values).all():
                yield f"{place}: all values are NaN (expected an image: its state is done)"

    return check


_PARTS_OF = {
    "dess/cartilage_part": "dess/cartilage",
    "dess/reference_cartilage_part": "dess/reference_cartilage",
}
"""Labels that each array divides into medial and lateral parts."""


def _part_faults(lake: Snapshot, path: str, place: str, values: Values, row: int) -> Iterator[str]:
    """Yield parts outside the tissues that have parts."""
    if path not in _PARTS_OF or _PARTS_OF[path] not in lake.root:
        return
    parts = np.isin(values, [value for value in PART.values() if value])
    if not parts.any():
        return
    try:
        labels = lake.root[_PARTS_OF[path]][row]
    except Exception:  # a fault of the other array, which is listed there
        return
    outside = int((parts & ~np.isin(labels, [CARTILAGE[name] for name in DIVIDED])).sum())
    if outside:
        yield (
            f"{place}: {counted(outside, 'voxel')} medial or lateral outside the tissues with "
            f"parts (expected parts of {' and '.join(DIVIDED)} in {_PARTS_OF[path]})"
        )


def _done(lake: Snapshot, path: str, variable: Variable) -> NDArray[np.bool_]:
    """Return whether each exam must have a value: an image that was ingested."""
    ingested = path in {f"{group}/image" for group in GROUPS.series()}
    return np.asarray(read_status(lake.root, variable.step, len(lake)).usable & ingested)


def _array_faults(lake: Snapshot, path: str, variable: Variable) -> Iterator[str]:
    array = lake.root[path]
    if variable.group not in OWN_AXIS and array.shape[0] != len(lake.exams):
        yield f"{path}: {array.shape[0]} exams (expected {len(lake.exams)})"
        return
    if not variable.bulk:
        for fault in variable.faults(array[:]):
            yield f"{path}: {fault} (expected {variable.expectation})"


def _image_faults(lake: Snapshot) -> Iterator[str]:
    """Yield faults in the extent and affine of exams whose image has been ingested."""
    for group in GROUPS.series():
        if f"{group}/image" not in lake.root:
            continue
        source = lake.root[group]
        rows = np.flatnonzero(read_status(lake.root, f"ingest_{group}", len(lake.exams)).usable)
        exams = lake.exams["exam"].to_numpy()[rows]
        extent, affine = source["extent"][:][rows], source["affine"][:][rows]
        largest = np.array(source["image"].shape[-3:])
        for index in np.flatnonzero(((extent < 1) | (extent > largest)).any(axis=1)):
            yield (
                f"{group}/extent of {exams[index]}: {extent[index].tolist()} "
                f"(expected 1 to {largest.tolist()})"
            )
        with np.errstate(invalid="ignore"):  # a missing affine is NaN
            volume = np.abs(np.linalg.det(affine[:, :3, :3]))
        for index in np.flatnonzero(~(np.isfinite(volume) & (volume >= _SMALLEST_VOXEL_MM3))):
            yield (
                f"{group}/affine of {exams[index]}: voxel volume is 0 or NaN (expected spacing > 0)"
            )
