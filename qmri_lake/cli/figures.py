"""Commands that draw exams and the paper's figures: view, atlas, paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qmri_lake.cli._options import CohortOption, LakeOption, RefOption, choose_exams

__all__ = ["atlas", "paper", "view"]

_ExamArgument = Annotated[
    str, typer.Argument(metavar="EXAM", help="Key of the exam, such as 9000001-012m-right.")
]


def view(
    exam: _ExamArgument,
    lake: LakeOption,
    out: Annotated[
        Path | None,
        typer.Option(metavar="OUT.html", help="HTML file to write (default: EXAM.html)."),
    ] = None,
    ref: RefOption = None,
) -> None:
    """Write an interactive page of one exam: slices with masks and T2, maps, rotatable bones.

    The page is one self-contained HTML file that works offline. Products that the exam does not
    have are omitted.
    """
    from qmri_lake.cli._progress import console
    from qmri_lake.lake.lake import open_lake
    from qmri_lake.report import write_view

    written = write_view(open_lake(lake, ref=ref, mode="r"), exam, out or Path(f"{exam}.html"))
    console.print(f"wrote {written}")


def atlas(
    exam: _ExamArgument,
    lake: LakeOption,
    out: Annotated[
        Path | None, typer.Option(metavar="OUT.png", help="Figure to write (default: EXAM.png).")
    ] = None,
    ref: RefOption = None,
) -> None:
    """Draw the spherical maps of one exam: bone shape, thickness and T2 of the three bones.

    The suffix of the file sets the format: .png, .pdf or .svg.
    """
    from qmri_lake.cli._progress import console
    from qmri_lake.lake.lake import open_lake
    from qmri_lake.report import map_atlas

    path = out or Path(f"{exam}.png")
    _check_suffix(path)
    opened = open_lake(lake, ref=ref, mode="r")
    chosen = opened.select(exam=exam).require("sphere/map")
    if not len(chosen):
        raise _no_maps(exam, lake)
    path.parent.mkdir(parents=True, exist_ok=True)
    map_atlas(opened.load("sphere", chosen)).savefig(path, dpi=150)
    console.print(f"wrote {path}")


def paper(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the report.")],
    lake: LakeOption,
    oa: Annotated[
        Path, typer.Option(metavar="MODELS", help="Folder of classifiers written by train oa.")
    ],
    pain: Annotated[
        Path, typer.Option(metavar="MODELS", help="Folder of classifiers written by train pain.")
    ],
    search: Annotated[
        Path | None,
        typer.Option(metavar="SEARCH", help="Folder written by train search, for Figure S4."),
    ] = None,
    bones: Annotated[
        Path | None,
        typer.Option(metavar="MODELS", help="Folder of the networks that segmented the bones."),
    ] = None,
    cartilage: Annotated[
        Path | None,
        typer.Option(metavar="MODELS", help="Folder of the networks that segmented the cartilage."),
    ] = None,
    cohort: CohortOption = None,
    title: Annotated[
        str, typer.Option(help="Title of the page (default: the name of the lake).")
    ] = "",
    ref: RefOption = None,
) -> None:
    """Write all tables and figures of the paper's supplement, with the published numbers.

    The folder contains `report.html`, tables as LaTeX in `tables`, and vector graphics in
    `figures`. The lake must contain the predictions of the classifiers;
    `pipelines/reproduce_paper.py` runs everything that is needed. Tables and figures that this lake
    cannot provide are listed on the page and in the terminal.
    """
    from qmri_lake.cli._progress import console, counting
    from qmri_lake.lake.lake import open_lake
    from qmri_lake.report import write_paper

    opened = open_lake(lake, ref=ref, mode="r")
    with counting("parts") as progress:
        written = write_paper(
            opened,
            out,
            oa=oa,
            pain=pain,
            search=search,
            bones=bones,
            cartilage=cartilage,
            cohort=choose_exams(opened, cohort),
            title=title,
            progress=progress,
        )
    console.print(f"wrote {written}")


def _check_suffix(path: Path) -> None:
    from matplotlib.figure import Figure

    from qmri_lake.errors import InputError, Reason

    supported = Figure().canvas.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in supported:
        raise InputError(
            f"suffix {path.suffix!r}",
            expected=f"one of {', '.join(f'.{s}' for s in supported)}",
            where=str(path),
            reason=Reason.UNREADABLE_VALUE,
        )


def _no_maps(exam: str, lake: str) -> Exception:
    from qmri_lake.errors import NotFoundError, Reason

    return NotFoundError(
        f"no spherical maps of {exam}",
        expected="an exam with spherical maps",
        where=lake,
        todo=f"Run: qmri-lake run sphere --lake {lake}",
        reason=Reason.ABSENT_EXAM,
    )
