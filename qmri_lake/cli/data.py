"""Commands that bring data in: phantom, phantom-truth, ingest, ingest-masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qmri_lake.cli.options import ClusterOption, LakeOption, shape

if TYPE_CHECKING:
    from qmri_lake.errors import Problem
    from qmri_lake.ingestion import IngestResult

__all__ = ["ingest", "ingest_masks", "phantom", "phantom_truth"]


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


def phantom_truth(
    lake: LakeOption,
    exams: Annotated[int, typer.Option(min=1, help="Knees of patients at visits.")] = 400,
    shape_: Annotated[
        str, typer.Option("--shape", metavar="SxRxC", help="Slices x rows x columns of the DESS.")
    ] = "64x144x144",
    seed: Annotated[int, typer.Option(help="Seed of the population.")] = 0,
    first_patient: Annotated[
        int,
        typer.Option(min=0, help="Index of the first patient; an archive of the seed starts at 0."),
    ] = 10_000,
    cluster: ClusterOption = None,
) -> int:
    """Add synthetic knees to a lake by their truth: masks, motion, T2 and clinical tables.

    For cohorts too large to go through DICOM, networks and fits. They have no images, and are
    marked: made_from == 'truth' in a query finds them, made_from == 'delivered' all others. What is
    there is skipped. In a new lake every knee fits; add what is delivered after them.

    Then: qmri-lake run sphere --lake LAKE
    """
    from qmri_lake.cli.progress import console, run_bar
    from qmri_lake.phantom import add_true_exams

    with run_bar() as bar:
        result = add_true_exams(
            lake, exams=exams, shape=shape(shape_), seed=seed, first_patient=first_patient,
            cluster=cluster, listeners=[bar],
        )  # fmt: skip
    console.print(str(result))
    show_problems(result.problems)
    return int(bool(result.problems) or bool(result.failed))


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


def ingest_masks(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A mask, or a folder of them, searched deeply.")
    ],
    lake: LakeOption,
    labels: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE|TABLE",
            help="What the numbers mean: oai-zib, oaizib-cm, bone-lesion, imorphics, iwoai, "
            "pymskt, qmri-lake; a .yaml file; or a table such as 1=femur,2=femoral.",
        ),
    ],
    into: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="reference|mask",
            help="reference: what networks learn from and are judged by. "
            "mask: the lake's own bone and cartilage, instead of segmenting.",
        ),
    ] = "reference",
    patient: Annotated[int | None, typer.Option(help="Patient number, if no name says it.")] = None,
    timepoint: Annotated[int | None, typer.Option(help="Months after enrolment, likewise.")] = None,
    knee: Annotated[str | None, typer.Option(help="left or right, likewise.")] = None,
    profile: Annotated[str | None, typer.Option(help="oai: array sizes of a new lake.")] = None,
    cluster: ClusterOption = None,
    problems: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Write the list of problems to a file too.")
    ] = None,
) -> int:
    """Import masks that were made elsewhere: NIfTI, NRRD, .npz, iMorphics .mat, IWOAI HDF5.

    A mask goes to the exam that its name or the options say: an exam key such as
    9000798-024m-right.nii.gz, or number, visit and side such as 9000798_V03_RIGHT.nrrd. It must lie
    on the grid of the exam's DESS image; axes in another order are put in order, nothing is
    resampled. A label that the table does not name is an error, never background.

    Tissues for a table: background, femur, tibia, patella; femoral, tibial, patellar (cartilage),
    meniscus. Several numbers may go to one.

    Without an image: --patient, --timepoint and --knee together make the exam from the mask's own
    grid.
    """
    from qmri_lake.cli.progress import console, run_bar
    from qmri_lake.masks.ingest import ingest_masks as run

    with run_bar() as bar:
        result = run(
            source, lake, labels=labels, into=into, patient=patient,  # type: ignore[arg-type]
            timepoint=timepoint, knee=knee, profile=profile, cluster=cluster, listeners=[bar],
        )  # fmt: skip
    console.print(str(result))
    for note in result.notes:
        console.print(f"  note: {note}", style="dim")
    show_problems(result.problems)
    if problems is not None:
        result.table().to_csv(problems, index=False)
    return int(bool(result.problems))


def show_ingest(result: IngestResult) -> None:
    """Print what an ingest did and what it could not do."""
    from qmri_lake.cli.progress import console

    console.print(str(result))
    for repeat in result.repeats:
        console.print(f"  repeat: {repeat}", style="dim")
    if result.ignored:
        kinds = ", ".join(f"{count} {kind}" for kind, count in result.ignored.items())
        console.print(f"  passed over: {kinds}", style="dim")
    for note in result.notes:
        console.print(f"  note: {note}", style="dim")
    show_problems(result.problems)


def show_problems(problems: Sequence[Problem]) -> None:
    """Print a table of problems, the first 50."""
    from rich import box
    from rich.table import Table

    from qmri_lake.cli.progress import console
    from qmri_lake.summary import counted

    if not problems:
        return
    ruled = console.is_terminal  # a log's lines are long, and no frame is to stand around them
    table = Table(box=box.HEAVY_HEAD if ruled else box.SIMPLE_HEAD, pad_edge=ruled, show_edge=ruled)
    columns: list[tuple[str, dict[str, Any]]] = [
        ("reason", {"style": "yellow", "no_wrap": True}), ("where", {"overflow": "fold"}),
        ("found; expected", {}), ("what to do", {}),
    ]  # fmt: skip
    for name, options in columns:
        table.add_column(name, **options)
    for problem in problems[:50]:
        said = "; ".join(part for part in (problem.found, problem.expected) if part)
        table.add_row(str(problem.reason), problem.where, said, problem.todo)
    console.print(counted(len(problems), "problem"), style="italic")
    console.print(table)
    if len(problems) > 50:
        console.print(f"... and {len(problems) - 50} more: --problems FILE.csv keeps them all")
