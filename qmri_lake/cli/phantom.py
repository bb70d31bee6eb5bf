"""Commands that make synthetic knees: phantom, phantom-truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qmri_lake.cli._options import (
    ClusterOption,
    ExamsOption,
    LakeOption,
    PopulationSeedOption,
    ShapeOption,
    parse_shape,
)
from qmri_lake.cli._problems import show_problems

__all__ = ["phantom", "phantom_truth"]


def phantom(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the archive.")],
    exams: ExamsOption = 8,
    shape: ShapeOption = "64x144x144",
    seed: PopulationSeedOption = 0,
    signal: Annotated[
        str,
        typer.Option(
            metavar="epg|mono",
            help="Model of the multi-echo signal: epg (with stimulated echoes, as on scanners) or "
            "mono (exactly mono-exponential).",
        ),
    ] = "epg",
    compress: Annotated[
        bool, typer.Option("--compress", help="Write one .tar.gz per series, as NDA delivers them.")
    ] = False,
    series: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Other series that each exam also has: t1rho, t2star, qdess, with commas between.",
        ),
    ] = "",
) -> None:
    """Write a synthetic OAI: DICOM folders, clinical tables, and the ground truth.

    All patients are synthetic. Use 40x96x96 for a quick trial, at least 64x144x144 for figures, and
    160x384x384 for the size of the real OAI.

    Next: qmri-lake ingest OUT --lake oai.lake --masks OUT/truth
    """
    from qmri_lake.cli._progress import console, counting
    from qmri_lake.phantom import write_archive

    with counting("exams") as progress:
        archive = write_archive(
            out,
            exams=exams,
            shape=parse_shape(shape),
            seed=seed,
            signal=signal,  # type: ignore[arg-type]
            compress=compress,
            series=[name.strip() for name in series.split(",") if name.strip()],  # type: ignore[misc]
            progress=progress,
        )
    console.print(
        f"wrote {len(archive.exams)} exams to {archive.path}, ground truth to {archive.truth}"
    )
    console.print(f"next: qmri-lake ingest {out} --lake oai.lake --masks {archive.truth}")


def phantom_truth(
    lake: LakeOption,
    exams: ExamsOption = 400,
    shape: ShapeOption = "64x144x144",
    seed: PopulationSeedOption = 0,
    first_patient: Annotated[
        int,
        typer.Option(
            min=0,
            help="Index of the first patient in the synthetic population. The indices of the "
            "patients in an archive with the same seed start at 0.",
        ),
    ] = 10_000,
    cluster: ClusterOption = None,
) -> int:
    """Add synthetic knees without images to a lake: true masks, motion, T2 and clinical tables.

    Use this command for cohorts that are too large for DICOM, networks and fits. The exams are
    marked: the query made_from == 'truth' selects them, and made_from == 'delivered' selects all
    other exams. Exams that the lake already has are skipped. If the lake is new, run this command
    before ingesting images: the arrays are then large enough for every synthetic knee.

    Next: qmri-lake run sphere --lake LAKE
    """
    from qmri_lake.cli._progress import console, run_bar
    from qmri_lake.phantom import add_true_exams

    with run_bar() as bar:
        result = add_true_exams(
            lake,
            exams=exams,
            shape=parse_shape(shape),
            seed=seed,
            first_patient=first_patient,
            cluster=cluster,
            listeners=[bar],
        )
    console.print(str(result))
    show_problems(result.problems)
    return int(bool(result.problems) or bool(result.failed))
