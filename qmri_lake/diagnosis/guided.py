"""DL-guided thickness: cartilage thickness where a classifier looks.

Nothing here may be circular. Whoever chose where to look by a knee's own label, or by what a
classifier had learned of that very knee, would have put the answer into the question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.diagnosis.classifier import Classifier
from qmri_lake.diagnosis.grad_cam import CAM_STATUS, of_bone, patients_of
from qmri_lake.diagnosis.labels import Labelled
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.surface.articular import SURFACE_STATUS

__all__ = ["GUIDED", "GUIDED_STATUS", "guided_thickness", "unseen_knees"]

GUIDED_STATUS: Mapping[str, int] = MappingProxyType(
    {"measured": 0, "zero": 1, "no_map": 2, "no_cartilage": 3}
)
"""Measured; the CAM is 0, everywhere or over all cartilage; no map; no cartilage on the bone."""

GUIDED = "guided_thickness"
"""Its variable."""


def unseen_knees(labelled: Labelled, classifiers: Sequence[Classifier]) -> Labelled:
    """Keep one exam a patient, of patients that classifiers have not learned from.

    First patients without an exam in any training or validation set; then each one's last timepoint
    [paper]; then one knee, the right one where there are both [assumption: the paper's are right
    knees]. No rule looks at a label.

    Parameters
    ----------
    labelled : Labelled
        Such as of `qmri_lake.diagnosis.label_pain`, of exams with maps.
    classifiers : sequence of Classifier
        All that are looked through, and the models of OA that they started from.

    Returns
    -------
    Labelled
        How many went, and why, is in the flow of its cohort.

    Raises
    ------
    InputError
        Nobody is left.
    """
    seen = {patient for classifier in classifiers for patient in patients_of(classifier)}
    unseen = ~labelled.cohort.exams["patient"].isin(seen).to_numpy(dtype=bool)
    found = _kept(labelled, unseen, "not learned from", "of patients learned from").last_visit()
    exams = found.cohort.exams
    both = exams.groupby("patient")["knee"].transform("nunique") > 1
    keep = (~both | (exams["knee"] == "right")).to_numpy(dtype=bool)
    found = _kept(found, keep, "one knee a patient, the right of two", "left knees")
    if not len(found):
        raise InputError(
            f"no patient of {labelled.cohort.patients} that was not learned from",
            expected="a test set", where="unseen_knees",
            todo="Label exams of the test set of ql.split.", reason=Reason.ABSENT_EXAM,
        )  # fmt: skip
    return found


def _kept(labelled: Labelled, keep: NDArray[np.bool_], condition: str, why: str) -> Labelled:
    why = f"{int((~keep).sum()):,} {why}"
    cohort = labelled.cohort._keep(keep, condition, why)
    return Labelled(cohort, labelled.label[keep], labelled.name)


def guided_thickness(
    sphere: xr.Dataset,
    cams: xr.Dataset,
    *,
    finding: str = "presence",
    within: Literal["covered", "articular"] = "covered",
) -> xr.Dataset:
    """Average cartilage thickness with a CAM as weights, lazily: DL-guided thickness.

    sum(CAM x thickness) / sum(CAM) over the pixels with cartilage. [assumption] Every knee is
    weighted by the CAM of the same finding; there is no way to give the label of a knee.

    Parameters
    ----------
    sphere : Dataset
        Group ``sphere``, with or without an ``exam`` dimension: `map` with thickness [mm], and
        `surface_status`. Not modified.
    cams : Dataset
        Of `qmri_lake.diagnosis.cams`, of the same exams in the same order, by a classifier that has
        not learned from them.
    finding : str
        Whose CAM: one for all knees.
    within : {"covered", "articular"}
        Pixels with cartilage, or bared ones too, with their thickness of 0.

    Returns
    -------
    Dataset
        `guided_thickness` (exam) float64, mm, and `guided_status` (exam), of `GUIDED_STATUS`: NaN
        where it is not "measured". `learned_from` (exam), as in `cams`. Scalar coordinates bone,
        strategy, finding.

    Raises
    ------
    NotFoundError
        No such finding; `map`, `surface_status` or `cam` is missing.
    InputError
        Other exams in `sphere` than in `cams`; an unknown `within`.

    Examples
    --------
    >>> maps = lake.load("sphere", knees.cohort)  # doctest: +SKIP
    >>> found = guided_thickness(maps, ql.diagnosis.cams(maps, classifier))  # doctest: +SKIP
    """
    if within not in ("covered", "articular"):
        raise InputError(f"within={within!r}", expected="covered or articular", where=GUIDED)
    if "cam" not in cams or finding not in cams["finding"].values:
        raise NotFoundError(
            f"no CAM of {finding!r}", expected="one of its findings", where=GUIDED,
            todo="Make them: ql.diagnosis.cams(sphere, classifier).",
        )  # fmt: skip
    mine = of_bone(sphere, str(cams["bone"].item()), GUIDED)
    _same_exams(mine, cams)
    chosen = cams[["cam", "cam_status"]].sel(finding=finding)
    # Without coordinates, by position: exams are the same, as was just checked.
    cam, none, thickness, surface = (
        xr.DataArray(array.variable)
        for array in (chosen["cam"], chosen["cam_status"],
                      mine["map"].sel(biomarker="thickness"), mine["surface_status"])
    )  # fmt: skip
    states = [SURFACE_STATUS[name] for name in ("covered", "denuded")]
    inside = surface.isin(states if within == "articular" else states[:1]) & thickness.notnull()
    grid = ("azimuth", "polar")
    # In float64: sums over 50,000 pixels. NaN is skipped, so a knee without a CAM has a sum of 0.
    weight = cam.astype(np.float64).where(inside)
    top, below = (weight * thickness).sum(grid), weight.sum(grid)
    status = xr.zeros_like(none)
    for name, here in (
        ("zero", below == 0),
        ("no_cartilage", ~inside.any(grid)),
        ("zero", none == CAM_STATUS["zero"]),
        ("no_map", none == CAM_STATUS["no_map"]),
    ):
        status = status.where(~here, GUIDED_STATUS[name])
    measured = status == GUIDED_STATUS["measured"]
    value = (top / below.where(below > 0)).where(measured)
    if "learned_from" in cams:
        chosen = chosen.assign(learned_from=cams["learned_from"])
    bare = chosen.drop_vars(["cam", "cam_status", "azimuth", "polar_angle"], errors="ignore")
    return bare.assign(
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
    ours, theirs = (
        np.atleast_1d(ds["exam"].values).tolist() if "exam" in ds.coords else [] for ds in
        (sphere, cams)
    )  # fmt: skip
    if ours != theirs:
        raise InputError(
            f"maps of {len(ours)} exams, CAMs of {len(theirs)} others, or in another order",
            expected="the same exams in the same order", where=GUIDED,
            todo="Make the CAMs of these maps: ql.diagnosis.cams(sphere, classifier).",
            reason=Reason.ABSENT_EXAM,
        )  # fmt: skip
