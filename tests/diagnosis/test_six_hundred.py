"""Classifiers on 600 synthetic knees: metrics, CAMs, and their association with pain."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import qmri_lake as ql
from qmri_lake.diagnosis.data.sphere_images import SphereImages
from qmri_lake.diagnosis.labels import LabelledCohort, label_oa, label_pain
from qmri_lake.diagnosis.models.classifier import Classifier
from qmri_lake.diagnosis.models.recipes import recipe
from qmri_lake.diagnosis.training.loop import train_classifier
from qmri_lake.lake.balanced_split import CohortSplit, read_split
from qmri_lake.statistics import bootstrap_roc
from tests.conftest import Judge
from tests.diagnosis import six_hundred_knees as six_hundred
from tests.diagnosis.lesion_lake import make_pain_lake, train_on
from tests.diagnosis.six_hundred_knees import counted, spent

pytestmark = [pytest.mark.accept, pytest.mark.timeout(4 * 3600)]

SEEDS = (0, 1, 2)
"""Of the split, and of the models that learn on it."""
LOOKED_THROUGH = ("femur", "tibia")
"""Bones with DL-guided thickness in the paper."""
EPOCHS = {"oa": 4, "pain": 4, "shuffled": 3}
KEY = {"strategy": "thickness", "predictor": "ptf"}
KNEES = 1000
"""Knees with a known cause of pain; half of them for training."""
QUADRANTS = ("posterior lateral", "anterior lateral", "anterior medial", "posterior medial")
"""Of azimuths from -180 degrees on, 90 degrees each."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the lake and its models are: a folder that is kept goes on where it stopped."""
    kept = os.environ.get("QMRI_LAKE_SIX_HUNDRED")
    return Path(kept) if kept else tmp_path_factory.mktemp("six_hundred")


@pytest.fixture(scope="module")
def lake(folder: Path) -> ql.Lake:
    return six_hundred.build(folder)


@pytest.fixture(scope="module")
def trained(lake: ql.Lake, folder: Path) -> Path:
    """Models of OA and of pain that start from them, a folder a seed: ``oa-0``, ``pain-0``."""
    models = folder / "models"
    for task in ("oa", "pain"):
        with counted(folder, f"models of {task}"):
            for seed in SEEDS:
                ql.diagnosis.train_classifiers(
                    lake,
                    task,
                    preset="small",
                    out=models / f"{task}-{seed}",
                    oa=models / f"oa-{seed}" if task == "pain" else None,
                    strategies=["thickness"],
                    cohort=six_hundred.chosen(lake),
                    seed=seed,
                    epochs=EPOCHS[task],
                    resume=True,
                )
    return models


def test_six_hundred__oa(lake: ql.Lake, trained: Path, folder: Path, judge: Judge) -> None:
    cohort = six_hundred.chosen(lake)
    true = six_hundred.true_thickness(cohort)
    found, tissue, words = [], [], []
    for seed, sets, auc, text in evaluated(lake, trained, "oa"):
        train, test = label_oa(sets.train), label_oa(sets.test)
        model = make_pipeline(StandardScaler(), LogisticRegression())
        model.fit(true.loc[train.cohort.exams["exam"]], train.label)
        score = model.predict_proba(true.loc[test.cohort.exams["exam"]])[:, 1]
        tissue.append(float(roc_auc_score(test.label, score)))
        found.append(auc)
        sizes = "/".join(str(len(part)) for part in sets)
        words.append(f"{text} against {tissue[-1]:.3f} (seed {seed}, {sizes})")
    mean, regression = float(np.mean(found)), float(np.mean(tissue))
    minutes = spent(folder)
    judge(
        "600 knees / OA by thickness, mean of three bones",
        required="mean of 3 seeds: AUC >= 0.85, within 0.05 of logistic regression on the true "
        "thickness of six regions",
        measured=f"{mean:.3f}, regression {regression:.3f}: {'; '.join(words)}; "
        f"{sum(minutes.values()):.0f} CPU-minutes: "
        + ", ".join(f"{part} {value:.1f}" for part, value in minutes.items()),
        passed=mean >= 0.85 and mean >= regression - 0.05,
    )


def test_six_hundred__pain(lake: ql.Lake, trained: Path, judge: Judge) -> None:
    found, words = [], []
    for seed, sets, auc, text in evaluated(lake, trained, "pain"):
        sizes = "/".join(str(len(part)) for part in sets)
        found.append(auc)
        words.append(f"{text} (seed {seed}, {sizes})")
    judge(
        "600 knees / chronic pain by thickness, mean of three bones",
        required="mean of 3 seeds: AUC >= 0.62",
        measured=f"{np.mean(found):.3f}: {'; '.join(words)}",
        passed=bool(np.mean(found) >= 0.62),
    )


