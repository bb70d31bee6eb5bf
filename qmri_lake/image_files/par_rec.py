"""Reader of Philips PAR/REC images, with NiBabel."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np

from qmri_lake.core.geometry import LPS_TO_RAS
from qmri_lake.core.text import one_line
from qmri_lake.errors import InputError, Reason
from qmri_lake.image_files.content import FileGeometry, FileImage, as_images, split_shape
from qmri_lake.masks.grids import Affine
from qmri_lake.masks.voxel_units import in_millimetres

__all__ = ["read_par_geometry", "read_par_image", "rec_file"]


def rec_file(path: str) -> str:
    """Return the path of the ``.REC`` file that belongs to a ``.PAR`` file."""
    return str(Path(path).with_suffix(".REC" if path.endswith("PAR") else ".rec"))


def read_par_geometry(path: str) -> FileGeometry:
    """Read the ``.PAR`` file.

    Raises
    ------
    InputError
        If the file is damaged, if its images are of several kinds (magnitude and phase), or if
        voxels are not those of a knee.
    """
    header = _read_header(path)
    images, shape = split_shape(tuple(int(n) for n in header.get_data_shape()), path)
    return FileGeometry(images, shape, _affine(header, shape, path), _times(header, images))


def read_par_image(path: str) -> FileImage:
    """Read the values in the ``.REC`` file beside the ``.PAR`` file, as displayed values.

    Raises
    ------
    InputError
        As in `read_par_geometry`, or if the values cannot be read.
    """
    from nibabel.parrec import PARRECArrayProxy

    header, file = _read_header(path), rec_file(path)
    if not Path(file).is_file():
        raise _damaged(f"no file {Path(file).name} beside it", path)
    try:
        proxy = cast(Any, PARRECArrayProxy)(file, header, mmap=False, scaling="dv")
        values = np.asarray(proxy)
    except Exception as error:
        raise _damaged(error, path) from error
    images = as_images(values, path)
    _, i, j, k = images.shape
    return FileImage(images, _affine(header, (i, j, k), path))


def _read_header(path: str) -> Any:
    from nibabel.parrec import PARRECHeader

    try:
        # Warnings are about versions of the format.
        with warnings.catch_warnings(action="ignore"), open(path, encoding="latin-1") as stream:
            # The order of slices and echoes is that of their numbers, not of the file.
            header = cast(Any, PARRECHeader).from_fileobj(stream, strict_sort=True)
    except Exception as error:
        raise _damaged(error, path) from error
    kinds = {int(kind) for kind in header.image_defs["image_type_mr"]}
    if len(kinds) > 1:
        raise InputError(
            f"images of {len(kinds)} kinds",
            expected="magnitude images",
            where=path,
            todo="Export the magnitude images alone.",
            reason=Reason.SEVERAL_VOLUMES,
        )
    return header


def _affine(header: Any, shape: tuple[int, int, int], path: str) -> Affine:
    affine = LPS_TO_RAS @ np.asarray(header.get_affine(), np.float64)
    return in_millimetres(affine, shape, "", path, "Export the image again.")


def _times(header: Any, images: int) -> tuple[float, ...]:
    """Return the echo time of each image; empty if the images differ in something else."""
    times = sorted({float(time) for time in header.image_defs["echo_time"]})
    return tuple(times) if len(times) == images and times[0] > 0 else ()


def _damaged(found: str | BaseException, path: str) -> InputError:
    text = found if isinstance(found, str) else one_line(found).replace(path, "the file")
    return InputError(
        text,
        expected="a .PAR file of version 4, with its .REC file beside it",
        where=path,
        todo="Copy both files again, or convert them with dcm2niix.",
        reason=Reason.UNREADABLE_FILE,
    )
