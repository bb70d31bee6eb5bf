"""Compute the articular areas of a cohort, in which most healthy knees have cartilage."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.surface.articular_area import SurfaceStatus
from qmri_lake.surface.spherical_grid import BONES, SIZE

if TYPE_CHECKING:
    from qmri_lake.lake.cohort import Cohort

__all__ = ["articular_template", "as_template", "template_digest"]

_HEALTHY = "kl <= 1"
_SHARE = 0.5


def articular_template(
    cohort: Cohort, *, query: str = _HEALTHY, share: float = _SHARE
) -> xr.DataArray:
    """Return the pixels that cartilage covers in at least half of the healthy knees, lazily.

    Parameters
    ----------
    cohort : Cohort
        Exams with spherical maps (step ``sphere``).
    query : str
        Condition for healthy knees. [assumption]
    share : float
        Minimum share of exams, 0 to 1, in which cartilage covers a pixel. Only exams with a map of
        the bone are counted. [assumption]

    Returns
    -------
    DataArray
        Template (bone, azimuth, polar) bool, which can be passed as ``articular=`` to
        `spherical_maps` and step ``sphere``. Both also accept the path of a file written by
        ``template.to_netcdf(path)``. The attribute `exams` is the number of knees.

    Raises
    ------
    NotFoundError
        If no exam with maps fulfils the query.
    """
    chosen = cohort.where(query).require("sphere/surface_status")
    if not len(chosen):
        raise NotFoundError(
            f"no exam with maps and {query}",
            expected="at least one",
            where="articular_template",
            todo="Run step sphere first, or pass another query.",
        )
    status = chosen.load("sphere")["surface_status"]
    seen = status.isin(list(SurfaceStatus))
    covered = (status == SurfaceStatus.COVERED).sum("exam")
    area: xr.DataArray = covered >= share * seen.any(("azimuth", "polar")).sum("exam")
    template = (area & (covered > 0)).rename("articular")
    # Replace the attributes of the status: its flags do not describe true and false.
    template.attrs = {
        "long_name": "Articular area",
        "exams": len(chosen),
        "query": query,
        "share": share,
    }
    return template


def as_template(given: ArrayLike | xr.DataArray | str | os.PathLike[str]) -> NDArray[np.bool_]:
    """Return a template as an array, from an array or from a file."""
    if isinstance(given, (str, os.PathLike)):
        if not os.path.isfile(given):
            raise NotFoundError(
                "no such file",
                expected="an articular template",
                where=os.fspath(given),
                todo="Write one with ql.articular_template(cohort).to_netcdf(path).",
            )
        with xr.open_dataarray(given) as stored:
            given = stored.load()
    if isinstance(given, xr.DataArray):
        if "bone" in given.coords:
            given = given.sel(bone=list(BONES))
        given = given.transpose("bone", "azimuth", "polar")
    areas = np.asarray(given)
    if areas.shape != (len(BONES), SIZE, SIZE):
        raise InputError(
            f"an articular template of shape {areas.shape}",
            expected=f"{len(BONES)} bones ({', '.join(BONES)}), {SIZE} x {SIZE} pixels",
            where="spherical maps",
            reason=Reason.UNREADABLE_VALUE,
        )
    return areas.astype(bool)


def template_digest(areas: NDArray[np.bool_] | None) -> str:
    """Return the digest of a template; a run records it instead of the path of the file."""
    return "" if areas is None else hashlib.sha256(areas.tobytes()).hexdigest()[:16]
