"""Compute spherical maps: a lazy function of Datasets and a step of a run, which share a kernel."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.errors import InputError, Reason, RunError
from qmri_lake.execution.step import step
from qmri_lake.steps._map_variables import GRID, SIZES, sphere_variable
from qmri_lake.steps._surface import arguments, check_with_t2, map_knees, no_bone, product, read_by
from qmri_lake.steps.articular_template import as_template, template_digest
from qmri_lake.surface.articular_area import SURFACE_STATUS
from qmri_lake.surface.spherical_grid import BIOMARKERS, BONES
from qmri_lake.surface.spherical_maps import (
    MAP_STATUS,
    MapStatus,
    Method,
    check_options,
    spherical_map,
)

__all__ = ["BIOMARKERS", "sphere", "spherical_maps"]


VARIABLES = (
    sphere_variable(
        "map",
        ("bone", "biomarker", *GRID),
        "float32",
        "Spherical maps: bone shape and thickness in mm, T2 in ms",
        "",
        "no value there: see surface_status and map_status",
        valid_range=(0, 1_000_000),
    ),
    sphere_variable(
        "surface_status",
        ("bone", *GRID),
        "uint8",
        "State of the surface in a pixel",
        "",
        "no map of this bone",
        flags=SURFACE_STATUS,
    ),
    sphere_variable(
        "area",
        ("bone", *GRID),
        "float32",
        "Area of the bone surface in a pixel",
        "mm2",
        "no surface seen",
        valid_range=(0, 1_000),
    ),
    sphere_variable(
        "centre",
        ("bone", "axis"),
        "float64",
        "Centre of the directions of a bone, LPS world coordinates",
        "mm",
        "no map",
    ),
    sphere_variable(
        "dropped_pieces",
        ("bone",),
        "int32",
        "Pieces of bone that are not part of the map",
        "",
        "no map",
        valid_range=(0, 1_000_000),
    ),
    sphere_variable(
        "map_status",
        ("bone",),
        "uint8",
        "Whether a bone was mapped",
        "",
        "never computed",
        flags=MAP_STATUS,
    ),
)


_OF_MSME = {"t2": "t2", "t2_affine": "affine", "dess_to_msme": "dess_to_msme"}


class _Maps(NamedTuple):
    """Maps of one exam: one array for each of `VARIABLES`."""

    map: NDArray[np.float32]
    surface_status: NDArray[np.uint8]
    area: NDArray[np.float32]
    centre: NDArray[np.float64]
    dropped_pieces: NDArray[np.int32]
    map_status: NDArray[np.uint8]

    @classmethod
    def empty(cls, exams: int | None = None) -> _Maps:
        first = () if exams is None else (exams,)
        axis = {**SIZES, "axis": 3}
        return cls(
            *(np.full((*first, *(axis[dim] for dim in v.dims)), v.fill, v.dtype) for v in VARIABLES)
        )


def _map_exam(
    bone: Values,
    cartilage: Values,
    affine: NDArray[np.float64],
    *,
    knee: str,
    t2: NDArray[np.float32] | None = None,
    t2_affine: NDArray[np.float64] | None = None,
    dess_to_msme: NDArray[np.float64] | None = None,
    articular: NDArray[np.bool_] | None = None,
    method: Method,
    closing: float,
) -> tuple[_Maps, list[str]]:
    """Map the three bones of one exam; return the maps, and notes on implausible results."""
    maps, notes = _Maps.empty(), []
    for k, name in enumerate(BONES):
        try:
            found = spherical_map(
                bone,
                cartilage,
                affine,
                bone_name=name,
                knee=knee,
                t2=t2,
                t2_affine=t2_affine,
                dess_to_msme=dess_to_msme,
                method=method,
                closing=closing,
                articular=None if articular is None else articular[k],
            )
        except InputError as error:
            if error.reason is not Reason.EMPTY_MASK:
                raise
            maps.map_status[k] = MapStatus.ABSENT
            notes.append(error.found)
            continue
        maps.map[k] = [found[biomarker].values for biomarker in BIOMARKERS]
        maps.surface_status[k] = found["surface_status"].values
        maps.area[k] = found["area"].values
        maps.centre[k] = found.centre
        maps.dropped_pieces[k] = found.dropped_pieces
        if found.flag:
            maps.map_status[k] = MapStatus.ODD
        else:
            maps.map_status[k] = MapStatus.SHORT_SHAFT if found.short_shaft else MapStatus.MAPPED
        if found.flag:
            notes.append(f"{name}: {found.flag}")
        if t2 is not None and not np.isfinite(maps.map[k, BIOMARKERS.index("t2")]).any():
            notes.append(f"no T2 over the {name}")
    return maps, notes


def _reads(*, with_t2: bool, **_: object) -> dict[str, tuple[str, ...]]:
    return read_by(_OF_MSME, with_t2)


def _check_parameters(
    *, with_t2: object, method: str, closing: float, articular: ArrayLike | None
) -> dict[str, object]:
    """Check the parameters when a run is planned, and read the template."""
    check_with_t2(with_t2, "step sphere")
    template = None if articular is None else as_template(articular)
    try:
        check_options(method, closing, None)
    except InputError as error:
        raise RunError(error.found, expected=error.expected, where="step sphere") from error
    return {"articular": template}


def _recorded(*, articular: NDArray[np.bool_] | None, **rest: object) -> dict[str, object]:
    return {**rest, "articular": template_digest(articular)}


@step(
    reads=_reads,
    writes=VARIABLES,
    name="sphere",
    validate=_check_parameters,
    recorded_parameters=_recorded,
    memory_factor=8,
)
def sphere(
    dess: xr.Dataset,
    msme: xr.Dataset | None = None,
    *,
    with_t2: bool = True,
    method: Method = "normal",
    closing: float = 5.0,
    articular: NDArray[np.bool_] | None = None,
) -> xr.Dataset:
    """Map one exam; the parameters are those of `spherical_maps`.

    An exam without multi-echo images is left pending. With ``with_t2=False``, it is mapped without
    T2.
    """
    maps, notes = _map_exam(
        **arguments(dess, msme, _OF_MSME), method=method, closing=closing, articular=articular
    )
    if (maps.map_status == MapStatus.ABSENT).all():
        raise no_bone(notes, "sphere")
    return product(VARIABLES, maps, notes)


def spherical_maps(
    dess: xr.Dataset,
    msme: xr.Dataset | None = None,
    *,
    method: Method = "normal",
    closing: float = 5.0,
    articular: ArrayLike | None = None,
) -> xr.Dataset:
    """Map bone shape, cartilage thickness and T2 onto spheres, lazily.

    Parameters
    ----------
    dess : Dataset
        Group ``dess``: `bone` and `cartilage` (exam, slice, row, column), `affine`, the coordinate
        `knee`, and `extent` if exams differ in size. Volumes must be whole. A single exam has no
        dimension ``exam``.
    msme : Dataset, optional
        Group ``msme`` of the same exams in the same order, with `t2` [ms], `affine` and
        `dess_to_msme`. Default: maps without T2. Neither Dataset is modified.
    method : {"normal", "nearest"}
        Definition of thickness, as in `qmri_lake.surface.spherical_map`.
    closing : float
        Radius of the morphological closing of the covered area [mm], as in
        `qmri_lake.surface.spherical_map`.
    articular : (bone, azimuth, polar) bool, optional
        Articular areas of a template: see `qmri_lake.articular_template`. Default: the covered area
        of each knee after the closing.

    Returns
    -------
    Dataset
        Lazy variables of group ``sphere``: `map` (exam, bone, biomarker, azimuth, polar) [mm, mm,
        ms]; `surface_status` and `area` [mm2] (exam, bone, azimuth, polar); `centre` (exam, bone,
        axis); `dropped_pieces` and `map_status` (exam, bone). If a bone is absent or has no
        cartilage, its maps are NaN and its `map_status` is "absent".

    Raises
    ------
    NotFoundError
        If a variable is missing.
    InputError
        If `dess` and `msme` have different exams, volumes are incomplete, or `method` is unknown.
        When computed: if an exam was never segmented or has an invalid affine.
    """
    check_options(method, closing, None)
    areas = None if articular is None else as_template(articular)

    def kernel(**exam: Any) -> _Maps:
        return _map_exam(**exam, method=method, closing=closing, articular=areas)[0]

    return map_knees(kernel, sphere.writes, dess, msme, _OF_MSME, "spherical_maps")
