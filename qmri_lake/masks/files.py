"""Mask files in the axis order of a lake, whatever their format is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.core.geometry import VoxelGrid
from qmri_lake.core.label_bytes import has_label, labels_besides, relabel
from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.content import Content, Form
from qmri_lake.masks.formats import check_shape, read_content
from qmri_lake.masks.grids import (
    Affine,
    ExamGrid,
    as_grid,
    check_affine,
    reorder_onto,
    to_lake_axes,
)
from qmri_lake.masks.label_tables import Labels, find_source, unknown_label
from qmri_lake.masks.label_values import as_numbers, as_volume
from qmri_lake.masks.sources import SOURCES, Source
from qmri_lake.tissues import BONE, CARTILAGE, PART

__all__ = ["Mask", "read_mask"]


@dataclass(frozen=True, eq=False)
class Mask:
    """An external label map in the axis order of a lake."""

    labels: NDArray[np.uint8]
    """(slice, row, column) label numbers of the file; 0 is background."""
    affine: Affine
    """(4, 4) float64, voxel (slice, row, column, 1) to LPS mm. Column k belongs to array axis k."""
    meanings: Mapping[int, str]
    """Tissue of each label number in the table; empty without a table."""
    cropped: bool = False
    """Whether the file says that it contains a part of an image whose size it does not store."""
    notes: tuple[str, ...] = ()
    """Descriptions of decisions that were made while reading the file."""
    sides: Mapping[int, str] = field(default_factory=dict)
    """``medial`` or ``lateral``, by label number, if the source tells it."""

    @property
    def bone(self) -> NDArray[np.uint8] | None:
        """Labels of `qmri_lake.tissues.BONE`; None if the source has no bones."""
        return self._labels_of(BONE)

    @property
    def cartilage(self) -> NDArray[np.uint8] | None:
        """Labels of `qmri_lake.tissues.CARTILAGE`; None if the source has no cartilage."""
        return self._labels_of(CARTILAGE)

    @property
    def cartilage_part(self) -> NDArray[np.uint8] | None:
        """Labels of `qmri_lake.tissues.PART`; None if the source does not tell any side."""
        return self._lookup(self.sides, PART) if self.sides else None

    def has(self, flags: Mapping[str, int]) -> bool:
        """Return whether any voxel is a tissue of `flags`, which is `BONE` or `CARTILAGE`."""
        numbers = [n for n, tissue in self.meanings.items() if flags.get(tissue)]
        return has_label(self.labels, numbers)

    def _labels_of(self, flags: Mapping[str, int]) -> NDArray[np.uint8] | None:
        if not any(flags.get(tissue) for tissue in self.meanings.values()):
            return None  # "not segmented" differs from "background"
        return self._lookup(self.meanings, flags)

    def _lookup(self, names: Mapping[int, str], flags: Mapping[str, int]) -> NDArray[np.uint8]:
        table = np.zeros(256, np.uint8)
        for number, name in names.items():
            table[number] = flags.get(name, 0)
        return relabel(self.labels, table)

    def __repr__(self) -> str:
        named = ", ".join(f"{number} {tissue}" for number, tissue in self.meanings.items())
        grid = VoxelGrid(self.labels.shape, self.affine)
        return f"<Mask: {grid}: {named or 'numbers without a table'}>"


def read_mask(
    path: str | os.PathLike[str],
    labels: Labels | None = None,
    *,
    like: xr.Dataset | ExamGrid | None = None,
    form: Form | None = None,
) -> Mask:
    """Read an external mask.

    Parameters
    ----------
    path : path
        ``.nii``, ``.nii.gz``, ``.nrrd``, ``.nhdr``, ``.seg.nrrd``, ``.mha``, ``.mhd``, DICOM SEG,
        ``.npz`` of this package, ``.mat`` (iMorphics), ``.seg``, ``.h5``, ``.hdf5`` (IWOAI 2019).
        The content determines the format, whatever the name is.
    labels : str, path or mapping, optional
        Meaning of the label numbers: a name in `qmri_lake.masks.sources.SOURCES` such as
        ``"oai-zib"``, a YAML file, or a mapping such as ``{1: "femur", 2: "femoral"}``. Instead of
        numbers, keys may be label names that are stored in the file (segments, fields). Without
        `labels`, `meanings` is empty, and `bone` and `cartilage` are None.
    like : Dataset of one exam, optional
        Result of ``lake.load("dess", ...)``. The mask is permuted and flipped to the grid of this
        exam. Required for ``.mat`` and IWOAI files, which do not store their position. A
        ``.seg.nrrd`` file that 3D Slicer cropped, or a DICOM SEG without its empty slices, is put
        into its place; other voxels are 0.
    form : {"sform", "qform"}, optional
        Affine of a NIfTI file to use if its sform and qform differ by more than 0.1 mm. By default,
        such a file raises an error. If they agree, the sform is used, as the standard says.

    Returns
    -------
    Mask
        `labels` (slice, row, column) uint8, `affine` (4, 4) float64 in LPS mm, and `meanings`.
        Without `like`, slices increase towards the right of the patient, rows downwards and columns
        backwards, as in a sagittal DICOM series.

    Raises
    ------
    InputError
        If the file is damaged or of another format (``unreadable_file``, ``truncated_file``,
        ``trailing_bytes``, ``checksum_mismatch``, ``oversized_mask``), if values are not labels
        (``unreadable_value``, ``fractional_labels``, ``overlapping_labels``, ``unknown_label``), or
        if the position is unknown, ambiguous or not that of `like` (``grid_mismatch``,
        ``contradictory_affines``, ``implausible_voxels``).

    Examples
    --------
    >>> mask = read_mask("9001104.nii.gz", "oai-zib")  # doctest: +SKIP
    >>> (mask.cartilage == 1).sum() * abs(np.linalg.det(mask.affine))  # doctest: +SKIP
    """
    path = os.fspath(path)
    source = find_source(labels) if labels is not None else None
    grid = as_grid(like) if like is not None else None
    content = read_content(path, grid, form)
    numbers = as_numbers(as_volume(content.labels, path), path, content.step)
    meanings = _meanings(content, source, path)
    if labels is not None:
        _check_known(numbers, meanings, path)
    affine, crop = content.affine, content.crop
    cropped = False
    if affine is None:
        assert grid is not None  # read_content raises otherwise
        check_shape(numbers.shape, grid, path)
        affine = grid.affine
    elif grid is not None:
        numbers, affine = reorder_onto(numbers, affine, grid, path, crop), grid.affine
    else:
        check_affine(affine, path)
        if crop is not None and crop.whole is not None:
            numbers, affine = (
                reorder_onto(numbers, affine, crop.whole, path, crop),
                crop.whole.affine,
            )
        else:
            cropped = crop is not None and (crop.offset is None or any(crop.offset))
        numbers, affine = to_lake_axes(numbers, affine)
    return Mask(
        np.ascontiguousarray(numbers),
        affine,
        meanings,
        cropped,
        tuple(content.notes),
        _sides(content, source),
    )


def _meanings(content: Content, source: Source | None, path: str) -> dict[int, str]:
    """Return the tissue of each number. Label names in the table are looked up in the file."""
    if content.tissues is not None:
        if source is not None and source is not SOURCES["qmri-lake"]:
            raise InputError(
                f"labels = {source.name!r} for an .npz file",
                expected="labels 'qmri-lake'",
                where=path,
                todo="Omit the labels: the names of the arrays in the file define them.",
                reason=Reason.UNKNOWN_LABEL,
            )
        return dict(content.tissues)
    if source is None:
        return {}
    if source.tissues and not content.numbered:
        raise InputError(
            f"segments {', '.join(content.names)} with equal numbers in several layers",
            expected="a table of names",
            where=path,
            todo=f"Use names in the table, such as {next(iter(content.names), 'Femur')}=femur.",
            reason=Reason.UNKNOWN_LABEL,
        )
    meanings = dict(source.tissues)
    for name, tissue in source.named.items():
        if name not in content.names:
            raise InputError(
                f"no label named {name!r}",
                expected=f"one of {', '.join(content.names) or '(the file has no label names)'}",
                where=path,
                todo="Use label numbers in the table.",
                reason=Reason.UNKNOWN_LABEL,
            )
        for number in content.names[name]:
            if meanings.setdefault(number, tissue) != tissue:
                raise InputError(
                    f"label {number} is {meanings[number]}, and {tissue} by its name {name!r}",
                    expected="one tissue for each label",
                    where=path,
                    todo="Remove the number or the name from the table.",
                    reason=Reason.UNKNOWN_LABEL,
                )
    return meanings


def _sides(content: Content, source: Source | None) -> dict[int, str]:
    """Return the side of each number. Label names in the table are looked up in the file."""
    sides: dict[int, str] = {}
    for key, side in ({} if source is None else source.sides).items():
        for number in (key,) if isinstance(key, int) else content.names[key]:
            sides[number] = side
    return sides


def _check_known(numbers: NDArray[np.uint8], meanings: Mapping[int, str], path: str) -> None:
    if unknown := labels_besides(numbers, (0, *meanings)):
        raise unknown_label(
            {n: int((numbers == n).sum()) for n in unknown},
            ", ".join(["0", *(f"{number} {tissue}" for number, tissue in meanings.items())]),
            path,
            "Use the table of this source, or add the label to yours.",
        )