def evaluated(
    lake: ql.Lake, trained: Path, task: str
) -> Iterator[tuple[int, CohortSplit, float, str]]:
    """Predict the test exams of each seed; yield its sets, the AUC of all bones, and a text."""
    for seed in SEEDS:
        models = trained / f"{task}-{seed}"
        sets = read_split(lake, models / "split.json")
        assert not lake.run(f"predict_{task}", sets.test, models=str(models)).failed
        table = ql.diagnosis.evaluate(sets.test, task, last_visit=False).results
        row = table.set_index(["strategy", "predictor", "metric"]).loc[(*KEY.values(), "auc")]
        yield (
            seed,
            sets,
            float(row["mean"]),
            f"{row['mean']:.3f} ({row['low']:.2f}-{row['high']:.2f})",
        )


class Attention(NamedTuple):
    """Mean CAMs of models; one row per seed and bone."""

    presence: pd.DataFrame
    """seed, bone, medial: share of the mass."""
    absence: pd.DataFrame
    """The femur's alone: share of the mass in each of `QUADRANTS`, a row a seed."""


@pytest.fixture(scope="module")
def attention(lake: ql.Lake, trained: Path) -> Attention:
    """Compute mean CAMs of the models of pain over correctly classified test exams."""
    presence, absence = [], []
    for seed in SEEDS:
        models = trained / f"pain-{seed}"
        test = label_pain(read_split(lake, models / "split.json").test)
        sphere = lake.load("sphere", test.cohort)[["map", "surface_status"]].compute()
        said = ql.predict(sphere, str(models))["pain"].sel(strategy="thickness").compute()
        for bone in LOOKED_THROUGH:
            cams = ql.diagnosis.cams(sphere, Classifier.open(models / "thickness" / bone))
            mean = ql.diagnosis.mean_cams(cams, test.label, said.sel(predictor=bone).values)
            medial = float(mean["medial_share"].sel(finding="presence"))
            presence.append({"seed": seed, "bone": bone, "medial": medial})
            if bone == "femur":
                absence.append(quadrants(mean["mean"].sel(finding="absence")))
    return Attention(pd.DataFrame(presence), pd.DataFrame(absence, columns=list(QUADRANTS)))


def quadrants(cam: xr.DataArray) -> list[float]:
    """Return the share of the sum of a CAM in each of `QUADRANTS`."""
    each = cam.sum("polar").groupby_bins("azimuth", [-180, -90, 0, 90, 180]).sum()
    return [float(v) for v in each / each.sum()]


def test_six_hundred__presence_of_pain_is_medial(attention: Attention, judge: Judge) -> None:
    medial = float(attention.presence["medial"].mean())
    each = attention.presence.groupby("bone")["medial"]
    judge(
        "600 knees / Grad-CAM of pain by thickness, presence",
        required="mean of 3 seeds, femur and tibia: at least 0.6 of its mass on the medial half",
        measured=f"{medial:.2f}: "
        + "; ".join(f"{bone} {', '.join(f'{v:.2f}' for v in values)}" for bone, values in each),
        passed=medial >= 0.6,
    )


def test_six_hundred__absence_of_pain_is_in_front(attention: Attention, judge: Judge) -> None:
    """Pain falls with wear in front: of the whole trochlea, thinnest on its lateral side.

    So the femur's anterior half is where it was planted. The paper's absence lay on the lateral
    side of it, which is printed. The tibia has nothing that speaks against pain but medial
    cartilage that is whole.
    """
    where = attention.absence.mean()
    front = attention.absence[["anterior lateral", "anterior medial"]].sum(axis=1)
    judge(
        "600 knees / Grad-CAM of pain by thickness, absence",
        required="mean of 3 seeds: at least 0.6 of its mass on the femur's anterior half, where "
        "wear in the phantom is associated with less pain",
        measured=f"{front.mean():.2f} ({', '.join(f'{v:.2f}' for v in front)}); "
        + ", ".join(f"{name} {value:.2f}" for name, value in where.items()),
        passed=bool(front.mean() >= 0.6),
    )


class Shuffled(NamedTuple):
    """Metrics and CAMs of models trained on shuffled labels."""

    auc: pd.DataFrame
    """mean, low, high: a row a seed."""
    medial: pd.Series
    """Share of the mass of both findings' CAMs, of all test exams; a row a seed and bone."""


