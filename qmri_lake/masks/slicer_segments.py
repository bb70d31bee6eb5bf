"""Segments of 3D Slicer in the header of a ``.seg.nrrd`` file: names, layers and the crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.geometry import GRID_TOLERANCE_MM, LPS_TO_RAS, VoxelGrid, corner_distance
from qmri_lake.core.label_bytes import labels_besides
from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.grids import Affine, Crop, format_index
from qmri_lake.masks.label_tables import unknown_label
from qmri_lake.masks.segment_overlap import add_segment

__all__ = [
    "Segment",
    "check_extents",
    "check_named",
    "merge_layers",
    "merge_named",
    "read_crop",
    "read_segments",
]

_APART = "In 3D Slicer, remove the overlap of these segments, or export them one by one."


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment: a label value in one layer of the file."""

    name: str
    layer: int
    value: int
    extent: tuple[int, ...] | None
    """First and last voxel along each axis, which are in the file; None if not stored."""


def read_segments(header: Mapping[str, Any], where: str) -> list[Segment]:
    """Read the segments of a header, with the defaults of 3D Slicer for absent fields.

    Raises
    ------
    InputError
        If a number cannot be read (``unreadable_value``).
    """
    found = []
    for n in range(len(header)):
        key = f"Segment{n}"
        if f"{key}_ID" not in header and f"{key}_Name" not in header:
            continue
        name = str(header.get(f"{key}_Name", header.get(f"{key}_ID")))
        (layer,) = _integers(header, f"{key}_Layer", 1, where) or (n,)
        (value,) = _integers(header, f"{key}_LabelValue", 1, where) or (1,)
        found.append(Segment(name, layer, value, _integers(header, f"{key}_Extent", 6, where)))
    return found


def read_crop(header: Mapping[str, Any], own: VoxelGrid, where: str) -> Crop | None:
    """Read which part of the image the file contains; None if the header does not say it.

    Parameters
    ----------
    header : mapping
        Fields of the file.
    own : VoxelGrid
        Grid of the file, in LPS.
    where : str
        Path of the file, for errors.
    """
    offset = _integers(header, "Segmentation_ReferenceImageExtentOffset", 3, where)
    if offset is None:
        return None
    first, second, third = offset
    crop = Crop((first, second, third))
    whole = _image_grid(str(header.get("Segmentation_ConversionParameters", "")))
    # The header of another file is often reused. Its image is then not that of the offset.
    if whole is None or (np.abs(whole.spacing / own.spacing - 1) > 1e-3).any():
        return crop
    placed = whole.affine.copy()
    placed[:3, 3] = whole.to_world(offset)
    distance = corner_distance(own.shape, own.affine, placed)
    return Crop(crop.offset, whole) if distance <= GRID_TOLERANCE_MM else crop


def check_extents(layers: NDArray[np.uint8], segments: Sequence[Segment], where: str) -> None:
    """Raise an error if a segment has voxels outside its extent, which 3D Slicer would not show.

    Parameters
    ----------
    layers : (layer, i, j, k) array of uint8
    segments : sequence of Segment
    where : str
        Path of the file, for errors.
    """
    for segment in segments:
        if segment.extent is None or segment.layer >= len(layers):
            continue
        low, high = segment.extent[::2], segment.extent[1::2]
        box = tuple(slice(max(a, 0), max(b + 1, 0)) for a, b in zip(low, high, strict=True))
        inside = layers[segment.layer] == segment.value
        if outside := int(inside.sum()) - int(inside[box].sum()):
            raise InputError(
                f"{counted(outside, 'voxel')} of segment {segment.name!r} outside its extent, "
                f"{format_index(low)} to {format_index(high)}",
                expected="all of its voxels inside the extent",
                where=where,
                todo="Open the file in 3D Slicer, check the segment, and save it again.",
                reason=Reason.CONTRADICTORY_AFFINES,
            )


