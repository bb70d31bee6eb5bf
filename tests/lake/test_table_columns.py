"""Columns of a user's table: their types, their names, and what is not guessed."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pytest

from qmri_lake.errors import InputError
from qmri_lake.lake.table_columns import Column, read_column_cells
from qmri_lake.lake.table_names import column_name


def read(cells: object, **options: object) -> Column:
    column = read_column_cells(pd.DataFrame({"c": cells}), "c", "c", "t.csv", **options)
    assert column is not None
    return column


@pytest.mark.parametrize(
    "cells",
    [
        pd.array([3, None, -1], "Int64"),
        [3, None, -1],
        [3.0, np.nan, -1.0],
        ["3", "", "-1"],
        ["3.0", ".M", "-1"],
        ["3e0", "NA", "-1.0"],
    ],
)
def test_numbers__a_missing_cell_is_nan_and_no_number(cells):
    column = read(cells)
    assert (column.dtype, column.valid_range) == ("float64", (-1, 3))
    np.testing.assert_array_equal(column.values, [3, np.nan, -1])


def test_numbers__are_stored_exactly():
    values = [0.1, 27.4, 123456.789, 2**53]
    assert read([str(value) for value in values]).values.tolist() == values


@pytest.mark.parametrize(
    "cells",
    [[True, False, None], ["true", "FALSE", ""], pd.array([True, False, None], "boolean")],
)
def test_booleans__are_flags(cells):
    column = read(cells)
    assert column.flags == {"no": 0, "yes": 1}
    assert column.values.tolist() == [1, 0, 255]


@pytest.mark.parametrize("cells", [["b", "a", ""], pd.Categorical(["b", "a", None])])
def test_words__are_a_category(cells):
    column = read(cells)
    assert column.flags == {"a": 0, "b": 1}
    assert column.values.tolist() == [1, 0, 255]


def test_words__none_is_a_word():
    assert read(["None", "NSAID", "NA"]).flags == {"NSAID": 0, "None": 1}


def test_texts__with_blanks_or_many_words_are_texts():
    assert read(["two words", "one", None]).values.tolist() == ["two words", "one", ""]
    assert read([f"word{i}" for i in range(31)]).dtype == "string"


def test_codes__with_leading_zeros_stay_texts():
    assert read(["01", "10", "02"]).flags == {"01": 0, "02": 1, "10": 2}


def test_text__on_request_also_of_numbers():
    assert read([7, 12, None], as_text=True).flags == {"12": 0, "7": 1}
    assert read([7.0, 12.0, np.nan], as_text=True).flags == {"12": 0, "7": 1}


@pytest.mark.parametrize("cells", [["-9", "3"], [-9, 3], [-9.0, 3.0]])
def test_missing__codes_on_request(cells):
    np.testing.assert_array_equal(read(cells, missing=["-9"]).values, [np.nan, 3])


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        (["3", "4", "n.d."], "2 numbers and 1 other value, first in row 2"),
        ([1, "a"], "1 number and 1 other value, first in row 1"),
        ([True, 2], "1 number and 1 other value"),
        (["27,4", "28,1"], "2 numbers with a comma"),
        (["1,234", "5"], "1 number and 1 other value"),
        ([float("inf"), 1.0], "an infinite number"),
        (["1e999"], "an infinite number"),
        ([2**60], "more than 15 digits"),
        (["12345678901234567890"], "more than 15 digits"),
        (["2004-01-31", ""], "1 date, first in row 0"),
        (["a", "31.01.2004"], "1 date, first in row 1"),
        (["01/31/2004"], "1 date"),
        (["31JAN2004"], "1 date"),
        ([pd.Timestamp("2004-01-31")], "1 date"),
        ([datetime.date(2004, 1, 31)], "1 date"),
        ([pd.Timedelta(days=3)], "1 date"),
        ([[1, 2], [3]], "values of type list"),
        (["x" * 101], "a text of 101 characters"),
        (["a\nb"], "characters that cannot be printed"),
    ],
)
def test_a_column_that_must_be_guessed_is_refused(cells, found):
    with pytest.raises(InputError, match=found) as error:
        read(cells)
    assert error.value.where == "t.csv column c"
    assert "2004" not in str(error.value)


def test_a_column_without_a_value_is_none():
    assert read_column_cells(pd.DataFrame({"c": ["", "NA"]}), "c", "c", "t.csv") is None


def test_unit__of_numbers_only_and_no_duration():
    assert read([1.5], unit="mm").unit == "mm"
    with pytest.raises(InputError, match="the unit 'mm' of a category"):
        read(["a"], unit="mm")
    with pytest.raises(InputError, match="Give 'd'"):
        read([1.5], unit="days")
    with pytest.raises(InputError, match="since enrolment"):
        read([1.5], unit="days since 2004-01-01")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("womac2", "womac2"),
        ("WOMAC total (0-96)", "WOMAC_total_0_96"),
        (" a  b ", "a_b"),
        ("a__b", "a_b"),
        ("_hidden", "hidden"),
        ("Größe", "Größe"),
        ("µm", "μm"),  # as Python normalises names in a query
    ],
)
def test_name__can_be_used_in_a_query(source, name):
    assert column_name(source) == name


@pytest.mark.parametrize(
    "source",
    ["1st", "class", "in", "None", "missing", "exam", "patient", "knee", "slice", "--", ""],
)
def test_name__of_the_language_or_the_lake_is_refused_with_another(source):
    with pytest.raises(InputError, match="--columns own_"):
        column_name(source)


def test_name__a_key_names_its_option():
    with pytest.raises(InputError, match="give --timepoint 'timepoint'"):
        column_name("timepoint")
