"""Compute mean class activation maps (CAMs) of a cohort, and their medial share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from qmri_lake.diagnosis.models.grad_cam import CamStatus
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.surface.articular_area import SURFACE_STATUS

__all__ = ["mean_cams", "medial_share"]

_WHERE = "mean_cams"


def mean_cams(
    cams: xr.Dataset, label: ArrayLike, probability: ArrayLike, *, threshold: float = 0.5
) -> xr.Dataset:
    """Average the CAMs of correctly classified exams, lazily.

    CAMs of presence are averaged over true positives: cases with a probability of at least
    `threshold`. CAMs of absence are averaged over true negatives: controls with a probability below
    `threshold`. [paper]

    Parameters
    ----------
    cams : Dataset
        From `qmri_lake.diagnosis.cams`, of exams on which the classifier was not trained. The
        dataset is not modified.
    label : (exam,)
        1 for a case, 0 for a control, in the order of `cams`. If it is a Series, its index must be
        the exam keys of `cams`.
    probability : (exam,)
        Probability of presence, 0 to 1, from ``Classifier.predict`` or an ensemble.
    threshold : float
        Minimum probability of an exam that is classified as a case. [assumption]

    Returns
    -------
    Dataset
        `mean` (finding, azimuth, polar): mean CAM, NaN if no exam was correctly classified. `exams`
        (finding): number of averaged exams. `left_out` (finding): number of correctly classified
        exams without a CAM. `medial_share` (finding): medial share of the mean CAM, see the
        function `medial_share`. `articular` (azimuth, polar): share of the correctly classified
        exams in which a pixel is articular.

    Raises
    ------
    NotFoundError
        If a variable is missing.
    InputError
        If labels are not 0 or 1, probabilities are outside 0 to 1, or labels or probabilities
        belong to other exams than the CAMs.
    """
    for name in ("cam", "cam_status", "surface_status", "exam"):
        if name not in cams.variables:
            raise NotFoundError(
                f"no {name}",
                expected="CAMs of exams",
                where=_WHERE,
                todo="Compute them: ql.diagnosis.cams(lake.load('sphere', cohort), classifier).",
            )
    exams = [str(exam) for exam in cams["exam"].values]
    case = _checked(label, exams, "label")
    if not np.isin(case, (0, 1)).all():
        raise _input_error("labels other than 0 and 1", "0 for a control, 1 for a case")
    score = _checked(probability, exams, "probability")
    if not ((score >= 0) & (score <= 1)).all():
        raise _input_error("probabilities outside 0 to 1", "the probability of presence")
    positive = score >= threshold
    correct_by_finding = {"presence": (case == 1) & positive, "absence": (case == 0) & ~positive}
    findings = [str(name) for name in cams["finding"].values]
    correct = xr.DataArray(
        np.stack([correct_by_finding[name] for name in findings]), dims=("finding", "exam")
    )
    # By position: the coordinates of exams are removed, since means over exams do not have them.
    cam, state, surface = (
        xr.DataArray(cams[name].variable) for name in ("cam", "cam_status", "surface_status")
    )
    used = correct & (state == CamStatus.MAPPED)
    articular = surface.isin([SURFACE_STATUS["covered"], SURFACE_STATUS["denuded"]])
    mean = cam.where(used).mean("exam", dtype=np.float64).transpose("finding", "azimuth", "polar")
    kept = cams.drop_vars([n for n, v in cams.variables.items() if "exam" in v.dims])
    coordinates = kept.drop_vars(list(kept.data_vars)).coords
    means = xr.Dataset(
        {
            "mean": mean.assign_attrs(cams["cam"].attrs, threshold=threshold),
            "exams": used.sum("exam").assign_attrs(
                long_name="Correctly classified exams with a CAM"
            ),
            "left_out": (correct & ~used)
            .sum("exam")
            .assign_attrs(long_name="Correctly classified exams without a CAM"),
            "articular": articular.where(correct.any("finding"))
            .mean("exam")
            .assign_attrs(long_name="Share of exams in which the pixel is articular"),
        }
    ).assign_coords(coordinates)
    return means.assign(medial_share=medial_share(means["mean"]))


def medial_share(cam: xr.DataArray) -> xr.DataArray:
    """Return the fraction of the sum of a CAM that lies on the medial half of a bone.

    Parameters
    ----------
    cam : DataArray
        CAM (..., azimuth, polar), with the azimuth in degrees. Azimuths above 0 are medial on all
        bones of both knees, since left knees are mirrored.

    Returns
    -------
    DataArray
        Fraction (...), 0 to 1: the sum over medial pixels divided by the sum over all pixels. NaN
        without a CAM.
    """
    grid = ("azimuth", "polar")
    total = cam.sum(grid)
    medial = cam.where(cam["azimuth"] > 0).sum(grid)
    share: xr.DataArray = (medial / total.where(total > 0)).rename("medial_share")
    return share.assign_attrs(long_name="Share of the CAM on the medial half")


def _checked(values: ArrayLike, exams: Sequence[str], what: str) -> NDArray[np.float64]:
    if isinstance(values, pd.Series) and [str(exam) for exam in values.index] != list(exams):
        raise _input_error(
            f"the index of {what} differs from the exams of the CAMs",
            "the same exams in the same order",
        )
    array = np.asarray(values, np.float64)
    if array.shape != (len(exams),):
        raise _input_error(f"{what} of shape {array.shape}", f"{(len(exams),)}, one per exam")
    return array


def _input_error(found: str, expected: str) -> InputError:
    return InputError(found, expected=expected, where=_WHERE, reason=Reason.UNREADABLE_VALUE)
