"""Cartilage labels on the MSME grid: lazily in a session, or as a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.compute import one_exam_a_block
from qmri_lake.pairs import VOLUME, check_same_exams, check_variables, check_whole, refuse_part
from qmri_lake.registration.carry import (
    MASK_RULES,
    MaskRule,
    carry_labels,
    check_option,
    share_inside,
)
from qmri_lake.registration.rigid import Refinement, RegistrationStatus, refine_rigid
from qmri_lake.steps import step
from qmri_lake.tissues import CARTILAGE, NO_MASK
from qmri_lake.variables import REGISTRY

__all__ = ["register", "register_exam"]

Method = Literal["mutual_information", "scanner"]

_METHODS: tuple[str, ...] = get_args(Method)
_LEAST_SHARE = 0.9
"""Less of the cartilage inside the MSME's field of view is flagged."""

_BY_SCANNER = ", or use method='scanner'"

_SMALL = (
    "dess_to_msme", "mutual_information_before", "mutual_information_after", "registration_status",
)  # fmt: skip


def _check_parameters(*, method: object, mask: object) -> None:
    check_option("method", method, _METHODS, "step register")
    check_option("mask", mask, MASK_RULES, "step register")


def _reads(*, method: Method, **_: Any) -> dict[str, tuple[str, ...]]:
    images = ("image",) if method == "mutual_information" else ()
    return {"dess": ("cartilage", "affine", *images), "msme": ("affine", "extent", *images)}


@step(
    reads=_reads,
    writes=REGISTRY.made_by("register"),
    name="register",
    version="2",
    check=_check_parameters,
)
def register_exam(
    dess: xr.Dataset,
    msme: xr.Dataset,
    *,
    method: Method = "mutual_information",
    mask: MaskRule = "half",
) -> xr.Dataset:
    """Carry the cartilage labels of one exam; the parameters are those of `register`."""
    labels, affine = dess["cartilage"].values, dess["affine"].values
    target_affine, extent = msme["affine"].values, msme["extent"].values
    shape = int(extent[0]), int(extent[1]), int(extent[2])
    images = [ds["image"].values for ds in (dess, msme) if method == "mutual_information"]
    found = _place(labels, affine, target_affine, images)
    carried = carry_labels(labels, affine, target_affine, shape, found.transform, mask=mask)
    result = xr.Dataset(
        {"dess_to_msme": (("world", "voxel"), found.transform), "cartilage": (VOLUME, carried),
         **dict(zip(_SMALL[1:], (found.before, found.after, np.uint8(found.status)), strict=True))}
    )  # fmt: skip
    inside = share_inside(labels, affine, target_affine, shape, found.transform)
    odd = [*_oddities(labels, carried, inside), *([found.note] if found.note else [])]
    return result.assign_attrs(flag="; ".join(odd)) if odd else result


def _place(
    labels: NDArray[np.uint8],
    affine: NDArray[np.float64],
    target_affine: NDArray[np.float64],
    images: Sequence[NDArray[np.float32]],
) -> Refinement:
    """Say where the series of one exam lie: by their images if there are any."""
    if images:
        return refine_rigid(images[0], affine, images[1], target_affine, labels)
    unknown = float("nan")
    return Refinement(np.eye(4), unknown, unknown, RegistrationStatus.SCANNER)


def _oddities(labels: NDArray[np.uint8], carried: NDArray[np.uint8], inside: float) -> list[str]:
    """Say what a reader of T2 should know of an exam's overlap, in short texts."""
    if not labels.any():
        return ["no cartilage in the DESS labels"]
    lost = [
        name
        for name, value in CARTILAGE.items()
        if value and (labels == value).any() and not (carried == value).any()
    ]
    odd = [f"no {' or '.join(lost)} left on the MSME grid"] if lost else []
    if inside < _LEAST_SHARE:
        odd.append(f"{inside:.0%} of the labelled tissue is inside the MSME's field of view")
    return odd


