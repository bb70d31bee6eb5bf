"""DL-guided thickness: cartilage thickness weighted by class activation maps (CAMs).

To avoid a circular analysis, the CAM of a knee must not depend on its label. Therefore the finding
is the same for all knees, and the classifier must not have been trained on the patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from types import MappingProxyType
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.diagnosis.labels import LabelledCohort
from qmri_lake.diagnosis.models.classifier import Classifier
from qmri_lake.diagnosis.models.grad_cam import CamStatus, select_bone, training_patients
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.surface.articular_area import SURFACE_STATUS

__all__ = [
    "GUIDED",
    "GUIDED_STATUS",
    "WITHIN",
    "GuidedStatus",
    "guided_thickness",
    "unseen_knees",
]


class GuidedStatus(IntEnum):
    """Whether an exam has a DL-guided thickness, or the reason why it has none."""

    MEASURED = 0
    ZERO = 1
    """The CAM is 0 everywhere, or 0 over all cartilage."""
    NO_MAP = 2
    """The exam has no map."""
    NO_CARTILAGE = 3
    """There is no cartilage on the bone."""


GUIDED_STATUS: Mapping[str, int] = MappingProxyType(
    {status.name.lower(): int(status) for status in GuidedStatus}
)
"""Flag values of the variable `guided_status`, by the names of `GuidedStatus`."""

GUIDED = "guided_thickness"
"""Name of the variable with DL-guided thickness."""

WITHIN = "within"
"""Name of the coordinate with the area over which it is averaged: covered or articular."""


def unseen_knees(labelled: LabelledCohort, classifiers: Sequence[Classifier]) -> LabelledCohort:
    """Keep one exam of each patient on whom the classifiers were not trained.

    Patients with an exam in any training or validation set are excluded. Then the last timepoint of
    each patient is kept [paper]; if both knees remain, the right knee is kept [assumption: the
    paper uses right knees]. The selection does not depend on labels.

    Parameters
    ----------
    labelled : LabelledCohort
        Exams with maps, for example from `qmri_lake.diagnosis.label_pain`.
    classifiers : sequence of Classifier
        All classifiers whose CAMs are used, and the models of OA from which their training started.

    Returns
    -------
    LabelledCohort
        The remaining exams; the flow of the cohort gives the number of excluded exams.

    Raises
    ------
    InputError
        If no patient is left.
    """
    trained_on = {p for classifier in classifiers for p in training_patients(classifier)}
    held_out = ~labelled.cohort.exams["patient"].isin(trained_on).to_numpy(dtype=bool)
    kept = _keep(
        labelled, held_out, "not in the training data", "patient is in the training data"
    ).last_visit()
    exams = kept.cohort.exams
    both = exams.groupby("patient")["knee"].transform("nunique") > 1
    keep = (~both | (exams["knee"] == "right")).to_numpy(dtype=bool)
    kept = _keep(
        kept, keep, "one knee per patient, the right of two", "left knee of a patient with two"
    )
    if not len(kept):
        raise InputError(
            f"all {labelled.cohort.patients} patients are in the training data",
            expected="patients of a test set",
            where="unseen_knees",
            todo="Use labelled exams from the test set of ql.split.",
            reason=Reason.ABSENT_EXAM,
        )
    return kept


def _keep(
    labelled: LabelledCohort, keep: NDArray[np.bool_], condition: str, why: str
) -> LabelledCohort:
    cohort = labelled.cohort.keep(keep, condition, why)
    return LabelledCohort(cohort, labelled.label[keep], labelled.name)


def guided_thickness(
    sphere: xr.Dataset,
    cams: xr.Dataset,
    *,
    finding: str = "presence",
    within: Literal["covered", "articular"] = "covered",
) -> xr.Dataset:
    """Compute DL-guided thickness lazily: the mean cartilage thickness weighted by a CAM.

    DL-guided thickness is sum(CAM x thickness) / sum(CAM) over the pixels with cartilage.
    [assumption] All knees are weighted by the CAM of the same finding; labels are not used.

    Parameters
    ----------
    sphere : Dataset
        Group ``sphere``, with or without an ``exam`` dimension: `map` with thickness [mm], and
        `surface_status`. The dataset is not modified.
    cams : Dataset
        From `qmri_lake.diagnosis.cams`: CAMs of the same exams in the same order, from a classifier
        that was not trained on these exams.
    finding : str
        Finding of the CAM, the same for all knees.
    within : {"covered", "articular"}
        ``covered``: average over pixels covered by cartilage. ``articular``: include denuded
        pixels, which have a thickness of 0. Compare the result only with means over the same area,
        as `qmri_lake.diagnosis.thickness_models` does.

    Returns
    -------
    Dataset
        `guided_thickness` (exam) float64 [mm], NaN unless the status is "measured"; `guided_status`
        (exam), values of `GuidedStatus`; `learned_from` (exam), as in `cams`. Scalar coordinates:
        bone, strategy, finding and within.

    Raises
    ------
    NotFoundError
        If the finding is unknown, or `map`, `surface_status` or `cam` is missing.
    InputError
        If `sphere` and `cams` have different exams, or `within` is unknown.

    Examples
    --------
    >>> maps = lake.load("sphere", knees.cohort)  # doctest: +SKIP
    >>> found = guided_thickness(maps, ql.diagnosis.cams(maps, classifier))  # doctest: +SKIP
    """
    if within not in ("covered", "articular"):
        raise InputError(f"within={within!r}", expected="covered or articular", where=GUIDED)
    if "cam" not in cams or finding not in cams["finding"].values:
        raise NotFoundError(
            f"no CAM of {finding!r}",
            expected="a finding of the CAMs",
            where=GUIDED,
            todo="Compute them: ql.diagnosis.cams(sphere, classifier).",
        )
    maps = select_bone(sphere, str(cams["bone"].item()), GUIDED)
    _same_exams(maps, cams)
    chosen = cams[["cam", "cam_status"]].sel(finding=finding)
    # By position, without coordinates: the exams are the same, as checked above.
    cam, cam_status, thickness, surface = (
        xr.DataArray(array.variable)
        for array in (
            chosen["cam"],
            chosen["cam_status"],
            maps["map"].sel(biomarker="thickness"),
            maps["surface_status"],
        )
    )
    states = [SURFACE_STATUS[name] for name in ("covered", "denuded")]
    inside = surface.isin(states if within == "articular" else states[:1]) & thickness.notnull()
    grid = ("azimuth", "polar")
    # float64, since 50,000 pixels are summed. Sums skip NaN, so they are 0 without a CAM.
    weight = cam.astype(np.float64).where(inside)
    weighted, total = (weight * thickness).sum(grid), weight.sum(grid)
    status = xr.zeros_like(cam_status)
    for reason, condition in (  # later conditions take precedence
        (GuidedStatus.ZERO, total == 0),
        (GuidedStatus.NO_CARTILAGE, ~inside.any(grid)),
        (GuidedStatus.ZERO, cam_status == CamStatus.ZERO),
        (GuidedStatus.NO_MAP, cam_status == CamStatus.NO_MAP),
    ):
        status = status.where(~condition, int(reason))
    measured = status == GuidedStatus.MEASURED
    value = (weighted / total.where(total > 0)).where(measured)
    if "learned_from" in cams:
        chosen = chosen.assign(learned_from=cams["learned_from"])
    coordinates = chosen.drop_vars(["cam", "cam_status", "azimuth", "polar_angle"], errors="ignore")
    return coordinates.assign_coords({WITHIN: within}).assign(
        {
            GUIDED: value.variable._replace(
                attrs={"long_name": f"Thickness weighted by the CAM of {finding}", "units": "mm"}
            ),
            "guided_status": status.astype(np.uint8).variable._replace(
                attrs={
                    "long_name": "Whether there is a DL-guided thickness",
                    "flag_values": list(GUIDED_STATUS.values()),
                    "flag_meanings": " ".join(GUIDED_STATUS),
                }
            ),
        }
    )


def _same_exams(sphere: xr.Dataset, cams: xr.Dataset) -> None:
    exams, exams_of_cams = (
        np.atleast_1d(ds["exam"].values).tolist() if "exam" in ds.coords else []
        for ds in (sphere, cams)
    )
    if exams != exams_of_cams:
        raise InputError(
            f"the {len(exams)} exams of the maps differ from the {len(exams_of_cams)} of the CAMs",
            expected="the same exams in the same order",
            where=GUIDED,
            todo="Compute the CAMs of these maps: ql.diagnosis.cams(sphere, classifier).",
            reason=Reason.ABSENT_EXAM,
        )
