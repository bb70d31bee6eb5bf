"""Outcomes over time: whether a knee reaches a value at a later visit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from numbers import Integral
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.core.text import counted, did_you_mean
from qmri_lake.errors import InputError, QueryError
from qmri_lake.lake.visits import read_visits, require_visits, visit_columns
from qmri_lake.schema.exam_index import KEYS
from qmri_lake.schema.variable import Flags

if TYPE_CHECKING:
    from qmri_lake.store.arrays import Node

__all__ = ["OutcomeRule", "OutcomeValues", "falls_to", "reaches"]

Replaced = Literal["missing", "case"]

_CASE, _BY_REPLACEMENT, _CONTROL = "case", "case by replacement", "control"

_LASTING = ("kl", "replaced")
"""Columns whose values never decrease: a knee below a value at a visit was below it before, too."""


class OutcomeValues(NamedTuple):
    """The outcome of each exam of a cohort according to a rule."""

    value: NDArray[np.float64]
    """(exam,): 1 for a case, 0 for a control, NaN if the outcome is unknown."""
    summary: str
    """Text with the numbers of cases and controls, and of their patients."""
    excluded: Mapping[str, int]
    """Number of exams with unknown outcome by reason; each exam has one reason."""


@dataclass(frozen=True, slots=True, repr=False)
class OutcomeRule:
    """An outcome over time. The functions `reaches` and `falls_to` create and define it."""

    column: str
    value: float | str
    within: int
    """Number of months after the exam."""
    tolerance: int = 0
    """Largest number of months between the last value of a control and the end of `within`."""
    replaced: Replaced = "missing"
    falls: bool = False
    """Whether low values, instead of high ones, are the outcome."""

    def __post_init__(self) -> None:
        for name in ("within", "tolerance"):
            months = getattr(self, name)
            if isinstance(months, bool) or not isinstance(months, Integral):
                raise InputError(
                    f"{name} = {months!r}",
                    expected="a whole number of months, an int",
                    where=self._name,
                )
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
                expected=f"one of {', '.join(map(repr, get_args(Replaced)))}",
                where=self._name,
            )

    @property
    def _name(self) -> str:
        return "falls_to" if self.falls else "reaches"

    @property
    def _lasting(self) -> bool:
        return self.column in _LASTING and not self.falls

    @property
    def condition(self) -> str:
        """Condition on a visit in the query language, such as ``kl >= 2``."""
        if isinstance(self.value, str):
            return f"{self.column} == {self.value!r}"
        return f"{self.column} {'<=' if self.falls else '>='} {self.value:g}"

    def __str__(self) -> str:
        case = f"{self.condition}{' or replaced' if self.replaced == 'case' else ''}"
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

    def evaluate(self, exams: pd.DataFrame, root: Node) -> OutcomeValues:
        """Evaluate the rule for each exam: a case, a control, or unknown with a reason.

        Parameters
        ----------
        exams : DataFrame
            Keys of the exams: patient, timepoint, knee.
        root : Zarr group
            Root of the lake, with its visits.

        Raises
        ------
        InputError
            If the lake has no visits, if the value for a numeric column is a string, or if the
            string does not occur in the column.
        QueryError
            If the visits do not have the column.
        """
        results = self._results(self._visits(exams, root), len(exams))
        value = np.full(len(exams), np.nan)
        value[np.isin(results, (_CASE, _BY_REPLACEMENT))] = 1
        value[results == _CONTROL] = 0
        patient = exams["patient"].to_numpy()
        cases, controls = (
            f"{counted(int(of.sum()), noun)} of {counted(np.unique(patient[of]).size, 'patient')}"
            for noun, of in (("case", value == 1), ("control", value == 0))
        )
        by_replacement = int((results == _BY_REPLACEMENT).sum())
        cases += f" ({by_replacement:,} by replacement)" if by_replacement else ""
        counts = Counter(results[np.isnan(value)].tolist())
        return OutcomeValues(value, f"{cases}, {controls}", dict(sorted(counts.items())))

    def _visits(self, exams: pd.DataFrame, root: Node) -> pd.DataFrame:
        """Return a row for each exam and visit of its knee, with the months between them."""
        require_visits(root, self._name)
        known = visit_columns(root)
        if self.column not in known:
            raise QueryError(
                f"no column {self.column!r} of visits",
                expected=f"one of {', '.join(known)}",
                where=self._name,
                todo=did_you_mean(self.column, known),
            )
        reached = self._reached(known[self.column].flags)
        visits = read_visits(root, list(dict.fromkeys((self.column, "replaced"))))
        visits = visits.assign(
            known=visits[self.column].notna(),
            reached=reached(visits[self.column].to_numpy()),
            gone=(visits["replaced"] == 1) & (self.column != "replaced"),
        )
        keyed = exams[list(KEYS)].assign(row=np.arange(len(exams)))
        seen = keyed.merge(visits, on=["patient", "knee"], suffixes=("", "_seen"))
        return seen.assign(months=seen["timepoint_seen"] - seen["timepoint"])

    def _reached(self, flags: Flags | None) -> Callable[[NDArray[np.float64]], NDArray[np.bool_]]:
        """Return the condition as a function of stored values; False for missing values."""
        if flags and isinstance(self.value, str) and self.value in flags and not self.falls:
            code = flags[self.value]
            return lambda values: values == code
        # The values are stored as float32, so the bound is too: 60.4 must reach 60.4.
        bound = np.float32(math.nan if isinstance(self.value, str) else self.value)
        if flags or not np.isfinite(bound):
            words = f"reaches({self.column!r}, ...) with one of {', '.join(map(repr, flags or ()))}"
            raise InputError(
                self.condition,
                expected=words if flags else "a number to compare with",
                where=self._name,
            )
        if self.falls:
            return lambda values: values.astype(np.float32) <= bound
        return lambda values: values.astype(np.float32) >= bound

    def _results(self, seen: pd.DataFrame, exams: int) -> NDArray[np.object_]:
        """Return "case", "control" or the first applicable reason for each exam."""
        months, row = seen["months"], seen["row"]

        def first(which: pd.Series[bool]) -> NDArray[np.float64]:
            """Return the months to the first visit in `which` for each exam; infinite if none."""
            found = months.where(which).groupby(row).min().reindex(np.arange(exams))
            return found.to_numpy(np.float64, na_value=np.inf)

        gone = first(seen["gone"])
        # Values measured on a prosthesis do not describe the knee.
        own = months < pd.Series(gone[row.to_numpy()], seen.index)
        known, reached = seen["known"] & own, seen["reached"] & own
        end = self.within - self.tolerance
        followed = first(known & months.between(end, self.within))
        later, reached_later = first(known & (months > self.within)), first(reached & (months > 0))
        window = f"{self.within} months"
        by_replacement = (
            _BY_REPLACEMENT
            if self.replaced == "case"
            else f"replaced within {window}, {self.condition} not observed"
        )
        results = [
            (gone <= 0, "replaced at the exam"),
            (~np.isfinite(first(known & (months == 0))), f"{self.column} unknown at the exam"),
            (np.isfinite(first(reached & (months == 0))), f"{self.condition} already at the exam"),
            (reached_later <= self.within, _CASE),
            (gone <= self.within, by_replacement),
            (np.isfinite(followed), _CONTROL),
            (~np.isfinite(later), f"not followed for {end} months"),
            (not self._lasting, f"not assessed at {window} (transient outcome)"),
            (reached_later == later, f"not assessed at {window}, {self.condition} observed later"),
        ]
        return np.select(
            [np.broadcast_to(holds, exams) for holds, _ in results],
            [np.array(result, dtype=object) for _, result in results],
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
    """Define the outcome that a knee has a value of at least `value` at a visit after the exam.

    The rule uses all clinical rows of the same patient and knee (group ``visit``), with or without
    an MRI, by their nominal months. The first applicable item of this list determines the outcome:
    [assumption]

    - Unknown: the knee had been replaced at or before the visit of the exam; that visit has no
      value; or the value has already been reached, so the knee is not at risk. Earlier visits are
      not used, because pain that has resolved may return.
    - Case (1): `value` is reached at a visit up to `within` months after the exam.
    - Replaced in these months, and `value` was not reached at a visit: see `replaced`. From the
      visit that reports the replacement on, values are ignored, because they describe a prosthesis.
    - Control (0): `value` was not reached, and there is a value `within` months after the exam. For
      columns whose values never decrease (``kl``, ``replaced``), a later value below `value` is
      also accepted. Pain and pain scores fluctuate, so a later value is not accepted for them.
      Missing values at earlier visits are ignored.
    - Unknown: there is no later value, so the knee was not followed; or there is no value at
      `within` months, and a later value is inconclusive. A later value of pain is inconclusive,
      because pain fluctuates. Other values are inconclusive if they have reached `value`, because
      they may have done so before or after `within` months.

    The rule has two limitations. First, a case needs no follow-up after it has been observed, but a
    control does. If knees are lost to follow-up, the proportion of cases is larger than the risk.
    Second, outcomes that fluctuate are observed only at visits: a knee that was painful only
    between two visits is a control.

    If no table of replacements was ingested (OUTCOMES99), ``replaced`` is unknown. A knee then
    counts as replaced only if a radiograph showed the prosthesis, and a rule on ``replaced`` yields
    no outcomes.

    Parameters
    ----------
    column : str
        A column of visits, such as ``kl`` [0..4], ``womac_pain`` [0..20], ``replaced``.
    value : float or str
        Value in the unit of the column. For a string column, the string that is the outcome:
        ``reaches("replaced", "yes", within=96)``.
    within : int
        Number of whole months after the exam, at least 1.
    tolerance : int
        Largest number of months, 0 to `within` - 1, between the last value of a control and the end
        of `within`. Visits are 12 to 24 months apart, and no visit is exactly 48 months after an
        exam at 12 months. A tolerance of 12 accepts a last value 36 months after the exam.
    replaced : "missing" or "case"
        Outcome of a knee that is replaced before `value` was reached at a visit: unknown
        (``"missing"``) or a case (``"case"``). The flow counts such knees separately with both
        settings.

    Returns
    -------
    OutcomeRule
        The rule, for `Cohort.with_outcome`. ``str(rule)`` describes it.

    Raises
    ------
    InputError
        If the months are invalid, or if `replaced` has another value.

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
    """Define the outcome that a knee has a value of at most `value` at a visit after the exam.

    Use it for scores in which lower values are worse: ``falls_to("koos_pain", 60, within=24)``. The
    rule is as in `reaches`, with the opposite comparison. Low values may recover by the next visit,
    so a control always needs a value at the end of `within`, or up to `tolerance` months before. A
    later value is not accepted.

    Examples
    --------
    >>> print(falls_to("koos_pain", 60, within=24))
    koos_pain <= 60 within 24 months
    """
    return OutcomeRule(column, value, within, tolerance, replaced, falls=True)
