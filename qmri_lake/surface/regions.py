"""Regions of cartilage, named after Eckstein and Wirth, and their positions on a bone.

All rules are geometric, and their details are assumptions: readers and other programs draw borders
by hand or by other rules. Except for the parts of a plateau, borders depend on the bone and not on
its cartilage, so that cartilage loss does not move a border.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binned_statistic_2d

from qmri_lake.errors import InputError, Reason
from qmri_lake.surface.articular_area import SurfaceStatus
from qmri_lake.surface.bone_centre import Centre
from qmri_lake.surface.surface_points import SurfacePoints

__all__ = ["LEAVES", "REGIONS", "REGIONS_OF", "Compartments", "find_compartments"]

Parts = tuple[str, ...]

REGIONS: Mapping[str, str] = MappingProxyType(
    {
        "P": "patella",
        "F": "femur, whole",
        "TrF": "trochlea: in front of the notch",
        "MF": "medial condyle",
        "LF": "lateral condyle",
        "cMF": "medial condyle, weight-bearing: the first 60 % behind the notch's front edge",
        "pMF": "medial condyle, posterior",
        "cLF": "lateral condyle, weight-bearing",
        "pLF": "lateral condyle, posterior",
        "T": "tibia, whole",
        "MT": "medial plateau",
        "LT": "lateral plateau",
        "cMT": "medial plateau, central: an ellipse with 20 % of its area",
        "eMT": "medial plateau, external: towards the rim",
        "iMT": "medial plateau, internal: towards the eminence",
        "aMT": "medial plateau, anterior",
        "pMT": "medial plateau, posterior",
        "cLT": "lateral plateau, central",
        "eLT": "lateral plateau, external",
        "iLT": "lateral plateau, internal",
        "aLT": "lateral plateau, anterior",
        "pLT": "lateral plateau, posterior",
    }
)
"""Definition of each region, by name. The peripheral part of a plateau is all of the plateau except
the central part."""


def _regions_of(whole: str, compartments: Mapping[str, tuple[str, ...]]) -> dict[str, Parts]:
    leaves = tuple(leaf for parts in compartments.values() for leaf in parts)
    return {whole: leaves, **compartments, **{leaf: (leaf,) for leaf in leaves}}


REGIONS_OF: Mapping[str, Mapping[str, Parts]] = MappingProxyType(
    {
        "patella": _regions_of("P", {"P": ("P",)}),
        "femur": _regions_of("F", {"TrF": ("TrF",), "MF": ("cMF", "pMF"), "LF": ("cLF", "pLF")}),
        "tibia": _regions_of(
            "T", {side: tuple(f"{part}{side}" for part in "ceiap") for side in ("MT", "LT")}
        ),
    }
)
"""Regions of each bone. Each region is a set of leaves, which are parts that do not overlap."""
LEAVES: Mapping[str, Parts] = MappingProxyType(
    {bone: next(iter(regions.values())) for bone, regions in REGIONS_OF.items()}
)
"""Leaves of each bone."""

_BETWEEN_MM = 10.0
"""Half the width of the strip around the centre that contains the groove and the notch."""
_CELL_MM = 1.5
_WEIGHT_BEARING = 0.6
"""Length of the weight-bearing part of each condyle, as a share of the distance from the notch to
the posterior end. [Eckstein]"""
_CENTRAL = 0.2
"""Area of the central part, as a share of the area of a plateau. [Wirth and Eckstein]"""

Points = NDArray[np.float64]


@dataclass(frozen=True)
class _Plateau:
    """Centre and spread of a plateau's articular area, projected along z."""

    middle: NDArray[np.floating]
    inverse: NDArray[np.floating]
    """(2, 2) inverse of the covariance."""
    spread: NDArray[np.floating]
    """(2,), along x and y."""
    central: float
    """Squared distance, in units of the spread, up to which a point is central."""


@dataclass(frozen=True)
class Compartments:
    """Borders between the regions of one bone, mm, in the frame of a right knee."""

    bone: str
    middle: float
    """x of the border between medial and lateral."""
    notch: float = np.nan
    """y of the front edge of the notch; femur only."""
    posterior: tuple[float, float] = (np.nan, np.nan)
    """y of the posterior ends of the medial and the lateral condyle; femur only."""
    plateaus: tuple[_Plateau | None, _Plateau | None] = (None, None)
    """Medial and lateral plateau; None for a plateau without articular surface."""

    def of(self, points: Points) -> NDArray[np.intp]:
        """Return the index into `LEAVES` of each point (n, 3); -1 where the plateau is absent."""
        if self.bone == "patella":
            return np.zeros(len(points), np.intp)
        lateral = points[:, 0] <= self.middle
        if self.bone == "femur":
            end = np.where(lateral, self.posterior[1], self.posterior[0])
            behind = (points[:, 1] - self.notch) / (end - self.notch)
            part = np.where(behind < _WEIGHT_BEARING, 1, 2) + 2 * lateral
            return np.where(behind < 0, 0, part)
        found = np.full(len(points), -1, np.intp)
        for side, plateau in enumerate(self.plateaus):
            here = lateral == bool(side)
            if plateau is not None and here.any():
                found[here] = 5 * side + _part(points[here, :2], plateau, outward=1 - 2 * side)
        return found


