"""Registration of the DESS to another series of one exam, for the steps that transfer labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.registration.label_transfer import (
    MASK_RULES,
    MaskRule,
    check_option,
    share_inside,
    transfer_labels,
)
from qmri_lake.registration.rigid import Refinement, RegistrationStatus, refine_rigid
from qmri_lake.schema.groups import GROUPS
from qmri_lake.schema.variable import VOLUME_DIMS
from qmri_lake.tissues import CARTILAGE

__all__ = [
    "METHODS",
    "SMALL",
    "Method",
    "check_registration",
    "place",
    "registered_series",
    "series_reads",
    "short_name",
]

Method = Literal["mutual_information", "scanner"]

METHODS: tuple[str, ...] = get_args(Method)
_LEAST_SHARE = 0.9
"""Minimum share of the cartilage inside the field of view of the other series. If the share of an
exam is smaller, the exam is flagged."""

SMALL = ("mutual_information_before", "mutual_information_after", "registration_status")


def check_registration(where: str, *, method: object, mask: object) -> None:
    """Check the parameters of a registration when a run is planned."""
    check_option("method", method, METHODS, where)
    check_option("mask", mask, MASK_RULES, where)


def series_reads(group: str, method: Method) -> dict[str, tuple[str, ...]]:
    """Return what the registration of the DESS to a series reads."""
    images = ("image",) if method == "mutual_information" else ()
    return {"dess": ("cartilage", "affine", *images), group: ("affine", "extent", *images)}


def registered_series(
    dess: xr.Dataset, series: xr.Dataset, group: str, *, method: Method, mask: MaskRule
) -> xr.Dataset:
    """Return the results of one exam: the transform ``dess_to_GROUP``, labels, and their status."""
    labels, affine = dess["cartilage"].values, dess["affine"].values
    target_affine, extent = series["affine"].values, series["extent"].values
    shape = int(extent[0]), int(extent[1]), int(extent[2])
    images = [ds["image"].values for ds in (dess, series) if method == "mutual_information"]
    found = place(labels, affine, target_affine, images)
    transferred = transfer_labels(labels, affine, target_affine, shape, found.transform, mask=mask)
    result = xr.Dataset(
        {
            f"dess_to_{group}": (("world", "voxel"), found.transform),
            "cartilage": (VOLUME_DIMS, transferred),
            **dict(zip(SMALL, (found.before, found.after, np.uint8(found.status)), strict=True)),
        }
    )
    inside = share_inside(labels, affine, target_affine, shape, found.transform)
    name = short_name(group)
    odd = [*_oddities(labels, transferred, inside, name), *([found.note] if found.note else [])]
    return result.assign_attrs(flag="; ".join(odd)) if odd else result


def short_name(group: str) -> str:
    """Return the short name of a series in messages."""
    return "MSME" if group == "msme" else GROUPS[group].label


def place(
    labels: NDArray[np.uint8],
    affine: NDArray[np.float64],
    target_affine: NDArray[np.float64],
    images: Sequence[NDArray[np.float32]],
) -> Refinement:
    """Register the two series of one exam, by their images if images are given."""
    if images:
        target = images[1] if images[1].ndim > len(VOLUME_DIMS) else images[1][None]
        return refine_rigid(images[0], affine, target, target_affine, labels)
    unknown = float("nan")
    return Refinement(np.eye(4), unknown, unknown, RegistrationStatus.SCANNER)


def _oddities(
    labels: NDArray[np.uint8], transferred: NDArray[np.uint8], inside: float, name: str
) -> list[str]:
    """Return notes on an implausible overlap of an exam's series."""
    if not labels.any():
        return ["no cartilage in the DESS labels"]
    missing = [
        name
        for name, value in CARTILAGE.items()
        if value and (labels == value).any() and not (transferred == value).any()
    ]
    odd = [f"no {' or '.join(missing)} left on the {name} grid"] if missing else []
    if inside < _LEAST_SHARE:
        odd.append(f"{inside:.0%} of the labelled tissue is inside the {name}'s field of view")
    return odd
