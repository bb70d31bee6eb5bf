"""Tasks of an import of masks: read one file, and write its arrays into the lake."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import icechunk
import numpy as np
from numcodecs.blosc import Blosc
from numpy.typing import NDArray

from qmri_lake.core.disk_full import disk_full
from qmri_lake.core.text import one_line
from qmri_lake.errors import (
    DiskFullError,
    InputError,
    Problem,
    QmriLakeError,
    Reason,
    RunError,
    printable,
)
from qmri_lake.execution.exam_io import write_exam
from qmri_lake.execution.run import TaskResult
from qmri_lake.masks.content import Form
from qmri_lake.masks.files import Mask, read_mask
from qmri_lake.masks.grids import ExamGrid
from qmri_lake.masks.sources import Source
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.store.arrays import Node, open_root
from qmri_lake.tissues import BONE, CARTILAGE

__all__ = [
    "MASK_VARIABLES",
    "PARTS",
    "Checked",
    "CheckedMask",
    "FileTask",
    "check_file",
    "import_file",
    "lost_file",
]

MASK_VARIABLES: Mapping[str, Mapping[str, str]] = {
    "reference": {
        "import_reference_bone": "reference_bone",
        "import_reference_cartilage": "reference_cartilage",
    },
    "mask": {"segment_bones": "bone", "segment_cartilage": "cartilage"},
}
"""For each step that is marked as done, the variable of group dess that is written."""

PARTS: Mapping[str, tuple[str, str]] = {
    "import_reference_cartilage": ("import_reference_cartilage_part", "reference_cartilage_part"),
    "segment_cartilage": ("import_cartilage_part", "cartilage_part"),
}
"""For each step that writes cartilage, the step and the variable of its medial and lateral parts,
which are written together with it if the source tells them."""

_FLAGS: Mapping[str, Mapping[str, int]] = {
    step: flags
    for steps in MASK_VARIABLES.values()
    for step, flags in zip(steps, (BONE, CARTILAGE), strict=True)
}
"""Labels of the variable that each step writes."""

_PACKING = Blosc(cname="zstd", clevel=1, shuffle=Blosc.NOSHUFFLE)


@dataclass(frozen=True, slots=True)
class CheckedMask:
    """A mask that was read and checked, kept in memory until its exam exists.

    A mask of 24 million voxels takes less than a megabyte.
    """

    packed: bytes
    mask: Mask
    """The mask without its labels."""
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, mask: Mask) -> CheckedMask:
        """Pack a mask."""
        slices, rows, columns = mask.labels.shape
        nothing = replace(mask, labels=np.empty((0, 0, 0), np.uint8))
        return cls(_PACKING.encode(mask.labels), nothing, (slices, rows, columns))

    def unpack(self) -> Mask:
        """Return the mask with its labels."""
        labels = np.frombuffer(_PACKING.decode(self.packed), np.uint8).reshape(self.shape)
        return replace(self.mask, labels=labels)


@dataclass(frozen=True, slots=True)
class FileTask:
    """One mask file and its exam."""

    row: int
    """Position of the exam on the exam axis; -1 until the exam is created."""
    exam: str
    steps: tuple[str, ...]
    file: str
    where: str
    source: Source
    variables: Mapping[str, str]
    """Name of the variable by step."""
    grid: ExamGrid | None
    """Grid of the image; None for an exam that is created from the grid of the mask."""
    form: Form | None
    checked: CheckedMask | None = None
    """The mask of a new exam."""
    replaced: tuple[str, ...] = ()

    def problem(self, error: QmriLakeError) -> Problem:
        """Return the problem of this file for an error, without the path of the folder."""
        path = printable(self.file)
        where = error.where.replace(path, self.where) if path in error.where else self.where
        reason = error.reason or Reason.UNREADABLE_VALUE
        return Problem(reason, where, error.found, error.expected, error.todo, self.exam)


@dataclass(slots=True)
class Checked:
    """Result of `check_file`: the task with its mask, or a problem."""

    task: FileTask
    problems: list[Problem] = field(default_factory=list)


def check_file(_fork: object, task: FileTask) -> Checked:
    """Read the mask of an exam that does not exist; find all faults before the exam is created."""
    try:
        mask = read_mask(task.file, task.source, form=task.form)
        if mask.cropped:
            raise InputError(
                "a cropped mask, which does not store the size of its image",
                expected="a mask of the whole image, or an exam with an image",
                where=task.file,
                todo="Ingest the DESS series of the exam first, or export the whole mask.",
                reason=Reason.GRID_MISMATCH,
            )
        if not any(mask.has(_FLAGS[step]) for step in task.steps):
            kinds = ("bone" if _FLAGS[step] is BONE else "cartilage" for step in task.steps)
            raise _empty(" and ".join(kinds), task.where)
        return Checked(replace(task, checked=CheckedMask.of(mask)))
    except InputError as error:
        return Checked(task, [task.problem(error)])


def lost_file(task: FileTask, error: BaseException) -> Checked:
    """Return the problem of a file whose worker died.

    Raises
    ------
    DiskFullError, RunError
        If the error concerns the whole import.
    """
    if isinstance(error, (DiskFullError, RunError)):
        raise error
    found = f"the file could not be read: {one_line(error)}"
    todo = "Use workers with more memory, and import again."
    return Checked(
        task,
        [Problem(Reason.UNREADABLE_FILE, task.where, found, "a readable mask", todo, task.exam)],
    )


def import_file(fork: icechunk.ForkSession, task: FileTask) -> TaskResult:
    """Read a file, reorder it to the grid of its exam and write the mask, as one task."""
    result = TaskResult(task.row, task.exam, {}, fork)
    root = open_root(fork.store, "r+")
    try:
        if task.checked is not None:
            mask = task.checked.unpack()
        else:
            mask = read_mask(task.file, task.source, like=task.grid, form=task.form)
    except InputError as error:
        result.problems.append(task.problem(error))
        return result
    state = ("flagged", "; ".join(mask.notes)) if mask.notes else ("done", "")
    for step in task.steps:
        values = _values(mask, step)
        if values is None:
            continue
        name = task.variables[step]
        try:
            if not values.any():
                raise _empty(name, task.where)
            _write(root, task, name, values)
            if step in PARTS and (parts := mask.cartilage_part) is not None:
                of_parts, part = PARTS[step]
                _write(root, task, part, parts)
                result.states[of_parts] = ("done", "")
        except QmriLakeError as error:
            result.problems.append(task.problem(error))
        except Exception as error:
            full = disk_full(error, task.exam)
            if full is not None:
                raise full from error
            raise
        else:
            result.states[step] = state
    if task.grid is None and result.states:
        extent = np.array(mask.labels.shape, np.int16)
        result.small |= {"dess/affine": mask.affine, "dess/extent": extent}
    return result


def _write(root: Node, task: FileTask, name: str, values: NDArray[np.uint8]) -> None:
    write_exam(root, [REGISTRY[f"dess/{name}"]], {name: values}, task.row, task.exam)


def _values(mask: Mask, step: str) -> NDArray[np.uint8] | None:
    """Return the labels that a step of `MASK_VARIABLES` would write."""
    return mask.bone if _FLAGS[step] is BONE else mask.cartilage


def _empty(name: str, where: str) -> InputError:
    return InputError(
        f"no voxel of any tissue of {name}",
        expected="a mask with at least one tissue",
        where=where,
        todo="Check the table of labels. If these tissues were not segmented, remove them from "
        "the table: an empty mask would mean that the knee does not have them.",
        reason=Reason.EMPTY_MASK,
    )
