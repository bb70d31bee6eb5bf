"""OME-Zarr 0.5: images and maps as pyramids, with labels inside the image of their group."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.core.geometry import voxel_spacing
from qmri_lake.core.json_types import JsonObject
from qmri_lake.exporting.exam_content import ExamContent, ExportedArray
from qmri_lake.exporting.format_declaration import (
    Each,
    Format,
    Written,
    refuse_other_than_volumes,
)
from qmri_lake.exporting.nrrd_files import colour_of
from qmri_lake.exporting.unsegmented import unsegmented

__all__ = ["OME_ZARR", "VERSION"]

VERSION = "0.5"
_AXES = {"slice": "z", "row": "y", "column": "x"}
_SMALLEST = 64
"""A level is halved while its rows and columns are longer than this. [assumption]"""
_CHUNK = {"slice": 16, "row": 128, "column": 128}


def write_ome_zarr(content: ExamContent, paths: Sequence[str], stem: Path) -> Written:
    """Write the volumes of one group: the image with its labels, and a folder for each map."""
    written = Written()
    images = [path for path in paths if not content.is_label_map(path)]
    labels = [path for path in paths if content.is_label_map(path)]
    first: Path | None = None
    for path in images:
        array = content.read(path)
        if reason := unsegmented(array, written):
            written.left_out[path] = reason
            continue
        plain = array.name == "image"
        name = stem.name if plain else f"{stem.name}_{array.name}"
        folder = stem.with_name(f"{name}.ome.zarr")
        _replace(folder, lambda part, a=array: _write_image(part, content, a, None))
        written.files.append(folder)
        if plain:
            first = folder
    if not labels:
        return written
    found = {}
    for path in labels:
        array = content.read(path)
        if reason := unsegmented(array, written):
            written.left_out[path] = reason
        else:
            found[array.name] = array
    if first is not None and found:
        _add_labels(first, content, found)
    else:
        for name, array in found.items():  # labels without an image are images of their own
            folder = stem.with_name(f"{stem.name}_{name}.ome.zarr")
            _replace(folder, lambda part, a=array: _write_image(part, content, a, ""))
            written.files.append(folder)
    return written


def _replace(folder: Path, write: Any) -> None:
    """Write a folder under another name, and put it in place when it is complete."""
    part = folder.with_name(f"part.{folder.name}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        write(part)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _add_labels(folder: Path, content: ExamContent, arrays: Mapping[str, ExportedArray]) -> None:
    """Add the group ``labels`` to an image."""
    labels = zarr.open_group(folder, mode="r+").require_group("labels")
    for name, array in arrays.items():
        _write_image(folder / "labels" / name, content, array, "../../")
    labels.attrs["ome"] = {"version": VERSION, "labels": list(arrays)}


def _write_image(
    folder: Path, content: ExamContent, array: ExportedArray, source: str | None
) -> None:
    """Write one volume as a pyramid; `source` is the image of labels, None for an image."""
    assert array.affine is not None
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    dims = array.variable.dims
    axes: list[JsonObject] = [{"name": "c", "type": "channel"}] if len(dims) == 4 else []
    axes += [{"name": _AXES[d], "type": "space", "unit": "millimeter"} for d in dims[-3:]]
    datasets = []
    spacing = voxel_spacing(array.affine)
    for level, (values, factors, shift) in enumerate(_levels(array)):
        _create(group, str(level), values, array, [axis["name"] for axis in axes])
        ones = [1.0] * (len(dims) - 3)
        zeros = [0.0] * (len(dims) - 3)
        transforms: list[JsonObject] = [
            {"type": "scale", "scale": [*ones, *(spacing * factors).tolist()]}
        ]
        if shift.any():
            transforms.append(
                {"type": "translation", "translation": [*zeros, *(spacing * shift).tolist()]}
            )
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    ome: JsonObject = {
        "version": VERSION,
        "multiscales": [{"name": array.path, "axes": axes, "datasets": datasets}],
    }
    if source is not None:
        ome["image-label"] = _image_label(array, source)
    group.attrs["ome"] = ome
    group.attrs["qmri_lake"] = {
        **content.header(),
        **array.metadata(),
        "affine_lps_slice_row_column_mm": array.affine.tolist(),
    }


def _create(
    group: zarr.Group, name: str, values: Values, array: ExportedArray, axes: Sequence[str]
) -> None:
    """Store one level; a volume is one file, of which a reader fetches single chunks."""
    dims = array.variable.dims
    chunks = tuple(
        min(_CHUNK.get(dim, 1), size) for dim, size in zip(dims, values.shape, strict=True)
    )
    shards = tuple(
        -(-size // chunk) * chunk if dim in _CHUNK else 1
        for dim, size, chunk in zip(dims, values.shape, chunks, strict=True)
    )
    made = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=chunks,
        shards=shards,
        fill_value=array.variable.fill,
        dimension_names=axes,
    )
    made[...] = values


def _levels(
    array: ExportedArray,
) -> list[tuple[Values, NDArray[np.float64], NDArray[np.float64]]]:
    """Return the levels of a pyramid: values, size of a voxel and shift of the first, in voxels.

    Rows and columns are halved: values are averaged without missing ones, and of labels every
    second is taken, so that no label is invented.
    """
    values, factor, shift = array.values, np.ones(3), np.zeros(3)
    levels = [(values, factor, shift)]
    while min(values.shape[-2:]) >= 2 * _SMALLEST:
        if array.values.dtype.kind == "f":
            dims = array.variable.dims
            halves: Any = xr.DataArray(values, dims=dims).coarsen(row=2, column=2, boundary="trim")
            values = halves.mean().values.astype(array.values.dtype)
            shift = shift + np.array([0.0, 0.5, 0.5]) * factor
        else:
            values = values[..., ::2, ::2]
        factor = factor * np.array([1.0, 2.0, 2.0])
        levels.append((values, factor, shift))
    return levels


def _image_label(array: ExportedArray, source: str) -> JsonObject:
    """Return names and colours of labels."""
    named = array.labels
    about: JsonObject = {
        "colors": [
            # The background has a colour too, transparent: both lists must have the same labels.
            {"label-value": value, "rgba": [*colour_of(name, value), 255 * (name != "background")]}
            for value, name in named.items()
        ],
        "properties": [{"label-value": value, "name": name} for value, name in named.items()],
    }
    return {**about, "source": {"image": source}} if source else about


OME_ZARR = Format(
    name="ome-zarr",
    suffix=".ome.zarr",
    each=Each.GROUP,
    content="images and maps as pyramids with voxel sizes in millimetres; echoes as channels; "
    "labels with names and colours inside the image of their group",
    loses="the direction of oblique axes is not part of OME-Zarr 0.5: the affine is in the "
    "attribute `qmri_lake`",
    readers="napari, Neuroglancer, vizarr, Fiji, zarr-python",
    refuse=refuse_other_than_volumes,
    writer=write_ome_zarr,
    pattern="{exam}/{exam}_{group}",
    memory_factor=6.0,
)
