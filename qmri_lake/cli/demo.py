"""The demo: synthetic knees from DICOM to maps, classifiers and reports, by the real commands."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qmri_lake.cli.options import shape

if TYPE_CHECKING:
    from qmri_lake.lake import Lake
    from qmri_lake.run import RunResult

__all__ = ["demo"]

DELIVERED = "made_from == 'delivered'"
QUERY = f"{DELIVERED} and knee == 'right' and kl >= 2"


def demo(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to work in.")] = Path("demo"),
    exams: Annotated[int, typer.Option(min=8, help="Knees of patients at visits, as DICOM.")] = 48,
    truth: Annotated[
        int, typer.Option(min=1, help="Further knees, of which only the maps are computed.")
    ] = 400,
    shape_: Annotated[
        str, typer.Option("--shape", metavar="SxRxC", help="Slices x rows x columns of the DESS.")
    ] = "64x144x144",
    seed: Annotated[int, typer.Option(help="Seed of the synthetic population.")] = 0,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Train less, for a quick look: results will be poor.")
    ] = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Of classifiers: repeatable. Default: all six."),
    ] = None,
) -> int:
    """Take synthetic knees through the whole chain: from DICOM to classifiers and their tables.

    Two networks for bones and two for cartilage are trained on some of the knees, and segment all
    of them; the report judges them on patients that they have not seen. Classifiers of OA and of
    pain need more knees than that: of further ones, marked made_from == 'truth', maps are computed
    from the true masks, without images, networks or fits. What the classifiers reach is told for
    the two kinds apart.

    Nothing here is special to the demo: each step is the command or the function that real data
    take. Start it again, and what is done is skipped.
    """
    from qmri_lake.catalog import open_catalog, write_catalog
    from qmri_lake.cli import demo_classifiers as classifiers
    from qmri_lake.cli.data import show_ingest
    from qmri_lake.cli.demo_parts import Parts
    from qmri_lake.cli.progress import console, counting, reading, run_bar
    from qmri_lake.ingestion import ingest
    from qmri_lake.masks.ingest import ingest_masks
    from qmri_lake.phantom import add_true_exams, write_archive
    from qmri_lake.report import write_paper, write_report

    archive, url, size = out / "archive", str(out / "oai.lake"), shape(shape_)
    models = {task: out / "models" / task for task in ("bones", "cartilage", "oa", "pain")}
    runs: list[RunResult] = []
    part = Parts()

    with part("a synthetic OAI"), counting("exams") as progress:
        write_archive(archive, exams=exams, shape=size, seed=seed, progress=progress)
    console.print(f"{exams} exams as DICOM and clinical tables in {archive}")

    with part("further knees, by their truth"), run_bar() as bar:
        # Before the others are ingested: the arrays of the new lake then fit every knee.
        made = add_true_exams(url, exams=truth, shape=size, seed=seed, listeners=[bar])
    console.print(str(made))
    console.print("made_from == 'truth' marks them: they have no image, no network segments them")

    with part("ingest: images, clinical tables, reference masks"):
        with reading("headers") as files, run_bar() as bar:
            result = ingest(archive, url, progress=files, listeners=[bar])
        show_ingest(result)
        lake = result.lake
        with run_bar() as bar:
            masks = ingest_masks(archive / "truth", lake, labels="qmri-lake", listeners=[bar])
        console.print(str(masks))

    with part("train two networks for bones and two for cartilage") as took:
        _train_networks(lake, models, seed=seed, epochs=epochs)
        console.print(f"trained in {took():.1f} CPU-minutes")

    with part("segment, carry masks to the multi-echo series, fit T2 in them, map bones"):
        runs += _run_chain(lake, models)

    with part("maps of the further knees, from their true masks"):
        runs += classifiers.map_true_exams(lake)
        if "demo" not in lake.tags():
            lake.tag("demo")

    failed = classifiers.train_and_judge(
        lake, out, models, part, runs, seed=seed, epochs=epochs, strategies=strategy
    )

    with part("a cohort, by catalog"):
        catalog = write_catalog(url, out / "catalog.yaml")
        found = open_catalog(catalog)(query=QUERY, lake_ref="demo").msme.read()
        console.print(f"{catalog}: {QUERY} at tag demo")
        console.print(
            f"{found.sizes['exam']} exams, {found.nbytes / 2**20:,.0f} MiB, not one volume read"
        )
        console.print(str(lake.cohort(QUERY).require("msme/t2")))

    with part("a report of the delivered knees"), counting("exams") as progress:
        page = write_report(
            lake,
            out / "report.html",
            DELIVERED,
            title="Demo: synthetic knees",
            models=[models["bones"], models["cartilage"]],
            progress=progress,
        )

    with part("the paper's tables and figures"):
        with counting("parts") as progress:
            paper = write_paper(
                lake,
                out / "paper",
                oa=models["oa"],
                pain=models["pain"],
                search=out / "models" / "search",
                bones=models["bones"],
                cartilage=models["cartilage"],
                title="Demo: synthetic knees",
                progress=progress,
            )
        console.print(str(paper), soft_wrap=True)

    console.rule("done")
    console.print(f"report   {page}")
    console.print(f"paper    {paper.page}")
    console.print(f"lake     {url}")
    console.print(f"catalog  {catalog}")
    console.print(f"models   {out / 'models'}")
    console.print(f"archive  {archive}  (truth in {archive / 'truth'})")
    part.show()
    console.print("\nnext:")
    quoted = shlex.quote(url)
    for command in (
        f"qmri-lake info {quoted}",
        f'qmri-lake cohort "{QUERY}" --lake {quoted} --require msme/t2',
        f"qmri-lake run t2 --lake {quoted} --set skip_first_echo=false --variant all_echoes",
    ):
        console.print(f"  {command}", soft_wrap=True)
    problems = bool(result.problems) or bool(masks.problems) or bool(made.problems)
    return int(problems or bool(made.failed) or failed or any(run.failed for run in runs))


def _train_networks(lake: Lake, models: dict[str, Path], *, seed: int, epochs: int | None) -> None:
    from qmri_lake.cli.progress import console, training_bar
    from qmri_lake.segmentation.training import train_ensemble

    for task in ("bones", "cartilage"):
        with training_bar() as training:
            networks = train_ensemble(
                lake, task, preset="small", members=2, out=models[task], seed=seed, resume=True,
                epochs=epochs, progress=training.epoch, preparing=training.preparing,
            )  # fmt: skip
        for network in networks:
            card = f"{network.folder}/card.json"
            console.print(f"{network.name}: {network.recipe.loss}, card in {card}")


def _run_chain(lake: Lake, models: dict[str, Path]) -> list[RunResult]:
    """Run each step on the knees that came as DICOM."""
    from qmri_lake.cli.progress import console, run_bar

    chain: tuple[tuple[str, dict[str, Any]], ...] = (
        ("segment_bones", {"models": str(models["bones"])}),
        ("segment_cartilage", {"models": str(models["cartilage"])}),
        ("check_masks", {}),
        ("register", {}),
        ("t2", {}),
        ("sphere", {}),
        ("region", {}),
    )
    runs = []
    for step, parameters in chain:
        with run_bar() as bar:
            runs.append(lake.run(step, DELIVERED, listeners=[bar], **parameters))
        console.print(str(runs[-1]))
    return runs
