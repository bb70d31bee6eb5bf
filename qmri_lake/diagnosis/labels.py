"""Label exams: osteoarthritis by KL grade, pain by named rules.

Exams without a label are counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, NotFoundError
from qmri_lake.lake.visits import read_visits, require_visits
from qmri_lake.schema.exam_index import KEYS

if TYPE_CHECKING:
    from qmri_lake.lake.cohort import Cohort

__all__ = [
    "CHRONIC_MONTHS",
    "LabelledCohort",
    "PainRule",
    "label_for_task",
    "label_oa",
    "label_pain",
]

PainRule = Literal["chronic", "frequent_12m", "persistent"]
Missing = Literal["exclude", "raise"]

_ANSWERS = ("pain_months_12m", "pain_any_12m", "pain_most_days_12m", "replaced")
CHRONIC_MONTHS = 6
_MONTHS_BETWEEN = (12, 24)
"""Minimum and maximum number of months between two consecutive visits. The minimum is 12, since the
answers refer to the past 12 months."""


@dataclass(frozen=True, eq=False)
class LabelledCohort:
    """A cohort in which every exam has a label.

    ``label`` (exam,) is int64: 1 for a case, 0 for a control, in the order of ``cohort``.
    """

    cohort: Cohort
    label: NDArray[np.int64]
    name: str

    def __len__(self) -> int:
        return len(self.label)

    @property
    def cases(self) -> int:
        """Number of exams with label 1."""
        return int(self.label.sum())

    def last_visit(self) -> LabelledCohort:
        """Keep the last timepoint of each patient, on which metrics are computed.

        If both knees of a patient were examined at the last timepoint, both are kept.
        """
        exams = self.cohort.exams
        last = exams.groupby("patient")["timepoint"].transform("max")
        keep = (exams["timepoint"] == last).to_numpy(dtype=bool)
        kept = self.cohort.keep(
            keep, "last timepoint of each patient", "earlier timepoint of the same patient"
        )
        return LabelledCohort(kept, self.label[keep], self.name)

    def require_both_classes(self) -> LabelledCohort:
        """Return the cohort itself, or raise an error unless it has cases and controls.

        Raises
        ------
        InputError
            If there are no cases, no controls, or no exams.
        """
        if not 0 < self.cases < len(self):
            raise InputError(
                f"{self.cases} cases and {len(self) - self.cases} controls of {self.name}",
                expected="at least 1 case and 1 control",
                where="labels",
                todo="Choose a larger cohort; cohort.flow() lists the exclusions.",
            )
        return self


def label_oa(cohort: Cohort, *, missing: Missing = "exclude") -> LabelledCohort:
    """Label exams by radiographic osteoarthritis: KL 2 to 4 is a case, KL 0 or 1 is a control.

    Parameters
    ----------
    cohort : Cohort
        Exams (exam,).
    missing : "exclude" or "raise"
        How to handle exams without a KL grade and exams of replaced knees.

    Raises
    ------
    InputError
        If the cohort is empty; with ``missing="raise"`` also if an exam has no label.
    """
    _require_exams(cohort, "label_oa")
    table = cohort.table(["kl", "replaced"])
    kl = table["kl"].to_numpy(dtype=float, na_value=np.nan)
    replaced = (table["replaced"] == "yes").fillna(False).to_numpy(dtype=bool)
    label = np.where(np.isnan(kl) | replaced, np.nan, (kl >= 2).astype(float))
    reasons = {"knee replaced": replaced, "KL grade unknown": np.isnan(kl) & ~replaced}
    return _keep_labelled(cohort, label, reasons, "OA (KL >= 2)", missing)


def label_pain(
    cohort: Cohort, rule: PainRule = "chronic", *, missing: Missing = "exclude"
) -> LabelledCohort:
    """Label exams by knee pain, from the lake's group ``visit``.

    Parameters
    ----------
    cohort : Cohort
        Exams (exam,).
    rule : str
        Definition of cases and controls [assumption]; other exams have no label.

        ``chronic``: a case had pain on more than half of the days of at least 6 of the past 12
        months; a control had no pain in the past 12 months.

        ``frequent_12m``: a case had pain on more than half of the days of at least one of the past
        12 months; a control had no such month.

        ``persistent``: cases and controls fulfil the definition of ``chronic`` at two visits: the
        visit of the exam, and the latest visit of the same knee 12 to 24 months before.
    missing : "exclude" or "raise"
        How to handle exams without a label.

    Returns
    -------
    LabelledCohort
        The exams with a label, and their labels. The last row of the flow gives the reasons why
        other exams have no label.

    Raises
    ------
    NotFoundError
        If the rule is unknown.
    InputError
        If the cohort is empty or the lake has no visits; with ``missing="raise"`` also if an exam
        has no label.
    """
    if rule not in get_args(PainRule):
        raise NotFoundError(
            f"no rule {rule!r}",
            expected=f"one of {', '.join(get_args(PainRule))}",
            where="label_pain",
        )
    _require_exams(cohort, "label_pain")
    visits = _visits(cohort)
    here = cohort.exams[list(KEYS)].merge(
        visits, on=list(KEYS), how="left", indicator="seen", validate="m:1"
    )
    replaced = here["replaced"].to_numpy() == 1
    reasons = {
        "no visit": (here["seen"] == "left_only").to_numpy(),
        "knee replaced": replaced,
    }
    if rule == "frequent_12m":
        label = here["pain_most_days_12m"].to_numpy(dtype=float).copy()
    else:
        label, reasons_of_rule = _chronic(here)
        reasons |= reasons_of_rule
    if rule == "persistent":
        before, _ = _chronic(_visit_before(cohort.exams, visits))
        reasons["no answer 12 to 24 months before"] = ~np.isnan(label) & np.isnan(before)
        reasons["another answer 12 to 24 months before"] = (
            ~np.isnan(label) & ~np.isnan(before) & (label != before)
        )
        label = np.where(label == before, label, np.nan)
    label[replaced] = np.nan
    return _keep_labelled(cohort, label, reasons, f"pain ({rule})", missing)


def _chronic(rows: pd.DataFrame) -> tuple[NDArray[np.float64], dict[str, NDArray[np.bool_]]]:
    months = rows["pain_months_12m"].to_numpy(dtype=float)
    any_pain = rows["pain_any_12m"].to_numpy(dtype=float)
    case, control = months >= CHRONIC_MONTHS, any_pain == 0
    both = control & (months > 0)
    label = np.where(case, 1.0, np.where(control, 0.0, np.nan))
    label[both] = np.nan
    between = ~case & ~control & ~np.isnan(months)
    return label, {
        "contradictory answers": both,
        f"pain in fewer than {CHRONIC_MONTHS} months": between,
    }


def _visits(cohort: Cohort) -> pd.DataFrame:
    """Return the visits of the cohort's patients; answers are numbers, or NaN without an answer."""
    require_visits(cohort.lake.root, "label_pain")
    visits = read_visits(cohort.lake.root, _ANSWERS)
    return visits[visits["patient"].isin(cohort.exams["patient"])]