def find_compartments(bone: str, centre: Centre, points: SurfacePoints) -> Compartments:
    """Find the borders of a bone's regions.

    Parameters
    ----------
    bone : {"femur", "tibia", "patella"}
    centre : Centre
        Its x separates medial from lateral.
    points : SurfacePoints
        Points of the whole bone: x medial of a right knee, y posterior, z proximal.

    Raises
    ------
    InputError
        If a femur has no groove between its condyles.
    """
    place, middle = points.place, float(centre.place[0])
    if bone == "femur":
        notch = _front_of_notch(place, middle)
        ends = tuple(float(place[(place[:, 0] > middle) == m, 1].max()) for m in (True, False))
        return Compartments(bone, middle, notch, (ends[0], ends[1]))
    if bone == "tibia":
        lateral = place[:, 0] <= middle
        plateaus = [
            _plateau(points, (lateral == side) & (points.status != _BEYOND))
            for side in (False, True)
        ]
        return Compartments(bone, middle, plateaus=(plateaus[0], plateaus[1]))
    return Compartments(bone, middle)


_BEYOND = SurfaceStatus.NOT_ARTICULAR


def _front_of_notch(place: Points, middle: float) -> float:
    """Return y where the floor of the trochlear groove is lowest; behind it, the bone turns up.

    Of the surface between the condyles that is visible from below, the groove and the notch are the
    most proximal part.
    """
    between = place[np.abs(place[:, 0] - middle) < _BETWEEN_MM]
    if not len(between):
        raise _without_groove()
    low, high = between.min(axis=0), between.max(axis=0) + _CELL_MM
    edges = [np.arange(low[k], high[k], _CELL_MM) for k in (0, 1)]
    x, y, z = between.T
    below, _, start, _ = binned_statistic_2d(x, y, z, "min", bins=edges)
    # Behind its roof, the notch is open, and only the inner walls of the condyles remain.
    full = np.isfinite(below).mean(axis=0) > 0.8
    if not full.any():
        raise _without_groove()
    floor = np.nanmax(below[:, full], axis=0)
    return float((start[:-1] + _CELL_MM / 2)[full][floor.argmin()])


def _without_groove() -> InputError:
    return InputError(
        "no groove between the condyles of the femur",
        expected=f"bone in a strip of {2 * _BETWEEN_MM:g} mm around the centre of its map",
        where="femur",
        todo="Check the labels and the affine.",
        reason=Reason.EMPTY_MASK,
    )


def _plateau(points: SurfacePoints, here: NDArray[np.bool_]) -> _Plateau | None:
    if np.count_nonzero(here) < 3:
        return None
    flat, weight = points.place[here, :2], points.area[here]
    middle = np.average(flat, axis=0, weights=weight)
    covariance = np.cov(flat.T, aweights=weight)
    # Points on one line do not define a plateau.
    if np.linalg.matrix_rank(covariance, hermitian=True) < 2:
        return None
    inverse = np.linalg.inv(covariance)
    squared = np.einsum("ni,ij,nj->n", flat - middle, inverse, flat - middle)
    order = squared.argsort()
    share = np.cumsum(weight[order]) / weight.sum()
    central = float(squared[order][np.searchsorted(share, _CENTRAL)])
    return _Plateau(middle, inverse, np.sqrt(np.diag(covariance)), central)


def _part(flat: NDArray[np.float64], plateau: _Plateau, outward: int) -> NDArray[np.intp]:
    """Return the part of each point: 0 central, 1 external, 2 internal, 3 anterior, 4 posterior."""
    away = flat - plateau.middle
    squared = np.einsum("ni,ij,nj->n", away, plateau.inverse, away)
    x, y = (away / plateau.spread).T
    sideways = np.where(x * outward > 0, 1, 2)
    part = np.where(np.abs(x) > np.abs(y), sideways, np.where(y < 0, 3, 4))
    return np.where(squared <= plateau.central, 0, part)
