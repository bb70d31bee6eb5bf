"""Spherical maps of a lake: lazily in a session, or as a run; both call one kernel for one exam."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from qmri_lake.errors import InputError, Reason, RunError
from qmri_lake.steps import step
from qmri_lake.surface.articular import SURFACE_STATUS
from qmri_lake.surface.layout import BIOMARKERS, BONES, SIZE, azimuths, polar_angles
from qmri_lake.surface.lazy import (
    arguments,
    check_with_t2,
    each_exam,
    no_bone,
    product,
    read_by,
)
from qmri_lake.surface.sphere import Method, check_options, spherical_map
from qmri_lake.surface.template import as_template, template_digest
from qmri_lake.variables import Coordinate, Variable

__all__ = ["BIOMARKERS", "MAP_STATUS", "sphere", "spherical_maps"]

MAP_STATUS = {"mapped": 0, "short_shaft": 1, "odd": 2, "absent": 3}
"""Of a bone: mapped; mapped from a centre that is placed by rule, since its shaft is short in the
field of view; mapped, but something is strange; not mapped: there is no bone or no cartilage on
it."""

_GRID = ("azimuth", "polar")
_NAMES = (
    Coordinate("bone", ("bone",), BONES, "Bone"),
    Coordinate("biomarker", ("biomarker",), BIOMARKERS, "What a map shows"),
    Coordinate("azimuth", ("azimuth",), tuple(azimuths().tolist()),
               "Around the pole: 0 anterior (patella: proximal), 90 medial", "degrees"),
    Coordinate("polar_angle", ("bone", "polar"),
               tuple(tuple(polar_angles(bone).tolist()) for bone in BONES),
               "From the articular pole", "degrees"),
)  # fmt: skip
_SIZES = {"bone": len(BONES), "biomarker": len(BIOMARKERS), "azimuth": SIZE, "polar": SIZE}


def _variable(
    name: str, dims: tuple[str, ...], dtype: str, description: str, unit: str, absent: str,
    **more: Any,
) -> Variable:  # fmt: skip
    sizes = {dim: _SIZES[dim] for dim in dims if dim in _SIZES}
    known = tuple(c for c in _NAMES if set(c.dims) <= set(dims))
    return Variable(
        "sphere", name, dims, dtype, description, unit, absent, sizes=sizes, coordinates=known,
        **more,
    )  # fmt: skip


VARIABLES = (
    _variable("map", ("bone", "biomarker", *_GRID), "float32",
              "Spherical maps: bone shape and thickness in mm, T2 in ms", "",
              "no value there: see surface_status and map_status", valid_range=(0, 1_000_000)),
    _variable("surface_status", ("bone", *_GRID), "uint8", "What a pixel shows of the surface",
              "", "no map of this bone", flags=SURFACE_STATUS),
    _variable("area", ("bone", *_GRID), "float32", "Bone surface that a pixel stands for", "mm2",
              "no surface seen", valid_range=(0, 1_000)),
    _variable("centre", ("bone", "axis"), "float64",
              "Centre that a bone's directions start from, LPS world coordinates", "mm", "no map"),
    _variable("dropped_pieces", ("bone",), "int32", "Pieces of bone that are not part of the map",
              "", "no map", valid_range=(0, 1_000_000)),
    _variable("map_status", ("bone",), "uint8", "Whether a bone was mapped", "",
              "never computed", flags=MAP_STATUS),
)  # fmt: skip


_OF_MSME = {"t2": "t2", "t2_affine": "affine", "dess_to_msme": "dess_to_msme"}


class _Maps(NamedTuple):
    """Maps of one exam, as `VARIABLES`."""

    map: NDArray[np.float32]
    surface_status: NDArray[np.uint8]
    area: NDArray[np.float32]
    centre: NDArray[np.float64]
    dropped_pieces: NDArray[np.int32]
    map_status: NDArray[np.uint8]

    @classmethod
    def empty(cls, exams: int | None = None) -> _Maps:
        first = () if exams is None else (exams,)
        axis = {**_SIZES, "axis": 3}
        return cls(
            *(np.full((*first, *(axis[dim] for dim in v.dims)), v.fill, v.dtype) for v in VARIABLES)
        )


def _map_exam(
    bone: NDArray[Any],
    cartilage: NDArray[Any],
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
    """Map the three bones of one exam; return the maps, and what is odd about them in words."""
    maps, notes = _Maps.empty(), []
    for k, name in enumerate(BONES):
        try:
            found = spherical_map(
                bone, cartilage, affine, bone_name=name, knee=knee, t2=t2, t2_affine=t2_affine,
                dess_to_msme=dess_to_msme, method=method, closing=closing,
                articular=None if articular is None else articular[k],
            )  # fmt: skip
        except InputError as error:
            if error.reason is not Reason.EMPTY_MASK:
                raise
            maps.map_status[k] = MAP_STATUS["absent"]
            notes.append(error.found)
            continue
        maps.map[k] = [found[biomarker].values for biomarker in BIOMARKERS]
        maps.surface_status[k] = found["surface_status"].values
        maps.area[k] = found["area"].values
        maps.centre[k] = found.centre
        maps.dropped_pieces[k] = found.dropped_pieces
        state = "odd" if found.flag else "short_shaft" if found.short_shaft else "mapped"
        maps.map_status[k] = MAP_STATUS[state]
        if found.flag:
            notes.append(f"{name}: {found.flag}")
        if t2 is not None and not np.isfinite(maps.map[k, BIOMARKERS.index("t2")]).any():
            notes.append(f"no T2 over the {name}")
    return maps, notes


def _reads(*, with_t2: bool, **_: Any) -> dict[str, tuple[str, ...]]:
    return read_by(_OF_MSME, with_t2)


def _check_parameters(
    *, with_t2: object, method: str, closing: float, articular: Any
) -> dict[str, Any]:
    """Refuse parameters of the wrong kind when a run is planned; read a template from its file."""
    check_with_t2(with_t2, "step sphere")
    template = None if articular is None else as_template(articular)
    try:
        check_options(method, closing, None)
    except InputError as error:
        raise RunError(error.found, expected=error.expected, where="step sphere") from error
    return {"articular": template}


def _recorded(*, articular: NDArray[np.bool_] | None, **rest: Any) -> dict[str, Any]:
    return {**rest, "articular": template_digest(articular)}


@step(
    reads=_reads, writes=VARIABLES, name="sphere", check=_check_parameters, recorded=_recorded,
    copies=8,
)  # fmt: skip
def sphere(
    dess: xr.Dataset,
    msme: xr.Dataset | None = None,
    *,
    with_t2: bool = True,
    method: Method = "normal",
    closing: float = 5.0,
    articular: Any | None = None,
) -> xr.Dataset:
    """Map one exam; the parameters are those of `spherical_maps`.

    Without multi-echo images an exam waits for `t2`: ``with_t2=False`` maps it without.
    """
    maps, notes = _map_exam(
        **arguments(dess, msme, _OF_MSME), method=method, closing=closing, articular=articular
    )
    if (maps.map_status == MAP_STATUS["absent"]).all():
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
    """Map the bones of exams, the cartilage over them, and T2 in that, onto spheres, lazily.

    Parameters
    ----------
    dess : Dataset
        Group ``dess``: `bone` and `cartilage` (exam, slice, row, column), `affine`, the coordinate
        `knee`, and `extent` where exams differ. Whole volumes; without ``exam`` for one exam.
    msme : Dataset, optional
        Group ``msme`` of the same exams in the same order, with `t2` [ms], `affine` and
        `dess_to_msme`. Default: maps without T2. Neither is modified.
    method : {"normal", "nearest"}
        Of thickness, as in `qmri_lake.surface.spherical_map`.
    closing : float
        mm, likewise.
    articular : (bone, azimuth, polar) bool, optional
        Articular areas of a template, see `qmri_lake.articular_template`; default: the covered
        area of each knee, closed.

    Returns
    -------
    Dataset
        As group ``sphere``, all lazy: `map` (exam, bone, biomarker, azimuth, polar), mm, mm and ms;
        `surface_status` and `area` [mm2] (exam, bone, azimuth, polar); `centre` (exam, bone, axis);
        `dropped_pieces` and `map_status` (exam, bone). A bone that is absent, or has no cartilage,
        is NaN, with that status.

    Raises
    ------
    NotFoundError
        A variable that is needed is not there.
    InputError
        Other exams in `dess` than in `msme`; a part of a volume; an unknown `method`. When
        computed: an exam that was never segmented, or whose affine is none.
    """
    check_options(method, closing, None)
    areas = None if articular is None else as_template(articular)

    def kernel(**exam: Any) -> _Maps:
        return _map_exam(**exam, method=method, closing=closing, articular=areas)[0]

    return each_exam(kernel, sphere.writes, dess, msme, _OF_MSME, "spherical_maps")
