"""Section on mean CAMs of the pain classifiers and tests of DL-guided thickness."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr

from qmri_lake.core.model_folder import CARD
from qmri_lake.core.text import counted
from qmri_lake.diagnosis.evaluation.guided_thickness import guided_thickness, unseen_knees
from qmri_lake.diagnosis.evaluation.mean_cams import mean_cams
from qmri_lake.diagnosis.evaluation.thickness_models import thickness_models
from qmri_lake.diagnosis.labels import PainRule, label_pain
from qmri_lake.diagnosis.models.classifier import Classifier
from qmri_lake.diagnosis.models.grad_cam import cams
from qmri_lake.errors import NotFoundError, QmriLakeError, Reason
from qmri_lake.report.association_tables import association_table
from qmri_lake.report.cam_figures import cam_figure
from qmri_lake.report.paper.classifiers import SHOWN_STRATEGY, exams_by_origin
from qmri_lake.report.paper.section import Section, TitledTable, reason
from qmri_lake.report.synthetic_mark import mark_figure, mark_of_cohort
from qmri_lake.surface.spherical_grid import BONES

if TYPE_CHECKING:
    from qmri_lake.diagnosis.labels import LabelledCohort
    from qmri_lake.lake.cohort import Cohort

__all__ = ["class_activation_section"]

_TESTED = ("femur", "tibia")
"""Bones for which the paper reports DL-guided thickness."""


def class_activation_section(
    test: Cohort,
    pain: str | os.PathLike[str],
    oa: str | os.PathLike[str],
    rule: PainRule = "chronic",
) -> Section:
    """Return the section on mean CAMs of correctly classified exams and likelihood-ratio tests.

    Parameters
    ----------
    test : Cohort
        The test set of the pain classifiers.
    pain, oa : path
        Folders of the pain classifiers, and of the OA classifiers from which their training
        started.
    rule : {"chronic", "frequent_12m", "persistent"}
        Definition of pain.
    """
    models = {bone: model for bone in BONES if (model := _open_classifier(pain, bone)) is not None}
    if not models:
        raise NotFoundError(
            f"no pain classifier of strategy {SHOWN_STRATEGY}",
            expected=f"a folder {SHOWN_STRATEGY}/<bone>",
            where=Path(pain).name,
            todo=f"Train it: qmri-lake train pain --strategy {SHOWN_STRATEGY}.",
            reason=Reason.ABSENT_EXAM,
        )
    pretrained = [model for bone in models if (model := _open_classifier(oa, bone)) is not None]
    cohort = test.require("sphere/map", "region/thickness", "prediction/pain")
    knees = unseen_knees(label_pain(cohort, rule), [*models.values(), *pretrained])
    means, guided = _mean_cams_and_thickness(knees, models)
    shown = ", ".join(
        f"{len(some):,} {words}" for _, words, some in exams_by_origin(knees.cohort) if words
    )
    exams = f"{counted(len(knees), 'test patient')}, one knee each{f' ({shown})' if shown else ''}"
    note = (
        f"{exams}. Patients of the training and validation sets are excluded. Mean CAMs are "
        "averaged over correctly classified exams: true positives (presence) and true negatives "
        "(absence). DL-guided thickness is the thickness of a knee weighted by its own CAM of "
        "presence, independent of its label. The likelihood-ratio test compares models of the mean "
        "thickness of compartments with and without DL-guided thickness. In the paper, CAMs of "
        "presence are mostly medial, and CAMs of absence are mostly anterior lateral."
    )
    figure = cam_figure(means, title="Mean Grad-CAM of chronic pain classifiers (thickness)")
    mark_figure(figure, mark_of_cohort(knees.cohort))
    tables: dict[str, TitledTable] = {}
    missing = []
    try:
        tests = thickness_models(knees, [one for one in guided if one["bone"].item() in _TESTED])
    except QmriLakeError as error:
        missing.append(f"Likelihood-ratio test: not available: {reason(error)}")
    else:
        tables["association"] = TitledTable(association_table(tests, exams=exams))
    return Section(note, tables, {"grad_cam": ("", figure)}, tuple(missing))


def _open_classifier(folder: str | os.PathLike[str], bone: str) -> Classifier | None:
    path = Path(folder) / SHOWN_STRATEGY / bone
    return Classifier.open(path) if (path / CARD).is_file() else None


def _mean_cams_and_thickness(
    knees: LabelledCohort, models: dict[str, Classifier]
) -> tuple[Sequence[xr.Dataset], Sequence[xr.Dataset]]:
    """Return mean CAMs and DL-guided thickness of each bone."""
    sphere = knees.cohort.load("sphere")
    predictions = knees.cohort.load("prediction")["pain"].sel(strategy=SHOWN_STRATEGY).compute()
    means, guided = [], []
    for bone, model in models.items():
        maps = cams(sphere, model)
        # An exam without a prediction is neither correctly nor wrongly classified.
        probability = predictions.sel(predictor=bone)
        known = probability.notnull().values
        mean = mean_cams(maps.isel(exam=known), knees.label[known], probability.values[known])
        thickness = guided_thickness(sphere, maps).drop_vars("finding")
        # Both results are computed together, so that each CAM is computed only once and not kept.
        results = xr.merge([mean, thickness], compat="override", join="outer").compute()
        means.append(results[list(mean.data_vars)])
        guided.append(results[list(thickness.data_vars)])
    return means, guided
