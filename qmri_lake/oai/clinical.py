"""OAI's clinical tables as one row for each knee and attended visit."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from qmri_lake.errors import InputError, Problem, Reason
from qmri_lake.index import exam_key
from qmri_lake.oai.identity import VISIT_MONTHS
from qmri_lake.oai.tables import Table, find_tables, parse_coded, read_table
from qmri_lake.variables import REGISTRY, Variable

__all__ = ["ClinicalTables", "read_tables"]

_KNEES = {"right": "R", "left": "L"}
_KNEE_ITEMS = {
    "womac_pain": "WOMKP{}",
    "koos_pain": "KOOSKP{}",
    "pain_most_days_12m": "KP{}12CV",
    "pain_any_12m": "KPN{}12",
    "pain_months_12m": "KPN{}12M",
    "pain_frequent_30d": "KP{}30CV",
}
_VISIT_ITEMS = {"days": "VISDYS", "bmi": "BMI"}
_DATES = ("FVDATE", "EVDATE")
_COLUMNS = {
    **{(item, ""): name for item, name in _VISIT_ITEMS.items()},
    **{
        (item, knee): name.format(letter)
        for item, name in _KNEE_ITEMS.items()
        for knee, letter in _KNEES.items()
    },
}
"""(item, knee or "" for both) -> column name after the visit's prefix."""
_ITEM_OF = {name: key for key, name in _COLUMNS.items()}
_PREFIX = r"(?P<prefix>P01|V\d\d)"
_WANTED = rf"V00AGE|{_PREFIX}({'|'.join([*_ITEM_OF, *_DATES])})"
_FIRST_PROJECT = 15
"""The reading project that counts first; the others follow by number."""

_SIDE = Variable("", "side", (), "uint8", "Side of a reading", flags={"right": 1, "left": 2})

_Visit = tuple[int, int]
"""(patient, months)."""


@dataclass(frozen=True, slots=True, eq=False)
class ClinicalTables:
    """What the clinical tables of a delivery say."""

    visits: pd.DataFrame
    """One row for each patient, timepoint and knee; see `read_tables`."""
    problems: tuple[Problem, ...]
    counts: Mapping[str, int]
    """``tables`` read; visits with ``bmi_carried_forward`` or ``age_from_nominal_month``;
    ``missed_visits`` (all cells missing, no row); ``other_readings`` (radiograph readings of
    further projects, not used); ``readings_without_side`` (left out); ``repeated_rows``."""
    tells_replacements: bool
    """Whether OUTCOMES99 was among them; without it False in ``replaced`` is only a default."""


def read_tables(
    folder: str | os.PathLike[str], *, scan_dates: Mapping[tuple[int, int], str] | None = None
) -> ClinicalTables:
    """Read ``Enrollees``, ``AllClinical##``, ``kxr_sq_bu##`` and ``OUTCOMES99`` below a folder.

    Age at a visit is V00AGE + days / 365.25; where the days of a visit are missing, the nominal
    month stands in and is counted. BMI is the last one measured at or before the visit; what is
    carried forward is counted. KL is the reading of project 15, else of the lowest-numbered
    project. Items of the baseline may have the prefix P01 instead of V00; V00 comes first. A knee
    is replaced at a visit if its replacement (``V99E[RL]KDAYS``, else ``V99E[RL]KDATE`` minus
    the enrolment date) is not after the visit's day, if it was so at baseline, or if a radiograph
    of this or an earlier visit shows a prosthesis. The enrolment date is V00EVDATE, else a
    follow-up or scan date minus that visit's days.

    Parameters
    ----------
    folder : path
        Searched with its subfolders; the case of file and column names makes no difference.
    scan_dates : mapping, optional
        (patient, timepoint) -> ``yyyymmdd`` of its MRI, where the tables hold no dates.

    Returns
    -------
    ClinicalTables
        Columns of ``visits``: patient, timepoint [months], knee, days [since enrolment],
        age [years], sex (1 male, 2 female), race (code), site, cohort (code), bmi [kg/m2],
        kl (0..4), womac_pain, koos_pain, pain_most_days_12m, pain_any_12m, pain_months_12m,
        pain_frequent_30d (float, NaN = missing), replaced (bool). Sorted by patient, timepoint,
        knee. A missed visit (nothing measured, no radiograph) has no row.
    """
    return _Reading(Path(folder), scan_dates or {}).finish()


