"""Train classifiers of chronic pain, and explain them by Grad-CAM and cartilage thickness.

Usage: python pipelines/chronic_pain.py LAKE OA_MODELS MODELS [PRESET [EPOCHS [STRATEGY ...]]]

OA_MODELS is the folder written by pipelines/diagnose_oa.py with the same PRESET and the same
strategies, which must include thickness. Run the same command again to resume.
"""

from __future__ import annotations

import sys
from pathlib import Path

import qmri_lake as ql
from qmri_lake.diagnosis.training.train_classifiers import ModelDone
from qmri_lake.errors import InputError
from qmri_lake.lake.balanced_split import read_split
from qmri_lake.training.events import EpochDone

WEIGHTED_BONES = ("femur", "tibia")
"""Bones whose thickness the paper weights by class activation maps."""


def main(
    url: str, oa: str, out: str, preset: str = "paper", epochs: str = "", *strategies: str
) -> None:
    """Train and evaluate classifiers of pain, compute their CAMs, and test DL-guided thickness."""
    lake = ql.open_lake(url)
    folder = Path(out)

    # 1. Train classifiers of pain. Each starts from the OA model of the same strategy and bone. The
    #    training, validation and test patients are the same as for the OA models.
    ql.diagnosis.train_classifiers(
        lake,
        "pain",
        preset=preset,
        out=folder,
        oa=oa,
        strategies=strategies or None,
        resume=True,
        progress=print_model,
        epochs=int(epochs) if epochs else None,
    )
    print(lake.run("predict_pain", models=str(folder)))

    # 2. Evaluate on the last visit of each test patient: Table S3.
    sets = read_split(lake, folder / "split.json")
    evaluation = ql.diagnosis.evaluate(sets.test, "pain")
    print(evaluation.labelled.cohort)
    print(evaluation.table().text())
    (folder / "table_s3.html").write_text(evaluation.table().html(), encoding="utf-8")
    (folder / "table_s3.tex").write_text(evaluation.table().latex(), encoding="utf-8")

    # 3. Compute class activation maps of the thickness models, in knees that neither they nor the
    #    OA models were trained on.
    cohort = sets.test.require("sphere/map", "region/thickness", "prediction/pain")
    labelled = ql.diagnosis.label_pain(cohort)
    models = {bone: open_model(folder, bone) for bone in WEIGHTED_BONES}
    oa_models = [open_model(Path(oa), bone) for bone in WEIGHTED_BONES]
    knees = ql.diagnosis.unseen_knees(labelled, [*models.values(), *oa_models])
    print(knees.cohort)
    sphere = lake.load("sphere", knees.cohort)
    probability = lake.load("prediction", knees.cohort)["pain"].sel(strategy="thickness")
    means, guided = [], []
    for bone, model in models.items():
        cams = ql.diagnosis.cams(sphere, model)
        means.append(
            ql.diagnosis.mean_cams(
                cams, knees.label, probability.sel(predictor=bone).compute().values
            )
        )
        # Use the CAM of presence for every knee: a CAM chosen by the label would leak the label.
        guided.append(ql.diagnosis.guided_thickness(sphere, cams))
    figure = ql.report.cam_figure(means, title="Mean class activation maps of the pain classifiers")
    figure.savefig(folder / "cams.svg")

    # 4. Test whether DL-guided thickness explains pain beyond the mean thickness of compartments.
    try:
        tests = ql.diagnosis.thickness_models(knees, guided)
    except InputError as error:
        print(f"no likelihood-ratio test: {error}")  # too few knees, or no CAM
    else:
        table = ql.report.association_table(tests, exams=f"{len(knees)} test patients")
        print(table.text())
        (folder / "association.html").write_text(table.html(), encoding="utf-8")
        (folder / "association.tex").write_text(table.latex(), encoding="utf-8")
    print(f"tables and figures are in {folder}; snapshot {lake.snapshot}")


def open_model(folder: Path, bone: str) -> ql.diagnosis.Classifier:
    """Open the classifier of a bone with the strategy thickness."""
    return ql.diagnosis.Classifier.open(folder / "thickness" / bone)


def print_model(done: EpochDone | ModelDone) -> None:
    """Print the result of a model when its training ends."""
    if isinstance(done, ModelDone):
        print(done, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
