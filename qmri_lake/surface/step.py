"""Spherical maps of a lake: lazily in a session, or as a run; both call one kernel for one exam."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from qmri_lake.compute import one_exam_a_block
from qmri_lake.errors import InputError, Reason, RunError
from qmri_lake.pairs import VOLUME, check_same_exams, check_variables, check_whole
from qmri_lake.steps import step
from qmri_lake.surface.articular import SURFACE_STATUS
from qmri_lake.surface.layout import BONES, SIZE, azimuths, polar_angles
from qmri_lake.surface.sphere import Method, check_options, spherical_map
from qmri_lake.surface.template import as_template
from qmri_lake.variables import Coordinate, Variable

__all__ = ["BIOMARKERS", "MAP_STATUS", "sphere", "spherical_maps"]

BIOMARKERS = ("bone_shape", "thickness", "t2")
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
    reads: dict[str, tuple[str, ...]] = {"dess": ("bone", "cartilage", "affine")}
    if with_t2:
        reads["msme"] = ("t2", "affine", "dess_to_msme")
    return reads


def _check_parameters(
    *, with_t2: object, method: str, closing: float, articular: Any
) -> dict[str, Any]:
    """Refuse parameters of the wrong kind when a run is planned; read a template from its file."""
    if not isinstance(with_t2, bool):
        raise RunError(f"with_t2={with_t2!r}", expected="True or False", where="step sphere")
    template = None if articular is None else as_template(articular)
    try:
        check_options(method, closing, None)
    except InputError as error:
        raise RunError(error.found, expected=error.expected, where="step sphere") from error
    return {"articular": template}


def _recorded(*, articular: NDArray[np.bool_] | None, **rest: Any) -> dict[str, Any]:
    digest = "" if articular is None else hashlib.sha256(articular.tobytes()).hexdigest()[:16]
    return {**rest, "articular": digest}


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
    t2 = {}
    if msme is not None:
        t2 = {"t2": msme["t2"].values, "t2_affine": msme["affine"].values,
              "dess_to_msme": msme["dess_to_msme"].values}  # fmt: skip
    maps, notes = _map_exam(
        dess["bone"].values, dess["cartilage"].values, dess["affine"].values,
        knee=dess["knee"].item(), method=method, closing=closing, articular=articular, **t2,
    )  # fmt: skip
    if (maps.map_status == MAP_STATUS["absent"]).all():
        raise InputError(
            "; ".join(notes), expected="a bone and its cartilage", where="sphere",
            reason=Reason.EMPTY_MASK,
        )  # fmt: skip
    made = {v.name: (v.dims, a) for v, a in zip(VARIABLES, maps, strict=True)}
    return xr.Dataset(made).assign_attrs({"flag": "; ".join(notes)} if notes else {})


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
    where = "spherical_maps"
    check_variables(dess, "dess", ("bone", "cartilage", "affine", "knee"), where)
    check_whole(dess, "DESS", where)
    names = {dim: f"dess_{dim}" for dim in VOLUME}
    inputs = {
        "bone": _bare(dess["bone"]).rename(names),
        "cartilage": _bare(dess["cartilage"]).rename(names),
        "affine": _bare(dess["affine"]),
        "knee": _bare(dess["knee"]),
    }
    core: dict[str, list[str]] = {name: [*names.values()] for name in ("bone", "cartilage")}
    core |= {"affine": ["world", "voxel"], "knee": [], "extent": ["axis"], "t2": [*VOLUME]}
    if "extent" in dess:
        inputs["extent"] = _bare(dess["extent"])
    if msme is not None:
        check_variables(msme, "msme", ("t2", "affine", "dess_to_msme"), where)
        check_same_exams(
            dess, msme, where, "lake.cohort().require('dess/bone').require('msme/t2')."
        )
        check_whole(msme, "MSME", where)
        inputs |= {
            "t2": _bare(msme["t2"]),
            "t2_affine": _bare(msme["affine"]),
            "dess_to_msme": _bare(msme["dess_to_msme"]),
        }
    sizes = {**_SIZES, "axis": 3}
    made = xr.apply_ufunc(
        _map_block,
        *map(one_exam_a_block, inputs.values()),
        input_core_dims=[core.get(name, ["world", "voxel"]) for name in inputs],
        output_core_dims=[list(v.dims) for v in VARIABLES],
        kwargs={
            "names": list(inputs), "method": method, "closing": closing, "articular": areas,
        },
        dask="parallelized",
        output_dtypes=[np.dtype(v.dtype) for v in VARIABLES],
        dask_gufunc_kwargs={"output_sizes": sizes},
        keep_attrs=False,
    )  # fmt: skip
    # What is left of `dess`: exams, their keys, and the index that selects by them.
    of_exams = dess.drop_vars(
        [n for n, v in dess.variables.items() if n in dess.data_vars or not {*v.dims} <= {"exam"}]
    )
    layout = {c.name: (c.dims, np.asarray(c.values), _attributes(c)) for c in _NAMES}
    maps = {
        v.name: array.variable.copy(deep=False)._replace(attrs=v.attributes())
        for v, array in zip(sphere.writes, made, strict=True)
    }
    return of_exams.assign_coords(layout).assign(maps)


def _attributes(coordinate: Coordinate) -> dict[str, str]:
    unit = {"units": coordinate.unit} if coordinate.unit else {}
    return {"long_name": coordinate.description, **unit}


def _bare(array: xr.DataArray) -> xr.DataArray:
    """Return an array without coordinates, which apply_ufunc would align."""
    return xr.DataArray(array.variable)


def _map_block(*arrays: Any, names: list[str], **options: Any) -> Any:
    """Map a Dask block of any number of exams, one after another."""
    if arrays[0].ndim == 3:
        return tuple(_map_inside(dict(zip(names, arrays, strict=True)), **options))
    out: tuple[NDArray[Any], ...] = _Maps.empty(len(arrays[0]))
    for row, exam in enumerate(zip(*arrays, strict=True)):
        made = _map_inside(dict(zip(names, exam, strict=True)), **options)
        for values, value in zip(out, made, strict=True):
            values[row] = value
    return tuple(out)


def _map_inside(exam: dict[str, Any], **options: Any) -> _Maps:
    """Map one exam inside its own extent."""
    extent = exam.pop("extent", None)
    if extent is not None and (extent > 0).all():
        box = tuple(slice(0, int(n)) for n in extent)
        exam["bone"], exam["cartilage"] = exam["bone"][box], exam["cartilage"][box]
    exam["knee"] = str(np.asarray(exam["knee"]).item())
    return _map_exam(**exam, **options)[0]
