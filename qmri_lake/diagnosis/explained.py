"""Whether DL-guided thickness explains pain beyond the mean thickness of compartments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.diagnosis.guided import GUIDED
from qmri_lake.diagnosis.labels import Labelled
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.summary import counted

if TYPE_CHECKING:
    from qmri_lake.cohort import Cohort
    from qmri_lake.statistics.association import NestedModels

__all__ = ["COMPARTMENTS", "COVARIATES", "GUIDED_TERM", "thickness_models"]

COMPARTMENTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"femur": ("TrF", "MF", "LF"), "tibia": ("MT", "LT"), "patella": ("P",)}
)
"""Regions of `qmri_lake.surface.REGIONS` whose mean thickness is in M0, by bone. [assumption]"""

COVARIATES = ("age", "sex", "bmi")
GUIDED_TERM = "DL-guided"
"""Its name in models."""
_WHERE = "thickness_models"


def thickness_models(
    labelled: Labelled,
    guided: Sequence[xr.Dataset],
    *,
    covariates: Sequence[str] = (),
    clustered: bool = False,
) -> dict[str, NestedModels]:
    """Test whether DL-guided thickness explains a label beyond the means of compartments.

    M0: mean thickness of the bone's `COMPARTMENTS`, from group ``region``, and `covariates`. M1: M0
    and DL-guided thickness. [paper: the test; compartments: assumption]

    Parameters
    ----------
    labelled : Labelled
        Of `unseen_knees`.
    guided : sequence of Dataset
        Of `guided_thickness`, one a bone, computed here; exams that are not in `labelled` are
        passed over.
    covariates : sequence of str
        Numeric columns of group ``clinical``, and sex (1 female, 0 male), such as `COVARIATES`.
    clustered : bool
        Patients may have several exams, and are clusters: Wald's test. Default: likelihood-ratio
        test [paper], which takes exams as independent.

    Returns
    -------
    dict of str to `qmri_lake.statistics.NestedModels`
        By bone. Exams without a value in a column are left out, and counted.

    Raises
    ------
    NotFoundError
        An exam without averages of regions; a covariate that is not there.
    InputError
        A bone twice; labelled exams without DL-guided thickness, or of patients that the classifier
        has learned from; without `clustered`, several exams of a patient. As
        `qmri_lake.statistics.nested_logistic` too.
    """
    from qmri_lake.statistics.association import nested_logistic

    cohort = labelled.cohort
    exams = [str(exam) for exam in cohort.exams["exam"]]
    index = pd.Index(exams, name="exam")
    if not clustered and cohort.patients < len(cohort):
        raise InputError(
            f"{len(cohort)} exams of {cohort.patients} patients", expected="one a patient",
            where=_WHERE, todo="Choose them by unseen_knees, or take clustered=True.",
            reason=Reason.UNREADABLE_VALUE,
        )  # fmt: skip
    bones = [str(one["bone"].item()) for one in guided]
    if twice := sorted({bone for bone in bones if bones.count(bone) > 1}):
        raise InputError(f"{', '.join(twice)} twice", expected="each bone once", where=_WHERE)
    thickness = _region_thickness(cohort, index)
    shared = _covariates(cohort, covariates, index) if covariates else None
    patient = cohort.exams["patient"].to_numpy() if clustered else None
    found = {}
    for bone, one in zip(bones, guided, strict=True):
        added = _guided(one, exams)
        base = thickness[list(COMPARTMENTS[bone])]
        found[bone] = nested_logistic(
            labelled.label, base, pd.Series(added, index, name=GUIDED_TERM), covariates=shared,
            patient=patient,
        )  # fmt: skip
    return found


def _guided(one: xr.Dataset, exams: list[str]) -> NDArray[np.float64]:
    values = one[GUIDED].compute()
    known = dict(zip(map(str, one["exam"].values), values.values.tolist(), strict=True))
    absent = [exam for exam in exams if exam not in known]
    if absent:
        raise InputError(
            f"{counted(len(absent), 'labelled exam')} without DL-guided thickness, first "
            f"{absent[0]}",
            expected="a row an exam, NaN where there is none", where=_WHERE,
            todo="Compute it of lake.load('sphere', labelled.cohort).", reason=Reason.ABSENT_EXAM,
        )  # fmt: skip
    if "learned_from" in one:
        learned = {str(e) for e in one["exam"].values[one["learned_from"].values]}
        if seen := [exam for exam in exams if exam in learned]:
            raise InputError(
                f"{counted(len(seen), 'exam')} of patients that the classifier has learned from, "
                f"first {seen[0]}",
                expected="test patients", where=_WHERE, todo="Choose them by unseen_knees.",
                reason=Reason.UNREADABLE_VALUE,
            )  # fmt: skip
    return np.array([known[exam] for exam in exams])


def _region_thickness(cohort: Cohort, index: pd.Index[Any]) -> pd.DataFrame:
    """Return mean thickness (exam, region), mm, over the covered area."""
    if "region" not in cohort.lake.groups():
        raise NotFoundError(
            "no group 'region'", expected="averages of regions", where=cohort.lake.url,
            todo="Make them: lake.run('region').",
        )  # fmt: skip
    ds = cohort.lake.load("region", cohort)[["thickness"]].compute()
    regions = [str(name) for name in ds["region"].values]
    return pd.DataFrame(ds["thickness"].transpose("exam", "region").values, index, regions)


def _covariates(cohort: Cohort, names: Sequence[str], index: pd.Index[Any]) -> pd.DataFrame:
    table = cohort.table(list(names)).set_axis(index)
    if "sex" in table:
        female = table["sex"].map({"female": 1.0, "male": 0.0})
        table = table.assign(sex=female).rename(columns={"sex": "female"})
    return table.astype(float)
