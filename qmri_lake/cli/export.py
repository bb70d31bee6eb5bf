"""The command that writes exams in formats of other programs: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qmri_lake.cli._options import (
    ClusterOption,
    CohortOption,
    LakeOption,
    ProblemsOption,
    RefOption,
    RequireOption,
    choose_exams,
)

__all__ = ["export"]


def export(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder of the files: new, or to resume.")
    ],
    lake: LakeOption,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            help="nifti, nrrd, bids, dicom, ome-zarr, netcdf, mat, parquet, csv, vtk, ply or "
            "gifti.",
        ),
    ],
    variables: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GROUP[/NAME],...",
            help="Groups or variables, such as dess/image,msme/t2 (repeatable; default: all that "
            "the format can hold, except clinical values, UIDs, texts and dates).",
        ),
    ] = None,
    cohort: CohortOption = None,
    require: RequireOption = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Names of the files without suffix, such as "
            '"{patient}_{timepoint:03d}m_{knee}_{variable}" (default: by exam key).',
        ),
    ] = None,
    cluster: ClusterOption = None,
    problems: ProblemsOption = None,
    ref: RefOption = None,
) -> int:
    """Write images, labels, maps and tables of exams in formats that other programs read.

    nifti, nrrd, ome-zarr and dicom hold volumes: images, labels and maps. netcdf and mat hold any
    array. parquet and csv hold tables of clinical values and region averages. vtk, ply and gifti
    hold bones as meshes with maps. bids is a dataset of NIfTI images.

    Files are named by the exam key and contain nothing else of the patient, unless you name such
    variables. A manifest lists all files with digests. Run the same command again to resume:
    intact files of the same results are kept.
    """
    from qmri_lake.cli._problems import show_problems
    from qmri_lake.cli._progress import console, run_bar
    from qmri_lake.cli._results import print_table
    from qmri_lake.core.text import counted
    from qmri_lake.exporting.export_exams import export as export_exams
    from qmri_lake.lake.lake import open_lake

    names = [n.strip() for text in variables or () for n in text.split(",") if n.strip()]
    opened = open_lake(lake, ref=ref, mode="r")
    chosen = opened.resolve(choose_exams(opened, cohort)).require(*(require or []))
    with run_bar() as bar:
        result = export_exams(
            chosen,
            out,
            format=format,
            variables=names or None,
            pattern=pattern,
            cluster=cluster,
            listeners=[bar],
        )
    console.print(f"{result}: {out}")
    for loss, exams in result.losses.items():
        console.print(f"  lost in {counted(exams, 'exam')}: {loss}")
    if len(result.left_out):
        counts = result.left_out.groupby(["variable", "reason"], sort=False).size()
        print_table(counts.rename("exams").reset_index(), "Left out, because there is no value")
    if result.other_exams:
        console.print(f"  {counted(result.other_exams, 'exam')} of earlier exports kept in {out}")
    show_problems(result.problems)
    if problems is not None:
        result.table().to_csv(problems, index=False)
    return int(bool(result.problems))
