"""Masks by extent and by tissue."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import qmri_lake as ql
from qmri_lake.errors import InputError, NotFoundError
from qmri_lake.store.repository import commit
from qmri_lake.store.transaction import append_exams
from tests.fixtures import add_dess, array_lake, keys, msme_signal


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """Four exams, the odd ones a slice smaller, and a fifth without images."""
    lake = add_dess(array_lake(tmp_path_factory.mktemp("masks") / "small.lake", 4))
    commit(lake.repo, lambda session: append_exams(session, keys(5)), "Add an exam")
    return lake.refresh()


def test_inside__uses_the_extent_of_each_exam(lake):
    ds = lake.load("msme")
    inside = ql.inside(ds)
    assert isinstance(inside.data, da.Array)
    assert inside.dims == ("exam", "slice", "row", "column")
    assert inside.dtype == bool
    assert inside.sum(("slice", "row", "column")).values.tolist() == [600, 480, 600, 480, 0]
    np.testing.assert_array_equal(inside, np.isfinite(ds.image.isel(echo=0)))
    assert not inside.isel(exam=1, slice=4).any()
    assert inside.isel(exam=1, slice=3).all()


def test_inside__of_one_exam_is_everywhere(lake):
    one = lake.load("msme", patient=9000001, timepoint=0, knee="left")
    assert ql.inside(one).all()
    assert ql.inside(one).shape == (1, 4, 12, 10)
    assert ql.inside(one.isel(exam=0)).shape == (4, 12, 10)


def test_inside__excludes_fill_from_means(lake):
    """Fill values that are not NaN would change a mean."""
    ds = lake.load("msme", "patient == 9000001")
    background = (ds.cartilage == 0).where(ql.inside(ds))
    assert background.mean(("slice", "row", "column")).values.tolist() == [0.5] * 4
    for row in range(4):
        signal, _ = msme_signal(row, (5 - row % 2, 12, 10))
        mean = ds.image.where(ql.inside(ds)).isel(exam=row).mean()
        assert mean == pytest.approx(signal.mean(), rel=1e-6)


def test_inside__needs_an_extent(lake):
    with pytest.raises(NotFoundError, match=r"inside: a Dataset without `extent` \(expected"):
        ql.inside(lake.load("msme").drop_vars("extent"))
    with pytest.raises(NotFoundError, match="a DataArray without `extent`"):
        ql.inside(lake.load("msme").image)


def test_tissue__by_name(lake):
    labels = lake.load("msme", "patient == 9000001").cartilage
    femoral = ql.tissue(labels, "femoral")
    assert isinstance(femoral.data, da.Array)
    assert femoral.dims == labels.dims
    assert femoral.name == "femoral"
    np.testing.assert_array_equal(femoral, labels == 1)
    both = ql.tissue(labels, "femoral", "tibial")
    np.testing.assert_array_equal(both, (labels == 1) | (labels == 2))
    assert not ql.tissue(labels, "meniscus").any()
    outside = ~ql.inside(lake.load("msme", "patient == 9000001"))
    assert not (ql.tissue(labels, "background") & outside).any()
    assert not ql.tissue(labels).any(), "no tissue is nowhere"


def test_tissue__of_one_exam_and_in_memory(lake):
    labels = lake.load("msme", "patient == 9000001").cartilage
    expected = (labels == 2).values
    np.testing.assert_array_equal(ql.tissue(labels.load(), "tibial"), expected)
    one = labels.sel(patient=9000001, timepoint=24, knee="left")
    np.testing.assert_array_equal(ql.tissue(one, "tibial"), expected[3])
    np.testing.assert_array_equal(ql.tissue(labels.isel(slice=2), "tibial"), expected[:, 2])
    cut = labels.chunk({"slice": 2})
    np.testing.assert_array_equal(ql.tissue(cut, "tibial"), expected)


def test_inside__after_a_selection_of_slices(lake):
    ds = lake.load("msme")
    whole = ql.inside(ds).compute()
    for part in ({"slice": slice(3, 5)}, {"slice": slice(None, None, -1)}, {"row": [7, 0, 11]}):
        np.testing.assert_array_equal(ql.inside(ds.isel(part)), whole.isel(part))
    assert not ql.inside(ds.isel(slice=4)).isel(exam=1).any()


def test_tissue__beyond_an_extent_is_not_an_exam_without_a_mask(lake):
    """The last slice of a smaller exam is 255 everywhere, like an exam without a mask."""
    labels = lake.load("msme", "patient == 9000001").cartilage
    assert (labels.isel(exam=1, slice=4) == 255).all()
    femoral = ql.tissue(labels, "femoral").isel(slice=4)
    assert not femoral.isel(exam=1).any()
    assert femoral.isel(exam=0).any()
    for piece in (labels.isel(slice=4), labels.isel(slice=[4]), labels.isel(slice=4, exam=1)):
        with pytest.raises(InputError, match=r"beyond the extent.*select slices of the result"):
            ql.tissue(piece, "femoral").compute()


def test_tissue__an_unknown_name_lists_available_ones(lake):
    labels = lake.load("msme").cartilage
    message = r"no tissue 'femur' \(expected one of background, femoral, tibial, patellar, meniscus"
    with pytest.raises(NotFoundError, match=message):
        ql.tissue(labels, "femoral", "femur")
    with pytest.raises(NotFoundError, match=r"expected one of \(an array with flag_meanings\)"):
        ql.tissue(xr.DataArray(np.zeros((2, 2, 2), np.uint8), dims=("slice", "row", "column")), "x")


def test_tissue__of_an_exam_without_a_mask_raises_when_computed(lake):
    labels = lake.load("msme").cartilage
    femoral = ql.tissue(labels, "femoral")
    assert femoral.isel(exam=slice(0, 4)).any(), "the exams that have one are read"
    with pytest.raises(InputError, match=r"an exam without a mask.*Use cohort\.require"):
        femoral.compute()
    with pytest.raises(InputError, match="an exam without a mask"):
        ql.tissue(lake.load("dess", "patient == 9000001").cartilage, "femoral").compute()
    chosen = lake.cohort().require("msme/cartilage")
    assert len(chosen) == 4
    assert ql.tissue(lake.load("msme", chosen).cartilage, "femoral").any()
