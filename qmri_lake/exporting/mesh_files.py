"""Bones as meshes with maps at their vertices: VTK, PLY and GIFTI."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import xarray as xr
from nibabel.gifti.gifti import (
    GiftiDataArray,
    GiftiImage,
    GiftiLabel,
    GiftiLabelTable,
    GiftiMetaData,
)

from qmri_lake.core.array_api import Values
from qmri_lake.core.atomic_write import atomic_write, atomic_write_text
from qmri_lake.core.geometry import LPS_TO_RAS
from qmri_lake.core.json_types import JsonObject
from qmri_lake.exporting.exam_content import ExamContent, ExportedArray
from qmri_lake.exporting.format_declaration import Each, Format, Written
from qmri_lake.exporting.nrrd_files import colour_of
from qmri_lake.fusion import BIOMARKER_TABLE
from qmri_lake.schema.variable import Variable, with_variant
from qmri_lake.surface.mesh import Mesh
from qmri_lake.surface.mesh_export import map_mesh, write_mesh

__all__ = ["GIFTI", "PLY", "VTK"]

_GRID = ("azimuth", "polar")
_SHAPE = "bone_shape"
_MAP, _CENTRE = "sphere/map", "sphere/centre"

Flags = Mapping[str, Mapping[str, int]]
"""Names and values of labels, by the name of a map."""
MeshWriter = Callable[[Mesh, Flags, Path, JsonObject], list[Path]]
"""Function that writes a mesh: ``writer(mesh, flags, stem, header)``; it returns the files."""


def _writer(write: MeshWriter, space: str) -> Callable[[ExamContent, Sequence[str], Path], Written]:
    """Return the writer of a format, which calls `write` for each bone."""

    def write_meshes(content: ExamContent, paths: Sequence[str], stem: Path) -> Written:
        written = Written()
        variants = dict.fromkeys(path.partition("__")[2] for path in paths)
        for variant in variants:
            mine = [path for path in paths if path.partition("__")[2] == variant]
            arrays = [content.read(path) for path in mine]
            shape = content.read(with_variant(_MAP, variant))
            centre = content.small("sphere", with_variant("centre", variant))
            bones = _labels(content, shape.path, "bone")
            for k, bone in enumerate(bones):
                maps, flags = _maps_of_bone(content, arrays, shape, k)
                maps.attrs = {"bone": bone, "knee": content.knee, "centre": centre[k].tolist()}
                mesh = map_mesh(maps) if np.isfinite(centre[k]).all() else None
                if mesh is None or not len(mesh.triangles):
                    written.left_out[f"{shape.path} of {bone}"] = "the bone was not mapped"
                    continue
                name = stem.with_name(f"{with_variant(stem.name, variant)}_{bone}")
                written.files += write(mesh, flags, name, content.header())
                about = {
                    **content.header(),
                    "bone": bone,
                    "coordinates": f"{space}, mm",
                    "maps": {array.path: array.metadata() for array in arrays},
                    "units": _units(content, arrays),
                }
                sidecar = name.with_name(f"{name.name}.json")
                atomic_write_text(sidecar, json.dumps(about, indent=2) + "\n")
                written.files.append(sidecar)
        return written

    return write_meshes


def _maps_of_bone(
    content: ExamContent, arrays: Sequence[ExportedArray], shape: ExportedArray, bone: int
) -> tuple[xr.Dataset, dict[str, Mapping[str, int]]]:
    """Return the maps of one bone by name, in the form that `map_mesh` requires."""
    maps: dict[str, Any] = {}
    flags: dict[str, Mapping[str, int]] = {}
    for array in [shape, *(array for array in arrays if array.path != shape.path)]:
        values, dims = array.values, array.variable.dims
        values = values[(slice(None),) * dims.index("bone") + (bone,)]
        if "biomarker" in dims:
            for n, name in enumerate(_labels(content, array.path, "biomarker")):
                maps[name] = (_GRID, values[n])
        else:
            maps[array.variable.name] = (_GRID, values)
            if array.variable.flags is not None:
                names = {int(v): name for v, name in _flag_names(array.variable)}
                flags[array.variable.name] = {name: value for value, name in names.items()}
    return xr.Dataset(maps), flags


def _flag_names(variable: Variable) -> list[tuple[int, str]]:
    return [(value, name) for name, value in (variable.flags or {}).items()]


def _units(content: ExamContent, arrays: Sequence[ExportedArray]) -> dict[str, str]:
    """Return the unit of each map; a variable with several biomarkers has none of its own."""
    units = {}
    for array in arrays:
        if "biomarker" in array.variable.dims:
            for name in _labels(content, array.path, "biomarker"):
                if name in BIOMARKER_TABLE:
                    units[name] = BIOMARKER_TABLE[name].unit
        else:
            units[array.variable.name] = array.variable.unit
    return units


def _labels(content: ExamContent, path: str, dim: str) -> list[str]:
    return [str(name) for name in content.coordinates(path)[dim][1].tolist()]


def _write_one(suffix: str) -> MeshWriter:
    """Return the writer of a format that has all values of a mesh in one file."""

    def write(mesh: Mesh, flags: Flags, stem: Path, header: JsonObject) -> list[Path]:
        file = stem.with_name(stem.name + suffix)
        with atomic_write(file) as unfinished:
            write_mesh(mesh, unfinished)
        return [file]

    return write


def _write_gifti(mesh: Mesh, flags: Flags, stem: Path, header: JsonObject) -> list[Path]:
    """Write the surface, its maps and, for each map of labels, a file of labels; in RAS."""
    points = (mesh.points * np.diag(LPS_TO_RAS)[:3]).astype(np.float32)
    surface = [
        GiftiDataArray(points, intent="NIFTI_INTENT_POINTSET", datatype="NIFTI_TYPE_FLOAT32"),
        GiftiDataArray(
            mesh.triangles.astype(np.int32),
            intent="NIFTI_INTENT_TRIANGLE",
            datatype="NIFTI_TYPE_INT32",
        ),
    ]
    maps = [
        _gifti_map(name, values.astype(np.float32), "NIFTI_INTENT_SHAPE")
        for name, values in mesh.values.items()
        if name not in flags
    ]
    images = {".surf.gii": GiftiImage(darrays=surface), ".shape.gii": GiftiImage(darrays=maps)}
    for name, named in flags.items():
        values = mesh.values[name].astype(np.int32)
        table = GiftiLabelTable()
        for label, value in named.items():
            red, green, blue = (part / 255 for part in colour_of(label, value))
            entry = GiftiLabel(value, red, green, blue, 1.0)
            entry.label = label  # type: ignore[attr-defined]
            table.labels.append(entry)
        images[f"_{name}.label.gii"] = GiftiImage(
            labeltable=table, darrays=[_gifti_map(name, values, "NIFTI_INTENT_LABEL")]
        )
    files = []
    for suffix, image in images.items():
        image.meta = GiftiMetaData({name: str(value) for name, value in header.items()})
        file = stem.with_name(stem.name + suffix)
        with atomic_write(file) as unfinished:
            nib.save(image, unfinished)
        files.append(file)
    return files


def _gifti_map(name: str, values: Values, intent: str) -> GiftiDataArray:
    kind = "NIFTI_TYPE_INT32" if values.dtype == np.int32 else "NIFTI_TYPE_FLOAT32"
    return GiftiDataArray(values, intent=intent, datatype=kind, meta=GiftiMetaData({"Name": name}))


def refuse_other_than_maps(variable: Variable) -> str:
    """Return why a mesh of a bone cannot hold a variable; "" if it can."""
    dims = set(variable.dims)
    if variable.group == "sphere" and {"bone", *_GRID} <= dims <= {"bone", "biomarker", *_GRID}:
        return ""
    return "is no spherical map"


def _mesh_format(
    name: str,
    suffix: str,
    write: MeshWriter,
    space: str,
    *,
    content: str,
    loses: str,
    readers: str,
    package: tuple[str, str] | None = None,
) -> Format:
    return Format(
        name=name,
        suffix=suffix,
        each=Each.GROUP,
        refuse=refuse_other_than_maps,
        writer=_writer(write, space),
        pattern="{exam}/{exam}_{group}",
        memory_factor=6.0,
        together=True,
        package=package,
        content=content,
        loses=loses,
        readers=readers,
    )


_LOSES = "pixels of a map without bone have no vertex; "
VTK = _mesh_format(
    "vtk",
    ".vtk",
    _write_one(".vtk"),
    "LPS",
    content="bones as meshes with all maps at the vertices (legacy VTK, LPS); units and lineage in "
    "a `.json`",
    loses=_LOSES + "numbers have 9 digits",
    readers="ParaView, 3D Slicer, VTK, PyVista, pymskt",
)
PLY = _mesh_format(
    "ply",
    ".ply",
    _write_one(".ply"),
    "LPS",
    content="bones as meshes with all maps at the vertices (LPS); units and lineage in a `.json`; "
    "needs the extra `view`",
    loses=_LOSES + "positions are float32",
    readers="MeshLab, trimesh, Blender, CloudCompare",
    package=("trimesh", "view"),
)
GIFTI = _mesh_format(
    "gifti",
    ".surf.gii",
    _write_gifti,
    "RAS",
    content="bones as `.surf.gii`, maps as `.shape.gii`, states as `.label.gii` (RAS); units and "
    "lineage in a `.json`",
    loses=_LOSES + "positions and maps are float32",
    readers="Connectome Workbench, nibabel, FreeSurfer, SUMA",
)
