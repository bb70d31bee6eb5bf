"""Matched controls: each once, similar, nearest, reproducible by seed."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

import qmri_lake as ql
from qmri_lake.errors import InputError, QueryError, RunError
from qmri_lake.lake.cohort import AddedColumn, Cohort
from qmri_lake.lake.matching import _assign, _draw_one_per_patient, _prefer_cases
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.statistics import standardised_difference
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.transaction import Transaction, append_exams, declare
from tests.fixtures import add_visits, array_lake
from tests.test_laziness import _watched

KEYS = ["patient", "timepoint", "knee"]


def _people(n=240, seed=0):
    """Exams of n patients: some with two knees, some at two timepoints; cases are older."""
    rng = np.random.default_rng(seed)
    person = pd.DataFrame({"patient": 9000001 + np.arange(n), "sex": rng.integers(1, 3, n)})
    person["ill"] = (rng.random(n) < 0.15).astype(float)
    person["age"] = rng.normal(60, 8, n) + 4 * person["ill"]
    person["bmi"] = np.round(rng.normal(28, 4, n) + 1.5 * person["ill"], 1)
    exams = person.merge(pd.DataFrame({"knee": ["left", "right"]}), how="cross")
    exams = exams.merge(pd.DataFrame({"timepoint": [0, 24]}), how="cross")
    exams["age"] += exams["timepoint"] / 12
    # One knee of a case's patient is a case, the other is not.
    exams["case"] = exams.pop("ill") * (exams["knee"] == "left")
    return exams[rng.random(len(exams)) < 0.7].reset_index(drop=True)


def _lake(path, exams):
    lake = ql.create_lake(str(path))

    def build(session):
        append_exams(session, exams[KEYS])
        declare(open_root(session.store, "r+"), REGISTRY.group("clinical"))
        change = Transaction()
        for name in ("age", "bmi", "sex"):
            values = exams[name].to_numpy()
            change.set_column(f"clinical/{name}", range(len(exams)), values)
        change(session)

    commit(lake.repo, build, "Add exams")
    return lake.refresh()


def _cohort(lake, exams):
    """All exams, with the column ``case``."""
    column = AddedColumn("as said", exams["case"].to_numpy(np.int64), (0, 1))
    return lake.cohort()._with("case", column)


@pytest.fixture(scope="module")
def people():
    return _people()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, people):
    return _cohort(_lake(tmp_path_factory.mktemp("matching") / "small.lake", people), people)


def _table(matched):
    columns = ["exam", *KEYS, "case", "matched_set", "age", "bmi", "sex"]
    return matched.table(columns).astype({"age": float, "bmi": float, "case": int})


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_match__sets_satisfy_all_conditions(cohort, people, ratio, seed):
    matched = cohort.match("case", ratio=ratio, seed=seed)
    table = _table(matched)
    assert table["patient"].is_unique, "one exam a patient, each control once"
    sets = table.groupby("matched_set")
    assert (sets["case"].sum() == 1).all()
    assert (sets["sex"].nunique() == 1).all()
    assert (sets.size() == 1 + ratio).all()
    drawn = matched.flow()["condition"].iloc[-2]
    ill = int(table["case"].sum())
    assert f"drawn with seed {seed}: {ill} cases, " in drawn, "each has its controls"
    cases = table[table["case"] == 1].sort_values(KEYS)
    assert cases["matched_set"].tolist() == list(range(1, ill + 1))
    added = matched.added["matched_set"]
    assert added.valid_range == (1, ill)
    assert added.description == (
        f"Number of the matched set: a case of case and up to {ratio} controls, "
        f"alike in age, bmi, sex; seed {seed}"
    )


def test_match__on_strings_only_depends_on_the_seed(cohort):
    one, other = (_table(cohort.match("case", on="sex", ratio=1, seed=seed)) for seed in (0, 1))
    for table in (one, other):
        assert (table.groupby("matched_set")["sex"].nunique() == 1).all()
    controls = [set(table.loc[table["case"] == 0, "patient"]) for table in (one, other)]
    assert controls[0] != controls[1]


def test_match__balances(cohort):
    names = ["case", "age", "bmi", "sex"]
    before, after = cohort.table(names), cohort.match("case").table(names)
    for name in ("age", "bmi"):
        apart = [abs(standardised_difference(t[name], t["case"])) for t in (before, after)]
        assert apart[0] > 0.2
        assert apart[1] < 0.1
    assert standardised_difference(after["sex"] == "male", after["case"]) == pytest.approx(0)


@pytest.mark.slow
def test_match__the_draw_is_independent_of_the_outcome(cohort, people):
    """The same exam of a patient is drawn, whatever the outcome."""
    taken = set()
    for k in range(30):
        mine = np.random.default_rng(k).random(len(people)) < 0.4
        other = cohort._with("other", AddedColumn("x", mine.astype(np.int64), (0, 1)))
        taken |= set(other.match("other", on="sex", ratio=1, seed=5).exams["exam"])
    drawn = pd.Series(sorted(taken)).str.split("-").str[0]
    assert drawn.is_unique
    assert len(drawn) > 0.95 * people["patient"].nunique(), "else this tests little"


def test_match__a_later_case_may_be_a_control_before(tmp_path):
    """The odds ratio of drawn exams equals that of all exams, without information from the future.

    To bar the patients of cases makes log(2.5) of log(2.14).
    """
    rng = np.random.default_rng(0)
    n, months = 20_000, np.arange(0, 73, 12)
    age = rng.normal(size=n)
    ill = np.ceil(rng.exponential(250 * np.exp(-0.7 * age)) / 12) * 12
    exams = pd.DataFrame({"patient": 9000001 + np.arange(n), "age": age, "ill": ill})
    exams = exams.merge(pd.DataFrame({"timepoint": months}), how="cross")
    exams = exams[exams["ill"] > exams["timepoint"]].reset_index(drop=True)
    exams["case"] = (exams["ill"] <= exams["timepoint"] + 24).astype(float)
    place = _draw_one_per_patient(exams.assign(knee="left"), 0)
    assert _log_odds(exams.loc[place]) == pytest.approx(_log_odds(exams), abs=0.06)
    barred = exams["patient"].isin(exams.loc[exams["case"] == 1, "patient"])
    old = exams[~barred | (exams["case"] == 1)].assign(knee="left")
    assert _log_odds(old.loc[_draw_one_per_patient(old, 0)]) > _log_odds(exams) + 0.1
    few = exams[exams["patient"] < 9000001 + 400].assign(
        knee="left", age=lambda t: t["age"] + 60, bmi=27.0, sex=1
    )
    few = few.reset_index(drop=True)
    table = _table(_cohort(_lake(tmp_path / "l.lake", few), few).match("case", on="sex", ratio=1))
    later = set(few.loc[few["case"] == 1, "patient"])
    assert set(table.loc[table["case"] == 0, "patient"]) & later


def _log_odds(table):
    """The slope of a logistic regression on age."""
    x, y = np.column_stack([np.ones(len(table)), table["age"]]), table["case"].to_numpy()
    b = np.zeros(2)
    for _ in range(20):
        p = 1 / (1 + np.exp(-x @ b))
        b += np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x, x.T @ (y - p))
    return b[1]


def test_match__prefer_cases_selects_the_case_of_two_knees(cohort, people):
    one = cohort.where("timepoint == 0")
    plain, preferred = (
        one.match("case", ratio=1, prefer_cases=prefer, seed=1) for prefer in (False, True)
    )
    ill = set(people.loc[(people["case"] == 1) & (people["timepoint"] == 0), "patient"])
    table = _table(preferred)
    assert set(table.loc[table["case"] == 1, "patient"]) == ill
    assert not set(table.loc[table["case"] == 0, "patient"]) & ill
    assert table["patient"].is_unique
    assert 0 < _table(plain)["case"].sum() < len(ill)
    assert "drawn with seed 1, a knee that is a case first: " in repr(preferred)
    # Of the visit that was drawn only: the other visit of a patient is not looked at.
    kinds = [_drawn(cohort, prefer) for prefer in (False, True)]
    assert kinds[0][["patient", "timepoint"]].equals(kinds[1][["patient", "timepoint"]])
    assert (kinds[1]["case"] >= kinds[0]["case"]).all()
    assert kinds[1]["case"].sum() > kinds[0]["case"].sum()


def _drawn(cohort, prefer):
    table = cohort.table([*KEYS, "case"])
    place = _draw_one_per_patient(table, 0)
    if prefer:
        place = _prefer_cases(table, place, (table["case"] == 1).to_numpy(dtype=bool))
    return table.loc[place].sort_values("patient").reset_index(drop=True)


@pytest.mark.parametrize("seed", range(3))
def test_match__the_flow_counts_all_exams(cohort, people, seed):
    matched = cohort.match("case", ratio=2, seed=seed)
    flow = matched.flow().iloc[1:]
    n = people["patient"].nunique()
    ill = int(_table(matched)["case"].sum())
    assert flow["condition"].tolist() == [
        "has case, age, bmi, sex",
        f"one exam a patient, drawn with seed {seed}: {ill} cases, {n - ill} controls",
        f"2 controls a case of case, matched on age, bmi, sex: {ill} sets",
    ]
    cases = int(people["case"].sum())
    assert flow["why"].iloc[1] == (
        f"{cases - ill} excluded: case, not drawn; "
        f"{len(people) - cases - n + ill} excluded: control, not drawn"
    )
    assert flow["why"].iloc[2] == f"{n - 3 * ill} excluded: control not needed"


def test_match__again_under_another_name(cohort):
    both = cohort.match("case", ratio=2).match("case", ratio=1, name="pairs")
    table = both.table(["case", "matched_set", "pairs"])
    pairs = table.groupby("pairs")["case"]
    assert (pairs.sum() == 1).all()
    assert (pairs.size() == 2).all()
    with pytest.raises(InputError, match="match: column 'age' exists"):
        cohort.match("case", name="age")


def test_match__depends_on_the_seed_and_not_on_the_row_order(cohort, people, tmp_path):
    def chosen(cohort, **options):
        table = _table(cohort.match("case", on=("age", "sex"), **options))
        return dict(zip(table["exam"], table["matched_set"], strict=True))

    once = chosen(cohort, seed=1)
    assert once == chosen(cohort, seed=1)
    assert once != chosen(cohort, seed=2)
    order = np.random.default_rng(5).permutation(len(people))
    shuffled = people.iloc[order].reset_index(drop=True)
    assert once == chosen(_cohort(_lake(tmp_path / "l.lake", shuffled), shuffled), seed=1)
    case = AddedColumn("as said", people["case"].to_numpy(np.int64)[order], (0, 1))
    backwards = Cohort(cohort.lake, cohort.rows[order], cohort.rows_of_flow, {"case": case})
    assert once == chosen(backwards, seed=1)


def test_match__calipers_hold_and_unmatched_cases_are_counted(cohort):
    caliper = {"age": 1.0, "bmi": 1.5}
    matched = cohort.match("case", on=("age", "bmi", "sex"), ratio=3, caliper=caliper)
    table = _table(matched)
    pairs = table[table["case"] == 1].merge(table[table["case"] == 0], on="matched_set")
    assert (abs(pairs["age_x"] - pairs["age_y"]) <= 1.0 + 1e-9).all()
    assert (abs(pairs["bmi_x"] - pairs["bmi_y"]) <= 1.5 + 1e-9).all()
    size = table.groupby("matched_set").size() - 1
    last = matched.flow().iloc[-1]
    assert size.min() >= 1
    assert (size < 3).sum() > 0, "else this tests nothing"
    assert last["condition"].endswith(
        f"age within 1, bmi within 1.5: {len(size)} sets, {(size < 3).sum()} with fewer"
    )
    alone = int(_table(cohort.match("case"))["case"].sum()) - len(size)
    assert alone > 0, "else this tests nothing"
    assert last["why"].startswith(f"{alone} excluded: case without a control; ")
    nobody = cohort.match("case", on=("age",), caliper={"age": 0})
    assert len(nobody) == 0
    assert nobody.table(["matched_set"]).empty


def test_match__excludes_missing_values(tmp_path, people):
    spoiled = people.copy()
    first_case, first_control = (int(np.flatnonzero(people["case"] == k)[0]) for k in (1, 0))
    spoiled.loc[first_case, "bmi"] = np.nan
    spoiled.loc[first_control, ["age", "bmi"]] = np.nan
    spoiled.loc[np.flatnonzero(people["case"] == 1)[-1], "sex"] = 255
    matched = _cohort(_lake(tmp_path / "l.lake", spoiled), spoiled).match("case")
    assert matched.flow()["why"].iloc[1] == (
        "1 excluded: control, age unknown; 1 excluded: case, bmi unknown; "
        "1 excluded: case, sex unknown"
    )
    assert _table(matched).notna().all(axis=None)


def _total(cost, which, whom):
    return cost[which, whom].sum()


def _greedy(cost, ratio):
    """Each case in turn takes the nearest remaining control."""
    left, total = set(range(cost.shape[1])), 0.0
    for case in list(range(cost.shape[0])) * ratio:
        nearest = min(left, key=lambda k: cost[case, k])
        left.remove(nearest)
        total += cost[case, nearest]
    return total


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), ratio=st.integers(1, 3))
def test_assign__no_worse_than_any_other(seed, ratio):
    rng = np.random.default_rng(seed)
    cases, controls = rng.normal(size=(6, 2)), rng.normal(size=(25, 2))
    cost = np.hypot(*(cases[:, None] - controls[None]).transpose(2, 0, 1))
    which, whom = _assign(cases, controls, np.ones(2), np.full(2, np.inf), ratio)
    assert np.unique(whom).size == len(whom) == 6 * ratio
    assert (np.bincount(which) == ratio).all()
    assert _total(cost, which, whom) <= _greedy(cost, ratio) + 1e-9
    few = cost[:2, :5]
    which, whom = _assign(cases[:2], controls[:5], np.ones(2), np.full(2, np.inf), 2)
    least = min(
        few[0, [a, b]].sum() + few[1, [c, d]].sum()
        for a, b, c, d in itertools.permutations(range(5), 4)
    )
    assert _total(few, which, whom) == pytest.approx(least)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), controls=st.integers(1, 7), limit=st.floats(0.1, 3))
def test_assign__maximises_pairs_then_balances_them(seed, controls, limit):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(3, 1)), rng.normal(size=(controls, 1))
    which, whom = _assign(a, b, np.ones(1), np.array([limit]), 2)
    apart = abs(a - b.T)
    assert (apart[which, whom] <= limit).all()
    best = (0, 0, 0.0)
    for choice in itertools.product(range(-1, 3), repeat=controls):
        pairs = [(case, k) for k, case in enumerate(choice) if case >= 0]
        counts = np.bincount([case for case, _ in pairs], minlength=3)
        if counts.max() > 2 or any(apart[pair] > limit for pair in pairs):
            continue
        key = (len(pairs), int((counts > 0).sum()), -sum(apart[pair] for pair in pairs))
        best = max(best, key)
    found = (len(which), np.unique(which).size)
    assert found == best[:2]
    assert -apart[which, whom].sum() == pytest.approx(best[2])


def test_assign__distances_count_in_standard_deviations():
    """A year is a smaller distance than a BMI of 1, relative to their spreads."""
    which, whom = _assign(
        np.array([[60.0, 28.0]]),
        np.array([[61.0, 28.0], [60.0, 28.9]]),
        np.array([9.0, 4.5]),
        np.full(2, np.inf),
        1,
    )
    assert (which.tolist(), whom.tolist()) == ([0], [0])


@pytest.mark.parametrize(("caliper", "pairs"), [(2.3, 1), (2.2, 0), (0, 0)])
def test_assign__a_caliper_includes_its_limit(caliper, pairs):
    which, _ = _assign(np.array([[28.8]]), np.array([[31.1]]), np.ones(1), np.array([caliper]), 1)
    assert len(which) == pairs
    which, _ = _assign(np.array([[28.8]]), np.array([[28.8]]), np.ones(1), np.array([caliper]), 1)
    assert len(which) == 1


def test_match__no_other_choice_is_nearer_in_standard_deviations(cohort):
    """With one exam for each patient, compare with scipy by stratum."""
    one = cohort.where("timepoint == 24 and knee == 'left'")
    everybody = _table(one._with("matched_set", one.added["case"]))
    spread = everybody[["age", "bmi"]].std(ddof=0)
    table = _table(one.match("case", ratio=2))
    pairs = table[table["case"] == 1].merge(table[table["case"] == 0], on="matched_set")
    apart = [(pairs[f"{name}_x"] - pairs[f"{name}_y"]) / spread[name] for name in spread.index]
    least = 0.0
    for _, stratum in everybody.groupby("sex"):
        z = stratum[["age", "bmi"]] / spread
        case = stratum["case"] == 1
        cost = cdist(np.repeat(z[case].to_numpy(), 2, axis=0), z[~case].to_numpy())
        least += cost[linear_sum_assignment(cost)].sum()
    assert np.hypot(*apart).sum() == pytest.approx(least)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"outcome": "cases"}, QueryError, r"no column 'cases'.*Did you mean 'case'\?"),
        (
            {"outcome": "age"},
            InputError,
            "'age' contains .*expected 1 for a case and 0 for",
        ),
        ({"outcome": "sex"}, InputError, r"'sex' contains '.*male' \(expected 1 for a case"),
        ({"on": ("aeg",)}, QueryError, r"no column 'aeg'.*Did you mean 'age'\?"),
        ({"on": ()}, InputError, r"on = \(\) \(expected columns to match on"),
        ({"on": ("case", "age")}, InputError, "other than the outcome"),
        ({"ratio": 0}, InputError, r"ratio = 0 \(expected at least 1"),
        ({"caliper": {"sex": 1}}, InputError, "difference of at least 0 in age or bmi"),
        ({"caliper": {"kl": 1}}, InputError, r"caliper\['kl'\] = 1"),
        ({"caliper": {"age": -1}}, InputError, r"caliper\['age'\] = -1"),
        ({"on": ("age", "kl")}, InputError, "0 cases of case and 0 controls, with one exam"),
    ],
)
def test_match__refuses(cohort, options, error, message):
    with pytest.raises(error, match=message):
        cohort.match(**{"outcome": "case", **options})


def test_match__one_class_or_a_match_already(cohort):
    with pytest.raises(
        InputError, match=r"0 cases .* \d+ controls.*expected at least 1 case and 1 control"
    ):
        cohort.where("case == 0").match("case")
    with pytest.raises(InputError, match="column 'matched_set' exists"):
        cohort.match("case").match("case")


def test_match__rejects_distances_that_do_not_fit_into_memory(cohort, monkeypatch):
    monkeypatch.setattr("qmri_lake.execution.workers.memory_per_task", lambda _client: 1000)
    with pytest.raises(RunError, match=r"\d \w*B projected for \d+ cases .*such as sex"):
        cohort.match("case")


def test_match__reads_no_volume(tmp_path):
    lake = _watched(add_visits(array_lake(tmp_path / "l.lake", 16)))
    cohort = lake.cohort().with_outcome("no_kl", ql.reaches("kl", 2, within=24))
    assert len(cohort) == 0
    case = AddedColumn("every other patient", np.arange(16) // 4 % 2, (0, 1))
    assert len(lake.cohort()._with("case", case).match("case", on=("timepoint", "knee"))) > 0
    assert lake.store.take() == {}
