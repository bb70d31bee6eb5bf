"""Projection and averaging of a quantitative map: steps made from the declaration of the map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.errors import InputError, NotFoundError, Reason, RunError
from qmri_lake.execution.step import Step, load_steps, step
from qmri_lake.fusion import Biomarker, add_biomarker
from qmri_lake.schema.groups import GROUPS
from qmri_lake.schema.variable import Variable
from qmri_lake.steps._map_variables import region_variable, sphere_variable
from qmri_lake.steps._surface import arguments, map_knees, means_of_exam, no_bone, product, read_by
from qmri_lake.surface.spherical_grid import BONES, SIZE
from qmri_lake.surface.spherical_maps import Method, check_options, spherical_map

__all__ = ["QuantitativeMap", "declare_quantitative_map", "map_means", "project_map"]


@dataclass(frozen=True)
class QuantitativeMap:
    """A map on the grid of a series that is projected and averaged like T2.

    Parameters
    ----------
    name : str
        Name of the biomarker, such as ``qdess_t2``: its map is ``sphere/qdess_t2``, and its means
        are ``region/qdess_t2``, ``qdess_t2_se`` and ``qdess_t2_n``.
    group, variable : str
        Where the map is stored, such as ``qdess`` and ``t2``: (exam, slice, row, column), NaN where
        there is no value. The group also has `cartilage` and ``dess_to_GROUP``, which the step of
        `qmri_lake.steps.register_series.registration_step` writes.
    biomarker : Biomarker
        Names, unit, scale and colours in images.
    """

    name: str
    group: str
    variable: str
    biomarker: Biomarker

    @property
    def on_sphere(self) -> dict[str, str]:
        """Variables that a projection reads, by the arguments of the kernel."""
        return {
            "t2": self.variable,
            "t2_affine": "affine",
            "dess_to_msme": f"dess_to_{self.group}",
        }

    @property
    def in_regions(self) -> dict[str, str]:
        """Variables that averages read, by the arguments of the kernel."""
        return {**self.on_sphere, "t2_labels": "cartilage"}


KNOWN: dict[str, QuantitativeMap] = {}
"""Declared maps by name."""


class Declared(NamedTuple):
    """Steps of a quantitative map."""

    sphere: Step
    """Step ``sphere_NAME``, which writes ``sphere/NAME``."""
    region: Step
    """Step ``region_NAME``, which writes ``region/NAME``, ``NAME_se`` and ``NAME_n``."""


def _sphere_variable(what: QuantitativeMap) -> Variable:
    return sphere_variable(
        what.name,
        ("bone", "azimuth", "polar"),
        "float32",
        f"Spherical map of {what.biomarker.long_name}, mean through the depth of cartilage",
        what.biomarker.unit,
        "no value there, or no map of this bone",
        valid_range=(0, 1_000_000),
    )


def _region_variables(what: QuantitativeMap) -> tuple[Variable, ...]:
    title, unit = what.biomarker.title, what.biomarker.unit
    absent = f"no such cartilage, or no {title} in it"
    return (
        region_variable(
            what.name,
            f"{title}, mean over voxels of the {GROUPS[what.group].label} series",
            unit,
            1e6,
            absent,
        ),
        region_variable(
            f"{what.name}_se",
            f"Standard error of {title}, voxels independent",
            unit,
            1e6,
            absent,
        ),
        region_variable(f"{what.name}_n", f"Number of voxels in the mean {title}", "", 1e9, absent),
    )


def declare_quantitative_map(what: QuantitativeMap) -> Declared:
    """Declare the steps that project a map onto spheres and average it in regions.

    Parameters
    ----------
    what : QuantitativeMap
        The map; its group has been declared, and the step that writes the map.

    Returns
    -------
    Declared
        The steps ``sphere_NAME`` and ``region_NAME``. Both leave exams without the map pending. The
        name can be used in strategies of `qmri_lake.fusion`.

    Raises
    ------
    VariableError
        If the names are taken.
    """
    add_biomarker(what.name, what.biomarker)
    sphere_name, region_name = f"sphere_{what.name}", f"region_{what.name}"

    def check(*, method: str) -> None:
        try:
            check_options(method, 0.0, None)
        except InputError as error:
            raise RunError(
                error.found, expected=error.expected, where=f"step {sphere_name}"
            ) from error

    def project(dess: xr.Dataset, series: xr.Dataset, *, method: Method = "normal") -> xr.Dataset:
        maps, notes, bones = _project_exam(
            **arguments(dess, series, what.on_sphere), what=what, method=method
        )
        if not bones:
            raise no_bone(notes, sphere_name)
        return product([_sphere_variable(what)], [maps], notes)

    def average(dess: xr.Dataset, series: xr.Dataset) -> xr.Dataset:
        means, notes, bones = _average_exam(**arguments(dess, series, what.in_regions), what=what)
        if not bones:
            raise no_bone(notes, region_name)
        return product(_region_variables(what), means, notes)

    project.__name__, average.__name__ = sphere_name, region_name
    project.__doc__ = (
        f"Map {what.biomarker.title} of one exam onto spheres; `method` is that of "
        "`spherical_maps`."
    )
    average.__doc__ = f"Average {what.biomarker.title} of one exam in regions of cartilage."
    on_sphere = step(
        reads=read_by(what.on_sphere, True, what.group),
        writes=[_sphere_variable(what)],
        name=sphere_name,
        validate=check,
        memory_factor=8,
    )(project)
    in_regions = step(
        reads=read_by(what.in_regions, True, what.group),
        writes=_region_variables(what),
        name=region_name,
        memory_factor=8,
    )(average)
    KNOWN[what.name] = what
    return Declared(on_sphere, in_regions)


def _project_exam(
    bone: Values,
    cartilage: Values,
    affine: NDArray[np.float64],
    *,
    knee: str,
    what: QuantitativeMap,
    method: Method,
    **values: Any,
) -> tuple[NDArray[np.float32], list[str], int]:
    """Return the maps (bone, azimuth, polar) of one exam, notes, and the number of bones."""
    maps = np.full((len(BONES), SIZE, SIZE), np.nan, np.float32)
    notes, bones = [], 0
    for k, name in enumerate(BONES):
        try:
            found = spherical_map(
                bone, cartilage, affine, bone_name=name, knee=knee, method=method, **values
            )
        except InputError as error:
            if error.reason is not Reason.EMPTY_MASK:
                raise
            notes.append(error.found)
            continue
        bones += 1
        maps[k] = found["t2"].values
        if not np.isfinite(maps[k]).any():
            notes.append(f"no {what.biomarker.title} over the {name}")
    return maps, notes, bones


def _average_exam(
    what: QuantitativeMap, **exam: Any
) -> tuple[tuple[Values, Values, Values], list[str], int]:
    """Return mean, standard error and number by region, notes, and the number of bones."""
    means, notes, bones = means_of_exam(**exam, title=what.biomarker.title)
    return (means.t2, means.t2_se, means.t2_n), notes, bones


def project_map(
    dess: xr.Dataset, series: xr.Dataset, name: str, *, method: Method = "normal"
) -> xr.Dataset:
    """Map a quantitative map onto spheres, lazily.

    Parameters
    ----------
    dess : Dataset
        As in `qmri_lake.spherical_maps`.
    series : Dataset
        The group of the map, of the same exams in the same order, with the map, `affine` and
        ``dess_to_GROUP``. Neither Dataset is modified.
    name : str
        Name of the biomarker, such as ``t1rho``, ``t2star`` or ``qdess_t2``.
    method : {"normal", "nearest"}
        Definition of thickness, as in `qmri_lake.surface.spherical_map`.

    Returns
    -------
    Dataset
        The lazy variable `name` (exam, bone, azimuth, polar), NaN where there is no value.

    Raises
    ------
    NotFoundError
        If no such map is declared, or a variable is missing.
    InputError
        If the exams differ, volumes are incomplete, or `method` is unknown. When computed: if an
        exam was never segmented.
    """
    what = _find(name, "project_map")
    check_options(method, 0.0, None)

    def kernel(**exam: Any) -> list[Values]:
        return [_project_exam(**exam, what=what, method=method)[0]]

    variables = [_sphere_variable(what)]
    return map_knees(kernel, variables, dess, series, what.on_sphere, "project_map", what.group)


def map_means(dess: xr.Dataset, series: xr.Dataset, name: str) -> xr.Dataset:
    """Average a quantitative map in regions of cartilage, lazily.

    Parameters
    ----------
    dess : Dataset
        As in `qmri_lake.region_means`.
    series : Dataset
        The group of the map, of the same exams in the same order, with the map, `cartilage`,
        `affine` and ``dess_to_GROUP``. Neither Dataset is modified.
    name : str
        Name of the biomarker, such as ``t1rho``, ``t2star`` or ``qdess_t2``.

    Returns
    -------
    Dataset
        The lazy variables `name`, its standard error ``NAME_se``, and the number of voxels
        ``NAME_n``, all (exam, region). Without a value, they are NaN, and numbers are -1.

    Raises
    ------
    NotFoundError
        If no such map is declared, or a variable is missing.
    InputError
        If the exams differ, or volumes are incomplete. When computed: if an exam was never
        segmented.
    """
    what = _find(name, "map_means")

    def kernel(**exam: Any) -> tuple[Values, Values, Values]:
        return _average_exam(**exam, what=what)[0]

    variables = _region_variables(what)
    return map_knees(kernel, variables, dess, series, what.in_regions, "map_means", what.group)


def _find(name: str, where: str) -> QuantitativeMap:
    load_steps()
    if name not in KNOWN:
        raise NotFoundError(
            f"no quantitative map {name!r}",
            expected=f"one of {', '.join(KNOWN)}",
            where=where,
            todo="Declare your own: declare_quantitative_map.",
        )
    return KNOWN[name]
