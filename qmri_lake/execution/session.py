"""Lazy application of a kernel to each exam of loaded Datasets, used by all session functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xarray as xr

from qmri_lake.core.array_api import Array, as_array, namespace
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.schema.variable import FIXED_SIZES, VOLUME_DIMS, Variable

__all__ = [
    "DESS_DIMS",
    "check_dims",
    "check_same_exams",
    "check_variables",
    "check_whole",
    "exam_box",
    "exam_coords",
    "map_exams",
    "on_dess_dims",
    "refuse_part",
]

Kernel = Callable[..., Sequence[Array]]
Inputs = Mapping[str, tuple[Sequence[str], xr.DataArray]]


def map_exams(
    kernel: Kernel,
    inputs: Inputs,
    variables: Sequence[Variable],
    *,
    sizes: Mapping[str, int] | None = None,
    batch: int | None = None,
) -> dict[str, xr.Variable]:
    """Apply a kernel to each exam, lazily.

    Nothing is computed until a result is requested. Exams are computed separately, so results do
    not depend on chunks.

    Parameters
    ----------
    kernel : function of the inputs, by keyword
        It receives the in-memory arrays of one exam, each with the dims of its input, and returns
        an array for each of `variables`. An array that is smaller than the volume is placed at the
        first voxel, and the rest of the volume is filled with the fill value of the variable.
    inputs : mapping of name to (dims, DataArray)
        Arrays of the exams, in memory or lazy, and the dims that the kernel expects, in this order.
        The dim ``exam`` may precede these dims; an array without ``exam`` is used for all exams.
        Coordinates are not aligned, so the caller must check that the exams are the same.
    variables : sequence of Variable
        Results of the kernel, in the order in which the kernel returns them.
    sizes : mapping, optional
        Sizes of the dims of the results whose size is known neither from `inputs` nor from
        `variables`.
    batch : int, optional
        Number of exams in a block. The kernel is called with whole blocks, so that ``exam`` is the
        first axis of all its arrays and results. Arrays in memory are divided into blocks of this
        size; lazy arrays keep their chunks along ``exam``. Default: the kernel is called with one
        exam at a time.

    Returns
    -------
    dict of str to Variable
        Results by name, with their attributes. They have the first dim ``exam`` if an input has it.
        They are arrays of the same library as the first input.
    """
    core = [list(dims) for dims, _ in inputs.values()]
    arrays = [_chunk_exams(array, 1 if batch is None else batch) for _, array in inputs.values()]
    own = {dim: size for variable in variables for dim, size in variable.sizes.items()}
    known = {**FIXED_SIZES, **own, **(sizes or {})}
    results = xr.apply_ufunc(
        _map_block,
        *arrays,
        input_core_dims=core,
        output_core_dims=[list(variable.dims) for variable in variables],
        kwargs={
            "kernel": kernel,
            "names": list(inputs),
            "core": core,
            "variables": list(variables),
            "sizes": known,
            "batched": batch is not None,
        },
        dask="parallelized",
        output_dtypes=[np.dtype(variable.dtype) for variable in variables],
        dask_gufunc_kwargs={
            "output_sizes": {d: known[d] for v in variables for d in v.dims if d in known}
        },
        keep_attrs=False,  # the attributes of the inputs do not apply to the results
    )
    found = results if isinstance(results, tuple) else (results,)
    return {
        variable.name: array.variable._replace(attrs=variable.attributes())
        for variable, array in zip(variables, found, strict=True)
    }


def _chunk_exams(array: xr.DataArray, exams: int) -> xr.DataArray:
    """Divide an in-memory array into chunks, join chunks inside an exam, and drop coordinates."""
    bare = xr.DataArray(array.variable)  # apply_ufunc would align coordinates
    chunks = {str(dim): -1 for dim in bare.dims}
    if "exam" in chunks:
        if bare.chunks is None or bare.sizes["exam"] == 0:
            chunks["exam"] = exams
        else:
            del chunks["exam"]
    return bare.chunk(chunks)


def _map_block(
    *arrays: Array,
    kernel: Kernel,
    names: list[str],
    core: list[list[str]],
    variables: list[Variable],
    sizes: Mapping[str, int],
    batched: bool,
) -> Array:
    """Apply a kernel to a block of any number of exams, or to one exam without the exam axis."""
    several = [array.ndim > len(dims) for array, dims in zip(arrays, core, strict=True)]
    if batched:
        blocks = [a if s else a[None, ...] for a, s in zip(arrays, several, strict=True)]
        made = [np.asarray(a) for a in kernel(**dict(zip(names, blocks, strict=True)))]
        out = made if any(several) else [array[0] for array in made]
        return tuple(out) if len(out) > 1 else out[0]
    sizes = {**sizes, **_sizes_of(arrays, core)}
    count = next((len(a) for a, s in zip(arrays, several, strict=True) if s), 1)
    rows = []
    for row in range(count):
        exam = [a[row, ...] if s else a for a, s in zip(arrays, several, strict=True)]
        made = list(kernel(**dict(zip(names, exam, strict=True))))
        rows.append([_fill_volume(a, v, sizes) for a, v in zip(made, variables, strict=True)])
    if not any(several):
        out = rows[0]
    elif not rows:
        xp = namespace(arrays[0])
        out = [xp.empty((0, *v.shape(sizes)), dtype=np.dtype(v.dtype)) for v in variables]
    else:
        out = [_stack(column) for column in zip(*rows, strict=True)]
    return tuple(out) if len(out) > 1 else out[0]


def _sizes_of(arrays: Sequence[Array], core: Sequence[Sequence[str]]) -> dict[str, int]:
    """Return the sizes of the dims of a block, except ``exam``."""
    return {
        dim: int(size)
        for array, dims in zip(arrays, core, strict=True)
        for dim, size in zip(dims, array.shape[array.ndim - len(dims) :], strict=True)
    }


def _fill_volume(values: Array, variable: Variable, sizes: Mapping[str, int]) -> Array:
    """Return a result in the declared dtype, padded with fill values to the size of the volume."""
    array = as_array(values)
    if isinstance(array, (np.ndarray, np.generic)):
        array = np.asarray(array, variable.dtype)
    shape = variable.shape(sizes)
    if tuple(array.shape) == shape:
        return array
    whole = namespace(array).full(shape, variable.fill, dtype=array.dtype)
    whole[tuple(slice(0, n) for n in array.shape)] = array
    return whole


def _stack(arrays: Sequence[Array]) -> Array:
    """Stack arrays along a new first axis. A single array, the usual case, is not copied."""
    if len(arrays) == 1:
        return arrays[0][None, ...]
    return namespace(arrays[0]).stack(list(arrays))


def check_dims(inputs: Inputs, where: str, remedies: Mapping[str, str] | None = None) -> None:
    """Raise one error for an input whose dimensions are not those of the kernel, by name.

    Parameters
    ----------
    inputs : as in `map_exams`
        The other inputs may have the dim ``exam`` only if the first input has it.
    where : str
        The function.
    remedies : mapping of dim to str, optional
        Code that renames a dimension, if `rename_dims` is not sufficient.
    """
    known = next(iter(inputs.values()))[1].dims
    for name, (dims, array) in inputs.items():
        wrong = [str(d) for d in array.dims if d not in dims and (d != "exam" or d not in known)]
        absent = [dim for dim in dims if dim not in array.dims]
        if not wrong and not absent:
            continue
        code = [remedies[dim] for dim in wrong if remedies and dim in remedies]
        renamed = ", ".join(f"{dim}=..." for dim in wrong if not remedies or dim not in remedies)
        code += [f"ds.rename_dims({renamed})"] if renamed else []
        todo = f"Name {', '.join(wrong)} as {', '.join(absent)}: {', '.join(code)}."
        raise InputError(
            f"{name} has the dimensions ({', '.join(map(str, array.dims))})",
            expected=f"{', '.join(dims)}, in any order, and exam for several exams",
            where=where,
            todo=todo
            if wrong and absent
            else f"Select along {', '.join(wrong)}: ds.isel(...)."
            if wrong
            else f"Stack along it: xr.concat([...], '{absent[0]}').",
        )


def exam_coords(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset with only the exam coordinates: the keys, and the index over them."""
    names = [n for n, v in ds.variables.items() if n in ds.data_vars or not {*v.dims} <= {"exam"}]
    return ds.drop_vars(names)


