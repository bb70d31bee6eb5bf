"""Readers of mask files, one for each format; arrays have the axis order of the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from qmri_lake.core.text import format_shape, one_line
from qmri_lake.errors import InputError, QmriLakeError, Reason
from qmri_lake.masks.content import Content, Form, shared_note
from qmri_lake.masks.contours import FIELDS, read_contours
from qmri_lake.masks.dicom_seg import read_dicom_seg
from qmri_lake.masks.grids import ExamGrid
from qmri_lake.masks.iwoai_channels import read_channels
from qmri_lake.masks.mat_elements import check_mat
from qmri_lake.masks.meta_image import read_meta_image
from qmri_lake.masks.nifti import read_nifti
from qmri_lake.masks.nrrd_file import read_nrrd
from qmri_lake.masks.own_masks import read_own_masks
from qmri_lake.masks.recognition import MaskFormat, recognise

__all__ = ["check_shape", "library_errors", "read_content"]


def read_content(path: str, grid: ExamGrid | None, form: Form | None = None) -> Content:
    """Read a file by the format of its content; raise an `InputError` for any fault of the file."""
    found = recognise(path)
    if grid is None and not found.has_position:
        raise InputError(
            f"a {found} file does not store its position",
            expected="the grid of the exam",
            where=path,
            todo="Ingest the DESS series of the exam first, or pass like=lake.load('dess', ...).",
            reason=Reason.GRID_MISMATCH,
        )
    with library_errors(path, found):
        match found:
            case MaskFormat.NIFTI:
                return read_nifti(path, grid, form)
            case MaskFormat.NRRD:
                return read_nrrd(path)
            case MaskFormat.NPZ:
                return read_own_masks(path)
            case MaskFormat.MAT:
                return _mat(path, grid)
            case MaskFormat.HDF5:
                return read_channels(path)
            case MaskFormat.META_IMAGE:
                return read_meta_image(path)
            case MaskFormat.DICOM_SEG:
                return read_dicom_seg(path)


@contextmanager
def library_errors(path: str, found: MaskFormat) -> Iterator[None]:
    """Raise the errors of libraries for a damaged file as an `InputError`."""
    try:
        yield
    except QmriLakeError:
        raise
    except Exception as error:  # each library raises its own errors for a damaged file
        # Libraries name the file by its path, which is in `where` as well.
        message = one_line(error).replace(path, "the file")[:200]
        raise InputError(
            f"unreadable file: {message}",
            expected=f"a complete {found} file",
            where=path,
            todo="Copy or download it again.",
            reason=Reason.UNREADABLE_FILE,
        ) from error


def _mat(path: str, grid: ExamGrid | None) -> Content:
    assert grid is not None  # read_content raises otherwise
    check_mat(path)
    labels, shared = read_contours(path, *grid.shape[1:])
    notes = shared_note(shared)
    check_shape(labels.shape, grid, path)
    # The direction of the slices is not documented; it is derived from the anatomy if possible.
    medial, lateral = (
        np.flatnonzero((labels == FIELDS[name]).any(axis=(1, 2)))
        for name in ("MedialTibialCartilage", "LateralTibialCartilage")
    )
    if medial.size and lateral.size and grid.knee:
        # LPS: x increases to the left of the patient, which is medial for a right knee.
        outward = grid.affine[0, 0] * (1 if grid.knee == "left" else -1)
        if (lateral.mean() - medial.mean()) * outward < 0:
            labels = labels[::-1]
            notes.append("slices reversed, so that the lateral tibial cartilage is lateral")
    else:
        notes.append("slices in the order of the exam: the file does not define their direction")
    return Content(labels, None, {name: (n,) for name, n in FIELDS.items()}, notes=notes)


def check_shape(shape: tuple[int, ...], grid: ExamGrid, path: str) -> None:
    """Raise an error if the shape of a mask differs from that of its exam."""
    if shape != grid.shape:
        raise InputError(
            f"a mask of {format_shape(shape)}",
            expected=f"{format_shape(grid.shape)}, like the image of the exam",
            where=path,
            todo="Check that the mask belongs to this series.",
            reason=Reason.GRID_MISMATCH,
        )
