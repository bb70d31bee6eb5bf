"""Lists of exams: keys, patients, tables, files; and several values of a key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.errors import InputError, NotFoundError, QueryError
from tests.fixtures import add_clinical, array_lake

MANY = range(9000001, 9003001)


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """Eight exams of two patients: right and left at 0 and 24 months."""
    path = tmp_path_factory.mktemp("lists") / "small.lake"
    return add_clinical(array_lake(path, 8, (2, 4, 3)), kl=np.arange(8) % 4)


@pytest.fixture
def keys(lake):
    return lake.exams["exam"].tolist()


def rows(cohort) -> list[int]:
    return cohort.rows.tolist()


# -- several values of a key -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [list, tuple, set, np.array, pd.Series, pd.Index, iter, dict.fromkeys]
)
def test_select__several_values_are_membership_in_any_order(lake, keys, kind):
    assert rows(lake.select(exam=kind([keys[6], keys[1], keys[6]]))) == [1, 6]
    assert rows(lake.select(patient=kind([9000002, 9000001]), knee="left")) == [1, 3, 5, 7]
    assert rows(lake.select(timepoint=kind([24, 0]), knee=kind(["left"]))) == [1, 3, 5, 7]


def test_load_run_and_status__take_lists(lake, keys, tmp_path):
    assert lake.load("msme", exam=keys[::-1]).exam.values.tolist() == keys
    assert lake.load("msme", patient=[9000002]).sizes["exam"] == 4
    assert lake.load("msme", [keys[5], keys[2]]).exam.values.tolist() == [keys[2], keys[5]]
    assert lake.load("msme", [9000002]).sizes["exam"] == 4
    assert lake.tree([keys[3]]).sizes["exam"] == 1
    assert lake.status(keys[:3]).sum().sum() == 3 * len(lake.status())
    other = array_lake(tmp_path / "run.lake", 4, (2, 4, 3))
    assert other.run("t2", [keys[3], keys[0]], within="all").counts["done"] == 2
    assert rows(other.cohort().require("msme/t2")) == [0, 3]


def test_select__names_unknown_values(lake, keys):
    with pytest.raises(
        NotFoundError, match=r"no exam with exam 'a', 'b', 'c', \.\.\. \(4 in all\)"
    ):
        lake.select(exam=["d", keys[0], "c", "b", "a"])
    with pytest.raises(NotFoundError, match=r"no exam with patient 9000003 \(expected"):
        lake.load("msme", patient=[9000001, 9000003])
    with pytest.raises(NotFoundError, match=r"no exam with timepoint 12 \(expected"):
        lake.select(timepoint=[0, 12, 0])
    with pytest.raises(
        NotFoundError, match=r"1 of 2 listed are not in the lake: 9999999-000m-left"
    ):
        lake.run("t2", [keys[0], "9999999-000m-left"])
    with pytest.raises(NotFoundError, match=r"no exam with exam=\[\]"):
        lake.select(exam=[])
    with pytest.raises(InputError, match=r"no row in a list"):
        lake.run("t2", [])


# -- lists -----------------------------------------------------------------------------------------


def test_cohort__of_thousands_of_patients_names_those_without_an_exam(lake):
    cohort = lake.cohort("kl >= 2", ids=MANY)
    assert rows(cohort) == [2, 3, 6, 7]
    listed = cohort.flow().iloc[1]
    assert listed["condition"].startswith("in a list (3,000 patients, ")
    assert "2,998 listed but not in the cohort: 9000003, 9000004, 9000005, ..." in listed["why"]
    same, other = lake.cohort(ids=[*MANY][::-1]), lake.cohort(ids=MANY[:-1])
    assert same.flow().iloc[1]["condition"] == listed["condition"], "a digest, whatever the order"
    assert other.flow().iloc[1]["condition"] != listed["condition"]


def test_cohort__of_a_table(lake):
    table = pd.DataFrame(
        {"Patient": [9000002, 9000001.0], "KNEE": ["Left", "right"], "age": [1, 2]}
    )
    assert rows(lake.cohort(ids=table)) == [0, 2, 5, 7]
    assert rows(lake.cohort(ids=table.assign(timepoint=[0, 24]))) == [2, 5]
    assert rows(lake.cohort(ids=lake.exams.iloc[[6, 2]])) == [2, 6]
    visits = lake.cohort(ids=lake.exams[["patient", "timepoint"]].iloc[:2])
    assert rows(visits) == [0, 1]
    why = lake.cohort(ids=table.assign(timepoint=[0, 36])).flow().iloc[1]["why"]
    assert why == "7 excluded: not listed; 1 listed but not in the cohort: 9000001-036m-right"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["9000001-48-left"], r"exam '9000001-48-left', first in row 1 \(expected keys such as"),
        ([9000001, "9000001-000m-left"], "exam keys and patient numbers, such as"),
        (["9.00E+06"], "exam '9.00E\\+06', first"),
        ([9000001, np.nan], r"patient \(missing\), first in row 2 \(expected whole numbers\)"),
        ([9000001.5], "patient '9000001.5'"),
        ([True], "patient 'True'"),
        ([], "no row in a list"),
        (9000001, "the cohort is of type int"),
        (pd.DataFrame({"ID": [9000001]}), r"the columns ID \(expected exam, or patient.*Rename"),
        (pd.DataFrame({"patient": [9000001], "knee": [1]}), r"knee '1'.*expected left or right"),
        (pd.DataFrame({"patient": [9000001], "timepoint": ["V00"]}), "timepoint 'V00'"),
    ],
)
def test_cohort__refuses_what_is_not_a_list_of_exams(lake, ids, message):
    with pytest.raises(InputError, match=message):
        lake.cohort(ids=ids)


def test_cohort__refuses_a_table_that_contradicts_itself(lake):
    with pytest.raises(InputError, match=r"contradicts patient, timepoint and knee in its row"):
        lake.cohort(ids=lake.exams.assign(knee="left"))


def test_cohort__of_no_exam_of_the_lake_is_refused(lake):
    with pytest.raises(
        NotFoundError, match=r"2 of 2 listed are not in the lake: 1, 2 .*lake\.exams"
    ):
        lake.cohort(ids=[1, 2])


def test_cohort__says_what_to_use_for_a_list(lake):
    listed = ", ".join(map(str, MANY))
    with pytest.raises(
        QueryError, match=r"expected at most 2,000\)\. .*lake\.cohort\(ids=.*@ids\.csv"
    ):
        lake.cohort(f"patient in ({listed})")
    with pytest.raises(QueryError, match=r"a query of type DataFrame .*lake\.cohort\(ids="):
        lake.cohort(pd.DataFrame({"patient": [9000001]}))


def test_of_exams__names_keys_that_it_does_not_have(lake, keys):
    flow = lake.cohort().of_exams([*keys[:2], "9999999-000m-left"], "mine").flow()
    assert flow.iloc[1]["why"] == "6 excluded: not listed; 1 not in the cohort: 9999999-000m-left"


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9000002\n\n9000777\n", [4, 5, 6, 7]),
        ("\ufeff9000001-000m-left\r\n9000002-024m-right\r\n", [1, 6]),
        ('patient,knee,name\n9000001,left,"a, b"\n', [1, 3]),
        ("patient;timepoint\n9000001;24\n", [2, 3]),
        ("age\tpatient\ttimepoint\tknee\n50\t9000002\t0\tright\n", [4]),
    ],
)
def test_cohort__of_a_file(lake, tmp_path, text, expected):
    path = tmp_path / "ids.csv"
    path.write_text(text, encoding="utf-8")
    assert rows(lake.cohort(ids=path)) == rows(lake.cohort(ids=str(path))) == expected
    assert lake.cohort(ids=path).flow().iloc[1]["condition"].startswith("in ids.csv (")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"patient,knee\n9000001\n",
            r"1 cell in row 2 of ids\.csv \(expected 2, as in the first row",
        ),
        (b"patient\n9.00E+06\n", r"patient '9\.00E\+06', first in row 1"),
        (b"PK\x03\x04\xff\xfe", r"'ids\.csv' is not text"),
        (b"", r"the columns \(none\)"),
        (b"patient\n", r"no row in ids\.csv"),
    ],
)
def test_cohort__refuses_a_damaged_file(lake, tmp_path, data, message):
    (tmp_path / "ids.csv").write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        lake.cohort(ids=tmp_path / "ids.csv")
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(InputError, match=r"'absent\.csv' cannot be read"):
        lake.cohort(ids=tmp_path / "absent.csv")


def test_command_line__takes_a_file_of_ids(lake, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    path = tmp_path / "ids.csv"
    path.write_text("patient,knee\n9000001,left\n9000777,left\n")
    assert main(["cohort", f"@{path}", "--lake", lake.url]) == 0
    printed = capsys.readouterr().out
    assert "1 listed but not in the cohort: 9000777-left" in printed
    assert "9000001-024m-left" in printed
    assert main(["cohort", f"@{path} and kl >= 2", "--lake", lake.url]) == 0
    assert "1 exam of 1 patient" in capsys.readouterr().out
    made = str(tmp_path / "made.lake")
    array_lake(Path(made), 4, (2, 4, 3))
    words = ["run", "t2", "--lake", made, "--cohort", f"@{path}", "--set", "within=all"]
    assert main(words) == 0
    assert "t2: 2 done" in capsys.readouterr().out
    assert ql.open_lake(made).cohort().require("msme/t2").rows.tolist() == [1, 3]
    assert main(["run", "t2", "--lake", made, "--cohort", f"@{tmp_path / 'no.csv'}"]) == 2
    assert "'no.csv' cannot be read" in capsys.readouterr().err
