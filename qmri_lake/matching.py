"""Matched controls: the cases of a cohort, each with the controls most like it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.cohort import AddedColumn
from qmri_lake.errors import InputError, RunError
from qmri_lake.index import KEYS
from qmri_lake.summary import counted

if TYPE_CHECKING:
    from qmri_lake.cohort import Cohort

__all__ = ["match"]


def match(
    cohort: Cohort,
    outcome: str,
    on: Sequence[str],
    *,
    ratio: int,
    seed: int,
    caliper: Mapping[str, float] | None,
    prefer_cases: bool,
    name: str,
) -> Cohort:
    """Keep cases and, for each, the controls that are most like it; everybody else leaves.

    This is `Cohort.match`, which has the defaults.

    Of each patient one exam is drawn at random, without a look at the outcome: it is a case or a
    control as it happens, so no patient is in two sets, or twice in one. Columns of words are
    matched exactly. In those of numbers the distance of a case and a control is Euclidean, each
    column divided by its standard deviation over the exams drawn. Controls are assigned so that as
    many as possible find a case, then so that as few cases as possible have fewer than others, then
    so that the sum of all distances is the least there is
    (`scipy.optimize.linear_sum_assignment`). [assumption]

    Who is a case later may be a control before: to bar such patients looks into the future and
    leaves controls too healthy. In a simulation (ten times 40,000 patients, a log hazard of 0.7 per
    standard deviation, within 24 months, at visits from 0 to 72) the odds ratio is 2.15 at the
    first visit and 2.14 over all exams. With one exam a patient drawn as here it is 2.18, adjusted
    for the timepoint 2.05: who falls ill early has fewer exams to draw from. With cases first and
    their patients barred it is 2.48. A cohort of one visit (``timepoint == 0``) has none of this;
    in any other, cases and controls are of different months unless ``timepoint`` is in `on`.

    Parameters
    ----------
    cohort : Cohort
        Exams (exam,). What an exam must have (`Cohort.require`) belongs before a match: a condition
        after it may take a case from its controls.
    outcome : str
        Column of 1 (case) and 0 (control), as `Cohort.with_outcome` adds it.
    on : sequence of str
        Columns of numbers or words, at the exam's own visit.
    ratio : int
        Controls for a case, at least 1.
    seed : int
        Of the exam drawn of each patient, and of who is taken where several are equally near. The
        order of exams in the cohort or in the lake is no matter.
    caliper : mapping of str to float, optional
        Largest difference of a case and its control, in the unit of a column of numbers of `on`:
        ``{"age": 5, "bmi": 2}`` [years, kg m-2]. 0: equal.
    prefer_cases : bool
        Of the visit drawn take the knee that is a case, where only one of two is: without it half
        of such cases go. The price is a bias, since both knees of a control are controls: in a
        simulation of one visit the log odds ratio per standard deviation was off by 0 to 3 % where
        11 % of knees were cases and by -4 to 4 % where 31 % were, upwards the more alike knees are.
    name : str
        Of the column of sets: another one for a second match of a cohort that has one.

    Returns
    -------
    Cohort
        With the column `name`: whole numbers from 1, one case and 1 to `ratio` controls a set.
        Three rows of the flow: values to match on, one exam a patient with the cases and controls
        not drawn, and the match, with cases that have fewer controls; cases without any leave.

    Raises
    ------
    InputError
        `outcome` is not of 0 and 1, or all drawn of one class; no column to match on; a ratio below
        1; a caliper of another column or below 0; a `name` that is a column already.
    QueryError
        No such column.
    RunError
        Distances that can't fit into memory.

    Examples
    --------
    >>> cases = cohort.with_outcome("incident_oa", rule).match(
    ...     "incident_oa", on=("age", "bmi", "sex"), ratio=2, seed=0
    ... )  # doctest: +SKIP
    """
    names = [on] if isinstance(on, str) else list(dict.fromkeys(on))
    cohort._refuse_name(name, "match")
    table = cohort.table([*dict.fromkeys((*KEYS, outcome, *names))])
    calipers = dict(caliper or {})
    _refuse(table, outcome, names, ratio, calipers)
    case = (table[outcome] == 1).fillna(False).to_numpy(dtype=bool)

    known = table[[outcome, *names]].notna().all(axis=1).to_numpy(dtype=bool)
    condition = f"has {', '.join((outcome, *names))}"
    told = _without(table, case, (outcome, *names))
    complete, left = cohort._keep(known, condition, told), np.flatnonzero(known)

    drawn = _one_a_patient(table.iloc[left], seed)
    if prefer_cases:
        drawn = _with_cases(table.iloc[left], drawn, case)
    cases, controls = int(case[drawn].sum()), int((~case[drawn]).sum())
    if not cases or not controls:
        raise InputError(
            f"{counted(cases, 'case')} of {outcome} and {counted(controls, 'control')}, one exam a "
            "patient with values to match on", expected="at least 1 of each", where="match",
            todo="Choose a wider cohort (its flow() says who was left out) or another seed.",
        )  # fmt: skip
    out = case[np.setdiff1d(left, drawn)]
    first = ", a knee that is a case first" if prefer_cases else ""
    single = complete._keep(
        np.isin(left, drawn), f"one exam a patient, drawn with seed {seed}{first}: "
        f"{counted(cases, 'case')}, {counted(controls, 'control')}",
        _told((int(out.sum()), "case", "not drawn"), (int((~out).sum()), "control", "not drawn")),
    )  # fmt: skip

    number = _sets(table.loc[drawn], case[drawn], names, ratio, calipers)
    sets = pd.Series(number, drawn).sort_index()
    keep = (sets > 0).to_numpy()
    size = np.bincount(sets[keep], minlength=1)[1:] - 1
    exact = "".join(f", {name} within {limit:g}" for name, limit in calipers.items())
    fewer = int((size < ratio).sum())
    out = case[sets.index[~keep]]
    kept = single._keep(
        keep, f"{counted(ratio, 'control')} a case of {outcome}, matched on {', '.join(names)}"
        f"{exact}: {counted(len(size), 'set')}" + (f", {fewer:,} with fewer" if fewer else ""),
        _told((int(out.sum()), "case", "without a control"),
              (int((~out).sum()), "control", "left over")),
    )  # fmt: skip
    description = f"Number of the matched set: a case of {outcome} and up to {ratio} controls"
    described = f"{description}, alike in {', '.join(names)}{exact}; seed {seed}"
    values = sets[keep].to_numpy(np.int64)
    return kept._with(name, AddedColumn(described, values, (1, max(len(size), 1))))


def _refuse(
    table: pd.DataFrame, outcome: str, names: list[str], ratio: int, calipers: Mapping[str, float]
) -> None:
    found = table[outcome].dropna().unique().tolist()
    if others := [value for value in found if value not in (0, 1)]:
        raise InputError(
            f"{outcome!r} with {others[0]!r}", expected="1 for a case and 0 for a control",
            where="match", todo="Add such a column by with_outcome.",
        )  # fmt: skip
    if ratio < 1:
        raise InputError(f"ratio = {ratio}", expected="at least 1 control a case", where="match")
    if not names or outcome in names:
        raise InputError(
            f"on = {tuple(names)!r}", expected="columns to match on, without the outcome",
            where="match", todo='Such as on=("age", "bmi", "sex").',
        )  # fmt: skip
    numbers = [name for name in names if pd.api.types.is_numeric_dtype(table[name].dtype)]
    for name, limit in calipers.items():
        if name not in numbers or not limit >= 0:
            raise InputError(
                f"a caliper {name!r} of {limit!r}",
                expected=f"a difference of at least 0 in {' or '.join(numbers) or 'no column'}",
                where="match", todo="Columns of words are matched exactly.",
            )  # fmt: skip


def _without(table: pd.DataFrame, case: NDArray[np.bool_], names: Sequence[str]) -> str:
    """Count cases and controls without a value, each under the first column that lacks it."""
    counts: list[tuple[int, str, str]] = []
    left = np.ones(len(table), bool)
    for name in names:
        lacks = table[name].isna().to_numpy(dtype=bool) & left
        left &= ~lacks
        who = {"case": case, "control": ~case} if name != names[0] else {"exam": lacks}
        counts += [(int((lacks & of).sum()), noun, f"without {name}") for noun, of in who.items()]
    return _told(*counts)


def _told(*counts: tuple[int, str, str]) -> str:
    return ", ".join(f"{counted(n, noun)} {what}" for n, noun, what in counts if n)


def _one_a_patient(table: pd.DataFrame, seed: int) -> NDArray[np.intp]:
    """Return places in the table, one a patient, in random order: the same whatever its order."""
    ordered = table.sort_values(list(KEYS))
    shuffled = ordered.iloc[np.random.default_rng(seed).permutation(len(ordered))]
    return shuffled.drop_duplicates("patient").index.to_numpy(np.intp)


def _with_cases(
    table: pd.DataFrame, drawn: NDArray[np.intp], case: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """Put the knee that is a case in the place of the other one, where that was drawn."""
    visit = ["patient", "timepoint"]
    places = table[visit].assign(place=table.index)[case[table.index]]
    ill = table.loc[drawn, visit].merge(places.drop_duplicates(visit), on=visit, how="left")
    other = ill["place"].to_numpy()
    return np.where(case[drawn] | np.isnan(other), drawn, other).astype(np.intp)


def _sets(
    table: pd.DataFrame,
    case: NDArray[np.bool_],
    names: Sequence[str],
    ratio: int,
    calipers: Mapping[str, float],
) -> NDArray[np.int64]:
    """Return the number of each exam's set, 0 for none; numbered by the cases' keys."""
    numeric = [name for name in names if pd.api.types.is_numeric_dtype(table[name].dtype)]
    words = [name for name in names if name not in numeric]
    values = table[numeric].to_numpy(np.float64)
    spread = values.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    limits = np.array([calipers.get(name, np.inf) for name in numeric])
    stratum = table.groupby(words).ngroup().to_numpy() if words else np.zeros(len(table), int)

    of = np.full(len(table), -1)  # the place of each exam's case
    for k in range(stratum.max() + 1):
        cases = np.flatnonzero(case & (stratum == k))
        controls = np.flatnonzero(~case & (stratum == k))
        if not cases.size or not controls.size:
            continue
        _refuse_larger(cases.size, controls.size, ratio)
        which, whom = _assign(values[cases], values[controls], scale, limits, ratio)
        of[controls[whom]] = cases[which]
        of[cases[which]] = cases[which]
    keys = table.iloc[np.unique(of[of >= 0])].sort_values(list(KEYS)).index
    number = pd.Series(np.arange(1, len(keys) + 1), keys)
    chosen = table.index.to_numpy()[of]
    return np.where(of >= 0, number.reindex(chosen).fillna(0).to_numpy(), 0).astype(np.int64)


def _refuse_larger(cases: int, controls: int, ratio: int) -> None:
    from qmri_lake.compute import memory_per_task

    # One array a control of a case, two while it is made; scipy copies what has more rows.
    arrays = ratio * (2 if cases * ratio > controls else 1) + 2
    needed, available = arrays * cases * controls * 8, memory_per_task(None)
    if needed > available:
        raise RunError(
            f"{needed / 2**30:.1f} GiB projected for {cases:,} cases and {controls:,} controls",
            expected=f"at most the {available / 2**30:.1f} GiB that are free", where="match",
            todo="Match on a column of words too, such as sex, or choose a smaller cohort.",
        )  # fmt: skip


def _assign(
    cases: NDArray[np.float64],
    controls: NDArray[np.float64],
    scale: NDArray[np.float64],
    limits: NDArray[np.float64],
    ratio: int,
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Assign controls to cases, each control once, up to `ratio` a case, at the least distance.

    Parameters
    ----------
    cases, controls : array (case, column), (control, column)
        In the columns' units; no NaN.
    scale, limits : array (column,)
        What a difference is divided by, and the largest that is allowed.
    ratio : int
        Controls for a case.

    Returns
    -------
    which, whom : array (pair,)
        Places of the case and the control of each pair.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    cost = np.zeros((ratio, len(cases), len(controls)))
    if scale.size:
        cdist(cases / scale, controls / scale, out=cost[0])
    allowed = np.ones(cost.shape[1:], bool)
    for column in np.flatnonzero(np.isfinite(limits)):
        apart = cdist(cases[:, [column]], controls[:, [column]], "cityblock")
        allowed &= apart <= limits[column] + 1e-9  # 31.1 - 28.8 is more than 2.3 in floats
    # A second control for one case costs more than any change of who goes to whom, and a pair that
    # is not allowed more than all of that, the same at every turn: it is no control, whose ever.
    turn = (cost[0].max(where=allowed, initial=0.0) + 1.0) * len(cases) * ratio
    for k in range(1, ratio):
        np.add(cost[0], k * turn, out=cost[k])
    cost[:, ~allowed] = turn * len(cases) * ratio * ratio
    place, whom = linear_sum_assignment(cost.reshape(-1, len(controls)))
    which = place % len(cases)
    good = allowed[which, whom]
    return which[good], whom[good]
