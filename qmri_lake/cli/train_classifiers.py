"""The commands that train classifiers: oa, pain, and the search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qmri_lake.cli.options import (
    ClusterOption,
    CohortOption,
    EpochsOption,
    LakeOption,
    OutOption,
    PresetOption,
    RefOption,
    ResumeOption,
    SeedOption,
)
from qmri_lake.cli.trained import next_step, result_table, stopped

if TYPE_CHECKING:
    from qmri_lake.diagnosis.classifier import Classifier
    from qmri_lake.diagnosis.training import ModelDone

__all__ = ["oa", "pain", "search"]

StrategyOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Such as thickness; repeatable. Default: all six."),
]
BoneOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Such as femur; repeatable. Default: all three."),
]
SplitOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A split.json: who trains, validates and tests."),
]
StartOption = Annotated[
    str | None,
    typer.Option(metavar="random|imagenet|oa", help="Where weights come from; default: preset."),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="ImageNet weights, where they can't be downloaded."),
]
RuleOption = Annotated[
    str, typer.Option(metavar="chronic|frequent_12m|persistent", help="Whose pain is a case.")
]
WorkersOption = Annotated[int, typer.Option(min=0, help="Processes that read images, a model.")]


def oa(
    lake: LakeOption,
    out: OutOption,
    preset: PresetOption = "paper",
    strategy: StrategyOption = None,
    bone: BoneOption = None,
    split: SplitOption = None,
    start: StartOption = None,
    weights: WeightsOption = None,
    cohort: CohortOption = None,
    seed: SeedOption = 0,
    resume: ResumeOption = False,
    epochs: EpochsOption = None,
    workers: WorkersOption = 0,
    cluster: ClusterOption = None,
    ref: RefOption = None,
) -> int:
    """Train classifiers that tell osteoarthritis (KL > 1) from spherical maps.

    One a strategy and bone, 18 in all: MODELS/thickness/femur holds model.pth, card.json, log.csv,
    curves.png. MODELS/split.json says who trains, validates and tests, each patient
    in one set; MODELS/training.json says who has no label, and why. MODELS/cache holds packed maps;
    remove it when all is trained. Exams without a map of a model's bone are left out of it.

    A model that fails does not stop the others: it is listed, and the exit code is 1. The same
    command with --resume goes on, with the exams and labels of then; what is finished stays.

    Then: qmri-lake run predict_oa --lake LAKE --set models=MODELS
    """
    return _classifiers(
        "oa", lake, out, ref, preset=preset, strategies=strategy, bones=bone, sets=split,
        start=start, weights=weights, cohort=cohort, seed=seed, resume=resume, epochs=epochs,
        workers=workers, cluster=cluster,
    )  # fmt: skip


def pain(
    lake: LakeOption,
    out: OutOption,
    oa: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Models of OA, from which those of pain start."),
    ] = None,
    rule: RuleOption = "chronic",
    preset: PresetOption = "paper",
    strategy: StrategyOption = None,
    bone: BoneOption = None,
    split: SplitOption = None,
    start: StartOption = None,
    weights: WeightsOption = None,
    cohort: CohortOption = None,
    seed: SeedOption = 0,
    resume: ResumeOption = False,
    epochs: EpochsOption = None,
    workers: WorkersOption = 0,
    cluster: ClusterOption = None,
    ref: RefOption = None,
) -> int:
    """Train classifiers that tell knee pain, from those of OA of the same strategy and bone.

    Patients stay in the sets that they were in for OA: its models have seen them.

    Then: qmri-lake run predict_pain --lake LAKE --set models=MODELS
    """
    return _classifiers(
        "pain", lake, out, ref, oa=oa, rule=rule, preset=preset, strategies=strategy, bones=bone,
        sets=split, start=start, weights=weights, cohort=cohort, seed=seed, resume=resume,
        epochs=epochs, workers=workers, cluster=cluster,
    )  # fmt: skip


def search(
    lake: LakeOption,
    out: OutOption,
    oa: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Models of OA, which four recipes of 34 start from."),
    ] = None,
    rule: RuleOption = "chronic",
    preset: PresetOption = "paper",
    strategy: StrategyOption = None,
    bone: BoneOption = None,
    start: Annotated[
        list[str] | None,
        typer.Option(metavar="random|imagenet|oa", help="Repeatable. Default: all three."),
    ] = None,
    depth: Annotated[
        list[int] | None, typer.Option(metavar="18|34|50", help="Repeatable. Default: all.")
    ] = None,
    learning_rate: Annotated[
        list[float] | None,
        typer.Option(metavar="RATE", help="Repeatable. Default: both of the preset."),
    ] = None,
    frozen: Annotated[
        list[str] | None,
        typer.Option(metavar="none|first|first_two|all", help="Repeatable. Default: all four."),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw Figure S4, such as into s4.svg.")
    ] = None,
    split: SplitOption = None,
    cohort: CohortOption = None,
    seed: SeedOption = 0,
    resume: ResumeOption = False,
    epochs: EpochsOption = None,
    workers: WorkersOption = 0,
    cluster: ClusterOption = None,
    ref: RefOption = None,
) -> int:
    """Search for the best models of pain: 34 recipes for each strategy and bone, 612 in all.

    Learning rate x depth x start x frozen layers. Options narrow it to a part; what is trained is
    kept, so that the rest can follow with --resume. The best of each start is listed.
    """
    from qmri_lake.cli.progress import console
    from qmri_lake.diagnosis import search as searching
    from qmri_lake.lake import open_lake

    opened = open_lake(lake, ref=ref, mode="r")
    asked: dict[str, Any] = {
        "oa": oa, "preset": preset, "strategies": strategy, "bones": bone, "starts": start,
        "depths": depth, "learning_rates": learning_rate, "frozen": frozen, "sets": split,
        "rule": rule, "cohort": cohort, "seed": seed, "resume": resume, "epochs": epochs,
        "cluster": cluster, "workers": workers,
    }  # fmt: skip
    with _training(out) as (progress, ended):
        found = searching.search(opened, out=out, progress=progress, **asked)
    names = ("strategy", "bone", "start", "depth", "learning_rate", "frozen")
    table = result_table(*(name.replace("_", " ") for name in names), "AUC")
    for row in found.best().to_dict("records"):
        rate = f"{row['learning_rate']:g}"
        values = [rate if name == "learning_rate" else str(row[name]) for name in names]
        table.add_row(*values, f"{row['validation_auc']:.3f}")
    console.print(f"Best of each start on the validation exams, {found.told} models:", style="bold")
    console.print(table)
    if figure is not None and found.trained:
        from qmri_lake.report import figure_s4

        figure_s4(found).savefig(figure)
        console.print(f"wrote {figure}", soft_wrap=True)
    return _show_failed(ended)


# ----------------------------------------------------------------------- what they have in common


def _classifiers(task: str, lake: str, out: Path, ref: str | None, **options: Any) -> int:
    from qmri_lake.diagnosis.training import train_classifiers
    from qmri_lake.errors import RunError
    from qmri_lake.lake import open_lake

    opened = open_lake(lake, ref=ref, mode="r")
    ended: list[ModelDone] = []
    try:
        with _training(out) as (progress, ended):
            train_classifiers(opened, task, out=out, progress=progress, **options)
    except RunError:
        if not any(done.error for done in ended):
            raise
    trained = [done.classifier for done in ended if done.classifier is not None]
    if trained:
        _show_classifiers(trained, out)
    code = _show_failed(ended)
    if not code:
        next_step(f"predict_{task}", lake, out)
    return code


@contextmanager
def _training(out: Path) -> Iterator[tuple[Callable[[Any], None], list[ModelDone]]]:
    """Show a bar of models and one of epochs; yield their listener, and the models that ended."""
    from qmri_lake.cli.progress import training_bar
    from qmri_lake.diagnosis.training import ModelDone

    ended: list[ModelDone] = []
    try:
        with training_bar() as bar:

            def progress(event: Any) -> None:
                if isinstance(event, ModelDone):
                    ended.append(event)
                    bar.model(event.name, len(ended), event.models)
                else:
                    bar.epoch(event)

            yield progress, ended
    except KeyboardInterrupt:
        raise stopped(out, "the models that are finished, and the last epoch") from None


def _show_failed(ended: Sequence[ModelDone]) -> int:
    """List the models that failed; return the exit code."""
    from qmri_lake.cli.progress import console

    failed = [done for done in ended if done.error]
    for done in failed:
        console.print(f"failed: {done.name}: {done.error}", soft_wrap=True)
    if failed:
        console.print(f"{len(failed)} of {len(ended)} models failed; --resume tries them again")
    return int(bool(failed))


def _show_classifiers(trained: Sequence[Classifier], out: Path) -> None:
    """Print who learned, and a row a strategy: AUC of the validation exams by bone."""
    import json

    from qmri_lake.cli.progress import console
    from qmri_lake.diagnosis.training_sets import ASKED, SPLIT
    from qmri_lake.fusion import STRATEGIES
    from qmri_lake.surface.layout import BONES

    known = json.loads((out / ASKED).read_text(encoding="utf-8"))
    for row in known["flow"]:
        if row["why"]:
            console.print(f"{row['condition']}: {row['exams']} exams; {row['why']}", soft_wrap=True)
    outside = known["sets"].pop("in no set")
    parts = [f"{n['exams']} {name} ({n['cases']} cases)" for name, n in known["sets"].items()]
    parts += [f"{outside} in no set"] if outside else []
    console.print(f"exams: {', '.join(parts)}; see {out / SPLIT}\n", soft_wrap=True)
    of = {(one.strategy, one.bone): one.card["validation_auc"] for one in trained}
    table = result_table("strategy", *BONES)
    for strategy in STRATEGIES:
        if any(strategy == known for known, _ in of):
            aucs = (of.get((strategy, bone)) for bone in BONES)
            table.add_row(strategy, *("–" if auc is None else f"{auc:.3f}" for auc in aucs))
    console.print("AUC on the validation exams:", style="bold")
    console.print(table)
