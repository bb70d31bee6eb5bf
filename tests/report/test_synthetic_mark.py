"""Pages, exam views and figures of synthetic exams carry the word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

import qmri_lake as ql
from qmri_lake import report
from qmri_lake.report import lake_report
from qmri_lake.report.synthetic_mark import mark_figure
from tests.fixtures import add_dess, array_lake


def printed(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def words(path: Path) -> str:
    return re.sub(r"base64,[^\"]+", "", path.read_text(encoding="utf-8"))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """All figures that a report embeds."""
    figures: list[Figure] = []
    png = lake_report._png

    def record(figure: Figure) -> str:
        figures.append(figure)
        return png(figure)

    monkeypatch.setattr(lake_report, "_png", record)
    return figures


@pytest.mark.accept
def test_write_report__marks_its_page_and_all_figures(
    drawn_lake: ql.Lake, tmp_path: Path, drawn: list[Figure]
) -> None:
    page = words(report.write_report(drawn_lake, tmp_path / "r.html", exams=2))
    assert page.count("Synthetic data: 2 of 2 exams are synthetic.") == 2
    assert len(drawn) >= 6
    assert all("Synthetic data" in printed(figure) for figure in drawn)


def test_write_view__marks_its_page(drawn_lake: ql.Lake, tmp_path: Path) -> None:
    page = words(report.write_view(drawn_lake, drawn_lake.exams["exam"][0], tmp_path / "v.html"))
    header = page[page.index("<header>") : page.index("</header>")]
    assert "Synthetic data" in header


def test_figures__of_a_loaded_dataset_are_marked(drawn_lake: ql.Lake) -> None:
    sphere = drawn_lake.load("sphere")
    one = sphere.isel(exam=[0])
    for figure in (
        report.map_atlas(one),
        report.painted_bones(one),
        report.cohort_atlas(report.cohort_mean(sphere)),
    ):
        assert "Synthetic data" in printed(figure)


def test_pages__of_unmarked_exams_do_not_change(tmp_path: Path, drawn: list[Figure]) -> None:
    lake = add_dess(array_lake(tmp_path / "l.lake", count=2))
    lake.run("t2")
    page = words(report.write_report(lake, tmp_path / "r.html", exams=1))
    view = words(report.write_view(lake, lake.exams["exam"][0], tmp_path / "v.html"))
    for text in (page, view):
        assert "Synthetic data" not in text
    assert drawn
    assert not any("Synthetic data" in text for figure in drawn for text in printed(figure))


def test_mark_figure__covers_neither_axes_nor_legends() -> None:
    figure = Figure(figsize=(4, 3), layout="constrained")
    ax = figure.subplots()
    ax.plot([0, 1], label="a line with quite a long name in the legend")
    legend = figure.legend(loc="outside lower center")
    mark_figure(figure, "Synthetic data: 2 of 3 exams")
    figure.draw_without_rendering()
    (text,) = figure.texts
    box = text.get_window_extent()
    assert not box.overlaps(ax.get_tightbbox())
    assert not box.overlaps(legend.get_window_extent())
    assert figure.bbox.x1 >= box.x1
