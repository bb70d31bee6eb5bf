"""The pipelines of classifiers, run as scripts one after another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import qmri_lake as ql
from tests.diagnosis.judged import judged_lake
from tests.diagnosis.planted import add_regions
from tests.pipelines.scripts import run_script


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
        done = run_script(name, lake.url, *folders, *settings)
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
