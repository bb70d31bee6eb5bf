"""The mark of synthetic exams: from DICOM headers and from truth; real exams stay unmarked."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.errors import InputError
from qmri_lake.lake.reading import SYNTHETIC_EXAMS
from qmri_lake.lake.synthetic_exams import describe_synthetic, is_synthetic
from qmri_lake.oai.inventory import inventory
from qmri_lake.phantom import Archive, add_true_exams, write_archive
from qmri_lake.report.synthetic_mark import mark_of_cohort, mark_of_dataset
from tests.fixtures import array_lake

SHAPE = (16, 48, 48)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return write_archive(tmp_path_factory.mktemp("oai") / "a", exams=1, shape=SHAPE)


@pytest.fixture(scope="module")
def like_real(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images without a statement in their headers that they are synthetic."""
    folder = tmp_path_factory.mktemp("real") / "a"
    shutil.copytree(archive.path, folder)
    for path in folder.rglob("[0-9][0-9][0-9]"):
        ds = pydicom.dcmread(path)
        ds.Manufacturer = "SIEMENS"
        del ds.SyntheticData
        ds.save_as(path)
    return folder


def test_ingest__marks_exams_whose_headers_say_that_they_are_synthetic(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = ql.ingest(archive.path, tmp_path / "l").lake
    assert is_synthetic(lake).all()
    assert len(lake.cohort("synthetic == 'yes'")) == 1
    assert "1 of 1 exam is synthetic" in repr(lake)
    assert main(["info", lake.url]) == 0
    assert "1 of 1 exam is synthetic" in capsys.readouterr().out
    assert lake.validate(deep=True) == []
    snapshot = lake.snapshot
    assert ql.ingest(archive.path, lake).lake.snapshot == snapshot
    derived = lake.derive(tmp_path / "d", lake.cohort(), ["dess"])
    assert is_synthetic(derived).all()


@pytest.mark.parametrize(
    ("data", "maker", "marked"),
    [("YES", "SIEMENS", True), ("NO", "SIEMENS", False), (None, "qmri_lake phantom", True)],
)
def test_inventory__reads_the_attribute_or_the_manufacturer_of_earlier_archives(
    like_real: Path, tmp_path: Path, data: str | None, maker: str, marked: bool
) -> None:
    for path in shutil.copytree(like_real, tmp_path / "a").rglob("[0-9][0-9][0-9]"):
        ds = pydicom.dcmread(path)
        ds.Manufacturer = maker
        if data is not None:
            ds.SyntheticData = data
        ds.save_as(path)
    found = inventory(tmp_path / "a")
    assert not found.problems
    assert {series.synthetic for series in found.series} == {marked}


def test_ingest__leaves_other_exams_unmarked_and_marks_stored_ones_later(
    archive: Archive, like_real: Path, tmp_path: Path
) -> None:
    lake = ql.ingest(like_real, tmp_path / "l").lake
    assert not is_synthetic(lake).any()
    assert "synthetic" not in lake.column_names()
    assert "synthetic" not in repr(lake)
    assert SYNTHETIC_EXAMS not in lake.load("dess").attrs
    # A lake may hold both kinds.
    add_true_exams(lake, exams=1, shape=SHAPE)
    assert describe_synthetic(lake) == "1 of 2 exams is synthetic"
    real, made = lake.exams["exam"]
    assert lake.cohort("synthetic == 'yes'").exams["exam"].tolist() == [made]
    both = lake.load("dess")
    assert both.attrs[SYNTHETIC_EXAMS] == made
    assert mark_of_dataset(both) == "Synthetic data: 1 of 2 exams"
    assert mark_of_dataset(both.sel(exam=[made])) == "Synthetic data"
    assert mark_of_dataset(both.isel(exam=0)) == mark_of_dataset(lake.load("dess", exam=real)) == ""
    assert mark_of_cohort(lake.cohort("missing(synthetic)")) == ""
    assert mark_of_cohort(lake.cohort()) == "Synthetic data: 1 of 2 exams"
    # The archive states that the stored series are synthetic.
    result = ql.ingest(archive.path, lake)
    assert sum(result.added.values()) == 0
    assert describe_synthetic(result.lake) == "2 of 2 exams are synthetic"


def test_is_synthetic__is_unknown_in_lakes_without_the_column(tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "l")
    assert is_synthetic(lake).tolist() == [False] * len(lake)
    assert describe_synthetic(lake) == ""


def test_ingest__refuses_a_column_of_that_name_with_another_meaning(
    archive: Archive, like_real: Path, tmp_path: Path
) -> None:
    from qmri_lake.schema.variable import Variable
    from qmri_lake.store.arrays import create_array, open_root
    from qmri_lake.store.repository import commit

    lake = ql.ingest(like_real, tmp_path / "l").lake

    def add(session):
        group = open_root(session.store, "r+").require_group("clinical")
        own = Variable("clinical", "synthetic", (), "float32", "A column of a table")
        create_array(group, own, "synthetic", len(lake), {})
        group["synthetic"][:] = np.ones(len(lake))

    commit(lake.repo, add, "Add a column")
    lake.refresh()
    assert not is_synthetic(lake).any()
    with pytest.raises(InputError, match=r"a column 'synthetic' with other values"):
        ql.ingest(archive.path, lake)
