"""Files of masks, read into the lake's order of axes: NIfTI, NRRD, iMorphics, IWOAI and our own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.formats import Content, check_shape, read_content
from qmri_lake.masks.grids import Affine, Grid, as_grid, check_affine, in_lake_order, onto
from qmri_lake.masks.sources import SOURCES, Labels, Source, find_source, unknown_label
from qmri_lake.tissues import BONE, CARTILAGE

__all__ = ["Mask", "read_mask"]


@dataclass(frozen=True, eq=False)
class Mask:
    """A label map somebody else made, in the lake's order of axes."""

    labels: NDArray[np.uint8]
    """(slice, row, column): the numbers of the file, 0 is background."""
    affine: Affine
    """(4, 4) float64, voxel (slice, row, column, 1) to LPS mm: column k is array axis k."""
    meanings: Mapping[int, str]
    """Tissue by number, for all numbers of the table; empty where no table was given."""
    notes: tuple[str, ...] = ()
    """What was decided on the way, in words."""

    @property
    def bone(self) -> NDArray[np.uint8] | None:
        """Labels of `qmri_lake.tissues.BONE`; None where the source has no bones."""
        return self._as(BONE)

    @property
    def cartilage(self) -> NDArray[np.uint8] | None:
        """Labels of `qmri_lake.tissues.CARTILAGE`; None where the source has none of them."""
        return self._as(CARTILAGE)

    def _as(self, flags: Mapping[str, int]) -> NDArray[np.uint8] | None:
        if not any(flags.get(tissue) for tissue in self.meanings.values()):
            return None  # never segmented, which is not "background"
        table = np.zeros(256, np.uint8)
        for number, tissue in self.meanings.items():
            table[number] = flags.get(tissue, 0)
        return table[self.labels]

    def __repr__(self) -> str:
        shape = " x ".join(str(n) for n in self.labels.shape)
        spacing = " x ".join(f"{n:.4g}" for n in np.linalg.norm(self.affine[:3, :3], axis=0))
        named = ", ".join(f"{number} {tissue}" for number, tissue in self.meanings.items())
        return f"<Mask: {shape} voxels of {spacing} mm: {named or 'numbers without a table'}>"


def read_mask(
    path: str | os.PathLike[str],
    labels: Labels | None = None,
    *,
    like: xr.Dataset | Grid | None = None,
) -> Mask:
    """Read a mask that was made elsewhere.

    Parameters
    ----------
    path : path
        ``.nii``, ``.nii.gz``, ``.nrrd``, ``.nhdr``, ``.seg.nrrd`` (one layer), our ``.npz``,
        ``.mat`` (iMorphics), ``.seg``, ``.h5``, ``.hdf5`` (IWOAI 2019).
    labels : str, path or mapping, optional
        What the numbers mean: a name in `qmri_lake.masks.sources.SOURCES` such as ``"oai-zib"``, a
        YAML file, or a mapping such as ``{1: "femur", 2: "femoral"}``. Keys may be the names that
        the file gives to its labels (segments, fields). Without it the numbers stay unexplained,
        and the mask has neither `bone` nor `cartilage`.
    like : Dataset of one exam, optional
        ``lake.load("dess", ...)``: the mask is permuted and flipped exactly onto its grid.
        ``.mat`` and IWOAI files don't say where they lie and need it.

    Returns
    -------
    Mask
        `labels` (slice, row, column) uint8, `affine` (4, 4) float64 in LPS mm, `meanings`. Without
        `like`, slices count towards the patient's right, rows down, columns back, as those of a
        sagittal DICOM series do.

    Raises
    ------
    InputError
        ``unknown_label``: a number outside the table, named; ``grid_mismatch``: another grid than
        that of `like`, or no position at all; ``unreadable_file``; ``unreadable_value``: values
        that are no labels.

    Examples
    --------
    >>> mask = read_mask("9001104.nii.gz", "oai-zib")  # doctest: +SKIP
    >>> (mask.cartilage == 1).sum() * abs(np.linalg.det(mask.affine))  # doctest: +SKIP
    """
    path = os.fspath(path)
    source = find_source(labels) if labels is not None else None
    grid = as_grid(like) if like is not None else None
    content = read_content(path, grid)
    numbers = _as_numbers(content.labels, path)
    meanings = _meanings(content, source, path)
    if labels is not None:
        _check_known(numbers, meanings, path)
    if content.affine is not None:
        affine = np.asarray(content.affine, np.float64)
        if grid is None:
            check_affine(affine, path)
            numbers, affine = in_lake_order(numbers, affine)
        else:
            numbers, affine = onto(numbers, affine, grid, path), grid.affine
    else:
        assert grid is not None  # read_content has refused the rest
        check_shape(numbers.shape, grid, path)
        affine = grid.affine
    return Mask(np.ascontiguousarray(numbers), affine, meanings, tuple(content.notes))


def _as_numbers(values: NDArray[Any], path: str) -> NDArray[np.uint8]:
    """Return labels as uint8, or say what they are instead."""
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3 or values.dtype.kind not in "fiub":
        found = f"an array of shape {values.shape} and type {values.dtype}"
    elif values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
        found = "values that are not whole numbers"
    elif values.size and (values.min() < 0 or values.max() > 255):
        found = f"values from {values.min():g} to {values.max():g}"
    else:
        return values.astype(np.uint8)
    raise InputError(
        found,
        expected="a label map: three dimensions, whole numbers of 0 to 255",
        where=path,
        todo="Give the mask, not the image, and resample labels by nearest neighbour.",
        reason=Reason.UNREADABLE_VALUE,
    )


def _meanings(content: Content, source: Source | None, path: str) -> dict[int, str]:
    """Return tissues by number: of the table, with its names looked up in the file."""
    if content.tissues is not None:
        if source is not None and source is not SOURCES["qmri-lake"]:
            raise InputError(
                f"labels {source.name!r} for our own .npz",
                expected="labels 'qmri-lake'",
                where=path,
                todo="Its arrays say themselves what they are.",
                reason=Reason.UNKNOWN_LABEL,
            )
        return dict(content.tissues)
    if source is None:
        return {}
    meanings = dict(source.tissues)
    for name, tissue in source.named.items():
        if name not in content.names:
            raise InputError(
                f"no label named {name!r}",
                expected=f"one of {', '.join(content.names) or '(a file that names its labels)'}",
                where=path,
                todo="Give numbers in the table.",
                reason=Reason.UNKNOWN_LABEL,
            )
        number = content.names[name]
        if meanings.setdefault(number, tissue) != tissue:
            raise InputError(
                f"{number} as {meanings[number]} and, named {name!r}, as {tissue}",
                expected="one tissue",
                where=path,
                todo="Leave one of them out of the table.",
                reason=Reason.UNKNOWN_LABEL,
            )
    return meanings


def _check_known(numbers: NDArray[np.uint8], meanings: Mapping[int, str], path: str) -> None:
    present = np.zeros(256, dtype=bool)
    present[numbers] = True
    strange = [n for n in np.flatnonzero(present).tolist() if n and n not in meanings]
    if strange:
        raise unknown_label(
            {n: int((numbers == n).sum()) for n in strange},
            ", ".join(["0", *(f"{number} {tissue}" for number, tissue in meanings.items())]),
            path,
            "Choose the table of this source, or add the label to your own.",
        )
