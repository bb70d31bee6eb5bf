"""Commands for the correction of masks by hand: export-for-editing, import-edits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qmri_lake.cli._options import (
    CohortOption,
    LakeArgument,
    LakeOption,
    ProblemsOption,
    RefOption,
    choose_exams,
)
from qmri_lake.cli._problems import show_problems

if TYPE_CHECKING:
    from qmri_lake.editing.reimport import EditResult

__all__ = ["export_for_editing", "import_edits"]


def export_for_editing(
    lake: LakeArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the files.")],
    cohort: CohortOption = None,
    program: Annotated[
        str,
        typer.Option(
            metavar="slicer|itksnap",
            help="slicer: EXAM.nrrd and EXAM.seg.nrrd for 3D Slicer. itksnap: EXAM.nii.gz, one "
            "label map for bones and one for cartilage, and label descriptions.",
        ),
    ] = "slicer",
    masks: Annotated[
        str,
        typer.Option(
            metavar="mask|reference",
            help="mask: dess/bone and dess/cartilage. reference: the references of networks.",
        ),
    ] = "mask",
    variant: Annotated[
        str, typer.Option(metavar="NAME", help="Export this variant of the masks, such as edited.")
    ] = "",
    ref: RefOption = None,
) -> None:
    """Write images and masks for correction by hand with 3D Slicer or ITK-SNAP.

    Edit the masks, save them under the same names, and import them with `import-edits`. Keep
    manifest.json in the folder: it says which masks were exported.
    """
    from qmri_lake.cli._progress import console, counting
    from qmri_lake.editing.export import export_for_editing as run
    from qmri_lake.lake.lake import open_lake

    source = open_lake(lake, ref=ref, mode="r")
    chosen = source.resolve(choose_exams(source, cohort))
    with counting("exams") as progress:
        result = run(
            source,
            out,
            chosen,
            program=program,  # type: ignore[arg-type]
            masks=masks,  # type: ignore[arg-type]
            variant=variant,
            progress=progress,
        )
    console.print(str(result))
    console.print(
        f"next: edit and save the masks, then qmri-lake import-edits {out} --lake {lake} "
        "--by INITIALS --reason TEXT"
    )


def import_edits(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder written by export-for-editing.")
    ],
    lake: LakeOption,
    by: Annotated[
        str,
        typer.Option(
            metavar="INITIALS|ROLE",
            help="Who edited the masks, such as AB or 'reader 2'. Not a full name: all who have "
            "the lake can read it.",
        ),
    ],
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Why the masks were edited, in one line.")
    ],
    into: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="variant|mask",
            help="variant: store dess/bone__edited and so on beside the masks. mask: replace the "
            "masks; earlier ones stay in the history, and results computed from them are stale.",
        ),
    ] = "variant",
    variant: Annotated[str, typer.Option(metavar="NAME", help="Name of the variant.")] = "edited",
    agreement: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Also write the agreement before and after to this file."),
    ] = None,
    problems: ProblemsOption = None,
) -> int:
    """Import masks that were corrected by hand; only those that were changed are stored.

    The run records who edited the masks and why. The agreement of the masks before and after is
    printed for each exam and tissue: Dice coefficient and mean surface distance.
    """
    from qmri_lake.cli._progress import console, counting, run_bar
    from qmri_lake.editing.reimport import import_edits as run

    with counting("exams") as progress, run_bar() as bar:
        result = run(
            folder,
            lake,
            by=by,
            reason=reason,
            into=into,  # type: ignore[arg-type]
            variant=variant,
            progress=progress,
            listeners=[bar],
        )
    console.print(str(result))
    for note in result.notes:
        console.print(f"  note: {note}", style="dim")
    _show_agreement(result)
    show_problems(result.problems)
    if agreement is not None:
        result.agreement.to_csv(agreement, index=False)
    if problems is not None:
        result.table().to_csv(problems, index=False)
    return int(bool(result.problems))


def _show_agreement(result: EditResult) -> None:
    """Print the agreement of the masks before and after editing."""
    from qmri_lake.cli._results import print_table

    if result.agreement.empty:
        return
    shown = result.agreement.assign(
        dsc=result.agreement["dsc"].map("{:.4f}".format),
        mpts_mm=result.agreement["mpts_mm"].map("{:.3f}".format),
    )
    print_table(shown, "agreement of the masks before and after editing")
