"""Average regions of cartilage: a lazy function of Datasets, a step of a run, and a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from qmri_lake.errors import NotFoundError
from qmri_lake.execution.step import step
from qmri_lake.schema.exam_index import KEYS
from qmri_lake.steps._map_variables import region_variable
from qmri_lake.steps._surface import (
    arguments,
    check_with_t2,
    map_knees,
    means_of_exam,
    no_bone,
    product,
    read_by,
)
from qmri_lake.steps.articular_template import as_template, template_digest
from qmri_lake.surface.region_means import Means

if TYPE_CHECKING:
    from qmri_lake.lake.cohort import Cohort

__all__ = ["region", "region_means", "region_table"]

_variable = region_variable

_OF_MSME = {
    "t2": "t2",
    "t2_labels": "cartilage",
    "t2_affine": "affine",
    "dess_to_msme": "dess_to_msme",
}
_NO_MAP, _NO_T2 = "no such cartilage", "no such cartilage, or no T2 in it"
VARIABLES = (
    _variable("thickness", "Cartilage thickness, mean over covered area", "mm", 50, _NO_MAP),
    _variable("thickness_se", "Standard error of thickness, points independent", "mm", 50, _NO_MAP),
    _variable("thickness_n", "Number of points in the mean thickness", "", 1e8, _NO_MAP),
    _variable(
        "thickness_total",
        "Cartilage thickness, mean over articular area, bare bone as 0",
        "mm",
        50,
        _NO_MAP,
    ),
    _variable("covered_area", "Bone surface covered by cartilage", "mm2", 1e5, _NO_MAP),
    _variable("articular_area", "Articular bone surface, covered or bare", "mm2", 1e5, _NO_MAP),
    _variable("denuded", "Part of the articular area that is bare", "percent", 100, _NO_MAP),
    _variable("volume", "Volume of cartilage", "mm3", 1e6, _NO_MAP),
    _variable("volume_n", "DESS voxels of cartilage", "", 1e9, _NO_MAP),
    _variable("t2", "T2, mean over voxels of the multi-echo series", "ms", 1e6, _NO_T2),
    _variable("t2_se", "Standard error of T2, voxels independent", "ms", 1e6, _NO_T2),
    _variable("t2_n", "Number of voxels in the mean T2", "", 1e9, _NO_T2),
)


def _reads(*, with_t2: bool, **_: object) -> dict[str, tuple[str, ...]]:
    return read_by(_OF_MSME, with_t2)


def _check_parameters(*, with_t2: object, articular: ArrayLike | None) -> dict[str, object]:
    check_with_t2(with_t2, "step region")
    return {"articular": None if articular is None else as_template(articular)}


def _recorded(*, articular: NDArray[np.bool_] | None, with_t2: bool) -> dict[str, object]:
    return {"with_t2": with_t2, "articular": template_digest(articular)}


@step(
    reads=_reads,
    writes=VARIABLES,
    name="region",
    validate=_check_parameters,
    recorded_parameters=_recorded,
    memory_factor=8,
)
def region(
    dess: xr.Dataset,
    msme: xr.Dataset | None = None,
    *,
    with_t2: bool = True,
    articular: NDArray[np.bool_] | None = None,
) -> xr.Dataset:
    """Average the regions of one exam; the parameters are those of `region_means`.

    An exam without multi-echo images is left pending. With ``with_t2=False``, its thickness and
    volume are averaged without T2.
    """
    means, notes, bones = means_of_exam(**arguments(dess, msme, _OF_MSME), articular=articular)
    if not bones:
        raise no_bone(notes, "region")
    return product(VARIABLES, means, notes)


def region_means(
    dess: xr.Dataset, msme: xr.Dataset | None = None, *, articular: ArrayLike | None = None
) -> xr.Dataset:
    """Average thickness, volume and T2 of cartilage in regions, lazily.

    Parameters
    ----------
    dess : Dataset
        Group ``dess``: `bone` and `cartilage` (exam, slice, row, column), `affine`, the coordinate
        `knee`, and `extent` if exams differ in size. Volumes must be whole. A single exam has no
        dimension ``exam``.
    msme : Dataset, optional
        Group ``msme`` of the same exams in the same order, with `t2` [ms], `cartilage`, `affine`
        and `dess_to_msme`. Default: no T2. Neither Dataset is modified.
    articular : (bone, azimuth, polar) bool, optional
        Articular areas of a template: see `qmri_lake.articular_template`. Default: the covered area
        of each knee after a morphological closing by 5 mm.

    Returns
    -------
    Dataset
        Lazy variables of group ``region``, all (exam, region): `thickness`, the mean over the
        covered area, and `thickness_total`, the mean over the articular area, both weighted by area
        [mm]; `denuded` [percent]; `covered_area` and `articular_area` [mm2]; `volume` [mm3]; `t2`
        [ms]; `*_se`, standard errors; `*_n`, numbers of points or voxels. Where a region has no
        cartilage, values are NaN, and numbers are -1. Regions are `qmri_lake.surface.REGIONS`.

    Raises
    ------
    NotFoundError
        If a variable is missing.
    InputError
        If `dess` and `msme` have different exams, or volumes are incomplete. When computed: if an
        exam was never segmented or has an invalid affine.
    """
    areas = None if articular is None else as_template(articular)

    def kernel(**exam: Any) -> Means:
        return means_of_exam(**exam, articular=areas)[0]

    return map_knees(kernel, region.writes, dess, msme, _OF_MSME, "region_means")


def region_table(cohort: Cohort) -> pd.DataFrame:
    """Return region averages as a table with one row for each exam and region.

    Parameters
    ----------
    cohort : Cohort
        Exams without averages are excluded; ``table.attrs["left_out"]`` is their number.

    Returns
    -------
    DataFrame
        Columns exam, patient, timepoint, knee and region, and the variables of group ``region``
        with their units in the name, such as ``thickness [mm]``. The table can be saved with
        ``to_csv`` or ``to_parquet``.

    Raises
    ------
    NotFoundError
        If no exam of the cohort has averages.

    Examples
    --------
    >>> import qmri_lake as ql
    >>> lake = ql.open_lake("oai.lake")  # doctest: +SKIP
    >>> ql.region_table(lake.cohort("knee == 'right'")).to_csv("regions.csv")  # doctest: +SKIP
    """
    chosen = cohort.require("region/thickness")
    if not len(chosen):
        raise NotFoundError(
            f"no region averages in {len(cohort)} exams",
            expected="at least one exam with region averages",
            where="region_table",
            todo="Run step region first: lake.run('region').",
        )
    ds = chosen.load("region").compute()
    keys, regions = cohort.lake.keys_at(chosen.rows), ds["region"].values
    columns = {name: np.repeat(keys[name].to_numpy(), len(regions)) for name in ("exam", *KEYS)}
    columns["region"] = np.tile(regions.astype(object), len(chosen))
    for name, array in ds.data_vars.items():
        unit = f" [{array.attrs['units']}]" if "units" in array.attrs else ""
        columns[f"{name}{unit}"] = array.transpose("exam", "region").values.ravel()
    table = pd.DataFrame(columns)
    table.attrs["left_out"] = len(cohort) - len(chosen)
    return table
