"""The pipelines, run as scripts: what they print is what a user sees."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import qmri_lake as ql
from qmri_lake.phantom import Archive, write_archive
from tests.diagnosis.judged import judged_lake
from tests.diagnosis.planted import add_regions
from tests.segmentation.networks import tiny, write_network

PIPELINES = Path(__file__).parents[1] / "pipelines"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return write_archive(tmp_path_factory.mktemp("oai") / "a", exams=2, shape=(16, 48, 48))


def test_ingest__from_a_delivery_to_a_report(archive: Archive, tmp_path: Path) -> None:
    lake = tmp_path / "oai.lake"
    arguments = [str(archive.path), str(lake), str(archive.truth)]
    done = subprocess.run(
        [sys.executable, PIPELINES / "ingest.py", *arguments],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "t2: 2 done" in done.stdout
    assert done.stderr == ""
    opened = ql.open_lake(str(lake), mode="r")
    assert opened.profile == "oai"
    assert opened.load("msme").t2.shape[0] == 2
    assert opened.load("dess").image.shape == (2, 16, 48, 48)
    assert Path(f"{lake}.report.html").is_file()


def test_segment__from_images_to_t2_in_cartilage(archive: Archive, tmp_path: Path) -> None:
    lake = tmp_path / "oai.lake"
    ql.ingest(str(archive.path), str(lake))
    for task in ("bones", "cartilage"):
        for seed in (0, 1):
            write_network(tmp_path / task / f"{seed}", tiny(task), seed)
    arguments = [str(lake), str(tmp_path / "bones"), str(tmp_path / "cartilage")]
    done = subprocess.run(
        [sys.executable, PIPELINES / "segment.py", *arguments],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    # Networks that nobody has trained draw no knee: flagged, and not dropped.
    for step in ("segment_bones", "segment_cartilage", "check_masks"):
        assert f"{step}: 2 flagged" in done.stdout
    opened = ql.open_lake(str(lake), mode="r")
    dess = opened.load("dess")
    assert dess.bone.shape == dess.cartilage_uncertainty.shape == (2, 16, 48, 48)
    assert opened.load("msme").t2.shape[0] == 2
    assert Path(f"{lake}.report.html").is_file()


def test_biomarkers__from_masks_to_maps(archive: Archive, tmp_path: Path) -> None:
    lake, delivery = tmp_path / "oai.lake", tmp_path / "delivery"
    shutil.copytree(archive.path, delivery)
    # One of the two knees loses its multi-echo series: 7 echoes are more files than all else.
    series = {path.parent for path in delivery.rglob("0*") if path.is_file()}
    shutil.rmtree(max(sorted(series), key=lambda folder: len(list(folder.iterdir()))))
    ql.ingest(str(delivery), str(lake), masks=str(archive.truth))
    done = subprocess.run(
        [sys.executable, PIPELINES / "biomarkers.py", str(lake)],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("sphere: 1 done") == 2  # with T2, and without
    # In so few voxels one of the femurs shows no groove between its condyles.
    assert "region: 1 done" in done.stdout
    assert "region: 1 flagged" in done.stdout
    assert len(pd.read_csv(f"{lake}.regions.csv")) == 2 * len(ql.surface.REGIONS)
    maps = ql.open_lake(str(lake), mode="r").load("sphere")["map"]
    there = maps.notnull().any(("azimuth", "polar")).compute()
    assert there.sel(biomarker=["bone_shape", "thickness"]).all()
    assert sorted(there.sel(biomarker="t2").all("bone").values.tolist()) == [False, True]
    assert Path(f"{lake}.report.html").is_file()


def test_train_segmentation__from_references_to_a_report(
    training_lake: ql.Lake, tmp_path: Path
) -> None:
    lake = str(shutil.copytree(training_lake.url, tmp_path / "oai.lake"))
    arguments = [lake, str(tmp_path / "models"), "small", "1", "1"]
    done = subprocess.run(
        [sys.executable, PIPELINES / "train_segmentation.py", *arguments],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "bone_3d-1 1/1 loss" in done.stdout
    assert "cartilage_2d-1 validation DSC" in done.stdout
    for task, name in (("bones", "bone"), ("cartilage", "cartilage")):
        split = json.loads((tmp_path / "models" / task / "split.json").read_text())
        test = next(iter(split["members"].values()))["test"]
        opened = ql.open_lake(lake, mode="r")
        assert set(opened.cohort().require(f"dess/{name}").exams["exam"]) == set(test)
    assert "Table S1" in (tmp_path / "models" / "report.html").read_text()


def test_diagnose_oa_chronic_pain_reproduce_paper__from_maps_to_tables(tmp_path: Path) -> None:
    lake = judged_lake(tmp_path / "oai.lake")
    rng = np.random.default_rng(0)
    add_regions(
        lake, {name: rng.normal(2, 0.2, len(lake)) for name in ("TrF", "MF", "LF", "MT", "LT")}
    )
    oa, pain = tmp_path / "study" / "oa", tmp_path / "study" / "pain"

    def run(
        name: str, *folders: Path, settings: Sequence[str] = ("small", "1", "thickness")
    ) -> str:
        done = subprocess.run(
            [sys.executable, PIPELINES / name, lake.url, *folders, *settings],
            capture_output=True, text=True, check=False, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    printed = run("diagnose_oa.py", oa)
    assert "thickness/femur validation AUC" in printed
    assert "Table S2." in printed
    printed = run("chronic_pain.py", oa, pain)
    assert "Table S3." in printed
    assert "one knee a patient" in printed
    assert "likelihood-ratio test" in printed or "Association" in printed
    for folder, names in (
        (oa, ("table_s2.html", "table_s2.tex", "roc.svg", "calibration.svg")),
        (pain, ("table_s3.html", "table_s3.tex", "cams.svg")),
    ):
        assert all((folder / name).stat().st_size > 500 for name in names)
    said = ql.open_lake(lake.url, mode="r").load("prediction")
    assert np.isfinite(said.pain.sel(strategy="thickness", predictor="femur").values).sum() > 50
    # The same models, in one report: trained already, they are opened.
    settings = ["--preset", "small", "--epochs", "1", "--strategy", "thickness"]
    printed = run("reproduce_paper.py", oa.parent, settings=[*settings, "--search", "none"])
    assert "predict_oa: 60 already done" in printed
    assert re.search(
        r"Figure S1. From images to classifiers: .* no exam of 60 with dess/image", printed
    )
    assert "Figure S4. The search: No folder of a search was named." in printed
    paper = oa.parent / "paper"
    assert {file.stem for file in (paper / "tables").iterdir()} >= {
        "table_1",
        "table_s2",
        "table_s3",
    }
    drawn = {"roc_oa", "roc_pain", "calibration_oa", "grad_cam"}
    files = {file.name for file in (paper / "figures").iterdir()}
    assert files >= {f"{name}{suffix}" for name in drawn for suffix in (".svg", ".pdf")}
    page = (paper / "report.html").read_text()
    assert "no exam of 60 with dess/image" in page
    assert "Tibia + femur" in page
    assert "89.9 (89.8" in page  # the paper's AUC of T2, all three bones
    assert page.count("<img") == len(files) // 2
