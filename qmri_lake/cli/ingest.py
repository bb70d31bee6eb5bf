"""Commands that add data to a lake: ingest, ingest-masks, ingest-table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qmri_lake.cli._options import (
    ClusterOption,
    FormOption,
    KneeOption,
    LakeOption,
    PatientOption,
    ProblemsOption,
    ProfileOption,
    TimepointOption,
    parse_units,
    parse_visits,
)
from qmri_lake.cli._problems import show_ingest, show_problems

__all__ = ["ingest", "ingest_masks", "ingest_table"]


# One option for each argument of `ql.ingest`.
def ingest(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="Folder that contains DICOM folders or archives (tar, tar.gz, zip), a single "
            "archive, a folder of image files, or a BIDS dataset.",
        ),
    ],
    lake: LakeOption,
    masks: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder with one file EXAM.npz per exam, with masks on the DESS and MSME grids.",
        ),
    ] = None,
    patient: PatientOption = None,
    timepoint: TimepointOption = None,
    knee: KneeOption = None,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="dess|msme|t1rho|t2star|qdess",
            help="Group for series that cannot be identified by their name or acquisition; "
            "also a group that your own step declares.",
        ),
    ] = None,
    series: Annotated[
        list[str] | None,
        typer.Option(
            metavar="UID|DESCRIPTION",
            help="Use only this series, by UID, description or folder (repeatable).",
        ),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Names of image files, relative to SOURCE: text with `{patient}`, "
            "`{timepoint}` or `{visit}`, `{knee}`, `{group}`, `{echo}`, `{time}`, `*`, `?` and "
            "`**/` for any folders. Example: `{patient}_{timepoint}m_{knee}_dess.nii.gz`. "
            "A pattern that ends with `/` names folders of DICOM series.",
        ),
    ] = None,
    files: Annotated[
        Path | None,
        typer.Option(
            "--list",
            metavar="CSV",
            help="List of image files with the columns file, patient, timepoint, knee, and "
            "optionally group, echo, `time_ms`. Example row: `a/scan1.nii.gz,P007,24m,left,dess`.",
        ),
    ] = None,
    bids: Annotated[
        bool | None,
        typer.Option(
            "--bids/--no-bids",
            help="Read SOURCE as a BIDS dataset (default: if it has images in "
            "`sub-*/[ses-*/]anat`).",
        ),
    ] = None,
    visit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=MONTHS",
            help="Months of a `{visit}` of a pattern, or of a session of BIDS, such as "
            "followup=24 (repeatable).",
        ),
    ] = None,
    form: FormOption = None,
    any_position: Annotated[
        bool,
        typer.Option(
            "--any-position",
            help="Use image files whose position is on the side of the other knee.",
        ),
    ] = False,
    replace: Annotated[
        list[str] | None,
        typer.Option(metavar="EXAM", help="Replace the stored series of this exam (repeatable)."),
    ] = None,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Replace stored series by more complete delivered ones."),
    ] = False,
    profile: ProfileOption = None,
    cluster: ClusterOption = None,
    problems: ProblemsOption = None,
) -> int:
    """Read images and clinical tables into a lake.

    DICOM: `qmri-lake ingest DELIVERY --lake knees.lake`

    NIfTI, NRRD, MetaImage and PAR/REC, by their names: `qmri-lake ingest FOLDER --lake knees.lake
    --group dess --pattern "{patient}_{timepoint}m_{knee}_dess.nii.gz"`

    The same, by a list: `qmri-lake ingest FOLDER --lake knees.lake --list files.csv`

    BIDS: `qmri-lake ingest DATASET --lake knees.lake --visit followup=24`

    Only new series are added; --replace and --repair also replace stored ones. Unusable files are
    listed with the reason and what to do; all others are ingested.
    """
    from qmri_lake.cli._progress import reading, run_bar
    from qmri_lake.ingestion.images import ingest as run

    with reading("headers") as progress, run_bar() as bar:
        result = run(
            source,
            lake,
            masks=masks,
            patient=patient,
            timepoint=timepoint,
            knee=knee,
            group=group,
            series=series,
            pattern=pattern,
            files=files,
            bids=bids,
            visits=parse_visits(visit or []) or None,
            form=form,  # type: ignore[arg-type]
            any_position=any_position,
            replace=replace or (),
            repair=repair,
            profile=profile,
            cluster=cluster,
            progress=progress,
            listeners=[bar],
        )
    show_ingest(result)
    if problems is not None:
        result.table().to_csv(problems, index=False)
    return int(bool(result.problems))


# One option for each argument of `ql.ingest_masks`.
def ingest_masks(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="A mask, or a folder that is searched recursively."),
    ],
    lake: LakeOption,
    labels: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE|TABLE",
            help="Meaning of the label values: oai-zib, oaizib-cm, oai-zib-uq, akoa, bone-lesion, "
            "imorphics, iwoai, skm-tea, pymskt or qmri-lake; a .yaml file; or a table such as "
            "1=femur,2=femoral.",
        ),
    ],
    into: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="reference|mask",
            help="reference: ground truth for the training and evaluation of networks. "
            "mask: bone and cartilage masks of the lake, used instead of a segmentation.",
        ),
    ] = "reference",
    patient: PatientOption = None,
    timepoint: TimepointOption = None,
    knee: KneeOption = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Pattern of the file names, such as `{patient}_{timepoint}m_{knee}*.nii.gz`. "
            "Without it, names are read as described above.",
        ),
    ] = None,
    files: Annotated[
        Path | None,
        typer.Option(
            "--list",
            metavar="CSV",
            help="List of the files with the columns file, patient, timepoint and knee.",
        ),
    ] = None,
    visit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=MONTHS",
            help="Months of a `{visit}` of a pattern, such as followup=24 (repeatable).",
        ),
    ] = None,
    create: Annotated[
        bool,
        typer.Option(
            "--create",
            help="Create exams that have no image, on the grids of their masks. --pattern, --list, "
            "and --patient, --timepoint and --knee together imply it.",
        ),
    ] = False,
    form: FormOption = None,
    profile: ProfileOption = None,
    cluster: ClusterOption = None,
    problems: ProblemsOption = None,
) -> int:
    """Import masks made elsewhere: NIfTI, NRRD, MetaImage, DICOM SEG, .npz, .mat, HDF5.

    The exam of a mask is identified by the file name or by the options. The file name is an exam
    key, such as 9000798-024m-right.nii.gz, or contains patient, visit and side, such as
    9000798_V03_RIGHT.nrrd. The mask must lie on the grid of the exam's DESS image: axes are
    reordered, but nothing is resampled. A label that is missing in the table raises an error; it
    is never treated as background.

    Tissues for a table: background; femur, tibia, patella (bones); femoral, tibial, patellar
    (cartilage); meniscus. Several label values may stand for the same tissue. Medial and lateral
    parts are kept if the table tells them: medial tibial, lateral tibial, medial meniscus, lateral
    meniscus.
    """
    from qmri_lake.cli._progress import console, counting, run_bar
    from qmri_lake.ingestion.masks import ingest_masks as run

    with counting("masks") as progress, run_bar() as bar:
        result = run(
            source,
            lake,
            labels=labels,
            into=into,  # type: ignore[arg-type]
            patient=patient,
            timepoint=timepoint,
            knee=knee,
            pattern=pattern,
            files=files,
            visits=parse_visits(visit or []) or None,
            create=create,
            form=form,  # type: ignore[arg-type]
            profile=profile,
            cluster=cluster,
            progress=progress,
            listeners=[bar],
        )
    console.print(str(result))
    for note in result.notes:
        console.print(f"  note: {note}", style="dim")
    show_problems(result.problems)
    if problems is not None:
        result.table().to_csv(problems, index=False)
    return int(bool(result.problems))


# Twelve parameters: one option for each argument of `ql.ingest_table`.
def ingest_table(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The table, with a header row.")],
    lake: LakeOption,
    patient: Annotated[
        str,
        typer.Option(
            metavar="COLUMN", help="Column with the number or the identifier of the patient."
        ),
    ],
    timepoint: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column with the timepoint: months (24 or 24m), or visits of the OAI (V03). "
            "Without it, a row holds for every visit of its patient.",
        ),
    ] = None,
    knee: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column with the side: left, right, L, R, or the codes of the OAI, 1 (right) and "
            "2 (left). Without it, a row holds for both knees.",
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN|NEW=COLUMN",
            help="Column to store, also under a new name (repeatable, or with commas between; "
            "default: all columns except the keys).",
        ),
    ] = None,
    unit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=UNIT", help="Unit of a numeric column, such as mm (repeatable)."
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN", help="Column to store as text, even if it has numbers (repeatable)."
        ),
    ] = None,
    missing: Annotated[
        list[str] | None,
        typer.Option(metavar="CODE", help="Code of a missing value, such as -9 (repeatable)."),
    ] = None,
    prefix: Annotated[
        str, typer.Option(metavar="NAME_", help="Start of the name of each stored column.")
    ] = "",
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Replace columns of an earlier table; the earlier version stays in the history.",
        ),
    ] = False,
    problems: ProblemsOption = None,
) -> int:
    """Add columns of your own table to a lake, for queries and for loading.

    A row joins the exams and visits with its patient, timepoint and knee. Rows that match nothing
    and exams without a row are counted. Rows with the same keys and different values are listed
    and not stored. Nothing is replaced without --replace.
    """
    from qmri_lake.cli._progress import console
    from qmri_lake.ingestion.tables import ingest_table as run

    result = run(
        file,
        lake,
        patient=patient,
        timepoint=timepoint,
        knee=knee,
        columns=columns or None,
        units=parse_units(unit or []),
        text=text or [],
        missing=missing or [],
        prefix=prefix,
        replace=replace,
    )
    console.print(str(result))
    for note in result.notes:
        console.print(f"  {note}", style="dim", highlight=False)
    show_problems(result.problems)
    if problems is not None:
        result.table().to_csv(problems, index=False)
    return int(bool(result.problems))
