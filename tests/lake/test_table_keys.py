"""Keys of a user's table: which cells are a patient, a timepoint and a knee."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from qmri_lake.errors import InputError, Reason
from qmri_lake.lake.table_keys import Keys, read_keys

ROW = {"id": 9000001, "month": 24, "side": "left"}
COLUMNS = {"patient": "id", "timepoint": "month", "knee": "side"}


def read(**cells: list[object]) -> Keys:
    count = max(map(len, cells.values()))
    table = pd.DataFrame({**{name: [cell] * count for name, cell in ROW.items()}, **cells})
    return read_keys(table, "t.csv", COLUMNS)


@pytest.mark.parametrize(
    "cell", [9000798, "9000798", " 9000798 ", 9000798.0, "9000798.0", np.int64(9000798)]
)
def test_patient__is_a_whole_number_with_all_digits(cell):
    assert read(id=[cell]).frame["patient"].tolist() == [9000798]


@pytest.mark.parametrize(
    "cell",
    ["9.00E+06", "9e6", "9000798.5", 9000798.5, "9,000,798", "OAI9000798", "-1", 0, True, "1e400"],
)
def test_patient__a_number_without_all_digits_is_listed(cell):
    keys = read(id=[cell, 9000002])
    assert keys.frame["patient"].tolist() == [9000002]
    (problem,) = keys.problems
    assert (problem.reason, problem.where) == (Reason.UNREADABLE_VALUE, "t.csv row 0 column id")
    assert str(cell) not in problem.found


def test_patient__a_short_float_may_have_lost_digits():
    keys = read(id=np.array([9000798, 900079801], np.float32))
    assert keys.frame["patient"].tolist() == [9000798]


@pytest.mark.parametrize("cell", [None, np.nan, "", " ", "NA", ".", ".M", ".A: Not expected"])
@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ("id", Reason.ABSENT_PATIENT),
        ("month", Reason.ABSENT_TIMEPOINT),
        ("side", Reason.ABSENT_SIDE),
    ],
)
def test_a_missing_key_is_not_every_key(cell, column, reason):
    keys = read(**{column: [ROW[column], cell]})
    assert [problem.reason for problem in keys.problems] == [reason]
    assert keys.frame.index.tolist() == [0]


@pytest.mark.parametrize(
    ("cells", "months"),
    [
        ([0, 24, 96], [0, 24, 96]),
        (["0", "24.0", "096"], [0, 24, 96]),
        (["24m", "24 M", "24 months"], [24, 24, 24]),
        (["V00", "v3", "V10"], [0, 24, 96]),
        (["baseline", "V01", "12m"], [0, 12, 12]),
        ([0.0, 12.0, 1200.0], [0, 12, 1200]),
    ],
)
def test_timepoint__months_and_visits(cells, months):
    assert read(month=cells).frame["timepoint"].tolist() == months


@pytest.mark.parametrize("cell", ["V12", "V99", "24.5", 24.5, "-12", -12, "1201", "2y", "x", True])
def test_timepoint__other_cells_are_listed(cell):
    keys = read(month=["12m", cell])
    assert keys.frame["timepoint"].tolist() == [12]
    assert keys.problems[0].reason is Reason.UNREADABLE_VALUE


def test_timepoint__bare_numbers_beside_visits_are_refused():
    with pytest.raises(InputError, match="V03 together with bare numbers") as error:
        read(month=["V00", "3"])
    assert error.value.where == "t.csv column month"


@pytest.mark.parametrize(
    ("cells", "sides"),
    [
        (["left", "RIGHT", "L", "r"], ["left", "right", "left", "right"]),
        ([1, 2], ["right", "left"]),
        (["1", "2.0"], ["right", "left"]),
        ([1.0, 2.0], ["right", "left"]),
        (["1: Right", "2: Left"], ["right", "left"]),
    ],
)
def test_knee__words_letters_and_codes_of_the_oai(cells, sides):
    assert read(side=cells).frame["knee"].tolist() == sides


@pytest.mark.parametrize(
    "cells", [[0, 1], [1, 3], ["1", "left"], ["1: Left", "2: Right"], [1, 2.5]]
)
def test_knee__codes_of_another_scheme_are_refused_as_a_whole(cells):
    with pytest.raises(InputError, match="for the side"):
        read(side=cells)


def test_knee__another_word_is_listed():
    keys = read(side=["left", "both", "rechts"])
    assert keys.frame["knee"].tolist() == ["left"]
    assert [problem.where for problem in keys.problems] == [
        "t.csv row 1 column side",
        "t.csv row 2 column side",
    ]


def test_notes__say_how_keys_were_understood():
    keys = read(month=["V00", "V03"], side=[1, 2])
    assert keys.notes == (
        "patient = id (1 patient)",
        "timepoint = month (V00 = 0, V03 = 24 months)",
        "knee = side (2 = left, 1 = right)",
    )
