"""Datasets of two groups of the same exams: the series of one knee, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from qmri_lake.errors import InputError, NotFoundError, Reason

__all__ = ["VOLUME", "check_same_exams", "check_variables", "check_whole", "refuse_part"]

VOLUME = ("slice", "row", "column")


def check_same_exams(dess: xr.Dataset, msme: xr.Dataset, where: str, todo: str) -> None:
    """Refuse Datasets of other exams, or of the same in another order.

    `todo` says how to load both.
    """
    exams = [
        np.atleast_1d(ds["exam"].values).tolist() if "exam" in ds.coords else [None]
        for ds in (dess, msme)
    ]
    if ("exam" in dess.dims) != ("exam" in msme.dims) or (
        exams[0] != exams[1] and [None] not in exams
    ):
        raise InputError(
            f"{len(exams[0])} exams in dess and {len(exams[1])} in msme, not the same ones",
            expected="the same exams in the same order",
            where=where,
            todo=f"Load both with one cohort: {todo}",
            reason=Reason.ABSENT_EXAM,
        )


def check_variables(ds: xr.Dataset, group: str, names: Sequence[str], where: str) -> None:
    """Refuse a Dataset that lacks a variable or a dimension of volumes."""
    for name in (*names, *VOLUME):
        if name not in (ds if name in names else ds.dims):
            raise NotFoundError(
                f"no {'variable' if name in names else 'dimension'} {name!r} in {group}",
                expected=", ".join(names),
                where=where,
                todo=f"Load group {group}.",
            )


def check_whole(ds: xr.Dataset, series: str, where: str, todo: str = "") -> None:
    """Refuse a part of a volume: its affine counts from the first voxel."""
    for dim in VOLUME:
        if dim in ds.coords and (ds[dim].values != np.arange(ds.sizes[dim])).any():
            raise refuse_part(series, where, f" along {dim}", todo)


def refuse_part(series: str, where: str, how: str = "", todo: str = "") -> InputError:
    """Return the error for a part of a volume."""
    return InputError(
        f"a part of the {series}{how}", expected="whole volumes", where=where,
        todo=f"Select voxels of the result{todo}.",
    )  # fmt: skip
