"""Masks made elsewhere, as one ``<exam key>.npz`` an exam: the layout of the synthetic OAI's truth.

Arrays of a file, all optional except that a mask needs its affine:

=================  ==========================================================================
``dess_bone``      (slice, row, column) uint8, labels of `qmri_lake.tissues.BONE`
``dess_cartilage`` (slice, row, column) uint8, labels of `qmri_lake.tissues.CARTILAGE`
``dess_affine``    (4, 4) voxel (slice, row, column, 1) to LPS mm
``msme_cartilage`` the same on the MSME grid
``msme_affine``    (4, 4)
``dess_to_msme``   (4, 4) x_msme = T x_dess, LPS mm; goes with ``msme_cartilage``
=================  ==========================================================================
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import icechunk
import numpy as np

from qmri_lake.errors import InputError, Problem, QmriLakeError, Reason
from qmri_lake.masks.grids import GRID_TOLERANCE_MM, corner_distance
from qmri_lake.run import Listener, Outcome, execute, one_line
from qmri_lake.status import declare_status, new_run, read_status
from qmri_lake.steps import write_exam
from qmri_lake.storage import Node, open_root
from qmri_lake.tissues import NO_MASK
from qmri_lake.variables import REGISTRY
from qmri_lake.writing import declare, exam_count

if TYPE_CHECKING:
    from qmri_lake.lake import Lake

__all__ = ["import_masks"]

PRODUCTS = {
    "segment_bones": ("dess", {"bone": "dess_bone"}),
    "segment_cartilage": ("dess", {"cartilage": "dess_cartilage"}),
    "register": ("msme", {"cartilage": "msme_cartilage", "dess_to_msme": "dess_to_msme"}),
}
"""What a file's arrays stand in for: step, group, and arrays by variable."""

