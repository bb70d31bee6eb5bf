"""Scores of masks: of one exam, of a lake, and their mean with an interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import qmri_lake as ql
from qmri_lake.errors import InputError, NotFoundError
from qmri_lake.segmentation.metrics import dice, mean_surface_distance
from qmri_lake.segmentation.scores import (
    COLUMNS,
    TISSUES,
    mean_interval,
    score_exams,
    score_labels,
    scored,
    summarise_scores,
)
from tests.segmentation.scored_lake import SPACING, lake_of, masks


@pytest.fixture(scope="module")
def lake(tmp_path_factory) -> ql.Lake:
    """Four exams with masks and references, a fifth without a reference."""
    return lake_of(tmp_path_factory.mktemp("scores") / "l.lake")


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
    # Nobody may have drawn it, so a mask that has it is not wrong.
    assert np.isnan([tibia["dsc"], tibia["mpts_mm"]]).all()
    assert tibia["reason"] == "not in the reference"
    assert patella["dsc"] > 0.5


def test_score_labels__never_segmented_is_no_background():
    mask, reference = masks(0, "bone")
    with pytest.raises(InputError, match="found reference with voxels that are 255"):
        score_labels(mask, np.full_like(reference, 255), SPACING, TISSUES["bone"])
    with pytest.raises(InputError, match="found labels with voxels that are 255"):
        score_labels(np.full_like(mask, 255), reference, SPACING, TISSUES["bone"])


@pytest.mark.parametrize("kind", ["bone", "cartilage"])
def test_score_exams__exam_by_exam(lake, kind):
    seen = []
    table = score_exams(lake, kind=kind, progress=lambda done, total: seen.append((done, total)))
    assert list(table) == COLUMNS
    assert seen == [(k + 1, 4) for k in range(4)]
    assert table["exam"].drop_duplicates().tolist() == lake.exams["exam"].tolist()[:4]
    assert set(table["patient"]) == {9000001}
    for row, exam in enumerate(lake.exams["exam"][:4]):
        expected = score_labels(*masks(row, kind), SPACING, TISSUES[kind])
        found = table[table["exam"] == exam].drop(columns=["exam", "patient"])
        assert found.to_dict("records") == expected


def test_score_exams__of_a_cohort(lake):
    table = score_exams(lake, "knee == 'left'", "bone")
    assert table["exam"].str.endswith("left").all()
    assert table["exam"].nunique() == len(scored(lake, "knee == 'left'", "bone")) == 2


def test_score_exams__without_references_says_what_to_do(lake, tmp_path):
    with pytest.raises(NotFoundError, match="no exam with both dess/bone and dess/reference_bone"):
        score_exams(lake, "timepoint == 96", "bone")
    empty = ql.create_lake(str(tmp_path / "empty.lake"))
    assert len(scored(empty, kind="bone")) == 0
    with pytest.raises(NotFoundError, match="Import references, and segment or import masks"):
        score_exams(empty, kind="cartilage")
    with pytest.raises(InputError, match="kind='muscle'; expected bone or cartilage"):
        score_exams(lake, kind="muscle")


def test_mean_interval__is_the_t_interval():
    values = np.random.default_rng(0).normal(0.4, 0.1, 28)
    low, high = stats.t.interval(0.95, 27, values.mean(), stats.sem(values))
    np.testing.assert_allclose(mean_interval(values), (values.mean(), low, high))
    assert mean_interval([*values, np.nan]) == mean_interval(values)
    assert mean_interval([0.3])[0] == 0.3
    assert np.isnan(mean_interval([0.3])[1:]).all()
    assert np.isnan(mean_interval([])).all()


def test_mean_interval__holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    intervals = [mean_interval(rng.normal(0.4, 0.1, 15)) for _ in range(2000)]
    held = np.mean([low < 0.4 < high for _, low, high in intervals])
    assert held == pytest.approx(0.95, abs=0.015)  # 3 standard errors


def test_summarise_scores__counts_what_it_averages(lake):
    table = score_exams(lake, kind="bone")
    summary = summarise_scores(table)
    assert summary.index.tolist() == ["femur", "tibia", "patella"]
    femur = table[table["tissue"] == "femur"]
    row = summary.loc["femur"]
    np.testing.assert_allclose(
        row[["dsc", "dsc_low", "dsc_high"]].astype(float), mean_interval(femur["dsc"])
    )
    np.testing.assert_allclose(
        row[["mpts_mm", "mpts_low", "mpts_high"]].astype(float), mean_interval(femur["mpts_mm"])
    )
    assert (summary["dsc_n"] == 4).all()
    table.loc[table.index[0], ["mpts_mm", "dsc"]] = np.nan, 0.0
    again = summarise_scores(table)
    assert again.loc["femur", ["dsc_n", "mpts_n"]].tolist() == [4, 3]
    assert again.loc["femur", "dsc"] < row["dsc"]
