"""Where classifiers look in a cohort: mean class activation maps, and their medial share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from qmri_lake.diagnosis.grad_cam import CAM_STATUS
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.surface.articular import SURFACE_STATUS

__all__ = ["mean_cams", "medial_share"]

_WHERE = "mean_cams"


def mean_cams(
    cams: xr.Dataset, label: ArrayLike, probability: ArrayLike, *, threshold: float = 0.5
) -> xr.Dataset:
    """Average the CAMs of exams that were told rightly, lazily.

    Presence over true positives: cases with a probability of at least `threshold`. Absence over
    true negatives: controls below it. [paper]

    Parameters
    ----------
    cams : Dataset
        Of `qmri_lake.diagnosis.cams`, of exams that the classifier has not learned from. Not
        modified.
    label : (exam,)
        1 for a case, 0 for a control, in the order of `cams`; a Series has its exams as index.
    probability : (exam,)
        Of presence, 0 to 1: as of ``Classifier.predict``, or of an ensemble.
    threshold : float
        [assumption]

    Returns
    -------
    Dataset
        `mean` (finding, azimuth, polar), NaN where no exam was told rightly. `exams` (finding): how
        many it is of. `left_out` (finding): rightly told too, but without a CAM. `medial_share`
        (finding), of the mean: see `medial_share`. `articular` (azimuth, polar): share of those
        exams that are articular at a pixel.

    Raises
    ------
    NotFoundError
        A variable is missing.
    InputError
        Labels other than 0 and 1, probabilities outside 0 to 1, or of other exams.
    """
    for name in ("cam", "cam_status", "surface_status", "exam"):
        if name not in cams.variables:
            raise NotFoundError(
                f"no {name}", expected="CAMs of exams", where=_WHERE,
                todo="Make them: ql.diagnosis.cams(lake.load('sphere', cohort), classifier).",
            )  # fmt: skip
    exams = [str(exam) for exam in cams["exam"].values]
    case = _of(label, exams, "label")
    if not np.isin(case, (0, 1)).all():
        raise _wrong("labels other than 0 and 1", "0 for a control, 1 for a case")
    score = _of(probability, exams, "probability")
    if not ((score >= 0) & (score <= 1)).all():
        raise _wrong("probabilities outside 0 to 1", "the probability of presence")
    positive = score >= threshold
    told = {"presence": (case == 1) & positive, "absence": (case == 0) & ~positive}
    findings = [str(name) for name in cams["finding"].values]
    right = xr.DataArray(np.stack([told[name] for name in findings]), dims=("finding", "exam"))
    # Without the exams' coordinates: means are of no exam, and `right` has none to be aligned by.
    cam, state, surface = (
        xr.DataArray(cams[name].variable) for name in ("cam", "cam_status", "surface_status")
    )
    used = right & (state == CAM_STATUS["mapped"])
    articular = surface.isin([SURFACE_STATUS["covered"], SURFACE_STATUS["denuded"]])
    mean = cam.where(used).mean("exam", dtype=np.float64).transpose("finding", "azimuth", "polar")
    kept = cams.drop_vars([n for n, v in cams.variables.items() if "exam" in v.dims])
    coordinates = kept.drop_vars(list(kept.data_vars)).coords
    made = xr.Dataset(
        {
            "mean": mean.assign_attrs(cams["cam"].attrs, threshold=threshold),
            "exams": used.sum("exam").assign_attrs(long_name="Exams told rightly, with a CAM"),
            "left_out": (right & ~used).sum("exam").assign_attrs(
                long_name="Exams told rightly, without a CAM"
            ),
            "articular": articular.where(right.any("finding")).mean("exam").assign_attrs(
                long_name="Share of exams that are articular"
            ),
        }
    ).assign_coords(coordinates)  # fmt: skip
    return made.assign(medial_share=medial_share(made["mean"]))


def medial_share(cam: xr.DataArray) -> xr.DataArray:
    """Return which part of the mass of CAMs lies on the medial half of a bone.

    Parameters
    ----------
    cam : DataArray
        (..., azimuth, polar), with the azimuth in degrees: medial is above 0, on each bone and for
        both knees, since left ones are mirrored.

    Returns
    -------
    DataArray
        (...), 0 to 1: the sum over medial pixels over the sum over all. NaN without a CAM.
    """
    grid = ("azimuth", "polar")
    total = cam.sum(grid)
    medial = cam.where(cam["azimuth"] > 0).sum(grid)
    share: xr.DataArray = (medial / total.where(total > 0)).rename("medial_share")
    return share.assign_attrs(long_name="Share of the CAM on the medial half")


def _of(values: ArrayLike, exams: Sequence[str], what: str) -> NDArray[np.float64]:
    if isinstance(values, pd.Series) and [str(exam) for exam in values.index] != list(exams):
        raise _wrong(f"{what} with another index than the CAMs", "the same exams in the same order")
    array = np.asarray(values, np.float64)
    if array.shape != (len(exams),):
        raise _wrong(f"{what} of shape {array.shape}", f"{(len(exams),)}, one an exam")
    return array


def _wrong(found: str, expected: str) -> InputError:
    return InputError(found, expected=expected, where=_WHERE, reason=Reason.UNREADABLE_VALUE)
