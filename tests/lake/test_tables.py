"""A user's own table in a lake: the join, replacement, lineage, and what stays as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import qmri_lake as ql
from qmri_lake.errors import InputError, LakeLockedError, Reason
from qmri_lake.lake.lake import create_lake
from qmri_lake.lake.table_content import TableOptions, read_content
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.transaction import append_exams
from tests.fixtures import add_clinical, add_visits, keys

KEYED = {"patient": "id", "timepoint": "visit", "knee": "side"}


def bare_lake(path: Path, count: int = 6) -> ql.Lake:
    """A lake of exams of two patients, without any product."""
    lake = create_lake(str(path))
    commit(lake.repo, lambda session: append_exams(session, keys(count)), "Add exams")
    return lake.refresh()


@pytest.fixture
def lake(tmp_path: Path) -> ql.Lake:
    return bare_lake(tmp_path / "own.lake")


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> ql.Lake:
    """A lake that no test changes."""
    return bare_lake(tmp_path_factory.mktemp("own") / "own.lake")


def table_of(lake: ql.Lake, **columns: object) -> pd.DataFrame:
    names = {"patient": "id", "timepoint": "visit", "knee": "side"}
    return lake.exams[list(names)].rename(columns=names).assign(**columns)


def test_add_table__columns_are_queried_loaded_and_declared(lake):
    table = table_of(
        lake,
        womac2=[1, 2, 3, 4, 5, None],
        smoker=[True, False, None, True, True, False],
        reader=list("ABABAB"),
        note=["a b", None, "c d", "e", "f", "g"],
    )
    result = lake.add_table(table, **KEYED, units={"womac2": "mm"}, name="scores.csv")
    assert (result.matched, result.visits, result.problems) == (6, 6, ())
    fresh = ql.open_lake(lake.url, mode="r")
    assert len(fresh.cohort("womac2 > 3")) == 2
    assert len(fresh.cohort("smoker == 'yes' and reader == 'B'")) == 1
    assert len(fresh.cohort("note == 'a b'")) == 1
    ds = fresh.load("clinical").load()
    np.testing.assert_array_equal(ds.womac2, [1, 2, 3, 4, 5, np.nan])
    assert ds.smoker.values.tolist() == [1, 0, 255, 1, 1, 0]
    assert ds.womac2.attrs["units"] == "mm"
    assert ds.womac2.attrs["long_name"] == "Column 'womac2' of scores.csv"
    assert ds.reader.attrs["flag_meanings"] == "A B"
    assert fresh.load("visit").womac2.values.tolist()[:4] == [2, 1, 4, 3]  # sorted, left first
    assert fresh.validate() == []
    assert len(fresh.cohort().require("clinical/womac2")) == 6


def test_add_table__join_is_counted_on_both_sides(lake):
    add_visits(lake)  # and of another patient, without an exam
    table = table_of(lake, score=range(6)).iloc[:4]
    other = pd.DataFrame(
        {"id": [9999999, 9000001, 1234567], "visit": [0, 36, 0], "side": "right", "score": 9}
    )
    result = lake.add_table(pd.concat([table, table.iloc[:2], other]), **KEYED)
    assert (result.rows, result.matched, result.visits, result.duplicates) == (9, 4, 5, 2)
    assert result.unmatched.to_dict("records") == [
        {"patient": 9000001, "timepoint": 36, "knee": "right"},
        {"patient": 1234567, "timepoint": 0, "knee": "right"},
    ]
    assert result.without_row == ("9000002-000m-right", "9000002-000m-left")
    assert "unmatched: 2 rows, 1 of other patients: 9000001 at 36 months, right" in str(
        result.notes
    )
    np.testing.assert_array_equal(lake.load("clinical").score, [0, 1, 2, 3, np.nan, np.nan])
    assert lake.status().loc["ingest_table_table", ["done", "pending"]].tolist() == [4, 2]


def test_add_table__rows_that_differ_are_listed_by_key_and_not_stored(lake):
    table = pd.concat([table_of(lake, score=range(6)), table_of(lake, score=7.0).iloc[:1]])
    result = lake.add_table(table, **KEYED)
    (problem,) = result.problems
    assert problem.reason is Reason.CONFLICTING_ROWS
    assert problem.where == "table 9000001 at 0 months, right"
    assert problem.found == "2 rows with different values"
    np.testing.assert_array_equal(lake.load("clinical").score, [np.nan, 1, 2, 3, 4, 5])
    assert lake.failures()["exam"].tolist() == ["9000001-000m-right"]
    assert result.without_row == ()


def test_add_table__a_missing_cell_is_a_different_value(lake):
    table = pd.concat([table_of(lake, a=1.0, b=None), table_of(lake, a=None, b=1.0)])
    table = pd.concat([table, pd.DataFrame({"id": [5]})])  # whose other keys are missing
    result = lake.add_table(table, **KEYED)
    assert (result.changed, result.columns, result.matched) == (False, (), 0)
    assert len(result.problems) == 7
    assert "clinical" not in lake.groups()


def test_add_table__patient_alone_is_spread_over_visits_and_knees(lake):
    table = pd.DataFrame({"id": [9000001, 9000002], "site": ["A", "B"]})
    result = lake.add_table(table, patient="id")
    assert lake.cohort().table(["site"])["site"].tolist() == list("AAAABB")
    assert "no knee column: each row holds for both knees" in result.notes
    assert "no timepoint column: each row holds for every visit of its patient" in result.notes


def test_add_table__a_visit_is_spread_over_knees_only(lake):
    table = pd.DataFrame({"id": [9000001, 9000001], "visit": ["V00", "V03"], "bmi2": [27, 28]})
    lake.add_table(table, patient="id", timepoint="visit")
    np.testing.assert_array_equal(lake.load("clinical").bmi2, [27, 27, 28, 28, np.nan, np.nan])


def test_add_table__without_a_match_nothing_is_stored(lake):
    before = lake.snapshot
    numbers_of_visits = table_of(lake, score=1.0, visit=[1, 1, 3, 3, 1, 1])
    with pytest.raises(InputError, match=r"no row matches .* write V01, V03") as error:
        lake.add_table(numbers_of_visits, **KEYED)
    assert error.value.reason is Reason.ABSENT_EXAM
    assert lake.refresh().snapshot == before


def test_add_table__unusable_columns_are_listed_and_the_others_stored(lake):
    table = table_of(lake, score=range(6), when="2004-01-31", mixed=["1", "x", *"2345"], empty="")
    result = lake.add_table(table, **KEYED)
    assert result.columns == ("score",)
    assert [problem.where for problem in result.problems] == [
        "table column when",
        "table column mixed",
    ]
    assert "empty: left out, because no cell has a value" in result.notes


@pytest.mark.parametrize(
    ("columns", "stored"),
    [
        (["a"], {"a"}),
        (["a,b c"], {"a", "b_c"}),
        (["new=b c"], {"new"}),
        (["new=b c,a"], {"new", "a"}),
        (["d,e"], {"d_e"}),
        ({"new": "b c"}, {"new"}),
        (None, {"a", "b_c", "d_e"}),
    ],
)
def test_add_table__selects_and_renames_columns(unchanged, columns, stored):
    table = table_of(unchanged, **{"a": 1.0, "b c": 2.0, "d,e": 3.0})
    content = read_content(table, TableOptions(**KEYED, columns=columns), "t.csv")
    assert {column.name for column in content.columns} == stored


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"columns": ["scoer"]}, "no column 'scoer' .* Did you mean 'score'"),
        ({"patient": "ID"}, "no column 'ID' .* Did you mean 'id'"),
        ({"units": {"kll": "mm"}}, "no column 'kll'"),
        ({"knee": "visit"}, "one column for several of patient, timepoint, knee"),
        ({"columns": ["x=score", "x=other"]}, "for the name 'x'"),
        ({"columns": []}, "no column except the keys"),
        ({"prefix": "a b"}, "the name 'a bscore'"),
    ],
)
def test_add_table__options_that_do_not_fit_are_refused(unchanged, options, found):
    lake = unchanged
    table = table_of(lake, score=1.0, other=2.0)
    with pytest.raises(InputError, match=found):
        lake.add_table(table, **{**KEYED, **options})


def test_add_table__takes_frames_with_numbers_as_names_and_no_files(unchanged):
    content = read_content(pd.DataFrame({0: [9000001], 1: [3]}), TableOptions("0", prefix="c"), "t")
    assert [column.name for column in content.columns] == ["c1"]
    with pytest.raises(InputError, match=r"of type str .* ql.ingest_table"):
        unchanged.add_table("scores.csv", patient="id")


# -- replacement -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_add_table__replaces_an_earlier_table_on_request_only(lake):
    lake.add_table(table_of(lake, score=1.0, kept=1.0), **KEYED, name="a.csv")
    before = lake.snapshot
    words = table_of(lake, score=list("xyxyxy")).iloc[:3]
    with pytest.raises(InputError, match=r"has score, from an earlier table .* --replace.* --pref"):
        lake.add_table(words, **KEYED, name="b.csv")
    assert lake.refresh().snapshot == before
    lake.add_table(words, **KEYED, name="b.csv", replace=True)
    assert len(lake.cohort("score == 'x'")) == 2
    assert len(lake.cohort("kept == 1")) == 6
    assert len(ql.open_lake(lake.url, ref=before).cohort("score == 1")) == 6
    assert lake.validate() == []
    lake.add_table(words, **KEYED, prefix="b_")
    assert len(lake.cohort("b_score == 'y' and score == 'y'")) == 1


def test_add_table__a_table_that_is_replaced_whole_leaves_no_status(lake):
    lake.add_table(table_of(lake, score=1.0), **KEYED, name="a.csv")
    lake.add_table(table_of(lake, score=2.0).iloc[:2], **KEYED, name="b.csv", replace=True)
    assert lake.status().index.tolist() == ["ingest_table_b"]
    lake.add_table(table_of(lake, score=3.0).iloc[2:3], **KEYED, name="b.csv", replace=True)
    assert lake.status().loc["ingest_table_b", ["done", "pending"]].tolist() == [1, 5]


def test_add_table__columns_of_the_lake_are_never_replaced(lake):
    for replace in (False, True):
        with pytest.raises(InputError, match=r"has kl, from another source .* --prefix"):
            lake.add_table(table_of(lake, kl=1.0), **KEYED, replace=replace)
    add_clinical(lake, kl=range(6))
    lake.add_table(table_of(lake, kl=1.0), **KEYED, prefix="my_")
    assert len(lake.cohort("kl == 5 and my_kl == 1")) == 1


def test_add_table__again_changes_nothing_but_adds_new_exams(lake):
    table = pd.concat([table_of(lake, score=1.0), pd.DataFrame({"id": [9000002], "score": 2.0})])
    table = table.fillna({"visit": 24, "side": "right"})
    lake.add_table(table, **KEYED)
    before = lake.snapshot
    again = lake.add_table(table, **KEYED)
    assert not again.changed
    assert str(again).startswith("nothing changed: the lake has 1 column of table")
    assert lake.refresh().snapshot == before
    commit(lake.repo, lambda session: append_exams(session, keys(8)), "Add exams")
    assert lake.add_table(table, **KEYED).changed
    assert len(lake.cohort("score == 2")) == 1


# -- lineage and other parts of the lake -----------------------------------------------------------


def test_add_table__lineage_is_a_run_and_a_derived_lake_has_it(lake, tmp_path):
    lake.add_table(table_of(lake, **{"The score": 1.0}), **KEYED, missing=["-9"], name="s.csv")
    study = lake.derive(str(tmp_path / "study.lake"), "knee == 'left'", ["clinical", "visit"])
    for where in (lake, study):
        record = where.runs().set_index("step").loc["ingest_table_s"]
        assert record.parameters["source"] == "s.csv"
        assert len(record.parameters["sha256"]) == 64
        assert record.parameters["columns"] == {"The_score": "The score"}
        assert record.parameters["timepoint"] == "visit"
        assert record.parameters["missing"] == ["-9"]
        assert record.counts["done"] == 6
    assert len(study.cohort("The_score == 1").require("clinical/The_score")) == 3
    assert study.load("visit").sizes["visit"] == 6
    assert study.validate() == []


def test_add_table__outcomes_use_a_column_of_visits(lake):
    add_visits(lake)
    lake.add_table(table_of(lake, score=[1, 1, 3, 1, 1, 1]), **KEYED)
    cohort = lake.cohort("timepoint == 0").with_outcome("worse", ql.reaches("score", 3, within=24))
    assert cohort.table(["exam", "worse"]).to_numpy().tolist() == [
        ["9000001-000m-right", 1],
        ["9000001-000m-left", 0],
    ]


def test_add_table__validation_finds_a_value_outside_the_table(lake):
    lake.add_table(table_of(lake, score=range(6)), **KEYED)

    def damage(session):
        open_root(session.store, "r+")["clinical/score"][0] = 96.0

    commit(lake.repo, damage, "Damage")
    (fault,) = lake.refresh().validate()
    assert "clinical/score: 1 value outside the range" in fault


def test_add_table__needs_a_lake_that_can_be_written(lake):
    with pytest.raises(LakeLockedError):
        ql.open_lake(lake.url, mode="r").add_table(table_of(lake, score=1.0), **KEYED)
