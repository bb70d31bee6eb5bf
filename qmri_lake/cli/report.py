"""The command that writes a report on a lake: report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qmri_lake.cli._options import CohortOption, LakeOption, RefOption, choose_exams

__all__ = ["report"]


def report(
    out: Annotated[Path, typer.Argument(metavar="OUT.html", help="HTML file to write.")],
    lake: LakeOption,
    cohort: CohortOption = None,
    exams: Annotated[int, typer.Option(min=0, help="Number of exams shown with images.")] = 6,
    models: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="MODELS",
            help="Folder of the ensemble that computed the masks (repeatable). Only its test exams "
            "are compared with reference masks; its training exams are excluded and counted.",
        ),
    ] = None,
    ref: RefOption = None,
) -> None:
    """Write a report on a lake: slices, T2 maps, histograms, and the history of its runs.

    If reference masks exist, the report shows their agreement with the masks of the lake. The
    report is one self-contained HTML file. Exams are read one at a time, so memory does not grow
    with the cohort.
    """
    from qmri_lake.cli._progress import console, counting
    from qmri_lake.lake.lake import open_lake
    from qmri_lake.report import write_report

    opened = open_lake(lake, ref=ref, mode="r")
    with counting("exams") as progress:
        written = write_report(
            opened,
            out,
            choose_exams(opened, cohort),
            exams=exams,
            models=models or (),
            progress=progress,
        )
    console.print(f"wrote {written}")
