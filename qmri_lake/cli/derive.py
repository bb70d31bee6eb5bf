"""The command that makes a lake for one study from a lake: derive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qmri_lake.cli._options import (
    ClusterOption,
    CohortOption,
    LakeOption,
    RefOption,
    RequireOption,
    choose_exams,
)

__all__ = ["derive"]


def derive(
    out: Annotated[str, typer.Argument(metavar="OUT", help="New lake: a folder or a URL.")],
    lake: LakeOption,
    product: Annotated[
        list[str],
        typer.Option(
            metavar="GROUP[/NAME]",
            help="Group or variable to copy, such as clinical, sphere/map or msme/t2__epg "
            "(repeatable).",
        ),
    ],
    cohort: CohortOption = None,
    require: RequireOption = None,
    cluster: ClusterOption = None,
    pseudonymise: Annotated[
        Path | None,
        typer.Option(
            metavar="KEYFILE",
            help="Give patients new numbers, shift dates, and remove UIDs and free texts. The file "
            "of the new numbers is created or extended; keep it secret.",
        ),
    ] = None,
    ref: RefOption = None,
) -> None:
    """Make a new lake from selected exams and products of a lake, for example for one study.

    Values and chunks are copied unchanged, with the states and runs of their steps. If a variable
    is selected, every variable written by the same step is copied. The new lake records its origin.
    An intake catalog is written beside a local lake. Run the same command again to resume from the
    same snapshot.
    """
    from qmri_lake.catalog import write_catalog
    from qmri_lake.cli._progress import console, run_bar
    from qmri_lake.lake.lake import open_lake
    from qmri_lake.store.repository import is_local

    source = open_lake(lake, ref=ref, mode="r")
    chosen = source.resolve(choose_exams(source, cohort)).require(*(require or []))
    console.print(str(chosen))
    with run_bar() as bar:
        derived = source.derive(
            out, chosen, product, pseudonymise=pseudonymise, cluster=cluster, listeners=[bar]
        )
    console.print(f"{derived.url}: derived from {derived.origin}")
    if is_local(out):
        console.print(f"catalog: {write_catalog(derived)}")
