"""KL grades from readings of radiographs by several projects."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pandas as pd

from qmri_lake.errors import InputError, Problem, Reason
from qmri_lake.oai.coded_cells import parse_coded
from qmri_lake.oai.table_columns import Columns
from qmri_lake.oai.tables import Table
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.exam_index import exam_key
from qmri_lake.schema.variable import Variable
from qmri_lake.schema.visits import VISIT_MONTHS

__all__ = ["COUNTS", "KEYS", "PROJECTS", "WANTED", "Readings"]

PROJECTS = (15, 37, 42)
"""Reading projects of kxr_sq_bu##, the preferred one first."""
KEYS = ("ID", "SIDE", "READPRJ")
WANTED = r"V\d\dXRKL"
COUNTS = (
    "other_readings",
    "grades_of_other_projects",
    "ungraded_readings",
    "readings_without_side",
    "readings_of_unknown_projects",
)
"""Names of the counts: grades that were not used, because a preferred project has a grade; grades
of project 37 or 42 that were used; the subset of the latter with a reading of project 15 without a
grade; and rows that were not used, because they have no side or an unknown project."""

_SIDE = Variable("", "side", (), "uint8", "Side of a reading", flags={"right": 1, "left": 2})
_PROSTHESIS = -1.0
"""Grade of a reading of ``.P``."""


class Readings:
    """Readings of radiographs, and the choice of one grade for each knee and visit.

    The first project that has a grade, or reports a prosthesis, determines the grade of a knee at a
    visit. An empty cell of project 15 does not hide the grade of another project.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        self.prostheses: set[tuple[int, int]] = set()
        """(patient, months) of visits with a prosthesis; see `grades`."""
        self._columns = Columns()
        self._rows: dict[tuple[str, tuple[int, int, int]], str] = {}
        """Location of each prosthesis by (column, (patient, side, project))."""
        self._ungraded: set[tuple[int, int, int]] = set()
        """(patient, months, side) of readings of the first project without a grade."""

    def add(self, table: Table) -> None:
        """Add the readings of a table.

        Raises
        ------
        InputError
            If no row is of a known project (reason ``unused_table``).
        """
        side, problems = table.numbers("SIDE", _SIDE)
        project, unreadable = table.numbers("READPRJ")
        self.problems += problems + unreadable
        known = project.isin(PROJECTS)
        if not known.any():
            raise InputError(
                "no reading of a known project",
                expected=f"READPRJ {', '.join(map(str, PROJECTS[:-1]))} or {PROJECTS[-1]}",
                where=table.name,
                todo="Check the table. It was not used.",
                reason=Reason.UNUSED_TABLE,
            )
        self.counts["readings_without_side"] += int(side.isna().sum())
        self.counts["readings_of_unknown_projects"] += int((~known & side.notna()).sum())
        used = known & side.notna()
        place = pd.MultiIndex.from_arrays(
            [table.patient[used], side[used].astype(int), project[used].astype(int)]
        )
        for column in table.cells.columns:
            if re.fullmatch(WANTED, column):
                self._add_grades(table, column, used, place)

    def _add_grades(
        self, table: Table, column: str, used: pd.Series[bool], place: pd.MultiIndex
    ) -> None:
        grades, problems = table.numbers(column, REGISTRY["visit/kl"], whole=True)
        self.problems += problems
        missing = parse_coded(table.cells[column]).missing
        values = grades.mask(missing == "P", _PROSTHESIS)[used]
        self._columns.add(column, pd.Series(values.to_numpy(float), place), table.name)
        months = VISIT_MONTHS.get(int(column[1:3]))
        for key, value, row in zip(place, values, values.index, strict=True):
            if value == _PROSTHESIS:
                self._rows[column, key] = table.where(row, column)
            elif np.isnan(value) and key[2] == PROJECTS[0] and months is not None:
                self._ungraded.add((key[0], months, key[1]))

    def grades(self) -> tuple[dict[tuple[int, int, str], float], dict[tuple[int, str], int]]:
        """Return the grade by (patient, months, knee), and the first prosthesis [months]."""
        grades: dict[tuple[int, int, str], float] = {}
        prosthesis: dict[tuple[int, str], int] = {}
        self.problems += self._columns.problems
        for column, months in _months(self._columns).items():
            rows = self._columns.get(column)
            frame = rows.rename("grade").rename_axis(["patient", "side", "project"]).reset_index()
            # The numbers of the projects are in the order of preference.
            frame = frame.sort_values(["patient", "side", "project"])
            first = frame[~frame.duplicated(["patient", "side"])]
            self.counts["other_readings"] += len(frame) - len(first)
            for patient, side, project, grade in first.itertuples(index=False):
                knee = "right" if side == 1 else "left"
                if project != PROJECTS[0]:
                    self.counts["grades_of_other_projects"] += 1
                    ungraded = (patient, months, side) in self._ungraded
                    self.counts["ungraded_readings"] += int(ungraded)
                if grade == _PROSTHESIS:
                    earlier = prosthesis.get((patient, knee), months)
                    prosthesis[patient, knee] = min(months, earlier)
                    self.prostheses.add((patient, months))
                    where = self._rows[column, (patient, side, project)]
                    self.problems.append(_problem(where, (patient, months, knee)))
                else:
                    grades[patient, months, knee] = float(grade)
        return grades, prosthesis


def _months(columns: Columns) -> Mapping[str, int]:
    """Return the months after enrolment of each column, if its name contains a known visit."""
    number = {column: int(column[1:3]) for column in columns}
    return {column: VISIT_MONTHS[n] for column, n in number.items() if n in VISIT_MONTHS}


def _problem(where: str, place: tuple[int, int, str]) -> Problem:
    return Problem(
        Reason.KL_PROSTHESIS,
        where,
        "KL grade .P (prosthesis)",
        "a grade from 0 to 4",
        "Nothing to do. The grade is missing, and the knee counts as replaced from this visit on.",
        exam_key(*place),
    )
