"""Reading the variables of one exam into memory, and writing its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from qmri_lake.core.array_api import Values
from qmri_lake.core.json_types import JsonObject
from qmri_lake.errors import VariableError
from qmri_lake.execution.step import Result
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.exam_index import KEYS
from qmri_lake.schema.groups import GROUPS
from qmri_lake.schema.variable import VOLUME_DIMS, Variable, with_variant
from qmri_lake.store.arrays import Node
from qmri_lake.store.chunk_errors import named_chunk_errors
from qmri_lake.store.runs import read_run
from qmri_lake.store.transaction import fill_shape

__all__ = ["read_exam", "write_exam"]


def read_exam(
    root: Node, group: str, names: Sequence[str], row: int, *, runs: bool = False
) -> xr.Dataset:
    """Read the variables of one exam into memory, cropped to its true extent.

    With `runs`, each variable has the attribute ``run``: the step and the parameters of the run
    that computed it, or an empty mapping.

    Returns
    -------
    Dataset
        One exam, with its key in the scalar coordinates `exam`, `patient`, `timepoint` and `knee`.
        Arrays have the exam's own number of slices, rows, columns and echoes.
    """
    source = root[group]
    box = _extent(source, row)
    coords = {name: root[name][row].item() for name in ("exam", *KEYS)}
    arrays: dict[str, tuple[tuple[str, ...], Values, JsonObject]] = {}
    for name in names:
        array = source[name]
        dims = array.metadata.dimension_names[1:]
        index = tuple(slice(0, box.get(dim)) for dim in dims)
        with named_chunk_errors(f"{group}/{name}", lambda: coords["exam"]):
            values = np.asarray(array[(row, *index)])
        attrs = dict(array.attrs)
        if runs:
            attrs["run"] = _run_of(root, f"{group}/{name}", row)
        arrays[name] = (dims, values, attrs)
    return xr.Dataset(arrays, coords)


def _run_of(root: Node, path: str, row: int) -> JsonObject:
    """Return the step and the parameters of the run that computed a variable of one exam."""
    step = REGISTRY[path].step if path in REGISTRY else ""
    status = f"status/{step}/run"
    if not step or status not in root:
        return {}
    record = read_run(root, int(root[status][row]))
    return {name: record[name] for name in ("step", "parameters") if name in record}


def _extent(group: Node, row: int) -> dict[str, int]:
    box: dict[str, int] = {}
    if "extent" in group:
        extent = group["extent"][row]
        if (extent > 0).all():
            box = dict(zip(VOLUME_DIMS, extent.tolist(), strict=True))
    axis = _image_axis(group)
    if axis:
        images = int(np.isfinite(group[f"{axis}_time"][row]).sum())
        if images:
            box[axis] = images
    return box


def _image_axis(group: Node) -> str:
    """Return the dimension of the images of one scan whose times are stored, or ""."""
    known = dict.fromkeys(known.image_axis for known in GROUPS if known.has_several_images)
    return next((axis for axis in known if f"{axis}_time" in group), "")


def write_exam(
    root: Node,
    variables: Sequence[Variable],
    product: Result,
    row: int,
    exam: str,
    variant: str = "",
    read: Sequence[xr.Dataset] = (),
    *,
    new_extent: bool = False,
) -> dict[str, object]:
    """Write the bulk arrays of one exam as whole shards; return its small values by path.

    Small values are not written here, because the exams of several tasks share a chunk. If the
    extent of the exam is known, from the group or from the Datasets that were `read`, the arrays
    must have this extent. Without this check, a cropped or transposed array would fit into the
    larger array of the lake unnoticed.

    Raises
    ------
    VariableError
        If the result is not a mapping, has an undeclared name, or has a value of a wrong shape or
        range.
    """
    if not isinstance(product, (Mapping, xr.Dataset)):
        raise VariableError(
            f"the result is of type {type(product).__name__}",
            expected="a mapping from name to array, or a Dataset",
            where=exam,
        )
    unknown = {str(n) for n in product} - {v.name for v in variables}
    if unknown:
        raise VariableError(
            f"variable {sorted(unknown)[0]!r}",
            expected=f"one of {', '.join(v.name for v in variables)}",
            where=exam,
            todo="Declare it in writes=[...].",
        )
    box = _common_sizes(read)
    if not new_extent:
        box |= _extent(root[variables[0].group], row)
    small: dict[str, object] = {}
    for variable in variables:
        if variable.name not in product:
            continue
        value: object = product[variable.name]
        if isinstance(value, xr.DataArray):
            value = value.transpose(*variable.dims).values
        checked = variable.check(np.asarray(value), exam)
        path = with_variant(variable.path, variant)
        array = root[path]
        _check_shape(variable, checked.shape, array.shape[1:], box, exam)
        full = fill_shape(checked, array.shape[1:], variable.fill)
        if variable.bulk:
            array[row] = full
        else:
            small[path] = full if variable.dims else full.item()
    return small


def _common_sizes(datasets: Sequence[xr.Dataset]) -> dict[str, int]:
    """Return the sizes of the dims that have only one size in the Datasets."""
    found: dict[str, set[int]] = {}
    for ds in datasets:
        for dim, size in ds.sizes.items():
            found.setdefault(str(dim), set()).add(size)
    return {dim: sizes.pop() for dim, sizes in found.items() if len(sizes) == 1}


def _check_shape(
    variable: Variable,
    shape: Sequence[int],
    largest: Sequence[int],
    box: Mapping[str, int],
    exam: str,
) -> None:
    """Raise `VariableError` if the shape is not the shape of the exam or, if fixed, of the lake."""
    known = dict(zip(variable.dims, largest, strict=True))
    expected = {dim: min(box.get(dim, n), n) for dim, n in known.items()}
    sizes = dict(zip(variable.dims, shape, strict=True))
    # The extent of an image is unknown before its ingest. The image may then be smaller than the
    # array of the lake.
    varying = {*GROUPS.image_dims(variable.group), *VOLUME_DIMS}
    free = {dim for dim in known if dim in varying and dim not in box}
    if all(n == expected[dim] or (dim in free and n < known[dim]) for dim, n in sizes.items()):
        return
    raise VariableError(
        f"shape {tuple(shape)}",
        expected=", ".join(f"{n} {dim}" for dim, n in expected.items()),
        where=f"{variable.path} of {exam}",
        todo="Return arrays on the grid of the inputs.",
    )
