"""Export of images and masks for correction with 3D Slicer or ITK-SNAP."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, get_args

import numpy as np

from qmri_lake.core.geometry import checked_affine
from qmri_lake.core.text import counted
from qmri_lake.editing.edit_files import Program, write_image, write_label_names, write_masks
from qmri_lake.editing.manifest import MANIFEST, ExportedExam, Manifest, digest_of, write_manifest
from qmri_lake.editing.mask_arrays import KINDS, MaskArrays, Masks
from qmri_lake.errors import InputError, Reason, RunError
from qmri_lake.execution.exam_io import read_exam
from qmri_lake.lake.lake import Lake, open_lake
from qmri_lake.store.status import read_status

if TYPE_CHECKING:
    from qmri_lake.lake.cohort import Cohort

__all__ = ["EditExport", "export_for_editing"]


@dataclass(frozen=True, slots=True)
class EditExport:
    """Result of an export for editing."""

    folder: Path
    exams: tuple[str, ...]
    """Exported exams."""
    without_mask: int
    """Number of chosen exams that have no mask, and were not exported."""
    without_image: tuple[str, ...]
    """Exported exams that have masks, but no image."""

    def __str__(self) -> str:
        text = f"exported {counted(len(self.exams), 'exam')} to {self.folder}"
        text += (
            f"; {counted(self.without_mask, 'exam')} without a mask" if self.without_mask else ""
        )
        if self.without_image:
            text += f"; {counted(len(self.without_image), 'exam')} without an image"
        return text


def export_for_editing(
    lake: Lake | str | os.PathLike[str],
    out: str | os.PathLike[str],
    cohort: Cohort | str | None = None,
    *,
    program: Program = "slicer",
    masks: Masks = "mask",
    variant: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> EditExport:
    """Write the image and the masks of exams into a folder, for correction by hand.

    Parameters
    ----------
    lake : Lake or URL
    out : path
        New or empty folder. It also gets a manifest, with which `import_edits` finds what was
        changed.
    cohort : Cohort or query, optional
        Exams to export. Default: all exams that have a mask.
    program : {"slicer", "itksnap"}
        ``"slicer"``: ``EXAM.nrrd`` and ``EXAM.seg.nrrd``, a segmentation with names and colours,
        and with a layer for bones and one for cartilage. ``"itksnap"``: ``EXAM.nii.gz``, one label
        map for each kind of mask, and label descriptions.
    masks : {"mask", "reference"}
        Export ``dess/bone`` and ``dess/cartilage``, or the references.
    variant : str
        Variant of the masks, such as ``"edited"``.
    progress : callable, optional
        Called with the number of exported exams and their total.

    Returns
    -------
    EditExport

    Raises
    ------
    InputError
        If no exam has a mask, or if the folder is not empty.
    """
    if program not in get_args(Program):
        raise RunError(
            f"program = {program!r}", expected="slicer or itksnap", where="export_for_editing"
        )
    source = lake if isinstance(lake, Lake) else open_lake(os.fspath(lake), mode="r")
    arrays = MaskArrays(masks, variant)
    chosen = source.resolve(cohort)
    runs = arrays.runs(source)
    has_mask = np.any([runs[kind] >= 0 for kind in KINDS], axis=0)
    rows = [int(row) for row in chosen.rows if has_mask[row]]
    if not rows:
        raise InputError(
            f"no exam of {len(chosen.rows):,} has {arrays.path('bone')} or "
            f"{arrays.path('cartilage')}",
            expected="exams with masks",
            where=source.url,
            todo="Segment or import masks first, or choose other exams.",
            reason=Reason.ABSENT_EXAM,
        )
    folder = _new_folder(Path(out))
    imaged = read_status(source.root, "ingest_dess", len(source)).usable
    exported = []
    for count, row in enumerate(rows, 1):
        present = {kind: int(runs[kind][row]) for kind in KINDS if runs[kind][row] >= 0}
        exported.append(
            _export_exam(source, folder, row, arrays, present, program, bool(imaged[row]))
        )
        if progress is not None:
            progress(count, len(rows))
    if program == "itksnap":
        for kind in {kind for exam in exported for kind in exam.files}:
            write_label_names(folder, kind)
    name = PurePosixPath(source.url).name
    write_manifest(
        folder, Manifest(name, source.snapshot, program, masks, variant, tuple(exported))
    )
    return EditExport(
        folder,
        tuple(exam.exam for exam in exported),
        len(chosen.rows) - len(rows),
        tuple(exam.exam for exam in exported if not exam.image),
    )


def _new_folder(folder: Path) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            "the folder is not empty",
            expected=f"a new folder, so that no edited file is overwritten and {MANIFEST} is right",
            where=str(folder),
            todo="Choose another folder.",
            reason=Reason.UNREADABLE_FILE,
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _export_exam(
    lake: Lake,
    folder: Path,
    row: int,
    arrays: MaskArrays,
    runs: Mapping[str, int],
    program: Program,
    has_image: bool,
) -> ExportedExam:
    """Write the files of one exam; `runs` are those of its masks, by kind."""
    exam = str(lake.exams["exam"].iloc[row])
    found = read_exam(lake.root, "dess", ["affine", *(["image"] if has_image else [])], row)
    affine = checked_affine(found["affine"].values, exam)
    labels = {kind: arrays.read(lake.root, kind, row) for kind in runs}
    image = ""
    if has_image:
        image = write_image(folder, exam, found["image"].values, affine, program)
    files = write_masks(folder, exam, labels, affine, program)
    return ExportedExam(
        exam,
        image,
        files,
        runs,
        {kind: digest_of(values) for kind, values in labels.items()},
    )
