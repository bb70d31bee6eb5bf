"""Commands that draw what a lake holds: view, atlas, paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qmri_lake.cli.options import CohortOption, LakeOption, RefOption

__all__ = ["atlas", "paper", "view"]

_ExamArgument = Annotated[
    str, typer.Argument(metavar="EXAM", help="Its key, such as 9000001-012m-right.")
]

_Models = Annotated[
    Path, typer.Option(metavar="MODELS", help="Folder of the classifiers, of train oa or pain.")
]


def view(
    exam: _ExamArgument,
    lake: LakeOption,
    out: Annotated[
        Path | None, typer.Option(metavar="OUT.html", help="The page; default EXAM.html.")
    ] = None,
    ref: RefOption = None,
) -> None:
    """Write a page to look at one exam: slices with masks and T2, maps, bones to turn around.

    One self-contained HTML file that needs no network. What the exam lacks is left out.
    """
    from qmri_lake.cli.progress import console
    from qmri_lake.lake import open_lake
    from qmri_lake.report import write_view

    written = write_view(open_lake(lake, ref=ref, mode="r"), exam, out or Path(f"{exam}.html"))
    console.print(f"wrote {written}")


def atlas(
    exam: _ExamArgument,
    lake: LakeOption,
    out: Annotated[
        Path | None, typer.Option(metavar="OUT.png", help="The picture; default EXAM.png.")
    ] = None,
    ref: RefOption = None,
) -> None:
    """Draw the spherical maps of one exam: three bones by bone shape, thickness and T2.

    The suffix chooses the format: .png, .pdf, .svg.
    """
    from qmri_lake.cli.progress import console
    from qmri_lake.lake import open_lake
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
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the report.")],
    lake: LakeOption,
    oa: _Models,
    pain: _Models,
    search: Annotated[
        Path | None, typer.Option(metavar="SEARCH", help="Of train search, for Figure S4.")
    ] = None,
    bones: Annotated[
        Path | None, typer.Option(metavar="MODELS", help="Networks that made the bone masks.")
    ] = None,
    cartilage: Annotated[
        Path | None, typer.Option(metavar="MODELS", help="Networks that made the cartilage masks.")
    ] = None,
    cohort: CohortOption = None,
    title: Annotated[str, typer.Option(help="Of the page; default the lake's name.")] = "",
    ref: RefOption = None,
) -> None:
    """Write every table and figure of the paper's supplement, its numbers beside this lake's.

    A page, `report.html`, with LaTeX in `tables` and vector files in `figures`. Classifiers must
    have been trained, and their predictions be in the lake: `pipelines/reproduce_paper.py` does all
    of it. What the lake can't give is named, on the page and here.
    """
    from qmri_lake.cli.progress import console, counting
    from qmri_lake.lake import open_lake
    from qmri_lake.report import write_paper

    opened = open_lake(lake, ref=ref, mode="r")
    with counting("parts") as progress:
        written = write_paper(
            opened, out, oa=oa, pain=pain, search=search, bones=bones, cartilage=cartilage,
            cohort=cohort, title=title, progress=progress,
        )  # fmt: skip
    console.print(f"wrote {written}")


def _check_suffix(path: Path) -> None:
    from matplotlib.figure import Figure

    from qmri_lake.errors import InputError, Reason

    known = Figure().canvas.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in known:
        raise InputError(
            f"suffix {path.suffix!r}", expected=f"one of {', '.join(f'.{s}' for s in known)}",
            where=str(path), reason=Reason.UNREADABLE_VALUE,
        )  # fmt: skip


def _no_maps(exam: str, lake: str) -> Exception:
    from qmri_lake.errors import NotFoundError, Reason

    return NotFoundError(
        f"no maps of {exam}", expected="an exam that step sphere has mapped", where=lake,
        todo=f"Run: qmri-lake run sphere --lake {lake}", reason=Reason.ABSENT_EXAM,
    )  # fmt: skip
