"""Clinical tables of the OAI as one row for each knee and attended visit."""

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
from qmri_lake.oai import readings
from qmri_lake.oai.readings import Readings
from qmri_lake.oai.table_columns import Columns
from qmri_lake.oai.table_names import find_tables
from qmri_lake.oai.tables import Table, read_oai_table
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.variable import Variable
from qmri_lake.schema.visits import VISIT_MONTHS

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
_ITEM_COLUMNS = {
    **{(item, ""): name for item, name in _VISIT_ITEMS.items()},
    **{
        (item, knee): name.format(letter)
        for item, name in _KNEE_ITEMS.items()
        for knee, letter in _KNEES.items()
    },
}
"""Column name without the prefix of the visit, by (item, knee); the knee is "" for both knees."""
_ITEM_OF = {name: key for key, name in _ITEM_COLUMNS.items()}
_PREFIX = r"(?P<prefix>P01|V\d\d)"
_CLINICAL = rf"V00AGE|{_PREFIX}({'|'.join([*_ITEM_OF, *_DATES])})"
_RACES = {"other": 0, "white": 1, "black": 2, "asian": 3}
_COHORTS = {"progression": 1, "incidence": 2, "control": 3}
_ENROLLED = {"P02SEX": "sex", "P02RACE": "race", "V00COHORT": "cohort", "V00SITE": "site"}
_CODES = {
    "race": Variable("visit", "race", ("exam",), "float32", "Race (P02RACE)", flags=_RACES),
    "cohort": Variable(
        "visit", "cohort", ("exam",), "float32", "Subcohort of the OAI", flags=_COHORTS
    ),
}
"""Columns of codes that a lake does not store."""
_REPLACED = r"V99E[RL]K(DAYS|DATE|BLRP)"

_Visit = tuple[int, int]
"""Key of a visit: (patient, months after enrolment)."""


@dataclass(frozen=True, slots=True, eq=False)
class ClinicalTables:
    """Content of the clinical tables of a delivery."""

    visits: pd.DataFrame
    """One row for each patient, timepoint and knee; see `read_tables`."""
    problems: tuple[Problem, ...]
    counts: Mapping[str, int]
    """Numbers of ``tables`` that were used; of visits with ``bmi_carried_forward`` or
    ``age_from_nominal_month``; of ``missed_visits`` (all cells are missing, so there is no row); of
    ``repeated_rows``; and of readings of radiographs (`qmri_lake.oai.readings.COUNTS`)."""
    has_replacements: bool
    """Whether OUTCOMES99 was used. Without it, False in ``replaced`` is only a default."""
    unknown_replacements: frozenset[int]
    """Patients whose cells in OUTCOMES99 are unreadable or contradict each other: False in
    ``replaced`` is only a default."""
    unused: Mapping[str, str]
    """Reason why a table is not used, by its path relative to the folder. Tables of a known name
    that could not be used are `problems`."""


def read_tables(
    folder: str | os.PathLike[str], *, scan_dates: Mapping[tuple[int, int], str] | None = None
) -> ClinicalTables:
    """Read ``Enrollees``, ``AllClinical##``, ``kxr_sq_bu##`` and ``OUTCOMES99`` below a folder.

    The tables may be text, SAS or Excel files; see `qmri_lake.oai.table_formats.read_table`. A
    table that is incomplete or ambiguous is not used. If rows or tables contradict each other, none
    of their values is used.

    The age at a visit is V00AGE + days / 365.25. If the days are missing, the nominal month is used
    and counted. The BMI is the last value measured at or before the visit; values carried forward
    are counted. KL is the grade of project 15, else that of project 37, else that of 42. Items of
    the baseline may have the prefix P01 instead of V00; V00 takes precedence.

    A knee is replaced at a visit if the day of its replacement (``V99E[RL]KDAYS``, or
    ``V99E[RL]KDATE`` minus the enrolment date) is not after the day of the visit, if the knee was
    replaced at baseline, or if a radiograph of this or an earlier visit shows a prosthesis. The
    enrolment date is V00EVDATE, or the date of a follow-up or scan minus the days of its visit.

    Parameters
    ----------
    folder : path
        Folder to search, with its subfolders. Names of files and columns are case-insensitive.
    scan_dates : mapping, optional
        Date of the MRI, ``yyyymmdd``, by (patient, timepoint). It is used for tables without dates.

    Returns
    -------
    ClinicalTables
        Columns of ``visits``: patient, timepoint [months], knee, days [since enrolment],
        age [years], sex (1 male, 2 female), race (code), site, cohort (code), bmi [kg/m2],
        kl (0..4), womac_pain, koos_pain, pain_most_days_12m, pain_any_12m, pain_months_12m,
        pain_frequent_30d (float, NaN = missing), replaced (bool). The rows are sorted by patient,
        timepoint and knee. A missed visit (no measurement and no radiograph) has no row.
    """
    return _TableReader(Path(folder), scan_dates or {}).read()