_BROKEN = (OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What NumPy raises for a file that is damaged or something else."""


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
    """Import the masks of all exams of the lake that have a file and lack them.

    The steps that would have made them are marked done, by a run named ``import``: no later run
    replaces them unasked. The caller holds the writer's lock.

    Returns
    -------
    count : int
        Exams with imported masks.
    problems : list of Problem
        Files that don't fit their exam's grid, or can't be read.
    """
    length = len(lake.exams)
    images = {g: read_status(lake.root, f"ingest_{g}", length).usable for g in ("dess", "msme")}
    done = {step: read_status(lake.root, step, length).usable for step in PRODUCTS}
    tasks = []
    for row, exam in enumerate(lake.exams["exam"]):
        path = folder / f"{exam}.npz"
        steps = tuple(
            step
            for step, (group, _) in PRODUCTS.items()
            if images[group][row] and not done[step][row]
        )
        if steps and path.is_file():
            tasks.append(_MaskTask(row, exam, str(path), path.name, steps))
    if not tasks:
        return 0, []
    needed = [step for step in PRODUCTS if any(step in task.steps for task in tasks)]

    def prepare(session: icechunk.Session) -> None:
        root = open_root(session.store, "r+")
        for step in needed:
            declare(root, REGISTRY.made_by(step))
            declare_status(root, step, exam_count(root))

    run, record = new_run(lake.root, "import", lake.snapshot)
    result = execute(lake, "import", run, record, prepare, _import_exam, tasks, listeners=listeners)
    imported = result.counts["done"] + result.counts["flagged"]
    return imported, list(result.problems)


def _import_exam(fork: icechunk.ForkSession, task: _MaskTask) -> Outcome:
    outcome = Outcome(task.row, task.exam, {}, fork)
    root = open_root(fork.store, "r+")
    try:
        arrays = _read_arrays(task)
    except InputError as error:
        outcome.problems.append(error.problem(exam=task.exam))
        outcome.states = {step: ("failed", str(error)) for step in task.steps}
        return outcome
    for step in task.steps:
        group, names = PRODUCTS[step]
        product = {name: arrays[key] for name, key in names.items() if key in arrays}
        if not product:
            continue
        try:
            affine = arrays.get(f"{group}_affine")
            _check_masks(root, group, task, product, affine)
            outcome.small |= write_exam(root, REGISTRY.made_by(step), product, task.row, task.exam)
        except QmriLakeError as error:
            reason = error.reason or Reason.UNREADABLE_VALUE
            outcome.problems.append(
                Problem(reason, task.where, error.found, error.expected, error.todo, task.exam)
            )
            outcome.states[step] = ("failed", str(error))
        else:
            absent = [key for name, key in names.items() if name not in product]
            outcome.states[step] = ("flagged", f"imported without {absent[0]}") if absent else (
                "done", ""
            )  # fmt: skip
    return outcome


def _read_arrays(task: _MaskTask) -> dict[str, Any]:
    """Read the arrays of one file; whatever is wrong with it is an `InputError`."""
    known = sorted({key for _, names in PRODUCTS.values() for key in names.values()})
    wanted = {*known, *(f"{group}_affine" for group, _ in PRODUCTS.values())}
    try:
        with open(task.file, "rb") as stream:
            file = np.load(stream)
            names = file.files if isinstance(file, np.lib.npyio.NpzFile) else []
            arrays = {name: file[name] for name in names if name in wanted}
    except _BROKEN as error:
        text = error.strerror if isinstance(error, OSError) else one_line(error)
        found = f"a file that can't be read ({text or type(error).__name__})"
    else:
        if not arrays.keys().isdisjoint(known):
            return arrays
        found = f"arrays named {', '.join(sorted(names)[:8])}" if names else "no named arrays"
    raise InputError(
        found,
        expected=f"an .npz file with {', '.join(known)} or some of them",
        where=task.where,
        todo="Write the file again: np.savez_compressed(path, dess_bone=..., dess_affine=...).",
        reason=Reason.UNREADABLE_FILE,
    )


def _check_masks(
    root: Node, group: str, task: _MaskTask, product: dict[str, Any], affine: Any
) -> None:
    """Refuse what is not there, not segmented, or on another grid than the exam's image."""
    transform = product.get("dess_to_msme")
    if product.keys() == {"dess_to_msme"}:
        raise InputError(
            "dess_to_msme without msme_cartilage",
            expected="both: they stand in for the step register",
            where=task.where,
            todo="Add msme_cartilage and msme_affine to the file.",
            reason=Reason.UNREADABLE_VALUE,
        )
    if transform is not None:
        _as_matrix(transform, "dess_to_msme", task)
    for name, values in product.items():
        if name != "dess_to_msme" and (n := int((values == NO_MASK).sum())):
            raise InputError(
                f"{n:,} voxels of {group} {name} that are {NO_MASK}, which is no mask",
                expected="a label in every voxel, 0 for background",
                where=task.where,
                todo="Write 0 for background, or leave the array out.",
                reason=Reason.UNREADABLE_VALUE,
            )
    _check_grid(root, group, task, product, _as_matrix(affine, f"{group}_affine", task))


def _as_matrix(values: Any, name: str, task: _MaskTask) -> np.ndarray[Any, Any]:
    if values is None:
        found = f"a mask without {name}"
    elif values.shape != (4, 4):
        found = f"{name} of shape {values.shape}"
    elif values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        found = f"{name} with values that are not finite numbers"
    else:
        return np.asarray(values)
    raise InputError(
        found,
        expected="4 x 4 finite numbers",
        where=task.where,
        todo="Add the affine or transform to the file, in LPS mm.",
        reason=Reason.GRID_MISMATCH,
    )


def _check_grid(
    root: Node,
    group: str,
    task: _MaskTask,
    product: dict[str, Any],
    affine: np.ndarray[Any, Any],
) -> None:
    """Refuse masks on another grid than the exam's image: they would be read shifted."""
    extent = root[f"{group}/extent"][task.row]
    for name, values in product.items():
        if values.ndim == 3 and values.shape != tuple(extent):
            raise InputError(
                f"{group} {name} of {values.shape}",
                expected=f"{tuple(extent.tolist())}, as the exam's image",
                where=task.where,
                todo="Resample the mask on the image's grid.",
                reason=Reason.GRID_MISMATCH,
            )
    mine = root[f"{group}/affine"][task.row]
    if (distance := corner_distance(extent, affine, mine)) > GRID_TOLERANCE_MM:
        raise InputError(
            f"a {group} grid that is {distance:.2f} mm off",
            expected=f"the image's, to {GRID_TOLERANCE_MM} mm",
            where=task.where,
            todo="Check that the mask belongs to this series.",
            reason=Reason.GRID_MISMATCH,
        )
