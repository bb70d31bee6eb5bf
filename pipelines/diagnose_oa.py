"""Train classifiers of osteoarthritis on spherical maps, and write Table S2.

Usage: python pipelines/diagnose_oa.py LAKE MODELS [PRESET [EPOCHS [STRATEGY ...]]]

LAKE needs spherical maps and KL grades. PRESET is paper (default) or small. EPOCHS limits the
epochs of each model; STRATEGY restricts the merging strategies. Run the same command again to
resume.
"""

from __future__ import annotations

import sys
from pathlib import Path

import qmri_lake as ql
from qmri_lake.diagnosis.training.train_classifiers import ModelDone
from qmri_lake.lake.balanced_split import read_split
from qmri_lake.training.events import EpochDone

DRAWN_STRATEGY = "thickness"
"""Merging strategy whose ROC and calibration curves are drawn."""


def main(url: str, out: str, preset: str = "paper", epochs: str = "", *strategies: str) -> None:
    """Train one model per strategy and bone, predict all exams, and evaluate the test exams."""
    lake = ql.open_lake(url)
    folder = Path(out)

    # 1. Train classifiers on exams with a KL grade and maps. Finished models are skipped.
    ql.diagnosis.train_classifiers(
        lake,
        "oa",
        preset=preset,
        out=folder,
        strategies=strategies or None,
        resume=True,
        progress=print_model,
        epochs=int(epochs) if epochs else None,
    )

    # 2. Write the predictions for every exam into the lake. The run records the models.
    print(lake.run("predict_oa", models=str(folder)))

    # 3. Evaluate on the test exams: Table S2, with the published numbers.
    sets = read_split(lake, folder / "split.json")
    evaluation = ql.diagnosis.evaluate(sets.test, "oa")
    print(evaluation.labelled.cohort)
    print(evaluation.table().text())
    (folder / "table_s2.html").write_text(evaluation.table().html(), encoding="utf-8")
    (folder / "table_s2.tex").write_text(evaluation.table().latex(), encoding="utf-8")

    # 4. Draw the curves of one strategy, for each bone and for their means.
    test = evaluation.labelled.cohort
    probability = lake.load("prediction", test)["oa"].sel(strategy=DRAWN_STRATEGY).compute()
    known = probability.notnull().all("predictor").values
    scores = {
        str(name): probability.sel(predictor=name).values[known]
        for name in probability["predictor"].values
    }
    label, patient = evaluation.labelled.label[known], test.exams["patient"].to_numpy()[known]
    roc = ql.report.roc_figure(
        label, scores, patient=patient, title=f"Osteoarthritis, {DRAWN_STRATEGY}"
    )
    roc.savefig(folder / "roc.svg")
    ql.report.calibration_figure(label, scores).savefig(folder / "calibration.svg")
    print(f"tables and figures are in {folder}; snapshot {lake.snapshot}")


def print_model(done: EpochDone | ModelDone) -> None:
    """Print the result of a model when its training ends."""
    if isinstance(done, ModelDone):
        print(done, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