def exam_box(extent: Array | None) -> tuple[slice, slice, slice]:
    """Return the slices of an exam's own voxels, or of the whole array if its extent is unknown."""
    if extent is None or not (extent > 0).all():
        return slice(None), slice(None), slice(None)
    slices, rows, columns = (int(n) for n in extent)
    return slice(0, slices), slice(0, rows), slice(0, columns)


# ------------------------------------------------------------------------- pairs of two series

DESS_DIMS = tuple(f"dess_{dim}" for dim in VOLUME_DIMS)
"""Dims of a DESS volume in a computation with the multi-echo series, whose grid has other sizes."""


def on_dess_dims(array: xr.DataArray) -> xr.DataArray:
    """Rename the dims of a DESS volume to `DESS_DIMS`, and drop its coordinates."""
    return xr.DataArray(array.variable).rename(dict(zip(VOLUME_DIMS, DESS_DIMS, strict=True)))


def check_same_exams(
    dess: xr.Dataset, msme: xr.Dataset, where: str, todo: str, group: str = "msme"
) -> None:
    """Raise an error if both Datasets do not have the same exams in the same order.

    `todo` is the code that loads both Datasets, and `group` the second one, for the error message.
    """
    exams = [
        np.atleast_1d(ds["exam"].values).tolist() if "exam" in ds.coords else [None]
        for ds in (dess, msme)
    ]
    if ("exam" in dess.dims) != ("exam" in msme.dims) or (
        exams[0] != exams[1] and [None] not in exams
    ):
        raise InputError(
            f"{len(exams[0])} exams in dess and {len(exams[1])} in {group}, which are not the same",
            expected="the same exams in the same order",
            where=where,
            todo=f"Load both with one cohort: {todo}",
            reason=Reason.ABSENT_EXAM,
        )


def check_variables(ds: xr.Dataset, group: str, names: Sequence[str], where: str) -> None:
    """Raise an error for a Dataset that lacks a variable or a dimension of volumes."""
    for name in (*names, *VOLUME_DIMS):
        if name not in (ds if name in names else ds.dims):
            raise NotFoundError(
                f"no {'variable' if name in names else 'dimension'} {name!r} in {group}",
                expected=", ".join(names),
                where=where,
                todo=f"Load group {group}.",
            )


def check_whole(ds: xr.Dataset, series: str, where: str, todo: str = "") -> None:
    """Raise an error for a part of a volume, because the affine refers to the whole volume."""
    for dim in VOLUME_DIMS:
        if dim in ds.coords and (ds[dim].values != np.arange(ds.sizes[dim])).any():
            raise refuse_part(series, where, f" along {dim}", todo)


def refuse_part(series: str, where: str, how: str = "", todo: str = "") -> InputError:
    """Return the error for a part of a volume."""
    return InputError(
        f"a part of the {series}{how}",
        expected="whole volumes",
        where=where,
        todo=f"Select voxels of the result{todo}.",
    )
