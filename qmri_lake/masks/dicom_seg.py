"""Reader of DICOM segmentations (SEG): segments with names, at the position of their image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.content import Content
from qmri_lake.masks.damage import check_size
from qmri_lake.masks.grids import Crop
from qmri_lake.masks.segment_overlap import add_segment
from qmri_lake.masks.voxel_units import in_millimetres

__all__ = ["read_dicom_seg"]

_LARGEST_NUMBER = 255


def read_dicom_seg(path: str) -> Content:
    """Read a DICOM SEG file of binary segments, or a label map.

    The number of a label is the number of its segment. Slices without a segment may be omitted in
    the file; it then is a part of its image.

    Raises
    ------
    InputError
        If the file is damaged, if segments are fractional (``fractional_labels``) or overlap
        (``overlapping_labels``), or if slices are not a regular volume (``grid_mismatch``).
    """
    seg = _library().seg.segread(path)
    if seg.segmentation_type.value == "FRACTIONAL":
        raise InputError(
            "a fractional segmentation",
            expected="binary segments or a label map",
            where=path,
            todo="Threshold the segments, and save them as a binary segmentation.",
            reason=Reason.FRACTIONAL_LABELS,
        )
    geometry = seg.get_volume_geometry()
    if geometry is None or seg.get("DimensionOrganizationType") == "TILED_FULL":
        raise InputError(
            "slices that are not parallel and evenly spaced",
            expected="one volume",
            where=path,
            todo="Segment one series, and save the segmentation again.",
            reason=Reason.GRID_MISMATCH,
        )
    slices, rows, columns = (int(n) for n in geometry.spatial_shape)
    check_size(slices * rows * columns, path)
    labels, names = _merge(seg, (slices, rows, columns), path)
    affine = in_millimetres(
        np.asarray(geometry.affine, np.float64), (slices, rows, columns), "millimetres", path, ""
    )
    crop = None if _source_slices(seg) == slices else Crop(None)
    return Content(labels, affine, names, crop=crop)


def _library() -> Any:
    try:
        import highdicom  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise InputError(
            "highdicom is not installed",
            expected="the extra dicom, to read DICOM SEG",
            where="read_mask",
            todo="pip install 'qmri-lake[dicom]'",
            reason=Reason.UNREADABLE_FILE,
        ) from error
    return highdicom


def _merge(
    seg: Any, shape: tuple[int, int, int], path: str
) -> tuple[NDArray[np.uint8], dict[str, tuple[int, ...]]]:
    """Return the segments as one label map, and the numbers of each name."""
    numbers = [int(number) for number in seg.segment_numbers]
    if not numbers or max(numbers) > _LARGEST_NUMBER:
        raise InputError(
            f"segment number {max(numbers)}" if numbers else "no segment",
            expected=f"segments with numbers 1 to {_LARGEST_NUMBER}",
            where=path,
            todo="Number the segments from 1, and save the segmentation again.",
            reason=Reason.UNREADABLE_VALUE,
        )
    names: dict[str, tuple[int, ...]] = {}
    owners: dict[int, str] = {}
    labels = np.zeros(shape, np.uint8)
    for number in numbers:
        name = str(seg.get_segment_description(number).segment_label)
        names[name] = (*names.get(name, ()), number)
        # One segment at a time, so that the memory does not grow with their number.
        inside = seg.get_volume(segment_numbers=[number]).array[..., 0] != 0
        if inside.shape != shape:
            raise InputError(
                f"segment {name!r} of {counted(len(inside), 'slice')}",
                expected=f"{shape[0]}, like the other segments",
                where=path,
                todo="Save the segmentation again.",
                reason=Reason.UNREADABLE_VALUE,
            )
        add_segment(labels, inside, number, name, owners, path, "Remove the overlap.")
    return labels, names


def _source_slices(seg: Any) -> int:
    """Return the number of slices of the segmented series; 0 if the file does not list them."""
    series = seg.get("ReferencedSeriesSequence") or []
    listed = [len(item.get("ReferencedInstanceSequence") or []) for item in series]
    return listed[0] if len(listed) == 1 else 0
