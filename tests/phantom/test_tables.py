from __future__ import annotations

import csv
import re
from pathlib import Path

from qmri_lake.phantom.population import KL_MONTHS, VISITS, draw_patient
from qmri_lake.phantom.tables import write_tables


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="|"))
    assert all(len(r) == len(rows[0]) for r in rows)
    return [dict(zip(rows[0], r, strict=True)) for r in rows[1:]]


def test_write_tables__are_like_the_real_ones(tmp_path: Path) -> None:
    patients = [draw_patient(i) for i in range(120)]
    write_tables(tmp_path, patients, 0)
    for path in tmp_path.iterdir():
        rows = [{name.upper(): cell for name, cell in row.items()} for row in read(path)]
        assert {row["SYNTHETIC"] for row in rows} == {"1: Yes"}
    people = read(tmp_path / "Enrollees.txt")
    assert {p["P02SEX"] for p in people} == {"1: Male", "2: Female"}
    clinical = {n: read(tmp_path / f"AllClinical{n}.txt") for n in VISITS.values()}
    assert "P01KPR12CV" in clinical["00"][0]
    assert "V01KPR12CV" in clinical["01"][0]
    assert "v03kpr12cv" in clinical["03"][0]  # columns change case
    assert any(c.startswith(".M") for row in clinical["01"] for c in row.values())
    assert any(c == "" for row in clinical["00"] for c in row.values())
    grades = []
    for month in KL_MONTHS:
        rows = read(tmp_path / f"kxr_sq_bu{VISITS[month]}.txt")
        upper = [{k.upper(): v for k, v in r.items()} for r in rows]
        grades += [r[f"V{VISITS[month]}XRKL"] for r in upper]
        assert len({r["READPRJ"] for r in upper}) == 3
        own = [(r["ID"], r["SIDE"]) for r in upper if r["READPRJ"] == "15"]
        assert len(own) == len(set(own))  # project 15 reads each knee once
    assert set(grades) == {"0", "1", "2", "3", "4", ".A"}
    outcomes = read(tmp_path / "OUTCOMES99.txt")
    dates = [r["V99ERKDATE"] for r in outcomes] + [r["V99ELKDATE"] for r in outcomes]
    assert any(re.fullmatch(r"\d\d/\d\d/\d{4}", d) for d in dates)


def test_write_tables__a_replaced_knee_is_dated_and_has_no_grade(tmp_path: Path) -> None:
    patients = [draw_patient(i) for i in range(200)]
    write_tables(tmp_path, patients, 0)
    dated = {r["id"]: r for r in read(tmp_path / "OUTCOMES99.txt")}
    seen = 0
    for patient in patients:
        for visit in patient.visits:
            if visit.right.replaced and visit.attended and visit.month in KL_MONTHS:
                seen += 1
                assert int(dated[str(patient.number)]["V99ERKDAYS"]) <= visit.days
                assert "right" not in visit.scanned
    assert seen
