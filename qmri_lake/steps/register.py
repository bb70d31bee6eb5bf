"""Transfer cartilage labels to the grid of another series, lazily or by a step of a run."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.errors import NotFoundError
from qmri_lake.execution.session import (
    DESS_DIMS,
    check_same_exams,
    check_variables,
    check_whole,
    exam_box,
    map_exams,
    on_dess_dims,
    refuse_part,
)
from qmri_lake.execution.step import step
from qmri_lake.registration.label_transfer import (
    MASK_RULES,
    MaskRule,
    check_option,
    transfer_labels,
)
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.groups import GROUPS
from qmri_lake.schema.variable import VOLUME_DIMS
from qmri_lake.steps._registration import (
    METHODS,
    SMALL,
    Method,
    check_registration,
    place,
    registered_series,
    series_reads,
    short_name,
)
from qmri_lake.tissues import NO_MASK

__all__ = ["register", "register_exam"]

_BY_SCANNER = ", or use method='scanner'"


def _check_parameters(*, method: object, mask: object) -> None:
    check_registration("step register", method=method, mask=mask)


def _reads(*, method: Method, **_: object) -> dict[str, tuple[str, ...]]:
    return series_reads("msme", method)


@step(
    reads=_reads,
    writes=REGISTRY.variables_of("register"),
    name="register",
    version="2",
    validate=_check_parameters,
)
def register_exam(
    dess: xr.Dataset,
    msme: xr.Dataset,
    *,
    method: Method = "mutual_information",
    mask: MaskRule = "half",
) -> xr.Dataset:
    """Transfer the cartilage labels of one exam; the parameters are those of `register`."""
    return registered_series(dess, msme, "msme", method=method, mask=mask)


def register(
    dess: xr.Dataset,
    msme: xr.Dataset,
    *,
    method: Method = "mutual_information",
    mask: MaskRule = "half",
    group: str = "msme",
) -> xr.Dataset:
    """Add cartilage labels on the MSME grid, and the transform between the series, lazily.

    Parameters
    ----------
    dess : Dataset
        Group ``dess``: `cartilage` and `image` (exam, slice, row, column), `affine`, and `extent`
        if exams differ in size. Volumes must be whole. A single exam has no dimension ``exam``.
    msme : Dataset
        Group ``msme`` of the same exams in the same order, with `image`, `affine` and `extent`. For
        ``"mutual_information"`` volumes must be whole. Neither Dataset is modified.
    method : {"mutual_information", "scanner"}
        How the two series are aligned. ``"mutual_information"``: by a rigid motion that starts from
        the scanner's geometry and maximises the mutual information of the two images near
        cartilage; see `qmri_lake.registration.refine_rigid`. ``"scanner"``: by the scanner's
        geometry alone. In this case motion of the patient between the series is not corrected,
        `dess_to_msme` is the identity, and no image is read. [assumption]
    mask : {"half", "nearest"}
        ``"half"``: an MSME voxel, whose thickness is the slice spacing, is cartilage if cartilage
        fills at least half of its volume. ``"nearest"``: an MSME voxel gets the label at its
        centre. [assumption]
    group : str
        Group of `msme`, for another series than the multi-echo series, such as ``"t1rho"``. The
        transform is then called ``dess_to_t1rho``.

    Returns
    -------
    Dataset
        `msme` with these lazy variables: `dess_to_msme` (exam, world, voxel), the transform T in
        x_msme = T x_dess, LPS [mm]; `registration_status` (exam), the origin of the transform;
        `mutual_information_before` and `mutual_information_after` (exam) [nat], NaN with
        ``"scanner"``; `cartilage` (exam, slice, row, column) uint8. Labels are background outside
        the DESS volume, and 255 outside the extent of an exam.

    Raises
    ------
    NotFoundError
        If a variable is missing.
    InputError
        If `dess` and `msme` have different exams. When computed: if the DESS of an exam was never
        segmented, if an exam lacks an image, or if its two series don't overlap.
    """
    check_option("method", method, METHODS, "register")
    check_option("mask", mask, MASK_RULES, "register")
    by_images = method == "mutual_information"
    _check_pair(dess, msme, by_images, group)
    matrix = ("world", "voxel")
    inputs: dict[str, tuple[Sequence[str], xr.DataArray]] = {
        "labels": (DESS_DIMS, on_dess_dims(dess["cartilage"])),
        "affine": (matrix, dess["affine"]),
        "target_affine": (matrix, msme["affine"]),
    }
    if by_images:
        inputs["image"] = DESS_DIMS, on_dess_dims(dess["image"])
        inputs["target_image"] = GROUPS.image_dims(group), msme["image"]
    if "extent" in dess:
        inputs["extent"] = ("axis",), dess["extent"]
    if "extent" in msme:
        inputs["target_extent"] = ("axis",), msme["extent"]
    index = tuple(
        np.asarray(msme[dim] if dim in msme.coords else np.arange(msme.sizes[dim]), np.float64)
        for dim in VOLUME_DIMS
    )
    return msme.assign(
        map_exams(
            functools.partial(_register_inside, index=index, mask=mask, name=short_name(group)),
            inputs,
            [REGISTRY[f"{group}/{name}"] for name in (f"dess_to_{group}", *SMALL, "cartilage")],
            sizes={dim: msme.sizes[dim] for dim in VOLUME_DIMS},
        )
    )


def _check_pair(dess: xr.Dataset, msme: xr.Dataset, by_images: bool, group: str) -> None:
    """Check that both Datasets have the same exams and all variables."""
    images = ("image",) if by_images else ()
    check_variables(dess, "dess", ("cartilage", "affine", *images), "register")
    if f"{group}/dess_to_{group}" not in REGISTRY:
        raise NotFoundError(
            f"no registration of the DESS to group {group!r}",
            expected="a series with registration_step(group), such as msme, t1rho or qdess",
            where="register",
        )
    check_variables(msme, group, ("affine", *images), "register")
    check_same_exams(
        dess,
        msme,
        "register",
        f"lake.cohort().require('dess/cartilage').require('{group}/image').",
        group,
    )
    check_whole(dess, "DESS", "register")
    if by_images:
        check_whole(msme, short_name(group), "register", _BY_SCANNER)


def _register_inside(
    labels: NDArray[np.uint8],
    affine: NDArray[np.float64],
    target_affine: NDArray[np.float64],
    image: NDArray[np.float32] | None = None,
    target_image: NDArray[np.float32] | None = None,
    extent: NDArray[np.int32] | None = None,
    target_extent: NDArray[np.int32] | None = None,
    *,
    index: tuple[NDArray[np.float64], ...],
    mask: MaskRule,
    name: str,
) -> tuple[Values | np.generic | float, ...]:
    """Register one exam inside its extents; outside, labels are the fill value, as in a lake."""
    box = exam_box(extent)
    labels = labels[box]
    within = np.full(3, np.inf) if target_extent is None else target_extent
    inside = [np.flatnonzero(i < n) for i, n in zip(index, within, strict=True)]
    images = []
    if image is not None and target_image is not None:
        if target_extent is not None and (target_extent > [len(i) for i in index]).any():
            raise refuse_part(name, "register", todo=_BY_SCANNER)
        slices, rows, columns = (len(i) for i in inside)
        images = [image[box], target_image[..., :slices, :rows, :columns]]
    found = place(labels, affine, target_affine, images)
    target = index[0][inside[0]], index[1][inside[1]], index[2][inside[2]]
    out = np.full([len(i) for i in index], NO_MASK, np.uint8)
    out[np.ix_(*inside)] = transfer_labels(
        labels, affine, target_affine, target, found.transform, mask=mask
    )
    return found.transform, found.before, found.after, np.uint8(found.status), out
