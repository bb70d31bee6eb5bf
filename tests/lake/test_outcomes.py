"""Outcomes over time: cases, controls and unknown outcomes."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest

import qmri_lake as ql
from qmri_lake.errors import InputError, QueryError
from qmri_lake.lake.outcomes import OutcomeRule
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.transaction import append_exams, declare, write_table
from tests.fixtures import add_clinical, array_lake

MONTHS = (0, 12, 24, 36, 48, 72, 96)
_ = np.nan
KNEES = {
    # kl at MONTHS, month from which it is replaced; the answer of reaches("kl", 2, within=48)
    "reaches it": ([0, 1, 2, 2, 2, 2, 2], None, 1),
    "at the last visit that counts": ([1, 1, 1, 1, 2, 2, 2], None, 1),
    "and is back below": ([1, 3, 1, 1, 1, 1, 1], None, 1),
    "seen after gaps": ([1, _, _, _, 3, _, _], None, 1),
    "then lost": ([1, 2, _, _, _, _, _], None, 1),
    "then replaced": ([1, 2, _, _, _, _, _], 24, 1),
    "never": ([0, 0, 0, 1, 1, 1, 1], None, 0),
    "known at the end alone": ([1, _, _, _, 1, _, _], None, 0),
    "later, not by then": ([1, 1, 1, 1, 1, 2, 3], None, 0),
    "unseen then, below next": ([1, 1, 1, 1, _, 1, 4], None, 0),
    "replaced after": ([1, 1, 1, 1, 1, _, _], 72, 0),
    "there already": ([2, 2, 3, 3, 4, 4, 4], None, "kl >= 2 already at the exam"),
    "there, falls back": ([2, 1, 1, 1, 1, 1, 1], None, "kl >= 2 already at the exam"),
    "lost early": ([1, 1, 1, _, _, _, _], None, "not followed for 48 months"),
    "lost a visit before the end": ([1, 1, 1, 1, _, _, _], None, "not followed for 48 months"),
    "nothing after": ([1, _, _, _, _, _, _], None, "not followed for 48 months"),
    "lost, replaced after": ([1, 1, 1, 1, _, _, _], 72, "not followed for 48 months"),
    "unseen then, there next": (
        [1, 1, 1, 1, _, 2, 2],
        None,
        "not assessed at 48 months, kl >= 2 observed later",
    ),
    "replaced between": (
        [1, 1, _, _, _, _, _],
        36,
        "replaced within 48 months, kl >= 2 not observed",
    ),
    "replaced, read all the same": (
        [1, 1, 1, 3, 3, 3, 3],
        24,
        "replaced within 48 months, kl >= 2 not observed",
    ),
    "replaced at the end": (
        [1, 1, 1, 1, 1, _, _],
        48,
        "replaced within 48 months, kl >= 2 not observed",
    ),
    "no first value": ([_, 1, 2, 2, 2, 2, 2], None, "kl unknown at the exam"),
    "replaced before": ([1, 1, 1, 1, 1, 1, 1], 0, "replaced at the exam"),
}


def _lake(path, visits, exams):
    """A lake of these exams, with these rows of visits: keys, kl, replaced ..."""
    lake = ql.create_lake(str(path))

    def build(session):
        append_exams(session, exams[["patient", "timepoint", "knee"]])
        root = open_root(session.store, "r+")
        declare(root, REGISTRY.group("visit"))
        missing = {v.name: np.nan for v in REGISTRY.group("visit") if v.name not in visits}
        write_table(root, "visit", visits.assign(**missing))

    commit(lake.repo, build, "Add exams and visits")
    return lake.refresh()


def _visits():
    rows = [
        (9000001 + k, month, "left", kl, float(gone is not None and month >= gone))
        for k, (grades, gone, _) in enumerate(KNEES.values())
        for month, kl in zip(MONTHS, grades, strict=True)
    ]
    # The other knee, and the same side of somebody else, are worn out at every visit.
    rows += [(9000001 + k, m, "right", 4.0, 0.0) for k in range(len(KNEES)) for m in MONTHS]
    rows += [(9999999, m, "left", 4.0, 0.0) for m in MONTHS]
    return pd.DataFrame(rows, columns=["patient", "timepoint", "knee", "kl", "replaced"])


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """One left knee for each entry of KNEES, with one exam at 0 months; no right knees."""
    exams = pd.DataFrame(
        {"patient": 9000001 + np.arange(len(KNEES)), "timepoint": 0, "knee": "left"}
    )
    return _lake(tmp_path_factory.mktemp("outcomes") / "small.lake", _visits(), exams)


def _expected(lake, answers):
    rows = [row for row, answer in enumerate(answers) if answer in (0, 1)]
    return dict(zip(lake.exams["exam"].iloc[rows], (answers[row] for row in rows), strict=True))


def _found(cohort, name="incident_oa"):
    return dict(zip(cohort.exams["exam"], cohort.table([name])[name].tolist(), strict=True))


def test_with_outcome__every_kind_of_knee(lake):
    cohort = lake.cohort().with_outcome("incident_oa", ql.reaches("kl", 2, within=48))
    answers = [answer for _, _, answer in KNEES.values()]
    assert _found(cohort) == _expected(lake, answers)
    reasons = pd.Series([answer for answer in answers if isinstance(answer, str)]).value_counts()
    last = cohort.flow().iloc[-1]
    assert last["condition"] == (
        "incident_oa: kl >= 2 within 48 months: 6 cases of 6 patients, 5 controls of 5 patients"
    )
    assert last["why"] == "; ".join(
        f"{n} excluded: {why}" for why, n in reasons.sort_index().items()
    )
    assert last["dropped"] == reasons.sum()


def test_with_outcome__a_replacement_is_a_case_on_request(lake):
    rule = ql.reaches("kl", 2, within=48, replaced="case")
    cohort = lake.cohort().with_outcome("incident_oa", rule)
    answers = [1 if str(a).startswith("replaced within") else a for _, _, a in KNEES.values()]
    assert _found(cohort) == _expected(lake, answers)
    assert cohort.flow()["condition"].iloc[-1] == (
        "incident_oa: kl >= 2 or replaced within 48 months: "
        "9 cases of 9 patients (3 by replacement), 5 controls of 5 patients"
    )


def test_with_outcome__tolerance_accepts_an_earlier_last_value(lake):
    rule = ql.reaches("kl", 2, within=48, tolerance=12)
    found = _found(lake.cohort().with_outcome("incident_oa", rule))
    known = {
        "lost a visit before the end": 0,
        "lost, replaced after": 0,
        "unseen then, there next": 0,
    }
    answers = [known.get(name, answer) for name, (_, _, answer) in KNEES.items()]
    assert found == _expected(lake, answers)


def _slowly(visits, exam, rule):
    """Evaluate the rule with a loop over the visits of the knee."""
    mine = visits[(visits["patient"] == exam.patient) & (visits["knee"] == exam.knee)]
    gone, at, last, verdict = False, None, None, None
    for visit in mine.sort_values("timepoint").itertuples():
        months = visit.timepoint - exam.timepoint
        gone = gone or visit.replaced == 1
        if months < 0:
            continue
        if gone:
            if months == 0 or at is None:
                return None
            if months <= rule.within and verdict is None:
                return 1.0 if rule.replaced == "case" else None
            break
        value = getattr(visit, rule.column)
        if months == 0:
            at = value
            if np.isnan(value) or _so(value, rule):
                return None
        elif not np.isnan(value):
            if at is None:
                return None
            if months <= rule.within and _so(value, rule):
                return 1.0
            if months > rule.within and (rule.column == "koos_pain" or _so(value, rule)):
                break
            last = months
            if months > rule.within:
                break
    if at is None or last is None or last < rule.within - rule.tolerance:
        return None
    return 0.0


def _so(value, rule):
    return value <= rule.value if rule.falls else value >= rule.value


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule",
    [
        ql.reaches("kl", 2, within=48),
        ql.reaches("kl", 2, within=48, tolerance=12),
        ql.reaches("kl", 3, within=30, replaced="case"),
        ql.falls_to("koos_pain", 60, within=24),
        ql.falls_to("koos_pain", 75.5, within=60, tolerance=30, replaced="case"),
    ],
    ids=repr,
)
def test_with_outcome__equals_a_loop_over_the_visits(tmp_path, rule):
    rng = np.random.default_rng(0)
    knees = pd.DataFrame(
        [(9000001 + p, knee, m) for p in range(90) for knee in ("left", "right") for m in MONTHS],
        columns=["patient", "knee", "timepoint"],
    )
    kl = np.minimum(rng.poisson(0.25, (180, 7)).cumsum(axis=1) + rng.integers(0, 2, (180, 1)), 4)
    kl = np.where(rng.random(kl.shape) < 0.35, np.nan, kl)
    koos = np.round(np.clip(rng.normal(80, 18, (180, 7)), 0, 100), 1)
    koos = np.where(rng.random(kl.shape) < 0.3, np.nan, koos)
    gone = np.array(MONTHS)[None] >= rng.choice(
        [12, 24, 48, 72, 999], (180, 1), p=[*[0.1] * 4, 0.6]
    )
    knees = knees.assign(kl=kl.ravel(), koos_pain=koos.ravel(), replaced=gone.ravel().astype(float))
    visits = knees[rng.random(len(knees)) > 0.15].sample(frac=1, random_state=0)
    exams = knees[knees["timepoint"] <= 36].sample(300, random_state=1)
    lake = _lake(tmp_path / "l.lake", visits, exams)
    cohort = lake.cohort().with_outcome("bad", rule)
    expected = {
        key: value
        for key, exam in zip(lake.exams["exam"], lake.exams.itertuples(), strict=True)
        if (value := _slowly(visits, exam, rule)) is not None
    }
    assert _found(cohort, "bad") == expected
    assert {0, 1} == set(expected.values())


def test_with_outcome__counts_months_from_the_visit_of_the_exam(tmp_path):
    visits = pd.DataFrame(
        {
            "patient": 9000001,
            "timepoint": [0, 12, 24, 48],
            "knee": "left",
            "kl": [1, 1, 2, 2.0],
            "replaced": 0.0,
        }
    )
    lake = _lake(tmp_path / "l.lake", visits, visits)
    found = _found(lake.cohort().with_outcome("x", ql.reaches("kl", 2, within=12)), "x")
    assert found == {"9000001-000m-left": 0, "9000001-012m-left": 1}


def _two_knees(path, **columns):
    """One patient, both knees at 0, 24 and 48 months; columns of the six rows, left knee first."""
    visits = pd.DataFrame(
        {
            "patient": 9000001,
            "timepoint": [0, 24, 48] * 2,
            "knee": np.repeat(["left", "right"], 3),
            **columns,
        }
    )
    return _lake(path, visits, visits[visits["timepoint"] == 0])


def test_with_outcome__accepts_a_later_value_only_for_persistent_outcomes(tmp_path):
    lake = _two_knees(
        tmp_path / "l.lake",
        kl=[1, _, 1, 1, 1, 1],
        koos_pain=[90, _, 90, 90, 90, 90],
        womac_pain=[1, _, 1, 1, 1, 1],
        replaced=0.0,
    )
    for rule, controls in [
        (ql.reaches("kl", 2, within=24), 2),
        (ql.falls_to("kl", 0, within=24), 1),
        (ql.falls_to("koos_pain", 60, within=24), 1),
        (ql.reaches("womac_pain", 5, within=24), 1),
    ]:
        last = lake.cohort().with_outcome("bad", rule).flow().iloc[-1]
        assert (last["exams"], last["dropped"]) == (controls, 2 - controls), rule
        if controls == 1:
            assert last["why"] == "1 excluded: not assessed at 24 months (transient outcome)"


def test_with_outcome__counts_patients_too(tmp_path):
    kl = [1, 2, 2, 1, 2, 2]
    lake = _two_knees(tmp_path / "l.lake", kl=kl, replaced=0.0)
    cohort = lake.cohort().with_outcome("bad", ql.reaches("kl", 2, within=24))
    assert repr(cohort).endswith(": 2 cases of 1 patient, 0 controls of 0 patients")


def test_with_outcome__unknown_replacements_give_no_outcome(tmp_path):
    """Without OUTCOMES99, replacements are unknown, and no knee is excluded as replaced."""
    lake = _two_knees(tmp_path / "l.lake", kl=[1, 1, 1, 1, 2, 2], replaced=_)
    last = lake.cohort().with_outcome("new_knee", ql.reaches("replaced", "yes", within=24)).flow()
    assert last["why"].iloc[-1] == "2 excluded: replaced unknown at the exam"
    graded = lake.cohort().with_outcome("bad", ql.reaches("kl", 2, within=24))
    assert graded.table(["bad"])["bad"].tolist() == [0, 1]


def test_with_outcome__strings_and_float32_values(tmp_path):
    visits = pd.DataFrame(
        {
            "patient": np.repeat([9000001, 9000002], 2),
            "timepoint": [0, 24] * 2,
            "knee": "left",
            "koos_pain": [90, 60.4, 90, 60.5],
            "replaced": [0, 1, 0, 0.0],
        }
    )
    lake = _lake(tmp_path / "l.lake", visits, visits[visits["timepoint"] == 0])
    cohort = lake.cohort().with_outcome("new_knee", ql.reaches("replaced", "yes", within=24))
    assert cohort.table(["new_knee"])["new_knee"].tolist() == [1, 0]
    assert "within 24 months: 1 case of 1 patient, 1 control of 1 patient" in repr(cohort)
    both = lake.cohort("patient == 9000002").with_outcome(
        "pain", ql.falls_to("koos_pain", 60.5, within=24)
    )
    assert both.table(["pain"])["pain"].tolist() == [1], "stored as float32, 60.5 is 60.5"
    visits = visits.assign(replaced=0.0)
    lake = _lake(tmp_path / "m.lake", visits, visits[visits["timepoint"] == 0])
    both = lake.cohort().with_outcome("pain", ql.falls_to("koos_pain", 60.4, within=24))
    assert both.table(["pain"])["pain"].tolist() == [1, 0], "and so is 60.4"


def test_added__columns_follow_their_exams(lake):
    whole = lake.cohort().with_outcome("incident_oa", ql.reaches("kl", 2, within=48))
    before = _found(whole)
    cases = whole.where("incident_oa == 1 and timepoint == 0")
    assert set(_found(cases).values()) == {1}
    assert len(cases) == 6
    assert set(_found(whole.exclude("incident_oa == 1", reason="a case")).values()) == {0}
    some = whole.of_exams(list(before)[3:7], "some")
    assert _found(some) == {key: before[key] for key in list(before)[3:7]}
    again = pickle.loads(pickle.dumps(some))
    assert _found(again.where("incident_oa >= 0")) == _found(some)
    sets = ql.split(whole, (0.4, 0.3, 0.3), balance=("incident_oa",))
    assert {k: v for part in sets for k, v in _found(part).items()} == before
    two = some.with_outcome("late_oa", ql.reaches("kl", 3, within=48))
    assert two.table().columns.tolist() == [*lake.column_names(), "incident_oa", "late_oa"]
    assert list(some.added) == ["incident_oa"], "a cohort is immutable"
    column = two.added["incident_oa"]
    assert (column.description, column.valid_range) == ("kl >= 2 within 48 months", (0, 1))
    assert column.values.dtype == np.int64
    assert dict(zip(two.exams["exam"], column.values.tolist(), strict=True)) == _found(two)
    with pytest.raises(ValueError, match="read-only"):
        column.values[0] = 7
    with pytest.raises(QueryError, match=r"'incident_ao'.*Did you mean 'incident_oa'"):
        two.where("incident_ao == 1")
    empty = whole.where("patient == 1")
    assert len(empty.with_outcome("late_oa", ql.reaches("kl", 3, within=48))) == 0
    assert lake.load("visit", some).sizes["visit"] == 4 * 2 * len(MONTHS)


@pytest.mark.parametrize(
    ("name", "rule", "error", "message"),
    [
        ("exam", ql.reaches("kl", 2, within=48), InputError, "column 'exam' exists"),
        ("x y", ql.reaches("kl", 2, within=48), InputError, "column name 'x y'"),
        ("not", ql.reaches("kl", 2, within=48), InputError, "not a word of the query language"),
        ("missing", ql.reaches("kl", 2, within=48), InputError, "column name 'missing'"),
        ("x__y", ql.reaches("kl", 2, within=48), InputError, "single underscores"),
        ("x", "kl >= 2", InputError, r"the rule is a str \(expected a rule such as ql\.reaches"),
        ("x", ql.reaches("kll", 2, within=48), QueryError, r"no column 'kll' .*Did you mean 'kl'"),
        ("x", ql.reaches("patient", 2, within=48), QueryError, "no column 'patient' of visits"),
        ("x", ql.reaches("kl", "two", within=48), InputError, "expected a number"),
        ("x", ql.reaches("kl", np.nan, within=48), InputError, "expected a number"),
        ("x", ql.reaches("replaced", 1, within=48), InputError, "with one of 'no', 'yes'"),
        ("x", ql.reaches("replaced", "maybe", within=48), InputError, "with one of 'no', 'yes'"),
        ("x", ql.falls_to("replaced", "no", within=48), InputError, r"expected reaches\('replaced"),
    ],
)
def test_with_outcome__refuses(lake, name, rule, error, message):
    with pytest.raises(error, match=message):
        lake.cohort().with_outcome(name, rule)


def test_with_outcome__a_lake_without_visits(tmp_path):
    lake = add_clinical(array_lake(tmp_path / "l.lake", 4), kl=[1, 1, 1, 1])
    with pytest.raises(InputError, match=r"has no visits \(.*\)\. Ingest the clinical tables"):
        lake.cohort().with_outcome("x", ql.reaches("kl", 2, within=48))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"within": 0}, r"within = 0 \(expected at least 1 month"),
        ({"within": 47.5}, r"within = 47.5 \(expected a whole number of months"),
        ({"within": "48"}, r"within = '48' \(expected a whole number of months"),
        ({"within": True}, r"within = True \(expected a whole number of months"),
        ({"within": 24, "tolerance": 0.5}, r"tolerance = 0.5 \(expected a whole number of months"),
        ({"within": 24, "tolerance": 24}, r"tolerance = 24 \(expected months from 0 to 23"),
        ({"within": 24, "tolerance": -1}, "tolerance = -1"),
        ({"within": 24, "replaced": "control"}, "expected one of 'missing', 'case'"),
    ],
)
def test_reaches__refuses(options, message):
    with pytest.raises(InputError, match=f"reaches: .*{message}"):
        ql.reaches("kl", 2, **options)


@pytest.mark.parametrize(
    "rule",
    [
        ql.reaches("kl", 2, within=48),
        ql.reaches("replaced", "yes", within=96, tolerance=24),
        ql.falls_to("koos_pain", 60.5, within=24, replaced="case"),
    ],
)
def test_rule__repr_can_be_evaluated(rule):
    assert eval(repr(rule), {"reaches": ql.reaches, "falls_to": ql.falls_to}) == rule
    assert repr(ql.reaches("kl", 2, within=np.int64(48))) == "reaches('kl', 2, within=48)"
    assert isinstance(rule, OutcomeRule)
    with pytest.raises(AttributeError):
        rule.within = 12
