"""The pipelines of classifiers, run as scripts one after another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import qmri_lake as ql
from tests.diagnosis.case_control_lake import make_case_control_lake
from tests.diagnosis.lesion_lake import add_regions
from tests.pipelines.scripts import run_script_here


@pytest.mark.accept
def test_diagnose_oa_chronic_pain_reproduce_paper__write_tables_and_figures(tmp_path: Path) -> None:
    lake = make_case_control_lake(tmp_path / "oai.lake")
    rng = np.random.default_rng(0)
    add_regions(
        lake, {name: rng.normal(2, 0.2, len(lake)) for name in ("TrF", "MF", "LF", "MT", "LT")}
    )
    oa, pain = tmp_path / "study" / "oa", tmp_path / "study" / "pain"

    def run(
        name: str, *folders: Path, settings: Sequence[str] = ("small", "1", "thickness")
    ) -> str:
        return run_script_here(name, lake.url, *folders, *settings)

    printed = run("diagnose_oa.py", oa)
    assert "thickness/femur validation AUC" in printed
    assert "Table S2." in printed
    printed = run("chronic_pain.py", oa, pain)
    assert "Table S3." in printed
    assert "one knee per patient" in printed
    assert "likelihood-ratio test" in printed or "Association" in printed
    for folder, names in (
        (oa, ("table_s2.html", "table_s2.tex", "roc.svg", "calibration.svg")),
        (pain, ("table_s3.html", "table_s3.tex", "cams.svg")),
    ):
        assert all((folder / name).stat().st_size > 500 for name in names)
    probability = ql.open_lake(lake.url, mode="r").load("prediction")
    assert (
        np.isfinite(probability.pain.sel(strategy="thickness", predictor="femur").values).sum() > 50
    )
    # The report of the paper uses the same models without training them again.
    settings = ["--preset", "small", "--epochs", "1", "--strategy", "thickness"]
    printed = run("reproduce_paper.py", oa.parent, settings=[*settings, "--search", "none"])
    assert "predict_oa: 60 already done" in printed
    assert re.search(r"Figure S1. Processing chain: .*no exam with dess/image", printed)
    assert (
        "Figure S4. Hyperparameter search: Not available: no folder of a search was given."
        in printed
    )
    paper = oa.parent / "paper"
    assert {file.stem for file in (paper / "tables").iterdir()} >= {
        "table_1",
        "table_s2",
        "table_s3",
    }
    expected = {"roc_oa", "roc_pain", "calibration_oa", "grad_cam"}
    files = {file.name for file in (paper / "figures").iterdir()}
    assert files >= {f"{name}{suffix}" for name in expected for suffix in (".svg", ".pdf")}
    page = (paper / "report.html").read_text()
    assert "no exam with dess/image" in page
    assert "Tibia + femur" in page
    assert "89.9 (89.8" in page  # the paper's AUC of T2, all three bones
    assert page.count("<img") == len(files) // 2
