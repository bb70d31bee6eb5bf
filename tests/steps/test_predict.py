"""Predictions: run = session = the classifier itself, means over bones, reasons, evaluation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.diagnosis.data.map_reader import with_maps
from qmri_lake.diagnosis.data.sphere_images import SphereImages
from qmri_lake.diagnosis.evaluation.prediction_metrics import evaluate
from qmri_lake.diagnosis.models.classifier import Classifier
from qmri_lake.diagnosis.models.ensemble import open_classifiers, recorded_name
from qmri_lake.diagnosis.models.prediction import PREDICTION_STATUS
from qmri_lake.errors import InputError, NotFoundError, RunError
from qmri_lake.lake import Lake
from qmri_lake.lake.balanced_split import read_split
from tests.diagnosis.case_control_lake import NO_FEMUR, NO_KL, NO_MAPS, NO_T2


@pytest.fixture(scope="module")
def predicted(case_control_lake: Lake, oa_models: Path) -> xr.Dataset:
    case_control_lake.run("predict_oa", models=oa_models)
    return case_control_lake.load("prediction").compute()


@pytest.mark.slow
def test_predict__run_session_and_classifier_agree(
    case_control_lake: Lake, oa_models: Path, predicted: xr.Dataset
) -> None:
    session = ql.predict(case_control_lake.load("sphere"), oa_models)
    maps = case_control_lake.load("sphere")["map"]
    assert session["oa"].chunks[0] == maps.chunks[0], "blocks are those of the maps"
    session = session.compute()
    rest = np.delete(np.arange(len(case_control_lake)), NO_MAPS)  # which a run skips
    for name in ("oa", "oa_status"):
        xr.testing.assert_allclose(session[name][rest], predicted[name][rest], atol=1e-6)
        assert session[name].attrs == predicted[name].attrs
    one = ql.predict(case_control_lake.load("sphere").isel(exam=7, drop=True), oa_models)
    np.testing.assert_allclose(one["oa"], predicted["oa"][7], atol=1e-6)
    for bone in ("patella", "tibia", "femur"):
        model = Classifier.open(oa_models / "thickness" / bone)
        cohort = with_maps(case_control_lake.cohort(), "thickness", bone)
        asked = model.predict(SphereImages(cohort, strategy="thickness", bone=bone, size=64))
        ours = predicted["oa"].sel(strategy="thickness", predictor=bone)
        np.testing.assert_allclose(ours[cohort.rows], asked, atol=1e-6)


def test_predict__means_over_bones(predicted: xr.Dataset) -> None:
    of = predicted["oa"].sel(strategy="thickness")
    means = {"tf": ["tibia", "femur"], "ptf": ["patella", "tibia", "femur"]}
    for name, bones in means.items():
        expected = of.sel(predictor=bones).mean("predictor", skipna=False)
        np.testing.assert_allclose(of.sel(predictor=name), expected, atol=1e-6)


def test_predict__no_value_has_its_reason(
    case_control_lake: Lake, oa_models: Path, predicted: xr.Dataset
) -> None:
    status = predicted["oa_status"].sel(strategy="thickness")
    there = np.isfinite(predicted["oa"].sel(strategy="thickness").values)
    assert ((status == PREDICTION_STATUS["predicted"]).values == there).all()
    assert (predicted["oa_status"].sel(strategy="all")[0] == PREDICTION_STATUS["no_model"]).all()
    lacking = dict(zip(status["predictor"].values, status[NO_FEMUR].values, strict=True))
    assert lacking == {"patella": 0, "tibia": 0, "femur": 1, "tf": 1, "ptf": 1}
    failures = case_control_lake.failures("predict_oa").set_index("exam")
    exams = case_control_lake.exams["exam"]
    femur, none = failures.loc[exams[NO_FEMUR]], failures.loc[exams[NO_MAPS]]
    assert femur["state"] == "flagged"
    assert femur["message"].startswith("no bone shape of femur; no thickness of femur")
    assert none["state"] == "skipped"
    assert none["message"].startswith("no map that a classifier needs: ")
    assert exams[NO_T2] not in failures.index  # nobody asked for T2
    assert not case_control_lake.validate()


def test_predict__a_run_identifies_models_by_their_cards(
    case_control_lake: Lake, oa_models: Path, predicted: xr.Dataset, tmp_path: Path
) -> None:
    models = open_classifiers(oa_models)
    record = case_control_lake.runs().set_index("step").loc["predict_oa"]
    assert record["parameters"]["models"] == [recorded_name(model) for model in models]
    moved = tmp_path / "elsewhere"
    shutil.copytree(oa_models, moved)
    assert case_control_lake.plan("predict_oa", models=moved).rows.size == 0
    card = moved / "thickness" / "femur" / "card.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "seed": 7}))
    assert (
        case_control_lake.plan("predict_oa", models=moved).stale
        == np.isfinite(predicted["oa"].max(("strategy", "predictor"))).sum()
    )


def test_predict__refuses(case_control_lake: Lake, oa_models: Path, tmp_path: Path) -> None:
    sphere = case_control_lake.load("sphere")
    with pytest.raises(NotFoundError, match=r"no classifier \(expected at least one"):
        ql.predict(sphere, tmp_path)
    with pytest.raises(InputError, match="two classifiers of oa, thickness, patella"):
        ql.predict(sphere, [oa_models, *open_classifiers(oa_models)])
    with pytest.raises(InputError, match=r"a float \(expected a folder or a Classifier"):
        ql.predict(sphere, [0.5])
    with pytest.raises(NotFoundError, match="no map of patella, tibia"):
        ql.predict(sphere.isel(bone=[2]), oa_models)
    with pytest.raises(NotFoundError, match="no variable 'map'"):
        ql.predict(sphere.drop_vars("map"), oa_models)
    with pytest.raises(InputError, match=r"task oa \(expected task pain"):
        case_control_lake.plan("predict_pain", models=oa_models)
    spoiled = tmp_path / "spoiled"
    shutil.copytree(oa_models, spoiled)
    models = open_classifiers(spoiled)
    (spoiled / "thickness" / "femur" / "model.pth").write_bytes(b"none")
    with pytest.raises(RunError, match="SHA-256"):
        case_control_lake.run(
            "predict_oa", models=models, variant="spoiled"
        )  # it would fail every exam
    with pytest.raises(InputError, match="SHA-256"):
        case_control_lake.run("predict_oa", models=spoiled)


def test_evaluate__last_visit_of_the_test_set(
    case_control_lake: Lake, oa_models: Path, predicted: xr.Dataset
) -> None:
    test = read_split(case_control_lake, oa_models / "split.json").test
    found = evaluate(test, "oa", n_resamples=50)
    exams = found.labelled.cohort.exams
    assert not exams["patient"].duplicated().any()
    of = found.results.set_index(["strategy", "predictor", "metric"])
    auc = of.loc[("thickness", "ptf", "auc")]
    assert auc["exams"] + auc["left_out"] == len(exams)
    ours = predicted["oa"].sel(strategy="thickness", predictor="ptf")
    score = ours[found.labelled.cohort.rows].values
    there = np.isfinite(score)
    expected = ql.statistics.bootstrap_roc(
        found.labelled.label[there],
        score[there],
        n_resamples=50,
        seed=0,
        patient=exams["patient"].to_numpy()[there],
    )
    assert auc["mean"] == expected.auc.mean
    assert np.isnan(of.loc[("all", "ptf", "auc"), "mean"])
    table = found.table()
    assert f"{len(exams)} test exams of {len(exams)} patients" in table.caption
    assert "–" in table.text()
    every = evaluate(test, "oa", last_visit=False, n_resamples=50)
    assert len(every.labelled) > len(found.labelled)
    sets = read_split(case_control_lake, oa_models / "split.json")
    youden = evaluate(test, "oa", validation=sets.validation, n_resamples=50).results
    assert (youden["threshold"] != 0.5).any()
    with pytest.raises(InputError, match="no prediction of pain in 16 exams with a label"):
        evaluate(test, "pain")
    unlabelled = case_control_lake.cohort(f"exam == '{case_control_lake.exams['exam'][NO_KL[0]]}'")
    with pytest.raises(InputError, match="no prediction of oa in 0 exams"):
        evaluate(unlabelled, "oa")


def test_predict__by_the_command_line(
    case_control_lake: Lake,
    oa_models: Path,
    predicted: xr.Dataset,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (
        main(["run", "predict_oa", "--lake", case_control_lake.url, "--set", f"models={oa_models}"])
        == 0
    )
    assert "already done" in capsys.readouterr().out
