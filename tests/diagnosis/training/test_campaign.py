"""Training many classifiers: who learns, what resumes, what fails alone, on a cluster, by CLI."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from qmri_lake.cli import main
from qmri_lake.diagnosis.models.classifier import Classifier
from qmri_lake.diagnosis.training.train_classifiers import ModelDone, train_classifiers
from qmri_lake.errors import InputError, NotFoundError, RunError
from qmri_lake.lake import Lake
from qmri_lake.lake.balanced_split import read_split, split
from tests.conftest import Judge
from tests.diagnosis.case_control_lake import EXAMS, NO_FEMUR, NO_KL, NO_MAPS

ONE = {"preset": "small", "epochs": 1, "strategies": ["thickness"]}


def test_train_classifiers__writes_split_and_a_folder_a_model(
    case_control_lake: Lake, oa_models: Path
) -> None:
    assert sorted(p.name for p in oa_models.iterdir()) == [
        "cache",
        "split.json",
        "thickness",
        "training.json",
    ]
    sets = read_split(case_control_lake, oa_models / "split.json")
    asked = json.loads((oa_models / "training.json").read_text())
    assert asked["snapshot"] in case_control_lake.history()["snapshot"].tolist()
    assert asked["flow"][-1]["why"] == "2 excluded: KL grade unknown"
    keys = case_control_lake.exams["exam"]
    learned = {*sets.train.exams["exam"], *sets.validation.exams["exam"]}
    assert learned & {keys[NO_FEMUR], keys[NO_MAPS]}
    for bone, rows in (("femur", (NO_FEMUR, NO_MAPS)), ("tibia", (NO_MAPS,))):
        card = Classifier.open(oa_models / "thickness" / bone).card
        for name, part in zip(("train", "validation"), sets[:2], strict=True):
            assert set(card["split"][name]) == {*part.exams["exam"]} - {*keys[list(rows)]}
    assert 0 <= card["validation_auc"] <= 1


def test_train_classifiers__resumes_model_by_model(
    case_control_lake: Lake, tmp_path: Path, judge: Judge
) -> None:
    out, options = tmp_path / "oa", {**ONE, "epochs": 2}

    class Killed(BaseException):
        pass

    def kill(event: object) -> None:
        if getattr(event, "name", "") == "thickness/femur":
            raise Killed

    with pytest.raises(Killed):
        train_classifiers(
            case_control_lake, "oa", out=out, bones=["tibia", "femur"], progress=kill, **options
        )
    first = (out / "thickness" / "tibia" / "model.pth").stat().st_mtime_ns
    with pytest.raises(RunError, match=r"contains a training.json \(expected an empty folder"):
        train_classifiers(case_control_lake, "oa", out=out, **options)
    for changed, words in (
        ({"seed": 1}, r"a training with seed 0 \(expected 1"),
        ({"preset": "paper", "start": "random"}, r"a training with preset small \(expected paper"),
        ({"cohort": "timepoint == 0"}, "expected all exams and timepoint == 0"),
    ):
        with pytest.raises(RunError, match=words):
            train_classifiers(
                case_control_lake, "oa", out=out, resume=True, **{**options, **changed}
            )
    seen: list[object] = []
    found = train_classifiers(
        case_control_lake,
        "oa",
        out=out,
        bones=["tibia", "femur"],
        resume=True,
        progress=seen.append,
        **options,
    )
    expected = [
        ("ModelDone", "thickness/tibia"),  # not trained again
        ("EpochDone", "thickness/femur"),  # its second epoch alone
        ("ModelDone", "thickness/femur"),
    ]
    events = [(type(event).__name__, event.name) for event in seen]
    same = (out / "thickness" / "tibia" / "model.pth").stat().st_mtime_ns == first
    judge(
        "training of many / killed in the second model's first of two epochs, resumed",
        required="finished model untouched, one epoch left",
        measured=f"{'untouched' if same else 'trained again'}, "
        f"{sum(kind == 'EpochDone' for kind, _ in events)} epoch",
        passed=same and events == expected,
    )
    assert [(c.strategy, c.bone) for c in found] == [("thickness", "tibia"), ("thickness", "femur")]


def test_train_classifiers__pain_keeps_the_patients_of_oa(
    case_control_lake: Lake, oa_models: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="no models of OA, from which models of pain start"):
        train_classifiers(case_control_lake, "pain", out=tmp_path / "p", **ONE)
    with pytest.raises(NotFoundError, match=r"no model \(expected trained models of OA"):
        train_classifiers(case_control_lake, "pain", out=tmp_path / "p", oa=tmp_path, **ONE)
    out = tmp_path / "pain"
    (found,) = train_classifiers(
        case_control_lake, "pain", out=out, oa=oa_models, bones=["femur"], **ONE
    )
    before = read_split(case_control_lake, oa_models / "split.json")
    for ours, theirs in zip(read_split(case_control_lake, out / "split.json"), before, strict=True):
        assert set(ours.exams["patient"]) <= set(theirs.exams["patient"])
    counted = json.loads((out / "training.json").read_text())["sets"]
    # A patient without a KL grade was in no set of OA.
    assert counted.pop("in no set") == len(NO_KL)
    assert sum(part["exams"] for part in counted.values()) == EXAMS - len(NO_KL)
    assert all(0 < part["cases"] < part["exams"] for part in counted.values())
    started = Classifier.open(oa_models / "thickness" / "femur").card["digest"]
    assert found.card["started_from"] == started
    bare = tmp_path / "bare"
    keep = shutil.ignore_patterns("cache", "split.json")
    shutil.copytree(oa_models, bare, ignore=keep)
    with pytest.raises(RunError, match=r"no split\.json beside the models of OA"):
        train_classifiers(case_control_lake, "pain", out=tmp_path / "q", oa=bare, **ONE)
    # Sets that would judge by patients whom the models of OA have seen.
    swapped = (before.test, before.train, before.validation)
    with pytest.raises(InputError, match=r"patients of the validation set were used to train"):
        train_classifiers(
            case_control_lake, "pain", out=tmp_path / "q", oa=oa_models, sets=swapped, **ONE
        )


def test_train_classifiers__a_failed_model_does_not_stop_others(
    case_control_lake: Lake, oa_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # There is no model of OA for the patella.
    rest = tmp_path / "rest"
    shutil.copytree(oa_models, rest, ignore=shutil.ignore_patterns("patella"))
    ended: list[ModelDone] = []

    def keep(event: object) -> None:
        if isinstance(event, ModelDone):
            ended.append(event)

    with pytest.raises(RunError, match=r"1 of 2 models failed \(thickness/patella\); first error"):
        train_classifiers(
            case_control_lake,
            "pain",
            out=tmp_path / "a",
            oa=rest,
            bones=["patella", "tibia"],
            progress=keep,
            **ONE,
        )
    assert [(done.name, bool(done.error)) for done in ended] == [
        ("thickness/patella", True),
        ("thickness/tibia", False),
    ]
    command = [
        "train",
        "pain",
        "--lake",
        case_control_lake.url,
        "--out",
        str(tmp_path / "a"),
        "--oa",
        str(rest),
        "--preset",
        "small",
        "--epochs",
        "1",
        "--strategy",
        "thickness",
        "--bone",
        "patella",
        "--bone",
        "tibia",
        "--resume",
    ]
    assert main(command) == 1
    printed = capsys.readouterr().out
    assert "failed: thickness/patella: " in printed
    assert "no card.json (expected a trained classifier" in " ".join(printed.split())
    assert "1 of 2 models failed; --resume retries them" in printed


def test_train_classifiers__refuses(case_control_lake: Lake, tmp_path: Path) -> None:
    def refused(kind: type[Exception], words: str, task: str = "oa", **options: object) -> None:
        with pytest.raises(kind, match=words):
            train_classifiers(case_control_lake, task, out=tmp_path / "m", **{**ONE, **options})
        assert not (tmp_path / "m").exists()

    refused(NotFoundError, "no task 'ao'", task="ao")
    refused(
        NotFoundError, r"no strategy 'thicknes'.*Did you mean 'thickness'", strategies=["thicknes"]
    )
    refused(NotFoundError, "no bone 'fibula'", bones="fibula")
    refused(InputError, "empty cohort", cohort="timepoint == 96")
    refused(InputError, "0 cases and", cohort="kl < 2")
    refused(RunError, "models of OA in x with start='random'", oa="x")
    refused(RunError, "ImageNet weights w.pth with start='random'", weights="w.pth")
    sets = split(case_control_lake.cohort(), seed=0)
    refused(InputError, r"patient \d+ is in train and in", sets=(sets.train, sets.train, sets.test))


def test_train_classifiers__on_a_cluster(
    case_control_lake: Lake, oa_models: Path, tmp_path: Path
) -> None:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as local,
        Client(local) as client,
    ):
        seen: list[object] = []
        found = train_classifiers(
            case_control_lake,
            "oa",
            out=tmp_path / "a",
            bones="femur",
            cluster=client,
            progress=seen.append,
            **ONE,
        )
    assert [event.name for event in seen] == ["thickness/femur"]
    here = Classifier.open(oa_models / "thickness" / "femur")
    assert found[0].recipe == here.recipe
    assert found[0].card["split"] == here.card["split"]


def test_train__prints_auc_by_strategy_and_bone(
    case_control_lake: Lake,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    out = tmp_path / "oa"
    command = [
        "train",
        "oa",
        "--lake",
        case_control_lake.url,
        "--out",
        str(out),
        "--preset",
        "small",
        "--epochs",
        "1",
        "--strategy",
        "thickness",
        "--bone",
        "femur",
    ]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    for words in (
        "AUC on the validation exams",
        "strategy",
        "patella",
        "–",
        "2 excluded: KL grade unknown",
        f"next: qmri-lake run predict_oa --lake {case_control_lake.url} --set models={out}",
    ):
        assert words in printed.out
    assert main(command) == 2
    assert (
        "the folder contains a training.json (expected an empty folder" in capsys.readouterr().err
    )
    assert main(["train", "bone", "--lake", case_control_lake.url]) == 2
    assert "bones" in capsys.readouterr().err
