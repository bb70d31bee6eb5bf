"""Where models of pain look, and what thickness there adds: CAMs and likelihood-ratio tests."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr

from qmri_lake.diagnosis.classifier import CARD, Classifier
from qmri_lake.diagnosis.cohort_cams import mean_cams
from qmri_lake.diagnosis.explained import thickness_models
from qmri_lake.diagnosis.grad_cam import cams
from qmri_lake.diagnosis.guided import guided_thickness, unseen_knees
from qmri_lake.diagnosis.labels import PainRule, label_pain
from qmri_lake.errors import NotFoundError, QmriLakeError, Reason
from qmri_lake.report.associations import association_table
from qmri_lake.report.class_activation import cam_figure
from qmri_lake.report.paper.classifiers import PICTURED, kinds
from qmri_lake.report.paper.part import Part, Shown
from qmri_lake.summary import counted
from qmri_lake.surface.layout import BONES

if TYPE_CHECKING:
    from qmri_lake.cohort import Cohort
    from qmri_lake.diagnosis.labels import Labelled

__all__ = ["looking"]

_TESTED = ("femur", "tibia")
"""Bones whose thickness the paper weights by where models look."""


def looking(
    test: Cohort,
    pain: str | os.PathLike[str],
    oa: str | os.PathLike[str],
    rule: PainRule = "chronic",
) -> Part:
    """Mean CAMs over true positives and true negatives, and the likelihood-ratio tests.

    Parameters
    ----------
    test : Cohort
        The test set.
    pain, oa : path
        Folders of the models of pain, and of those of OA that they started from.
    """
    models = {bone: found for bone in BONES if (found := _model(pain, bone)) is not None}
    if not models:
        raise NotFoundError(
            f"no model of pain by {PICTURED}", expected=f"{PICTURED}/<bone> of some bone",
            where=Path(pain).name, todo="Train it: qmri-lake train pain --strategy thickness.",
            reason=Reason.ABSENT_EXAM,
        )  # fmt: skip
    firsts = [found for bone in models if (found := _model(oa, bone)) is not None]
    cohort = test.require("sphere/map", "region/thickness", "prediction/pain")
    knees = unseen_knees(label_pain(cohort, rule), [*models.values(), *firsts])
    means, guided = _looked(knees, models)
    shown = ", ".join(f"{len(some):,} {words}" for _, words, some in kinds(knees.cohort) if words)
    exams = f"{counted(len(knees), 'test patient')}, one knee each{f' ({shown})' if shown else ''}"
    note = (
        f"{exams[0].upper()}{exams[1:]}: nobody whom a model has learned from. Maps are means over "
        "true positives (presence) and true negatives (absence). DL-guided thickness weights each "
        "knee's cartilage by its own map of presence, whatever its label; the test asks what it "
        "adds to the mean thickness of compartments. The paper: presence mostly medial, absence "
        "mostly anterior lateral."
    )
    figure = cam_figure(means, title="Where models of pain by thickness look")
    tables: dict[str, Shown] = {}
    absent = []
    try:
        tested = thickness_models(knees, [one for one in guided if one["bone"].item() in _TESTED])
    except QmriLakeError as error:
        absent.append(f"No likelihood-ratio test: {error}")
    else:
        tables["association"] = Shown(association_table(tested, exams=exams))
    return Part(note, tables, {"grad_cam": ("", figure)}, tuple(absent))


def _model(folder: str | os.PathLike[str], bone: str) -> Classifier | None:
    place = Path(folder) / PICTURED / bone
    return Classifier.open(place) if (place / CARD).is_file() else None


def _looked(
    knees: Labelled, models: dict[str, Classifier]
) -> tuple[Sequence[xr.Dataset], Sequence[xr.Dataset]]:
    """Return mean CAMs and DL-guided thickness, bone by bone."""
    lake = knees.cohort.lake
    sphere = lake.load("sphere", knees.cohort)
    said = lake.load("prediction", knees.cohort)["pain"].sel(strategy=PICTURED).compute()
    means, guided = [], []
    for bone, model in models.items():
        found = cams(sphere, model)
        # An exam without this prediction was told neither rightly nor wrongly.
        probability = said.sel(predictor=bone)
        known = probability.notnull().values
        mean = mean_cams(found.isel(exam=known), knees.label[known], probability.values[known])
        thickness = guided_thickness(sphere, found).drop_vars("finding")
        # As one, so that each CAM is made once, and none is kept.
        made = xr.merge([mean, thickness], compat="override", join="outer").compute()
        means.append(made[list(mean.data_vars)])
        guided.append(made[list(thickness.data_vars)])
    return means, guided
