"""Compute sensitivity, specificity and AUC of a lake's predictions on held-out exams."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.core.text import counted
from qmri_lake.diagnosis.evaluation.mask_patients import Folders, find_mask_patients
from qmri_lake.diagnosis.labels import LabelledCohort, PainRule, label_for_task
from qmri_lake.errors import InputError, Reason

if TYPE_CHECKING:
    from qmri_lake.diagnosis.evaluation.classifier_tables import ClassifierTable
    from qmri_lake.lake.cohort import Cohort

__all__ = ["Evaluation", "evaluate"]

_MaskPatients = Literal["note", "exclude"]


@dataclass(frozen=True)
class Evaluation:
    """Metrics of each strategy and predictor."""

    task: str
    results: pd.DataFrame
    """One row per value. Columns: strategy, predictor and metric (sensitivity, specificity or auc);
    mean, low and high as fractions of 1, NaN if too few exams have a prediction, and limits also
    for fewer than five patients; threshold; exams
    and cases: numbers of exams and cases with a prediction; left_out: number of exams without a
    prediction."""
    labelled: LabelledCohort
    """The test exams; the flow of their cohort lists the exclusions."""
    notes: tuple[str, ...] = ()
    """Notes on the test exams: the number of patients who were used to train the networks that made
    their masks, and the exams for which this is not known."""

    def table(self, *, exams: str = "") -> ClassifierTable:
        """Return Table S2 (OA) or S3 (pain), with the paper's values for comparison.

        Parameters
        ----------
        exams : str
            Description of the test exams in the caption. Default: the numbers of exams and
            patients.
        """
        from qmri_lake.diagnosis.evaluation.classifier_tables import COLUMNS, classifier_table

        cohort = self.labelled.cohort
        description = (
            f"{counted(len(cohort), 'test exam')} of {counted(cohort.patients, 'patient')}"
        )
        table = classifier_table(self.results[list(COLUMNS)], self.task, exams=exams or description)
        return replace(table, remarks=self.notes)


def evaluate(
    cohort: Cohort,
    task: str,
    *,
    rule: PainRule = "chronic",
    last_visit: bool = True,
    validation: Cohort | None = None,
    n_resamples: int = 100,
    interval: Literal["percentile", "paper"] = "percentile",
    seed: int = 0,
    networks: Folders = (),
    mask_patients: _MaskPatients = "note",
) -> Evaluation:
    """Compare the predictions of group ``prediction`` with labels.

    Parameters
    ----------
    cohort : Cohort
        The test set: ``read_split(lake, "models/oa/split.json").test``. Exams without a label or a
        prediction are excluded and counted in the flow.
    task : {"oa", "pain"}
    rule : str
        Definition of pain, the same as in training: see `qmri_lake.diagnosis.label_pain`.
    last_visit : bool
        Use only the last timepoint of each patient with a label and a prediction. [paper for pain,
        assumption for OA]
    validation : Cohort, optional
        Exams on which the threshold of each strategy and predictor is chosen by Youden's index.
        Default: thresholds are 0.5. [assumption]
    n_resamples, interval, seed
        See `qmri_lake.statistics.bootstrap_roc`. Patients are resampled.
    networks : sequence of paths
        Folders of the networks that made the masks. They are only needed if the masks were made by
        an earlier version, whose runs do not record the patients of the training.
    mask_patients : {"note", "exclude"}
        What to do with test patients who were used to train the networks that made their masks,
        since their masks may be better than those of other patients: note their number, or exclude
        their exams. [assumption]

    Returns
    -------
    Evaluation
        Its `notes` give the number of such patients, and the exams for which this is not known.

    Raises
    ------
    NotFoundError
        If the rule is unknown.
    InputError
        If no exam has a label and a prediction, if all labels are equal, or if `mask_patients` is
        unknown.
    """
    from qmri_lake.statistics import bootstrap_roc, youden_threshold

    labelled = _labelled_and_predicted(cohort, task, rule)
    if mask_patients not in get_args(_MaskPatients):
        raise InputError(
            f"mask_patients={mask_patients!r}", expected="note or exclude", where="evaluate"
        )
    if mask_patients == "exclude":
        labelled = _without_mask_patients(labelled, networks)
    if last_visit:
        labelled = labelled.last_visit()
    labelled.require_both_classes()
    scores = _scores(labelled, task)
    tuning = None if validation is None else _labelled_and_predicted(validation, task, rule)
    tuning_scores = None if tuning is None else _scores(tuning, task)
    patient = labelled.cohort.exams["patient"].to_numpy()
    parts = []
    for strategy in scores["strategy"].values.tolist():
        for predictor in scores["predictor"].values.tolist():
            key = {"strategy": strategy, "predictor": predictor}
            score = scores.sel(key).values
            predicted = np.isfinite(score)
            label, patients = labelled.label[predicted], patient[predicted]
            threshold = 0.5
            if tuning is not None and tuning_scores is not None:
                values = tuning_scores.sel(key).values
                known = np.isfinite(values)
                if _two_classes(tuning.label[known]):
                    threshold = youden_threshold(tuning.label[known], values[known])
            if _two_classes(label) and len(set(patients)) > 1:
                found = bootstrap_roc(
                    label,
                    score[predicted],
                    patient=patients,
                    n_resamples=n_resamples,
                    seed=seed,
                    interval=interval,
                    threshold=threshold,
                ).table()
            else:
                metrics = ["sensitivity", "specificity", "auc"]
                found = pd.DataFrame(
                    {"metric": metrics, "mean": np.nan, "low": np.nan, "high": np.nan}
                )
            parts.append(
                found.assign(
                    **key,
                    threshold=threshold,
                    exams=int(predicted.sum()),
                    cases=int(label.sum()),
                    left_out=int((~predicted).sum()),
                )
            )
    order = [
        "strategy",
        "predictor",
        "metric",
        "mean",
        "low",
        "high",
        "threshold",
        "exams",
        "cases",
        "left_out",
    ]
    results = pd.concat(parts, ignore_index=True)[order]
    return Evaluation(task, results, labelled, find_mask_patients(labelled.cohort, networks).notes)


def _without_mask_patients(labelled: LabelledCohort, networks: Folders) -> LabelledCohort:
    """Exclude exams whose masks were made by networks that were trained on the same patient."""
    keep = ~find_mask_patients(labelled.cohort, networks).learned
    cohort = labelled.cohort.keep(
        keep,
        "masks by networks that did not learn from the patient",
        "patient was used to train the networks that made the masks",
    )
    return LabelledCohort(cohort, labelled.label[keep], labelled.name)


def _labelled_and_predicted(cohort: Cohort, task: str, rule: PainRule) -> LabelledCohort:
    """Return the exams with both a label and a prediction."""
    labelled = label_for_task(cohort, task, rule)
    predicted = labelled.cohort.require(f"prediction/{task}")
    if not len(predicted):
        raise InputError(
            f"no prediction of {task} in {counted(len(labelled), 'exam')} with a label",
            expected="at least 1 exam with a prediction and a label",
            where=cohort.lake.url,
            todo=f'Compute them: lake.run("predict_{task}", models=...).',
            reason=Reason.ABSENT_EXAM,
        )
    kept = np.isin(labelled.cohort.rows, predicted.rows)
    return LabelledCohort(predicted, labelled.label[kept], labelled.name)


def _scores(labelled: LabelledCohort, task: str) -> xr.DataArray:
    scores: xr.DataArray = labelled.cohort.load("prediction")[task].compute()
    return scores


def _two_classes(label: NDArray[np.int64]) -> bool:
    return 0 < int(label.sum()) < len(label)
