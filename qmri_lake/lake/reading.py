"""Datasets of a lake, cropped to the extent of the selected exams; volumes and maps are lazy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.errors import NotFoundError, QueryError
from qmri_lake.lake.synthetic_exams import is_synthetic
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.exam_dataset import Dataset
from qmri_lake.schema.exam_index import KEYS, attach_index
from qmri_lake.schema.variable import VOLUME_DIMS
from qmri_lake.store.lazy_array import ExamKeys, lazy_variable
from qmri_lake.store.transaction import OWN_AXIS

if TYPE_CHECKING:
    from qmri_lake.store.snapshot import Snapshot

__all__ = ["SYNTHETIC_EXAMS", "load_group", "load_groups", "load_tree", "visits_of"]

Rows = NDArray[np.intp]
"""Positions on the exam axis."""

SYNTHETIC_EXAMS = "synthetic_exams"
"""Attribute of a Dataset with the keys of its synthetic exams, separated by blanks; absent if none
of its exams is marked as synthetic."""

_MAP_BLOCK = 64
"""Number of exams in one Dask block of spherical maps. Blocks of volumes have one exam."""

_SHORT = 256
"""Maximum number of values per exam of a variable that is read immediately instead of lazily. The
values of 47,078 exams take up to 100 MB."""


def load_group(lake: Snapshot, group: str, rows: Rows, *, all_visits: bool = False) -> xr.Dataset:
    """Open one group of the lake for the exams at `rows`, lazily.

    Numbers and short vectors of each exam are read at once, so that the Dataset can be grouped and
    filtered by them. The group ``visit``, which has its own axis, is read with the visits of the
    patients of these exams, or with all visits.

    Exams are selected before chunking, so that the graph contains only the selected exams. Chunking
    before selection gives five times as many tasks and takes ten times as long.
    """
    if group in OWN_AXIS:
        return _visits(lake, group, rows, all_visits)
    ds = _open(lake, group)
    ds = ds.isel(exam=_indexer(rows))
    ds = ds.assign({name: _in_memory(v) for name, v in ds.data_vars.items() if _is_short(v)})
    ds = crop(ds)
    keys = lake.keys_at(rows)
    ds = ds.assign_coords({name: ("exam", keys[name].to_numpy()) for name in ("exam", *KEYS)})
    # Voxel indices become coordinates, which `inside` compares with the extent after a selection.
    ds = ds.assign_coords({dim: np.arange(ds.sizes[dim]) for dim in VOLUME_DIMS if dim in ds.dims})
    # All variables are assigned together and without coordinates. Otherwise, xarray would align
    # each variable with all others.
    bulk = {name: v for name, v in ds.data_vars.items() if not _is_short(v)}
    exams = ExamKeys(keys)
    ds = ds.assign(
        {n: lazy_variable(lake, f"{group}/{n}", v, exams, _chunks(v)) for n, v in bulk.items()}
    )
    ds.attrs["lake"] = f"{lake.url} at {lake.snapshot}"
    if (synthetic := is_synthetic(lake)[rows]).any():
        ds.attrs[SYNTHETIC_EXAMS] = " ".join(keys["exam"].to_numpy()[synthetic])
    return Dataset.of(attach_index(ds))


def _open(lake: Snapshot, group: str) -> xr.Dataset:
    if group not in lake.groups():
        raise NotFoundError(
            f"no group {group!r}",
            expected=f"one of {', '.join(lake.groups()) or '(the lake is empty)'}",
            where=lake.url,
        )
    ds: xr.Dataset = xr.open_zarr(
        lake.store, group=group, consolidated=False, chunks=None, decode_timedelta=False
    )
    ds.attrs.pop("sizes", None)
    declared = [variable.name for variable in REGISTRY.group(group)]
    # The store lists arrays in arbitrary order; use the order of declaration, variants last.
    return ds[sorted(ds.data_vars, key=lambda name: _position(str(name), declared))]


def _position(name: str, declared: list[str]) -> tuple[int, str]:
    plain = name.partition("__")[0]
    position = declared.index(plain) if plain in declared else len(declared)
    return position + ("__" in name) * len(declared), name


def _indexer(rows: Rows) -> Rows | slice:
    """Convert contiguous rows to a slice, with which xarray and Dask index faster."""
    if rows.size and rows.size == rows[-1] - rows[0] + 1 and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def crop(ds: xr.Dataset) -> xr.Dataset:
    """Crop to the smallest box that contains the extent and the images of every exam."""
    box = {}
    if "extent" in ds and ds.sizes["exam"]:
        largest = ds["extent"].values.max(axis=0)
        if (largest > 0).all():
            box = dict(zip(VOLUME_DIMS, map(int, largest), strict=True))
    for axis in [str(dim) for dim in ds.dims if f"{dim}_time" in ds]:
        if ds.sizes["exam"]:
            images = int(np.isfinite(ds[f"{axis}_time"].values).sum(axis=1).max())
            if images:
                box[axis] = images
    return ds.isel({dim: slice(0, n) for dim, n in box.items() if dim in ds.dims})


def _in_memory(variable: xr.DataArray) -> xr.Variable:
    loaded = variable.variable.load()
    # As objects: xarray cannot combine NumPy's variable-width strings with missing values.
    return loaded.astype(object) if loaded.dtype.kind == "T" else loaded


def _is_short(variable: xr.DataArray) -> bool:
    values = math.prod(size for dim, size in variable.sizes.items() if dim != "exam")
    return values <= _SHORT and not {"row", "azimuth"} & {*variable.dims}


def _chunks(variable: xr.DataArray) -> dict[str, int]:
    block = 1 if "row" in variable.dims else _MAP_BLOCK
    return {str(dim): block if dim == "exam" else -1 for dim in variable.dims}


def _visits(lake: Snapshot, group: str, rows: Rows, all_visits: bool) -> xr.Dataset:
    ds = _open(lake, group)
    if all_visits:  # including patients without an MRI
        return ds.map(_in_memory, keep_attrs=True)
    return ds.isel(visit=visits_of(ds["patient"].values, lake.patients[rows])).map(_in_memory)


def visits_of(patient: NDArray[np.int64], wanted: NDArray[np.int64]) -> Rows:
    """Return the positions of visits whose `patient` is one of `wanted`."""
    return np.flatnonzero(np.isin(patient, np.unique(wanted)))


def load_groups(lake: Snapshot, groups: Sequence[str], rows: Rows) -> xr.Dataset:
    """Join groups into one Dataset.

    Raises
    ------
    QueryError
        If there is no group, or if two groups have images on different grids or variables with the
        same name.
    """
    if not groups:
        raise QueryError(
            "no group", expected=f"one or more of {', '.join(lake.groups())}", where="load"
        )
    parts = {group: load_group(lake, group, rows) for group in groups}
    seen: dict[str, str] = {}
    for group, part in parts.items():
        if group in OWN_AXIS:
            raise QueryError(
                f"group {group!r} cannot be joined with others",
                expected="groups on the exam axis",
                where="load",
                todo=f"Load it separately: lake.load({group!r}).",
            )
        spatial = [str(dim) for dim in part.dims if dim in VOLUME_DIMS]
        for name in [*spatial, *map(str, part.data_vars)]:
            if name in seen:
                clash = (
                    "have different grids" if name in spatial else f"both have a variable {name!r}"
                )
                raise QueryError(
                    f"groups {seen[name]!r} and {group!r} {clash}",
                    expected="groups without common names, such as sphere and clinical",
                    where="load",
                    todo="Load the groups separately, or use lake.tree(cohort).",
                )
            seen[name] = group
    return Dataset.of(
        xr.merge(parts.values(), join="exact", compat="equals", combine_attrs="override")
    )


def load_tree(lake: Snapshot, rows: Rows, *, all_visits: bool = False) -> xr.DataTree:
    """Open every group of the lake for the exams at `rows`, lazily, as one tree.

    Exam coordinates are stored once, at the root, and inherited by the groups.
    """
    groups = {
        group: load_group(lake, group, rows, all_visits=all_visits) for group in lake.groups()
    }
    shared = ["exam", *KEYS]
    keys = lake.keys_at(rows)
    root = attach_index(
        xr.Dataset(coords={name: ("exam", keys[name].to_numpy()) for name in shared})
    )
    root.attrs["lake"] = f"{lake.url} at {lake.snapshot}"
    tree: dict[str, xr.Dataset] = {"/": root}
    for group, ds in groups.items():
        tree[group] = ds.drop_vars(shared) if group not in OWN_AXIS else ds
    return xr.DataTree.from_dict(tree)
