"""The demo, which runs the real commands on synthetic knees, from DICOM to reports."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qmri_lake.cli._demo_timing import Sections
from qmri_lake.cli._options import PopulationSeedOption, ShapeOption, StrategyOption, parse_shape

if TYPE_CHECKING:
    from qmri_lake.execution.run import RunResult
    from qmri_lake.lake.lake import Lake

__all__ = ["demo"]

DELIVERED = "made_from == 'delivered'"
QUERY = f"{DELIVERED} and knee == 'right' and kl >= 2"
TITLE = "Demo: synthetic knees"


def demo(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for all results.")] = Path(
        "demo"
    ),
    exams: Annotated[
        int, typer.Option(min=8, help="Number of exams that are written as DICOM.")
    ] = 48,
    truth: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of additional exams, with maps computed from the phantom's true masks.",
        ),
    ] = 400,
    shape: ShapeOption = "64x144x144",
    seed: PopulationSeedOption = 0,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Maximum number of epochs per model, for a quick trial with poor results."
        ),
    ] = None,
    strategy: StrategyOption = None,
) -> int:
    """Run the whole chain on synthetic knees: from DICOM to classifiers and the paper's tables.

    Two networks for bones and two for cartilage are trained on some of the exams; then they segment
    all exams. The report evaluates the networks on held-out patients. Classifiers of osteoarthritis
    and of pain need more knees. Further exams are therefore added, marked made_from == 'truth'.
    Their spherical maps are computed from the true masks, without images, networks or fits. The
    classifiers are evaluated separately for both kinds of exams.

    Each stage uses the same commands and functions as real data. Run the same command again to
    resume: finished stages are skipped.
    """
    from qmri_lake.cli._progress import console

    run = _Demo(out, seed, epochs, strategy)
    with console.as_log():
        return run.run(exams, truth, parse_shape(shape))


@dataclass
class _Demo:
    """One run of the demo, with its settings and the results so far."""

    out: Path
    seed: int
    epochs: int | None
    strategies: list[str] | None
    section: Sections = field(default_factory=Sections)
    runs: list[RunResult] = field(default_factory=list)
    failed: bool = False
    """Whether anything other than a run failed."""

    @property
    def archive(self) -> Path:
        return self.out / "archive"

    @property
    def url(self) -> str:
        return str(self.out / "oai.lake")

    @property
    def models(self) -> dict[str, Path]:
        names = ("bones", "cartilage", "oa", "pain", "search")
        return {name: self.out / "models" / name for name in names}

    def run(self, exams: int, truth: int, shape: tuple[int, int, int]) -> int:
        """Run all sections; return the exit code."""
        from qmri_lake.cli._machine import describe
        from qmri_lake.cli._progress import console

        console.print(describe())
        self.make_exams(exams, truth, shape)
        lake = self.ingest()
        self.train_networks(lake)
        self.run_steps(lake)
        self.train_classifiers(lake)
        catalog = self.choose_cohort(lake)
        pages = self.write_reports(lake)
        self.show_results(catalog, *pages)
        return int(self.failed or any(run.failed for run in self.runs))

    def make_exams(self, exams: int, truth: int, shape: tuple[int, int, int]) -> None:
        """Write the synthetic archive, and add further exams from their true masks."""
        from qmri_lake.cli._progress import console, counting, run_bar
        from qmri_lake.phantom import add_true_exams, write_archive

        with self.section("a synthetic OAI"), counting("exams") as progress:
            write_archive(self.archive, exams=exams, shape=shape, seed=self.seed, progress=progress)
        console.print(f"{exams} exams as DICOM and clinical tables in {self.archive}")
        with self.section("further exams from their true masks"), run_bar() as bar:
            # These exams are added before the archive is ingested, so that the arrays of the new
            # lake are large enough for every knee.
            result = add_true_exams(
                self.url, exams=truth, shape=shape, seed=self.seed, listeners=[bar]
            )
        console.print(str(result))
        console.print("These exams are marked made_from == 'truth' and have no images")
        self.failed |= bool(result.problems) or bool(result.failed)

    def ingest(self) -> Lake:
        """Ingest the archive and its reference masks."""
        from qmri_lake.cli._problems import show_ingest
        from qmri_lake.cli._progress import console, reading, run_bar
        from qmri_lake.ingestion.images import ingest
        from qmri_lake.ingestion.masks import ingest_masks

        with self.section("ingest: images, clinical tables, reference masks"):
            with reading("headers") as files, run_bar() as bar:
                result = ingest(self.archive, self.url, progress=files, listeners=[bar])
            show_ingest(result)
            with run_bar() as bar:
                masks = ingest_masks(
                    self.archive / "truth", result.lake, labels="qmri-lake", listeners=[bar]
                )
            console.print(str(masks))
        self.failed |= bool(result.problems) or bool(masks.problems)
        return result.lake

    def train_networks(self, lake: Lake) -> None:
        """Train two networks for bones and two for cartilage."""
        from qmri_lake.cli._progress import console, training_bar
        from qmri_lake.segmentation.training.ensemble import train_ensemble

        with self.section("train two networks for bones and two for cartilage") as minutes:
            for task in ("bones", "cartilage"):
                with training_bar() as training:
                    networks = train_ensemble(
                        lake,
                        task,
                        preset="small",
                        members=2,
                        out=self.models[task],
                        seed=self.seed,
                        resume=True,
                        epochs=self.epochs,
                        progress=training.epoch,
                        preparing=training.preparing,
                    )
                for network in networks:
                    card = f"{network.folder}/card.json"
                    console.print(f"{network.name}: {network.recipe.loss}, card in {card}")
            console.print(f"trained in {minutes():.1f} CPU-minutes")

    def run_steps(self, lake: Lake) -> None:
        """Run all steps up to spherical maps and regions, and tag the lake."""
        from qmri_lake.cli._demo_classifiers import map_true_exams
        from qmri_lake.cli._progress import console, run_bar

        steps: tuple[tuple[str, dict[str, Any]], ...] = (
            ("segment_bones", {"models": str(self.models["bones"])}),
            ("segment_cartilage", {"models": str(self.models["cartilage"])}),
            ("check_masks", {}),
            ("register", {}),
            ("t2", {}),
            ("sphere", {}),
            ("region", {}),
        )
        with self.section("segment, transfer masks to the multi-echo images, fit T2, map bones"):
            for step, parameters in steps:
                with run_bar() as bar:
                    run = lake.run(step, DELIVERED, listeners=[bar], **parameters)
                console.print(str(run))
                self.runs.append(run)
        with self.section("maps of the further exams, from their true masks"):
            self.runs += map_true_exams(lake)
            if "demo" not in lake.tags():
                lake.tag("demo")

    def train_classifiers(self, lake: Lake) -> None:
        """Train classifiers of OA and pain, evaluate them, and run a part of the search."""
        from qmri_lake.cli import _demo_classifiers as classifiers

        models = self.models
        runs, failed = classifiers.train_classifiers(
            lake,
            models,
            self.section,
            seed=self.seed,
            epochs=self.epochs,
            strategies=self.strategies,
        )
        self.runs += runs
        with self.section("evaluation on held-out patients"):
            classifiers.evaluate_classifiers(lake, models)
        with self.section("8 of the 612 models of the search"):
            failed |= classifiers.search_models(
                lake, models["search"], models["oa"], seed=self.seed, epochs=self.epochs
            )
        self.failed |= failed

    def choose_cohort(self, lake: Lake) -> Path:
        """Write a catalog, select exams with it by a query, and return its path."""
        from qmri_lake.catalog import open_catalog, write_catalog
        from qmri_lake.cli._progress import console
        from qmri_lake.core.text import format_bytes

        with self.section("a cohort, through a catalog"):
            catalog = write_catalog(self.url, self.out / "catalog.yaml")
            images = open_catalog(catalog)(query=QUERY, lake_ref="demo").msme.read()
            console.print(f"{catalog}: {QUERY} at tag demo")
            size = f"{images.sizes['exam']} exams, {format_bytes(images.nbytes)}"
            console.print(f"{size}, opened without reading a volume")
            console.print(str(lake.cohort(QUERY).require("msme/t2")))
        return catalog

    def write_reports(self, lake: Lake) -> tuple[Path, Path]:
        """Write the report of the lake and the report of the paper; return their pages."""
        from qmri_lake.cli._progress import console, counting
        from qmri_lake.report import write_paper, write_report

        models = self.models
        with self.section("a report on the delivered exams"), counting("exams") as progress:
            page = write_report(
                lake,
                self.out / "report.html",
                DELIVERED,
                title=TITLE,
                models=[models["bones"], models["cartilage"]],
                progress=progress,
            )
        with self.section("the paper's tables and figures"):
            with counting("parts") as progress:
                paper = write_paper(
                    lake,
                    self.out / "paper",
                    oa=models["oa"],
                    pain=models["pain"],
                    search=models["search"],
                    bones=models["bones"],
                    cartilage=models["cartilage"],
                    title=TITLE,
                    progress=progress,
                )
            console.print(str(paper))
        return page, paper.page

    def show_results(self, catalog: Path, report: Path, paper: Path) -> None:
        """Print the paths of all results, the CPU time of each section, and commands to try."""
        from qmri_lake.cli._progress import console

        console.rule("done")
        console.print(f"report   {report}")
        console.print(f"paper    {paper}")
        console.print(f"lake     {self.url}")
        console.print(f"catalog  {catalog}")
        console.print(f"models   {self.out / 'models'}")
        console.print(f"archive  {self.archive}  (ground truth in {self.archive / 'truth'})")
        self.section.show()
        console.print("\nnext:")
        lake = shlex.quote(self.url)
        for command in (
            f"qmri-lake info {lake}",
            f'qmri-lake cohort "{QUERY}" --lake {lake} --require msme/t2',
            f"qmri-lake run t2 --lake {lake} --set skip_first_echo=false --variant all_echoes",
        ):
            # If a line is too long for a log, break it so that a shell can still execute it.
            fits = console.is_terminal or len(command) + 2 <= console.line_width
            text = command if fits else command.replace(" --", " \\\n    --")
            console.print(f"  {text}")
