"""Masks in one ``<exam key>.npz`` file for each exam, the layout of the true masks of the phantom.

A file contains the following arrays. All are optional, except that a mask needs its affine:

=================  ==========================================================================
``dess_bone``      (slice, row, column) uint8, labels of `qmri_lake.tissues.BONE`
``dess_cartilage`` (slice, row, column) uint8, labels of `qmri_lake.tissues.CARTILAGE`
``dess_affine``    (4, 4) voxel (slice, row, column, 1) to LPS mm
``msme_cartilage`` as ``dess_cartilage``, on the MSME grid
``msme_affine``    as ``dess_affine``, of the MSME grid
``dess_to_msme``   (4, 4) transform T in x_msme = T x_dess, LPS mm; needs ``msme_cartilage``
=================  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import icechunk
import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.geometry import GRID_TOLERANCE_MM, corner_distance
from qmri_lake.errors import InputError, Problem, QmriLakeError, Reason
from qmri_lake.execution.exam_io import write_exam
from qmri_lake.execution.run import Listener, TaskResult, execute
from qmri_lake.masks.label_values import as_numbers
from qmri_lake.masks.npz_arrays import read_arrays
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.groups import GROUPS
from qmri_lake.store.arrays import Node, open_root
from qmri_lake.store.runs import new_record
from qmri_lake.store.status import declare_status, read_status
from qmri_lake.store.transaction import declare, exam_count
from qmri_lake.tissues import NO_MASK

if TYPE_CHECKING:
    from qmri_lake.lake.lake import Lake

__all__ = ["import_masks"]

STEP_ARRAYS = {
    "segment_bones": ("dess", {"bone": "dess_bone"}),
    "segment_cartilage": ("dess", {"cartilage": "dess_cartilage"}),
    "register": ("msme", {"cartilage": "msme_cartilage", "dess_to_msme": "dess_to_msme"}),
}
"""Steps that a file replaces, each with the group and, for each variable, the array of the file."""

_Array = NDArray[np.generic]
_Arrays = dict[str, _Array]


@dataclass(frozen=True, slots=True)
class _MaskTask:
    row: int
    exam: str
    file: str
    where: str
    steps: tuple[str, ...]
    replaced: tuple[str, ...] = ()


def import_masks(
    lake: Lake, folder: Path, *, listeners: Sequence[Listener] = ()
) -> tuple[int, list[Problem]]:
    """Import the masks of all exams of the lake that have a file and no masks yet.

    The steps that compute such masks are marked as done by a run named ``import``. By default,
    later runs do not replace the masks. The caller must hold the writer's lock.

    Returns
    -------
    count : int
        Number of exams with imported masks.
    problems : list of Problem
        Files that do not fit the grid of their exam, or cannot be read.
    """
    length = len(lake.exams)
    images = {g: read_status(lake.root, f"ingest_{g}", length).usable for g in GROUPS.series()}
    done = {step: read_status(lake.root, step, length).usable for step in STEP_ARRAYS}
    tasks = []
    for row, exam in enumerate(lake.exams["exam"]):
        path = folder / f"{exam}.npz"
        steps = tuple(
            step
            for step, (group, _) in STEP_ARRAYS.items()
            if images[group][row] and not done[step][row]
        )
        if steps and path.is_file():
            tasks.append(_MaskTask(row, exam, str(path), path.name, steps))
    if not tasks:
        return 0, []
    needed = [step for step in STEP_ARRAYS if any(step in task.steps for task in tasks)]

    def prepare(session: icechunk.Session) -> None:
        root = open_root(session.store, "r+")
        for step in needed:
            declare(root, REGISTRY.variables_of(step))
            declare_status(root, step, exam_count(root))

    record = new_record("import", lake.snapshot)
    result = execute(lake, "import", record, prepare, _import_exam, tasks, listeners=listeners)
    imported = result.counts["done"] + result.counts["flagged"]
    return imported, list(result.problems)


def _import_exam(fork: icechunk.ForkSession, task: _MaskTask) -> TaskResult:
    outcome = TaskResult(task.row, task.exam, {}, fork)
    root = open_root(fork.store, "r+")
    try:
        arrays = _read_arrays(task)
    except InputError as error:
        problem = error.problem(task.where, task.exam)
        outcome.problems.append(problem)
        outcome.states = {step: ("failed", str(problem)) for step in task.steps}
        return outcome
    for step in task.steps:
        group, names = STEP_ARRAYS[step]
        product = {name: arrays[key] for name, key in names.items() if key in arrays}
        if not product:
            continue
        try:
            affine = arrays.get(f"{group}_affine")
            _check_masks(root, group, task, product, affine)
            outcome.small |= write_exam(
                root, REGISTRY.variables_of(step), product, task.row, task.exam
            )
        except QmriLakeError as error:
            reason = error.reason or Reason.UNREADABLE_VALUE
            outcome.problems.append(
                Problem(reason, task.where, error.found, error.expected, error.todo, task.exam)
            )
            outcome.states[step] = ("failed", str(error))
        else:
            absent = [key for name, key in names.items() if name not in product]
            outcome.states[step] = (
                ("flagged", f"imported without {absent[0]}") if absent else ("done", "")
            )
    return outcome


def _read_arrays(task: _MaskTask) -> _Arrays:
    """Read the arrays of one file; raise an `InputError` for any fault of the file."""
    known = sorted({key for _, names in STEP_ARRAYS.values() for key in names.values()})
    wanted = {*known, *(f"{group}_affine" for group, _ in STEP_ARRAYS.values())}
    arrays, names = read_arrays(task.file, wanted)
    if not arrays.keys().isdisjoint(known):
        return arrays
    raise InputError(
        f"arrays named {', '.join(sorted(names)[:8])}" if names else "no named arrays",
        expected=f"an .npz file with one or more of {', '.join(known)}",
        where=task.where,
        todo="Write the file with np.savez_compressed(path, dess_bone=..., dess_affine=...).",
        reason=Reason.UNREADABLE_FILE,
    )


def _check_masks(
    root: Node, group: str, task: _MaskTask, product: _Arrays, affine: _Array | None
) -> None:
    """Raise an error for missing arrays, unsegmented voxels, or a grid unlike that of the image."""
    transform = product.get("dess_to_msme")
    if product.keys() == {"dess_to_msme"}:
        raise InputError(
            "dess_to_msme without msme_cartilage",
            expected="both arrays, as written by the step register",
            where=task.where,
            todo="Add msme_cartilage and msme_affine to the file.",
            reason=Reason.UNREADABLE_VALUE,
        )
    if transform is not None:
        _as_matrix(transform, "dess_to_msme", task)
    for name in product.keys() - {"dess_to_msme"}:
        values = product[name] = as_numbers(product[name], task.where)
        if n := int((values == NO_MASK).sum()):
            raise InputError(
                f"{n:,} voxels of {group} {name} are {NO_MASK} (not segmented)",
                expected="a label in every voxel, 0 for background",
                where=task.where,
                todo="Write 0 for background, or omit the array.",
                reason=Reason.UNREADABLE_VALUE,
            )
        if not values.any():
            raise InputError(
                f"no voxel of any tissue in {group} {name}",
                expected="a mask with at least one tissue",
                where=task.where,
                todo="If it was not segmented, omit the array: an empty mask would mean that the "
                "knee does not have these tissues.",
                reason=Reason.EMPTY_MASK,
            )
    _check_grid(root, group, task, product, _as_matrix(affine, f"{group}_affine", task))


def _as_matrix(values: _Array | None, name: str, task: _MaskTask) -> NDArray[np.float64]:
    if values is None:
        found = f"no {name} for a mask"
    elif values.shape != (4, 4):
        found = f"{name} of shape {values.shape}"
    elif values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        found = f"{name} with values that are not finite numbers"
    else:
        return values.astype(np.float64)
    raise InputError(
        found,
        expected="4 x 4 finite numbers",
        where=task.where,
        todo="Add the matrix to the file, in LPS mm.",
        reason=Reason.GRID_MISMATCH,
    )


def _check_grid(
    root: Node,
    group: str,
    task: _MaskTask,
    product: _Arrays,
    affine: NDArray[np.float64],
) -> None:
    """Raise an error if the grid of a mask differs from that of the exam's image."""
    extent = root[f"{group}/extent"][task.row]
    for name, values in product.items():
        if values.ndim == 3 and values.shape != tuple(extent):
            raise InputError(
                f"{group} {name} has shape {values.shape}",
                expected=f"{tuple(extent.tolist())}, like the image of the exam",
                where=task.where,
                todo="Resample the mask to the grid of the image.",
                reason=Reason.GRID_MISMATCH,
            )
    mine = root[f"{group}/affine"][task.row]
    if (distance := corner_distance(extent, affine, mine)) > GRID_TOLERANCE_MM:
        raise InputError(
            f"the {group} grid is {distance:.2f} mm off",
            expected=f"the grid of the image, within {GRID_TOLERANCE_MM} mm",
            where=task.where,
            todo="Check that the mask belongs to this series.",
            reason=Reason.GRID_MISMATCH,
        )
