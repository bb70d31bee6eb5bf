"""Cohorts: conditions, exclusions and the flow."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import qmri_lake as ql
from qmri_lake.errors import InputError, NotFoundError, QueryError, RunError
from qmri_lake.store.repository import commit
from qmri_lake.store.transaction import Transaction, append_exams
from tests.fixtures import add_clinical, add_dess, add_visits, array_lake, keys

KL = [0, 1, 2, 3, 4, np.nan, 2, 0]
SEX = [1, 1, 1, 1, 2, 2, 255, 2]


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """Eight exams of two patients; the last has no DESS."""
    lake = array_lake(tmp_path_factory.mktemp("cohort") / "small.lake", 8)
    return add_visits(add_dess(add_clinical(lake, kl=KL, sex=SEX, bmi=np.arange(20.0, 28.0))))


def _flow(cohort):
    return cohort.flow().to_dict("records")


def test_where__keeps_what_is_true(lake):
    cohort = lake.cohort("knee == 'right' and kl >= 2")
    assert cohort.rows.tolist() == [2, 4, 6]
    assert len(cohort) == 3
    assert cohort.patients == 2
    assert cohort.exams["exam"].tolist() == [
        "9000001-024m-right",
        "9000002-000m-right",
        "9000002-024m-right",
    ]
    assert cohort.exams.index.tolist() == [0, 1, 2]


def test_where__numbers_are_what_was_written(lake, tmp_path):
    """Stored as float32, 27.4 differs from the 27.4 of a query and must be decoded."""
    small = add_clinical(array_lake(tmp_path / "l.lake", 4), bmi=[25.1, 27.4, 27.5, np.nan])
    assert small.cohort("bmi == 27.4").rows.tolist() == [1]
    assert small.cohort("bmi <= 25.1").rows.tolist() == [0]
    assert small.cohort("bmi > 25.1").rows.tolist() == [1, 2]
    assert small.cohort("bmi in (25.1, 27.5)").rows.tolist() == [0, 2]


@pytest.mark.parametrize(
    "query", ["sex == 'Female'", "knee == 'Right'", "sex in ('female', 'F')", "'L' != knee"]
)
def test_where__rejects_a_string_that_is_no_value_of_the_column(lake, query):
    with pytest.raises(QueryError, match=r"expected one of '(female|left)', '(male|right)'"):
        lake.cohort(query)


def test_flow__one_row_for_each_condition_with_reasons(lake):
    cohort = lake.cohort("sex == 'female' and kl < 4").where("bmi > 26")
    assert _flow(cohort) == [
        {"condition": "all exams", "exams": 8, "patients": 2, "dropped": 0, "why": ""},
        {
            "condition": "sex == 'female'",
            "exams": 3,
            "patients": 1,
            "dropped": 5,
            "why": "4 excluded: sex == 'female' is false; 1 excluded: sex unknown",
        },
        {
            "condition": "kl < 4",
            "exams": 1,
            "patients": 1,
            "dropped": 2,
            "why": "1 excluded: kl < 4 is false; 1 excluded: kl unknown",
        },
        {"condition": "bmi > 26", "exams": 1, "patients": 1, "dropped": 0, "why": ""},
    ]


def test_where__chained_equals_one_query_with_and(lake):
    parts = lake.cohort("knee == 'right'").where("kl >= 2").where("bmi < 26")
    once = lake.cohort("knee == 'right' and kl >= 2 and bmi < 26")
    assert parts.rows.tolist() == once.rows.tolist()
    pd.testing.assert_frame_equal(parts.flow(), once.flow())


def test_exclude__keeps_unknown_values(lake):
    cohort = lake.cohort().exclude("kl >= 3", reason="late osteoarthritis")
    assert cohort.rows.tolist() == [0, 1, 2, 5, 6, 7]
    assert _flow(cohort)[-1] == {
        "condition": "exclude kl >= 3",
        "exams": 6,
        "patients": 2,
        "dropped": 2,
        "why": "2 excluded: late osteoarthritis",
    }
    kept = lake.cohort().where("kl >= 3").rows.tolist()
    assert sorted(cohort.rows.tolist() + kept) == list(range(8))
    with pytest.raises(QueryError, match="no column 'prosthesis'"):
        cohort.exclude("prosthesis == 1", reason="replaced")


@pytest.mark.slow
@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    conditions=st.lists(
        st.tuples(
            st.booleans(),
            st.sampled_from(
                [
                    "kl >= 2",
                    "not kl >= 2",
                    "sex == 'male'",
                    "bmi < 24",
                    "missing(kl)",
                    "knee == 'left' or kl < 3",
                    "timepoint == 24",
                    "patient == 9000002",
                ]
            ),
        ),
        max_size=5,
    )
)
def test_flow__adds_up(lake, conditions):
    cohort = lake.cohort()
    for exclude, query in conditions:
        cohort = cohort.exclude(query, reason="so") if exclude else cohort.where(query)
    flow = cohort.flow()
    before = flow["exams"].shift(1)[1:]
    assert (before == flow["exams"][1:] + flow["dropped"][1:]).all()
    assert flow["exams"].iloc[-1] == len(cohort) == len(cohort.exams)
    assert flow["patients"].iloc[-1] == cohort.patients
    assert ((flow["why"] == "") == (flow["dropped"] == 0)).all()
    counted = flow["why"].str.findall(r"(\d+) excluded").map(lambda n: sum(map(int, n)))
    assert (counted == flow["dropped"]).all()
    assert (np.diff(cohort.rows) > 0).all()


def test_require__reads_the_status(lake):
    cohort = lake.cohort("patient == 9000002").require("dess/image", "msme/image")
    assert cohort.rows.tolist() == [4, 5, 6]
    assert _flow(cohort)[-2:] == [
        {
            "condition": "has dess/image",
            "exams": 3,
            "patients": 1,
            "dropped": 1,
            "why": "1 excluded: dess/image pending",
        },
        {"condition": "has msme/image", "exams": 3, "patients": 1, "dropped": 0, "why": ""},
    ]
    assert len(lake.cohort().require("msme/t2")) == 0, "declared, but never computed"


def test_require__counts_failures_and_keeps_flagged(tmp_path):
    lake = array_lake(tmp_path / "small.lake", 4)
    change = Transaction()
    for row, state in enumerate(("failed", "flagged", "skipped")):
        change.set_state("register", row, state, 1, "why")
    commit(lake.repo, change, "Mark")
    cohort = lake.refresh().cohort().require("msme/cartilage")
    assert cohort.rows.tolist() == [1, 3]
    assert (
        _flow(cohort)[-1]["why"]
        == "1 excluded: msme/cartilage failed; 1 excluded: msme/cartilage skipped"
    )


def test_require__a_variant_is_not_the_product(tmp_path):
    lake = array_lake(tmp_path / "small.lake", 4)
    lake.run("t2", "knee == 'right'", variant="loose", bounds=(0, 500))
    assert lake.cohort().require("msme/t2__loose").rows.tolist() == [0, 2]
    assert len(lake.cohort().require("msme/t2")) == 0
    assert len(lake.cohort().require("msme/t2__epg")) == 0, "a variant that nobody has run yet"


def test_require__an_unknown_variable_lists_similar_names(lake):
    with pytest.raises(
        NotFoundError, match=r"no variable 'msme/t3' \(expected one of .*clinical/age, clinical/bmi"
    ):
        lake.cohort().require("msme/t3")
    with pytest.raises(NotFoundError, match="no variable 'image'"):
        lake.cohort().require("image")
    with pytest.raises(
        NotFoundError, match=r"no variable 'mesm/image__a'.*Did you mean 'msme/image'"
    ):
        lake.cohort().require("mesm/image__a")


def test_cohort__is_immutable(lake):
    cohort = lake.cohort()
    rows, flow = cohort.rows.copy(), cohort.flow()
    cohort.where("kl >= 2").exclude("kl == 4", reason="late").require("dess/image")
    np.testing.assert_array_equal(cohort.rows, rows)
    pd.testing.assert_frame_equal(cohort.flow(), flow)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cohort.rows = rows[:1]
    with pytest.raises(ValueError, match="read-only"):
        cohort.rows[0] = 7
    with pytest.raises(ValueError, match="read-only"):
        lake.cohort("kl >= 2").rows[0] = 7
    exams = cohort.exams
    exams.loc[0, "knee"] = "left"
    assert cohort.exams["knee"][0] == lake.exams["knee"][0] == "right"


def test_table__has_strings_and_missing_values(lake):
    table = lake.cohort("timepoint == 24").table(["exam", "sex", "kl"])
    assert table.columns.tolist() == ["exam", "sex", "kl"]
    assert table["sex"].tolist() == ["male", "male", pd.NA, "female"]
    assert table["kl"].tolist() == [2, 3, 2, 0]
    assert table.index.tolist() == [0, 1, 2, 3]
    assert lake.cohort().table("kl").columns.tolist() == ["kl"]
    everything = lake.cohort("timepoint == 24").table()
    assert everything.columns.tolist() == lake.column_names()
    assert everything["age"].isna().all()
    with pytest.raises(QueryError, match=r"no column 'kle'.*Did you mean 'kl'"):
        lake.cohort().table(["kle"])


def test_repr__is_the_flow(lake):
    assert repr(lake.cohort("kl >= 3").exclude("kl == 4", reason="late")).splitlines() == [
        "<Cohort: 1 exam of 1 patient>",
        "         8  all exams",
        "         2  kl >= 3  (5 excluded: kl >= 3 is false; 1 excluded: kl unknown)",
        "         1  exclude kl == 4  (1 excluded: late)",
    ]


def test_cohort__an_empty_cohort_can_be_used(lake):
    empty = lake.cohort("patient == 1")
    assert len(empty) == empty.patients == 0
    assert empty.where("kl > 1").exclude("kl == 2", reason="x").require("msme/image").rows.size == 0
    assert empty.table(["kl"]).empty
    assert empty.exams.empty
    assert "0 exams of 0 patients" in repr(empty)
    for group in ("msme", "dess", "clinical"):
        ds = lake.load(group, empty)
        assert ds.sizes["exam"] == 0
        assert ds.compute().sizes["exam"] == 0
    assert lake.load("visit", empty).sizes["visit"] == 0
    assert lake.load(["msme", "clinical"], empty).sizes["exam"] == 0
    assert lake.tree(empty).sizes["exam"] == 0
    ds = lake.load("msme", empty)
    assert ql.fit_t2(ds).compute().t2.sizes == {"exam": 0, "slice": 5, "row": 12, "column": 10}
    assert ql.inside(ds).compute().shape == (0, 5, 12, 10)
    assert ql.tissue(ds.cartilage, "femoral").compute().shape == (0, 5, 12, 10)
    assert len(lake.plan("t2", empty).rows) == 0


def test_cohort__of_another_lake_is_refused(lake, tmp_path):
    other = array_lake(tmp_path / "other.lake", 2)
    with pytest.raises(RunError, match=r"small\.lake \(expected a cohort of this lake"):
        other.load("msme", lake.cohort())
    with pytest.raises(InputError, match=r"the cohort is of type int \(expected lake\.cohort"):
        lake.load("msme", 5)
    with pytest.raises(RunError, match="both a cohort and a key"):
        lake.load("msme", lake.cohort(), patient=9000001)


def test_cohort__keeps_its_exams_when_the_lake_changes(tmp_path):
    """Rows are positions that never change, so an older cohort is valid in a newer lake."""
    lake = array_lake(tmp_path / "small.lake", 4)
    cohort = lake.cohort("knee == 'right'")
    other = ql.open_lake(lake.url)
    add_clinical(other, kl=[1, 2, 3, 4])
    lake.run("t2", cohort)
    assert cohort.rows.tolist() == [0, 2]
    assert lake.load("msme", cohort).exam.values.tolist() == cohort.exams["exam"].tolist()
    assert cohort.where("kl >= 2").rows.tolist() == [2], "columns that came later can be asked for"
    assert cohort.require("msme/t2").rows.tolist() == [0, 2]


def test_cohort__of_a_newer_lake_on_an_older_one(tmp_path):
    """Exams that were added after the tag raise a RunError, not an IndexError."""
    lake = array_lake(tmp_path / "small.lake", 2)
    lake.tag("v1")
    commit(lake.repo, lambda session: append_exams(session, keys(4)), "Add two exams")
    newer, older = lake.refresh(), ql.open_lake(lake.url, ref="v1")
    assert (
        older.load("msme", newer.cohort("patient == 9000001 and timepoint == 0")).sizes["exam"] == 2
    )
    with pytest.raises(RunError, match=r"at v1: the cohort has 2 exams that .*Select the cohort"):
        older.load("msme", newer.cohort())


def test_cohort__survives_copying_and_pickling(lake):
    cohort = lake.cohort("kl >= 2")
    assert copy.copy(cohort).rows.tolist() == cohort.rows.tolist()
    again = pickle.loads(pickle.dumps(cohort))
    assert again.rows.tolist() == cohort.rows.tolist()
    pd.testing.assert_frame_equal(
        again.where("knee == 'left'").flow(), cohort.where("knee == 'left'").flow()
    )
    assert again.lake.snapshot == lake.snapshot


def test_select__by_keys(lake):
    assert lake.select(patient=9000002, knee="left").rows.tolist() == [5, 7]
    assert lake.select(exam="9000001-024m-left").rows.tolist() == [3]
    assert lake.select().rows.tolist() == list(range(8))
    with pytest.raises(
        NotFoundError, match=r"no exam with patient=9000002, timepoint=12 \(expected"
    ):
        lake.select(patient=9000002, timepoint=12)
