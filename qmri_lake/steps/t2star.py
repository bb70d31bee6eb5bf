"""Fit T2* maps to gradient-echo trains: a lazy function of Datasets and a step of a run."""

from __future__ import annotations

import xarray as xr

from qmri_lake.steps._exponential import Within
from qmri_lake.steps.exponential_maps import Relaxation, exponential_map, exponential_step

__all__ = ["T2STAR", "fit_t2star", "t2star"]

T2STAR_BOUNDS = (0.0, 100.0)
"""Default bounds of accepted T2* [ms]: cartilage has 15 to 30 ms at 3 T. [assumption]"""

T2STAR = Relaxation(
    "t2star",
    "t2star",
    "T2*",
    "Effective transverse relaxation time T2*",
    T2STAR_BOUNDS,
    "fit_t2star",
)

t2star = exponential_step(
    T2STAR, doc="Fit T2* to one exam; the parameters are those of `fit_t2star`."
)


def fit_t2star(
    ds: xr.Dataset,
    *,
    within: Within | None = None,
    skip_first: bool = False,
    bounds: tuple[float, float] = T2STAR_BOUNDS,
    r2_min: float | None = 0.8,
) -> xr.Dataset:
    """Add T2* maps to a Dataset of gradient echoes, lazily.

    Parameters
    ----------
    ds : Dataset
        Group ``t2star``: `image` (exam, echo, slice, row, column), or without ``exam``;
        `echo_time` (echo), the same for all exams, or (exam, echo), with the
        attribute ``units``: ms, s or us; `cartilage` for ``within="cartilage"``. Dimensions may be
        in any order. The Dataset is not modified.
    within : {"cartilage", "all"}, optional
        Voxels to fit: voxels with a cartilage or meniscus label, or all voxels. Default:
        ``cartilage`` if `ds` has labels, otherwise ``all``.
    skip_first : bool
        Whether to leave out the first echo. [assumption]
    bounds : (low, high)
        Accept low < T2* <= high [ms]. If `low` is 0, T2* must also be at least half the first
        echo time of the fit, as in `qmri_lake.fit_t2`. [assumption]
    r2_min : float or None
        Accept fits with at least this centred r2. None: no limit. [assumption]

    Returns
    -------
    Dataset
        `ds` with the lazy variables `t2star` [ms], `t2star_error` [ms], `s0`, `r2` and
        `t2star_status`, each (exam, slice, row, column). T2* is NaN if it was not fitted or not
        accepted; `t2star_status` gives the reason.

    Raises
    ------
    NotFoundError
        If `image`, `echo_time` or `cartilage` is missing.
    InputError
        If dimensions are named otherwise, times have no unit or exceed the range of a scanner, or
        `within` is invalid. When computed: if an exam was never segmented, or has fewer than two
        images.

    Examples
    --------
    >>> import numpy as np
    >>> times = np.array([4.0, 9.0, 14.0, 19.0])
    >>> image = 500 * np.exp(-times / 25)[:, None, None, None] * np.ones((1, 2, 3))
    >>> ds = xr.Dataset(
    ...     {
    ...         "image": (("echo", "slice", "row", "column"), image),
    ...         "echo_time": ("echo", times, {"units": "ms"}),
    ...     }
    ... )
    >>> float(fit_t2star(ds).t2star.mean().round(3))
    25.0
    """
    return exponential_map(
        ds, T2STAR, within=within, skip_first=skip_first, bounds=bounds, r2_min=r2_min
    )
