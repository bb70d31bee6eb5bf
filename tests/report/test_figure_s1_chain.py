"""Figure S1: drawn from an exam with all variables, with the counts of the lake."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.errors import NotFoundError
from qmri_lake.fusion import merge
from qmri_lake.report.figure_s1_chain import chain_counts, figure_s1, first_complete_exam
from tests.diagnosis.case_control_lake import make_case_control_lake


def words_of(figure) -> str:
    parts = [figure, *figure.subfigs, *(below for sub in figure.subfigs for below in sub.subfigs)]
    texts = [text.get_text() for part in parts for text in part.texts]
    titles = [part.get_suptitle() for part in parts] + [part.get_supxlabel() for part in parts]
    axes = [text.get_text() for ax in figure.axes for text in ax.texts]
    return "\n".join([*texts, *titles, *axes])


def test_figure_s1__gives_the_counts_of_the_lake_and_of_the_paper(drawn_lake: ql.Lake) -> None:
    cohort = drawn_lake.cohort()
    exam = first_complete_exam(cohort)
    assert exam in set(cohort.require("sphere/map", "msme/t2").exams["exam"])
    sets = [cohort.where("knee == 'left'"), cohort.where("knee == 'right'"), cohort]
    counts = chain_counts(cohort, oa=sets, classifiers={"oa": 18, "pain": 1})
    assert (counts.dess, counts.msme, counts.maps) == (2, 2, 2)
    assert counts.oa == {"train": len(sets[0]), "validation": len(sets[1]), "test": 2}
    figure = ql.report.figure_s1(drawn_lake, exam, counts)
    words = words_of(figure)
    for text in (
        "2 DESS volumes (paper: 47,078)",
        "2 T2 maps (paper: 21,118)",
        "12,634",
        f"{len(sets[0])} / {len(sets[1])} / 2",
        "18 classifiers of osteoarthritis",
        "1 classifier of chronic pain",
        "test exams: none",
        "7,437",
    ):
        assert text in words


def test_figure_s1__draws_the_merged_images(drawn_lake: ql.Lake) -> None:
    exam = first_complete_exam(drawn_lake.cohort())
    figure = figure_s1(drawn_lake, exam, chain_counts(drawn_lake.cohort()))
    panels = [ax for ax in figure.axes if ax.images and ax.get_title() == "All"]
    assert len(panels) == 1
    maps = drawn_lake.load("sphere", exam=exam).isel(exam=0)["map"].sel(bone="femur")
    image = merge(maps, "all").clip(0, 1).transpose("azimuth", "polar", "channel").values
    np.testing.assert_array_equal(np.asarray(panels[0].images[0].get_array()), image)


def test_figure_s1__rejects_an_exam_without_images(drawn_lake: ql.Lake, tmp_path: Path) -> None:
    mapped = make_case_control_lake(tmp_path / "oai.lake", exams=12)
    assert first_complete_exam(mapped.cohort()) is None
    counts = chain_counts(mapped.cohort())
    assert (counts.dess, counts.maps, dict(counts.oa)) == (0, 12, {})
    with pytest.raises(NotFoundError, match=r"no dess/image.* of 9000001-000m-right"):
        figure_s1(mapped, "9000001-000m-right", counts)
