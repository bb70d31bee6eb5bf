"""Commands that inspect a lake: info, cohort, failures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qmri_lake.cli._options import (
    LakeArgument,
    LakeOption,
    RefOption,
    RequireOption,
    choose_exams,
)
from qmri_lake.cli._results import print_table

__all__ = ["cohort", "failures", "info"]


def info(
    lake: LakeArgument,
    ref: RefOption = None,
    commits: Annotated[int, typer.Option(min=1, help="Number of recent commits to show.")] = 5,
) -> None:
    """Show the content of a lake: exams, arrays, the state of each step, recent commits."""
    from qmri_lake.cli._progress import console
    from qmri_lake.core.text import ago, counted
    from qmri_lake.lake.lake import open_lake
    from qmri_lake.lake.status_table import count_imported
    from qmri_lake.lake.summary import array_sizes, exams_by_visit, storage
    from qmri_lake.lake.synthetic_exams import describe_synthetic

    opened = open_lake(lake, ref=ref, mode="r")
    patients = opened.exams["patient"].nunique()
    at = f" at {ref}" if ref else ""
    size = f"{counted(len(opened), 'exam')} of {counted(patients, 'patient')}"
    console.print(f"{opened.url}{at}: {size}", style="bold")
    if opened.origin is not None:
        console.print(f"  derived from {opened.origin}", style="dim")
    if opened.deidentification is not None:
        console.print("  pseudonymised: new patient numbers, shifted dates", style="dim")
    if text := describe_synthetic(opened):
        console.print(f"  {text}")
    console.print(f"  {storage(opened)}", style="dim")
    for group, shape in array_sizes(opened).items():
        console.print(f"  {group:<6} {shape}", style="dim")
    if len(opened):
        visits = exams_by_visit(opened.exams).rename_axis(index="months")
        print_table(visits.reset_index(), "Exams by timepoint and knee")
    status = opened.status()
    if len(status):
        rows = opened.cohort().rows
        status["of these imported"] = [
            count_imported(opened.root, str(step), rows, len(opened)) for step in status.index
        ]
        shown = status.loc[:, (status != 0).any()]
        print_table(shown.rename_axis(index="step").reset_index(), "Steps")
    history = opened.history(commits)
    when = [ago(row["time"].to_pydatetime()) for row in history.to_dict("records")]
    history = history.assign(time=when, snapshot=history["snapshot"].str[:8])
    print_table(history, "Last commits")


def cohort(
    query: Annotated[
        str,
        typer.Argument(
            metavar="QUERY|@FILE",
            help="Query, such as \"knee == 'right' and kl >= 2\", or a list such as @ids.csv.",
        ),
    ],
    lake: LakeOption,
    require: RequireOption = None,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Write the exam keys and clinical columns to this file."),
    ] = None,
    ref: RefOption = None,
) -> None:
    """Select exams by a query; show how many exams each condition excludes, and why.

    A query compares columns and combines the comparisons with and, or and not. It can also contain
    in (...), + - * / and missing(name).
    Columns are exam, patient, timepoint (months), knee, and the clinical columns, such as age, sex,
    bmi and kl. @FILE selects the exams listed in a text file, alone or with other conditions, such
    as "@ids.csv and kl >= 2". The file is a table with a column patient, and optionally timepoint
    and knee, or has one patient number or exam key on each line.
    """
    from qmri_lake.cli._progress import console
    from qmri_lake.core.text import counted
    from qmri_lake.lake.lake import open_lake

    opened = open_lake(lake, ref=ref, mode="r")
    chosen = opened.resolve(choose_exams(opened, query)).require(*(require or []))
    size = f"{counted(len(chosen), 'exam')} of {counted(chosen.patients, 'patient')}"
    print_table(chosen.flow(), size)
    if csv is not None:
        chosen.table().to_csv(csv, index=False)
        console.print(f"wrote {csv}")
    elif len(chosen):
        print_table(chosen.exams.head(10), "First exams")


def failures(
    lake: LakeArgument,
    step: Annotated[str | None, typer.Option(metavar="STEP", help="List only this step.")] = None,
) -> int:
    """List exams that failed, were skipped or were flagged in a step, with the reason."""
    from qmri_lake.cli._progress import console
    from qmri_lake.core.text import counted
    from qmri_lake.lake.lake import open_lake

    table = open_lake(lake, mode="r").failures(step)
    if table.empty:
        console.print("no failures")
        return 0
    exams, steps = (counted(table[name].nunique(), name) for name in ("exam", "step"))
    print_table(table, f"{exams} in {steps}")
    return int((table["state"] == "failed").any())
