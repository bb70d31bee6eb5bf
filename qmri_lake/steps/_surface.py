"""Common parts of the steps for spherical maps and regions: inputs and lazy computation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.errors import InputError, Reason, RunError
from qmri_lake.execution.session import (
    DESS_DIMS,
    check_same_exams,
    check_variables,
    check_whole,
    exam_box,
    exam_coords,
    map_exams,
    on_dess_dims,
    refuse_part,
)
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.groups import GROUPS
from qmri_lake.schema.variable import Variable
from qmri_lake.surface.occupancy import CARTILAGE_OF
from qmri_lake.surface.region_means import Means, means_of_bone
from qmri_lake.surface.regions import REGIONS
from qmri_lake.surface.spherical_grid import BONES
from qmri_lake.tissues import CARTILAGE

__all__ = [
    "arguments",
    "check_with_t2",
    "map_knees",
    "means_of_exam",
    "no_bone",
    "product",
    "read_by",
]

_READ = ("bone", "cartilage", "affine")


def read_by(
    of_msme: Mapping[str, str], with_t2: bool, group: str = "msme"
) -> dict[str, tuple[str, ...]]:
    """Return the variables that a step reads; without T2, it reads no other series."""
    msme = {group: tuple(of_msme.values())} if with_t2 else {}
    return {"dess": _READ, **msme}


def check_with_t2(with_t2: object, where: str) -> None:
    """Check that `with_t2` is True or False, when a run is planned."""
    if not isinstance(with_t2, bool):
        raise RunError(f"with_t2={with_t2!r}", expected="True or False", where=where)


def product(
    variables: Sequence[Variable], arrays: Sequence[Values], notes: Sequence[str]
) -> xr.Dataset:
    """Return the results of one exam as a Dataset, flagged if there are notes."""
    made = xr.Dataset({v.name: (v.dims, a) for v, a in zip(variables, arrays, strict=True)})
    return made.assign_attrs({"flag": "; ".join(notes)} if notes else {})


def no_bone(notes: Sequence[str], where: str) -> InputError:
    """Return the error for an exam without a measurable bone."""
    return InputError(
        "; ".join(notes),
        expected="a bone and its cartilage",
        where=where,
        reason=Reason.EMPTY_MASK,
    )


def arguments(
    dess: xr.Dataset, msme: xr.Dataset | None, of_msme: Mapping[str, str]
) -> dict[str, Any]:
    """Return the arguments of a kernel for one exam in memory, from the Datasets of a step."""
    found = {name: dess[name].values for name in _READ}
    if msme is not None:
        found |= {name: msme[variable].values for name, variable in of_msme.items()}
    return {**found, "knee": str(dess["knee"].item())}


def map_knees(
    kernel: Callable[..., Sequence[Values]],
    variables: Sequence[Variable],
    dess: xr.Dataset,
    msme: xr.Dataset | None,
    of_msme: Mapping[str, str],
    where: str,
    group: str = "msme",
) -> xr.Dataset:
    """Apply a kernel lazily to each exam: to its masks and, if `msme` is given, to T2.

    Parameters
    ----------
    kernel : callable
        Takes the values that the function `arguments` returns as keyword arguments. Returns an
        array for each of `variables`.
    variables : sequence of Variable
        Results of the kernel; their sizes and coordinates are fixed.
    dess, msme : Dataset
        Whole volumes of the same exams; a single exam has no dimension ``exam``.
    of_msme : mapping
        Variables of `msme` that the kernel needs, by the name of the kernel's argument.
    where : str
        Name of the calling function, for error messages.
    group : str
        Group of `msme`, which may be another series.

    Returns
    -------
    Dataset
        `variables` with their coordinates, and the exams of `dess`.
    """
    check_variables(dess, "dess", (*_READ, "knee"), where)
    check_whole(dess, "DESS", where)
    inputs: dict[str, tuple[Sequence[str], xr.DataArray]] = {
        "bone": (DESS_DIMS, on_dess_dims(dess["bone"])),
        "cartilage": (DESS_DIMS, on_dess_dims(dess["cartilage"])),
        "affine": (("world", "voxel"), dess["affine"]),
        "knee": ((), dess["knee"]),
    }
    if "extent" in dess:
        inputs["extent"] = ("axis",), dess["extent"]
    if msme is not None:
        check_variables(msme, group, tuple(of_msme.values()), where)
        first = next(iter(of_msme.values()))
        todo = f"lake.cohort().require('dess/bone').require('{group}/{first}')."
        check_same_exams(dess, msme, where, todo, group)
        check_whole(msme, "MSME" if group == "msme" else GROUPS[group].label, where)
        inputs |= {
            name: (REGISTRY[f"{group}/{variable}"].dims, msme[variable])
            for name, variable in of_msme.items()
        }
    results = map_exams(functools.partial(_map_inside, kernel, where), inputs, variables)
    coordinates = {c.name: c.as_variable() for v in variables for c in v.coordinates}
    return exam_coords(dess).assign_coords(coordinates).assign(results)


def _map_inside(
    kernel: Callable[..., Sequence[Values]],
    where: str,
    *,
    bone: Values,
    cartilage: Values,
    knee: NDArray[np.str_],
    extent: NDArray[np.int32] | None = None,
    **rest: Any,
) -> Sequence[Values]:
    """Apply a kernel to the voxels inside the extent of one exam."""
    box = exam_box(extent)
    if any(b.stop is not None and b.stop > n for b, n in zip(box, bone.shape, strict=True)):
        raise refuse_part("DESS", where)  # the last voxels of the exam are missing
    name = str(np.asarray(knee).item())
    return kernel(bone=bone[box], cartilage=cartilage[box], knee=name, **rest)


def means_of_exam(
    bone: Values,
    cartilage: Values,
    affine: NDArray[np.float64],
    *,
    knee: str,
    title: str = "T2",
    articular: NDArray[np.bool_] | None = None,
    t2_labels: NDArray[np.uint8] | None = None,
    **t2: Values,
) -> tuple[Means, list[str], int]:
    """Average the regions of one exam.

    Returns
    -------
    means : Means
    notes : list of str
        Notes on implausible masks, and on cartilage without a value of the map called `title`.
    bones : int
        Number of measurable bones.
    """
    means, notes, bones = Means.empty(), [], 0
    for k, name in enumerate(BONES):
        labels = None if t2_labels is None else t2_labels == CARTILAGE[CARTILAGE_OF[name]]
        try:
            odd = means_of_bone(
                bone,
                cartilage,
                affine,
                bone_name=name,
                knee=knee,
                means=means,
                t2_labels=labels,
                articular=None if articular is None else articular[k],
                **t2,
            )
        except InputError as error:
            if error.reason is not Reason.EMPTY_MASK:
                raise
            notes.append(error.found)
            continue
        bones += 1
        notes += odd
        if labels is not None and not means.t2_n[list(REGIONS).index(name[0].upper())]:
            notes.append(f"no {title} in {CARTILAGE_OF[name]} cartilage")
    return means, notes, bones
