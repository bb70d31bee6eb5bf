"""Commands that bring data in: phantom, ingest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qmri_lake.cli.options import ClusterOption, LakeOption, shape

if TYPE_CHECKING:
    from qmri_lake.ingestion import IngestResult

__all__ = ["ingest", "phantom"]


def phantom(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write the archive into.")],
    exams: Annotated[int, typer.Option(min=1, help="Knees of patients at visits.")] = 8,
    shape_: Annotated[
        str, typer.Option("--shape", metavar="SxRxC", help="Slices x rows x columns of the DESS.")
    ] = "64x144x144",
    seed: Annotated[int, typer.Option(help="Seed of the population.")] = 0,
    signal: Annotated[
        str, typer.Option(help="epg: as scanners measure; mono: exactly exponential.")
    ] = "epg",
    compress: Annotated[
        bool, typer.Option("--compress", help="One .tar.gz a series, as NDA delivers them.")
    ] = False,
) -> None:
    """Write a synthetic OAI: DICOM folders, clinical tables, and the truth beside them.

    Nobody in it exists. 40x96x96 is for trying things out, 64x144x144 the smallest size for
    figures, 160x384x384 the size of the real OAI.

    Then: qmri-lake ingest OUT --lake oai.lake --masks OUT/truth
    """
    from qmri_lake.cli.progress import console, counting
    from qmri_lake.phantom import write_archive

    with counting("exams") as progress:
        archive = write_archive(
            out, exams=exams, shape=shape(shape_), seed=seed, signal=signal,  # type: ignore[arg-type]
            compress=compress, progress=progress,
        )  # fmt: skip
    console.print(
        f"wrote {len(archive.exams)} exams to {archive.path}, their truth to {archive.truth}"
    )
    console.print(f"next: qmri-lake ingest {out} --lake oai.lake --masks {archive.truth}")


def ingest(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder of DICOM folders or tars, or a tar.")
    ],
    lake: LakeOption,
    masks: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of masks, EXAM.npz, on both grids.")
    ] = None,
    patient: Annotated[
        int | None, typer.Option(help="Patient number, where no header or folder says it.")
    ] = None,
    timepoint: Annotated[int | None, typer.Option(help="Months after enrolment, likewise.")] = None,
    knee: Annotated[str | None, typer.Option(help="left or right, likewise.")] = None,
    group: Annotated[
        str | None, typer.Option(help="dess or msme; default: several echo times mean msme.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="oai: array sizes of a new lake that fit every OAI series.")
    ] = None,
    cluster: ClusterOption = None,
    problems: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Write the list of problems to a file too.")
    ] = None,
) -> int:
    """Read DICOM series and clinical tables into a lake.

    Only what is new is added. What can't be used is listed with its reason and what to do, and
    the rest goes on.
    """
    from qmri_lake.cli.progress import reading, run_bar
    from qmri_lake.ingestion import ingest as run

    with reading("headers") as progress, run_bar() as bar:
        result = run(
            source, lake, masks=masks, patient=patient, timepoint=timepoint, knee=knee,
            group=group, profile=profile, cluster=cluster, progress=progress, listeners=[bar],
        )  # fmt: skip
    show_ingest(result)
    if problems is not None:
        result.table().to_csv(problems, index=False)
    return int(bool(result.problems))


def show_ingest(result: IngestResult) -> None:
    """Print what an ingest did and what it could not do."""
    from rich.table import Table

    from qmri_lake.cli.progress import console

    console.print(str(result))
    for repeat in result.repeats:
        console.print(f"  repeat: {repeat}", style="dim")
    if result.ignored:
        kinds = ", ".join(f"{count} {kind}" for kind, count in result.ignored.items())
        console.print(f"  passed over: {kinds}", style="dim")
    for note in result.notes:
        console.print(f"  note: {note}", style="dim")
    if not result.problems:
        return
    table = Table(title=f"{len(result.problems)} problems", title_justify="left")
    columns: list[tuple[str, dict[str, Any]]] = [
        ("reason", {"style": "yellow", "no_wrap": True}), ("where", {"overflow": "fold"}),
        ("found; expected", {}), ("what to do", {}),
    ]  # fmt: skip
    for name, options in columns:
        table.add_column(name, **options)
    for problem in result.problems[:50]:
        said = "; ".join(part for part in (problem.found, problem.expected) if part)
        table.add_row(str(problem.reason), problem.where, said, problem.todo)
    console.print(table)
    if len(result.problems) > 50:
        console.print(
            f"... and {len(result.problems) - 50} more: --problems FILE.csv keeps them all"
        )
