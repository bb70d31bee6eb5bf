"""Lazy masks: voxels inside an exam's true extent, voxels of a tissue by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.tissues import NO_MASK

__all__ = ["inside", "tissue"]


def inside(ds: xr.Dataset) -> xr.DataArray:
    """Return where each exam has voxels; beyond its true extent an array holds fill.

    Parameters
    ----------
    ds : Dataset
        Of group ``dess`` or ``msme``, with `extent` (exam, axis).

    Returns
    -------
    DataArray of bool, (exam, slice, row, column)
        Lazy. Every reduction over voxels of several exams should go through it.
    """
    if not isinstance(ds, xr.Dataset) or "extent" not in ds:
        raise NotFoundError(
            f"a {type(ds).__name__} without `extent`",
            expected="a Dataset of group dess or msme",
            where="inside",
        )
    mask = None
    for axis, dim in enumerate(("slice", "row", "column")):
        # The coordinate that a loaded group has; by it a selection of slices knows which they are.
        index = ds[dim] if dim in ds.coords else xr.DataArray(np.arange(ds.sizes[dim]), dims=dim)
        within = ds["extent"].isel(axis=axis) > index
        mask = within if mask is None else mask & within
    assert mask is not None
    return mask.transpose(..., "slice", "row", "column", missing_dims="ignore").rename("inside")


def tissue(labels: xr.DataArray, *names: str) -> xr.DataArray:
    """Return where a label array is one of the named tissues.

    Parameters
    ----------
    labels : DataArray of uint8
        Such as ``ds.cartilage``, with the attributes ``flag_values`` and ``flag_meanings``.
    *names : str
        Such as ``"femoral"``, ``"tibial"``; several are joined.

    Returns
    -------
    DataArray of bool
        Same dims, lazy where `labels` is.

    Raises
    ------
    NotFoundError
        No tissue of that name.
    InputError
        When computed: an exam that was never segmented (255 everywhere). It must not read as an
        exam without cartilage. So select slices after this, not before: what lies beyond an
        exam's extent is 255 too.
    """
    meanings = labels.attrs.get("flag_meanings", "").split()
    known = dict(zip(meanings, labels.attrs.get("flag_values", []), strict=True))
    for name in names:
        if name not in known:
            raise NotFoundError(
                f"no tissue {name!r}",
                expected=f"one of {', '.join(known) or '(an array with flag_meanings)'}",
                where=str(labels.name),
            )
    wanted = [known[name] for name in names]
    dims = [dim for dim in labels.dims if dim != "exam"]
    if labels.chunks is not None:
        labels = labels.chunk(dict.fromkeys(dims, -1))  # only a whole exam can be without a mask
    result: xr.DataArray = xr.apply_ufunc(
        _select,
        labels,
        kwargs={"wanted": wanted, "name": str(labels.name), "n_dims": len(dims)},
        input_core_dims=[dims],
        output_core_dims=[dims],
        dask="parallelized",
        output_dtypes=[bool],
    )
    return result.rename(" or ".join(names))


def _select(labels: Any, wanted: list[int], name: str, n_dims: int) -> Any:
    spatial = tuple(range(labels.ndim - n_dims, labels.ndim))
    if labels.size and (labels == NO_MASK).all(axis=spatial).any():
        raise InputError(
            "an exam without a mask, or a piece of one that lies beyond its extent",
            expected="labels",
            where=name,
            todo=f"Choose exams that have one by cohort.require('<group>/{name}'), and select "
            "slices of the result, not of the labels.",
            reason=Reason.ABSENT_EXAM,
        )
    result = labels == wanted[0] if wanted else np.zeros_like(labels, dtype=bool)
    for value in wanted[1:]:
        result = result | (labels == value)
    return result
