"""Commands that compute or copy: run, derive, report."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from qmri_lake.cli.options import ClusterOption, LakeOption, RefOption, RequireOption, parameters

__all__ = ["derive", "report", "run"]

_WAITING = {
    "segment_bones": "train networks by `train bones`, then `run segment_bones --set models=...`; "
    "or import masks by `ingest-masks --as mask`.",
    "segment_cartilage": "train networks by `train cartilage`, then `run segment_cartilage --set "
    "models=...`; or import masks by `ingest-masks --as mask`.",
    "ingest_msme": "these exams have no multi-echo series.",
    "ingest_dess": "these exams have no DESS series.",
    "register": "no cartilage mask on the MSME grid; carry one over by `run register`, import one "
    "by `ingest --masks`, or use `--set within=all`.",
    "t2": "fit T2 by `run t2`. Exams without multi-echo images never get one: choose them by "
    "`--cohort` and say `--set with_t2=false`.",
    "sphere": "make spherical maps by `run sphere`.",
}
"""What a user can do for exams that wait for another step."""


def run(
    step: Annotated[str, typer.Argument(metavar="STEP", help="Such as t2.")],
    lake: LakeOption,
    cohort: Annotated[
        str | None, typer.Option(metavar="QUERY", help="Such as \"knee == 'right' and kl >= 2\".")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A parameter of the step; repeatable."),
    ] = None,
    variant: Annotated[
        str, typer.Option(metavar="NAME", help="Write a second version beside the first.")
    ] = "",
    cluster: ClusterOption = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed before.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be done, and stop.")] = False,
) -> int:
    """Compute a step for the exams that need it; start it again to go on where it stopped.

    segment_bones: labels femur, tibia and patella in the DESS by an ensemble of networks.
    Parameters: models=FOLDER (required; as train writes it), dtype=float32 (default) or bfloat16,
    remove_small=true.

    segment_cartilage: the same for femoral, tibial and patellar cartilage and the menisci.

    check_masks: flags exams whose masks look odd, or like a knee of the other side. It needs both
    masks, computed or imported; it has no parameters.

    register: carries cartilage masks from the DESS to the multi-echo images. Parameters:
    method=mutual_information (default: follows a knee that moved) or scanner (by its geometry),
    mask=half (default) or nearest.

    t2: fits T2 to the multi-echo images. Parameters: within=cartilage (default) or all,
    model=mono (default) or epg, skip_first_echo=true, bounds=0,100 (ms), r2_min=0.8.

    sphere: maps each bone's shape, the cartilage's thickness and its T2 onto spheres. Parameters:
    with_t2=true (false: shape and thickness alone), method=normal (default) or nearest, closing=5.0
    (mm), articular=FILE.nc (a template of where healthy knees have cartilage).

    region: averages thickness, volume and T2 over 22 regions of cartilage. Parameters:
    with_t2=true, articular=FILE.nc.

    predict_oa, predict_pain: ask classifiers about spherical maps, and take their means over bones.
    Parameters: models=FOLDER (required; as train writes it).
    """
    from qmri_lake.cli.progress import console, run_bar
    from qmri_lake.lake import open_lake
    from qmri_lake.ledger import count_imported

    values = parameters(set_ or [])
    opened = open_lake(lake, mode="r" if plan else "r+")
    if plan:
        console.print(
            opened.plan(step, cohort, variant=variant, retry_failed=retry_failed, **values)
        )
        return 0
    with run_bar() as bar:
        result = opened.run(
            step, cohort, cluster=cluster, variant=variant, retry_failed=retry_failed,
            listeners=[bar], **values,
        )  # fmt: skip
    console.print(str(result))
    if result.up_to_date:
        rows = opened.cohort(cohort).rows
        imported = count_imported(opened.root, result.step, rows, len(opened))
        if imported:
            console.print(
                f"{imported:,} of them imported, not computed: they stay as they are. `--variant "
                "NAME` computes a second version beside them."
            )
    if cohort and not len(opened.cohort(cohort)):
        console.print(f"no exam matches {cohort}")
    for needed in result.waiting:
        if hint := _WAITING.get(needed):
            console.print(f"waiting for {needed}: {hint}")
    if result.failed or result.counts.get("flagged"):
        console.print(f"why: qmri-lake failures {shlex.quote(lake)} --step {result.step}")
    return int(result.failed > 0)


def derive(
    out: Annotated[str, typer.Argument(metavar="OUT", help="The new lake: a folder, or a URL.")],
    lake: LakeOption,
    product: Annotated[
        list[str],
        typer.Option(
            metavar="GROUP[/NAME]", help="Repeatable: clinical, sphere/map, msme/t2__epg."
        ),
    ],
    cohort: Annotated[
        str | None, typer.Option(metavar="QUERY", help="Which exams; default all.")
    ] = None,
    require: RequireOption = None,
    cluster: ClusterOption = None,
    ref: RefOption = None,
) -> None:
    """Make a lake of some exams and products of another, for a study of its own.

    Values and chunks are the same, states and runs come with them, and the new lake says where it
    comes from. With a variable goes all that its step wrote. A catalog is written beside it. Start
    it again after a stop, and it goes on from the snapshot from which it was begun.
    """
    from qmri_lake.catalog import write_catalog
    from qmri_lake.cli.progress import console, run_bar
    from qmri_lake.lake import open_lake
    from qmri_lake.storage import is_local

    source = open_lake(lake, ref=ref, mode="r")
    chosen = source.cohort(cohort).require(*(require or []))
    console.print(str(chosen))
    with run_bar() as bar:
        made = source.derive(out, chosen, product, cluster=cluster, listeners=[bar])
    console.print(f"{made.url}: derived from {made.origin}", soft_wrap=True)
    if is_local(out):
        console.print(f"catalog: {write_catalog(made)}")


def report(
    out: Annotated[Path, typer.Argument(metavar="OUT.html", help="The page to write.")],
    lake: LakeOption,
    cohort: Annotated[
        str | None, typer.Option(metavar="QUERY", help="Which exams; default all.")
    ] = None,
    exams: Annotated[int, typer.Option(min=0, help="Exams to show with pictures.")] = 6,
    models: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="MODELS",
            help="Ensemble that made the masks, repeatable: compare its test exams only.",
        ),
    ] = None,
    ref: RefOption = None,
) -> None:
    """Write a page about a lake: slices, T2 maps, histograms, and the history of its runs.

    Where masks have references, it says how well they agree. One self-contained HTML file. Exams
    are read one by one, so its memory does not grow with the cohort.
    """
    from qmri_lake.cli.progress import console, counting
    from qmri_lake.lake import open_lake
    from qmri_lake.report import write_report

    opened = open_lake(lake, ref=ref, mode="r")
    with counting("exams") as progress:
        written = write_report(
            opened, out, cohort, exams=exams, models=models or (), progress=progress
        )
    console.print(f"wrote {written}")
