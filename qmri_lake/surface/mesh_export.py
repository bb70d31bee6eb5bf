"""Meshes for 3D viewers: conversion of spherical maps to meshes, and mesh files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from qmri_lake.errors import InputError, Reason
from qmri_lake.surface.mesh import Mesh, to_trimesh
from qmri_lake.surface.spherical_grid import directions, frame

__all__ = ["map_mesh", "write_mesh"]


def map_mesh(ds: xr.Dataset, axes: ArrayLike | None = None) -> Mesh:
    """Return a spherical map as a mesh in scanner coordinates; its variables become values.

    Parameters
    ----------
    ds : Dataset
        Result of `spherical_map`. Pixels without a surface are left out.
    axes : (3, 3), optional
        The `axes` that were passed to `spherical_map`.
    """
    back = np.linalg.inv(frame(ds.attrs["knee"], axes))[:3, :3]
    rays = directions(ds.attrs["bone"]) @ back.T
    points = np.array(ds.attrs["centre"]) + ds["bone_shape"].values[..., None] * rays
    rows, columns = points.shape[:2]
    number = np.arange(rows * columns).reshape(rows, columns)
    below = np.roll(number, -1, axis=0)  # the first row follows the last row
    a, b, c, d = number[:, :-1], below[:, :-1], below[:, 1:], number[:, 1:]
    triangles = np.concatenate(
        [np.stack(corners, axis=-1).reshape(-1, 3) for corners in ((a, b, c), (a, c, d))]
    )
    flat = points.reshape(-1, 3)
    seen = np.isfinite(flat).all(axis=1)
    triangles = triangles[seen[triangles].all(axis=1)]
    normals = np.cross(
        flat[triangles[:, 1]] - flat[triangles[:, 0]], flat[triangles[:, 2]] - flat[triangles[:, 0]]
    )
    outward = ((flat[triangles].mean(axis=1) - ds.attrs["centre"]) * normals).sum()
    new = np.cumsum(seen) - 1
    return Mesh(
        flat[seen],
        new[triangles[:, :: 1 if outward > 0 else -1]],
        {str(name): ds[name].values.ravel()[seen] for name in ds.data_vars},
    )


def write_mesh(mesh: Mesh, path: str | os.PathLike[str]) -> None:
    """Write a mesh and its values to a file for a 3D viewer.

    Parameters
    ----------
    mesh : Mesh
    path : path
        ``.vtk`` (legacy, text) or ``.ply`` (binary; needs the extra ``view``).

    Raises
    ------
    InputError
        If the path has another suffix.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".vtk":
        Path(path).write_text(_vtk(mesh), encoding="ascii")
    elif suffix == ".ply":
        shape = to_trimesh(mesh)
        for name, values in mesh.values.items():
            shape.vertex_attributes[name] = values
        shape.export(path)
    else:
        raise InputError(
            f"suffix {suffix!r}",
            expected=".vtk or .ply",
            where=os.fspath(path),
            reason=Reason.UNREADABLE_VALUE,
        )


def _vtk(mesh: Mesh) -> str:
    def lines(rows: NDArray[Any], form: str) -> str:
        return "\n".join(" ".join(format(v, form) for v in row) for row in rows.tolist())

    n, m = len(mesh.points), len(mesh.triangles)
    text = ["# vtk DataFile Version 3.0", "LPS, mm", "ASCII", "DATASET POLYDATA"]
    text += [f"POINTS {n} double", lines(mesh.points, ".9g")]
    text += [f"POLYGONS {m} {4 * m}", lines(np.insert(mesh.triangles, 0, 3, axis=1), "d")]
    if mesh.values:
        text.append(f"POINT_DATA {n}")
    for name, values in mesh.values.items():
        kind, form = ("int", "d") if values.dtype.kind in "biu" else ("double", ".9g")
        text += [f"SCALARS {name} {kind} 1", "LOOKUP_TABLE default", lines(values[:, None], form)]
    return "\n".join(text) + "\n"
