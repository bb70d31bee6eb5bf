"""Lazy Datasets of a lake: shapes, coordinates, and writing them to files."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import qmri_lake as ql
from qmri_lake.errors import NotFoundError, QueryError
from qmri_lake.schema.exam_index import KEYS, ExamIndex
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.transaction import Transaction, declare
from tests.fixtures import ECHO_TIME, add_clinical, add_dess, add_visits, array_lake, msme_signal

KL = [0, 1, 2, 3, 4, np.nan, 2, 0]


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """Eight exams; the odd ones a slice smaller, the third with 5 echoes, the last without DESS."""
    lake = array_lake(tmp_path_factory.mktemp("reading") / "small.lake", 8)
    change = Transaction()
    change.set_small("msme/echo_time", 2, np.where(np.arange(7) < 5, ECHO_TIME, np.nan))
    commit(lake.repo, change, "Shorten an echo train")
    return add_visits(add_dess(add_clinical(lake.refresh(), kl=KL, sex=[1, 2] * 4)))


# -- shapes ----------------------------------------------------------------------------------------


def test_load__mixed_extents_are_cropped_to_the_smallest_box(lake):
    ds = lake.load("msme")
    assert ds.sizes == {
        "exam": 8,
        "echo": 7,
        "slice": 5,
        "row": 12,
        "column": 10,
        "world": 4,
        "voxel": 4,
        "axis": 3,
    }
    assert ds.image.chunks[0] == (1,) * 8
    assert all(len(chunks) == 1 for chunks in ds.image.chunks[1:])
    for row in (0, 1):
        signal, _ = msme_signal(row, (5 - row % 2, 12, 10))
        np.testing.assert_array_equal(ds.image[row, :, : 5 - row % 2], signal)
    assert np.isnan(ds.image[1, :, 4]).all()


def test_load__a_uniform_cohort_has_its_own_shape(lake):
    left = lake.load("msme", "knee == 'left'")
    assert left.image.shape == (4, 7, 4, 12, 10)
    assert left.cartilage.shape == (4, 4, 12, 10)
    assert np.isfinite(left.image).all()


def test_load__one_exam_has_its_own_slices_and_echoes(lake):
    one = lake.load("msme", patient=9000001, timepoint=24, knee="right")
    assert one.image.shape == (1, 5, 5, 12, 10)
    assert one.echo_time.values.tolist() == [[10, 20, 30, 40, 50]]
    two = lake.load("msme", "patient == 9000001 and timepoint == 24")
    assert two.image.shape == (2, 7, 5, 12, 10)
    assert np.isnan(two.echo_time).sum() == 2


def test_load__exams_without_images_contain_fill(lake):
    nothing = lake.load("dess", exam="9000002-024m-left")
    assert nothing.image.shape == (1, 6, 16, 8)
    assert np.isnan(nothing.image).all()
    assert (nothing.extent == -1).all()


def test_load__blocks_of_maps(tmp_path):
    """A group that is not declared: maps have blocks of 64 exams."""
    lake = add_clinical(array_lake(tmp_path / "maps.lake", 70, (2, 3, 3)), kl=np.zeros(70))
    variables = [
        ql.Variable("heights", "height", ("azimuth", "polar"), "float32", "A map"),
        ql.Variable("heights", "kl", (), "float32", "A name that group clinical has too"),
    ]

    def build(session):
        root = open_root(session.store, "r+")
        declare(root, variables, {"azimuth": 6, "polar": 4})
        root["heights/height"][:8] = np.ones((8, 6, 4))

    commit(lake.repo, build, "Add maps")
    ds = lake.refresh().load("heights")
    assert ds.height.chunks == ((64, 6), (6,), (4,))
    assert np.isfinite(ds.height[:, 0, 0]).sum() == 8
    assert "heights" in lake.groups()
    with pytest.raises(
        QueryError, match="groups 'clinical' and 'heights' both have a variable 'kl'"
    ):
        lake.load(["clinical", "heights"])


# -- which exams -----------------------------------------------------------------------------------


def test_load__by_key_by_query_and_by_cohort_agree(lake):
    chosen = lake.cohort("knee == 'right' and kl >= 2")
    ds = lake.load("msme", chosen)
    assert ds.exam.values.tolist() == chosen.exams["exam"].tolist()
    xr.testing.assert_identical(ds, lake.load("msme", "knee == 'right' and kl >= 2"))
    xr.testing.assert_identical(
        lake.load("msme", exam="9000001-024m-left"),
        lake.load("msme", patient=9000001, timepoint=24, knee="left"),
    )
    xr.testing.assert_identical(
        lake.load("msme", patient=9000001), lake.load("msme", "patient == 9000001")
    )
    assert lake.load("msme").sizes["exam"] == 8


def test_load__keeps_values_with_their_exams(lake):
    """Values stay with their keys for contiguous and other selections."""
    whole = lake.load("dess").image[:, 0, 0, 0].values
    for query in ("kl >= 2", "timepoint == 24", "patient == 9000002", "kl in (0, 4)"):
        ds = lake.load("dess", query)
        rows = lake.cohort(query).rows
        np.testing.assert_array_equal(ds.image[:, 0, 0, 0], whole[rows])
        np.testing.assert_array_equal(ds.patient, lake.exams["patient"].to_numpy()[rows])
    assert lake.load("dess").image.sel(patient=9000002, timepoint=0, knee="left").max() == 5


def test_load__lists_available_names(lake):
    with pytest.raises(
        NotFoundError, match=r"no group 'mesm' \(expected one of clinical, visit, d"
    ):
        lake.load("mesm")
    with pytest.raises(NotFoundError, match=r"no group 'status'"):
        lake.load("status")
    with pytest.raises(
        NotFoundError, match=r"no exam with patient=1, knee='left' \(expected one o"
    ):
        lake.load("msme", patient=1, knee="left")
    with pytest.raises(NotFoundError, match="no group 'sphere'"):
        lake.load(["clinical", "sphere"])


def test_load__names_its_lake_and_snapshot(lake):
    assert lake.load("msme").attrs == {"lake": f"{lake.url} at {lake.snapshot}"}
    attrs = lake.load("msme").echo_time.attrs
    assert attrs["units"] == "ms"
    assert attrs["long_name"] == "Echo time"
    assert lake.load("msme").cartilage.attrs["flag_meanings"].startswith("background femoral")
    assert lake.load("msme").cartilage.dtype == np.uint8, "a fill that xarray masks makes floats"


def test_load__variables_are_in_the_order_of_declaration(lake):
    names = list(lake.load("msme").data_vars)
    assert names[:3] == ["image", "affine", "extent"]
    assert list(lake.load("clinical").data_vars)[:5] == ["age", "sex", "bmi", "days", "kl"]


# -- several groups --------------------------------------------------------------------------------


def test_load__joins_groups_on_exam(lake):
    ds = lake.load(["msme", "clinical"], "kl >= 2")
    assert ds.kl.values.tolist() == [2, 3, 4, 2]
    assert ds.image.chunks[0] == (1,) * 4
    assert isinstance(ds.xindexes["patient"], ExamIndex)
    assert ds.sel(patient=9000002, timepoint=0, knee="right").kl == 4
    assert ds.attrs["lake"].endswith(lake.snapshot)
    xr.testing.assert_identical(ds[["kl"]], lake.load("clinical", "kl >= 2")[["kl"]])
    xr.testing.assert_identical(lake.load(["clinical"]), lake.load("clinical"))


def test_load__refuses_grids_of_different_shape(lake):
    with pytest.raises(QueryError) as caught:
        lake.load(["dess", "msme"])
    assert "groups 'dess' and 'msme' have different grids" in str(caught.value)
    assert "lake.tree(cohort)" in str(caught.value)
    with pytest.raises(QueryError, match=r"group 'visit' cannot be joined.*lake\.load\('visit'\)"):
        lake.load(["msme", "visit"])


def test_load__no_group_at_all(lake):
    with pytest.raises(QueryError, match=r"no group \(expected .*clinical, visit, dess, msme"):
        lake.load([])


def test_load__visits_of_the_patients(lake):
    visits = lake.load("visit", "kl == 4")
    assert visits.sizes == {"visit": 4}
    assert set(visits.patient.values.tolist()) == {9000002}
    assert lake.load("visit", "patient > 0").sizes == {"visit": 8}
    everything = lake.load("visit")
    assert everything.sizes == {"visit": 16}, "without a cohort also patients without an MRI"


# -- the tree --------------------------------------------------------------------------------------


def test_tree__holds_all_groups_with_the_keys_at_the_root(lake):
    tree = lake.tree("kl >= 2")
    assert list(tree.children) == lake.groups()
    assert set(tree.to_dataset().coords) == {"exam", *KEYS}
    for name in ("clinical", "dess", "msme"):
        own = tree[name].to_dataset(inherit=False)
        assert not set(own.coords) & {"exam", *KEYS}, "stored once, inherited"
        assert tree[name].exam.values.tolist() == tree.exam.values.tolist()
        ds = tree[name].to_dataset()
        assert ds.sel(patient=9000002, knee="right").sizes["exam"] == 2
        assert ds.equals(lake.load(name, "kl >= 2"))
    assert tree["visit"].to_dataset(inherit=False).sizes == {"visit": 8}


def test_tree__sel_and_isel(lake):
    tree = lake.tree()
    one = tree.sel(exam="9000002-000m-right")
    assert one["msme/image"].shape == (7, 5, 12, 10)
    assert one["clinical/kl"].values == 4
    some = tree.isel(exam=[1, 3])
    assert some["dess/image"].sizes["exam"] == 2
    assert some["msme"].to_dataset().sel(timepoint=24).exam.values.tolist() == ["9000001-024m-left"]
    whole = lake.tree(lake.select(patient=9000001))
    assert whole["msme"].sizes["exam"] == 4
    with pytest.raises(NotFoundError, match="no exam with patient=1"):
        lake.load("msme", patient=1)


# -- and back --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("query", [None, "kl >= 2", "patient == 9000001 and timepoint == 0"])
@pytest.mark.parametrize("group", ["msme", "dess", "clinical", "visit", ["msme", "clinical"]])
def test_to_zarr__and_back(lake, tmp_path, group, query):
    ds = lake.load(group, query)
    ds.to_zarr(tmp_path / "plain.zarr", consolidated=False)
    back = xr.open_zarr(tmp_path / "plain.zarr", consolidated=False)
    assert set(back.variables) == set(ds.variables)
    if "patient" in ds.xindexes:
        back = back.set_coords(KEYS).set_xindex(KEYS, ExamIndex)
        assert back.exam.dtype.kind in "OTU"
    for name, variable in ds.variables.items():
        assert back[name].dtype.kind == variable.dtype.kind or variable.dtype.kind in "OTU"
    assert back.load().identical(ds.load())


@pytest.mark.slow
@pytest.mark.parametrize("group", ["msme", "clinical", "visit"])
def test_to_netcdf__and_back_by_stock_xarray(lake, tmp_path, group):
    ds = lake.load(group)
    if group == "msme":
        ds = ql.fit_t2(ds)
    ds.to_netcdf(tmp_path / "plain.nc")
    with xr.open_dataset(tmp_path / "plain.nc") as back:
        assert set(back.variables) == set(ds.variables)
        for name, variable in ds.variables.items():
            assert back[name].dtype == variable.dtype or variable.dtype.kind in "OTU", name
            np.testing.assert_array_equal(back[name], variable, err_msg=str(name))
            flags = variable.attrs.get("flag_values", [])
            assert list(back[name].attrs.get("flag_values", [])) == list(flags)
            for key in ("units", "flag_meanings", "fill_meaning", "long_name"):
                assert back[name].attrs.get(key) == variable.attrs.get(key), (name, key)
        if group == "msme":
            femoral = ql.tissue(back.cartilage, "femoral").sum()
            assert femoral == ql.tissue(ds.cartilage, "femoral").sum()


def test_groupby__a_grade(lake):
    ds = lake.load(["msme", "clinical"])
    means = ds.image.isel(echo=0).groupby(ds.kl).mean()
    assert means.kl.values.tolist() == [0, 1, 2, 3, 4], "without exams of unknown grade"
    two = ds.image.isel(echo=0).isel(exam=[2, 6]).mean("exam")
    np.testing.assert_allclose(means.sel(kl=2).mean(("slice", "row", "column")), two.mean())
    assert (
        ds.isel(exam=ds.kl >= 3).exam.values.tolist()
        == lake.cohort("kl >= 3").exams["exam"].tolist()
    )


def test_to_dataframe__of_clinical_columns(lake):
    table = lake.load("clinical", "kl >= 2").to_dataframe()
    assert table.columns[:3].tolist() == [*KEYS]
    assert table["kl"].tolist() == [2, 3, 4, 2]
    own = lake.cohort("kl >= 2").exams.set_index("exam")
    assert table[[*KEYS]].astype(str).equals(own.astype(str))


def test_to_zarr__of_fitted_maps(lake, tmp_path):
    ds = ql.fit_t2(lake.load("msme", "patient == 9000001"))
    ds.to_zarr(tmp_path / "t2.zarr", consolidated=False)
    back = xr.open_zarr(tmp_path / "t2.zarr", consolidated=False)
    np.testing.assert_array_equal(back.t2, ds.t2)
    assert back.t2.attrs["units"] == "ms"
