"""Masks of several kinds in one segmentation of 3D Slicer, read by the names of its segments.

Bones and cartilage are separate label maps, which may overlap. In the file, each has a layer, or
3D Slicer has put them into one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.text import counted, did_you_mean
from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.formats import library_errors
from qmri_lake.masks.grids import ExamGrid, reorder_onto
from qmri_lake.masks.nrrd_file import read_layers
from qmri_lake.masks.recognition import MaskFormat, recognise
from qmri_lake.masks.slicer_segments import check_named, merge_named

__all__ = ["read_segments_by_name"]


def read_segments_by_name(
    path: str, kinds: Mapping[str, Mapping[str, int]], grid: ExamGrid
) -> dict[str, NDArray[np.uint8]]:
    """Read the label map of each kind from a ``.seg.nrrd`` file.

    Parameters
    ----------
    path : str
    kinds : mapping of str to mapping of str to int
        For each kind, the label of each segment name.
    grid : ExamGrid
        Grid of the image.

    Returns
    -------
    dict of str to (slice, row, column) array of uint8
        Label map of each kind, on the grid. Voxels outside a cropped file are 0.

    Raises
    ------
    InputError
        If the file is damaged or has no segments; if a segment is absent or has a name that `kinds`
        does not contain (``unknown_label``); if segments of one kind overlap
        (``overlapping_labels``); or if the file is on another grid (``grid_mismatch``).
    """
    found = recognise(path)
    if found != MaskFormat.NRRD:
        raise InputError(
            f"a {found} file",
            expected="a segmentation of 3D Slicer (.seg.nrrd)",
            where=path,
            todo="Save the segmentation under the name of the exported file.",
            reason=Reason.UNREADABLE_FILE,
        )
    with library_errors(path, found):
        layers, affine, segments, crop = read_layers(path)
    if any(segment.layer >= len(layers) for segment in segments):
        raise InputError(
            f"{counted(len(layers), 'layer')} for {counted(len(segments), 'segment')}",
            expected="the layer of each segment in the file",
            where=path,
            todo="Save the segmentation again with 3D Slicer.",
            reason=Reason.UNREADABLE_VALUE,
        )
    names = {name for numbers in kinds.values() for name in numbers}
    for segment in segments:
        if segment.name not in names and (layers[segment.layer] == segment.value).any():
            raise InputError(
                f"a segment named {segment.name!r}",
                expected=f"the names {', '.join(sorted(names))}",
                where=path,
                todo=did_you_mean(segment.name, names)
                or "Move its voxels to one of these segments, or remove it.",
                reason=Reason.UNKNOWN_LABEL,
            )
    if missing := sorted(names - {segment.name for segment in segments}):
        raise InputError(
            f"no segment named {' and no segment named '.join(map(repr, missing))}",
            expected="all exported segments; a tissue that the knee lacks is an empty segment",
            where=path,
            todo="Add an empty segment of this name in 3D Slicer, if the tissue is to be removed.",
            reason=Reason.UNKNOWN_LABEL,
        )
    check_named(layers, segments, path)
    return {
        kind: np.ascontiguousarray(
            reorder_onto(merge_named(layers, segments, numbers, path), affine, grid, path, crop)
        )
        for kind, numbers in kinds.items()
    }
