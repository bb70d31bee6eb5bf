"""Lazy masks of the voxels inside the extent of an exam, and of the voxels of named tissues."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import xarray as xr

from qmri_lake.core.array_api import Array
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.schema.variable import VOLUME_DIMS
from qmri_lake.tissues import NO_MASK

__all__ = ["inside", "tissue"]


def inside(ds: xr.Dataset) -> xr.DataArray:
    """Return which voxels are inside the extent of each exam; other voxels have fill values.

    Parameters
    ----------
    ds : Dataset
        Dataset of group ``dess`` or ``msme``, with `extent` (exam, axis).

    Returns
    -------
    DataArray of bool, (exam, slice, row, column)
        Lazy mask with one exam in each Dask block. Use it for every reduction over voxels of
        several exams.
    """
    if not isinstance(ds, xr.Dataset) or "extent" not in ds:
        raise NotFoundError(
            f"a {type(ds).__name__} without `extent`",
            expected="a Dataset of group dess or msme",
            where="inside",
        )
    extent = _chunked(ds["extent"], {"exam": 1, "axis": -1})
    mask = None
    for axis, dim in enumerate(VOLUME_DIMS):
        # Loaded groups have voxel indices as coordinates, even after a selection of slices.
        index = ds[dim] if dim in ds.coords else xr.DataArray(np.arange(ds.sizes[dim]), dims=dim)
        within = extent.isel(axis=axis) > index
        mask = within if mask is None else mask & within
    assert mask is not None
    return mask.transpose(..., *VOLUME_DIMS, missing_dims="ignore").rename("inside")


def tissue(labels: xr.DataArray, *names: str) -> xr.DataArray:
    """Return which voxels of a label array belong to one of the named tissues.

    Parameters
    ----------
    labels : DataArray of uint8
        Label array with the attributes ``flag_values`` and ``flag_meanings``, such as
        ``ds.cartilage``.
    *names : str
        Names of tissues, such as ``"femoral"`` and ``"tibial"``. Several tissues are combined.

    Returns
    -------
    DataArray of bool
        Mask with the same dims; lazy if `labels` is lazy.

    Raises
    ------
    NotFoundError
        If there is no tissue of this name.
    InputError
        When the mask is computed, if an exam was not segmented (255 everywhere), which differs from
        an exam without cartilage. Voxels beyond the extent of an exam are also 255, so select
        slices of the mask rather than of the labels.
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
        labels = _chunked(labels, dict.fromkeys(dims, -1))  # _select checks whole exams
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


def _chunked(array: xr.DataArray, chunks: Mapping[Hashable, int]) -> xr.DataArray:
    """Return the array in other blocks; `DataArray.chunk` would make its keys lazy too."""
    known = {dim: size for dim, size in chunks.items() if dim in array.dims}
    return array.copy(data=array.variable.chunk(known).data)


def _select(labels: Array, wanted: list[int], name: str, n_dims: int) -> Array:
    spatial = tuple(range(labels.ndim - n_dims, labels.ndim))
    if labels.size and (labels == NO_MASK).all(axis=spatial).any():
        raise InputError(
            "an exam without a mask, or slices beyond the extent of an exam",
            expected="labels",
            where=name,
            todo=f"Use cohort.require('<group>/{name}'), and select slices of the result rather "
            "than of the labels.",
            reason=Reason.ABSENT_EXAM,
        )
    result = labels == wanted[0] if wanted else np.zeros_like(labels, dtype=bool)
    for value in wanted[1:]:
        result = result | (labels == value)
    return result
