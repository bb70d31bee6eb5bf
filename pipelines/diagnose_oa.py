"""From spherical maps to classifiers of osteoarthritis, and Table S2. Read top to bottom.

Usage: python pipelines/diagnose_oa.py LAKE MODELS [PRESET [EPOCHS [STRATEGY ...]]]

LAKE has spherical maps and KL grades. PRESET is paper, the default, or small; EPOCHS of each model
can be fewer, and so can strategies. Start it again, and it goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import qmri_lake as ql
from qmri_lake.diagnosis.training import ModelDone
from qmri_lake.segmentation.train import EpochDone
from qmri_lake.splitting import read_split

PICTURED = "thickness"
"""The strategy whose curves are drawn."""


def main(url: str, out: str, preset: str = "paper", epochs: str = "", *strategies: str) -> None:
    """Train a model a strategy and bone, predict all exams, judge those that test."""
    lake = ql.open_lake(url)
    folder = Path(out)

    # 1. Classifiers, of exams with a grade and maps. What is finished is not trained again.
    ql.diagnosis.train_classifiers(
        lake, "oa", preset=preset, out=folder, strategies=strategies or None, resume=True,
        progress=say, epochs=int(epochs) if epochs else None,
    )  # fmt: skip

    # 2. What they say of every exam goes into the lake, with who said it.
    print(lake.run("predict_oa", models=str(folder)))

    # 3. Table 1: who learned, who tests; Table S2: what it reaches, the paper's numbers beside.
    sets = read_split(lake, folder / "split.json")
    found = ql.diagnosis.evaluate(sets.test, "oa")
    print(found.labelled.cohort)
    print(found.table().text())
    (folder / "table_s2.html").write_text(found.table().html(), encoding="utf-8")
    (folder / "table_s2.tex").write_text(found.table().latex(), encoding="utf-8")

    # 4. The curves of one strategy: bones, and their means.
    tested = found.labelled.cohort
    said = lake.load("prediction", tested)["oa"].sel(strategy=PICTURED).compute()
    known = said.notnull().all("predictor").values
    scores = {
        str(name): said.sel(predictor=name).values[known] for name in said["predictor"].values
    }
    label, patient = found.labelled.label[known], tested.exams["patient"].to_numpy()[known]
    roc = ql.report.roc_figure(label, scores, patient=patient, title=f"Osteoarthritis, {PICTURED}")
    roc.savefig(folder / "roc.svg")
    ql.report.calibration_figure(label, scores).savefig(folder / "calibration.svg")
    print(f"tables and figures are in {folder}; snapshot {lake.snapshot}")


def say(done: EpochDone | ModelDone) -> None:
    """Print a model that has ended."""
    if isinstance(done, ModelDone):
        print(done, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
