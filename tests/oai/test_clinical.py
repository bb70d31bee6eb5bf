"""Clinical tables of the OAI as one row for each knee and attended visit."""

from __future__ import annotations

import csv
import datetime
import re
import shutil
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest

from qmri_lake.errors import Reason
from qmri_lake.oai.clinical import read_tables
from tests.oai.sas7bdat import missing, write_sas7bdat

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
        "patient",
        "timepoint",
        "knee",
        "days",
        "age",
        "sex",
        "race",
        "cohort",
        "site",
        "bmi",
        "kl",
        "womac_pain",
        "koos_pain",
        "pain_most_days_12m",
        "pain_any_12m",
        "pain_months_12m",
        "pain_frequent_30d",
        "replaced",
    ]
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("name", list(TABLES))
@pytest.mark.parametrize("rest", ["header", "nothing", "other columns"])
def test_read_tables__table_without_content(write_tables, name, rest):
    folder = write_tables()
    header, *rows = TABLES[name].splitlines()
    renamed = "|".join("X" + c if c[0] in "vVP" else c for c in header.split("|"))
    text = {"header": header + "\n", "nothing": ""}.get(rest, "\n".join([renamed, *rows]) + "\n")
    (folder / name).write_text(text)
    tables = read_tables(folder)
    reason = Reason.UNUSED_TABLE if rest == "other columns" else Reason.EMPTY_TABLE
    assert [p.where for p in tables.problems if p.reason is reason] == [name]
    assert len(tables.visits) > 0
    assert tables.counts["tables"] == len(TABLES) - 1


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
    assert f"repeated column {name.upper()}" in str(problems[0])


def _typed(cell: str) -> object:
    """Return a cell as a spreadsheet or SAS stores it: a number, a date, a code or a text."""
    if match := re.match(r"(\d\d)/(\d\d)/(\d{4})$", cell):
        month, day, year = map(int, match.groups())
        return datetime.date(year, month, day)
    if match := re.match(r"([\d.]*\d)(: .*)?$", cell):
        return float(match[1])
    return cell.strip()


def _write_sas(path: Path, header: list[str], rows: list[list[str]]) -> None:
    columns, formats = {}, {}
    for name, cells in zip(header, zip(*rows, strict=True), strict=True):
        values = [_typed(cell) for cell in cells]
        if any(isinstance(value, datetime.date) for value in values):
            formats[name] = "MMDDYY"
            values = [
                float((v - datetime.date(1960, 1, 1)).days) if isinstance(v, datetime.date) else v
                for v in values
            ]
        if not all(isinstance(v, str) and v[:1].isalpha() for v in values):
            values = [
                missing(v[1:2].strip(":").strip()) if isinstance(v, str) else v for v in values
            ]
        columns[name] = values
    write_sas7bdat(path, columns, formats)


def _write_workbook(path: Path, header: list[str], rows: list[list[str]]) -> None:
    book = openpyxl.Workbook()
    for row in [header, *(list(map(_typed, row)) for row in rows)]:
        book.active.append(row)
    book.save(path)


def _write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", encoding="cp1252", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([header, *rows])


def _write_nda(path: Path, header: list[str], rows: list[list[str]]) -> None:
    header = ["src_subject_id" if name.upper() == "ID" else name for name in header]
    described = [f"The {name.lower()} of the subject" for name in header]
    text = "".join("\t".join(row) + "\r\n" for row in [header, described, *rows])
    path.write_text(text, encoding="utf-16")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("oai_{}_SAS.sas7bdat", _write_sas),
        ("{}.XLSX", _write_workbook),
        ("{} (1).csv", _write_csv),
        ("{}.tsv", _write_nda),
    ],
)
def test_read_tables__same_values_in_any_format(write_tables, tmp_path, name, write):
    expected = read_tables(write_tables())
    copies = tmp_path / "copies"
    copies.mkdir()
    for source, text in TABLES.items():
        header, *rows = [line.split("|") for line in text.splitlines()]
        stem = source.rpartition("/")[2].partition(".")[0]
        write(copies / name.format(stem), header, rows)
    tables = read_tables(copies)
    pd.testing.assert_frame_equal(tables.visits, expected.visits)
    assert tables.counts == expected.counts
    assert [p.reason for p in tables.problems] == [p.reason for p in expected.problems]
    assert tables.unused == {}
    # Two deliveries of the same tables agree, too.
    both = read_tables(tmp_path)
    pd.testing.assert_frame_equal(both.visits, expected.visits)
    assert both.counts["tables"] == 2 * len(TABLES)


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["kxr_sq_bu00", "AllClinical00", "Enrollees"])
@pytest.mark.parametrize("cell", [1, 2])
def test_read_tables__a_lost_cell_shifts_nothing(write_tables, stem, cell):
    text = next(text for name, text in TABLES.items() if stem in name)
    lines = text.splitlines()
    cells = lines[2].split("|")
    lines[2] = "|".join(cells[:cell] + cells[cell + 1 :])
    whole, damaged = (
        read_tables(write_tables()).visits,
        read_tables(write_tables(**{stem: "\n".join(lines) + "\n"})),
    )
    (problem,) = [p for p in damaged.problems if p.reason is Reason.RAGGED_TABLE]
    assert "row 3 has" in problem.found
    # What the lake knows is either as in the whole table, or missing.
    after = damaged.visits.set_index(["patient", "timepoint", "knee"])
    before = whole.set_index(["patient", "timepoint", "knee"]).loc[after.index]
    values = ["kl", "womac_pain", "sex", "cohort"]
    assert ((after[values] == before[values]) | after[values].isna()).all(axis=None)


