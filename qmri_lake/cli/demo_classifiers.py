"""The demo's classifiers: maps of knees by their truth, 36 models, tests, a part of the search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from qmri_lake.errors import InputError

if TYPE_CHECKING:
    from qmri_lake.cli.demo_parts import Parts
    from qmri_lake.cohort import Cohort
    from qmri_lake.lake import Lake
    from qmri_lake.run import RunResult

__all__ = ["map_true_exams", "train_and_judge"]

EPOCHS = {"oa": 3, "pain": 2}
"""Of each classifier at most: what 30 CPU-minutes for all of the demo leave."""
SEARCHED: dict[str, Any] = {
    "strategy": ["thickness"], "bone": ["tibia", "femur"], "start": ["random", "oa"],
    "depth": [18], "frozen": ["none", "first_two"],
}  # fmt: skip
"""Eight models of the search's 612."""
KINDS = {
    "delivered": "DICOM, masks by networks, fitted T2",
    "truth": "maps computed from the phantom's true masks: no result of the chain",
}


def map_true_exams(lake: Lake) -> list[RunResult]:
    """Compute maps from true masks, with the true T2; without T2 where a knee has no series."""
    return _run_on(lake, "sphere", lake.cohort("made_from == 'truth'"))


def _run_on(lake: Lake, step: str, exams: Cohort) -> list[RunResult]:
    """Run a step on exams that have T2, and without T2 on the others."""
    from qmri_lake.cli.progress import console, run_bar

    with_t2 = exams.require("msme/t2")
    others = sorted(set(exams.exams["exam"]) - set(with_t2.exams["exam"]))
    parts: tuple[tuple[Cohort, dict[str, Any], str], ...] = (
        (with_t2, {}, ""),
        (exams.of_exams(others, "without T2"), {"with_t2": False}, ", of knees without T2"),
    )
    runs = []
    for part, parameters, told in parts:
        if len(part):
            with run_bar() as bar:
                runs.append(lake.run(step, part, listeners=[bar], **parameters))
            console.print(f"{runs[-1]}{told}")
    return runs


def train_and_judge(
    lake: Lake,
    out: Path,
    models: dict[str, Path],
    part: Parts,
    runs: list[RunResult],
    *,
    seed: int,
    epochs: int | None,
    strategies: Sequence[str] | None,
) -> bool:
    """Train classifiers of OA, then of pain, predict, judge, search; tell whether any failed."""
    from qmri_lake.cli import train_classifiers as commands
    from qmri_lake.splitting import read_split

    asked: dict[str, Any] = {"preset": "small", "seed": seed, "resume": True}
    least = {task: min(n, epochs or n) for task, n in EPOCHS.items()}
    chosen = {**asked, "strategy": None if strategies is None else list(strategies)}
    failed = False

    with part("classifiers of osteoarthritis"):
        failed |= bool(commands.oa(lake.url, models["oa"], epochs=least["oa"], **chosen))
        runs.append(_predict(lake, "oa", models["oa"]))
    with part("classifiers of pain, from those of osteoarthritis"):
        failed |= bool(
            commands.pain(lake.url, models["pain"], oa=models["oa"], epochs=least["pain"], **chosen)
        )
        runs.append(_predict(lake, "pain", models["pain"]))
        # Regional means take as long as maps do, and only tests need them.
        tested = read_split(lake, models["pain"] / "split.json").test
        runs += _run_on(lake, "region", tested.where("made_from == 'truth'"))
    with part("what they reach on patients that none of them has seen"):
        _show_tests(lake, models)
    with part("8 of the 612 models of the search"):
        failed |= bool(
            commands.search(
                lake.url, out / "models" / "search", oa=models["oa"], epochs=least["pain"],
                **asked, **SEARCHED,
            )
        )  # fmt: skip
    return failed


def _predict(lake: Lake, task: str, folder: Path) -> RunResult:
    from qmri_lake.cli.progress import console, run_bar

    with run_bar() as bar:
        run = lake.run(f"predict_{task}", models=str(folder), listeners=[bar])
    console.print(str(run))
    return run


def _show_tests(lake: Lake, models: dict[str, Path]) -> None:
    """Print the test AUC of each strategy, of the two kinds of knees apart."""
    from qmri_lake.cli.progress import console
    from qmri_lake.splitting import read_split

    for kind, what in KINDS.items():
        console.print(f"made_from == '{kind}': {what}", style="bold")
        for task in ("oa", "pain"):
            tested = read_split(lake, models[task] / "split.json").test
            _show_test(tested.where(f"made_from == '{kind}'"), task)


def _show_test(tested: Cohort, task: str) -> None:
    from qmri_lake.cli.progress import console
    from qmri_lake.cli.trained import result_table
    from qmri_lake.diagnosis import evaluate

    try:
        found = evaluate(tested, task)
    except InputError as error:
        console.print(f"{task}: no AUC: {error}", soft_wrap=True)
        return
    aucs = found.results[found.results["metric"] == "auc"]
    labelled = found.labelled
    console.print(
        f"{task}: {len(labelled)} test exams of {labelled.cohort.patients} patients, "
        f"{labelled.cases} cases; AUC, and the 95 % interval of ptf"
    )
    predictors = aucs["predictor"].unique().tolist()
    table = result_table("strategy", *predictors, "interval")
    for strategy, rows in aucs.dropna(subset="mean").groupby("strategy", sort=False):
        by = rows.set_index("predictor")
        values = [f"{by.loc[n, 'mean']:.2f}" if n in by.index else "–" for n in predictors]
        whole = by.reindex(["ptf"]).iloc[0]
        interval = "–" if pd.isna(whole["low"]) else f"{whole['low']:.2f}-{whole['high']:.2f}"
        table.add_row(str(strategy), *values, interval)
    console.print(table)
