"""Comparison of edited masks with those of the lake: what was changed, and by how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numcodecs.blosc import Blosc
from numpy.typing import NDArray

from qmri_lake.core.geometry import voxel_spacing
from qmri_lake.core.json_types import JsonObject
from qmri_lake.editing.edit_files import Program, read_edited
from qmri_lake.editing.manifest import ExportedExam, digest_of
from qmri_lake.editing.mask_arrays import MaskArrays
from qmri_lake.errors import InputError, Reason, printable
from qmri_lake.lake.lake import Lake
from qmri_lake.masks.grids import ExamGrid
from qmri_lake.segmentation.evaluation.scores import TISSUES, score_labels
from qmri_lake.tissues import DIVIDED, PART

__all__ = ["EditedExam", "check_exam", "kept_parts"]

_PACKING = Blosc(cname="zstd", clevel=1, shuffle=Blosc.NOSHUFFLE)


@dataclass(slots=True)
class EditedExam:
    """The edited masks of one exam, packed: less than a megabyte for each."""

    row: int
    exam: str
    shape: tuple[int, int, int]
    packed: dict[str, bytes] = field(default_factory=dict)
    """Changed label map, by kind."""
    scores: list[JsonObject] = field(default_factory=list)
    """Agreement of each tissue of changed masks: exam, mask, tissue, voxels, DSC, distance."""

    def labels(self, kind: str) -> NDArray[np.uint8]:
        """Return the edited label map of a kind."""
        content = _PACKING.decode(self.packed[kind])
        return np.frombuffer(content, np.uint8).reshape(self.shape)


def check_exam(
    lake: Lake,
    folder: Path,
    exported: ExportedExam,
    source: MaskArrays,
    target: MaskArrays,
    program: Program,
) -> EditedExam:
    """Read the edited masks of an exam, and compare them with the masks of the lake.

    A mask that is as exported, or that has been imported before, is not changed.

    Parameters
    ----------
    lake : Lake
    folder : Path
        Folder of the files.
    exported : ExportedExam
    source, target : MaskArrays
        Arrays that were exported, and arrays that will be written.
    program : {"slicer", "itksnap"}

    Raises
    ------
    InputError
        If the lake lacks the exam, if a mask that was edited has also changed in the lake
        (``changed_mask``), or if a file cannot be used; see
        `qmri_lake.editing.edit_files.read_edited`.
    """
    rows = np.flatnonzero(lake.exams["exam"].to_numpy() == exported.exam)
    if not rows.size:
        raise InputError(
            f"no exam {exported.exam} in the lake",
            expected="the lake from which the masks were exported",
            where=exported.exam,
            todo="Give the lake that the manifest names.",
            reason=Reason.ABSENT_EXAM,
        )
    row = int(rows[0])
    slices, height, width = (int(n) for n in lake.root["dess/extent"][row])
    affine = lake.root["dess/affine"][row]
    grid = ExamGrid((slices, height, width), affine, str(lake.exams["knee"].iloc[row]))
    try:
        after = read_edited(folder, exported.files, grid, program)
    except InputError as error:  # without the path of the folder
        raise InputError(
            error.found,
            expected=error.expected,
            where=error.where.replace(f"{printable(str(folder))}/", ""),
            todo=error.todo,
            reason=error.reason,
        ) from error
    edited = EditedExam(row, exported.exam, grid.shape)
    for kind, labels in after.items():
        if digest_of(labels) == exported.digests[kind]:
            continue
        before = _before(lake, row, exported, kind, labels, source, target)
        if before is None:
            continue
        if not labels.any():
            raise InputError(
                f"an empty mask of {kind}",
                expected="a mask with at least one tissue",
                where=exported.files[kind],
                todo="Restore the mask. An empty one would mean that the knee has no such tissue.",
                reason=Reason.EMPTY_MASK,
            )
        edited.packed[kind] = _PACKING.encode(np.ascontiguousarray(labels))
        edited.scores += _scores(exported.exam, kind, before, labels, affine)
    return edited


def _before(
    lake: Lake,
    row: int,
    exported: ExportedExam,
    kind: str,
    labels: NDArray[np.uint8],
    source: MaskArrays,
    target: MaskArrays,
) -> NDArray[np.uint8] | None:
    """Return the mask before editing; None if the edited mask has been imported before.

    Raises
    ------
    InputError
        If the mask of the lake is neither, or if another edited mask would be overwritten.
    """
    exam = exported.exam
    for arrays in dict.fromkeys((target, source)):
        run = int(arrays.runs(lake)[kind][row])
        stored = arrays.read(lake.root, kind, row) if run >= 0 else None
        if stored is not None and np.array_equal(stored, labels):
            return None
        if arrays is not source and stored is not None:
            raise InputError(
                f"{arrays.path(kind)} has another edited mask, of run {run}",
                expected="no edited mask yet",
                where=exam,
                todo="Choose another --variant, or export and edit that variant.",
                reason=Reason.CHANGED_MASK,
            )
    if stored is not None and digest_of(stored) == exported.digests[kind]:
        return stored
    raise InputError(
        f"{source.path(kind)} is of run {run} and not as exported (run "
        f"{exported.runs.get(kind, -1)})"
        if stored is not None
        else f"no {source.path(kind)} any more",
        expected="the mask that was edited",
        where=exam,
        todo="Export the exam again, and repeat the correction.",
        reason=Reason.CHANGED_MASK,
    )


def _scores(
    exam: str,
    kind: str,
    before: NDArray[np.uint8],
    after: NDArray[np.uint8],
    affine: NDArray[np.float64],
) -> list[JsonObject]:
    """Return the agreement of each tissue before and after; unchanged tissues have DSC 1."""
    tissues = {
        name: value
        for name, value in TISSUES[kind].items()
        if (before == value).any() or (after == value).any()
    }
    rows = score_labels(after, before, voxel_spacing(affine), tissues)
    for row in rows:
        value = tissues[str(row["tissue"])]
        was, now = before == value, after == value
        row["voxels_before"], row["voxels_after"] = int(was.sum()), int(now.sum())
        row["voxels_changed"] = int((was != now).sum())
        if row["reason"] == "not in the reference":  # a tissue that was added
            row |= {"dsc": 0.0, "reason": "not in the mask before"}
        elif row["reason"] == "not in the mask":
            row["reason"] = "removed"
    return [{"exam": exam, "mask": kind, **row} for row in rows]


def kept_parts(
    parts: NDArray[np.uint8],
    before: NDArray[np.uint8],
    after: NDArray[np.uint8],
    flags: Mapping[str, int],
) -> NDArray[np.uint8]:
    """Return the medial and lateral parts where a mask is unchanged; elsewhere they are unknown.

    Parameters
    ----------
    parts : array of uint8
        Labels of `qmri_lake.tissues.PART` of the mask before.
    before, after : array of uint8
        Labels of cartilage.
    flags : mapping of str to int
        Labels of the mask.
    """
    divided = np.isin(after, [flags[name] for name in DIVIDED])
    kept = np.where((before == after) & divided, parts, np.uint8(PART["undivided"]))
    return np.asarray(kept, np.uint8)