@pytest.mark.parametrize(
    "number", ["9.00E+06", "9000002.0", "9,000,002", "9000002: x", "9.000.002"]
)
def test_read_tables__patient_numbers_are_not_guessed(write_tables, number):
    tables = read_tables(write_tables(Enrollees=ENROLLEES.replace("9000002", number)))
    (problem,) = [p for p in tables.problems if p.reason is Reason.UNREADABLE_VALUE]
    assert problem.where == "Enrollees.txt row 3 column ID"
    assert np.isnan(row(tables, 9000002, 0)["sex"])
    assert row(tables, 9000003, 0)["sex"] == 2


def test_read_tables__shortened_patient_numbers(write_tables):
    text = re.sub(r"900000\d", "9.00E+06", ENROLLEES)
    tables = read_tables(write_tables(Enrollees=text))
    (problem,) = [p for p in tables.problems if p.where == "Enrollees.txt"]
    assert problem.reason is Reason.UNREADABLE_VALUE
    assert tables.visits.sex.isna().all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stem", "old", "new", "item"),
    [
        ("kxr_sq_bu00", "15|2: Definite", "15|5", "kl"),
        ("kxr_sq_bu00", "15|2: Definite", "15|2,0", "kl"),
        ("AllClinical00", "9000001|60", "9000001|400", "age"),
        ("AllClinical00", "27.5", "0", "bmi"),
        ("AllClinical00", "27.5", "27,5", "bmi"),
        ("AllClinical00", "27.5", "12:30", "bmi"),
        ("AllClinical00", "27.5", "٢٧", "bmi"),
    ],
)
def test_read_tables__impossible_values_are_missing(write_tables, stem, old, new, item):
    text = next(text for name, text in TABLES.items() if stem in name)
    assert old in text
    readings = BASELINE_XRAY.replace("9000001|1: Right|37|4\n", "")
    changed = {"kxr_sq_bu00": readings, stem: (readings if "kxr" in stem else text)}
    tables = read_tables(write_tables(**changed | {stem: changed[stem].replace(old, new, 1)}))
    (problem,) = [p for p in tables.problems if p.reason is Reason.UNREADABLE_VALUE]
    assert problem.where.startswith(f"{stem}.txt row ")
    assert np.isnan(row(tables, 9000001, 0)[item])


def test_read_tables__grade_of_another_project(write_tables):
    """A missing or impossible cell of project 15 does not hide the grade of project 37."""
    text = "ID|SIDE|READPRJ|V00XRKL\n" + "".join(
        f"{line}\n"
        for line in (
            "9000001|1|15|.M",
            "9000001|1|42|1",
            "9000001|1|37|3",
            "9000001|2|37|2",
            "9000002|1|15|0",
            "9000002|1|37|4",
            "9000002|2|15|7",
            "9000002|2|42|4",
            "9000003|1|15|.",
            "9000003|2|12|4",
        )
    )
    tables = read_tables(write_tables(kxr_sq_bu00=text))
    grades = {
        (patient - 9000000, knee): row(tables, patient, 0, knee)["kl"]
        for patient in (9000001, 9000002, 9000003)
        for knee in ("right", "left")
    }
    expected = {(1, "right"): 3, (1, "left"): 2, (2, "right"): 0, (2, "left"): 4}
    np.testing.assert_equal(grades, expected | {(3, "right"): np.nan, (3, "left"): np.nan})
    assert tables.counts["grades_of_other_projects"] == 3
    assert tables.counts["ungraded_readings"] == 2
    assert tables.counts["other_readings"] == 2
    assert tables.counts["readings_of_unknown_projects"] == 1


