"""Print the result of an ingestion, and a table of its problems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qmri_lake.errors import Problem
    from qmri_lake.ingestion.images import IngestResult

__all__ = ["show_ingest", "show_problems"]

MAX_PROBLEMS = 50
"""Maximum number of problems that are printed."""


def show_ingest(result: IngestResult) -> None:
    """Print the result of an ingestion: ingested exams, repeats, ignored files and problems."""
    from qmri_lake.cli._progress import console

    console.print(str(result))
    for repeat in result.repeats:
        console.print(f"  repeat: {repeat}", style="dim")
    if result.ignored:
        kinds = ", ".join(f"{count} {kind}" for kind, count in result.ignored.items())
        console.print(f"  ignored: {kinds}", style="dim")
    for note in result.notes:
        console.print(f"  note: {note}", style="dim")
    show_problems(result.problems)


def show_problems(problems: Sequence[Problem]) -> None:
    """Print a table of problems, at most `MAX_PROBLEMS`."""
    from rich import box
    from rich.table import Table

    from qmri_lake.cli._progress import console
    from qmri_lake.core.text import counted
    from qmri_lake.errors import sentence

    if not problems:
        return
    framed = console.is_terminal  # in a log, a frame would make long lines hard to read
    table = Table(
        box=box.HEAVY_HEAD if framed else box.SIMPLE_HEAD, pad_edge=framed, show_edge=framed
    )
    columns: list[tuple[str, dict[str, Any]]] = [
        ("reason", {"style": "yellow", "no_wrap": True}),
        ("where", {"overflow": "fold"}),
        ("problem (expected)", {}),
        ("what to do", {}),
    ]
    for name, options in columns:
        table.add_column(name, **options)
    for problem in problems[:MAX_PROBLEMS]:
        message = sentence(problem.found, problem.expected)
        table.add_row(str(problem.reason), problem.where, message, problem.todo)
    console.print(counted(len(problems), "problem"), style="italic")
    console.print(table)
    if len(problems) > MAX_PROBLEMS:
        more = len(problems) - MAX_PROBLEMS
        console.print(f"... and {more} more; --problems FILE.csv writes all of them")
