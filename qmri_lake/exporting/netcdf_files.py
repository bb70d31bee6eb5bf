"""NetCDF: a group of an exam as a file that plain xarray opens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from qmri_lake.core.atomic_write import atomic_write
from qmri_lake.exporting.exam_content import ExamContent, ExportedArray, is_volume
from qmri_lake.exporting.format_declaration import Each, Format, Written
from qmri_lake.exporting.unsegmented import unsegmented
from qmri_lake.schema.variable import VOLUME_DIMS, Variable

__all__ = ["NETCDF"]

_COMPRESSED: dict[str, Any] = {"zlib": True, "complevel": 4, "shuffle": True}


def write_netcdf(content: ExamContent, paths: Sequence[str], stem: Path) -> Written:
    """Write the variables of one group as ``.nc``."""
    written = Written()
    file = stem.with_name(f"{stem.name}.nc")
    small: list[tuple[ExportedArray, xr.Dataset]] = []
    mode: Literal["w", "a"] = "w"
    with atomic_write(file) as unfinished:

        def flush() -> None:
            nonlocal mode
            parts = [part for _, part in small]
            ds = xr.merge(parts, compat="override", join="override", combine_attrs="override")
            encoding = {array.name: found for array, _ in small if (found := _encoding(array))}
            ds.to_netcdf(unfinished, mode=mode, engine="h5netcdf", encoding=encoding)
            mode = "a"
            small.clear()

        for path in paths:
            array = content.read(path)
            if is_volume(array.variable) and (reason := unsegmented(array, Written())):
                written.left_out[path] = reason
                continue
            small.append((array, _variable_dataset(content, array)))
            if array.variable.bulk:  # volumes are in memory one after another
                flush()
        if small:
            flush()
        if mode == "w":
            unfinished.touch()  # no variable has a value
    if mode == "w":
        file.unlink()
    else:
        written.files.append(file)
    return written


def _variable_dataset(content: ExamContent, array: ExportedArray) -> xr.Dataset:
    """Return one variable with coordinates, units, flags and lineage as CF attributes."""
    variable = array.variable
    attrs: dict[str, Any] = {"long_name": variable.description}
    if variable.unit:
        attrs["units"] = variable.unit
    if variable.flags is not None:
        dtype = np.dtype(variable.dtype)
        attrs["flag_values"] = np.array(list(variable.flags.values()), dtype)
        attrs["flag_meanings"] = " ".join(variable.flags)
    if variable.valid_range is not None:
        attrs["valid_min"], attrs["valid_max"] = map(float, variable.valid_range)
    if variable.fill_meaning:
        attrs["fill_meaning"] = variable.fill_meaning
    attrs["lineage"] = json.dumps(array.lineage)
    coords: dict[str, Any] = {
        name: (dims, values, about)
        for name, (dims, values, about) in content.coordinates(array.path).items()
    }
    sizes = dict(zip(variable.dims, array.values.shape, strict=True))
    for dim in VOLUME_DIMS:
        if dim in sizes:
            coords[dim] = (dim, np.arange(sizes[dim]), {"long_name": f"Index of the {dim}"})
    if array.affine is not None:
        about = {
            "long_name": "Voxel index (slice, row, column, 1) to LPS world coordinates",
            "units": "mm",
        }
        coords["affine"] = (("world", "voxel"), array.affine, about)
    if array.times is not None:
        about = {"long_name": "Echo time", "units": "ms"}
        coords[array.image_axis] = (array.image_axis, array.times, about)
    coords["exam"] = ((), content.exam, {"long_name": "Key of the exam"})
    values = array.values.astype(object) if array.values.dtype.kind == "T" else array.values
    about_file = {"Conventions": "CF-1.11", "exam": content.exam, "knee": content.knee}
    if content.synthetic:
        about_file["synthetic"] = "yes"
    about_file |= {n: str(v) for n, v in array.lineage.items() if n.startswith(("lake", "export"))}
    if array.name == "affine":  # a coordinate, as for the volumes of the group
        return xr.Dataset({}, {**coords, "affine": (variable.dims, values, attrs)}, about_file)
    return xr.Dataset({array.name: (variable.dims, values, attrs)}, coords, about_file)


def _encoding(array: ExportedArray) -> dict[str, Any]:
    """Return the encoding: compressed volumes and maps; the fill value of the declaration."""
    if array.values.dtype.kind in "TOU":
        return {}
    if not array.values.ndim:
        return {}
    encoding = dict(_COMPRESSED) if array.values.size > 1024 else {}
    if array.is_labels or array.values.dtype.kind in "iu":
        # As integers, also in xarray, which would turn labels with a fill value into floats.
        encoding["_FillValue"] = None
    else:
        encoding["_FillValue"] = np.nan
    return encoding


def refuse_visits(variable: Variable) -> str:
    """Return why a file of an exam cannot hold a variable; "" if it can."""
    return "is of visits, not of exams" if variable.first_axis != "exam" else ""


NETCDF = Format(
    name="netcdf",
    suffix=".nc",
    each=Each.GROUP,
    content="any array of an exam, one file for each group, with coordinates, units, label names "
    "(CF flags), echo times, affine and lineage",
    loses="nothing; labels keep their number for a missing value, with its meaning in "
    "`fill_meaning`",
    readers="xarray, MATLAB `ncread`, R `ncdf4`, Panoply, Julia",
    refuse=refuse_visits,
    writer=write_netcdf,
    pattern="{exam}/{exam}_{group}",
    memory_factor=4.0,
)
