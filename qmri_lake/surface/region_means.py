"""Averages of cartilage in regions, from a bone's surface and source voxels, never from maps."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from qmri_lake.errors import InputError, Reason
from qmri_lake.surface.articular import SURFACE_STATUS
from qmri_lake.surface.layout import frame, led
from qmri_lake.surface.occupancy import CARTILAGE_OF, Occupancy, checked_affine, occupancy_of
from qmri_lake.surface.points import SurfacePoints, surface_points
from qmri_lake.surface.regions import LEAVES, REGIONS, REGIONS_OF, find_compartments
from qmri_lake.surface.sphere import look_at

__all__ = ["Means", "means_of_bone"]


class Means(NamedTuple):
    """One array (region,) each, in the order of `REGIONS`; NaN and -1 where there is no value."""

    thickness: NDArray[np.float32]
    """mm, mean over the covered area."""
    thickness_se: NDArray[np.float32]
    """mm, standard error."""
    thickness_n: NDArray[np.int32]
    """Surface points that are covered."""
    thickness_total: NDArray[np.float32]
    """mm, mean over the articular area, in which bare bone counts as 0."""
    covered_area: NDArray[np.float32]
    """mm2."""
    articular_area: NDArray[np.float32]
    """mm2, covered and bare."""
    denuded: NDArray[np.float32]
    """Percent of the articular area that is bare."""
    volume: NDArray[np.float32]
    """mm3."""
    volume_n: NDArray[np.int32]
    """DESS voxels."""
    t2: NDArray[np.float32]
    """ms, mean over MSME voxels."""
    t2_se: NDArray[np.float32]
    """ms, standard error."""
    t2_n: NDArray[np.int32]
    """MSME voxels with a T2."""

    @classmethod
    def empty(cls) -> Means:
        """Return arrays without a value."""
        kinds = [np.int32 if name.endswith("_n") else np.float32 for name in cls._fields]
        made: list[NDArray[Any]] = [
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
    """Fill in the regions of one bone; return what is odd about its masks.

    Parameters
    ----------
    bone, cartilage, affine, bone_name, knee, articular
        As of `qmri_lake.surface.spherical_map`.
    means : Means
        Filled in place, where this bone has regions.
    t2 : (slice, row, column), optional
        ms, NaN where there is none.
    t2_labels : (slice, row, column)
        bool: this bone's cartilage on the grid of `t2`.
    t2_affine, dess_to_msme
        As of `qmri_lake.surface.spherical_map`.

    Raises
    ------
    InputError
        As `qmri_lake.surface.spherical_map`, and a femur without a groove between its condyles.
    """
    to_map = frame(knee)
    occupancy = occupancy_of(bone, cartilage, affine, bone_name, to_map)
    view = look_at(occupancy, bone_name, articular=articular)
    points = surface_points(occupancy, view, bone_name)
    covered = points.status == SURFACE_STATUS["covered"]
    # A spot so small that a ray of the map meets it and no line of voxels does.
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
        there = np.eye(4) if dess_to_msme is None else np.asarray(dess_to_msme, np.float64)
        back = to_map @ np.linalg.inv(there) @ checked_affine(t2_affine, "t2", square=False)  # type: ignore[arg-type]
        all_t2 = np.asarray(t2)
        at = np.argwhere(np.asarray(t2_labels, bool) & np.isfinite(all_t2))
        values = all_t2[tuple(at.T)].astype(np.float64)
        if len(at):
            value_leaf = known[nearest.query(led(back, at))[1]]
    for name, parts in REGIONS_OF[bone_name].items():
        own = [LEAVES[bone_name].index(part) for part in parts]
        k = list(REGIONS).index(name)
        _fill_surface(means, k, points, np.isin(leaf, own))
        means.volume_n[k] = np.count_nonzero(np.isin(voxel_leaf, own))
        means.volume[k] = means.volume_n[k] * voxel
        if t2 is not None:
            _fill_t2(means, k, values[np.isin(value_leaf, own)])
    return occupancy.odd


def _voxels(occupancy: Occupancy) -> NDArray[np.float64]:
    """Return the centres (n, 3), mm, of the cartilage's voxels."""
    return led(occupancy.affine, np.argwhere(occupancy.mask))


def _fill_surface(means: Means, k: int, points: SurfacePoints, here: NDArray[np.bool_]) -> None:
    covered = here & (points.status == SURFACE_STATUS["covered"])
    bare = here & (points.status == SURFACE_STATUS["denuded"])
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
        # As many independent points as weights so uneven are worth. (Kish)
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
