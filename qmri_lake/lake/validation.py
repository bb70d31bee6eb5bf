"""Validation of a whole lake: a list of all faults with their locations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from qmri_lake.schema.exam_index import KEYS, exam_key
from qmri_lake.schema.groups import GROUPS
from qmri_lake.schema.variable import Variable
from qmri_lake.store.file_checksums import damaged_files
from qmri_lake.store.repository import first_line
from qmri_lake.store.runs import read_runs
from qmri_lake.store.status import STATE, read_status, status_steps
from qmri_lake.store.transaction import OWN_AXIS

if TYPE_CHECKING:
    from qmri_lake.store.snapshot import Snapshot

__all__ = ["faults"]

_SMALLEST_VOXEL_MM3 = 1e-9


def faults(lake: Snapshot, *, deep: bool = False) -> Iterator[str]:
    """Yield one line for each fault, with its location, the finding and the expectation."""
    if deep:
        yield from damaged_files(lake.location)
    yield from _catch_unreadable("exam", _key_faults(lake))
    yield from _catch_unreadable("status", _status_faults(lake))
    # The store lists arrays in arbitrary order.
    for path, variable in sorted(lake.variables().items()):
        yield from _catch_unreadable(path, _array_faults(lake, path, variable, deep))
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


def _array_faults(lake: Snapshot, path: str, variable: Variable, deep: bool) -> Iterator[str]:
    array = lake.root[path]
    if variable.group not in OWN_AXIS and array.shape[0] != len(lake.exams):
        yield f"{path}: {array.shape[0]} exams (expected {len(lake.exams)})"
        return
    if not variable.bulk:
        for fault in variable.faults(array[:]):
            yield f"{path}: {fault} (expected {variable.expectation})"
    elif deep:
        ingested = path in {f"{group}/image" for group in GROUPS.series()}
        done = read_status(lake.root, variable.step, len(lake)).usable & ingested
        for row, exam in enumerate(lake.exams["exam"]):
            try:
                values = array[row]
            except Exception as error:  # this exam is unreadable; read the others too
                yield _unreadable(f"{path} of {exam}", error)
                continue
            for fault in variable.faults(values):
                yield f"{path} of {exam}: {fault} (expected {variable.expectation})"
            if done[row] and np.isnan(values).all():
                yield f"{path} of {exam}: all values are NaN (expected an image: its state is done)"


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
