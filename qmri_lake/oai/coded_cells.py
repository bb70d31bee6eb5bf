"""Coded cells of the OAI's tables: ``1: Male``, ``27.4``, and missing-value codes like ``.M``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["MISSING", "Coded", "parse_coded"]

MISSING = r"^\.(?!\d)"
"""Missing cells start with a point that is not followed by a digit; .5 is a number."""
_VALUE = r"^([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*(?::(?:\s.*|[^0-9\s].*)?)?$"
"""A number, and its label: ``1: Yes``. ``12:30`` contains no label."""


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """A column of coded cells, parsed to numbers."""

    value: NDArray[np.float64]
    """Number before ``:``; NaN if the cell is missing or unreadable."""
    missing: NDArray[np.object_]
    """Letter of the code of a missing cell (``P`` for ``.P``); "" for all other and empty cells."""
    bad: NDArray[np.bool_]
    """Whether the cell is unreadable: neither missing nor a number."""


def parse_coded(cells: pd.Series[str]) -> Coded:
    """Parse cells like ``1: Male``, ``27.4``, ``.M`` and blanks.

    >>> parse_coded(pd.Series(["1: Male", ".P", "", "x"])).value
    array([ 1., nan, nan, nan])
    """
    # A column has few different cells, so each is parsed once.
    codes, unique = pd.factorize(cells.fillna(""))
    text = pd.Series(unique, dtype=str).str.strip()
    missing = text.str.match(MISSING) | (text == "")
    number = pd.to_numeric(text.str.extract(_VALUE, expand=False), errors="coerce")
    value = number.where(~missing).to_numpy(np.float64, na_value=np.nan)
    value = np.where(np.isinf(value), np.nan, value)
    code = text.where(missing, "").str[1:2].str.upper().to_numpy(object)
    bad = ~missing.to_numpy(bool) & np.isnan(value)
    return Coded(value[codes], code[codes], bad[codes])
