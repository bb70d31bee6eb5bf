"""Reader of Philips PAR/REC images, with NiBabel."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from qmri_lake.core.text import one_line
from qmri_lake.errors import InputError, Reason
from qmri_lake.image_files.content import FileGeometry, FileImage, as_images, split_shape
from qmri_lake.masks.grids import Affine
from qmri_lake.masks.voxel_units import in_millimetres

__all__ = ["read_par_geometry", "read_par_image"]

_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_par_geometry(path: str) -> FileGeometry:
    """Read the ``.PAR`` file.

    Raises
    ------
    InputError
        If the file is damaged, if its images are of several kinds (magnitude and phase), or if
        voxels are not those of a knee.
    """
    image = _open(path)
    images, shape = split_shape(tuple(image.shape), path)
    return FileGeometry(images, shape, _affine(image, shape, path), _times(image, images, path))


def read_par_image(path: str) -> FileImage:
    """Read the values in the ``.REC`` file beside the ``.PAR`` file, as displayed values.

    Raises
    ------
    InputError
        As in `read_par_geometry`, or if the values cannot be read.
    """
    image = _open(path)
    try:
        values = np.asarray(image.dataobj)
    except Exception as error:
        raise _damaged(error, path) from error
    images = as_images(values, path)
    _, i, j, k = images.shape
    return FileImage(images, _affine(image, (i, j, k), path))


def _open(path: str) -> Any:
    from nibabel.parrec import PARRECImage

    try:
        with warnings.catch_warnings(action="ignore"):  # about versions of the format
            # The order of slices and echoes is that of their numbers, not of the file.
            return PARRECImage.from_filename(path, strict_sort=True)
    except Exception as error:
        raise _damaged(error, path) from error


def _affine(image: Any, shape: tuple[int, int, int], path: str) -> Affine:
    affine = _TO_LPS @ np.asarray(image.affine, np.float64)
    return in_millimetres(affine, shape, "", path, "Export the image again.")


def _times(image: Any, images: int, path: str) -> tuple[float, ...]:
    """Return the echo time of each image; empty if the images differ in something else."""
    lines = image.header.image_defs
    kinds = {int(kind) for kind in lines["image_type_mr"]}
    if len(kinds) > 1:
        raise InputError(
            f"images of {len(kinds)} kinds",
            expected="magnitude images",
            where=path,
            todo="Export the magnitude images alone.",
            reason=Reason.SEVERAL_VOLUMES,
        )
    times = sorted({float(time) for time in lines["echo_time"]})
    return tuple(times) if len(times) == images and times[0] > 0 else ()


def _damaged(error: BaseException, path: str) -> InputError:
    return InputError(
        one_line(error).replace(path, "the file"),
        expected="a .PAR file of version 4, with its .REC file beside it",
        where=path,
        todo="Copy both files again, or convert them with dcm2niix.",
        reason=Reason.UNREADABLE_FILE,
    )
