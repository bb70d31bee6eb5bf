"""Articular areas of a cohort: where healthy knees have cartilage."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.surface.articular import SURFACE_STATUS
from qmri_lake.surface.layout import BONES, SIZE

if TYPE_CHECKING:
    from qmri_lake.cohort import Cohort

__all__ = ["articular_template", "as_template", "template_digest"]

_HEALTHY = "kl <= 1"
_SHARE = 0.5


def articular_template(
    cohort: Cohort, *, query: str = _HEALTHY, share: float = _SHARE
) -> xr.DataArray:
    """Return the pixels that are covered in at least half of a cohort's healthy knees, lazily.

    Parameters
    ----------
    cohort : Cohort
        Whose exams have spherical maps (step ``sphere``).
    query : str
        Which of them count. [assumption]
    share : float
        Of the exams in which a bone was mapped, 0 to 1. [assumption]

    Returns
    -------
    DataArray
        (bone, azimuth, polar) bool, for ``articular=`` of `spherical_maps` and of step ``sphere``;
        ``template.to_netcdf(path)`` keeps it, and the path is taken too. The attribute `exams`
        says of how many knees.

    Raises
    ------
    NotFoundError
        No exam with maps fulfils the query.
    """
    chosen = cohort.where(query).require("sphere/surface_status")
    if not len(chosen):
        raise NotFoundError(
            f"no exam with maps and {query}", expected="at least one", where="articular_template",
            todo="Run step sphere first, or give another query=.",
        )  # fmt: skip
    status = cohort.lake.load("sphere", chosen)["surface_status"]
    seen = (status >= min(SURFACE_STATUS.values())) & (status <= max(SURFACE_STATUS.values()))
    covered = (status == SURFACE_STATUS["covered"]).sum("exam")
    area: xr.DataArray = covered >= share * seen.any(("azimuth", "polar")).sum("exam")
    template = (area & (covered > 0)).rename("articular")
    # None of the status that it is made of: true and false are no flags.
    template.attrs = {
        "long_name": "Articular area", "exams": len(chosen), "query": query, "share": share,
    }  # fmt: skip
    return template


def as_template(given: ArrayLike | xr.DataArray | str | os.PathLike[str]) -> NDArray[np.bool_]:
    """Return a template as an array, from an array or the file that holds one."""
    if isinstance(given, (str, os.PathLike)):
        if not os.path.isfile(given):
            raise NotFoundError(
                "no such file", expected="an articular template", where=os.fspath(given),
                todo="Write one with ql.articular_template(cohort).to_netcdf(path).",
            )  # fmt: skip
        with xr.open_dataarray(given) as stored:
            given = stored.load()
    if isinstance(given, xr.DataArray):
        if "bone" in given.coords:
            given = given.sel(bone=list(BONES))
        given = given.transpose("bone", "azimuth", "polar")
    areas = np.asarray(given)
    if areas.shape != (len(BONES), SIZE, SIZE):
        raise InputError(
            f"an articular template of {areas.shape}",
            expected=f"{len(BONES)} bones ({', '.join(BONES)}), {SIZE} x {SIZE} pixels",
            where="spherical maps",
            reason=Reason.UNREADABLE_VALUE,
        )
    return areas.astype(bool)


def template_digest(areas: NDArray[np.bool_] | None) -> str:
    """Return what a run records of a template: what is in it, not where it lies."""
    return "" if areas is None else hashlib.sha256(areas.tobytes()).hexdigest()[:16]
