"""Agreement of two masks: overlap (DSC) and mean point-to-surface distance (MPTS)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qmri_lake.segmentation.metrics.mask_surfaces import (
    FieldOfViewEdge,
    Mask,
    borders,
    checked_masks,
    nearest,
)

__all__ = ["dice", "mean_surface_distance", "surface_distances"]


def dice(a: Mask, b: Mask) -> float:
    """Return the Dice similarity coefficient of two masks, 2 |a and b| / (|a| + |b|).

    Parameters
    ----------
    a, b : array of bool, one shape
        Select a label by ``labels == value``.

    Returns
    -------
    float
        0 to 1; NaN if both masks are empty.

    Raises
    ------
    InputError
        If the masks have different shapes, or are not bool.

    Examples
    --------
    >>> import numpy as np
    >>> dice(np.array([True, True, False]), np.array([True, False, False]))
    0.6666666666666666
    """
    a, b = checked_masks(a, b, "dice")
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else float("nan")


def mean_surface_distance(
    a: Mask, b: Mask, spacing: ArrayLike, *, fov_edge: FieldOfViewEdge = "ignore"
) -> float:
    """Return the mean point-to-surface distance (MPTS) of two masks, in mm.

    In each direction, the distances from the surface voxels of one mask to the nearest surface
    voxel of the other are averaged. The MPTS is the mean of both directions.

    Parameters
    ----------
    a, b : array of bool, (slice, row, column)
        Neither may be empty.
    spacing : (3,)
        Distance between voxel centres along the array axes, mm.
    fov_edge : {"ignore", "surface"}
        Whether mask voxels on the edge of the array are surface voxels. By default they are not: a
        shaft that is cut by the field of view has no anatomical surface there, and two masks that
        are cut at the same place would agree there trivially.

    Returns
    -------
    float
        Distance, mm. A surface voxel has a face neighbour outside the mask. Distances are measured
        between voxel centres.

    Raises
    ------
    InputError
        If a mask is empty or not bool, if the shapes differ, or if a spacing is not above 0.

    Notes
    -----
    With ``fov_edge="surface"`` each direction equals MONAI's ``compute_average_surface_distance``
    (``symmetric=False``).

    Examples
    --------
    >>> import numpy as np
    >>> a = np.zeros((9, 9, 9), bool)
    >>> a[2:7, 2:7, 2:7] = True
    >>> mean_surface_distance(a, a, (0.7, 0.4, 0.4))
    0.0
    """
    surface_a, surface_b, step = borders(a, b, spacing, fov_edge)
    a_to_b, b_to_a = nearest(surface_a, surface_b, step), nearest(surface_b, surface_a, step)
    return (float(a_to_b.mean()) + float(b_to_a.mean())) / 2


def surface_distances(
    a: Mask, b: Mask, spacing: ArrayLike, *, fov_edge: FieldOfViewEdge = "ignore"
) -> NDArray[np.float64]:
    """Return the distance of each surface voxel of `a` to the nearest surface voxel of `b`.

    The parameters are those of `mean_surface_distance`.

    Returns
    -------
    array of float64, (surface voxel of a,)
        Distances, mm, in the order of the voxels in the array.
    """
    surface_a, surface_b, step = borders(a, b, spacing, fov_edge)
    return nearest(surface_a, surface_b, step)
