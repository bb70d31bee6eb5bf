"""Reader of NIfTI masks, which checks that the two affines of a file agree."""

from __future__ import annotations

import logging
from io import BytesIO
from math import prod
from typing import Any, Literal

import numpy as np

from qmri_lake.core.geometry import LPS_TO_RAS, VoxelGrid, corner_distance, voxel_spacing
from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.content import Content, Form
from qmri_lake.masks.damage import truncated
from qmri_lake.masks.grids import Affine, check_affine, reorder_onto
from qmri_lake.masks.voxel_units import in_millimetres
from qmri_lake.masks.whole_files import open_plain, read_exactly

__all__ = ["FORM_TOLERANCE_MM", "read_nifti", "read_nifti_geometry"]

FORM_TOLERANCE_MM = 0.1
"""Largest distance between the corners of the grids of sform and qform that agree. The rotation of
the qform is stored in single precision, which is up to 0.1 mm at the corners of a knee.
[assumption]"""

_UNITS = {0: "", 1: "metres", 2: "millimetres", 3: "micrometres"}
_LARGEST_CODE = 5
_SPACING_TOLERANCE = 0.01
"""Relative difference between voxel sizes that agree. [assumption]"""

_ERROR = 40
"""Level of a fault of a header that the library cannot correct."""

_SILENT = logging.Logger("nifti headers", logging.CRITICAL + 1)
"""Drops what the library says about a header. Faults that matter are errors of this module."""

_HEADER = 540
"""Bytes of the larger of the two headers."""


def read_nifti(path: str, grid: VoxelGrid | None, form: Form | None) -> Content:
    """Read a NIfTI file, compressed or not.

    Parameters
    ----------
    path : str
    grid : VoxelGrid or None
        Grid of the image. An error about affines names the affine that is on this grid.
    form : {"sform", "qform"} or None
        Affine to use if both are present. By default, both must agree.

    Raises
    ------
    InputError
        If the file is damaged, if sform and qform differ (``contradictory_affines``) or are absent
        (``grid_mismatch``), or if voxels are not those of a knee (``implausible_voxels``).
    """

    def size(first: bytes) -> int:
        header = _header_of(first, path)
        values = prod(int(n) for n in header.get_data_shape())
        return int(header.get_data_offset() + values * header.get_data_dtype().itemsize)

    with open_plain(path) as stream:
        content = read_exactly(stream, path, _HEADER, size)
        header = _header_of(content[:_HEADER], path)
    values = header.data_from_fileobj(BytesIO(content))
    slope, _ = header.get_slope_inter()
    step = abs(slope) if slope is not None and values.dtype.kind == "f" else 0.0
    # Stored numbers that are themselves fractions have no steps.
    scaled = header.get_data_dtype().kind in "iu"
    affine = _affine_of(header, path, grid, form)
    return Content(values, affine, step=step if scaled else 0.0)


def read_nifti_geometry(path: str, form: Form | None) -> tuple[tuple[int, ...], Affine]:
    """Read the header of a NIfTI file, without its values.

    Returns
    -------
    shape : tuple of int
        Number of values along each axis.
    affine : (4, 4) float64
        Voxel (i, j, k, 1) to LPS mm.

    Raises
    ------
    InputError
        As in `read_nifti`.
    """
    with open_plain(path) as stream:
        header = _header_of(stream.read(_HEADER), path)
    shape = tuple(int(n) for n in header.get_data_shape())
    return shape, _affine_of(header, path, None, form)


def _header_of(first: bytes, path: str) -> Any:
    """Return the header, whose fields must not contradict one another.

    NiBabel corrects some of these fields without an error; it only writes a line to its log.
    """
    from nibabel import Nifti1Header, Nifti2Header

    kinds: dict[int, Any] = {348: Nifti1Header, 540: Nifti2Header}
    order: Literal["little", "big"] = (
        "little" if int.from_bytes(first[:4], "little") in kinds else "big"
    )
    kind = kinds.get(int.from_bytes(first[:4], order))
    if kind is None:
        raise _damaged("no NIfTI header", "the content of a .nii file", path)
    length = kind.template_dtype.itemsize
    if len(first) < length:
        raise truncated(f"{len(first)} bytes, fewer than a header has", path)
    header = kind(first[:length], check=False)
    if header["magic"].item()[:3] not in (b"n+1", b"n+2"):
        raise _damaged("the header of a pair of files", "a .nii file with its values", path)
    for name in ("sform_code", "qform_code"):
        if not 0 <= int(header[name]) <= _LARGEST_CODE:
            raise _damaged(f"{name} = {int(header[name])}", f"0 to {_LARGEST_CODE}", path)
    pixdim = np.asarray(header["pixdim"][:4], np.float64)
    if header["qform_code"] and not (pixdim[0] in (-1, 0, 1) and (pixdim[1:] > 0).all()):
        raise _damaged(f"pixdim = {pixdim.round(4).tolist()}", "-1 or 1, and voxel sizes", path)
    bits_stored, dims = int(header["bitpix"]), header["dim"].tolist()
    header.check_fix(_SILENT, error_level=_ERROR)
    bits = 8 * header.get_data_dtype().itemsize
    if bits_stored != bits:
        raise _damaged(f"bitpix = {bits_stored}", f"{bits}, as its datatype has", path)
    if not 1 <= dims[0] <= 7 or min(header.get_data_shape()) < 1:
        raise _damaged(f"dim = {dims}", "at least one voxel along each axis", path)
    return header


