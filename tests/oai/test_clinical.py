"""OAI's clinical tables as one row for each knee and attended visit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from qmri_lake.errors import Reason
from qmri_lake.oai.clinical import read_tables
from qmri_lake.oai.tables import parse_coded

ENROLLEES = """\
ID|VERSION|P02SEX|P02RACE|V00COHORT|V00SITE
9000001|25|1: Male|1: White or Caucasian|1: Progression|C
9000002|25|2: Female|2: Black or African American|2: Incidence|A
9000003|25|2: Female|.A: Not expected|2: Incidence|E
"""
BASELINE = """\
id|v00AGE|P01BMI|V00VISDYS|V00EVDATE|V00WOMKPR|V00WOMKPL|V00KOOSKPR|V00KOOSKPL|P01KPR12CV|P01KPL12CV|V00KPNR12M|V00KPR30CV|V00KPL30CV|P01KPR30CV
9000001|60|27.5|0|08/24/2004|3|0|83.3|100|1: Yes|0: No|7|0: No| |1: Yes
9000002|55|31.25|0|09/01/2004|.M: Missing|2|.M|94.4|0: No|0: No|.A|1: Yes|0: No|1: Yes
9000003|71|.T: Technical problems|.M|09/02/2004|0|0|100|100|0: No|0: No|.|0: No|0: No|0: No
"""
YEAR_1 = """\
ID|V01VISDYS|V01FVDATE|V01WOMKPR|V01WOMKPL|V01KPNR12|V01KPNL12
9000001|370|08/29/2005|4|1|1: Yes|0: No
9000002|.V: Missing visit|.V|.V|.V|.V|.V
9000003|.M|.M|2|2|0: No|1: Yes
"""
YEAR_2 = """\
ID|V03VISDYS|V03BMI|V03WOMKPR
9000001|735|28.0|5
9000002|730|.M|2
9000003|.V|.V|.V
"""
BASELINE_XRAY = """\
ID|SIDE|readprj|V00XRKL
9000001|1: Right|37|4
9000001|1: Right|15|2: Definite
9000001|2: Left|15|0
9000002|1: Right|42|3
9000002|1: Right|37|1
9000003|2: Left|15|.M
"""
YEAR_2_XRAY = """\
ID|SIDE|READPRJ|V03XRKL
9000001|1: Right|15|3
9000001|2: Left|15|.P: Prosthetic
"""
OUTCOMES = """\
id|V99ERKDATE|V99ELKDATE
9000001|.: Missing Form/Incomplete Workbook|01/15/2006
9000002|03/01/2005|.
"""
TABLES = {
    "Enrollees.txt": ENROLLEES,
    "AllClinical00.txt": BASELINE,
    "AllClinical01.txt": YEAR_1,
    "sub/allclinical03.TXT": YEAR_2,
    "kxr_sq_bu00.txt": BASELINE_XRAY,
    "sub/kxr_sq_bu03.txt": YEAR_2_XRAY,
    "OUTCOMES99.txt": OUTCOMES,
}


@pytest.fixture
def write_tables(tmp_path):
    def write(**changed: str):
        for name, text in TABLES.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            text = changed.get(path.stem, text)
            if text:
                path.write_text(text, encoding="utf-8-sig")
        return tmp_path

    return write


def row(tables, patient, timepoint, knee="right"):
    visits = tables.visits
    chosen = (visits.patient == patient) & (visits.timepoint == timepoint) & (visits.knee == knee)
    (found,) = visits[chosen].to_dict("records")
    return found


def test_read_tables__one_row_for_each_knee_and_attended_visit(write_tables):
    visits = read_tables(write_tables()).visits
    keys = list(zip(visits.patient, visits.timepoint, visits.knee, strict=True))
    attended = [(1, 0), (1, 12), (1, 24), (2, 0), (2, 24), (3, 0), (3, 12)]
    assert keys == [(9000000 + p, t, k) for p, t in attended for k in ("left", "right")]
    assert visits.columns.tolist() == [
        "patient", "timepoint", "knee", "days", "age", "sex", "race", "cohort", "site", "bmi", "kl",
        "womac_pain", "koos_pain", "pain_most_days_12m", "pain_any_12m", "pain_months_12m",
        "pain_frequent_30d", "replaced",
    ]  # fmt: skip
    assert visits.replaced.dtype == bool


def test_read_tables__values_of_one_knee(write_tables):
    tables = read_tables(write_tables())
    right = row(tables, 9000001, 0)
    assert (right["sex"], right["race"], right["cohort"], right["site"]) == (1, 1, 1, "C")
    assert (right["age"], right["bmi"], right["days"], right["kl"]) == (60, 27.5, 0, 2)
    assert (right["womac_pain"], right["koos_pain"]) == (3, 83.3)
    assert right["pain_months_12m"] == 7
    assert np.isnan(right["pain_any_12m"])
    left = row(tables, 9000001, 0, "left")
    assert (left["womac_pain"], left["koos_pain"], left["kl"]) == (0, 100, 0)
    assert row(tables, 9000003, 12, "left")["pain_any_12m"] == 1
    assert row(tables, 9000003, 12)["pain_any_12m"] == 0


def test_read_tables__prefix_of_the_baseline(write_tables):
    tables = read_tables(write_tables())
    assert row(tables, 9000001, 0)["pain_most_days_12m"] == 1  # P01 where there is no V00
    assert row(tables, 9000001, 0)["pain_frequent_30d"] == 0  # V00 before P01


def test_read_tables__missing_is_nan(write_tables):
    tables = read_tables(write_tables())
    assert np.isnan(row(tables, 9000002, 0)["womac_pain"])
    assert np.isnan(row(tables, 9000003, 0)["race"])
    assert np.isnan(row(tables, 9000003, 0)["bmi"])
    assert np.isnan(row(tables, 9000001, 0, "left")["pain_frequent_30d"])


def test_read_tables__age_follows_the_days(write_tables):
    tables = read_tables(write_tables())
    assert row(tables, 9000001, 12)["age"] == pytest.approx(60 + 370 / 365.25)
    assert row(tables, 9000003, 12)["age"] == pytest.approx(72)  # days missing: nominal, counted
    assert np.isnan(row(tables, 9000003, 12)["days"])
    assert tables.counts["age_from_nominal_month"] == 1


def test_read_tables__bmi_is_carried_forward_and_counted(write_tables):
    tables = read_tables(write_tables())
    assert row(tables, 9000001, 12)["bmi"] == 27.5
    assert row(tables, 9000001, 24)["bmi"] == 28.0
    assert row(tables, 9000002, 24)["bmi"] == 31.25
    assert np.isnan(row(tables, 9000003, 12)["bmi"])
    assert tables.counts["bmi_carried_forward"] == 2
    assert tables.counts["missed_visits"] == 2


def test_read_tables__reading_project_15_first(write_tables):
    tables = read_tables(write_tables())
    assert row(tables, 9000001, 0)["kl"] == 2
    assert row(tables, 9000002, 0)["kl"] == 1
    assert tables.counts["other_readings"] == 2


def test_read_tables__prosthesis(write_tables):
    tables = read_tables(write_tables())
    (problem,) = tables.problems
    assert problem.reason is Reason.KL_PROSTHESIS
    assert problem.where == "sub/kxr_sq_bu03.txt row 3 column V03XRKL"
    assert problem.exam == "9000001-024m-left"
    assert np.isnan(row(tables, 9000001, 24, "left")["kl"])


def test_read_tables__replaced_by_date(write_tables):
    tables = read_tables(write_tables())
    replaced = tables.visits[tables.visits.replaced]
    keys = list(zip(replaced.patient, replaced.timepoint, replaced.knee, strict=True))
    assert keys == [(9000001, 24, "left"), (9000002, 24, "right")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ID|V99ERKDAYS\n9000001|371\n", [24]),
        ("ID|V99ERKDAYS\n9000001|370\n", [12, 24]),
        ("ID|V99ERKBLRP\n9000001|1: Yes\n", [0, 12, 24]),
        ("ID|V99ERKBLRP|V99ERKDAYS\n9000001|0: No|.\n", []),
    ],
)
def test_read_tables__replaced_by_days(write_tables, text, expected):
    visits = read_tables(write_tables(OUTCOMES99=text)).visits
    chosen = visits.replaced & (visits.patient == 9000001) & (visits.knee == "right")
    assert visits.timepoint[chosen].tolist() == expected


def test_read_tables__replaced_by_scan_date(write_tables):
    text = "ID|V99ERKDATE\n9000001|2005-01-01\n"
    undated = {
        "AllClinical00": BASELINE.replace("V00EVDATE", "X"),
        "AllClinical01": YEAR_1.replace("V01FVDATE", "X"),
        "OUTCOMES99": text,
    }
    folder = write_tables(**undated)
    tables = read_tables(folder, scan_dates={(9000001, 12): "20050829"})
    chosen = tables.visits.replaced & (tables.visits.knee == "right")
    assert tables.visits.timepoint[chosen].tolist() == [12, 24]
    without = read_tables(folder)
    assert row(without, 9000001, 0)["replaced"]
    assert [p.reason for p in without.problems].count(Reason.UNREADABLE_VALUE) == 1


def test_read_tables__prosthesis_is_replaced_from_then_on(write_tables):
    tables = read_tables(write_tables(OUTCOMES99=""))
    assert not row(tables, 9000001, 12, "left")["replaced"]
    assert row(tables, 9000001, 24, "left")["replaced"]


@pytest.mark.parametrize(
    ("stem", "old", "new"),
    [
        ("AllClinical03", "ID|", "NUMBER|"),
        ("Enrollees", "ID|", "|"),
        ("kxr_sq_bu00", "|SIDE|", "|WHICH|"),
        ("OUTCOMES99", "id|", "key|"),
    ],
)
def test_read_tables__table_without_key(write_tables, stem, old, new):
    text = next(text for name, text in TABLES.items() if stem.lower() in name.lower())
    name = "allclinical03" if stem == "AllClinical03" else stem
    tables = read_tables(write_tables(**{name: text.replace(old, new, 1)}))
    problems = [p for p in tables.problems if p.reason is not Reason.KL_PROSTHESIS]
    assert [problem.reason for problem in problems] == [Reason.TABLE_WITHOUT_KEY]
    assert stem.lower() in problems[0].where.lower()
    assert row(tables, 9000001, 12)["womac_pain"] == 4  # the other tables go on


@pytest.mark.parametrize(
    ("stem", "old", "new", "where"),
    [
        ("AllClinical01", "|4|1|", "|four|1|", "AllClinical01.txt row 2 column V01WOMKPR"),
        ("kxr_sq_bu00", "15|0", "15|7", "kxr_sq_bu00.txt row 4 column V00XRKL"),
        ("Enrollees", "1: Male", "3: Male", "Enrollees.txt row 2 column P02SEX"),
        ("Enrollees", "1: Male", "1.5", "Enrollees.txt row 2 column P02SEX"),
        ("Enrollees", "9000002", "900x", "Enrollees.txt row 3 column ID"),
        ("Enrollees", "9000002", "1e30", "Enrollees.txt row 3 column ID"),
        ("Enrollees", "9000002", "-5", "Enrollees.txt row 3 column ID"),
        ("Enrollees", "\n9000002", "\n\n \n9000002x", "Enrollees.txt row 5 column ID"),
        ("AllClinical00", "27.5", "-5", "AllClinical00.txt row 2 column P01BMI"),
        ("AllClinical01", "|4|1|", "|99|1|", "AllClinical01.txt row 2 column V01WOMKPR"),
        ("AllClinical01", "1: Yes|0: No", "257|0: No", "AllClinical01.txt row 2 column V01KPNR12"),
        ("AllClinical01", "1: Yes|0: No", "0.7|0: No", "AllClinical01.txt row 2 column V01KPNR12"),
        ("kxr_sq_bu00", "15|0", "15|2.5", "kxr_sq_bu00.txt row 4 column V00XRKL"),
        ("OUTCOMES99", "03/01/2005", "soon", "OUTCOMES99.txt row 3 column V99ERKDATE"),
    ],
)
def test_read_tables__unreadable_value(write_tables, stem, old, new, where):
    text = next(text for name, text in TABLES.items() if stem in name)
    assert old in text
    tables = read_tables(write_tables(**{stem: text.replace(old, new, 1)}))
    (problem,) = [p for p in tables.problems if p.reason is Reason.UNREADABLE_VALUE]
    assert problem.where == where


def test_read_tables__no_tables(tmp_path):
    tables = read_tables(tmp_path)
    assert len(tables.visits) == 0
    assert tables.counts["tables"] == 0
    assert tables.problems == ()


def test_parse_coded__all_kinds():
    cells = pd.Series(["1: Male", " 2 ", "", ".P", ".A: Not expected", ".5", "-1.5", "x", "1e400"])
    coded = parse_coded(cells)
    np.testing.assert_equal(coded.value, [1, 2, *[np.nan] * 3, 0.5, -1.5, np.nan, np.nan])
    assert coded.missing.tolist() == ["", "", "", "P", "A", "", "", "", ""]
    assert coded.bad.tolist() == [False] * 7 + [True, True]


@pytest.mark.parametrize("name", list(TABLES))
def test_read_tables__table_without_rows(write_tables, name):
    folder = write_tables()
    text = TABLES[name].splitlines()[0] + "\n"
    (folder / name).write_text(text)
    tables = read_tables(folder)
    # Without the baseline's dates one replacement can't be placed; nothing else is wrong.
    others = {problem.where for problem in tables.problems} - {
        "sub/kxr_sq_bu03.txt row 3 column V03XRKL",
        "OUTCOMES99.txt row 3 column V99ERKDATE",
    }
    assert others == set()
    assert len(tables.visits) > 0
    (folder / name).write_text("")
    assert [p.where for p in read_tables(folder).problems if p.reason is Reason.UNREADABLE_FILE]


def test_read_tables__never_repeats_a_key(write_tables):
    enrollees = ENROLLEES.replace("9000002", "Doe^Jane")
    readings = BASELINE_XRAY.replace("9000001|2: Left", "9000001|Doe^Jane")
    problems = read_tables(write_tables(Enrollees=enrollees, kxr_sq_bu00=readings)).problems
    assert len(problems) == 3
    assert "Doe" not in " ".join(map(str, problems))


def test_read_tables__readings_without_a_side_are_counted(write_tables):
    text = BASELINE_XRAY.replace("1: Right|15|2", ".M|15|2").replace("2: Left", "", 1)
    assert read_tables(write_tables(kxr_sq_bu00=text)).counts["readings_without_side"] == 2


@pytest.mark.parametrize("name", ["id", "ID", "p02sex"])
def test_read_tables__column_more_than_once(write_tables, name):
    head, *rows = ENROLLEES.splitlines()
    text = "\n".join([f"{head}|{name}", *(f"{row}|1" for row in rows)])
    problems = read_tables(write_tables(Enrollees=text)).problems
    assert [p.where for p in problems if p.reason is Reason.UNREADABLE_FILE] == ["Enrollees.txt"]
    assert f"column {name.upper()} more than once" in str(problems[0])
