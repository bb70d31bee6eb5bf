"""Reader of MetaImage files (``.mha``, or ``.mhd`` with a file of values beside it), with ITK."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from qmri_lake.core.text import one_line
from qmri_lake.errors import InputError, Reason
from qmri_lake.image_files.content import FileGeometry, FileImage, as_images, split_shape
from qmri_lake.masks.damage import check_size, trailing_bytes
from qmri_lake.masks.grids import Affine
from qmri_lake.masks.meta_image import TYPES, missing_geometry
from qmri_lake.masks.voxel_units import in_millimetres
from qmri_lake.masks.whole_files import file_beside

__all__ = ["read_meta_geometry", "read_meta_image"]

_LONGEST_HEADER = 2**16


def read_meta_geometry(path: str) -> FileGeometry:
    """Read the header of a file.

    Raises
    ------
    InputError
        If the header is damaged, the position is unknown (``grid_mismatch``), the length of the
        values contradicts the header, or voxels are not those of a knee.
    """
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(path)
    _check_header(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _damaged(error, path) from error
    components = reader.GetNumberOfComponents()
    size = [int(n) for n in reader.GetSize()]
    images, shape = split_shape((*size, components) if components > 1 else tuple(size), path)
    value = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    check_size(prod(size) * components * (8 if "64" in value else 4), path)
    return FileGeometry(images, shape, _affine(reader, shape, path))


def read_meta_image(path: str) -> FileImage:
    """Read the values of a file.

    Raises
    ------
    InputError
        As in `read_meta_geometry`, or if the file is cut off.
    """
    import SimpleITK as sitk

    geometry = read_meta_geometry(path)
    try:
        image = sitk.ReadImage(path)
    except RuntimeError as error:
        raise _damaged(error, path) from error
    values = np.asarray(sitk.GetArrayFromImage(image))
    # The axes of the array are reversed, except that of components.
    axes = list(range(image.GetDimension()))[::-1]
    if image.GetNumberOfComponentsPerPixel() > 1:
        axes.append(image.GetDimension())
    return FileImage(as_images(values.transpose(axes), path), geometry.affine)


def _affine(reader: Any, shape: tuple[int, int, int], path: str) -> Affine:
    """Return the affine, voxel (i, j, k) to LPS mm. The axes of ITK are LPS."""
    dimension = reader.GetDimension()
    directions = np.array(reader.GetDirection()).reshape(dimension, dimension)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = directions * np.array(reader.GetSpacing())[:3]
    affine[:3, 3] = np.array(reader.GetOrigin())[:3]
    return in_millimetres(affine, shape, "", path, "Write ElementSpacing in mm.")


def _check_header(path: str) -> None:
    """Raise an error if the geometry is missing, or the length of the values contradicts it."""
    fields: dict[str, str] = {}
    with open(path, "rb") as stream:
        while "ElementDataFile" not in fields:
            line = stream.readline(_LONGEST_HEADER)
            if not line or stream.tell() > _LONGEST_HEADER:
                raise _damaged("no ElementDataFile in the header", path)
            name, _, value = line.decode("latin-1").partition("=")
            fields[name.strip()] = value.strip()
        start = stream.tell()
    # ITK replaces missing fields by the position 0 and voxels of 1 mm.
    if missing := missing_geometry(fields):
        raise InputError(
            f"no {' and no '.join(missing)}, so the position is unknown",
            expected="Offset, TransformMatrix and ElementSpacing",
            where=path,
            todo="Export the image with its geometry.",
            reason=Reason.GRID_MISMATCH,
        )
    name = fields["ElementDataFile"]
    local = name.upper() == "LOCAL"
    file = Path(path) if local else file_beside(path, name, "save the image as .mha")
    _check_length(fields, file.stat().st_size - (start if local else 0), path)


def _check_length(fields: dict[str, str], stored: int, path: str) -> None:
    """Raise an error if a file has more values than its header declares; ITK finds fewer."""
    kind = TYPES.get(fields.get("ElementType", ""))
    is_plain = fields.get("CompressedData", "False").lower() in ("false", "0")
    numbers = fields.get("DimSize", "").split()
    channels = fields.get("ElementNumberOfChannels", "1")
    if kind is None or not all(text.isdecimal() for text in (*numbers, channels)):
        raise _damaged("an unknown ElementType or DimSize", path)
    expected = prod(map(int, numbers)) * int(channels) * np.dtype(kind).itemsize
    if is_plain and fields.get("HeaderSize", "0") == "0" and stored > expected:
        raise trailing_bytes(f"more than the {expected:,} bytes that the header declares", path)


def _damaged(found: str | BaseException, path: str) -> InputError:
    text = found if isinstance(found, str) else one_line(found).replace(path, "the file")
    return InputError(
        text,
        expected="a MetaImage file",
        where=path,
        todo="Copy or download it again, or save it again.",
        reason=Reason.UNREADABLE_FILE,
    )
