"""What the predictions of a lake reach on exams that no classifier has learned from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.diagnosis.labels import Labelled, PainRule
from qmri_lake.diagnosis.training_sets import labelled_for
from qmri_lake.errors import InputError, Reason
from qmri_lake.summary import counted

if TYPE_CHECKING:
    from qmri_lake.cohort import Cohort
    from qmri_lake.report.classifier_tables import ClassifierTable

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """What each strategy and predictor reaches."""

    task: str
    results: pd.DataFrame
    """A row a number: strategy, predictor, metric (sensitivity, specificity, auc), mean, low, high,
    fractions of 1, NaN where too few exams have a prediction; threshold; exams, cases, and
    left_out, exams without that prediction."""
    labelled: Labelled
    """The exams that were tested; their flow says who was left out."""

    def table(self, *, exams: str = "") -> ClassifierTable:
        """Lay out Table S2 (OA) or S3 (pain), the paper's numbers beside.

        Parameters
        ----------
        exams : str
            What was tested, for the caption; default their number and that of patients.
        """
        from qmri_lake.report.classifier_tables import COLUMNS, classifier_table

        cohort = self.labelled.cohort
        told = f"{counted(len(cohort), 'test exam')} of {counted(cohort.patients, 'patient')}"
        return classifier_table(self.results[list(COLUMNS)], self.task, exams=exams or told)


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
) -> Evaluation:
    """Judge the predictions of group ``prediction`` by labels.

    Parameters
    ----------
    cohort : Cohort
        The test set: ``read_split(lake, "models/oa/split.json").test``. Exams without a label or a
        prediction are left out, and counted in the flow.
    task : {"oa", "pain"}
    rule : str
        Of pain: that which the classifiers learned, see `qmri_lake.diagnosis.label_pain`.
    last_visit : bool
        Only the last timepoint of each patient that has a label and a prediction. [paper for pain,
        assumption for OA]
    validation : Cohort, optional
        Exams whose Youden threshold is taken, of each strategy and predictor; default 0.5.
        [assumption]
    n_resamples, interval, seed
        As of `qmri_lake.statistics.bootstrap_roc`. Patients are resampled.

    Returns
    -------
    Evaluation

    Raises
    ------
    NotFoundError
        No such rule.
    InputError
        No exam that is labelled and predicted, or one class only.
    """
    from qmri_lake.statistics import bootstrap_roc, youden_threshold

    labelled = _judged(cohort, task, rule)
    if last_visit:
        labelled = labelled.last_visit()
    labelled.require_both_classes()
    scores = _scores(labelled, task)
    chosen = None if validation is None else _judged(validation, task, rule)
    of_validation = None if chosen is None else _scores(chosen, task)
    patient = labelled.cohort.exams["patient"].to_numpy()
    parts = []
    for strategy in scores["strategy"].values.tolist():
        for predictor in scores["predictor"].values.tolist():
            key = {"strategy": strategy, "predictor": predictor}
            score = scores.sel(key).values
            there = np.isfinite(score)
            label, whose = labelled.label[there], patient[there]
            threshold = 0.5
            if chosen is not None and of_validation is not None:
                values = of_validation.sel(key).values
                known = np.isfinite(values)
                if _two_classes(chosen.label[known]):
                    threshold = youden_threshold(chosen.label[known], values[known])
            if _two_classes(label) and len(set(whose)) > 1:
                found = bootstrap_roc(
                    label, score[there], patient=whose, n_resamples=n_resamples, seed=seed,
                    interval=interval, threshold=threshold,
                ).table()  # fmt: skip
            else:
                metrics = ["sensitivity", "specificity", "auc"]
                found = pd.DataFrame({"metric": metrics, "mean": np.nan, "low": np.nan,
                                      "high": np.nan})  # fmt: skip
            parts.append(
                found.assign(
                    **key, threshold=threshold, exams=int(there.sum()), cases=int(label.sum()),
                    left_out=int((~there).sum()),
                )
            )  # fmt: skip
    order = ["strategy", "predictor", "metric", "mean", "low", "high", "threshold", "exams",
             "cases", "left_out"]  # fmt: skip
    return Evaluation(task, pd.concat(parts, ignore_index=True)[order], labelled)


def _judged(cohort: Cohort, task: str, rule: PainRule) -> Labelled:
    """Return the exams with a label and a prediction."""
    labelled = labelled_for(cohort, task, rule)
    predicted = labelled.cohort.require(f"prediction/{task}")
    if not len(predicted):
        raise InputError(
            f"no prediction of {task} in {counted(len(labelled), 'exam')} with a label",
            expected="at least 1", where=cohort.lake.url,
            todo=f'Make them: lake.run("predict_{task}", models=...).', reason=Reason.ABSENT_EXAM,
        )  # fmt: skip
    kept = np.isin(labelled.cohort.rows, predicted.rows)
    return Labelled(predicted, labelled.label[kept], labelled.name)


def _scores(labelled: Labelled, task: str) -> xr.DataArray:
    lake = labelled.cohort.lake
    scores: xr.DataArray = lake.load("prediction", labelled.cohort)[task].compute()
    return scores


def _two_classes(label: NDArray[np.int64]) -> bool:
    return 0 < int(label.sum()) < len(label)
