"""Test whether DL-guided thickness explains pain beyond the mean thickness of compartments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.core.text import counted
from qmri_lake.diagnosis.evaluation.guided_thickness import GUIDED, WITHIN
from qmri_lake.diagnosis.labels import LabelledCohort
from qmri_lake.errors import InputError, NotFoundError, Reason

if TYPE_CHECKING:
    from qmri_lake.lake.cohort import Cohort
    from qmri_lake.statistics.association import NestedModels

__all__ = ["COMPARTMENTS", "COVARIATES", "GUIDED_TERM", "thickness_models"]

COMPARTMENTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"femur": ("TrF", "MF", "LF"), "tibia": ("MT", "LT"), "patella": ("P",)}
)
"""Regions of `qmri_lake.surface.REGIONS` whose mean thickness is in model M0, by bone.
[assumption]"""

COVARIATES = ("age", "sex", "bmi")
_MEAN_WITHIN: Mapping[str, str] = MappingProxyType(
    {"covered": "thickness", "articular": "thickness_total"}
)
"""Variable of group ``region`` with the mean over the same area, by `within` of DL-guided
thickness."""
GUIDED_TERM = "DL-guided"
"""Name of the term for DL-guided thickness in models."""
_WHERE = "thickness_models"


def thickness_models(
    labelled: LabelledCohort,
    guided: Sequence[xr.Dataset],
    *,
    covariates: Sequence[str] = (),
    clustered: bool = False,
) -> dict[str, NestedModels]:
    """Test whether DL-guided thickness explains a label beyond the mean thickness of compartments.

    Two logistic models are compared. M0 contains the mean thickness of the bone's `COMPARTMENTS`,
    from group ``region``, and `covariates`. M1 also contains DL-guided thickness. [test: paper;
    compartments: assumption]

    Both models average over the same area: `thickness` over the covered area if DL-guided thickness
    was computed with ``within="covered"``, `thickness_total` over the articular area if it was
    computed with ``within="articular"``. Otherwise, denuded bone would be 0 in one model and absent
    from the other, and DL-guided thickness would explain pain by the denuded area alone, for any
    CAM.

    Parameters
    ----------
    labelled : LabelledCohort
        From `unseen_knees`.
    guided : sequence of Dataset
        Datasets from `guided_thickness`, one for each bone. Lazy values are computed here. Exams
        that are not in `labelled` are ignored. Without the coordinate `within`, a Dataset counts as
        averaged over the covered area.
    covariates : sequence of str
        Numeric columns of group ``clinical``, or sex, which is coded as 1 (female) and 0 (male).
        `COVARIATES` is an example.
    clustered : bool
        Allow several exams of a patient, by a Wald test with patients as clusters. Default:
        likelihood-ratio test [paper], which assumes independent exams.

    Returns
    -------
    dict of str to `qmri_lake.statistics.NestedModels`
        Models by bone. Exams without a value in a column are excluded and counted.

    Raises
    ------
    NotFoundError
        If the lake has no averages of regions over the area of DL-guided thickness, or a covariate
        is missing.
    InputError
        If a bone is given twice or `within` is unknown; if a labelled exam is not in `guided`; if
        the classifier was trained on the patient of an exam; if a patient has several exams and
        `clustered` is not set. Also for the reasons that `qmri_lake.statistics.nested_logistic`
        lists.
    """
    from qmri_lake.statistics.association import nested_logistic

    cohort = labelled.cohort
    exams = [str(exam) for exam in cohort.exams["exam"]]
    index = pd.Index(exams, name="exam")
    if not clustered and cohort.patients < len(cohort):
        raise InputError(
            f"{len(cohort)} exams of {cohort.patients} patients",
            expected="one exam per patient",
            where=_WHERE,
            todo="Select exams with unseen_knees, or pass clustered=True.",
            reason=Reason.UNREADABLE_VALUE,
        )
    bones = [str(one["bone"].item()) for one in guided]
    if twice := sorted({bone for bone in bones if bones.count(bone) > 1}):
        raise InputError(f"{', '.join(twice)} twice", expected="each bone once", where=_WHERE)
    means = {within: _region_thickness(cohort, index, within) for within in map(_within, guided)}
    shared = _covariates(cohort, covariates, index) if covariates else None
    patient = cohort.exams["patient"].to_numpy() if clustered else None
    found = {}
    for bone, one in zip(bones, guided, strict=True):
        added = _guided_values(one, exams)
        base = means[_within(one)][list(COMPARTMENTS[bone])]
        found[bone] = nested_logistic(
            labelled.label,
            base,
            pd.Series(added, index, name=GUIDED_TERM),
            covariates=shared,
            patient=patient,
        )
    return found


def _guided_values(one: xr.Dataset, exams: list[str]) -> NDArray[np.float64]:
    values = one[GUIDED].compute()
    known = dict(zip(map(str, one["exam"].values), values.values.tolist(), strict=True))
    absent = [exam for exam in exams if exam not in known]
    if absent:
        raise InputError(
            f"{counted(len(absent), 'labelled exam')} without DL-guided thickness, first "
            f"{absent[0]}",
            expected="one row per exam, NaN if there is no value",
            where=_WHERE,
            todo="Compute it from lake.load('sphere', labelled.cohort).",
            reason=Reason.ABSENT_EXAM,
        )
    if "learned_from" in one:
        trained_on = {str(e) for e in one["exam"].values[one["learned_from"].values]}
        if overlap := [exam for exam in exams if exam in trained_on]:
            raise InputError(
                f"{counted(len(overlap), 'exam')} of patients on whom the classifier was trained, "
                f"first {overlap[0]}",
                expected="test patients",
                where=_WHERE,
                todo="Select exams with unseen_knees.",
                reason=Reason.UNREADABLE_VALUE,
            )
    return np.array([known[exam] for exam in exams])


def _within(one: xr.Dataset) -> str:
    """Return the area over which DL-guided thickness was averaged."""
    within = str(one[WITHIN].item()) if WITHIN in one.coords else "covered"
    if within not in _MEAN_WITHIN:
        raise InputError(
            f"DL-guided thickness within {within!r}",
            expected=" or ".join(_MEAN_WITHIN),
            where=_WHERE,
            todo="Compute it with guided_thickness.",
        )
    return within


def _region_thickness(cohort: Cohort, index: pd.Index, within: str) -> pd.DataFrame:
    """Return the mean thickness over the covered or articular area, (exam, region) [mm]."""
    if "region" not in cohort.lake.groups():
        raise NotFoundError(
            "no group 'region'",
            expected="averages of regions",
            where=cohort.lake.url,
            todo="Compute them: lake.run('region').",
        )
    name = _MEAN_WITHIN[within]
    ds = cohort.load("region")
    if name not in ds:
        raise NotFoundError(
            f"no region/{name}",
            expected=f"averages over the {within} area, as of DL-guided thickness",
            where=cohort.lake.url,
            todo="Compute them: lake.run('region').",
        )
    values = ds[name].transpose("exam", "region").compute()
    regions = [str(region) for region in values["region"].values]
    return pd.DataFrame(values.values, index, regions)


def _covariates(cohort: Cohort, names: Sequence[str], index: pd.Index) -> pd.DataFrame:
    table = cohort.table(list(names)).set_axis(index)
    if "sex" in table:
        female = table["sex"].map({"female": 1.0, "male": 0.0})
        table = table.assign(sex=female).rename(columns={"sex": "female"})
    return table.astype(float)
