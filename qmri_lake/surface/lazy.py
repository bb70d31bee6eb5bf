"""Masks of a DESS, and T2 of an MSME, to small arrays of each exam, lazily."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.compute import one_exam_a_block
from qmri_lake.errors import InputError, Reason, RunError
from qmri_lake.pairs import VOLUME, check_same_exams, check_variables, check_whole, refuse_part
from qmri_lake.variables import FIXED_SIZES, Variable

__all__ = ["arguments", "check_with_t2", "each_exam", "no_bone", "product", "read_by"]

Kernel = Callable[..., Sequence[NDArray[Any]]]
_GRID = ("bone", "cartilage", "affine")


def read_by(of_msme: Mapping[str, str], with_t2: bool) -> dict[str, tuple[str, ...]]:
    """Return what a step reads: without T2 nothing of the multi-echo series."""
    msme = {"msme": tuple(of_msme.values())} if with_t2 else {}
    return {"dess": _GRID, **msme}


def check_with_t2(with_t2: object, where: str) -> None:
    """Refuse another value than True or False, when a run is planned."""
    if not isinstance(with_t2, bool):
        raise RunError(f"with_t2={with_t2!r}", expected="True or False", where=where)


def product(
    variables: Sequence[Variable], arrays: Sequence[NDArray[Any]], notes: Sequence[str]
) -> xr.Dataset:
    """Return what a step made of an exam, flagged with what is odd about it."""
    made = xr.Dataset({v.name: (v.dims, a) for v, a in zip(variables, arrays, strict=True)})
    return made.assign_attrs({"flag": "; ".join(notes)} if notes else {})


def no_bone(notes: Sequence[str], where: str) -> InputError:
    """Return the error for an exam of whose bones none can be measured."""
    return InputError(
        "; ".join(notes), expected="a bone and its cartilage", where=where,
        reason=Reason.EMPTY_MASK,
    )  # fmt: skip


def arguments(
    dess: xr.Dataset, msme: xr.Dataset | None, of_msme: Mapping[str, str]
) -> dict[str, Any]:
    """Return what a kernel takes of one exam in memory, as a step gets it."""
    found = {name: dess[name].values for name in _GRID}
    if msme is not None:
        found |= {name: msme[variable].values for name, variable in of_msme.items()}
    return {**found, "knee": str(dess["knee"].item())}


def each_exam(
    kernel: Kernel,
    variables: Sequence[Variable],
    dess: xr.Dataset,
    msme: xr.Dataset | None,
    of_msme: Mapping[str, str],
    where: str,
) -> xr.Dataset:
    """Apply a kernel to each exam, lazily.

    Parameters
    ----------
    kernel : function of `arguments`
        Returns an array for each of `variables`.
    variables : sequence of Variable
        What it returns; their sizes and coordinates are fixed.
    dess, msme : Dataset
        Whole volumes of the same exams, or of one without ``exam``.
    of_msme : mapping
        Arguments of the kernel that come from `msme`, by the name of its variable.
    where : str
        Who asks, for errors.

    Returns
    -------
    Dataset
        `variables` with their coordinates, and the exams of `dess`.
    """
    check_variables(dess, "dess", (*_GRID, "knee"), where)
    check_whole(dess, "DESS", where)
    own = {dim: f"dess_{dim}" for dim in VOLUME}  # else their grids would be aligned
    inputs = {name: _bare(dess[name]).rename(_dims(dess[name], own)) for name in (*_GRID, "knee")}
    if "extent" in dess:
        inputs["extent"] = _bare(dess["extent"])
    if msme is not None:
        check_variables(msme, "msme", tuple(of_msme.values()), where)
        check_same_exams(
            dess, msme, where, "lake.cohort().require('dess/bone').require('msme/t2')."
        )
        check_whole(msme, "MSME", where)
        inputs |= {name: _bare(msme[variable]) for name, variable in of_msme.items()}
    sizes = {**FIXED_SIZES, **{dim: n for v in variables for dim, n in v.sizes.items()}}
    made = xr.apply_ufunc(
        _block,
        *map(one_exam_a_block, inputs.values()),
        input_core_dims=[[str(d) for d in a.dims if d != "exam"] for a in inputs.values()],
        output_core_dims=[list(v.dims) for v in variables],
        kwargs={
            "names": list(inputs), "kernel": kernel, "where": where,
            "empty": [(v.shape(sizes), v.fill, v.dtype) for v in variables],
        },
        dask="parallelized",
        output_dtypes=[np.dtype(v.dtype) for v in variables],
        dask_gufunc_kwargs={"output_sizes": {d: sizes[d] for v in variables for d in v.dims}},
        keep_attrs=False,
    )  # fmt: skip
    # What is left of `dess`: exams, their keys, and the index that selects by them.
    of_exams = dess.drop_vars(
        [n for n, v in dess.variables.items() if n in dess.data_vars or not {*v.dims} <= {"exam"}]
    )
    coordinates = {c.name: c.as_variable() for v in variables for c in v.coordinates}
    return of_exams.assign_coords(coordinates).assign(
        {
            v.name: array.variable.copy(deep=False)._replace(attrs=v.attributes())
            for v, array in zip(variables, made, strict=True)
        }
    )


def _bare(array: xr.DataArray) -> xr.DataArray:
    """Return an array without coordinates, which apply_ufunc would align."""
    return xr.DataArray(array.variable)


def _dims(array: xr.DataArray, names: Mapping[str, str]) -> dict[str, str]:
    return {dim: name for dim, name in names.items() if dim in array.dims}


def _block(
    *arrays: Any, names: list[str], kernel: Kernel, where: str, empty: list[tuple[Any, Any, str]]
) -> tuple[NDArray[Any], ...]:
    """Take a Dask block of any number of exams, one after another."""
    if arrays[0].ndim == 3:
        return tuple(_inside(dict(zip(names, arrays, strict=True)), kernel, where))
    out = tuple(np.full((len(arrays[0]), *shape), fill, dtype) for shape, fill, dtype in empty)
    for row, exam in enumerate(zip(*arrays, strict=True)):
        made = _inside(dict(zip(names, exam, strict=True)), kernel, where)
        for values, value in zip(out, made, strict=True):
            values[row] = value
    return out


def _inside(exam: dict[str, Any], kernel: Kernel, where: str) -> Sequence[NDArray[Any]]:
    """Take one exam inside its own extent."""
    extent = exam.pop("extent", None)
    if extent is not None and (extent > 0).all():
        if (extent > exam["bone"].shape).any():  # which starts at the first voxel, and ends early
            raise refuse_part("DESS", where)
        box = tuple(slice(0, int(n)) for n in extent)
        exam["bone"], exam["cartilage"] = exam["bone"][box], exam["cartilage"][box]
    return kernel(**{**exam, "knee": str(np.asarray(exam["knee"]).item())})