def _affine_of(header: Any, path: str, grid: VoxelGrid | None, form: Form | None) -> Affine:
    """Return the affine, LPS mm; raise an error if it is unknown or ambiguous."""
    first, second, third = (int(n) for n in (*header.get_data_shape(), 1, 1)[:3])
    shape = (first, second, third)
    unit = _UNITS.get(int(header["xyzt_units"]) & 7)
    if unit is None:
        raise _damaged(f"xyzt_units = {int(header['xyzt_units'])}", "0 to 3 for lengths", path)
    codes = {name: int(header[f"{name}_code"]) for name in ("sform", "qform")}
    present = [name for name, code in codes.items() if code]
    if not present:
        raise InputError(
            "no sform and no qform, so the position is unknown",
            expected="an sform or a qform",
            where=path,
            todo="Copy the affine of the image into the file.",
            reason=Reason.GRID_MISMATCH,
        )
    if form in present:
        present = [form]
    else:
        _check_pixdim(header, codes, path)
    todo = "Set the unit in the file, as in nibabel: image.header.set_xyzt_units('mm')."
    affines = {
        name: in_millimetres(LPS_TO_RAS @ _decoded(header, name, path), shape, unit, path, todo)
        for name in present
    }
    chosen = affines[present[0]]  # the sform, as the standard says
    if len(present) == 1:
        return chosen
    distance = corner_distance(shape, *affines.values())
    if distance > FORM_TOLERANCE_MM:
        on_grid = [name for name, one in affines.items() if _is_on(one, shape, grid)]
        hint = f"; the {' and the '.join(on_grid)} is on the grid of the image" if on_grid else ""
        raise InputError(
            f"sform (code {codes['sform']}) and qform (code {codes['qform']}) are "
            f"{distance:.2f} mm apart{hint}",
            expected=f"the same position, within {FORM_TOLERANCE_MM} mm",
            where=path,
            todo="Choose one of them: --form sform or --form qform, in Python form='sform' or "
            "form='qform'.",
            reason=Reason.CONTRADICTORY_AFFINES,
        )
    return chosen


def _check_pixdim(header: Any, codes: dict[str, int], path: str) -> None:
    """Raise an error if the voxel sizes of the header contradict its sform.

    Voxel sizes of 1 are those of programs that do not set them. The qform contains the voxel sizes.
    """
    stored = np.asarray(header["pixdim"][1:4], np.float64)
    if not codes["sform"] or codes["qform"] or (stored == 1).all():
        return
    spacing = voxel_spacing(_decoded(header, "sform", path))
    if np.allclose(stored, spacing, rtol=_SPACING_TOLERANCE):
        return
    raise InputError(
        f"pixdim has voxels of {_sizes(stored)}, and the sform of {_sizes(spacing)}",
        expected="the same voxel sizes, within 1 %",
        where=path,
        todo="If the sform is right, use --form sform, in Python form='sform'.",
        reason=Reason.CONTRADICTORY_AFFINES,
    )


def _sizes(spacing: Affine) -> str:
    return " x ".join(f"{size:.4g}" for size in spacing)


def _decoded(header: Any, name: str, path: str) -> Affine:
    from nibabel.spatialimages import HeaderDataError

    try:
        affine = np.asarray(getattr(header, f"get_{name}")(), np.float64)
    except (
        ValueError,
        HeaderDataError,
    ) as error:  # a quaternion or voxel sizes that nothing can have
        raise InputError(
            f"an invalid {name}: {error}",
            expected="a rotation and positive voxel sizes",
            where=path,
            todo="Copy the affine of the image into the file.",
            reason=Reason.GRID_MISMATCH,
        ) from error
    check_affine(affine, path, smallest=0.0)
    return affine


def _is_on(affine: Affine, shape: tuple[int, int, int], grid: VoxelGrid | None) -> bool:
    if grid is None:
        return False
    try:
        reorder_onto(np.broadcast_to(np.uint8(0), shape), affine, grid, "")
    except InputError:
        return False
    return True


def _damaged(found: str, expected: str, path: str) -> InputError:
    return InputError(
        found,
        expected=expected,
        where=path,
        todo="The header is damaged: copy or download it again.",
        reason=Reason.UNREADABLE_FILE,
    )
