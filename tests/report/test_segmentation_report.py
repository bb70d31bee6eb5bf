"""Segmentation in the report: Table S1, Figure S2 and the table of splits."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

import qmri_lake as ql
from qmri_lake.lake.split_by_patient import split_by_patient
from qmri_lake.published import SEGMENTATION, SPLITS
from qmri_lake.report import write_report
from qmri_lake.report.colours import OVERLAP_COLOURS
from qmri_lake.report.figure_s2_masks import (
    _fullest_slice,
    _read_panel,
    best_median_worst,
    figure_s2,
)
from qmri_lake.report.segmentation_report import segmentation_results, table_s1
from qmri_lake.segmentation.evaluation.scores import TISSUES, score_exams, summarise_scores
from qmri_lake.training.split_table import split_table
from tests.fixtures import add_clinical, array_lake
from tests.segmentation.networks import HAS_BFLOAT16, tiny, write_network
from tests.segmentation.scored_lake import lake_of, masks


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> ql.Lake:
    """Four exams with masks and references; the masks are increasingly wrong."""
    return lake_of(tmp_path_factory.mktemp("report") / "l.lake", each=2)


@pytest.fixture(scope="module")
def scores(lake: ql.Lake) -> dict[str, pd.DataFrame]:
    return {kind: score_exams(lake, kind=kind) for kind in ("bone", "cartilage")}


def test_table_s1__gives_means_intervals_and_published_values(
    scores: dict[str, pd.DataFrame],
) -> None:
    table = table_s1(scores).set_index("structure")
    assert table.index.tolist() == [
        "femur",
        "tibia",
        "patella",
        "femoral cartilage",
        "tibial cartilage",
        "patellar cartilage",
        "meniscus",
    ]
    row = summarise_scores(scores["bone"]).loc["femur"]
    assert table.loc["femur", "DSC [%]"] == f"{100 * row.dsc:.1f}", "two patients: no interval"
    # The same scores of six patients.
    copies = [scores["bone"].assign(patient=scores["bone"]["patient"] + 10 * n) for n in range(3)]
    six = pd.concat(copies, ignore_index=True)
    row = summarise_scores(six).loc["femur"]
    with_interval = table_s1({"bone": six}).set_index("structure")
    assert with_interval.loc["femur", "DSC [%]"] == (
        f"{100 * row.dsc:.1f} [{100 * row.dsc_low:.1f}, {100 * row.dsc_high:.1f}]"
    )
    assert with_interval.loc["femur", "MPTS [mm]"] == (
        f"{row.mpts_mm:.3f} [{row.mpts_low:.3f}, {row.mpts_high:.3f}]"
    )
    assert (table["exams"] == "4").all()
    assert (table["patients"] == "2").all()
    assert table.loc["patellar cartilage", "paper: MPTS [mm]"] == "0.555 [0.361, 0.749]"
    assert table.loc["femur", "paper: DSC [%]"] == "98.0 [97.7, 98.3]"
    assert table["paper: volumes"].tolist() == ["30"] * 3 + ["28"] * 3 + ["–"]


def test_table_s1__marks_missing_values(scores: dict[str, pd.DataFrame]) -> None:
    bone = scores["bone"].copy()
    bone.loc[bone.index[0], ["dsc", "mpts_mm"]] = 0.0, np.nan
    table = table_s1({"bone": bone}).set_index("structure")
    assert table.loc["femur", ["patients", "exams"]].tolist() == ["2", "4 (MPTS: 3)"]
    bone[["dsc", "mpts_mm"]] = np.nan
    table = table_s1({"bone": bone}).set_index("structure")
    assert table.loc["femur", ["DSC [%]", "MPTS [mm]", "exams"]].tolist() == ["–", "–", "0"]


def test_published__intervals_contain_their_means() -> None:
    for printed in SEGMENTATION.values():
        for mean, low, high in printed.values():
            assert low < mean < high
    assert [split.volumes for split in SPLITS.values()] == [57, 15, 30]
    assert all(split.men + split.women == split.volumes for split in SPLITS.values())


def test_panel__divides_voxels_into_three_cases(lake: ql.Lake) -> None:
    ours, theirs = masks(2, "bone")
    chosen = _fullest_slice(theirs, TISSUES["bone"])
    panel = _read_panel(lake, lake.exams["exam"][2], "bone")
    cases = panel.cases
    assert all(inside.any() for inside in cases.values())
    assert (sum(inside.astype(int) for inside in cases.values()) <= 1).all()
    a, b = ours[chosen], theirs[chosen]
    assert np.array_equal(cases["true positive"], (a == b) & (a > 0))
    assert np.array_equal(cases["false positive"], (a > 0) & (b == 0))
    assert np.array_equal(cases["false negative"], (b > 0) & (a != b))


def test_figure_s2__draws_cases_and_prints_distances(
    lake: ql.Lake, scores: dict[str, pd.DataFrame]
) -> None:
    exam = lake.exams["exam"][2]
    figure = figure_s2(lake, {exam: "median"}, "bone", scores["bone"])
    ax = figure.axes[0]
    mine = scores["bone"][scores["bone"]["exam"] == exam]
    assert ax.get_title() == f"{exam} (median)"
    text = ax.get_xlabel()
    assert text.startswith(f"MPTS of the volume: mean {mine['mpts_mm'].mean():.2f} mm")
    assert f"femur {mine['mpts_mm'].iloc[0]:.2f}" in text
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].reshape(-1, 3).astype(int)
    for colour in OVERLAP_COLOURS.values():  # at least in the legend
        assert (np.abs(pixels - 255 * np.array(to_rgb(colour))).max(axis=1) <= 1).sum() > 50


def test_best_median_worst__orders_exams_by_mean_mpts(scores: dict[str, pd.DataFrame]) -> None:
    exams = scores["bone"]["exam"].drop_duplicates().tolist()
    assert list(best_median_worst(scores["bone"]).values()) == ["best", "median", "worst"]
    assert list(best_median_worst(scores["bone"])) == [exams[0], exams[2], exams[3]]
    one = scores["bone"][scores["bone"]["exam"] == exams[1]]
    assert best_median_worst(one) == {exams[1]: "only exam"}
    two = scores["bone"][scores["bone"]["exam"].isin(exams[:2])]
    assert list(best_median_worst(two).values()) == ["best", "worst"]


def test_segmentation_results__compares_only_the_cohort(lake: ql.Lake) -> None:
    seen: list[tuple[int, int]] = []
    results = segmentation_results(
        lake, lake.cohort("knee == 'left'"), lambda done, total: seen.append((done, total))
    )
    assert results is not None
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert results.exams == (
        "bones: 2 exams of 2 patients; cartilage and menisci: 2 exams of 2 patients"
    )
    assert results.per_exam["exam"].str.endswith("left").all()
    assert len(results.per_exam) == 2 * 7
    assert segmentation_results(lake, lake.cohort("timepoint == 96")) is None


def test_write_report__compares_masks_with_references(lake: ql.Lake, tmp_path: Path) -> None:
    text = write_report(lake, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<h2>Segmentation</h2>" in text
    assert "0.406 [0.355, 0.457]" in text
    assert "bones: 4 exams of 2 patients" in text
    assert "Figure S2, bones: best, median and worst exam by mean MPTS" in text
    assert text.count('alt="Masks and references') == 2
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]+", "", text))


def test_write_report__compares_bones_without_cartilage(tmp_path: Path) -> None:
    lake = lake_of(tmp_path / "l.lake", count=2, kinds=("bone",))
    text = write_report(lake, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Figure S2, bones: the only exam" in text
    assert "Cartilage and menisci" not in text


def test_write_report__without_references_has_no_section(tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "l.lake", count=2)
    text = write_report(lake, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<h2>Segmentation</h2>" not in text


# -- test exams of ensembles ---------------------------------------------------------------------


def _ensemble(
    folder: Path, seeds: tuple[int, ...], test: list[str], train: tuple[str, ...] = ()
) -> Path:
    """Write untrained networks for bones, and their split."""
    for seed in seeds:
        write_network(folder / f"bone_3d-{seed}", tiny(), seed)
    split = {"train": [*train], "validation": [], "test": test}
    members = {f"bone_3d-{seed}": split for seed in seeds}
    (folder / "split.json").write_text(json.dumps({"task": "bones", "members": members}))
    return folder


def _words(path: Path) -> str:
    text = re.sub(r"base64,[^\"]+", "", path.read_text(encoding="utf-8"))
    return " ".join(text[text.index("<body>") :].split())


def test_segmentation_results__held_out_only_if_the_named_networks_made_the_masks(
    tmp_path: Path,
) -> None:
    lake = lake_of(tmp_path / "l.lake", 3, ("bone",), each=1, with_masks=False)
    test = lake.exams["exam"].tolist()[1:]  # the last one has no reference
    ours = _ensemble(tmp_path / "ours", (1, 2), test)
    others = " (excluded: 1 exam in no set of the networks)"
    unseen = f"bones: 1 exam of 1 patient, held out from training{others}"
    # One member in another precision, and all.
    dtype = "bfloat16" if HAS_BFLOAT16 else "float32"
    for options in ({"models": ours / "bone_3d-2", "dtype": dtype}, {"models": ours}):
        assert lake.run("segment_bones", **options).failed == 0
        assert _compared(lake, ours) == (unseen, False, [])
    exams, may_include_training, (warning,) = _compared(lake)
    assert (exams, may_include_training) == ("bones: 2 exams of 2 patients", True)
    assert warning.startswith(
        "Bones: it is unknown whether 2 exams of the comparison (masks: 2 by networks that were "
        "not named) are held out from training."
    )
    # Networks of another training, though they have the same test exams.
    theirs = _ensemble(tmp_path / "others", (3,), test)
    exams, may_include_training, (warning,) = _compared(lake, theirs)
    assert (exams, may_include_training) == (f"bones: 1 exam of 1 patient{others}", False)
    assert warning.startswith(
        "Bones: 1 of 1 mask not made by the named ensemble (1 by other networks). "
    )
    assert _compared(lake, ours, theirs) == (unseen, False, [])


def test_segmentation_results__excludes_and_counts_training_exams(tmp_path: Path) -> None:
    lake = lake_of(tmp_path / "l.lake", 5, ("bone",), each=1, with_masks=False)
    keys = lake.exams["exam"].tolist()
    folder = _ensemble(tmp_path / "models", (1,), keys[:2], (keys[1], keys[2]))
    assert lake.run("segment_bones", models=folder).failed == 0
    # The second exam is in the training set of a member, so it is not held out.
    assert _compared(lake, folder)[0] == (
        "bones: 1 exam of 1 patient, held out from training (excluded: 2 training or validation "
        "exams of the networks, 1 exam in no set of the networks)"
    )
    results = segmentation_results(lake, lake.cohort(), models=[folder])
    assert results is not None
    assert set(results.per_exam["exam"]) == {keys[0]}


def _compared(lake: ql.Lake, *models: Path) -> tuple[str, bool, list[str]]:
    results = segmentation_results(lake, lake.cohort(), models=models)
    assert results is not None
    return results.exams, results.may_include_training_exams, list(results.warnings)


def test_write_report__warns_of_imported_masks(lake: ql.Lake, tmp_path: Path) -> None:
    folder = _ensemble(tmp_path / "models", (1,), lake.exams["exam"].tolist()[:3])
    text = _words(write_report(lake, tmp_path / "r.html", models=[folder]))
    assert "Bones: 3 of 3 masks not made by the named ensemble (3 imported)" in text
    assert "patients, held out from training" not in text
    assert "bones: 3 exams of 2 patients (excluded: 1 exam in no set of the networks); " in text
    assert "cartilage and menisci: 4 exams of 2 patients. Paper" in text
    assert "Cartilage and menisci: it is unknown whether 4 exams of the comparison" in text


def test_write_report__warns_of_test_exams_without_masks(tmp_path: Path) -> None:
    lake = lake_of(tmp_path / "l.lake", 2, ("bone",))
    folder = _ensemble(tmp_path / "models", (1,), lake.exams["exam"].tolist()[1:])
    text = _words(write_report(lake, tmp_path / "r.html", models=[folder]))
    assert "Bones: not compared. No test exam of the named ensemble has both" in text
    assert "Table S1" not in text


# -- Table 1 -------------------------------------------------------------------------------------


def test_split_table__describes_each_split(tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "l.lake", count=24)
    rng = np.random.default_rng(0)
    age, bmi = rng.uniform(45, 79, 24), rng.uniform(20, 35, 24)
    sex = rng.integers(1, 3, 24)
    sex[3] = 255
    age[5] = np.nan
    add_clinical(lake, age=age, bmi=bmi, sex=sex)
    split = split_by_patient(lake.exams, seed=1)
    table = split_table(lake, split).set_index("split")
    for name, keys in split.items():
        rows = lake.exams.index[lake.exams["exam"].isin(keys)]
        row = table.loc[name]
        assert row["volumes"] == f"{len(keys)}"
        assert row["patients"] == f"{lake.exams['patient'][rows].nunique()}"
        known = age[rows][np.isfinite(age[rows])]
        missing = " (1 unknown)" if 5 in rows else ""
        assert row["age [a]"] == f"{known.mean():.1f} ± {known.std(ddof=1):.1f}{missing}"
        assert row["BMI [kg/m2]"] == f"{bmi[rows].mean():.1f} ± {bmi[rows].std(ddof=1):.1f}"
        men, women = (sex[rows] == 1).sum(), (sex[rows] == 2).sum()
        assert row["men / women"] == f"{men} / {women}" + (" (1 unknown)" if 3 in rows else "")
    assert table.loc["train, paper", "age [a]"] == "57.2 ± 7.4"
    assert table.loc["test, paper", "men / women"] == "11 / 19"


def test_split_table__without_clinical_columns(lake: ql.Lake) -> None:
    table = split_table(lake, {"test": lake.exams["exam"].tolist()}).set_index("split")
    assert table.loc["test", ["volumes", "age [a]", "men / women"]].tolist() == [
        "5",
        "–",
        "0 / 0 (5 unknown)",
    ]
