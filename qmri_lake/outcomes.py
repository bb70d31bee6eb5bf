"""Outcomes over time: whether a knee reaches a value at a later visit, or why nobody can tell."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Integral
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.errors import InputError, QueryError, did_you_mean
from qmri_lake.index import KEYS
from qmri_lake.summary import counted
from qmri_lake.variables import REGISTRY
from qmri_lake.visits import read_visits, refuse_no_visits

if TYPE_CHECKING:
    from qmri_lake.cohort import Cohort

__all__ = ["Judged", "OutcomeRule", "falls_to", "reaches"]

Replaced = Literal["missing", "case"]

_CASE, _BY_REPLACEMENT, _CONTROL = "case", "case by replacement", "control"

_LASTING = ("kl", "replaced")
"""What a knee that has reached it keeps, so that one without it later did not have it before."""


class Judged(NamedTuple):
    """What a rule says of the exams of a cohort."""

    value: NDArray[np.float64]
    """(exam,): 1 for a case, 0 for a control, NaN where there is no outcome."""
    told: str
    """How many are cases and controls, and of how many patients."""
    why: str
    """How many have no outcome, each exam under one reason."""


@dataclass(frozen=True, slots=True, repr=False)
class OutcomeRule:
    """An outcome over time; made by `reaches` or `falls_to`, which say what it means."""

    column: str
    value: float | str
    within: int
    """Months after the exam."""
    tolerance: int = 0
    """Months."""
    replaced: Replaced = "missing"
    falls: bool = False
    """Whether low values are the outcome."""

    def __post_init__(self) -> None:
        for name in ("within", "tolerance"):
            months = getattr(self, name)
            if isinstance(months, bool) or not isinstance(months, Integral):
                raise InputError(
                    f"{name} = {months!r}", expected="a whole number of months, an int",
                    where=self._name,
                )  # fmt: skip
            object.__setattr__(self, name, int(months))
        if self.within < 1:
            raise InputError(
                f"within = {self.within!r}", expected="at least 1 month", where=self._name
            )
        if not 0 <= self.tolerance < self.within:
            raise InputError(
                f"tolerance = {self.tolerance!r}",
                expected=f"months from 0 to {self.within - 1}",
                where=self._name,
            )
        if self.replaced not in get_args(Replaced):
            raise InputError(
                f"replaced = {self.replaced!r}",
                expected=f"one of {', '.join(map(repr, get_args(Replaced)))}", where=self._name,
            )  # fmt: skip

    @property
    def _name(self) -> str:
        return "falls_to" if self.falls else "reaches"

    @property
    def _lasting(self) -> bool:
        return self.column in _LASTING and not self.falls

    @property
    def test(self) -> str:
        """What a visit is asked, as in a query: ``kl >= 2``."""
        if isinstance(self.value, str):
            return f"{self.column} == {self.value!r}"
        return f"{self.column} {'<=' if self.falls else '>='} {self.value:g}"

    def __str__(self) -> str:
        case = f"{self.test}{' or replaced' if self.replaced == 'case' else ''}"
        followed = f", followed for {self.within - self.tolerance}" if self.tolerance else ""
        return f"{case} within {self.within} months{followed}"

    def __repr__(self) -> str:
        given = [f"{self.column!r}, {self.value!r}, within={self.within}"]
        given += [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if field.name in ("tolerance", "replaced")
            and getattr(self, field.name) != field.default
        ]
        return f"{self._name}({', '.join(given)})"

    def judge(self, cohort: Cohort) -> Judged:
        """Say of each exam of a cohort whether it is a case, a control, or neither and why.

        Raises
        ------
        InputError
            A lake without visits, a word for a column of numbers, or no such word.
        QueryError
            Visits have no such column.
        """
        verdicts = self._verdicts(self._visits(cohort), len(cohort))
        value = np.full(len(cohort), np.nan)
        value[np.isin(verdicts, (_CASE, _BY_REPLACEMENT))] = 1
        value[verdicts == _CONTROL] = 0
        patient = cohort.lake.patients[cohort.rows]
        cases, controls = (
            f"{counted(int(of.sum()), noun)} of {counted(np.unique(patient[of]).size, 'patient')}"
            for noun, of in (("case", value == 1), ("control", value == 0))
        )
        by_replacement = int((verdicts == _BY_REPLACEMENT).sum())
        cases += f" ({by_replacement:,} by replacement)" if by_replacement else ""
        counts = Counter(verdicts[np.isnan(value)].tolist())
        why = ", ".join(f"{n:,} {reason}" for reason, n in sorted(counts.items()))
        return Judged(value, f"{cases}, {controls}", why)

    def _visits(self, cohort: Cohort) -> pd.DataFrame:
        """Return each exam with each visit of its knee: row, months after it, what it shows."""
        root = cohort.lake.root
        refuse_no_visits(root, self._name)
        known = [v.name for v in REGISTRY.group("visit") if v.name not in KEYS and v.path in root]
        if self.column not in known:
            raise QueryError(
                f"no column {self.column!r} of visits", expected=f"one of {', '.join(known)}",
                where=self._name, todo=did_you_mean(self.column, known),
            )  # fmt: skip
        reached = self._reached()
        visits = read_visits(root, list(dict.fromkeys((self.column, "replaced"))))
        visits = visits.assign(
            known=visits[self.column].notna(),
            reached=reached(visits[self.column].to_numpy()),
            gone=(visits["replaced"] == 1) & (self.column != "replaced"),
        )
        exams = cohort.exams[list(KEYS)].assign(row=np.arange(len(cohort)))
        seen = exams.merge(visits, on=["patient", "knee"], suffixes=("", "_seen"))
        return seen.assign(months=seen["timepoint_seen"] - seen["timepoint"])

    def _reached(self) -> Callable[[NDArray[np.float64]], NDArray[np.bool_]]:
        """Return the test of stored values; a missing one is never it."""
        flags = REGISTRY[f"visit/{self.column}"].flags
        if flags and isinstance(self.value, str) and self.value in flags and not self.falls:
            code = flags[self.value]
            return lambda values: values == code
        # In the precision in which they are stored: 60.4 has to reach 60.4.
        bound = np.float32(math.nan if isinstance(self.value, str) else self.value)
        if flags or not np.isfinite(bound):
            words = f"reaches({self.column!r}, ...) with one of {', '.join(map(repr, flags or ()))}"
            raise InputError(
                self.test, expected=words if flags else "a number to compare with", where=self._name
            )
        if self.falls:
            return lambda values: values.astype(np.float32) <= bound
        return lambda values: values.astype(np.float32) >= bound

    def _verdicts(self, seen: pd.DataFrame, exams: int) -> NDArray[np.object_]:
        """Return a case, a control, or the first reason that holds, of each exam."""
        months, row = seen["months"], seen["row"]

        def first(which: pd.Series[bool]) -> NDArray[np.float64]:
            """Return the month of the first such visit of each exam; infinite where none is."""
            found = months.where(which).groupby(row).min().reindex(np.arange(exams))
            return found.to_numpy(np.float64, na_value=np.inf)

        gone = first(seen["gone"])
        # What is measured of a prosthesis says nothing of the knee.
        own = months < pd.Series(gone[row.to_numpy()], seen.index)
        known, reached = seen["known"] & own, seen["reached"] & own
        end = self.within - self.tolerance
        followed = first(known & months.between(end, self.within))
        later, reached_later = first(known & (months > self.within)), first(reached & (months > 0))
        window = f"{self.within} months"
        by_replacement = (
            _BY_REPLACEMENT
            if self.replaced == "case"
            else f"replaced within {window}, {self.test} not seen"
        )
        verdicts = [
            (gone <= 0, "replaced at the exam"),
            (~np.isfinite(first(known & (months == 0))), f"without {self.column} at the exam"),
            (np.isfinite(first(reached & (months == 0))), f"with {self.test} at the exam"),
            (reached_later <= self.within, _CASE),
            (gone <= self.within, by_replacement),
            (np.isfinite(followed), _CONTROL),
            (~np.isfinite(later), f"not followed for {end} months"),
            (not self._lasting, f"unseen at {window}, {self.test} comes and goes"),
            (reached_later == later, f"unseen at {window}, {self.test} seen after"),
        ]
        return np.select(
            [np.broadcast_to(holds, exams) for holds, _ in verdicts],
            [np.array(verdict, dtype=object) for _, verdict in verdicts],
            _CONTROL,
        )


def reaches(
    column: str,
    value: float | str,
    *,
    within: int,
    tolerance: int = 0,
    replaced: Replaced = "missing",
) -> OutcomeRule:
    """Ask whether a knee gets a value of at least `value` at a visit after the exam.

    Asked are all clinical rows of the same patient and knee (group ``visit``), with or without an
    MRI, by their nominal months. In this order: [assumption]

    - no outcome: the knee had been replaced at or before the exam's visit; that visit has no value;
      or it has reached `value` already, so the knee is not at risk. Only the exam's own visit says
      so: what was reached before and is gone again (pain) may come back.
    - case (1): `value` is reached at a visit up to `within` months after the exam.
    - replaced in these months without having reached it at a visit: see `replaced`. From the visit
      on that tells of it the knee has no value: what is measured then is of a prosthesis.
    - control (0): not reached, and followed up: there is a value `within` months after the exam. Of
      what stays once it is there (``kl``, ``replaced``) a later value that has still not reached it
      will do; pain and its scores come and go, so a good one later says nothing. Missing values
      between are passed over.
    - no outcome: no value from then on, so the knee was not followed; or none at `within` months
      and a later one that says nothing: of pain any, else one that has reached `value`, before or
      after them, and nobody saw when.

    Two things to know of what is counted. A case needs no follow-up once it is seen, a control
    does: where knees are lost, the share of cases among those with an outcome is above the risk.
    And what comes and goes is asked at visits alone: a knee that was bad between two is a control.

    Where no table told of replacements (OUTCOMES99), ``replaced`` is not known: no knee counts as
    gone unless a radiograph showed it, and a rule on ``replaced`` finds no outcome.

    Parameters
    ----------
    column : str
        A column of visits, such as ``kl`` [0..4], ``womac_pain`` [0..20], ``replaced``.
    value : float or str
        In the column's unit. Of a column of words, the word that is the outcome:
        ``reaches("replaced", "yes", within=96)``.
    within : int
        Whole months after the exam, at least 1.
    tolerance : int
        Months, 0 to `within` - 1: a control's last value may lie so long before the end. Visits
        are 12 to 24 months apart, so from an exam at 12 months nobody is seen after exactly 48:
        12 takes who was not a case and was seen after 36.
    replaced : "missing" or "case"
        What a knee that is replaced before it is seen to reach `value` is: without an outcome,
        since its value was never measured, or a case. Counted apart either way.

    Returns
    -------
    OutcomeRule
        For `Cohort.with_outcome`. ``str`` says it in words.

    Raises
    ------
    InputError
        Months that are none, or another word for `replaced`.

    Examples
    --------
    >>> reaches("kl", 2, within=48)
    reaches('kl', 2, within=48)
    >>> print(reaches("kl", 2, within=48, tolerance=12, replaced="case"))
    kl >= 2 or replaced within 48 months, followed for 36
    """
    return OutcomeRule(column, value, within, tolerance, replaced)


def falls_to(
    column: str,
    value: float,
    *,
    within: int,
    tolerance: int = 0,
    replaced: Replaced = "missing",
) -> OutcomeRule:
    """Ask whether a knee gets a value of at most `value`, where lower is worse.

    As `reaches`, with the sign turned: ``falls_to("koos_pain", 60, within=24)``. A low value may be
    gone at the next visit, so a control always needs a value in the last `tolerance` months, and a
    later one is no substitute.

    Examples
    --------
    >>> print(falls_to("koos_pain", 60, within=24))
    koos_pain <= 60 within 24 months
    """
    return OutcomeRule(column, value, within, tolerance, replaced, falls=True)
