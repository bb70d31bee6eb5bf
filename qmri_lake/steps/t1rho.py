"""Fit T1rho maps to spin-lock images: a lazy function of Datasets and a step of a run."""

from __future__ import annotations

import xarray as xr

from qmri_lake.steps._exponential import Within
from qmri_lake.steps.exponential_maps import Relaxation, exponential_map, exponential_step

__all__ = ["T1RHO", "fit_t1rho", "t1rho"]

T1RHO_BOUNDS = (0.0, 150.0)
"""Default bounds of accepted T1rho [ms]: cartilage has 35 to 55 ms at 3 T. [assumption]"""

T1RHO = Relaxation(
    "t1rho",
    "t1rho",
    "T1rho",
    "Spin-lattice relaxation time in the rotating frame, T1rho",
    T1RHO_BOUNDS,
    "fit_t1rho",
)

t1rho = exponential_step(
    T1RHO, doc="Fit T1rho to one exam; the parameters are those of `fit_t1rho`."
)


def fit_t1rho(
    ds: xr.Dataset,
    *,
    within: Within | None = None,
    skip_first: bool = False,
    bounds: tuple[float, float] = T1RHO_BOUNDS,
    r2_min: float | None = 0.8,
) -> xr.Dataset:
    """Add T1rho maps to a Dataset of spin-lock images, lazily.

    Parameters
    ----------
    ds : Dataset
        Group ``t1rho``: `image` (exam, spin_lock, slice, row, column), or without ``exam``;
        `spin_lock_time` (spin_lock), the same for all exams, or (exam, spin_lock), with the
        attribute ``units``: ms, s or us; `cartilage` for ``within="cartilage"``. Dimensions may be
        in any order. The Dataset is not modified.
    within : {"cartilage", "all"}, optional
        Voxels to fit: voxels with a cartilage or meniscus label, or all voxels. Default:
        ``cartilage`` if `ds` has labels, otherwise ``all``.
    skip_first : bool
        Whether to leave out the image of the shortest spin lock, for scans in which it is too dark
        or saturated. [assumption]
    bounds : (low, high)
        Accept low < T1rho <= high [ms]. If `low` is 0, T1rho must also be at least half the first
        spin-lock time of the fit, as in `qmri_lake.fit_t2`. [assumption]
    r2_min : float or None
        Accept fits with at least this centred r2. None: no limit. [assumption]

    Returns
    -------
    Dataset
        `ds` with the lazy variables `t1rho` [ms], `t1rho_error` [ms], `s0`, `r2` and
        `t1rho_status`, each (exam, slice, row, column). T1rho is NaN if it was not fitted or not
        accepted; `t1rho_status` gives the reason.

    Raises
    ------
    NotFoundError
        If `image`, `spin_lock_time` or `cartilage` is missing.
    InputError
        If dimensions are named otherwise, times have no unit or exceed the range of a scanner, or
        `within` is invalid. When computed: if an exam was never segmented, or has fewer than two
        images.

    Examples
    --------
    >>> import numpy as np
    >>> times = np.array([0.0, 10.0, 40.0, 80.0])
    >>> image = 500 * np.exp(-times / 45)[:, None, None, None] * np.ones((1, 2, 3))
    >>> ds = xr.Dataset(
    ...     {
    ...         "image": (("spin_lock", "slice", "row", "column"), image),
    ...         "spin_lock_time": ("spin_lock", times, {"units": "ms"}),
    ...     }
    ... )
    >>> float(fit_t1rho(ds).t1rho.mean().round(3))
    45.0
    """
    return exponential_map(
        ds, T1RHO, within=within, skip_first=skip_first, bounds=bounds, r2_min=r2_min
    )