def test_read_tables__readings_of_unknown_projects(write_tables):
    tables = read_tables(write_tables(kxr_sq_bu00=re.sub(r"\|(15|37|42)\|", "|60|", BASELINE_XRAY)))
    (problem,) = [p for p in tables.problems if p.where == "kxr_sq_bu00.txt"]
    assert (problem.reason, problem.found) == (
        Reason.UNUSED_TABLE,
        "no reading of a known project",
    )
    assert tables.visits[tables.visits.timepoint == 0].kl.isna().all()


def test_read_tables__repeated_rows_are_merged(write_tables):
    enrollees = ENROLLEES + "9000001|26|1|.|1: Progression|.M\n"
    readings = BASELINE_XRAY + "9000001|1|15|2\n"
    tables = read_tables(write_tables(Enrollees=enrollees, kxr_sq_bu00=readings))
    assert [p.reason for p in tables.problems] == [Reason.KL_PROSTHESIS]
    right = row(tables, 9000001, 0)
    assert (right["sex"], right["race"], right["site"], right["kl"]) == (1, 1, "C", 2)
    assert tables.counts["repeated_rows"] == 2


@pytest.mark.parametrize(
    ("stem", "line", "item", "found"),
    [
        ("Enrollees", "9000001|25|2: Female|1|1|C", "sex", "rows 2 and 5 have the same ID and"),
        ("kxr_sq_bu00", "9000001|1|15|3", "kl", "rows 3 and 8 have the same ID, SIDE, READPRJ and"),
        ("kxr_sq_bu00", "9000001|1|15|.P", "kl", "rows 3 and 8 have the same ID, SIDE, READPRJ"),
    ],
)
def test_read_tables__rows_that_contradict_each_other(write_tables, stem, line, item, found):
    text = next(text for name, text in TABLES.items() if stem in name)
    text = text.replace("9000001|1: Right|37|4", "9000001|1: Right|37|.M")
    tables = read_tables(write_tables(**{stem: f"{text}{line}\n"}))
    (problem,) = [p for p in tables.problems if p.reason is Reason.CONFLICTING_ROWS]
    assert problem.found.startswith(found)
    assert "9000001" not in str(problem)
    assert np.isnan(row(tables, 9000001, 0)[item])
    other = row(tables, 9000002, 0)
    assert (other["sex"], other["kl"]) == (2, 1)


def test_read_tables__tables_that_contradict_each_other(write_tables):
    folder = write_tables()
    (folder / "sub" / "kxr_sq_bu00_v2.csv").write_text("ID,SIDE,READPRJ,V00XRKL\n9000001,2,15,1\n")
    (folder / "sub" / "Enrollees.csv").write_text("ID,P02SEX\n9000001,2\n9000002,2\n")
    shutil.copy(folder / "sub" / "Enrollees.csv", folder / "sub" / "Enrollees_copy.csv")
    tables = read_tables(folder)
    problems = [p for p in tables.problems if p.reason is Reason.CONFLICTING_ROWS]
    assert [p.where for p in problems] == [
        "sub/Enrollees.csv column P02SEX",
        "sub/kxr_sq_bu00_v2.csv column V00XRKL",
    ]
    assert np.isnan(row(tables, 9000001, 0, "left")["kl"])
    assert np.isnan(row(tables, 9000001, 0)["sex"])
    assert row(tables, 9000001, 0)["kl"] == 2
    assert row(tables, 9000002, 0)["sex"] == 2


def test_read_tables__names_tables_that_are_not_used(write_tables):
    folder = write_tables()
    (folder / "kxr_sq_rel_bu00.txt").write_text(BASELINE_XRAY)
    (folder / "mine.csv").write_text("ID,X\n9000001,2\n")
    assert read_tables(folder).unused == {
        "kxr_sq_rel_bu00.txt": "readings of another project",
        "mine.csv": "unknown name",
    }