def _visit_before(exams: pd.DataFrame, visits: pd.DataFrame) -> pd.DataFrame:
    """Return the latest visit of the knee 12 to 24 months before each exam, or NaN."""
    at = exams[list(KEYS)].assign(row=np.arange(len(exams)))
    pairs = at.merge(visits, on=["patient", "knee"], suffixes=("", "_before"))
    pairs = pairs[(pairs["timepoint"] - pairs["timepoint_before"]).between(*_MONTHS_BETWEEN)]
    latest = pairs.sort_values("timepoint_before").drop_duplicates("row", keep="last")
    return latest.set_index("row").reindex(np.arange(len(exams)))


def _require_exams(cohort: Cohort, where: str) -> None:
    if not len(cohort):
        raise InputError(
            "empty cohort",
            expected="at least 1 exam",
            where=where,
            todo="cohort.flow() lists the exclusions.",
        )


def _keep_labelled(
    cohort: Cohort,
    label: NDArray[np.float64],
    reasons: dict[str, NDArray[np.bool_]],
    name: str,
    missing: str,
) -> LabelledCohort:
    keep = ~np.isnan(label)
    remaining, excluded = ~keep, {}
    for why, rows in {**reasons, "no answer": np.ones(len(keep), bool)}.items():
        # Each exam is counted once, under the first reason that applies.
        excluded[why] = int((remaining & rows).sum())
        remaining = remaining & ~rows
    if missing == "raise" and not keep.all():
        first: Any = cohort.exams["exam"].iloc[int(np.flatnonzero(~keep)[0])]
        reasons_text = ", ".join(f"{n:,} {why}" for why, n in excluded.items() if n)
        without = counted(int((~keep).sum()), "exam")
        raise InputError(
            f"{without} without a label of {name}: {reasons_text}",
            expected="a label for each exam",
            where=str(first),
            todo='Exclude them with missing="exclude".',
        )
    kept = cohort.keep(keep, f"has a label of {name}", excluded)
    return LabelledCohort(kept, label[keep].astype(np.int64), name)


def label_for_task(cohort: Cohort, task: str, rule: PainRule) -> LabelledCohort:
    """Return the exams that have a label for a task, and their labels."""
    return label_oa(cohort) if task == "oa" else label_pain(cohort, rule)
