"""The pipelines of classifiers, run as scripts one after another."""

from __future__ import annotations

import re
import runpy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.diagnosis.data.map_reader import with_maps
from qmri_lake.fusion import STRATEGIES
from qmri_lake.lake.balanced_split import read_split
from qmri_lake.surface import BONES
from tests.conftest import Judge
from tests.diagnosis.case_control_lake import NO_FEMUR, NO_MAPS, make_case_control_lake
from tests.diagnosis.case_control_lake import NO_T2 as NO_T2_OF_ALL
from tests.diagnosis.lesion_lake import add_regions
from tests.diagnosis.map_lake import ABSENT, NO_T2, make_map_lake
from tests.pipelines.scripts import PIPELINES, run_script_here


@pytest.mark.accept
def test_diagnose_oa_and_chronic_pain__write_tables_and_figures(tmp_path: Path) -> None:
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


def test_reproduce_paper__uses_right_knees_with_all_maps(tmp_path: Path) -> None:
    """By default the population of the paper: the same exams for every strategy and bone."""
    script = runpy.run_path(str(PIPELINES / "reproduce_paper.py"))
    lake = make_map_lake(tmp_path / "oai.lake", 16, spoiled=True)
    default = script["parse"](["lake", "out"]).cohort
    exams = script["population"](lake, default)
    keys = lake.exams
    right = keys["knee"] == "right"
    incomplete = keys.index.isin([NO_T2, ABSENT])
    assert (right & incomplete).any()
    assert exams.rows.tolist() == keys.index[right & ~incomplete].tolist()
    for strategy in STRATEGIES:
        for bone in BONES:
            assert len(with_maps(exams, strategy, bone)) == len(exams)
    assert "1 excluded: no T2 of the femur" in exams.flow()["why"].tolist()
    both = script["population"](
        lake, script["parse"](["l", "o", "--cohort", "timepoint == 0"]).cohort
    )
    assert set(both.exams["knee"]) == {"left", "right"}


@pytest.mark.accept
@pytest.mark.timeout(1800)
def test_reproduce_paper__trains_and_evaluates_all_strategies_on_the_same_exams(
    tmp_path: Path, judge: Judge
) -> None:
    lake = make_case_control_lake(tmp_path / "oai.lake")
    rng = np.random.default_rng(0)
    add_regions(
        lake, {name: rng.normal(2, 0.2, len(lake)) for name in ("TrF", "MF", "LF", "MT", "LT")}
    )
    study = tmp_path / "study"
    settings = ["--preset", "small", "--epochs", "1", "--search", "none"]
    settings += ["--strategy", "thickness", "--strategy", "t2"]
    printed = run_script_here("reproduce_paper.py", lake.url, study, *settings)
    used, tested = {}, {}
    lake = ql.open_lake(lake.url, mode="r")
    for task in ("oa", "pain"):
        cards = [model.card["split"] for model in ql.diagnosis.open_classifiers(study / task)]
        used[task] = {str(card) for card in cards}
        results = ql.diagnosis.evaluate(read_split(lake, study / task / "split.json").test, task)
        results = results.results[results.results["strategy"].isin(["thickness", "t2"])]
        tested[task] = {*results["exams"]} | {*results["left_out"]}
        assert len(cards) == 6
    sets = read_split(lake, study / "oa" / "split.json")
    judge(
        "reproduce_paper / exams of 2 strategies x 3 bones, in a lake with missing maps",
        required="one training and validation set per task; no test exam left out of any model",
        measured=f"{[len(one) for one in used.values()]} sets; test exams and exams left out "
        f"{[sorted(one) for one in tested.values()]}",
        passed=all(len(one) == 1 for one in used.values())
        and all(min(one) == 0 and len(one) == 2 for one in tested.values()),
    )
    rows = {row for part in sets for row in part.rows.tolist()}
    assert not rows & {NO_FEMUR, NO_MAPS, NO_T2_OF_ALL}
    assert "1 excluded: no T2 of the patella" in printed
    assert re.search(r"Figure S1. Processing chain: .*no exam with dess/image", printed)
    assert (
        "Figure S4. Hyperparameter search: Not available: no folder of a search was given."
        in printed
    )
    paper = study / "paper"
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
