"""The demo: synthetic knees from DICOM to masks, T2 and a report, by the real commands."""

from __future__ import annotations

import resource
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from qmri_lake.cli.options import shape

__all__ = ["demo"]

QUERY = "knee == 'right' and kl >= 2"


def demo(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to work in.")] = Path("demo"),
    exams: Annotated[int, typer.Option(min=8, help="Knees of patients at visits.")] = 48,
    shape_: Annotated[
        str, typer.Option("--shape", metavar="SxRxC", help="Slices x rows x columns of the DESS.")
    ] = "64x144x144",
    seed: Annotated[int, typer.Option(help="Seed of the synthetic population.")] = 0,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Train less, for a quick look: masks will be poor.")
    ] = None,
) -> int:
    """Make synthetic knees and take them from DICOM to masks, T2 maps, a cohort and a report.

    Two networks for bones and two for cartilage are trained on some of the knees, and segment all
    of them; the report judges them on patients that they have not seen. Most of the time goes into
    this training.

    Nothing here is special to the demo: each step is the command or the function that real data
    take. Start it again, and what is done is skipped.
    """
    from qmri_lake.catalog import open_catalog, write_catalog
    from qmri_lake.cli.data import show_ingest
    from qmri_lake.cli.progress import console, counting, reading, run_bar, training_bar
    from qmri_lake.ingestion import ingest
    from qmri_lake.masks.ingest import ingest_masks
    from qmri_lake.phantom import write_archive
    from qmri_lake.report import write_report
    from qmri_lake.segmentation.training import train_ensemble

    archive, url = out / "archive", str(out / "oai.lake")
    console.rule("1. a synthetic OAI")
    with counting("exams") as progress:
        write_archive(archive, exams=exams, shape=shape(shape_), seed=seed, progress=progress)
    console.print(f"{exams} exams as DICOM and clinical tables in {archive}")

    console.rule("2. ingest: images, clinical tables, reference masks")
    with reading("headers") as files, run_bar() as bar:
        result = ingest(archive, url, progress=files, listeners=[bar])
    show_ingest(result)
    lake = result.lake
    with run_bar() as bar:
        masks = ingest_masks(archive / "truth", lake, labels="qmri-lake", listeners=[bar])
    console.print(str(masks))

    console.rule("3. train two networks for bones and two for cartilage")
    models = {task: out / "models" / task for task in ("bones", "cartilage")}
    before = _cpu_minutes()
    networks = []
    for task, folder in models.items():
        with training_bar() as training:
            networks += train_ensemble(
                lake, task, preset="small", members=2, out=folder, seed=seed, resume=True,
                epochs=epochs, progress=training.epoch, preparing=training.preparing,
            )  # fmt: skip
    for network in networks:
        console.print(f"{network.name}: {network.recipe.loss}, card in {network.folder}/card.json")
    console.print(f"trained in {_cpu_minutes() - before:.1f} CPU-minutes")

    console.rule("4. segment, carry masks to the multi-echo series, fit T2 in them, map bones")
    runs = []
    chain: tuple[tuple[str, dict[str, Any]], ...] = (
        ("segment_bones", {"models": str(models["bones"])}),
        ("segment_cartilage", {"models": str(models["cartilage"])}),
        ("check_masks", {}),
        ("register", {}),
        ("t2", {}),
        ("sphere", {}),
        ("region", {}),
    )
    for step, parameters in chain:
        with run_bar() as bar:
            runs.append(lake.run(step, listeners=[bar], **parameters))
        console.print(str(runs[-1]))
    if "demo" not in lake.tags():
        lake.tag("demo")

    console.rule("5. a cohort, by catalog")
    catalog = write_catalog(url, out / "catalog.yaml")
    found = open_catalog(catalog)(query=QUERY, lake_ref="demo").msme.read()
    console.print(f"{catalog}: {QUERY} at tag demo")
    console.print(
        f"{found.sizes['exam']} exams, {found.nbytes / 2**20:,.0f} MiB, not one volume read"
    )
    console.print(str(lake.cohort(QUERY).require("msme/t2")))

    console.rule("6. a report")
    with counting("exams") as progress:
        page = write_report(
            lake,
            out / "report.html",
            title="Demo: synthetic knees",
            models=list(models.values()),
            progress=progress,
        )

    console.rule("done")
    console.print(f"report   {page}")
    console.print(f"lake     {url}")
    console.print(f"catalog  {catalog}")
    console.print(f"models   {out / 'models'}")
    console.print(f"archive  {archive}  (truth in {archive / 'truth'})")
    console.print(f"CPU      {_cpu_minutes():.1f} minutes")
    console.print("\nnext:")
    quoted = shlex.quote(url)
    for command in (
        f"qmri-lake info {quoted}",
        f'qmri-lake cohort "{QUERY}" --lake {quoted} --require msme/t2',
        f"qmri-lake run t2 --lake {quoted} --set skip_first_echo=false --variant all_echoes",
    ):
        console.print(f"  {command}", soft_wrap=True)
    failed = any(run.failed for run in runs)
    return int(bool(result.problems) or bool(masks.problems) or failed)


def _cpu_minutes() -> float:
    """Process time of this process and of those it has waited for, in minutes."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used) / 60
