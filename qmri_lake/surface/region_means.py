"""Averages of cartilage in regions, computed from bone surfaces and voxels instead of maps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from qmri_lake.core.array_api import Values
from qmri_lake.core.geometry import apply_affine, checked_affine
from qmri_lake.errors import InputError, Reason
from qmri_lake.surface.articular_area import SurfaceStatus
from qmri_lake.surface.occupancy import CARTILAGE_OF, Occupancy, occupancy_of
from qmri_lake.surface.regions import LEAVES, REGIONS, REGIONS_OF, find_compartments
from qmri_lake.surface.spherical_grid import frame
from qmri_lake.surface.spherical_maps import cast_rays
from qmri_lake.surface.surface_points import SurfacePoints, surface_points

__all__ = ["Means", "means_of_bone"]


class Means(NamedTuple):
    """Arrays (region,) in the order of `REGIONS`; without a value, floats are NaN, integers -1."""

    thickness: NDArray[np.float32]
    """Mean thickness over the covered area, mm."""
    thickness_se: NDArray[np.float32]
    """Standard error of `thickness`, mm."""
    thickness_n: NDArray[np.int32]
    """Number of surface points that are covered."""
    thickness_total: NDArray[np.float32]
    """Mean thickness over the articular area, mm; bare bone counts as 0."""
    covered_area: NDArray[np.float32]
    """Covered area, mm2."""
    articular_area: NDArray[np.float32]
    """Covered and bare area, mm2."""
    denuded: NDArray[np.float32]
    """Percentage of the articular area that is bare."""
    volume: NDArray[np.float32]
    """Volume of cartilage, mm3."""
    volume_n: NDArray[np.int32]
    """Number of DESS voxels of cartilage."""
    t2: NDArray[np.float32]
    """Mean T2 over MSME voxels, ms."""
    t2_se: NDArray[np.float32]
    """Standard error of `t2`, ms."""
    t2_n: NDArray[np.int32]
    """Number of MSME voxels with a T2."""

    @classmethod
    def empty(cls) -> Means:
        """Return arrays of fill values."""
        kinds = [np.int32 if name.endswith("_n") else np.float32 for name in cls._fields]
        made: list[Values] = [
            np.full(len(REGIONS), -1 if kind is np.int32 else np.nan, kind) for kind in kinds
        ]
        return cls(*made)


def means_of_bone(
    bone: ArrayLike,
    cartilage: ArrayLike,
    affine: ArrayLike,
    *,
    bone_name: str,
    knee: str,
    means: Means,
    t2: ArrayLike | None = None,
    t2_labels: ArrayLike | None = None,
    t2_affine: ArrayLike | None = None,
    dess_to_msme: ArrayLike | None = None,
    articular: ArrayLike | None = None,
) -> tuple[str, ...]:
    """Compute the means in the regions of one bone; return notes on implausible masks.

    Parameters
    ----------
    bone, cartilage, affine, bone_name, knee, articular
        As in `qmri_lake.surface.spherical_map`.
    means : Means
        Filled in place, in the regions of this bone.
    t2 : (slice, row, column), optional
        T2, ms; NaN where there is none.
    t2_labels : (slice, row, column)
        Mask (bool) of this bone's cartilage on the grid of `t2`.
    t2_affine, dess_to_msme
        As in `qmri_lake.surface.spherical_map`.

    Raises
    ------
    InputError
        As in `qmri_lake.surface.spherical_map`, and if a femur has no groove between its condyles.
    """
    to_map = frame(knee)
    occupancy = occupancy_of(bone, cartilage, affine, bone_name, to_map)
    view = cast_rays(occupancy, bone_name, articular=articular)
    points = surface_points(occupancy, view, bone_name)
    covered = points.status == SurfaceStatus.COVERED
    # A piece of cartilage can be so small that a ray of the map hits it, but no line of voxels.
    if not covered.any():
        raise InputError(
            f"no {CARTILAGE_OF[bone_name]} cartilage over the bone's surface",
            expected="cartilage that lies on the bone",
            where=bone_name,
            todo="Check the labels and the affine.",
            reason=Reason.EMPTY_MASK,
        )
    borders = find_compartments(bone_name, view.centre, points)
    leaf = borders.of(points.place)
    nearest, known = cKDTree(points.place[covered]), leaf[covered]
    voxels = _voxels(occupancy)
    voxel_leaf = known[nearest.query(voxels)[1]]
    voxel = float(np.abs(np.linalg.det(occupancy.affine[:3, :3])))
    values, value_leaf = np.empty(0), np.empty(0, np.intp)
    if t2 is not None:
        transform = np.eye(4) if dess_to_msme is None else np.asarray(dess_to_msme, np.float64)
        grid = checked_affine(np.asarray(t2_affine, np.float64), "t2", square=False)
        t2_to_map = to_map @ np.linalg.inv(transform) @ grid
        all_t2 = np.asarray(t2)
        at = np.argwhere(np.asarray(t2_labels, bool) & np.isfinite(all_t2))
        values = all_t2[tuple(at.T)].astype(np.float64)
        if len(at):
            value_leaf = known[nearest.query(apply_affine(t2_to_map, at))[1]]
    for name, parts in REGIONS_OF[bone_name].items():
        own = [LEAVES[bone_name].index(part) for part in parts]
        k = list(REGIONS).index(name)
        _fill_surface(means, k, points, np.isin(leaf, own))
        means.volume_n[k] = np.count_nonzero(np.isin(voxel_leaf, own))
        means.volume[k] = means.volume_n[k] * voxel
        if t2 is not None:
            _fill_t2(means, k, values[np.isin(value_leaf, own)])
    return occupancy.notes


def _voxels(occupancy: Occupancy) -> NDArray[np.float64]:
    """Return the centres (n, 3) of the cartilage voxels, mm."""
    return apply_affine(occupancy.affine, np.argwhere(occupancy.mask))


def _fill_surface(means: Means, k: int, points: SurfacePoints, here: NDArray[np.bool_]) -> None:
    covered = here & (points.status == SurfaceStatus.COVERED)
    bare = here & (points.status == SurfaceStatus.DENUDED)
    area, values = points.area[covered], points.thickness[covered]
    covered_area, bare_area = float(area.sum()), float(points.area[bare].sum())
    whole = covered_area + bare_area
    means.thickness_n[k] = len(values)
    means.covered_area[k], means.articular_area[k] = covered_area, whole
    if whole > 0:
        means.denuded[k] = 100 * bare_area / whole
        means.thickness_total[k] = float(area @ values) / whole
    if covered_area > 0:
        mean = float(area @ values) / covered_area
        means.thickness[k] = mean
        # Effective number of independent points with unequal weights (Kish).
        effective = covered_area**2 / float(area @ area)
        variance = float(area @ (values - mean) ** 2) / covered_area
        if effective > 1:
            means.thickness_se[k] = np.sqrt(variance / (effective - 1))


def _fill_t2(means: Means, k: int, values: NDArray[np.float64]) -> None:
    means.t2_n[k] = len(values)
    if len(values):
        means.t2[k] = values.mean()
    if len(values) > 1:
        means.t2_se[k] = values.std(ddof=1) / np.sqrt(len(values))
