"""The cells of a table file as text, and the errors of incomplete tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from qmri_lake.errors import InputError, Reason

__all__ = ["RawTable", "Use", "number_text", "ragged", "truncated"]

Use = Callable[[str], bool]
"""Function that returns whether to read the column of a given name."""

_LISTED = 5
"""Maximum number of rows that a message names."""


@dataclass(frozen=True, slots=True, eq=False)
class RawTable:
    """The cells of a table as text; "" if a cell is blank."""

    columns: list[str]
    """Names of all columns, without blanks around them."""
    cells: pd.DataFrame
    """The columns that are used, by position. The index is the row in the file, from 1."""


def ragged(bad: Sequence[tuple[int, int]], wanted: int) -> InputError:
    """Return the error of rows, given as (row, cells), with more or fewer cells than the header."""
    named = [f"row {number} has {n} cells" for number, n in bad[:_LISTED]]
    more = f" and {len(bad) - _LISTED:,} more rows" if len(bad) > _LISTED else ""
    return InputError(
        ", ".join(named) + more,
        expected=f"{wanted} cells, as in the header",
        todo="Correct the rows, or download the table again. Nothing of the table was used.",
        reason=Reason.RAGGED_TABLE,
    )


def truncated(found: str) -> InputError:
    """Return the error of a table that ends too early."""
    return InputError(
        found,
        expected="a complete table",
        todo="Download the table again. Nothing of the table was used.",
        reason=Reason.TRUNCATED_FILE,
    )


def number_text(value: float) -> str:
    """Return the shortest text that gives a number, without a point if it is whole.

    >>> number_text(9000001.0), number_text(27.5)
    ('9000001', '27.5')
    """
    whole = abs(value) < 2**53 and value == int(value)
    return str(int(value)) if whole else repr(float(value))
