"""Classifiers: Table 1, Tables S2 and S3, and Figure S4 of a lake."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

import pandas as pd

from qmri_lake.diagnosis.evaluation import Evaluation, evaluate
from qmri_lake.diagnosis.labels import PainRule
from qmri_lake.diagnosis.search import read_search
from qmri_lake.errors import QmriLakeError
from qmri_lake.report.classifier_figures import calibration_figure, roc_figure
from qmri_lake.report.classifier_tables import TITLES, cell
from qmri_lake.report.paper.part import Frame, Part, Shown
from qmri_lake.report.search_figure import figure_s4
from qmri_lake.report.sets import table_1
from qmri_lake.segmentation.training import first_sets
from qmri_lake.summary import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from qmri_lake.cohort import Cohort
    from qmri_lake.lake import Lake
    from qmri_lake.report.classifier_tables import ClassifierTable
    from qmri_lake.splitting import CohortSplit

__all__ = ["PICTURED", "kinds", "metrics", "searched", "sets"]

PICTURED = "thickness"
"""The strategy whose curves are drawn, and through whose models one looks."""

_KINDS = {"delivered": "delivered as DICOM", "truth": "made from true masks"}
"""What a lake's column `made_from` says, in words."""


def kinds(cohort: Cohort) -> Iterator[tuple[str, str, Cohort]]:
    """Yield the exams of each kind, and first all: a short name, words, exams.

    Only a lake with synthetic knees that were made from their truth has two kinds: their maps are
    of perfect masks, so that what classifiers reach on them says nothing of the whole chain.
    """
    yield "", "", cohort
    if "made_from" not in cohort.lake.column_names():
        return
    for name, words in _KINDS.items():
        some = cohort.where(f"made_from == '{name}'")
        if 0 < len(some):
            yield name, words, some


def sets(lake: Lake, oa: CohortSplit, bones: str | os.PathLike[str] | None) -> Part:
    """Table 1: who is in the sets of bone segmentation and of OA."""
    ensemble = None
    if bones is not None:
        _, keys = first_sets(bones)
        ensemble = [lake.cohort().of_exams(keys[name], name) for name in keys]
    note = (
        "Mean (SD) of age [years] and BMI [kg/m\N{SUPERSCRIPT TWO}]; women as a share. "
        "Independence of sets by Pearson's chi-squared (sex) and one-way MANOVA (age, BMI), each "
        "exam as one observation."
    )
    return Part(note, {"table_1": Shown(table_1(oa, ensemble))})


def metrics(cohort: Cohort, task: Literal["oa", "pain"], rule: PainRule = "chronic") -> Part:
    """Table S2 or S3, of all test exams and of each kind; with ROC and calibration of one strategy.

    Parameters
    ----------
    cohort : Cohort
        The test set.
    """
    tables: dict[str, Shown] = {}
    figures: dict[str, tuple[str, Figure]] = {}
    of_kinds: dict[str, ClassifierTable] = {}
    absent = []
    number = "table_s2" if task == "oa" else "table_s3"
    for name, words, some in kinds(cohort):
        try:
            found = evaluate(some, task, rule=rule)
        except QmriLakeError as error:
            if not name:
                raise
            absent.append(f"Exams {words}: {error}")
            continue
        tested = found.labelled.cohort
        told = f"{counted(len(tested), 'test exam')} of {counted(tested.patients, 'patient')}"
        told += f", {words}" if words else ""
        heading = f"{counted(found.labelled.cases, 'case')} in {told}"
        table = found.table(exams=told)
        tables[f"{number}_{name}".rstrip("_")] = Shown(table, heading, folded=bool(name))
        of_kinds[f"{words or 'all'} (n = {len(tested):,})"] = table
        if not name:
            try:
                figures = _curves(found, task)
            except QmriLakeError as error:
                absent.append(f"No ROC and calibration curves: {error}")
    if len(of_kinds) > 1:
        shown = Shown(
            Frame(_aucs(of_kinds)), "AUC [%] of all three bones together, by kind of knee"
        )
        tables = {f"{number}_kinds": shown, **tables}
    note = (
        "Last visit of each patient with a label and a prediction. Mean over 100 bootstraps that "
        "resample patients, with percentile intervals; threshold 0.5."
    )
    return Part(note, tables, figures, tuple(absent))


def _aucs(tables: Mapping[str, ClassifierTable]) -> pd.DataFrame:
    """Return the AUC of the mean over three bones: a row a strategy, a column a table."""
    columns = {"strategy": list(TITLES.values())}
    for name, table in tables.items():
        rows = table.numbers.query("metric == 'auc' and predictor == 'ptf'").set_index("strategy")
        rows = rows.loc[list(TITLES)]
        columns[name] = [cell(*row) for row in rows[["mean", "low", "high"]].to_numpy()]
    columns["paper"] = [f"{value:.1f}" for value in rows["paper"]]
    return pd.DataFrame(columns)


def _curves(found: Evaluation, task: str) -> dict[str, tuple[str, Figure]]:
    """Draw ROC curves and calibration of one strategy, where exams have all its predictions."""
    tested = found.labelled.cohort
    said = tested.lake.load("prediction", tested)[task].sel(strategy=PICTURED).compute()
    said = said.dropna("predictor", how="all")
    known = said.notnull().all("predictor").values
    label = found.labelled.label[known]
    if not said.sizes["predictor"] or not 0 < label.sum() < len(label):
        return {}
    scores = {str(p): said.sel(predictor=p).values[known] for p in said["predictor"].values}
    patient = tested.exams["patient"].to_numpy()[known]
    title = f"{TITLES[PICTURED]}, {counted(len(label), 'exam')}"
    return {
        f"roc_{task}": ("ROC curves", roc_figure(label, scores, patient=patient, title=title)),
        f"calibration_{task}": (
            "Calibration", calibration_figure(label, scores, title=title)
        ),
    }  # fmt: skip


def searched(folder: str | os.PathLike[str]) -> Part:
    """Figure S4: the best model of each start."""
    found = read_search(folder)
    note = (
        f"{found.told} models of the whole search are in it. The search: learning rate, depth, "
        "start and frozen layers, 34 models for each of six strategies and three bones; which 34 "
        "the paper does not say, these are ours."
    )
    return Part(note, figures={"figure_s4": ("", figure_s4(found))})
