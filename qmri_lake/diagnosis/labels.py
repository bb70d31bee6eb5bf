"""Labels: osteoarthritis by KL grade, pain by named rules; who has none is counted in the flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.errors import InputError, NotFoundError
from qmri_lake.index import KEYS
from qmri_lake.summary import counted
from qmri_lake.visits import read_visits, refuse_no_visits

if TYPE_CHECKING:
    from qmri_lake.cohort import Cohort

__all__ = ["Labelled", "PainRule", "label_oa", "label_pain"]

PainRule = Literal["chronic", "frequent_12m", "persistent"]
Missing = Literal["exclude", "raise"]

_ANSWERS = ("pain_months_12m", "pain_any_12m", "pain_most_days_12m", "replaced")
_CHRONIC_MONTHS = 6
_RUNNING = (12, 24)
"""Months between two visits running: at least 12, or they ask about the same months twice."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """A cohort whose exams all have a label.

    ``label`` (exam,) is int64, 1 for a case and 0 for a control, in the order of ``cohort``.
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

    def last_visit(self) -> Labelled:
        """Keep the last timepoint of each patient: the exams that test metrics use.

        A patient with both knees then keeps both.
        """
        exams = self.cohort.exams
        last = exams.groupby("patient")["timepoint"].transform("max")
        keep = (exams["timepoint"] == last).to_numpy(dtype=bool)
        kept = self.cohort._keep(keep, "last timepoint of each patient", "earlier timepoints")
        return Labelled(kept, self.label[keep], self.name)

    def require_both_classes(self) -> Labelled:
        """Return itself.

        Raises
        ------
        InputError
            Only cases or only controls, or no exam.
        """
        if not 0 < self.cases < len(self):
            raise InputError(
                f"{self.cases} cases and {len(self) - self.cases} controls of {self.name}",
                expected="at least 1 of each", where="labels",
                todo="Choose a wider cohort; its flow() says who was left out.",
            )  # fmt: skip
        return self


def label_oa(cohort: Cohort, *, missing: Missing = "exclude") -> Labelled:
    """Label exams by radiographic osteoarthritis: KL 2 to 4 is a case, KL 0 or 1 a control.

    Parameters
    ----------
    cohort : Cohort
        Exams (exam,).
    missing : "exclude" or "raise"
        What happens to exams without a KL grade, or whose knee had been replaced.

    Raises
    ------
    InputError
        A cohort of no exam; with ``missing="raise"`` exams without a label, the first named.
    """
    _refuse_none(cohort, "label_oa")
    table = cohort.table(["kl", "replaced"])
    kl = table["kl"].to_numpy(dtype=float, na_value=np.nan)
    replaced = (table["replaced"] == "yes").fillna(False).to_numpy(dtype=bool)
    label = np.where(np.isnan(kl) | replaced, np.nan, (kl >= 2).astype(float))
    reasons = {"knee replaced": replaced, "without KL grade": np.isnan(kl) & ~replaced}
    return _labelled(cohort, label, reasons, "OA (KL >= 2)", missing)


