"""Sections on the classifiers: Table 1, Tables S2 and S3, and Figure S4."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import pandas as pd

from qmri_lake.core.text import counted
from qmri_lake.diagnosis.evaluation.classifier_tables import cell
from qmri_lake.diagnosis.evaluation.prediction_metrics import Evaluation, evaluate
from qmri_lake.diagnosis.labels import PainRule
from qmri_lake.diagnosis.training.search import read_search, search_space
from qmri_lake.errors import QmriLakeError
from qmri_lake.fusion import STRATEGIES, strategy_title
from qmri_lake.report.calibration_plot import calibration_figure
from qmri_lake.report.classifier_figures import roc_figure
from qmri_lake.report.figure_s4_search import figure_s4
from qmri_lake.report.paper.section import Section, TitledTable, WordTable, reason
from qmri_lake.report.synthetic_mark import mark_figure, mark_of_cohort
from qmri_lake.report.table_1_sets import table_1
from qmri_lake.segmentation.training.ensemble import first_sets
from qmri_lake.surface.spherical_grid import BONES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from qmri_lake.diagnosis.evaluation.classifier_tables import ClassifierTable
    from qmri_lake.lake.balanced_split import CohortSplit
    from qmri_lake.lake.cohort import Cohort
    from qmri_lake.lake.lake import Lake

__all__ = [
    "SHOWN_STRATEGY",
    "exams_by_origin",
    "metrics_section",
    "search_section",
    "table_1_section",
]

SHOWN_STRATEGY = "thickness"
"""Strategy whose ROC curves, calibration and CAMs are shown."""

_ORIGINS = {"delivered": "delivered as DICOM", "truth": "made from true masks"}
"""Descriptions of the values of column `made_from`."""


def exams_by_origin(cohort: Cohort) -> Iterator[tuple[str, str, Cohort]]:
    """Yield (name, description, exams): all exams with empty texts, then the exams of each origin.

    Only lakes with exams made from synthetic truth have two origins. The maps of these exams come
    from perfect masks, so the accuracy of classifiers on these exams does not include errors of
    segmentation.
    """
    yield "", "", cohort
    if "made_from" not in cohort.lake.column_names():
        return
    for name, description in _ORIGINS.items():
        exams = cohort.where(f"made_from == '{name}'")
        if len(exams):
            yield name, description, exams


def table_1_section(lake: Lake, oa: CohortSplit, bones: str | os.PathLike[str] | None) -> Section:
    """Return Table 1: the sets of bone segmentation and of OA classification."""
    ensemble = None
    if bones is not None:
        _, keys = first_sets(bones)
        ensemble = [lake.cohort().of_exams(keys[name], name) for name in keys]
    note = (
        "Age [years] and BMI [kg/m\N{SUPERSCRIPT TWO}] as mean (SD). Differences between the sets "
        "are tested with Pearson's chi-squared test (sex) and one-way MANOVA (age and BMI); each "
        "exam is one observation."
    )
    return Section(note, {"table_1": TitledTable(table_1(oa, ensemble))})


def metrics_section(
    cohort: Cohort,
    task: Literal["oa", "pain"],
    rule: PainRule = "chronic",
    networks: Sequence[str | os.PathLike[str]] = (),
) -> Section:
    """Return Table S2 or S3 for all test exams and each origin, with ROC and calibration curves.

    Parameters
    ----------
    cohort : Cohort
        The test set.
    networks : sequence of paths
        Folders of the networks that made the masks; see `qmri_lake.diagnosis.evaluate`.
    """
    tables: dict[str, TitledTable] = {}
    figures: dict[str, tuple[str, Figure]] = {}
    by_origin: dict[str, ClassifierTable] = {}
    missing = []
    number = "table_s2" if task == "oa" else "table_s3"
    for name, origin, exams in exams_by_origin(cohort):
        try:
            evaluation = evaluate(exams, task, rule=rule, networks=networks)
        except QmriLakeError as error:
            if not name:
                raise
            missing.append(f"Exams {origin}: not available: {reason(error)}")
            continue
        tested = evaluation.labelled.cohort
        text = f"{counted(len(tested), 'test exam')} of {counted(tested.patients, 'patient')}"
        text += f", {origin}" if origin else ""
        heading = f"{counted(evaluation.labelled.cases, 'case')} in {text}"
        table = evaluation.table(exams=text)
        tables[f"{number}_{name}".rstrip("_")] = TitledTable(table, heading, folded=bool(name))
        by_origin[f"{origin or 'all'} (n = {len(tested):,})"] = table
        if not name:
            try:
                figures = _curves(evaluation, task)
            except QmriLakeError as error:
                missing.append(f"ROC and calibration curves: not available: {reason(error)}")
    if len(by_origin) > 1:
        titled = TitledTable(
            WordTable(_aucs(by_origin)),
            "AUC [%] of the mean prediction of all three bones, by origin of the exams",
        )
        tables = {f"{number}_kinds": titled, **tables}
    note = (
        "One exam per patient: the last visit with a label and a prediction. Means and percentile "
        "intervals of 100 bootstrap samples of patients; threshold 0.5. Intervals of the AUC in "
        "figures: DeLong, on the logit scale. No interval is given for fewer than five patients: "
        "with a case for the sensitivity, with a control for the specificity, in total for the AUC."
    )
    return Section(note, tables, figures, tuple(missing))


def _aucs(tables: Mapping[str, ClassifierTable]) -> pd.DataFrame:
    """Return AUCs of the mean over three bones, with a row per strategy and a column per table."""
    columns = {"strategy": [strategy_title(name) for name in STRATEGIES]}
    for name, table in tables.items():
        rows = table.numbers.query("metric == 'auc' and predictor == 'ptf'").set_index("strategy")
        rows = rows.loc[list(STRATEGIES)]
        columns[name] = [cell(*row) for row in rows[["mean", "low", "high"]].to_numpy()]
    columns["paper"] = [f"{value:.1f}" for value in rows["paper"]]
    return pd.DataFrame(columns)


def _curves(evaluation: Evaluation, task: str) -> dict[str, tuple[str, Figure]]:
    """Draw ROC and calibration curves of one strategy, for exams with predictions of all bones."""
    tested = evaluation.labelled.cohort
    predictions = tested.load("prediction")[task].sel(strategy=SHOWN_STRATEGY).compute()
    predictions = predictions.dropna("predictor", how="all")
    known = predictions.notnull().all("predictor").values
    label = evaluation.labelled.label[known]
    if not predictions.sizes["predictor"] or not 0 < label.sum() < len(label):
        return {}
    scores = {
        str(name): predictions.sel(predictor=name).values[known]
        for name in predictions["predictor"].values
    }
    patient = tested.exams["patient"].to_numpy()[known]
    title = f"{strategy_title(SHOWN_STRATEGY)}, {counted(len(label), 'exam')}"
    roc = roc_figure(label, scores, patient=patient, title=title)
    calibration = calibration_figure(label, scores, patient=patient, title=title)
    mark = mark_of_cohort(tested)
    return {
        f"roc_{task}": ("ROC curves", mark_figure(roc, mark)),
        f"calibration_{task}": ("Calibration", mark_figure(calibration, mark)),
    }


def search_section(folder: str | os.PathLike[str], cohort: Cohort) -> Section:
    """Return Figure S4: the best model per initialisation, trained on exams of a cohort."""
    result = read_search(folder)
    note = (
        f"{result.coverage} models of the complete search were trained. The search varies learning "
        f"rate, depth, initialisation and frozen layers: {len(search_space())} models for each of "
        f"{len(STRATEGIES)} strategies and {len(BONES)} bones. The paper does not list its models; "
        "the choice of models is an assumption."
    )
    figure = mark_figure(figure_s4(result), mark_of_cohort(cohort))
    return Section(note, figures={"figure_s4": ("", figure)})
