"""What a command that trained says at its end."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

__all__ = ["next_step", "result_table", "stopped"]


def result_table(first: str, *names: str) -> Any:
    """Make a table, its first column and that of losses on the left."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(first)
    for name in names:
        table.add_column(name, justify="left" if name == "loss" else "right")
    return table


def stopped(out: Path, what: str) -> Exception:
    """Return what to raise when a training was stopped: what is kept, and how to go on."""
    from qmri_lake.cli import Stopped

    return Stopped(
        f"stopped; {out} keeps {what}: the same command with --resume goes on from there"
    )


def next_step(step: str, lake: str, out: Path) -> None:
    """Print the command that uses what was trained."""
    from qmri_lake.cli.progress import console

    console.print(
        f"next: qmri-lake run {step} --lake {shlex.quote(lake)} --set "
        f"models={shlex.quote(str(out))}",
        soft_wrap=True,
    )
