"""Reader of NRRD images (``.nrrd``, ``.nhdr``); echoes lie along an axis without direction."""

from __future__ import annotations

from typing import Any

import numpy as np

from qmri_lake.errors import InputError, Reason
from qmri_lake.image_files.content import FileGeometry, FileImage, as_images, split_shape
from qmri_lake.masks.grids import Affine
from qmri_lake.masks.nrrd_file import affine_of, read_header, read_values

__all__ = ["read_nrrd_geometry", "read_nrrd_image"]


def read_nrrd_geometry(path: str) -> FileGeometry:
    """Read the header of a file.

    Raises
    ------
    InputError
        If the header is damaged, the position is unknown, or voxels are not those of a knee.
    """
    header = read_header(path)
    sizes = [int(n) for n in header.get("sizes", ())]
    axis, vectors = _image_axis(header, len(sizes), path)
    if axis is not None:
        sizes.append(sizes.pop(axis))
    images, shape = split_shape(tuple(sizes), path)
    return FileGeometry(images, shape, affine_of(header, vectors, shape, path))


def read_nrrd_image(path: str) -> FileImage:
    """Read the values of a file, whose length and checksum are verified.

    Raises
    ------
    InputError
        As in `read_nrrd_geometry`, or if the file is damaged.
    """
    values, header = read_values(path)
    axis, vectors = _image_axis(header, values.ndim, path)
    if axis is not None:
        values = np.moveaxis(values, axis, -1)
    images = as_images(values, path)
    _, i, j, k = images.shape
    return FileImage(images, affine_of(header, vectors, (i, j, k), path))


def _image_axis(header: dict[str, Any], ndim: int, path: str) -> tuple[int | None, Affine]:
    """Return the axis of the images, None for one volume, and the directions of the others."""
    stored = header.get("space directions")
    vectors = np.full((ndim, 3), np.nan) if stored is None else np.asarray(stored, np.float64)
    if vectors.shape != (ndim, 3):
        vectors = np.full((ndim, 3), np.nan)
    lists = np.flatnonzero(np.isnan(vectors).all(axis=1)).tolist()
    if len(lists) == ndim - 3 <= 1:
        return (lists[0] if lists else None), np.delete(vectors, lists, axis=0)
    raise InputError(
        f"{ndim - len(lists)} space directions for {ndim} axes",
        expected="three directions, and none for the axis of echoes",
        where=path,
        todo="Export the image with its geometry.",
        reason=Reason.GRID_MISMATCH,
    )
