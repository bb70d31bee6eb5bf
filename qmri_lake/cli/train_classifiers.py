"""Commands that train classifiers: oa, pain and search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qmri_lake.cli._options import StrategyOption, TrainingOptions, choose_exams
from qmri_lake.cli._results import next_step, result_table, stopped

if TYPE_CHECKING:
    from qmri_lake.diagnosis.models.classifier import Classifier
    from qmri_lake.diagnosis.training.train_classifiers import ModelDone
    from qmri_lake.lake.lake import Lake
    from qmri_lake.training.events import EpochDone

__all__ = ["ClassifierOptions", "GridOptions", "InitialOptions", "oa", "pain", "search"]

OAOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder of OA classifiers. Their weights are the initial weights of the pain "
        "classifiers.",
    ),
]
RuleOption = Annotated[
    str,
    typer.Option(
        metavar="RULE",
        help="Case definition for chronic pain: chronic, frequent_12m or persistent.",
    ),
]


@dataclass(frozen=True)
class ClassifierOptions(TrainingOptions):
    """Options of all commands that train classifiers."""

    strategy: StrategyOption = None
    bone: Annotated[
        list[str] | None,
        typer.Option(
            metavar="femur|tibia|patella", help="Bone to train (repeatable; default: all three)."
        ),
    ] = None
    split: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File split.json with training, validation and test exams (default: a new split; "
            "for pain, the split of the OA models).",
        ),
    ] = None
    workers: Annotated[
        int, typer.Option(min=0, help="Number of image-loading processes per model.")
    ] = 0

    def arguments(self, lake: Lake) -> dict[str, Any]:
        """Return the arguments that `train_classifiers` and `search` share."""
        return {
            "out": self.out,
            "preset": self.preset,
            "strategies": self.strategy,
            "bones": self.bone,
            "sets": self.split,
            "cohort": choose_exams(lake, self.cohort),
            "seed": self.seed,
            "resume": self.resume,
            "epochs": self.epochs,
            "workers": self.workers,
            "cluster": self.cluster,
        }


@dataclass(frozen=True)
class InitialOptions:
    """Options of the initial weights."""

    start: Annotated[
        str | None,
        typer.Option(
            metavar="random|imagenet|oa", help="Initial weights (default: those of the preset)."
        ),
    ] = None
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File of ImageNet weights, if this machine cannot download them."
        ),
    ] = None


@dataclass(frozen=True)
class GridOptions:
    """Options that restrict the grid of a search."""

    start: Annotated[
        list[str] | None,
        typer.Option(
            metavar="random|imagenet|oa",
            help="Initial weights to try (repeatable; default: all three).",
        ),
    ] = None
    depth: Annotated[
        list[int] | None,
        typer.Option(
            metavar="18|34|50", help="Depth of the ResNet to try (repeatable; default: all three)."
        ),
    ] = None
    learning_rate: Annotated[
        list[float] | None,
        typer.Option(
            metavar="RATE",
            help="Learning rate to try (repeatable; default: both rates of the preset).",
        ),
    ] = None
    frozen: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LAYERS",
            help="Frozen layers to try: none, first, first_two or all (repeatable; default: all "
            "four).",
        ),
    ] = None


def oa(
    options: ClassifierOptions,
    initial: InitialOptions = InitialOptions(),
) -> int:
    """Train classifiers of osteoarthritis (KL grade above 1) on spherical maps.

    Trains one model per merging strategy and bone, 18 in total. A folder such as
    MODELS/thickness/femur contains model.pth, card.json, log.csv and curves.png. MODELS/split.json
    lists training, validation and test exams; all exams of a patient are in one set.
    MODELS/training.json lists exams without a label, with the reason. Exams without a spherical map
    of a bone are excluded for that bone. MODELS/cache contains prepared maps; delete it when all
    models are trained.

    If a model fails, the others are still trained; failures are listed, and the exit code is 1. The
    same command with --resume keeps finished models, and trains the others with the exams and
    labels of the first start.

    Next: qmri-lake run predict_oa --lake LAKE --set models=MODELS
    """
    return _train("oa", options, start=initial.start, weights=initial.weights)


def pain(
    options: ClassifierOptions,
    initial: InitialOptions = InitialOptions(),
    oa: OAOption = None,
    rule: RuleOption = "chronic",
) -> int:
    """Train classifiers of chronic knee pain, initialised with classifiers of osteoarthritis.

    Each model starts from the OA model of the same strategy and bone. Each patient is in the same
    set (training, validation or test) as in the OA training, because the OA models were trained on
    the patients of their training set.

    Next: qmri-lake run predict_pain --lake LAKE --set models=MODELS
    """
    return _train("pain", options, start=initial.start, weights=initial.weights, oa=oa, rule=rule)


def search(
    options: ClassifierOptions,
    grid: GridOptions = GridOptions(),
    oa: OAOption = None,
    rule: RuleOption = "chronic",
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also draw Figure S4 into this file, such as s4.svg."),
    ] = None,
) -> int:
    """Search for the best pain classifiers: 34 recipes per strategy and bone, 612 models in total.

    The recipes combine learning rate, depth, initial weights and frozen layers. Options restrict
    the search to a part. Finished models are kept, and --resume trains the remaining models later.
    The best model for each kind of initial weights is listed.
    """
    from qmri_lake.cli._progress import console
    from qmri_lake.diagnosis.training import search as search_module
    from qmri_lake.lake.lake import open_lake

    lake = open_lake(options.lake, ref=options.ref, mode="r")
    with _model_progress(options.out) as (progress, finished):
        result = search_module.search(
            lake,
            **options.arguments(lake),
            oa=oa,
            rule=rule,  # type: ignore[arg-type]
            starts=grid.start,
            depths=grid.depth,
            learning_rates=grid.learning_rate,
            frozen=grid.frozen,
            progress=progress,
        )
    names = ("strategy", "bone", "start", "depth", "learning_rate", "frozen")
    table = result_table(*(name.replace("_", " ") for name in names), "AUC")
    for row in result.best().to_dict("records"):
        rate = f"{row['learning_rate']:g}"
        values = [rate if name == "learning_rate" else str(row[name]) for name in names]
        table.add_row(*values, f"{row['validation_auc']:.3f}")
    console.print(
        f"Best model for each kind of initial weights, on the validation exams; {result.coverage} "
        "models:",
        style="bold",
    )
    console.print(table)
    if figure is not None and result.trained:
        from qmri_lake.report import figure_s4

        figure_s4(result).savefig(figure)
        console.print(f"wrote {figure}")
    return _show_failed(finished)


# ------------------------------------------------------------------------------ shared by commands


def _train(task: str, options: ClassifierOptions, **arguments: Any) -> int:
    from qmri_lake.diagnosis.training.train_classifiers import train_classifiers
    from qmri_lake.errors import RunError
    from qmri_lake.lake.lake import open_lake

    lake = open_lake(options.lake, ref=options.ref, mode="r")
    finished: list[ModelDone] = []
    try:
        with _model_progress(options.out) as (progress, finished):
            train_classifiers(lake, task, progress=progress, **options.arguments(lake), **arguments)
    except RunError:
        if not any(done.error for done in finished):
            raise
    trained = [done.classifier for done in finished if done.classifier is not None]
    if trained:
        _show_classifiers(trained, options.out)
    code = _show_failed(finished)
    if not code:
        next_step(f"predict_{task}", options.lake, options.out)
    return code


@contextmanager
def _model_progress(
    out: Path,
) -> Iterator[tuple[Callable[[EpochDone | ModelDone], None], list[ModelDone]]]:
    """Show a bar of models and a bar of epochs; yield their listener and the finished models."""
    from qmri_lake.cli._progress import training_bar
    from qmri_lake.diagnosis.training.train_classifiers import ModelDone

    finished: list[ModelDone] = []
    try:
        with training_bar() as bar:

            def progress(event: EpochDone | ModelDone) -> None:
                if isinstance(event, ModelDone):
                    finished.append(event)
                    bar.model(event.name, len(finished), event.models)
                else:
                    bar.epoch(event)

            yield progress, finished
    except KeyboardInterrupt:
        raise stopped(out, "the finished models and the last epoch") from None


def _show_failed(finished: Sequence[ModelDone]) -> int:
    """List the models that failed; return the exit code."""
    from qmri_lake.cli._progress import console

    failed = [done for done in finished if done.error]
    for done in failed:
        console.print(f"failed: {done.name}: {done.error}")
    if failed:
        console.print(f"{len(failed)} of {len(finished)} models failed; --resume retries them")
    return int(bool(failed))


def _show_classifiers(trained: Sequence[Classifier], out: Path) -> None:
    """Print the sets of exams, and the AUC on the validation exams by strategy and bone."""
    import json

    from qmri_lake.cli._progress import console
    from qmri_lake.diagnosis.training.training_sets import RECORD, SPLIT
    from qmri_lake.fusion import STRATEGIES
    from qmri_lake.surface.spherical_grid import BONES

    record = json.loads((out / RECORD).read_text(encoding="utf-8"))
    for row in record["flow"]:
        if row["why"]:
            console.print(f"{row['condition']}: {row['exams']} exams; {row['why']}")
    outside = record["sets"].pop("in no set")
    parts = [f"{n['exams']} {name} ({n['cases']} cases)" for name, n in record["sets"].items()]
    parts += [f"{outside} in no set"] if outside else []
    console.print(f"exams: {', '.join(parts)}; see {out / SPLIT}\n")
    auc_of = {(model.strategy, model.bone): model.card["validation_auc"] for model in trained}
    table = result_table("strategy", *BONES)
    for strategy in STRATEGIES:
        if any(strategy == name for name, _ in auc_of):
            aucs = (auc_of.get((strategy, bone)) for bone in BONES)
            table.add_row(strategy, *("–" if auc is None else f"{auc:.3f}" for auc in aucs))
    console.print("AUC on the validation exams:", style="bold")
    console.print(table)
