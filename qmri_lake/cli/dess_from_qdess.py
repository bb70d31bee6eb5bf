"""The command that makes DESS images of both echoes of a qDESS: dess-from-qdess."""

from __future__ import annotations

from typing import Annotated

import typer

from qmri_lake.cli._options import ClusterOption, CohortOption, LakeOption, choose_exams
from qmri_lake.cli._problems import show_problems

__all__ = ["dess_from_qdess"]


def dess_from_qdess(
    lake: LakeOption,
    cohort: CohortOption = None,
    combine: Annotated[
        str,
        typer.Option(
            metavar="rss|echo1",
            help="rss: root of the sum of squares of both echoes, like a combined DESS. "
            "echo1: the first echo.",
        ),
    ] = "rss",
    cluster: ClusterOption = None,
) -> int:
    """Make the DESS image of each exam from its qDESS, for segmentation.

    A DESS that was delivered is kept. Run the command again after new deliveries: it makes only
    what is missing.
    """
    from qmri_lake.cli._progress import console, run_bar
    from qmri_lake.ingestion.dess_from_qdess import dess_from_qdess as run
    from qmri_lake.lake.lake import open_lake

    opened = open_lake(lake)
    with run_bar() as bar:
        result = run(
            opened.resolve(choose_exams(opened, cohort)),
            combine=combine,  # type: ignore[arg-type]
            cluster=cluster,
            listeners=[bar],
        )
    console.print(str(result))
    show_problems(result.problems)
    return int(bool(result.problems))