class _TableReader:
    """Reader of the tables of one folder."""

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
                    "repeated_rows",
                ),
                0,
            )
        )
        self._columns = Columns()
        """Columns of Enrollees, AllClinical## and OUTCOMES99, by patient."""
        self._readings = Readings()
        self._seen: set[_Visit] = set()
        self._items: dict[tuple[str, str], dict[_Visit, float]] = {}
        self._kl: dict[tuple[int, int, str], float] = {}
        self._prosthesis: dict[tuple[int, str], int] = {}
        """First visit [months] whose radiograph shows a prosthesis, by (patient, knee)."""
        self._replacement_rows: dict[tuple[str, int], str] = {}
        """Location of the date of a replacement, by (column, patient)."""
        self._has_replacements = False
        self._unknown_replacements: set[int] = set()

    def read(self) -> ClinicalTables:
        """Read all tables and join them."""
        found = find_tables(self._root)
        self._problems += found.problems
        kinds: dict[str, tuple[str, Callable[[Table], None], tuple[str, ...]]] = {
            "Enrollees": ("|".join(_ENROLLED), self._add_enrollees, ("ID",)),
            "AllClinical##": (_CLINICAL, self._add_clinical, ("ID",)),
            "kxr_sq_bu##": (readings.WANTED, self._readings.add, readings.KEYS),
            "OUTCOMES99": (_REPLACED, self._add_outcomes, ("ID",)),
        }
        for kind, (wanted, add, keys) in kinds.items():
            for path in found.used[kind]:
                try:
                    table = read_oai_table(path, self._root, wanted, keys)
                    self._problems += table.problems
                    add(table)
                except InputError as error:
                    self._problems.append(error.problem())
                    continue
                self._counts["tables"] += 1
                self._counts["repeated_rows"] += table.repeated
        self._kl, self._prosthesis = self._readings.grades()
        self._seen |= {(patient, months) for patient, months, _ in self._kl}
        self._seen |= self._readings.prostheses
        self._items = {key: self._item(name) for key, name in _ITEM_COLUMNS.items()}
        visits = self._join()
        self._problems += self._readings.problems + self._columns.problems
        self._problems.sort(key=lambda problem: problem.where)
        counts = {**self._counts, **self._readings.counts}
        unknown = self._unknown_replacements.union(
            *(self._columns.refused(name) for name in self._columns if name.startswith("V99"))
        )
        return ClinicalTables(
            visits,
            tuple(self._problems),
            counts,
            self._has_replacements,
            frozenset(unknown),
            found.unused,
        )

    def _add(self, table: Table, column: str, values: pd.Series) -> None:
        self._columns.add(column, values.set_axis(table.patient), table.name)

    def _numbers(self, table: Table, column: str, item: str, *, whole: bool = False) -> pd.Series:
        """Add a column as numbers, and return them."""
        variable = _CODES.get(item) or (REGISTRY[f"visit/{item}"] if item else None)
        values, problems = table.numbers(column, variable, whole=whole)
        self._problems += problems
        self._add(table, column, values)
        return values

    def _dates(self, table: Table, column: str) -> pd.Series[pd.Timestamp]:
        """Add a column as dates, and return them."""
        dates, problems = table.dates(column)
        self._problems += problems
        self._add(table, column, dates)
        return dates

    def _add_enrollees(self, table: Table) -> None:
        for column, item in _ENROLLED.items():
            if column not in table.cells:
                continue
            if item == "site":
                site, problems = table.words(column)
                self._problems += problems
                self._add(table, column, site)
            else:
                self._numbers(table, column, item)
        self._seen |= {(patient, 0) for patient in table.patient.tolist()}

    def _add_clinical(self, table: Table) -> None:
        attended: dict[int, np.ndarray] = {}
        for column in table.cells.columns:
            if column == "V00AGE":
                self._numbers(table, column, "age")
                continue
            match = re.fullmatch(_PREFIX + "(.+)", column)
            if match is None or (number := _visit_number(match["prefix"])) not in VISIT_MONTHS:
                continue
            if match[2] in _DATES:
                self._dates(table, column)
                continue
            item, _ = _ITEM_OF[match[2]]
            values = self._numbers(table, column, item, whole=item == "pain_months_12m")
            months = VISIT_MONTHS[number]
            attended[months] = attended.get(months, False) | values.notna().to_numpy()
        for months, known in attended.items():
            self._seen |= {(patient, months) for patient in table.patient[known].tolist()}
            self._counts["missed_visits"] += int((~known).sum())

    def _add_outcomes(self, table: Table) -> None:
        self._has_replacements = True
        self._unknown_replacements |= table.refused
        for column in table.cells.columns:
            if column not in table.keys:
                self._add_outcome(table, column)

    def _add_outcome(self, table: Table, column: str) -> None:
        if column.endswith("DATE"):
            values = self._dates(table, column)
            rows = values.dropna().index
            for row, patient in zip(rows.tolist(), table.patient[rows].tolist(), strict=True):
                self._replacement_rows[column, patient] = table.where(row, column)
        else:
            values = self._numbers(table, column, "replaced" if column.endswith("BLRP") else "")
        self._unknown_replacements |= table.unreadable(column, values)

    def _item(self, name: str) -> dict[_Visit, float]:
        """Return the values of an item by visit. V00 takes precedence over P01."""
        values: dict[_Visit, float] = {}
        for prefix, months in [("P01", 0), *((f"V{n:02d}", m) for n, m in VISIT_MONTHS.items())]:
            column = self._columns.by_key(prefix + name)
            values |= {(patient, months): value for patient, value in column.items()}
        return values

    def _join(self) -> pd.DataFrame:
        visits = sorted(self._seen)
        frame = pd.DataFrame(
            [(*visit, knee) for visit in visits for knee in sorted(_KNEES)],
            columns=["patient", "timepoint", "knee"],
        ).astype({"patient": np.int64, "timepoint": np.int64, "knee": object})
        days = {visit: self._day(visit) for visit in visits}
        nominal = {visit: visit[1] * 365.25 / 12 for visit in visits}
        first_age = self._columns.by_key("V00AGE")
        ages = {}
        for visit in visits:
            first = first_age.get(visit[0], np.nan)
            if np.isnan(days[visit]) and not np.isnan(first):
                self._counts["age_from_nominal_month"] += 1
            known = nominal[visit] if np.isnan(days[visit]) else days[visit]
            ages[visit] = first + known / 365.25
        bmi = self._carry_bmi(visits)

        keys = list(zip(frame.patient.tolist(), frame.timepoint.tolist(), strict=True))
        frame["days"] = [days[key] for key in keys]
        frame["age"] = [ages[key] for key in keys]
        for item in ("sex", "race", "cohort", "site"):
            column = next(name for name, known in _ENROLLED.items() if known == item)
            enrolled = self._columns.by_key(column)
            absent: float | str = "" if item == "site" else np.nan
            frame[item] = [enrolled.get(patient, absent) for patient, _ in keys]
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
        for visit in visits:  # sorted by patient, then by time
            patient = visit[0]
            if visit in measured:
                last = (patient, measured[visit])
            elif last[0] == patient:
                self._counts["bmi_carried_forward"] += 1
            if last[0] == patient:
                carried[visit] = last[1]
        return carried

    def _enrolment(self) -> dict[int, pd.Timestamp]:
        """Return the date of day 0 by patient, from dates in the tables, else from scan dates."""
        scans = {
            visit: date
            for visit, text in self._scan_dates.items()
            if not pd.isna(date := pd.to_datetime(text, errors="coerce"))
        }
        dated = {
            (patient, months): date
            for name in reversed(_DATES)
            for number, months in VISIT_MONTHS.items()
            for patient, date in self._columns.by_key(f"V{number:02d}{name}").items()
        }
        enrolment: dict[int, pd.Timestamp] = {}
        for dates in (dated, scans):
            for (patient, months), date in sorted(dates.items()):
                day = self._day((patient, months))
                if not np.isnan(day):
                    enrolment.setdefault(patient, date - pd.Timedelta(days=day))
        return enrolment

    def _replacement_days(self) -> dict[tuple[int, str], float]:
        """Return the day of replacement by (patient, knee), or -inf if it was before baseline."""
        replaced: dict[tuple[int, str], float] = {}
        enrolment = self._enrolment()
        for knee, letter in _KNEES.items():
            before, day, date = (f"V99E{letter}K{end}" for end in ("BLRP", "DAYS", "DATE"))
            for patient, done in self._columns.by_key(before).items():
                if done == 1:
                    replaced[patient, knee] = -np.inf
            for patient, value in self._columns.by_key(day).items():
                replaced.setdefault((patient, knee), value)
            for patient, on in self._columns.by_key(date).items():
                if (patient, knee) in replaced:
                    continue
                if patient in enrolment:
                    replaced[patient, knee] = (on - enrolment[patient]).days
                else:
                    # Without a dated visit, the conservative choice is "replaced".
                    replaced[patient, knee] = -np.inf
                    self._problems.append(_undated(self._replacement_rows[date, patient]))
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
        "a replacement date of a patient without dated visits",
        "V00EVDATE, V##FVDATE, or an MRI of the patient",
        "Add the dates. The knee was treated as replaced at every visit.",
    )
