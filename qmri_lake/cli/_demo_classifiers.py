"""Classifiers of the demo: maps from true masks, 36 models, evaluation, a part of the search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from qmri_lake.errors import InputError

if TYPE_CHECKING:
    from qmri_lake.cli._demo_timing import Sections
    from qmri_lake.execution.run import RunResult
    from qmri_lake.lake.cohort import Cohort
    from qmri_lake.lake.lake import Lake

__all__ = ["evaluate_classifiers", "map_true_exams", "search_models", "train_classifiers"]

EPOCHS = {"oa": 3, "pain": 2}
"""Maximum number of epochs per classifier, so that the whole demo takes about 30 CPU-minutes."""
GRID: dict[str, list[Any]] = {
    "start": ["random", "oa"],
    "depth": [18],
    "frozen": ["none", "first_two"],
}
"""Recipes of the search. With one strategy and two bones, these give 8 of the 612 models."""
ORIGINS = {
    "delivered": "DICOM, masks by networks, fitted T2",
    "truth": "maps computed from the true masks of the phantom, not by the whole chain",
}


def map_true_exams(lake: Lake) -> list[RunResult]:
    """Compute maps from true masks and the true T2; without T2 for knees that have no T2."""
    return _run_with_and_without_t2(lake, "sphere", lake.cohort("made_from == 'truth'"))


def train_classifiers(
    lake: Lake,
    models: dict[str, Path],
    section: Sections,
    *,
    seed: int,
    epochs: int | None,
    strategies: Sequence[str] | None,
) -> tuple[list[RunResult], bool]:
    """Train classifiers of OA, then of pain, and write their predictions into the lake.

    Returns
    -------
    (list of RunResult, bool)
        The runs, and whether the training of any model failed.
    """
    from qmri_lake.cli import train_classifiers as commands
    from qmri_lake.lake.balanced_split import read_split

    def options(task: str) -> commands.ClassifierOptions:
        return commands.ClassifierOptions(
            lake.url,
            models[task],
            preset="small",
            seed=seed,
            resume=True,
            epochs=_epochs(task, epochs),
            strategy=None if strategies is None else list(strategies),
        )

    runs = []
    with section("classifiers of osteoarthritis"):
        failed = bool(commands.oa(options("oa")))
        runs.append(_predict(lake, "oa", models["oa"]))
    with section("classifiers of pain, initialised with those of osteoarthritis"):
        failed |= bool(commands.pain(options("pain"), oa=models["oa"]))
        runs.append(_predict(lake, "pain", models["pain"]))
        # Region averages take as long as maps. Only the evaluation needs them, so they are computed
        # for the test set only.
        test = read_split(lake, models["pain"] / "split.json").test
        runs += _run_with_and_without_t2(lake, "region", test.where("made_from == 'truth'"))
    return runs, failed


def evaluate_classifiers(lake: Lake, models: dict[str, Path]) -> None:
    """Print the test AUC of each strategy, separately for delivered and true exams."""
    from qmri_lake.cli._progress import console
    from qmri_lake.lake.balanced_split import read_split

    for origin, description in ORIGINS.items():
        console.print(f"made_from == '{origin}': {description}", style="bold")
        for task in ("oa", "pain"):
            test = read_split(lake, models[task] / "split.json").test
            _show_evaluation(test.where(f"made_from == '{origin}'"), task)


def search_models(lake: Lake, out: Path, oa: Path, *, seed: int, epochs: int | None) -> bool:
    """Train a part of the search; return whether any model failed."""
    from qmri_lake.cli import train_classifiers as commands

    options = commands.ClassifierOptions(
        lake.url,
        out,
        preset="small",
        seed=seed,
        resume=True,
        epochs=_epochs("pain", epochs),
        strategy=["thickness"],
        bone=["tibia", "femur"],
    )
    return bool(commands.search(options, commands.GridOptions(**GRID), oa=oa))


def _epochs(task: str, epochs: int | None) -> int:
    return min(EPOCHS[task], epochs or EPOCHS[task])


def _run_with_and_without_t2(lake: Lake, step: str, exams: Cohort) -> list[RunResult]:
    """Run a step on the exams that have T2, then on the other exams without using T2."""
    from qmri_lake.cli._progress import console, run_bar

    with_t2 = exams.require("msme/t2")
    others = sorted(set(exams.exams["exam"]) - set(with_t2.exams["exam"]))
    parts: tuple[tuple[Cohort, dict[str, Any], str], ...] = (
        (with_t2, {}, ""),
        (exams.of_exams(others, "without T2"), {"with_t2": False}, ", of knees without T2"),
    )
    runs = []
    for cohort, parameters, note in parts:
        if len(cohort):
            with run_bar() as bar:
                runs.append(lake.run(step, cohort, listeners=[bar], **parameters))
            console.print(f"{runs[-1]}{note}")
    return runs


def _predict(lake: Lake, task: str, folder: Path) -> RunResult:
    from qmri_lake.cli._progress import console, run_bar

    with run_bar() as bar:
        run = lake.run(f"predict_{task}", models=str(folder), listeners=[bar])
    console.print(str(run))
    return run


def _show_evaluation(test: Cohort, task: str) -> None:
    from qmri_lake.cli._progress import console
    from qmri_lake.cli._results import result_table
    from qmri_lake.diagnosis import evaluate

    try:
        evaluation = evaluate(test, task)
    except InputError as error:
        console.print(f"{task}: no AUC: {error}")
        return
    aucs = evaluation.results[evaluation.results["metric"] == "auc"]
    labelled = evaluation.labelled
    console.print(
        f"{task}: {len(labelled)} test exams of {labelled.cohort.patients} patients, "
        f"{labelled.cases} cases; AUC, and the 95 % interval of ptf"
    )
    predictors = aucs["predictor"].unique().tolist()
    table = result_table("strategy", *predictors, "interval")
    for strategy, rows in aucs.dropna(subset="mean").groupby("strategy", sort=False):
        by_predictor = rows.set_index("predictor")
        values = [
            f"{by_predictor.loc[name, 'mean']:.2f}" if name in by_predictor.index else "–"
            for name in predictors
        ]
        all_bones = by_predictor.reindex(["ptf"]).iloc[0]
        low, high = all_bones["low"], all_bones["high"]
        table.add_row(str(strategy), *values, "–" if pd.isna(low) else f"{low:.2f}-{high:.2f}")
    console.print(table)
