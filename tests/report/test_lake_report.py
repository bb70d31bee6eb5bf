"""The report of a lake: its values, and that it contains no personal data."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.phantom import Archive, exams, knee, write_archive
from qmri_lake.report import write_report
from qmri_lake.report.slice_figures import _matching_dess_slice, axis_letters
from qmri_lake.report.t2_summary import ALL_VOXELS, BINS, summarise_t2
from qmri_lake.tissues import CARTILAGE
from tests.fixtures import array_lake, knee_lake

PNG = b"\x89PNG\r\n"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return write_archive(tmp_path_factory.mktemp("oai") / "a", exams=4, shape=(24, 64, 64))


@pytest.fixture(scope="module")
def lake(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> ql.Lake:
    path = tmp_path_factory.mktemp("lake") / "oai.lake"
    lake = ql.ingest(archive.path, path, masks=archive.truth).lake
    lake.run("t2")
    return lake


def test_summarise_t2__equals_a_plain_computation(lake: ql.Lake) -> None:
    cohort = lake.cohort().require("msme/t2")
    seen: list[tuple[int, int]] = []
    summary = summarise_t2(lake, cohort, lambda done, total: seen.append((done, total)))
    assert seen == [(k + 1, len(cohort)) for k in range(len(cohort))]
    table = summary.table.set_index(["exam", "tissue"])
    ds = lake.load("msme", cohort).compute()
    for exam in ds.exam.values:
        one = ds.sel(exam=exam)
        for tissue in ("femoral", "tibial", "patellar", "meniscus"):
            inside = one.cartilage == CARTILAGE[tissue]
            values = one.t2.where(inside)
            row = table.loc[exam, tissue]
            assert row["voxels"] == int(inside.sum())
            assert row["accepted"] == int(values.notnull().sum())
            assert row["mean"] == pytest.approx(float(values.mean(dtype=np.float64)), rel=1e-6)
            assert row["median"] == pytest.approx(float(values.median()))
            assert row["sd"] == pytest.approx(float(values.std(ddof=1, dtype=np.float64)), rel=1e-5)
    assert {len(counts) for counts in summary.histograms.values()} == {len(BINS) - 1}
    assert sum(h.sum() for h in summary.histograms.values()) == table["accepted"].sum()
    assert sum(summary.outcomes.values()) == table["voxels"].sum()


def test_summarise_t2__without_masks_uses_all_voxels(tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "l.lake", count=2)
    lake.run("t2", within="all")
    summary = summarise_t2(lake, lake.cohort().require("msme/t2"))
    # This lake has labels, so T2 is given by tissue; other voxels are not included.
    assert set(summary.table["tissue"]) == {"femoral", "tibial"}
    summary.add("x", np.array([30.0, np.nan]), np.array([0, 7], np.uint8), None, {"fitted": 0})
    assert summary.table.iloc[-1]["tissue"] == ALL_VOXELS
    assert summary.table.iloc[-1]["voxels"] == 2


class _Checker(HTMLParser):
    """Tags must be balanced, and nothing may be loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[tuple[str, bytes]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        for name in ("src", "href"):
            assert (values.get(name) or "data:").startswith("data:")
        if tag == "img":
            data = (values["src"] or "").partition("base64,")[2]
            self.images.append((values["alt"] or "", base64.b64decode(data)))
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_write_report__is_complete_and_self_contained(lake: ql.Lake, tmp_path: Path) -> None:
    path = write_report(
        lake, tmp_path / "deep" / "r.html", "timepoint >= 0", exams=2, title="A & B"
    )
    text = path.read_text(encoding="utf-8")
    checker = _Checker()
    checker.feed(text)
    assert checker.open == []
    assert len(checker.images) == 4  # histogram, T2 by grade, two exams
    assert all(alt and png.startswith(PNG) for alt, png in checker.images)
    assert "A &amp; B" in text
    assert "timepoint &gt;= 0" in text
    assert lake.snapshot in text
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]+", "", text))
    for word in ("femoral", "ingest_dess", "End run", "skip_first_echo=true"):
        assert word in text


def test_write_report__contains_no_personal_data_and_no_paths(
    lake: ql.Lake, archive: Archive, tmp_path: Path
) -> None:
    text = write_report(lake, tmp_path / "r.html").read_text(encoding="utf-8")
    text = re.sub(r"base64,[^\"]+", "", text)
    assert str(Path(lake.url).parent) not in text
    for uid in lake.load("dess").series_uid.values:
        assert uid not in text
    assert "phantom^" not in text
    born = re.findall(r"\b19[0-9]{6}\b", text)
    assert born == []


def test_write_report__without_t2_gives_the_command(archive: Archive, tmp_path: Path) -> None:
    lake = ql.ingest(archive.path, tmp_path / "oai.lake").lake
    text = write_report(lake, tmp_path / "r.html", exams=2).read_text(encoding="utf-8")
    assert "qmri-lake run t2" in text
    checker = _Checker()
    checker.feed(text)
    assert len(checker.images) == 2  # DESS alone
    assert all(alt.startswith("Slices of") and png.startswith(PNG) for alt, png in checker.images)


def test_write_report__averages_regions(tmp_path: Path) -> None:
    lake = knee_lake(tmp_path / "l.lake", [knee(exam, shape=(40, 96, 96)) for exam in exams(2)])
    lake.run("region")
    text = write_report(lake, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Cartilage regions" in text
    table = ql.region_table(lake.cohort())
    mine = table[table["region"] == "cMF"]["thickness [mm]"]
    assert f"{mine.mean():.2f} ± {mine.std():.2f}" in text
    for name in ql.surface.REGIONS:
        assert f"<td>{name}</td>" in text


def test_write_report__empty_cohort(lake: ql.Lake, tmp_path: Path) -> None:
    text = write_report(lake, tmp_path / "r.html", "timepoint == 7").read_text(encoding="utf-8")
    assert "timepoint == 7" in text


def test_figures__dess_slice_is_the_one_through_the_msme_slice(
    lake: ql.Lake, archive: Archive
) -> None:
    exam = lake.cohort().require("msme/t2").exams["exam"].iloc[0]
    dess = lake.load("dess", exam=exam).isel(exam=0)
    msme = lake.load("msme", exam=exam).isel(exam=0)
    truth = np.load(archive.truth / f"{exam}.npz")
    for k in (5, 12, 20):
        centre = msme.affine.values @ [k, 31.5, 31.5, 1]
        moved = np.linalg.inv(truth["dess_to_msme"]) @ centre
        index = np.linalg.inv(truth["dess_affine"]) @ moved
        assert _matching_dess_slice(dess, msme, k) == pytest.approx(index[0], abs=0.51)


@pytest.mark.parametrize(
    ("vector", "letters"),
    [
        ((1, 0.1, 0), ("L", "R")),
        ((-1, 0, 0), ("R", "L")),
        ((0, 1, 0), ("P", "A")),
        ((0, 0, -1), ("I", "S")),
        ((0.3, -0.9, 0.1), ("A", "P")),
    ],
)
def test_figures__directions_are_lps(vector: tuple[float, ...], letters: tuple[str, str]) -> None:
    assert axis_letters(np.array(vector, float)) == letters
