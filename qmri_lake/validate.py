"""Checks of a whole lake: every fault is gathered, each with its place, before anything is said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from qmri_lake.index import KEYS, exam_key
from qmri_lake.status import STATE, read_runs, read_status, status_steps
from qmri_lake.storage import first_line
from qmri_lake.variables import Variable
from qmri_lake.writing import OWN_AXIS

if TYPE_CHECKING:
    from qmri_lake.lake import Lake

__all__ = ["faults"]

_SMALLEST_VOXEL_MM3 = 1e-9


def faults(lake: Lake, *, deep: bool = False) -> Iterator[str]:
    """Yield one line for each fault: where, found, expected."""
    yield from _with_lost_chunks("exam", _key_faults(lake))
    yield from _with_lost_chunks("status", _status_faults(lake))
    for path, variable in sorted(lake.variables().items()):  # a store lists in any order
        yield from _with_lost_chunks(path, _array_faults(lake, path, variable, deep))
    yield from _with_lost_chunks("images", _image_faults(lake))


def _with_lost_chunks(place: str, found: Iterator[str]) -> Iterator[str]:
    """Yield faults, the last of them what can't be read: a chunk that is lost, or damaged."""
    try:
        yield from found
    except Exception as error:  # each codec has errors of its own
        yield _unreadable(place, error)


def _unreadable(place: str, error: Exception) -> str:
    return f"{place}: found a chunk that can't be read ({first_line(error)}); expected one that can"


def _key_faults(lake: Lake) -> Iterator[str]:
    exams = lake.exams
    for key in exams["exam"][exams["exam"].duplicated()]:
        yield f"exam {key}: found twice; expected each key once"
    for row in exams.itertuples(index=False):
        right = exam_key(*(getattr(row, name) for name in KEYS))
        if row.exam != right:
            yield f"exam {row.exam}: found a key that its coordinates don't give; expected {right}"
    for knee in set(exams["knee"]) - {"left", "right"}:
        yield f"coordinate knee: found {knee!r}; expected left or right"


def _status_faults(lake: Lake) -> Iterator[str]:
    runs = read_runs(lake.root)
    for step in status_steps(lake.root):
        status = read_status(lake.root, step, len(lake.exams))
        for value in np.setdiff1d(status.state, list(STATE.values())):
            yield f"status/{step}: found state {value}; expected one of {', '.join(STATE)}"
        touched = status.state != STATE["pending"]
        for number in np.setdiff1d(status.run[touched], list(runs)):
            yield f"status/{step}: found run {number} without a record; expected one in runs"


def _array_faults(lake: Lake, path: str, variable: Variable, deep: bool) -> Iterator[str]:
    array = lake.root[path]
    if variable.group not in OWN_AXIS and array.shape[0] != len(lake.exams):
        yield f"{path}: found {array.shape[0]} exams; expected {len(lake.exams)}"
        return
    if not variable.bulk:
        for fault in variable.faults(array[:]):
            yield f"{path}: found {fault}; expected {variable.expectation}"
    elif deep:
        ingested = path in ("dess/image", "msme/image")
        done = read_status(lake.root, variable.step, len(lake)).usable & ingested
        for row, exam in enumerate(lake.exams["exam"]):
            try:
                values = array[row]
            except Exception as error:  # that of one exam: the others are read too
                yield _unreadable(f"{path} of {exam}", error)
                continue
            for fault in variable.faults(values):
                yield f"{path} of {exam}: found {fault}; expected {variable.expectation}"
            if done[row] and np.isnan(values).all():
                yield f"{path} of {exam}: found no value at all; expected an image, which is done"


def _image_faults(lake: Lake) -> Iterator[str]:
    """A done image must have an extent that fits, and an affine that can be inverted."""
    for group in ("dess", "msme"):
        if f"{group}/image" not in lake.root:
            continue
        source = lake.root[group]
        rows = np.flatnonzero(read_status(lake.root, f"ingest_{group}", len(lake.exams)).usable)
        exams = lake.exams["exam"].to_numpy()[rows]
        extent, affine = source["extent"][:][rows], source["affine"][:][rows]
        largest = np.array(source["image"].shape[-3:])
        for index in np.flatnonzero(((extent < 1) | (extent > largest)).any(axis=1)):
            yield (
                f"{group}/extent of {exams[index]}: found {extent[index].tolist()}; "
                f"expected 1 to {largest.tolist()}"
            )
        with np.errstate(invalid="ignore"):  # of an affine that is not there
            volume = np.abs(np.linalg.det(affine[:, :3, :3]))
        for index in np.flatnonzero(~(np.isfinite(volume) & (volume >= _SMALLEST_VOXEL_MM3))):
            yield (
                f"{group}/affine of {exams[index]}: found no volume per voxel; expected spacing > 0"
            )