def merge_layers(
    layers: NDArray[np.uint8], segments: Sequence[Segment], where: str
) -> tuple[NDArray[np.uint8], dict[str, tuple[int, ...]], bool]:
    """Combine layers into one label map, exactly.

    Parameters
    ----------
    layers : (layer, i, j, k) array of uint8
    segments : sequence of Segment
    where : str
        Path of the file, for errors.

    Returns
    -------
    labels : (i, j, k) array of uint8
    names : dict
        Label numbers of each segment name.
    numbered : bool
        Whether the numbers are those in the file. If two layers have the same number, segments are
        numbered from 1 in their order.

    Raises
    ------
    InputError
        If segments overlap (``overlapping_labels``), if voxels belong to no segment
        (``unknown_label``), or if a layer is absent (``unreadable_value``).
    """
    if not segments or max(s.layer for s in segments) >= len(layers):
        raise InputError(
            f"{counted(len(layers), 'layer')} without a segment for each"
            if segments
            else f"{counted(len(layers), 'volume')} without segments",
            expected="one label map (i, j, k), or the segments of 3D Slicer in layers",
            where=where,
            todo="Export a label map from 3D Slicer, or combine the channels by argmax.",
            reason=Reason.UNREADABLE_VALUE,
        )
    values = [segment.value for segment in segments]
    numbered = len(set(values)) == len(values)
    labels = np.zeros(layers.shape[1:], np.uint8)
    names: dict[str, tuple[int, ...]] = {}
    owners: dict[int, str] = {}
    for index, segment in enumerate(segments):
        number = segment.value if numbered else index + 1
        inside = layers[segment.layer] == segment.value
        add_segment(labels, inside, number, segment.name, owners, where, _APART)
        names[segment.name] = (*names.get(segment.name, ()), number)
    check_named(layers, segments, where)
    return labels, names, numbered


def merge_named(
    layers: NDArray[np.uint8],
    segments: Sequence[Segment],
    numbers: Mapping[str, int],
    where: str,
) -> NDArray[np.uint8]:
    """Combine the segments of some names into one label map; others are left out.

    Parameters
    ----------
    layers : (layer, i, j, k) array of uint8
    segments : sequence of Segment
    numbers : mapping of str to int
        Number in the result of each name.
    where : str
        Path of the file, for errors.

    Raises
    ------
    InputError
        If segments of these names overlap (``overlapping_labels``).
    """
    labels = np.zeros(layers.shape[1:], np.uint8)
    owners: dict[int, str] = {}
    for segment in segments:
        if segment.name in numbers and segment.layer < len(layers):
            inside = layers[segment.layer] == segment.value
            number = numbers[segment.name]
            add_segment(labels, inside, number, segment.name, owners, where, _APART)
    return labels


def check_named(layers: NDArray[np.uint8], segments: Sequence[Segment], where: str) -> None:
    """Raise an error if a layer has labels that no segment names (``unknown_label``)."""
    values = [segment.value for segment in segments]
    for index, layer in enumerate(layers):
        named = {segment.value for segment in segments if segment.layer == index}
        if not (rest := labels_besides(layer, (0, *named))):
            continue
        present = {n: int((layer == n).sum()) for n in rest}
        raise unknown_label(
            {n: c for n, c in present.items() if n not in values} or present,
            ", ".join(f"{s.value} {s.name}" for s in segments),
            where,
            "Name all segments, or export a label map from 3D Slicer.",
        )


def _image_grid(parameters: str) -> VoxelGrid | None:
    """Return the grid of the image in the parameters of 3D Slicer (a matrix in RAS, and bounds)."""
    _, _, text = parameters.partition("Reference image geometry|")
    try:
        numbers = [float(word) for word in text.partition("|")[0].split(";") if word]
    except ValueError:
        return None
    if len(numbers) != 22 or not np.isfinite(numbers).all():
        return None
    low, high = np.array(numbers[16::2]), np.array(numbers[17::2])
    affine: Affine = LPS_TO_RAS @ np.array(numbers[:16]).reshape(4, 4)
    if low.any() or (high < 0).any() or not abs(np.linalg.det(affine[:3, :3])) > 0:
        return None
    rows = (high + 1).astype(int)
    return VoxelGrid((int(rows[0]), int(rows[1]), int(rows[2])), affine)


def _integers(
    header: Mapping[str, Any], key: str, count: int, where: str
) -> tuple[int, ...] | None:
    if key not in header:
        return None
    try:
        numbers = tuple(int(word) for word in str(header[key]).split())
    except ValueError:
        numbers = ()
    if len(numbers) == count:
        return numbers
    raise InputError(
        f"{key} = {str(header[key])[:60]!r}",
        expected=counted(count, "whole number"),
        where=where,
        todo="Save the segmentation again with 3D Slicer.",
        reason=Reason.UNREADABLE_VALUE,
    )
