"""From classifiers of osteoarthritis to those of pain, where they look, and what that explains.

Usage: python pipelines/chronic_pain.py LAKE OA_MODELS MODELS [PRESET [EPOCHS [STRATEGY ...]]]

OA_MODELS is what pipelines/diagnose_oa.py made, with the same PRESET and, if any are named,
the same STRATEGIES, thickness among them. Start it again, and it goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import qmri_lake as ql
from qmri_lake.diagnosis.training import ModelDone
from qmri_lake.errors import InputError
from qmri_lake.segmentation.train import EpochDone
from qmri_lake.splitting import read_split

LOOKED_THROUGH = ("femur", "tibia")
"""Bones whose thickness the paper weights by where models look."""


def main(
    url: str, oa: str, out: str, preset: str = "paper", epochs: str = "", *strategies: str
) -> None:
    """Train models of pain, judge them, look where they look, test what thickness there adds."""
    lake = ql.open_lake(url)
    folder = Path(out)

    # 1. Models of pain start from that of OA of the same strategy and bone, and keep its patients.
    ql.diagnosis.train_classifiers(
        lake, "pain", preset=preset, out=folder, oa=oa, strategies=strategies or None, resume=True,
        progress=say, epochs=int(epochs) if epochs else None,
    )  # fmt: skip
    print(lake.run("predict_pain", models=str(folder)))

    # 2. Table S3, of the last visit of each patient that tests.
    sets = read_split(lake, folder / "split.json")
    found = ql.diagnosis.evaluate(sets.test, "pain")
    print(found.labelled.cohort)
    print(found.table().text())
    (folder / "table_s3.html").write_text(found.table().html(), encoding="utf-8")
    (folder / "table_s3.tex").write_text(found.table().latex(), encoding="utf-8")

    # 3. Where models of thickness look, in knees that neither they nor those of OA have seen.
    cohort = sets.test.require("sphere/map", "region/thickness", "prediction/pain")
    labelled = ql.diagnosis.label_pain(cohort)
    models = {bone: open_model(folder, bone) for bone in LOOKED_THROUGH}
    firsts = [open_model(Path(oa), bone) for bone in LOOKED_THROUGH]
    knees = ql.diagnosis.unseen_knees(labelled, [*models.values(), *firsts])
    print(knees.cohort)
    sphere = lake.load("sphere", knees.cohort)
    said = lake.load("prediction", knees.cohort)["pain"].sel(strategy="thickness")
    means, guided = [], []
    for bone, model in models.items():
        cams = ql.diagnosis.cams(sphere, model)
        means.append(
            ql.diagnosis.mean_cams(cams, knees.label, said.sel(predictor=bone).compute().values)
        )
        # The CAM of presence in every knee: one chosen by its label would put the answer in.
        guided.append(ql.diagnosis.guided_thickness(sphere, cams))
    figure = ql.report.cam_figure(means, title="Where models of pain look")
    figure.savefig(folder / "cams.svg")

    # 4. Does thickness there explain pain beyond the means of compartments?
    try:
        tested = ql.diagnosis.thickness_models(knees, guided)
    except InputError as error:
        print(f"no likelihood-ratio test: {error}")  # too few knees, or none of a CAM
    else:
        table = ql.report.association_table(tested, exams=f"{len(knees)} test patients")
        print(table.text())
        (folder / "association.html").write_text(table.html(), encoding="utf-8")
        (folder / "association.tex").write_text(table.latex(), encoding="utf-8")
    print(f"tables and figures are in {folder}; snapshot {lake.snapshot}")


def open_model(folder: Path, bone: str) -> ql.diagnosis.Classifier:
    """Open the classifier of thickness of a bone."""
    return ql.diagnosis.Classifier.open(folder / "thickness" / bone)


def say(done: EpochDone | ModelDone) -> None:
    """Print a model that has ended."""
    if isinstance(done, ModelDone):
        print(done, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
