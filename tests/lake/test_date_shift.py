"""Shifted dates: intervals are kept, and what is no whole date is removed."""

from __future__ import annotations

import numpy as np

from qmri_lake.lake.date_shift import shift_dates
from qmri_lake.schema.privacy import Privacy
from qmri_lake.schema.variable import Variable


def date_variable(dtype: str, unit: str = "") -> Variable:
    return Variable("clinical", "seen", (), dtype, "Date", unit, privacy=Privacy.DATE)


def test_texts__are_shifted_by_the_patient_and_lose_their_time() -> None:
    texts = ["2004-03-01", "20040301", "2004-02-29T10:11:12", "2004-03-01 10:00", ""]
    moved = shift_dates(date_variable("string"), np.array(texts, object), np.full(5, -60))
    assert moved.tolist() == ["2004-01-01", "20040101", "2003-12-31", "2004-01-01", ""]
    values = np.array(["2004-03-01", "2005-03-01", "2004-03-01"], object)
    moved = shift_dates(date_variable("string"), values, np.array([-100, -100, -31]))
    first, second, other = (np.datetime64(text) for text in moved)
    assert (second - first).astype(int) == 365
    assert other != first


def test_texts__that_are_no_whole_date_are_removed() -> None:
    texts = ["2004", "2004-03", "spring 2004", "2004-13-01", "0001-01-01", "01.03.2004"]
    moved = shift_dates(date_variable("string"), np.array(texts, object), np.full(6, -400))
    assert moved.tolist() == [""] * 6


def test_numbers__are_shifted_in_their_unit() -> None:
    days = np.array([-1, -2])
    floats = np.array([10.0, np.nan])
    moved = shift_dates(date_variable("float64", "days since 2000-01-01"), floats, days)
    np.testing.assert_array_equal(moved, [9.0, np.nan])
    whole = np.array([100000, -1])
    moved = shift_dates(date_variable("int64", "seconds since 2000-01-01"), whole, days)
    assert moved.tolist() == [100000 - 86400, -1]
    assert moved.dtype == whole.dtype
    rows = np.array([[5.0, 6.0], [5.0, 6.0]])
    moved = shift_dates(date_variable("float32", "days since 2000-01-01"), rows, days)
    assert moved.tolist() == [[4.0, 5.0], [3.0, 4.0]]
    moment = np.array(["2004-03-01", "2004-03-01"], "datetime64[D]")
    moved = shift_dates(date_variable("datetime64[D]"), moment, days)
    assert moved.astype(str).tolist() == ["2004-02-29", "2004-02-28"]


def test_numbers__without_a_known_unit_are_removed() -> None:
    for unit in ("", "d", "months since 2000-01-01", "years since birth"):
        moved = shift_dates(date_variable("float64", unit), np.array([2004.5]), np.array([-9]))
        assert np.isnan(moved).all()
