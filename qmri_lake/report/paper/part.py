"""A part of the paper's supplement: a table or a figure of a lake, or why it is not there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from qmri_lake.errors import QmriLakeError
from qmri_lake.report.latex import tabular

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Frame", "Part", "Shown", "Table", "attempt"]


class Table(Protocol):
    """A table that can be shown on a page and printed in a paper."""

    def html(self) -> str:
        """Return a ``<table>``."""
        ...

    def latex(self) -> str:
        """Return LaTeX that needs the package booktabs only."""
        ...


@dataclass(frozen=True, eq=False)
class Frame:
    """A table of words."""

    frame: pd.DataFrame

    def html(self) -> str:
        """Return a ``<table>``."""
        text: str = self.frame.to_html(index=False, border=0)
        return text

    def latex(self) -> str:
        """Return a tabular."""
        return tabular(self.frame)


class Shown(NamedTuple):
    """A table under its heading."""

    table: Table
    heading: str = ""
    folded: bool = False
    """Whether the page shows it only when asked to."""


@dataclass(frozen=True, eq=False)
class Part:
    """What is shown under one heading.

    ``absent`` says why there is nothing, or not all: a line each.
    """

    note: str = ""
    tables: Mapping[str, Shown] = field(default_factory=dict)
    """By the name of its file, such as ``table_s2``."""
    figures: Mapping[str, tuple[str, Figure]] = field(default_factory=dict)
    """Likewise: a caption, which may be "", and the figure."""
    absent: tuple[str, ...] = ()
    title: str = ""


def attempt(title: str, make: Callable[[], Part]) -> Part:
    """Make a part; where the lake lacks what it needs, say so in its place.

    A lake rarely has everything that the paper had: what is missing must not take the rest away,
    and must not be passed over either.
    """
    try:
        return replace(make(), title=title)
    except QmriLakeError as error:
        return Part(absent=(str(error),), title=title)