def register(
    dess: xr.Dataset,
    msme: xr.Dataset,
    *,
    method: Method = "mutual_information",
    mask: MaskRule = "half",
) -> xr.Dataset:
    """Add cartilage labels on the MSME grid, and the transform that led there, lazily.

    Parameters
    ----------
    dess : Dataset
        Group ``dess``: `cartilage` and `image` (exam, slice, row, column), `affine`, and `extent`
        where exams differ. Whole volumes; without ``exam`` for one exam.
    msme : Dataset
        Group ``msme`` of the same exams in the same order, with `image`, `affine` and `extent`;
        whole volumes for ``"mutual_information"``. Neither is modified.
    method : {"mutual_information", "scanner"}
        Where the two series lie to each other. ``"mutual_information"``: a rigid motion from the
        scanner's geometry, found by the two images near cartilage; see
        `qmri_lake.registration.refine_rigid`. ``"scanner"``: as the scanner says, so a patient who
        moved between them is not followed, and `dess_to_msme` is the identity; no image is read.
        [assumption]
    mask : {"half", "nearest"}
        An MSME voxel, a box as thick as the slice spacing, is cartilage if at least half of it is;
        or: the label at its centre. [assumption]

    Returns
    -------
    Dataset
        `msme` with `dess_to_msme` (exam, world, voxel), x_msme = T x_dess in LPS mm;
        `registration_status` (exam), which says where it comes from; `mutual_information_before`
        and `mutual_information_after` (exam), nats, NaN by the scanner; and `cartilage` (exam,
        slice, row, column) uint8; all lazy. Beyond the DESS is background; beyond an exam's extent
        255.

    Raises
    ------
    NotFoundError
        A variable that is needed is not there.
    InputError
        Other exams in `dess` than in `msme`. When computed: an exam whose DESS was never
        segmented, that lacks an image, or whose two series don't overlap.
    """
    check_option("method", method, _METHODS, "register")
    check_option("mask", mask, MASK_RULES, "register")
    by_images = method == "mutual_information"
    _check_pair(dess, msme, by_images)
    renamed = {dim: f"dess_{dim}" for dim in VOLUME}
    drop = [dim for dim in VOLUME if dim in dess.coords]
    inputs = {
        "labels": dess["cartilage"].drop_vars(drop).rename(renamed),
        "affine": dess["affine"],
        "target_affine": msme["affine"],
    }
    if by_images:
        inputs["image"] = dess["image"].drop_vars(drop).rename(renamed)
        inputs["target_image"] = msme["image"]
    if "extent" in dess:
        inputs["extent"] = dess["extent"]
    if "extent" in msme:
        inputs["target_extent"] = msme["extent"]
    core = {
        "labels": [*renamed.values()], "image": [*renamed.values()],
        "target_image": ["echo", *VOLUME], "extent": ["axis"], "target_extent": ["axis"],
    }  # fmt: skip
    index = tuple(
        np.asarray(msme[dim] if dim in msme.coords else np.arange(msme.sizes[dim]), np.float64)
        for dim in VOLUME
    )
    names = (*_SMALL, "cartilage")
    made = xr.apply_ufunc(
        _register_block,
        *(one_exam_a_block(xr.DataArray(array.variable)) for array in inputs.values()),
        input_core_dims=[core.get(name, ["world", "voxel"]) for name in inputs],
        output_core_dims=[REGISTRY[f"msme/{name}"].dims for name in names],
        kwargs={"names": list(inputs), "index": index, "mask": mask},
        dask="parallelized",
        output_dtypes=[np.dtype(REGISTRY[f"msme/{name}"].dtype) for name in names],
        dask_gufunc_kwargs={
            "output_sizes": {dim: len(i) for dim, i in zip(VOLUME, index, strict=True)}
        },
        keep_attrs=False,
    )
    return msme.assign(
        {
            name: array.variable.copy(deep=False)._replace(
                attrs=REGISTRY[f"msme/{name}"].attributes()
            )
            for name, array in zip(names, made, strict=True)
        }
    )


def _check_pair(dess: xr.Dataset, msme: xr.Dataset, by_images: bool) -> None:
    """Refuse Datasets of other exams, or that lack something."""
    images = ("image",) if by_images else ()
    check_variables(dess, "dess", ("cartilage", "affine", *images), "register")
    check_variables(msme, "msme", ("affine", *images), "register")
    check_same_exams(
        dess, msme, "register", "lake.cohort().require('dess/cartilage').require('msme/image')."
    )
    check_whole(dess, "DESS", "register")
    if by_images:
        check_whole(msme, "MSME", "register", _BY_SCANNER)


def _register_block(*arrays: Any, names: list[str], **options: Any) -> Any:
    """Register a Dask block of any number of exams, one after another."""
    if arrays[0].ndim == 3:
        return _register_inside(dict(zip(names, arrays, strict=True)), **options)
    shape = [len(i) for i in options["index"]]
    out = (
        np.empty((len(arrays[0]), 4, 4)),
        *(np.empty(len(arrays[0]), REGISTRY[f"msme/{name}"].dtype) for name in _SMALL[1:]),
        np.empty((len(arrays[0]), *shape), np.uint8),
    )
    for row, exam in enumerate(zip(*arrays, strict=True)):
        made = _register_inside(dict(zip(names, exam, strict=True)), **options)
        for values, value in zip(out, made, strict=True):
            values[row] = value
    return out


def _register_inside(
    exam: dict[str, Any],
    index: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    mask: MaskRule,
) -> tuple[Any, ...]:
    """Register one exam inside its own extents; beyond them is fill, as in the lake."""
    box = [slice(None)] * 3
    if "extent" in exam and (exam["extent"] > 0).all():
        box = [slice(0, int(n)) for n in exam["extent"]]
    labels = exam["labels"][tuple(box)]
    within = exam.get("target_extent", np.full(3, np.inf))
    inside = [np.flatnonzero(i < n) for i, n in zip(index, within, strict=True)]
    images = []
    if "image" in exam:
        if "target_extent" in exam and (within > [len(i) for i in index]).any():
            raise refuse_part("MSME", "register", todo=_BY_SCANNER)
        target_box = tuple(slice(0, len(i)) for i in inside)
        images = [exam["image"][tuple(box)], exam["target_image"][(slice(None), *target_box)]]
    found = _place(labels, exam["affine"], exam["target_affine"], images)
    target = index[0][inside[0]], index[1][inside[1]], index[2][inside[2]]
    out = np.full([len(i) for i in index], NO_MASK, np.uint8)
    out[np.ix_(*inside)] = carry_labels(
        labels, exam["affine"], exam["target_affine"], target, found.transform, mask=mask
    )
    status = np.uint8(found.status)
    return found.transform, np.float64(found.before), np.float64(found.after), status, out
