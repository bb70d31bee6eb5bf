"""Regions of cartilage, named after Eckstein and Wirth, and where they lie on a bone.

All rules are geometric, and ours in detail [assumption]: two readers, or two programs, draw borders
by hand or by other rules. They are told by the bone, not by its cartilage, but for the parts of a
plateau, so that worn cartilage moves no border.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binned_statistic_2d

from qmri_lake.errors import InputError, Reason
from qmri_lake.surface.articular import SURFACE_STATUS
from qmri_lake.surface.centre import Centre
from qmri_lake.surface.points import SurfacePoints

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
"""Names, and what they mean. Peripheral on a plateau is all of it but the central part."""


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
"""Regions of each bone, and the parts without overlap that they are made of."""
LEAVES: Mapping[str, Parts] = MappingProxyType(
    {bone: next(iter(regions.values())) for bone, regions in REGIONS_OF.items()}
)
"""Those parts, by bone."""

_BETWEEN_MM = 10.0
"""Half the width of the strip that holds groove and notch, wherever they lie in it."""
_CELL_MM = 1.5
_WEIGHT_BEARING = 0.6
"""Of the way from there to the posterior end of each condyle. [Eckstein]"""
_CENTRAL = 0.2
"""Of the area of a plateau. [Wirth and Eckstein]"""

Points = NDArray[np.float64]


@dataclass(frozen=True)
class _Plateau:
    """Centre and spread of a plateau's articular area, seen from above."""

    middle: NDArray[np.floating[Any]]
    inverse: NDArray[np.floating[Any]]
    """(2, 2), of the covariance."""
    spread: NDArray[np.floating[Any]]
    """(2,), along x and y."""
    central: float
    """Squared distance, in units of the spread, up to which a point is central."""


@dataclass(frozen=True)
class Compartments:
    """Borders between the regions of one bone, in the frame of a right knee, mm."""

    bone: str
    middle: float
    """x that parts medial from lateral."""
    notch: float = np.nan
    """y of its front edge; femur."""
    posterior: tuple[float, float] = (np.nan, np.nan)
    """y where the medial and the lateral condyle end."""
    plateaus: tuple[_Plateau | None, _Plateau | None] = (None, None)
    """Medial, lateral; None where there is no articular surface."""

    def of(self, points: Points) -> NDArray[np.intp]:
        """Return the index into `LEAVES` of each point (n, 3); -1 where a plateau is not there."""
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
        Its x parts medial from lateral.
    points : SurfacePoints
        Of the whole bone: x medial of a right knee, y posterior, z proximal.

    Raises
    ------
    InputError
        A femur without a groove between its condyles.
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


_BEYOND = SURFACE_STATUS["not_articular"]


def _front_of_notch(place: Points, middle: float) -> float:
    """Return y where the floor of the trochlea's groove is lowest: the bone turns up behind it.

    Seen from below, the groove and the notch are the highest between the condyles.
    """
    between = place[np.abs(place[:, 0] - middle) < _BETWEEN_MM]
    if not len(between):
        raise _without_groove()
    low, high = between.min(axis=0), between.max(axis=0) + _CELL_MM
    edges = [np.arange(low[k], high[k], _CELL_MM) for k in (0, 1)]
    x, y, z = between.T
    below, _, start, _ = binned_statistic_2d(x, y, z, "min", bins=edges)
    # Behind its roof the notch is open: there are the condyles' inner walls alone.
    full = np.isfinite(below).mean(axis=0) > 0.8
    if not full.any():
        raise _without_groove()
    floor = np.nanmax(below[:, full], axis=0)
    return float((start[:-1] + _CELL_MM / 2)[full][floor.argmin()])


def _without_groove() -> InputError:
    return InputError(
        "no groove between the femur's condyles",
        expected=f"bone in the {2 * _BETWEEN_MM:g} mm around the centre of its map",
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
    # Points on one line span no plateau.
    if np.linalg.matrix_rank(covariance, hermitian=True) < 2:
        return None
    inverse = np.linalg.inv(covariance)
    squared = np.einsum("ni,ij,nj->n", flat - middle, inverse, flat - middle)
    order = squared.argsort()
    share = np.cumsum(weight[order]) / weight.sum()
    central = float(squared[order][np.searchsorted(share, _CENTRAL)])
    return _Plateau(middle, inverse, np.sqrt(np.diag(covariance)), central)


def _part(flat: NDArray[np.float64], plateau: _Plateau, outward: int) -> NDArray[np.intp]:
    """Return 0 central, 1 external, 2 internal, 3 anterior, 4 posterior."""
    away = flat - plateau.middle
    squared = np.einsum("ni,ij,nj->n", away, plateau.inverse, away)
    x, y = (away / plateau.spread).T
    sideways = np.where(x * outward > 0, 1, 2)
    part = np.where(np.abs(x) > np.abs(y), sideways, np.where(y < 0, 3, 4))
    return np.where(squared <= plateau.central, 0, part)
