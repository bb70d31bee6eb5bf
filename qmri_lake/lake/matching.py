"""Matching of the cases of a cohort with their most similar controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.core.text import counted, format_bytes
from qmri_lake.errors import InputError, RunError
from qmri_lake.schema.exam_index import KEYS

__all__ = ["MatchResult", "match"]


class MatchResult(NamedTuple):
    """Cases and their matched controls."""

    conditions: tuple[tuple[NDArray[np.bool_], str, Mapping[str, int]], ...]
    """Conditions to apply in this order. Each has the mask of exams to keep, a description, and the
    number of excluded exams by reason."""
    sets: NDArray[np.int64]
    """(exam,): number of the matched set of each remaining exam, from 1."""
    size: int
    """Number of matched sets."""
    description: str
    """Description of the column of set numbers."""


def match(
    table: pd.DataFrame,
    outcome: str,
    on: Sequence[str],
    *,
    ratio: int,
    seed: int,
    caliper: Mapping[str, float] | None,
    prefer_cases: bool,
) -> MatchResult:
    """Keep cases and, for each case, the most similar controls; exclude all other exams.

    `Cohort.match` calls this function and defines the defaults.

    One exam of each patient is drawn at random, independently of the outcome. The drawn exam is a
    case or a control, so each patient is in at most one set, and only once. String columns are
    matched exactly. For numeric columns, the distance between a case and a control is Euclidean,
    with each column divided by its standard deviation over the drawn exams. The assignment
    maximises the number of matched controls, then minimises the number of cases with fewer controls
    than others, then minimises the sum of all distances (`scipy.optimize.linear_sum_assignment`).
    [assumption]

    A patient who becomes a case later may be a control at an earlier visit. Excluding such patients
    would use information from the future, and the controls would be too healthy. This was tested in
    a simulation: ten times 40,000 patients, a log hazard of 0.7 per standard deviation, outcomes
    within 24 months, and visits from month 0 to 72. The odds ratio is 2.15 at the first visit and
    2.14 over all exams. With one exam drawn for each patient, as here, the odds ratio is 2.18.
    Adjusted for the timepoint, it is 2.05, because patients who develop the disease early have
    fewer exams to draw from. If cases are selected first and their patients are excluded from the
    controls instead, the odds ratio is biased to 2.48. A cohort of one visit (``timepoint == 0``)
    has no such bias. In other cohorts, cases and controls are from different months unless
    ``timepoint`` is in `on`.

    Parameters
    ----------
    table : DataFrame
        One row for each exam, with its keys, `outcome` and the columns `on`. Apply `Cohort.require`
        before a match: a condition applied later may separate a case from its controls.
    outcome : str
        Column of 1 (case) and 0 (control), as added by `Cohort.with_outcome`.
    on : sequence of str
        Numeric or string columns to match on, with values at the visit of the exam.
    ratio : int
        Number of controls for each case, at least 1.
    seed : int
        Seed of the drawn exams, and of the choice between equal distances. The order of exams in
        the cohort or in the lake has no effect.
    caliper : mapping of str to float, optional
        Largest difference between a case and its control, by numeric column of `on` and in its
        unit: ``{"age": 5, "bmi": 2}`` [years, kg m-2]. With 0, the values must be equal.
    prefer_cases : bool
        If only one of the two knees at the drawn visit is a case, take this knee. By default, one
        knee is drawn, so half of such cases are lost. The option introduces a bias, because both
        knees of a control patient are controls. In a simulation of one visit, the log odds ratio
        per standard deviation was biased by 0 to 3 % if 11 % of the knees were cases, and by -4 to
        4 % if 31 % were cases. The bias increases with the similarity of the two knees.

    Returns
    -------
    MatchResult
        Numbers of the sets, from 1; each set has one case and 1 to `ratio` controls. Three rows of
        the flow: exams without values to match on are excluded; one exam of each patient is drawn,
        with the number of cases and controls not drawn; and the match, with the number of cases
        that have fewer controls. Cases without controls are excluded.

    Raises
    ------
    InputError
        If `outcome` has other values than 0 and 1; if the drawn exams are all cases or all
        controls; if there is no column to match on; if the ratio is below 1; or if a caliper is
        negative or given for another column.
    QueryError
        If there is no such column.
    RunError
        If the distances do not fit into memory.

    Examples
    --------
    >>> cases = cohort.with_outcome("incident_oa", rule).match(
    ...     "incident_oa", on=("age", "bmi", "sex"), ratio=2, seed=0
    ... )  # doctest: +SKIP
    """
    names = list(on)
    calipers = dict(caliper or {})
    _check_arguments(table, outcome, names, ratio, calipers)
    case = (table[outcome] == 1).fillna(False).to_numpy(dtype=bool)

    known = table[[outcome, *names]].notna().all(axis=1).to_numpy(dtype=bool)
    condition = f"has {', '.join((outcome, *names))}"
    unknown = _count_missing(table, case, (outcome, *names))
    left = np.flatnonzero(known)

    drawn = _draw_one_per_patient(table.iloc[left], seed)
    if prefer_cases:
        drawn = _prefer_cases(table.iloc[left], drawn, case)
    cases, controls = int(case[drawn].sum()), int((~case[drawn]).sum())
    if not cases or not controls:
        raise InputError(
            f"{counted(cases, 'case')} of {outcome} and {counted(controls, 'control')}, with one "
            "exam for each patient and values to match on",
            expected="at least 1 case and 1 control",
            where="match",
            todo="Use a larger cohort (flow() gives the exclusions) or another seed.",
        )
    out = case[np.setdiff1d(left, drawn)]
    first = ", a knee that is a case first" if prefer_cases else ""
    single = (
        np.isin(left, drawn),
        f"one exam a patient, drawn with seed {seed}{first}: "
        f"{counted(cases, 'case')}, {counted(controls, 'control')}",
        {"case, not drawn": int(out.sum()), "control, not drawn": int((~out).sum())},
    )

    number = _number_sets(table.loc[drawn], case[drawn], names, ratio, calipers)
    sets = pd.Series(number, drawn).sort_index()
    keep = (sets > 0).to_numpy()
    size = np.bincount(sets[keep], minlength=1)[1:] - 1
    exact = "".join(f", {name} within {limit:g}" for name, limit in calipers.items())
    fewer = int((size < ratio).sum())
    out = case[sets.index[~keep]]
    matched = (
        keep,
        f"{counted(ratio, 'control')} a case of {outcome}, matched on {', '.join(names)}"
        f"{exact}: {counted(len(size), 'set')}" + (f", {fewer:,} with fewer" if fewer else ""),
        {"case without a control": int(out.sum()), "control not needed": int((~out).sum())},
    )
    description = f"Number of the matched set: a case of {outcome} and up to {ratio} controls"
    described = f"{description}, alike in {', '.join(names)}{exact}; seed {seed}"
    values = sets[keep].to_numpy(np.int64)
    return MatchResult(((known, condition, unknown), single, matched), values, len(size), described)


def _check_arguments(
    table: pd.DataFrame, outcome: str, names: list[str], ratio: int, calipers: Mapping[str, float]
) -> None:
    found = table[outcome].dropna().unique().tolist()
    if others := [value for value in found if value not in (0, 1)]:
        raise InputError(
            f"column {outcome!r} contains {others[0]!r}",
            expected="1 for a case and 0 for a control",
            where="match",
            todo="Add an outcome with with_outcome.",
        )
    if ratio < 1:
        raise InputError(
            f"ratio = {ratio}", expected="at least 1 control for each case", where="match"
        )
    if not names or outcome in names:
        raise InputError(
            f"on = {tuple(names)!r}",
            expected="columns to match on, other than the outcome",
            where="match",
            todo='For example: on=("age", "bmi", "sex").',
        )
    numbers = [name for name in names if pd.api.types.is_numeric_dtype(table[name].dtype)]
    for name, limit in calipers.items():
        if name not in numbers or not limit >= 0:
            raise InputError(
                f"caliper[{name!r}] = {limit!r}",
                expected=f"a difference of at least 0 in {' or '.join(numbers) or 'no column'}",
                where="match",
                todo="String columns are matched exactly and take no caliper.",
            )


def _count_missing(
    table: pd.DataFrame, case: NDArray[np.bool_], names: Sequence[str]
) -> dict[str, int]:
    """Count cases and controls with missing values, by the first column that lacks a value."""
    counts: dict[str, int] = {}
    left = np.ones(len(table), bool)
    for name in names:
        lacks = table[name].isna().to_numpy(dtype=bool) & left
        left &= ~lacks
        groups = {"case": case, "control": ~case} if name != names[0] else {"exam": lacks}
        counts |= {
            f"{noun}, {name} unknown": int((lacks & of).sum()) for noun, of in groups.items()
        }
    return counts


def _draw_one_per_patient(table: pd.DataFrame, seed: int) -> NDArray[np.intp]:
    """Return the labels of one random row for each patient; the row order has no effect."""
    ordered = table.sort_values(list(KEYS))
    shuffled = ordered.iloc[np.random.default_rng(seed).permutation(len(ordered))]
    return shuffled.drop_duplicates("patient").index.to_numpy(np.intp)


def _prefer_cases(
    table: pd.DataFrame, drawn: NDArray[np.intp], case: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """Replace a drawn control by the other knee of the visit if that knee is a case."""
    visit = ["patient", "timepoint"]
    places = table[visit].assign(place=table.index)[case[table.index]]
    ill = table.loc[drawn, visit].merge(places.drop_duplicates(visit), on=visit, how="left")
    other = ill["place"].to_numpy()
    return np.where(case[drawn] | np.isnan(other), drawn, other).astype(np.intp)


def _number_sets(
    table: pd.DataFrame,
    case: NDArray[np.bool_],
    names: Sequence[str],
    ratio: int,
    calipers: Mapping[str, float],
) -> NDArray[np.int64]:
    """Return the set number of each exam, or 0 if it is in no set.

    Sets are numbered in the order of the keys of their cases.
    """
    numeric = [name for name in names if pd.api.types.is_numeric_dtype(table[name].dtype)]
    words = [name for name in names if name not in numeric]
    values = table[numeric].to_numpy(np.float64)
    spread = values.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    limits = np.array([calipers.get(name, np.inf) for name in numeric])
    stratum = table.groupby(words).ngroup().to_numpy() if words else np.zeros(len(table), int)

    case_of = np.full(len(table), -1)  # position of the case of each exam
    for k in range(stratum.max() + 1):
        cases = np.flatnonzero(case & (stratum == k))
        controls = np.flatnonzero(~case & (stratum == k))
        if not cases.size or not controls.size:
            continue
        _check_memory(cases.size, controls.size, ratio)
        which, whom = _assign(values[cases], values[controls], scale, limits, ratio)
        case_of[controls[whom]] = cases[which]
        case_of[cases[which]] = cases[which]
    keys = table.iloc[np.unique(case_of[case_of >= 0])].sort_values(list(KEYS)).index
    number = pd.Series(np.arange(1, len(keys) + 1), keys)
    chosen = table.index.to_numpy()[case_of]
    return np.where(case_of >= 0, number.reindex(chosen).fillna(0).to_numpy(), 0).astype(np.int64)


def _check_memory(cases: int, controls: int, ratio: int) -> None:
    from qmri_lake.execution.workers import memory_per_task

    # One array of distances for each control of a case, and two more during their creation. scipy
    # copies a matrix that has more rows than columns.
    arrays = ratio * (2 if cases * ratio > controls else 1) + 2
    needed, available = arrays * cases * controls * 8, memory_per_task(None)
    if needed > available:
        raise RunError(
            f"{format_bytes(needed)} projected for {cases:,} cases and {controls:,} controls",
            expected=f"at most the {format_bytes(available)} available",
            where="match",
            todo="Also match on a string column, such as sex, or use a smaller cohort.",
        )


def _assign(
    cases: NDArray[np.float64],
    controls: NDArray[np.float64],
    scale: NDArray[np.float64],
    limits: NDArray[np.float64],
    ratio: int,
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Assign up to `ratio` controls to each case, so that the sum of distances is minimal.

    Each control is assigned at most once.

    Parameters
    ----------
    cases, controls : array (case, column), (control, column)
        Values in the units of the columns, without NaN.
    scale, limits : array (column,)
        Divisor of the differences, and largest allowed difference, in the units of the columns.
    ratio : int
        Number of controls for each case.

    Returns
    -------
    which, whom : array (pair,)
        Positions of the case and of the control in each pair.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    cost = np.zeros((ratio, len(cases), len(controls)))
    if scale.size:
        cdist(cases / scale, controls / scale, out=cost[0])
    allowed = np.ones(cost.shape[1:], bool)
    for column in np.flatnonzero(np.isfinite(limits)):
        apart = cdist(cases[:, [column]], controls[:, [column]], "cityblock")
        allowed &= apart <= limits[column] + 1e-9  # in floats, 31.1 - 28.8 > 2.3
    # A second control for a case costs more than any other assignment of the first controls. A
    # pair that is not allowed costs more than all allowed pairs together, for every control.
    turn = (cost[0].max(where=allowed, initial=0.0) + 1.0) * len(cases) * ratio
    for k in range(1, ratio):
        np.add(cost[0], k * turn, out=cost[k])
    cost[:, ~allowed] = turn * len(cases) * ratio * ratio
    place, whom = linear_sum_assignment(cost.reshape(-1, len(controls)))
    which = place % len(cases)
    good = allowed[which, whom]
    return which[good], whom[good]