@pytest.fixture(scope="module")
def shuffled(lake: ql.Lake, trained: Path, folder: Path) -> Shuffled:
    """Train and test on shuffled labels of OA."""
    aucs, shares = [], []
    labelled = label_oa(six_hundred.chosen(lake))
    keys = [str(key) for key in labelled.cohort.exams["exam"]]
    for seed in SEEDS:
        label = pd.Series(np.random.default_rng(seed).permutation(labelled.label), keys)
        sets = read_split(lake, trained / f"oa-{seed}" / "split.json")
        sphere = lake.load("sphere", sets.test)[["map", "surface_status"]].compute()
        scores = []
        for bone in LOOKED_THROUGH:
            images = [
                SphereImages(
                    part,
                    label,
                    strategy="thickness",
                    bone=bone,
                    size=64,
                    cache=folder / "models" / "shuffled-cache",
                )
                for part in sets
            ]
            with counted(folder, "models of shuffled labels"):
                model = train_classifier(
                    images[0],
                    images[1],
                    recipe("oa", "small"),
                    folder / "models" / f"shuffled-{seed}" / bone,
                    seed=seed,
                    epochs=EPOCHS["shuffled"],
                    resume=True,
                )
            scores.append(model.predict(images[2]))
            mean = ql.diagnosis.cams(sphere, model)["cam"].mean("exam")
            shares.append(float(ql.diagnosis.medial_share(mean).mean("finding")))
        test = label.loc[list(images[2].exams)].to_numpy()
        patient = sets.test.exams["patient"].to_numpy()
        found = bootstrap_roc(test, np.mean(scores, axis=0), patient=patient).table()
        aucs.append(found.set_index("metric").loc["auc", ["mean", "low", "high"]])
    return Shuffled(pd.DataFrame(aucs), pd.Series(shares))


def test_six_hundred__shuffled_labels_are_not_predicted(shuffled: Shuffled, judge: Judge) -> None:
    auc = shuffled.auc
    judge(
        "600 knees / labels shuffled before the training, OA by thickness of femur and tibia",
        required="the 95 % interval of the AUC contains 0.5, with each of 3 seeds",
        measured="; ".join(f"{r.mean:.3f} ({r.low:.2f}-{r.high:.2f})" for r in auc.itertuples()),
        passed=bool(((auc["low"] <= 0.5) & (auc["high"] >= 0.5)).all()),
    )


def test_six_hundred__cams_of_shuffled_labels_prefer_no_side(
    shuffled: Shuffled, judge: Judge
) -> None:
    share = float(shuffled.medial.mean())
    judge(
        "600 knees / Grad-CAM with labels shuffled",
        required="mean of 3 seeds, femur and tibia: 0.5 +- 0.1 of its mass on the medial half",
        measured=f"{share:.2f}: {', '.join(f'{value:.2f}' for value in shuffled.medial)}",
        passed=abs(share - 0.5) <= 0.1,
    )


def test_lesions__guided_thickness_explains_pain(tmp_path: Path, judge: Judge) -> None:
    """Two places of the medial half are thinned equally; one of them causes pain."""
    found: dict[str, list[float]] = {"pixel": [], "mean": []}
    aucs, left_out = [], 0
    for seed in range(10):
        lake, label = make_pain_lake(tmp_path / f"{seed}.lake", KNEES, seed=seed)
        classifier, test = train_on(lake, label, tmp_path / f"{seed}", seed=seed, epochs=8)
        labelled = LabelledCohort(lake.cohort().of_exams(test.exams, "test"), test.label, "pain")
        knees = ql.diagnosis.unseen_knees(labelled, [classifier])
        sphere = lake.load("sphere", knees.cohort)
        aucs.append(roc_auc_score(test.label, classifier.predict(test)))
        for gradient, p in found.items():
            cams = ql.diagnosis.cams(sphere, classifier, gradient=gradient)
            guided = ql.diagnosis.guided_thickness(sphere, cams)
            tested = ql.diagnosis.thickness_models(knees, [guided])["femur"]
            p.append(tested.p)
            left_out += tested.left_out
    rejected = {gradient: sum(value < 0.05 for value in p) for gradient, p in found.items()}
    text = {
        g: f"{rejected[g]} of 10 (p {', '.join(f'{v:.1g}' for v in p)})" for g, p in found.items()
    }
    judge(
        "DL-guided thickness / pain simulated in one of two places, likelihood ratio, 10 seeds "
        f"of {KNEES:,} knees",
        required="models of pain, CAMs by each pixel's gradient, guided thickness, nested models: "
        "p < 0.05 in at least 9 of 10; by the mean gradient: printed",
        measured=f"{text['pixel']}; by the mean gradient {text['mean']}; AUC "
        f"{min(aucs):.2f} to {max(aucs):.2f}; {left_out} of {20 * len(test)} left out",
        passed=rejected["pixel"] >= 9,
    )
