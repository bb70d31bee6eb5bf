"""Units of length of mask files, and the range of voxel sizes that a mask of a knee has."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qmri_lake.core.geometry import VoxelGrid, voxel_spacing
from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.grids import Affine, check_affine
from qmri_lake.oai.plausible import FIELD_OF_VIEW, PIXEL_SPACING

__all__ = ["MILLIMETRES", "in_millimetres"]

MILLIMETRES: Mapping[str, float] = {
    "millimetres": 1.0,
    "metres": 1e3,
    "micrometres": 1e-3,
    "centimetres": 10.0,
}
"""Length of each unit, mm."""

_USUAL = (0.1, 10.0)
"""Usual distances, mm, from which a unit is guessed. [assumption]"""
_WHOLE = 128
"""Voxels. An axis with fewer voxels may be a crop, and its extent has no minimum. [assumption]"""


def in_millimetres(
    affine: Affine, shape: tuple[int, int, int], unit: str, where: str, todo: str
) -> Affine:
    """Convert an affine to millimetres; raise an error if the voxels are not those of a knee.

    Parameters
    ----------
    affine : (4, 4)
        Affine in the unit of the file.
    shape : tuple of three int
        Number of voxels along each axis.
    unit : str
        Key of `MILLIMETRES`; "" if the file does not say it: millimetres.
    where, todo : str
        Path of the file and what to do, for errors.

    Raises
    ------
    InputError
        If a voxel or the volume is too small or too large (``implausible_voxels``). The error names
        the unit in which the voxels would have a usual size.
    """
    scaled = affine.copy()
    scaled[:3] *= MILLIMETRES[unit or "millimetres"]
    check_affine(affine, where, smallest=0.0)
    spacing = voxel_spacing(scaled)
    width = spacing * shape
    closest, widest = PIXEL_SPACING.low, PIXEL_SPACING.high
    least, most = FIELD_OF_VIEW
    narrow = (width < least) & (np.asarray(shape) >= _WHOLE)
    unusual = spacing.min() < closest or spacing.max() > widest
    if not (unusual or narrow.any() or width.max() > most):
        check_affine(scaled, where)
        return scaled
    guess = _guess(voxel_spacing(affine), unit)
    said = f"the file says {unit}" if unit else "the file does not say the unit"
    raise InputError(
        f"{VoxelGrid(shape, scaled)}, as {said}{f': {guess}?' if guess else ''}",
        expected=f"voxels of {closest:g} to {widest:g} mm, and a volume of "
        f"{least:g} to {most:g} mm",
        where=where,
        todo=todo,
        reason=Reason.IMPLAUSIBLE_VOXELS,
    )


def _guess(spacing: Affine, unit: str) -> str:
    """Return the other unit in which distances would be usual; "" if there is none."""
    low, high = _USUAL
    return next(
        (
            name
            for name, length in MILLIMETRES.items()
            if name != (unit or "millimetres")
            and (spacing * length >= low).all()
            and (spacing * length <= high).all()
        ),
        "",
    )
