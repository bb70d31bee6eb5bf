"""Scores of masks: of one exam, of a lake, and their mean with an interval."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import qmri_lake as ql
from qmri_lake.errors import InputError, NotFoundError
from qmri_lake.segmentation.evaluation.scores import (
    COLUMNS,
    TISSUES,
    score_exams,
    score_labels,
    scored,
    summarise_scores,
)
from qmri_lake.segmentation.metrics import dice, mean_surface_distance
from qmri_lake.statistics import mean_interval
from tests.segmentation.scored_lake import SPACING, lake_of, masks


@pytest.fixture(scope="module")
def lake(tmp_path_factory) -> ql.Lake:
    """Four exams with masks and references, a fifth without a reference."""
    return lake_of(tmp_path_factory.mktemp("scores") / "l.lake", each=2)


def test_score_labels__are_the_metrics_of_each_tissue():
    mask, reference = masks(0, "bone")
    rows = score_labels(mask, reference, SPACING, TISSUES["bone"])
    assert [row["tissue"] for row in rows] == ["femur", "tibia", "patella"]
    for row, value in zip(rows, (1, 2, 3), strict=True):
        assert row["dsc"] == dice(mask == value, reference == value)
        assert row["mpts_mm"] == mean_surface_distance(mask == value, reference == value, SPACING)
        assert 0.5 < row["dsc"] < 1
        assert row["reason"] == ""


def test_score_labels__a_tissue_that_is_missing():
    mask, reference = masks(0, "bone")
    mask, reference = mask.copy(), reference.copy()
    mask[mask == 1] = 0
    reference[reference == 2] = 0
    femur, tibia, patella = score_labels(mask, reference, SPACING, TISSUES["bone"])
    assert (femur["dsc"], femur["reason"]) == (0, "not in the mask")
    assert np.isnan(femur["mpts_mm"])
    # It may not have been segmented in the reference, so the mask is not wrong.
    assert np.isnan([tibia["dsc"], tibia["mpts_mm"]]).all()
    assert tibia["reason"] == "not in the reference"
    assert patella["dsc"] > 0.5


def test_score_labels__rejects_voxels_that_were_not_segmented():
    mask, reference = masks(0, "bone")
    with pytest.raises(InputError, match="reference with voxels that are 255"):
        score_labels(mask, np.full_like(reference, 255), SPACING, TISSUES["bone"])
    with pytest.raises(InputError, match="labels with voxels that are 255"):
        score_labels(np.full_like(mask, 255), reference, SPACING, TISSUES["bone"])


@pytest.mark.parametrize("kind", ["bone", "cartilage"])
def test_score_exams__exam_by_exam(lake, kind):
    seen = []
    table = score_exams(lake, kind=kind, progress=lambda done, total: seen.append((done, total)))
    assert list(table) == COLUMNS
    assert seen == [(k + 1, 4) for k in range(4)]
    assert table["exam"].drop_duplicates().tolist() == lake.exams["exam"].tolist()[:4]
    assert set(table["patient"]) == {9000001, 9000002}
    for row, exam in enumerate(lake.exams["exam"][:4]):
        expected = score_labels(*masks(row, kind), SPACING, TISSUES[kind])
        found = table[table["exam"] == exam].drop(columns=["exam", "patient"])
        assert found.to_dict("records") == expected


def test_score_exams__of_a_cohort(lake):
    table = score_exams(lake, "knee == 'left'", "bone")
    assert table["exam"].str.endswith("left").all()
    assert table["exam"].nunique() == len(scored(lake, "knee == 'left'", "bone")) == 2


def test_score_exams__error_without_references(lake, tmp_path):
    with pytest.raises(NotFoundError, match="no exam with both dess/bone and dess/reference_bone"):
        score_exams(lake, "timepoint == 96", "bone")
    empty = ql.create_lake(str(tmp_path / "empty.lake"))
    assert len(scored(empty, kind="bone")) == 0
    with pytest.raises(NotFoundError, match="Import references, and segment or import masks"):
        score_exams(empty, kind="cartilage")
    with pytest.raises(InputError, match=r"kind='muscle' \(expected bone or cartilage"):
        score_exams(lake, kind="muscle")


def test_summarise_scores__counts_what_it_averages(lake):
    table = score_exams(lake, kind="bone")
    summary = summarise_scores(table)
    assert summary.index.tolist() == ["femur", "tibia", "patella"]
    femur = table[table["tissue"] == "femur"]
    for name, column in (("dsc", "dsc"), ("mpts", "mpts_mm")):
        values = femur[column].to_numpy()
        found = summary.loc["femur", [column, f"{name}_low", f"{name}_high"]].astype(float)
        patients = [values[:2].mean(), values[2:].mean()]  # two patients, two exams each
        np.testing.assert_allclose(found, [np.mean(patients), np.nan, np.nan])
    counts = ["dsc_n", "mpts_n", "dsc_patients", "mpts_patients"]
    assert (summary[counts] == [4, 4, 2, 2]).all(axis=None)
    before = summary.loc["femur", "dsc"]
    table.loc[table.index[0], ["mpts_mm", "dsc"]] = np.nan, 0.0
    again = summarise_scores(table)
    assert again.loc["femur", counts].tolist() == [4, 3, 2, 2]
    assert again.loc["femur", "dsc"] < before
    table.loc[table["exam"].isin(table["exam"].unique()[:2]), "mpts_mm"] = np.nan
    last = summarise_scores(table).loc["femur"]
    assert last[counts].tolist() == [4, 2, 2, 1]
    assert np.isnan(last["mpts_low"]), "one patient says nothing of others"


def test_summarise_scores__coverage_with_several_exams_per_patient():
    rng = np.random.default_rng(2)
    held = {"patients": 0, "exams": 0}
    for _ in range(200):
        patient = np.repeat(np.arange(12), rng.integers(1, 7, 12))
        dsc = 0.8 + rng.normal(0, 0.03, 12)[patient] + rng.normal(0, 0.01, len(patient))
        table = pd.DataFrame({"tissue": "femur", "patient": patient, "dsc": dsc, "mpts_mm": dsc})
        row = summarise_scores(table).loc["femur"]
        held["patients"] += row["dsc_low"] < 0.8 < row["dsc_high"]
        _, low, high = mean_interval(dsc, scale="logit")
        held["exams"] += low < 0.8 < high
    assert held["patients"] / 200 == pytest.approx(0.95, abs=0.046)  # 3 standard errors
    assert held["exams"] / 200 < 0.85, "exams of a patient taken as independent promise too much"