class _Reading:
    """The tables of one folder while they are read."""

    def __init__(self, root: Path, scan_dates: Mapping[tuple[int, int], str]) -> None:
        self._root = root
        self._scan_dates = scan_dates
        self._problems: list[Problem] = []
        self._counts: Counter[str] = Counter(
            dict.fromkeys(
                (
                    "tables",
                    "bmi_carried_forward",
                    "age_from_nominal_month",
                    "missed_visits",
                    "other_readings",
                    "readings_without_side",
                    "repeated_rows",
                ),
                0,
            )
        )
        self._enrolled: dict[str, dict[int, float | str]] = {}
        self._items: dict[tuple[str, str], dict[_Visit, float]] = {key: {} for key in _COLUMNS}
        self._first_age: dict[int, float] = {}
        self._dates: dict[_Visit, pd.Timestamp] = {}
        self._seen: set[_Visit] = set()
        self._kl: dict[tuple[int, int, str], float] = {}
        self._prosthesis: dict[tuple[int, str], int] = {}
        """(patient, knee) -> first visit [months] whose radiograph shows one."""
        self._outcomes: list[Table] = []

    def finish(self) -> ClinicalTables:
        """Read all tables and join them."""
        self._each(r"Enrollees\d*\.txt", r"P02SEX|P02RACE|V00COHORT|V00SITE", self._take_enrollees)
        self._each(r"AllClinical\d\d\.txt", _WANTED, self._take_clinical)
        self._each(
            r"kxr_sq_bu\d\d\.txt", r"V\d\dXRKL", self._take_readings, ("ID", "SIDE", "READPRJ")
        )
        self._each(r"OUTCOMES99\.txt", r"V99E[RL]K(DAYS|DATE|BLRP)", self._outcomes.append)
        visits = self._join()
        self._problems.sort(key=lambda problem: problem.where)
        told = bool(self._outcomes)
        return ClinicalTables(visits, tuple(self._problems), dict(self._counts), told)

    def _each(
        self,
        pattern: str,
        wanted: str,
        take: Callable[[Table], None],
        keys: tuple[str, ...] = ("ID",),
    ) -> None:
        for path in find_tables(self._root, pattern):
            try:
                table = read_table(path, self._root, wanted, keys)
            except InputError as error:
                self._problems.append(error.problem())
                continue
            self._problems += table.problems
            self._counts["tables"] += 1
            take(table)

    def _one_row_a_patient(self, table: Table) -> pd.Series[bool]:
        repeated = table.patient.duplicated(keep="last")
        self._counts["repeated_rows"] += int(repeated.sum())
        return ~repeated

    def _numbers(
        self, table: Table, column: str, variable: Variable | None = None, *, whole: bool = False
    ) -> pd.Series[float]:
        values, problems = table.numbers(column, variable, whole=whole)
        self._problems += problems
        return values

    def _take_enrollees(self, table: Table) -> None:
        columns: dict[str, pd.Series[float] | pd.Series[str]] = {}
        for column, item, variable in (
            ("P02SEX", "sex", REGISTRY["visit/sex"]),
            ("P02RACE", "race", None),
            ("V00COHORT", "cohort", None),
        ):
            if column in table.cells:
                columns[item] = self._numbers(table, column, variable)
        if "V00SITE" in table.cells:
            site = table.cells["V00SITE"].str.split(":", n=1).str[0].str.strip()
            columns["site"] = site.where(~site.str.startswith("."), "")
        keep = self._one_row_a_patient(table)
        patients = table.patient[keep].tolist()
        for item, values in columns.items():
            self._enrolled[item] = dict(zip(patients, values[keep].tolist(), strict=True))
        self._seen |= {(patient, 0) for patient in patients}

    def _take_clinical(self, table: Table) -> None:
        keep = self._one_row_a_patient(table)
        patients = table.patient[keep].to_numpy()
        attended: dict[int, np.ndarray] = {}
        # V00 before P01: what the enrolment visit measured counts first.
        for column in sorted(table.cells.columns, key=lambda name: (name[0] == "P", name)):
            if column == "V00AGE":
                ages = self._numbers(table, column, REGISTRY["visit/age"])[keep]
                known = ages.notna().to_numpy()
                self._first_age |= dict(
                    zip(patients[known].tolist(), ages[known].tolist(), strict=True)
                )
                continue
            match = re.fullmatch(_PREFIX + "(.+)", column)
            if match is None or (number := _visit_number(match["prefix"])) not in VISIT_MONTHS:
                continue
            months = VISIT_MONTHS[number]
            if match[2] in _DATES:
                self._take_dates(table, column, months, keep)
                continue
            item = _ITEM_OF[match[2]]
            variable = REGISTRY[f"visit/{item[0]}"]
            whole = item[0] == "pain_months_12m"
            values = self._numbers(table, column, variable, whole=whole)[keep].to_numpy()
            known = np.isfinite(values)
            store = self._items[item]
            for patient, value in zip(
                patients[known].tolist(), values[known].tolist(), strict=True
            ):
                store.setdefault((patient, months), value)
            attended[months] = attended.get(months, np.zeros(len(patients), bool)) | known
        for months, known in attended.items():
            self._seen |= {(patient, months) for patient in patients[known].tolist()}
            self._counts["missed_visits"] += int((~known).sum())

    def _take_dates(self, table: Table, column: str, months: int, keep: pd.Series[bool]) -> None:
        dates, problems = table.dates(column)
        self._problems += problems
        for patient, date in zip(table.patient[keep].tolist(), dates[keep].tolist(), strict=True):
            if not pd.isna(date):
                self._dates.setdefault((patient, months), date)

    def _take_readings(self, table: Table) -> None:
        side = self._numbers(table, "SIDE", _SIDE)
        self._counts["readings_without_side"] += int(side.isna().sum())
        project = self._numbers(table, "READPRJ")
        rows = pd.DataFrame({"patient": table.patient, "side": side, "project": project})
        rows["later"] = rows["project"] != _FIRST_PROJECT
        rows = rows.dropna(subset=["side"]).sort_values(["later", "project"], kind="stable")
        first = rows[~rows.duplicated(["patient", "side"])].sort_index()
        knees = np.where(first.side == 1, "right", "left").tolist()
        self._counts["other_readings"] += len(rows) - len(first)
        for column in table.cells.columns:
            match = re.fullmatch(r"V(\d\d)XRKL", column)
            if match is None or int(match[1]) not in VISIT_MONTHS:
                continue
            months = VISIT_MONTHS[int(match[1])]
            grades = self._numbers(table, column, REGISTRY["visit/kl"], whole=True)
            codes = pd.Series(parse_coded(table.cells[column]).missing, table.cells.index)
            for row, patient, knee, grade, code in zip(
                first.index.tolist(), first.patient.tolist(), knees,
                grades[first.index].tolist(), codes[first.index].tolist(), strict=True,
            ):  # fmt: skip
                place = (patient, months, knee)
                if code == "P":
                    self._prosthesis[patient, knee] = min(
                        months, self._prosthesis.get((patient, knee), months)
                    )
                    self._problems.append(_prosthesis(table.where(row, column), place))
                elif np.isfinite(grade):
                    self._kl.setdefault(place, grade)
                else:
                    continue
                self._seen.add((patient, months))

    def _join(self) -> pd.DataFrame:
        visits = sorted(self._seen)
        frame = pd.DataFrame(
            [(*visit, knee) for visit in visits for knee in sorted(_KNEES)],
            columns=["patient", "timepoint", "knee"],
        ).astype({"patient": np.int64, "timepoint": np.int64, "knee": object})
        days = {visit: self._day(visit) for visit in visits}
        nominal = {visit: visit[1] * 365.25 / 12 for visit in visits}
        ages = {}
        for visit in visits:
            first = self._first_age.get(visit[0], np.nan)
            if np.isnan(days[visit]) and not np.isnan(first):
                self._counts["age_from_nominal_month"] += 1
            known = nominal[visit] if np.isnan(days[visit]) else days[visit]
            ages[visit] = first + known / 365.25
        bmi = self._carry_bmi(visits)

        keys = list(zip(frame.patient.tolist(), frame.timepoint.tolist(), strict=True))
        frame["days"] = [days[key] for key in keys]
        frame["age"] = [ages[key] for key in keys]
        for item in ("sex", "race", "cohort", "site"):
            absent: float | str = "" if item == "site" else np.nan
            frame[item] = [self._enrolled.get(item, {}).get(patient, absent) for patient, _ in keys]
        frame["bmi"] = [bmi.get(key, np.nan) for key in keys]
        places = list(
            zip(frame.patient.tolist(), frame.timepoint.tolist(), frame.knee, strict=True)
        )
        frame["kl"] = [self._kl.get(place, np.nan) for place in places]
        for item in _KNEE_ITEMS:
            stores = {knee: self._items[item, knee] for knee in _KNEES}
            frame[item] = [stores[knee].get((p, m), np.nan) for p, m, knee in places]
        replaced_on = self._replacement_days()
        frame["replaced"] = [
            self._is_replaced(
                (p, m, knee), replaced_on.get((p, knee), np.inf), days[p, m], nominal[p, m]
            )
            for p, m, knee in places
        ]
        numeric = ["sex", "race", "cohort"]
        return frame.astype(dict.fromkeys(numeric, np.float64))

    def _day(self, visit: _Visit) -> float:
        """Return the days from enrolment to a visit; the enrolment visit is day 0."""
        return self._items["days", ""].get(visit, 0.0 if visit[1] == 0 else np.nan)

    def _carry_bmi(self, visits: list[_Visit]) -> dict[_Visit, float]:
        measured = self._items["bmi", ""]
        carried: dict[_Visit, float] = {}
        last: tuple[int, float] = (-1, np.nan)
        for visit in visits:  # by patient, then in time
            patient = visit[0]
            if visit in measured:
                last = (patient, measured[visit])
            elif last[0] == patient:
                self._counts["bmi_carried_forward"] += 1
            if last[0] == patient:
                carried[visit] = last[1]
        return carried

    def _enrolment(self) -> dict[int, pd.Timestamp]:
        """Return the date of each patient's day 0: from a table's date, else from a scan's."""
        scans = {
            visit: date
            for visit, text in self._scan_dates.items()
            if not pd.isna(date := pd.to_datetime(text, errors="coerce"))
        }
        enrolment: dict[int, pd.Timestamp] = {}
        for dates in (self._dates, scans):
            for (patient, months), date in sorted(dates.items()):
                day = self._day((patient, months))
                if not np.isnan(day):
                    enrolment.setdefault(patient, date - pd.Timedelta(days=day))
        return enrolment

    def _replacement_days(self) -> dict[tuple[int, str], float]:
        """Return (patient, knee) -> day of its replacement, -inf if before the baseline."""
        replaced: dict[tuple[int, str], float] = {}
        enrolment = self._enrolment()
        for table in self._outcomes:
            patients = table.patient.tolist()
            for knee, letter in _KNEES.items():
                before, day, date = (f"V99E{letter}K{end}" for end in ("BLRP", "DAYS", "DATE"))
                if before in table.cells:
                    done = self._numbers(table, before, REGISTRY["visit/replaced"]) == 1
                    replaced |= {(p, knee): -np.inf for p in table.patient[done].tolist()}
                if day in table.cells:
                    days = self._numbers(table, day).tolist()
                    for patient, value in zip(patients, days, strict=True):
                        if not np.isnan(value):
                            replaced.setdefault((patient, knee), value)
                if date in table.cells:
                    dates, problems = table.dates(date)
                    self._problems += problems
                    rows = zip(table.cells.index.tolist(), patients, dates.tolist(), strict=True)
                    for row, patient, on in rows:
                        if pd.isna(on) or (patient, knee) in replaced:
                            continue
                        if patient in enrolment:
                            replaced[patient, knee] = (on - enrolment[patient]).days
                        else:
                            # Without a dated visit the safe side is to call it replaced.
                            replaced[patient, knee] = -np.inf
                            self._problems.append(_undated(table.where(row, date)))
        return replaced

    def _is_replaced(
        self, place: tuple[int, int, str], on: float, day: float, nominal: float
    ) -> bool:
        patient, months, knee = place
        shown = self._prosthesis.get((patient, knee), np.inf)
        return bool(on <= (nominal if np.isnan(day) else day) or shown <= months)


def _visit_number(prefix: str) -> int:
    return 0 if prefix == "P01" else int(prefix[1:])


def _undated(where: str) -> Problem:
    return Problem(
        Reason.UNREADABLE_VALUE,
        where,
        "a replacement date of a patient without any dated visit",
        "V00EVDATE, V##FVDATE, or an MRI of the patient",
        "Add the dates; the knee counts as replaced at every visit meanwhile.",
    )


def _prosthesis(where: str, place: tuple[int, int, str]) -> Problem:
    return Problem(
        Reason.KL_PROSTHESIS,
        where,
        "KL grade .P (prosthesis)",
        "a grade from 0 to 4",
        "Nothing to do: the grade is missing and the knee counts as replaced from here on.",
        exam_key(*place),
    )
