"""Sections of the paper report: tables and figures, or the reasons why they are not available."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from qmri_lake.core.latex import tabular
from qmri_lake.errors import QmriLakeError, sentence

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Section", "Table", "TitledTable", "WordTable", "reason", "try_section"]


class Table(Protocol):
    """A table that can be written as HTML and as LaTeX."""

    def html(self) -> str:
        """Return the table as an HTML ``<table>``."""
        ...

    def latex(self) -> str:
        """Return the table in LaTeX, which requires only the package booktabs."""
        ...


@dataclass(frozen=True, eq=False)
class WordTable:
    """A table whose cells are text."""

    frame: pd.DataFrame

    def html(self) -> str:
        """Return the table as an HTML ``<table>``."""
        text: str = self.frame.to_html(index=False, border=0)
        return text

    def latex(self) -> str:
        """Return the table as a LaTeX tabular."""
        return tabular(self.frame)


class TitledTable(NamedTuple):
    """A table with a heading."""

    table: Table
    heading: str = ""
    folded: bool = False
    """Whether the page shows the table only after a click on the heading."""


@dataclass(frozen=True, eq=False)
class Section:
    """Tables and figures under one heading."""

    note: str = ""
    tables: Mapping[str, TitledTable] = field(default_factory=dict)
    """Tables by file name without suffix, such as ``table_s2``."""
    figures: Mapping[str, tuple[str, Figure]] = field(default_factory=dict)
    """Caption, which may be "", and figure, by file name without suffix."""
    warnings: tuple[str, ...] = ()
    """Missing parts with reasons, and limitations of the results; one line each."""
    title: str = ""


def try_section(title: str, make: Callable[[], Section]) -> Section:
    """Make a section; if the lake lacks data for it, return a section with the reason.

    A lake rarely contains all data of the paper. If data are missing, the other sections are still
    written, and the report states the reason.
    """
    try:
        return replace(make(), title=title)
    except QmriLakeError as error:
        return Section(warnings=(f"Not available: {reason(error)}",), title=title)


def reason(error: QmriLakeError) -> str:
    """Return the message of an error without its location.

    The page may be shared with others, so it must not contain local paths.
    """
    return sentence(error.found, error.expected, error.todo)
