"""Variables of spherical maps and of averages in regions, with the names along their dimensions."""

from __future__ import annotations

from typing import Any

from qmri_lake.schema.variable import Coordinate, Variable
from qmri_lake.surface.regions import REGIONS
from qmri_lake.surface.spherical_grid import BIOMARKERS, BONES, SIZE, azimuths, polar_angles

__all__ = ["GRID", "SIZES", "region_variable", "sphere_variable"]

GRID = ("azimuth", "polar")
_NAMES = (
    Coordinate("bone", ("bone",), BONES, "Bone"),
    Coordinate("biomarker", ("biomarker",), BIOMARKERS, "Quantity of a map"),
    Coordinate(
        "azimuth",
        ("azimuth",),
        tuple(azimuths().tolist()),
        "Around the pole: 0 anterior (patella: proximal), 90 medial",
        "degrees",
    ),
    Coordinate(
        "polar_angle",
        ("bone", "polar"),
        tuple(tuple(polar_angles(bone).tolist()) for bone in BONES),
        "From the articular pole",
        "degrees",
    ),
)
SIZES = {"bone": len(BONES), "biomarker": len(BIOMARKERS), "azimuth": SIZE, "polar": SIZE}


def sphere_variable(
    name: str,
    dims: tuple[str, ...],
    dtype: str,
    description: str,
    unit: str,
    absent: str,
    **more: Any,
) -> Variable:
    """Return a variable of group ``sphere``, with the coordinates of its dimensions."""
    sizes = {dim: SIZES[dim] for dim in dims if dim in SIZES}
    known = tuple(c for c in _NAMES if set(c.dims) <= set(dims))
    return Variable(
        "sphere",
        name,
        dims,
        dtype,
        description,
        unit,
        absent,
        sizes=sizes,
        coordinates=known,
        **more,
    )


_REGIONS = Coordinate(
    "region", ("region",), tuple(REGIONS), "Region of cartilage, after Eckstein and Wirth"
)


def region_variable(name: str, words: str, unit: str, high: float, absent: str) -> Variable:
    """Return a variable of group ``region``: a mean, or a number if its name ends with ``_n``."""
    return Variable(
        "region",
        name,
        ("region",),
        "int32" if name.endswith("_n") else "float32",
        words,
        unit,
        absent,
        valid_range=(0, high),
        sizes={"region": len(REGIONS)},
        coordinates=(_REGIONS,),
    )
