"""Commands that look at a lake and look after it: info, cohort, failures, tag, validate, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qmri_lake.cli.options import LakeArgument, LakeOption, RefOption, RequireOption

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["catalog", "cohort", "doctor", "failures", "info", "tag", "validate"]


def info(
    lake: LakeArgument,
    ref: RefOption = None,
    commits: Annotated[int, typer.Option(min=1, help="How many of the last commits to show.")] = 5,
) -> None:
    """Show a lake: exams, arrays, what has been computed, its last commits."""
    from qmri_lake.cli.progress import console
    from qmri_lake.lake import open_lake
    from qmri_lake.ledger import count_imported
    from qmri_lake.summary import (
        ago,
        array_sizes,
        counted,
        exams_by_visit,
        human_size,
        stored_bytes,
    )

    opened = open_lake(lake, ref=ref, mode="r")
    patients = opened.exams["patient"].nunique()
    at = f" at {ref}" if ref else ""
    what = f"{counted(len(opened), 'exam')} of {counted(patients, 'patient')}"
    console.print(f"{opened.url}{at}: {what}", style="bold")
    if opened.origin is not None:
        console.print(f"  derived from {opened.origin}", style="dim", soft_wrap=True)
    console.print(f"  {human_size(stored_bytes(opened))} of chunks", style="dim")
    for group, size in array_sizes(opened).items():
        console.print(f"  {group:<6} {size}", style="dim")
    if len(opened):
        visits = exams_by_visit(opened.exams).rename_axis(index="months")
        _show(visits.reset_index(), "Exams by timepoint and knee")
    status = opened.status()
    if len(status):
        rows = opened.cohort().rows
        status["of these imported"] = [
            count_imported(opened.root, str(step), rows, len(opened)) for step in status.index
        ]
        shown = status.loc[:, (status != 0).any()]
        _show(shown.rename_axis(index="step").reset_index(), "Steps")
    history = opened.history(commits)
    when = [ago(row["time"].to_pydatetime()) for row in history.to_dict("records")]
    history = history.assign(time=when, snapshot=history["snapshot"].str[:8])
    _show(history, "Last commits")


def cohort(
    query: Annotated[
        str, typer.Argument(metavar="QUERY", help="Such as \"knee == 'right' and kl >= 2\".")
    ],
    lake: LakeOption,
    require: RequireOption = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Write keys and clinical columns to a file.")
    ] = None,
    ref: RefOption = None,
) -> None:
    """Choose exams by a query; show how many each condition left, and why the others went.

    A query is made of comparisons, in (...), and, or, not, + - * /, missing(name) and names of
    columns: exam, patient, timepoint, knee, and the clinical columns such as age, sex, bmi, kl.
    """
    from qmri_lake.cli.progress import console
    from qmri_lake.lake import open_lake
    from qmri_lake.summary import counted

    chosen = open_lake(lake, ref=ref, mode="r").cohort(query).require(*(require or []))
    found = f"{counted(len(chosen), 'exam')} of {counted(chosen.patients, 'patient')}"
    _show(chosen.flow(), found)
    if csv is not None:
        chosen.table().to_csv(csv, index=False)
        console.print(f"wrote {csv}")
    elif len(chosen):
        _show(chosen.exams.head(10), "The first of them")


def failures(
    lake: LakeArgument,
    step: Annotated[str | None, typer.Option(help="Of one step only.")] = None,
) -> int:
    """List exams that failed, were skipped or flagged in a step, with the reason."""
    from qmri_lake.cli.progress import console
    from qmri_lake.lake import open_lake
    from qmri_lake.summary import counted

    found = open_lake(lake, mode="r").failures(step)
    if found.empty:
        console.print("nothing failed")
        return 0
    exams, steps = (counted(found[name].nunique(), name) for name in ("exam", "step"))
    _show(found, f"{exams} in {steps}")
    return int((found["state"] == "failed").any())


def tag(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as v1.")], lake: LakeOption
) -> None:
    """Name the newest commit of a lake, for ever."""
    from qmri_lake.cli.progress import console
    from qmri_lake.lake import open_lake

    snapshot = open_lake(lake).tag(name)
    console.print(f"{name} is {snapshot}: open it with --ref {name}")


def catalog(
    out: Annotated[Path, typer.Argument(metavar="OUT.yaml", help="The file to write.")],
    lake: LakeOption,
) -> None:
    """Write an intake catalog of a lake: one entry for each group that it has."""
    from qmri_lake.catalog import write_catalog
    from qmri_lake.cli.progress import console

    written = write_catalog(lake, out)
    console.print(f"wrote {written}: intake.open_catalog({str(written)!r})")


def validate(
    lake: LakeArgument,
    deep: Annotated[bool, typer.Option("--deep", help="Read every volume too.")] = False,
) -> int:
    """Check a lake against the declarations of its variables; list all faults."""
    from qmri_lake.cli.progress import console
    from qmri_lake.lake import open_lake
    from qmri_lake.summary import counted

    faults = open_lake(lake, mode="r").validate(deep=deep)
    for fault in faults:
        console.print(fault, soft_wrap=True)
    console.print(counted(len(faults), "fault") if faults else "no faults")
    return int(bool(faults))


def doctor(
    lake: LakeArgument,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove what killed runs left behind.")
    ] = False,
) -> int:
    """Look for what killed runs left: interrupted runs, orphaned chunks, a dead writer's name.

    Nothing that was committed is ever touched.
    """
    from qmri_lake.cli.progress import console
    from qmri_lake.lake import open_lake

    findings = open_lake(lake).doctor(repair=repair)
    console.print(str(findings), soft_wrap=True)
    return 0


def _show(frame: pd.DataFrame, title: str) -> None:
    """Print a DataFrame under a title: numbers to the right, words to the left."""
    import pandas as pd
    from rich import box
    from rich.table import Table

    from qmri_lake.cli.progress import console

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in frame.columns:
        number = pd.api.types.is_numeric_dtype(frame[name])
        table.add_column(str(name), justify="right" if number else "left", overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*map(str, row))
    console.print()
    console.print(title, style="bold")
    console.print(table)
