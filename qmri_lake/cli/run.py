"""The command that runs a step: run."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from qmri_lake.cli._options import (
    ClusterOption,
    CohortOption,
    LakeOption,
    choose_exams,
    parse_parameters,
)

if TYPE_CHECKING:
    from qmri_lake.execution.run import RunResult
    from qmri_lake.lake.cohort import Cohort
    from qmri_lake.lake.lake import Lake

__all__ = ["run"]

_ADVICE = {
    "segment_bones": "train networks with `train bones`, then `run segment_bones --set "
    "models=...`; or import masks with `ingest-masks --as mask`.",
    "segment_cartilage": "train networks with `train cartilage`, then `run segment_cartilage --set "
    "models=...`; or import masks with `ingest-masks --as mask`.",
    "ingest_msme": "these exams have no multi-echo series.",
    "ingest_dess": "these exams have no DESS series.",
    "register": "no cartilage mask on the MSME grid; transfer it with `run register`, import it "
    "with `ingest --masks`, or use `--set within=all`.",
    "t2": "fit T2 with `run t2`. Exams without multi-echo images have no T2: select them with "
    "`--cohort` and use `--set with_t2=false`.",
    **{
        f"ingest_{group}": f"these exams have no {title} series."
        for group, title in (("t1rho", "T1rho"), ("t2star", "T2*"), ("qdess", "qDESS"))
    },
    **{
        f"register_{group}": f"no cartilage mask on this grid; transfer it with `run "
        f"register_{group}`, or use `--set within=all`."
        for group in ("t1rho", "t2star", "qdess")
    },
    "sphere": "compute spherical maps with `run sphere`.",
}
"""Advice for exams that lack an input, by the name of the step that computes the input."""


def run(
    step: Annotated[str, typer.Argument(metavar="STEP", help="Step to run, such as t2.")],
    lake: LakeOption,
    cohort: CohortOption = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Set a parameter of the step (repeatable)."
        ),
    ] = None,
    variant: Annotated[
        str,
        typer.Option(metavar="NAME", help="Write a second version of the product under this name."),
    ] = "",
    cluster: ClusterOption = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also compute exams that failed before.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what would be computed, and exit.")
    ] = False,
) -> int:
    """Compute a step for all exams that need it. Run the same command again to resume.

    segment_bones: segments femur, tibia and patella in the DESS with an ensemble of networks.
    Parameters: models=FOLDER (required; a folder written by train), dtype=float32 (default) or
    bfloat16, remove_small=true.

    segment_cartilage: segments femoral, tibial and patellar cartilage and the menisci. The
    parameters are those of segment_bones.

    check_masks: flags exams whose masks are implausible or belong to a knee of the other side. The
    step needs bone and cartilage masks, computed or imported. Tissues that the source of a mask
    never labels are not checked. It has no parameters.

    register: transfers cartilage masks from the DESS to the multi-echo images. Parameters:
    method=mutual_information (default: corrects motion of the knee) or scanner (uses the scanner
    coordinates only), mask=half (default) or nearest.

    t2: fits T2 to the multi-echo images. Parameters: within=cartilage (default) or all,
    model=mono (default) or epg, skip_first_echo=true, bounds=0,100 (ms), r2_min=0.8,
    pulse=hard (default) or, with model=epg, sinc (slice profile of windowed sinc pulses).

    t1rho, t2star: fit T1rho to spin-lock images, and T2* to gradient-echo trains. Parameters:
    within=cartilage (default) or all, skip_first=false, bounds=0,150 or 0,100 (ms), r2_min=0.8.

    qdess_t2: computes T2 from both echoes of a DESS. Parameters: within=cartilage (default) or all,
    t1=1200 (ms), diffusivity=1.25e-9 (m2/s), solution=analytic (default) or exact, bounds=0,100
    (ms); and, if the headers do not state them, repetition_time, flip_angle, gradient_area (mT
    ms/m) and gradient_duration.

    register_t1rho, register_t2star, register_qdess: transfer cartilage masks to these series, as
    register does. sphere_NAME, region_NAME: map and average NAME: t1rho, t2star or qdess_t2.

    sphere: maps bone shape, cartilage thickness and T2 of each bone onto a sphere. Parameters:
    with_t2=true (false: shape and thickness only), method=normal (default) or nearest, closing=5.0
    (mm), articular=FILE.nc (template of the cartilage area of healthy knees).

    region: averages thickness, volume and T2 over 22 regions of cartilage. Parameters:
    with_t2=true, articular=FILE.nc.

    predict_oa, predict_pain: apply classifiers to spherical maps, and average the probabilities
    over bones. Parameters: models=FOLDER (required; a folder written by train).
    """
    from qmri_lake.cli._progress import console, run_bar
    from qmri_lake.lake.lake import open_lake

    values = parse_parameters(set_ or [])
    opened = open_lake(lake, mode="r" if plan else "r+")
    chosen = choose_exams(opened, cohort)
    if plan:
        console.print(
            opened.plan(step, chosen, variant=variant, retry_failed=retry_failed, **values)
        )
        return 0
    with run_bar() as bar:
        result = opened.run(
            step,
            chosen,
            cluster=cluster,
            variant=variant,
            retry_failed=retry_failed,
            listeners=[bar],
            **values,
        )
    _show_run(result, opened, chosen)
    return int(result.failed > 0)


def _show_run(result: RunResult, lake: Lake, cohort: Cohort | str | None) -> None:
    """Print the counts of a run, with advice for exams that were not computed."""
    from qmri_lake.cli._progress import console
    from qmri_lake.lake.status_table import count_imported

    console.print(str(result))
    if result.up_to_date:
        rows = lake.resolve(cohort).rows
        imported = count_imported(lake.root, result.step, rows, len(lake))
        if imported:
            console.print(
                f"{imported:,} of them were imported, not computed; imported results are kept. "
                "`--variant NAME` computes a second version."
            )
    if cohort is not None and not len(lake.resolve(cohort)):
        console.print(f"no exam matches {cohort}")
    for awaited in result.waiting:
        if advice := _ADVICE.get(awaited):
            console.print(f"waiting for {awaited}: {advice}")
    if result.failed or result.counts.get("flagged"):
        console.print(f"reasons: qmri-lake failures {shlex.quote(lake.url)} --step {result.step}")
