"""Masks made elsewhere, as one ``<exam key>.npz`` an exam: the layout of the synthetic OAI's truth.

Arrays of a file, all optional except that a mask needs its affine:

=================  ==========================================================================
``dess_bone``      (slice, row, column) uint8, labels of `qmri_lake.tissues.BONE`
``dess_cartilage`` (slice, row, column) uint8, labels of `qmri_lake.tissues.CARTILAGE`
``dess_affine``    (4, 4) voxel (slice, row, column, 1) to LPS mm
``msme_cartilage`` the same on the MSME grid
``msme_affine``    (4, 4)
``dess_to_msme``   (4, 4) x_msme = T x_dess, LPS mm
=================  ==========================================================================
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import icechunk
import numpy as np

from qmri_lake import __version__
from qmri_lake.errors import InputError, Problem, QmriLakeError, Reason
from qmri_lake.run import Listener, Outcome, execute
from qmri_lake.status import declare_status, read_runs, read_status
from qmri_lake.steps import write_exam
from qmri_lake.storage import Node, open_root
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

_GRID_TOLERANCE_MM = 0.01
"""Largest distance of the corners of mask and image: far below a voxel, above rounding."""


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

    run = max(read_runs(lake.root), default=0) + 1
    record = {"step": "import", "parameters": {}, "code": f"qmri_lake {__version__}",
              "version": "1", "snapshot": lake.snapshot}  # fmt: skip
    result = execute(lake, "import", run, record, prepare, _import_exam, tasks, listeners=listeners)
    return len(tasks) - result.counts["failed"], list(result.problems)


def _import_exam(fork: icechunk.ForkSession, task: _MaskTask) -> Outcome:
    outcome = Outcome(task.row, task.exam, {}, fork)
    root = open_root(fork.store, "r+")
    try:
        with np.load(task.file) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        outcome.problems.append(
            Problem(Reason.UNREADABLE_FILE, task.where, str(error), "an .npz file of arrays",
                    "Write the file again.", task.exam)
        )  # fmt: skip
        outcome.states = {step: ("failed", f"{task.where} can't be read") for step in task.steps}
        return outcome
    for step in task.steps:
        group, names = PRODUCTS[step]
        product = {name: arrays[key] for name, key in names.items() if key in arrays}
        if not product:
            continue
        try:
            _check_grid(root, group, task, product, arrays.get(f"{group}_affine"))
            outcome.small |= write_exam(root, REGISTRY.made_by(step), product, task.row, task.exam)
        except QmriLakeError as error:
            reason = error.reason or Reason.UNREADABLE_VALUE
            outcome.problems.append(
                Problem(reason, task.where, error.found, error.expected, error.todo, task.exam)
            )
            outcome.states[step] = ("failed", str(error))
        else:
            outcome.states[step] = ("done", "")
    return outcome


def _check_grid(
    root: Node, group: str, task: _MaskTask, product: dict[str, Any], affine: Any
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
    if affine is None:
        return
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
    corners[:, :3] *= extent - 1
    distance = np.abs(corners @ (np.asarray(affine) - mine).T).max()
    if distance > _GRID_TOLERANCE_MM:
        raise InputError(
            f"a {group} grid that is {distance:.2f} mm off",
            expected=f"the image's, to {_GRID_TOLERANCE_MM} mm",
            where=task.where,
            todo="Check that the mask belongs to this series.",
            reason=Reason.GRID_MISMATCH,
        )
