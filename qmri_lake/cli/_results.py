"""Tables of results, and the next command."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from qmri_lake.cli._exit import Stopped

__all__ = ["next_step", "print_table", "result_table", "stopped"]


def result_table(first: str, *names: str) -> Table:
    """Return an empty table. The first column and the column "loss" are left-aligned."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(first)
    for name in names:
        table.add_column(name, justify="left" if name == "loss" else "right")
    return table


def stopped(out: Path, kept: str) -> Stopped:
    """Return the exception of a stopped training; `kept` names the results in the folder `out`."""
    from qmri_lake.cli._exit import Stopped

    return Stopped(f"stopped; {out} keeps {kept}. Resume: run the same command with --resume")


def next_step(step: str, lake: str, out: Path) -> None:
    """Print the command that applies the trained models."""
    from qmri_lake.cli._progress import console

    console.print(
        f"next: qmri-lake run {step} --lake {shlex.quote(lake)} --set "
        f"models={shlex.quote(str(out))}"
    )


def print_table(frame: pd.DataFrame, title: str) -> None:
    """Print a DataFrame under a title; numbers are right-aligned, text is left-aligned."""
    import pandas as pd
    from rich import box
    from rich.table import Table

    from qmri_lake.cli._progress import console

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in frame.columns:
        is_number = pd.api.types.is_numeric_dtype(frame[name])
        table.add_column(str(name), justify="right" if is_number else "left", overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*map(str, row))
    console.print()
    console.print(title, style="bold")
    console.print(table)
