"""Write the clinical tables of a synthetic OAI: `|`-delimited, with value codes and missing codes.

The tables have the irregularities of the real tables: the case of column names differs between
files, radiographs are read by several projects, and cells are blank or begin with a dot.
"""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np

from qmri_lake.phantom.population import KL_MONTHS, VISITS, Knee, Patient, Visit

__all__ = ["write_tables"]

_RACES = {
    0: "0: Other Non-white",
    1: "1: White or Caucasian",
    2: "2: Black or African American",
    3: "3: Asian",
}
_COHORTS = {1: "1: Progression", 2: "2: Incidence"}
_YES = {True: "1: Yes", False: "0: No"}
_IMAGES = "3: Yes, Knee MR and knee xray"


def _write(path: Path, head: list[str], rows: list[list[str]]) -> None:
    """Write a table, unless it has no rows: readers list a table without rows as damaged.

    The last column marks all rows as synthetic.
    """
    if not rows:
        return
    name = "SYNTHETIC" if head[0].isupper() else "synthetic"
    lines = ["|".join([*head, name])] + ["|".join([*row, _YES[True]]) for row in rows]
    path.write_text("\r\n".join(lines) + "\r\n", encoding="utf-8", newline="")


def write_tables(folder: Path, patients: list[Patient], seed: int) -> None:
    """Write Enrollees, AllClinical##, kxr_sq_bu## and OUTCOMES99 of some patients."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(
        folder / "Enrollees.txt",
        ["ID", "VERSION", "P02SEX", "P02RACE", "V00COHORT", "V00SITE"],
        [
            [
                str(p.number),
                "25",
                "1: Male" if p.sex == 1 else "2: Female",
                _RACES[p.race],
                _COHORTS[p.cohort],
                p.site,
            ]
            for p in patients
        ],
    )
    for month, number in VISITS.items():
        _clinical(folder / f"AllClinical{number}.txt", patients, month, number, seed)
        if month in KL_MONTHS:
            _readings(folder / f"kxr_sq_bu{number}.txt", patients, month, number, seed)
    _outcomes(folder / "OUTCOMES99.txt", patients)


def _visit(patient: Patient, month: int) -> Visit:
    return next(v for v in patient.visits if v.month == month)


def _date(patient: Patient, days: int) -> str:
    return f"{datetime.date.fromordinal(patient.enrolled + days):%m/%d/%Y}"


def _pain(knee: Knee, rng: np.random.Generator, missing: float) -> list[str]:
    """Return KPR12CV, KPNR12, KPNR12M, KPR30CV, WOMKP, KOOSKP of one knee."""
    often, months = knee.pain_months > 0, knee.pain_months
    recent = often and rng.random() < 0.35 + 0.05 * months
    womac = (
        0.0 if not knee.any_pain else float(np.clip(round(rng.normal(1 + 0.75 * months, 2)), 0, 20))
    )
    koos = float(np.clip(100 - 4.6 * womac - abs(rng.normal(0, 2)), 0, 100))
    cells = [
        _YES[often],
        _YES[knee.any_pain],
        str(months) if knee.any_pain else ".A",  # not applicable without pain
        _YES[recent],
        f"{womac:.0f}",
        f"{koos:.1f}",
    ]
    if rng.random() < missing:
        return [".M: Missing"] * 2 + [".M", "", ".M", ""]
    return cells


def _clinical(path: Path, patients: list[Patient], month: int, number: str, seed: int) -> None:
    v = f"V{number}"
    lower = number in ("03", "06")  # some files have column names in lower case
    # At baseline, items about the past 12 months have the prefix of the screening visit.
    p = "P01" if month == 0 else v
    head = ["ID", "VERSION"] + (["V00AGE"] if month == 0 else []) + [f"{v}VISDYS"]
    head += ["P01BMI" if month == 0 else f"{v}BMI", f"{v}MRI"]
    for side in "RL":
        head += [f"{p}KP{side}12CV", f"{p}KPN{side}12", f"{v}KPN{side}12M", f"{v}KP{side}30CV"]
        head += [f"{v}WOMKP{side}", f"{v}KOOSKP{side}"]
    if lower:
        head = [h.lower() for h in head]
    rows = []
    for patient in patients:
        visit = _visit(patient, month)
        rng = np.random.default_rng([seed, 51, patient.index, month])
        if not visit.attended:
            if rng.random() < 0.5:
                blank = [".A", ".A", ".A"] + [".A"] * 12
                rows.append([str(patient.number), number, *blank])
            continue
        bmi = ".T" if month > 0 and rng.random() < 0.08 else f"{visit.bmi:.1f}"
        age = [f"{patient.age:.0f}"] if month == 0 else []
        scans = _IMAGES if visit.scanned else "1: Yes, knee xray only"
        cells = [str(patient.number), number, *age, str(visit.days), bmi, scans]
        for knee in (visit.right, visit.left):
            cells += _pain(knee, rng, 0.03)
        rows.append(cells)
    _write(path, head, rows)


def _readings(path: Path, patients: list[Patient], month: int, number: str, seed: int) -> None:
    v = f"V{number}"
    head = ["ID", "SIDE", "READPRJ", "VERSION", f"{v}XRKL", f"{v}XRJSM", f"{v}XRJSL"]
    if number in ("01", "05"):
        head[:3] = ["id", "side", "readprj"]
    rows = []
    for patient in patients:
        visit = _visit(patient, month)
        if not visit.attended:
            continue
        rng = np.random.default_rng([seed, 52, patient.index, month])
        for side, knee in (("1: Right", visit.right), ("2: Left", visit.left)):
            grade = ".A" if knee.replaced else str(knee.kl)
            medial = ".A" if knee.replaced else str(int(min(3, 3.2 * knee.wear_medial)))
            lateral = ".A" if knee.replaced else str(int(min(3, 2.0 * knee.wear_lateral)))
            other = rng.random()
            start = [str(patient.number), side]
            if other < 0.25:  # a second project read the same radiograph, with another result
                again = grade
                if not knee.replaced and rng.random() < 0.3:
                    again = str(int(np.clip(knee.kl + rng.choice([-1, 1]), 0, 4)))
                rows.append([*start, str(rng.choice([37, 42])), number, again, ".A", ".A"])
            rows.append([*start, "15", number, grade, medial, lateral])
    _write(path, head, rows)


def _outcomes(path: Path, patients: list[Patient]) -> None:
    head = ["id", "V99ERKDATE", "V99ERKDAYS", "V99ELKDATE", "V99ELKDAYS"]
    rows = []
    for patient in patients:
        cells = [str(patient.number)]
        for days in patient.replaced_days:
            # Follow-up ended after nine years.
            known = days is not None and days < 9 * 365
            cells += (
                [_date(patient, days), str(days)] if known and days is not None else [".A", ".A"]
            )
        rows.append(cells)
    _write(path, head, rows)