def label_pain(
    cohort: Cohort, rule: PainRule = "chronic", *, missing: Missing = "exclude"
) -> Labelled:
    """Label exams by knee pain, from the lake's group ``visit``.

    Parameters
    ----------
    cohort : Cohort
        Exams (exam,).
    rule : str
        ``chronic``: case = pain on more than half the days in at least 6 of the past 12 months,
        control = no pain in the past 12 months, the rest has no label. ``frequent_12m``: case =
        pain on more than half the days of a month in the past 12 months, control = not so.
        ``persistent``: ``chronic`` at two visits running, this one and the knee's latest 12 to 24
        months before; control = neither. [assumption]
    missing : "exclude" or "raise"
        What happens to exams without a label.

    Returns
    -------
    Labelled
        The exams that have a label, and those. The last row of the flow says why others have none.

    Raises
    ------
    NotFoundError
        No such rule.
    InputError
        A cohort of no exam, a lake without visits; with ``missing="raise"`` exams without a label,
        the first named.
    """
    if rule not in get_args(PainRule):
        raise NotFoundError(
            f"no rule {rule!r}", expected=f"one of {', '.join(get_args(PainRule))}",
            where="label_pain",
        )  # fmt: skip
    _refuse_none(cohort, "label_pain")
    visits = _visits(cohort)
    here = cohort.exams[list(KEYS)].merge(
        visits, on=list(KEYS), how="left", indicator="seen", validate="m:1"
    )
    gone, unseen = here["replaced"].to_numpy() == 1, (here["seen"] == "left_only").to_numpy()
    reasons = {"without a visit": unseen, "knee replaced": gone}
    if rule == "frequent_12m":
        label = here["pain_most_days_12m"].to_numpy(dtype=float).copy()
    else:
        label, more = _chronic(here)
        reasons |= more
    if rule == "persistent":
        before, _ = _chronic(_visit_before(cohort.exams, visits))
        reasons["without an answer 12 to 24 months before"] = ~np.isnan(label) & np.isnan(before)
        reasons["another answer 12 to 24 months before"] = (
            ~np.isnan(label) & ~np.isnan(before) & (label != before)
        )
        label = np.where(label == before, label, np.nan)
    label[gone] = np.nan
    return _labelled(cohort, label, reasons, f"pain ({rule})", missing)


def _chronic(rows: pd.DataFrame) -> tuple[NDArray[np.float64], dict[str, NDArray[np.bool_]]]:
    months = rows["pain_months_12m"].to_numpy(dtype=float)
    some = rows["pain_any_12m"].to_numpy(dtype=float)
    case, control = months >= _CHRONIC_MONTHS, some == 0
    both = control & (months > 0)
    label = np.where(case, 1.0, np.where(control, 0.0, np.nan))
    label[both] = np.nan
    between = ~case & ~control & ~np.isnan(months)
    return label, {
        "contradictory answers": both,
        f"pain in fewer than {_CHRONIC_MONTHS} months": between,
    }


def _visits(cohort: Cohort) -> pd.DataFrame:
    """Return the rows of the cohort's patients, answers as numbers, NaN where there is none."""
    refuse_no_visits(cohort.lake.root, "label_pain")
    visits = read_visits(cohort.lake.root, _ANSWERS)
    return visits[visits["patient"].isin(cohort.exams["patient"])]


def _visit_before(exams: pd.DataFrame, visits: pd.DataFrame) -> pd.DataFrame:
    """Return, an exam, the latest row of its knee 12 to 24 months before; NaN where none is."""
    at = exams[list(KEYS)].assign(row=np.arange(len(exams)))
    pairs = at.merge(visits, on=["patient", "knee"], suffixes=("", "_before"))
    pairs = pairs[(pairs["timepoint"] - pairs["timepoint_before"]).between(*_RUNNING)]
    latest = pairs.sort_values("timepoint_before").drop_duplicates("row", keep="last")
    return latest.set_index("row").reindex(np.arange(len(exams)))


def _refuse_none(cohort: Cohort, where: str) -> None:
    if not len(cohort):
        raise InputError(
            "a cohort of 0 exams", expected="at least 1", where=where,
            todo="See cohort.flow() for what left them out.",
        )  # fmt: skip


def _labelled(
    cohort: Cohort,
    label: NDArray[np.float64],
    reasons: dict[str, NDArray[np.bool_]],
    name: str,
    missing: str,
) -> Labelled:
    keep = ~np.isnan(label)
    left, told = ~keep, []
    for why, rows in {**reasons, "without an answer": np.ones(len(keep), bool)}.items():
        # Each exam is counted once, under the first reason that holds.
        if n := int((left & rows).sum()):
            told.append(f"{n:,} {why}")
        left = left & ~rows
    if missing == "raise" and not keep.all():
        first: Any = cohort.exams["exam"].iloc[int(np.flatnonzero(~keep)[0])]
        without = counted(int((~keep).sum()), "exam")
        raise InputError(
            f"{without} without a label of {name}: {', '.join(told)}",
            expected="a label for each exam", where=str(first),
            todo='Leave them out with missing="exclude".',
        )  # fmt: skip
    kept = cohort._keep(keep, f"has a label of {name}", ", ".join(told))
    return Labelled(kept, label[keep].astype(np.int64), name)
