"""NIfTI: images, labels and maps with a JSON sidecar."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from qmri_lake.core.atomic_write import atomic_write, atomic_write_text
from qmri_lake.core.geometry import corner_distance
from qmri_lake.core.json_types import JsonObject
from qmri_lake.exporting.exam_content import ExamContent, ExportedArray
from qmri_lake.exporting.format_declaration import (
    Each,
    Format,
    Written,
    refuse_other_than_volumes,
)
from qmri_lake.exporting.unsegmented import unsegmented
from qmri_lake.image_files.sidecar import parameter_fields, time_field

__all__ = ["NIFTI", "sidecar", "write_image"]

_LABEL_INTENT = 1002  # NIFTI_INTENT_LABEL
_SCANNER = 1  # NIFTI_XFORM_SCANNER_ANAT
_QFORM_TOLERANCE_MM = 1e-4


def write_nifti(content: ExamContent, paths: Sequence[str], stem: Path) -> Written:
    """Write one variable as ``.nii.gz`` with a ``.json`` beside it."""
    written = Written()
    for path in paths:
        array = content.read(path)
        if reason := unsegmented(array, written):
            written.left_out[path] = reason
            continue
        image = stem.with_name(f"{stem.name}.nii.gz")
        written.losses += write_image(array, image, content.header())
        about = stem.with_name(f"{stem.name}.json")
        atomic_write_text(about, json.dumps(sidecar(array, content), indent=2) + "\n")
        written.files += [image, about]
    return written


def write_image(array: ExportedArray, path: Path, header: JsonObject) -> list[str]:
    """Write one volume; echoes become the fourth dimension. Return what the file does not hold.

    Voxels are in the order (column, row, slice, echo), and the affine is that of the lake in RAS,
    as sform and qform.
    """
    values = array.values.T  # (column, row, slice), and then the first dimension
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    affine = array.ras_affine
    image = nib.Nifti1Image(values, affine, dtype=values.dtype)
    image.set_sform(affine, _SCANNER)
    image.set_qform(affine, _SCANNER, strip_shears=True)
    losses = []
    qform = image.get_qform()
    if corner_distance(values.shape[:3], qform, affine) > _QFORM_TOLERANCE_MM:
        # A quaternion cannot hold axes that are not at right angles.
        image.set_qform(None, 0)
        losses.append("the axes are not at right angles: the affine is in the sform only")
    image.header.set_xyzt_units("mm")
    if array.is_labels:
        image.header["intent_code"] = _LABEL_INTENT
    mark = "synthetic " if header.get("synthetic") else ""
    image.header["descrip"] = f"{mark}{header['exam']} {array.path}".encode()[:79]
    with atomic_write(path) as unfinished:
        image.to_filename(unfinished)
    return losses


def sidecar(array: ExportedArray, content: ExamContent) -> JsonObject:
    """Return what the header of an image cannot hold, as JSON types.

    Times of images, such as ``EchoTime``, are in seconds, as in BIDS.
    """
    assert array.affine is not None
    about: JsonObject = {**content.header(), **array.metadata()}
    if array.times is not None:
        about[time_field(array.image_axis)] = (array.times / 1000).tolist()
    about |= parameter_fields(array.acquisition)
    about["affine_ras_mm"] = array.ras_affine.tolist()
    about["affine_lps_slice_row_column_mm"] = array.affine.tolist()
    return about


NIFTI = Format(
    name="nifti",
    suffix=".nii.gz",
    each=Each.VARIABLE,
    content="images, labels and maps; echoes as the fourth dimension; units, label names, echo "
    "times and lineage in a `.json` beside each image",
    loses="the affine is rounded to float32 in the header (the `.json` has float64); labels have "
    "no missing value: 255 keeps its name",
    readers="ITK-SNAP, FSL, nibabel, SPM, 3D Slicer",
    refuse=refuse_other_than_volumes,
    writer=write_nifti,
    memory_factor=4.0,
)
