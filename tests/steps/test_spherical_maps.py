"""Spherical maps of a lake: the lazy session function and the step of a run."""

from __future__ import annotations

from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr

import qmri_lake as ql
from qmri_lake.errors import InputError, NotFoundError, Reason, RunError
from qmri_lake.phantom import exams, knee
from qmri_lake.steps.spherical_maps import sphere
from qmri_lake.surface.spherical_maps import MAP_STATUS
from qmri_lake.tissues import BONE, NO_MASK
from tests.fixtures import knee_lake

SHAPE = (40, 96, 96)
MADE = ("map", "surface_status", "area", "centre", "dropped_pieces", "map_status")


def spoiled(row: int, arrays: dict[str, np.ndarray]) -> None:
    """Exam 1 is smaller than the arrays; 2 has no patella; 3 has no MSME, 4 neither bone."""
    if row == 1:
        for name in ("dess/bone", "dess/cartilage"):
            arrays[name] = arrays[name][:, 1:-1]
        affine = arrays["dess/affine"].copy()
        affine[:3, 3] += affine[:3, 1]
        arrays["dess/affine"] = affine
        arrays["dess/extent"] = np.array(arrays["dess/bone"].shape)
    elif row == 2:
        arrays["dess/bone"] = np.where(
            arrays["dess/bone"] == BONE["patella"], 0, arrays["dess/bone"]
        ).astype(np.uint8)
    elif row == 3:
        for name in [name for name in arrays if name.startswith("msme")]:
            del arrays[name]
    elif row == 4:
        arrays["dess/bone"] = np.zeros_like(arrays["dess/bone"])


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> ql.Lake:
    knees = [knee(exam, shape=SHAPE) for exam in exams(5)]
    made = knee_lake(tmp_path_factory.mktemp("sphere") / "knees.lake", knees, spoiled)
    made.run("sphere")
    return made.refresh()


def loaded(lake: ql.Lake) -> tuple[xr.Dataset, xr.Dataset]:
    cohort = lake.cohort().require("msme/t2")
    return lake.load("dess", cohort), lake.load("msme", cohort)


@pytest.mark.slow
def test_run__states_and_reasons(lake: ql.Lake) -> None:
    states = lake.failures("sphere").set_index("exam")
    exams_ = list(lake.exams["exam"])
    assert lake.plan("sphere").waiting == {"t2": 1}
    assert states.loc[exams_[2], "state"] == "flagged"
    assert "no patella" in states.loc[exams_[2], "message"]
    assert states.loc[exams_[4], "state"] == "failed"
    for word in ("no patella", "no tibia", "no femur"):
        assert word in states.loc[exams_[4], "message"]
    # Without multi-echo images there are maps all the same, for those who ask.
    assert lake.run("sphere", f"exam == {exams_[3]!r}", with_t2=False).counts["done"] == 1


@pytest.mark.slow
def test_maps__of_a_bone_that_is_absent_are_no_value(lake: ql.Lake) -> None:
    ds = lake.load("sphere").isel(exam=2).compute()
    absent = ds.sel(bone="patella")
    assert absent.map_status == MAP_STATUS["absent"]
    assert np.isnan(absent["map"]).all()
    assert (absent.surface_status == 255).all()
    assert np.isnan(absent.centre).all()
    assert (ds.sel(bone=["tibia", "femur"]).map_status < MAP_STATUS["odd"]).all()


def test_session__is_the_run(lake: ql.Lake) -> None:
    dess, msme = loaded(lake)
    before = dess.copy(deep=True), msme.copy(deep=True)
    made = ql.spherical_maps(dess, msme)
    assert all(made[name].chunks is not None for name in MADE)
    made = made.compute()
    assert (made["map_status"].isel(exam=3) == MAP_STATUS["absent"]).all()  # which failed in a run
    made = made.isel(exam=slice(0, 3))
    stored = lake.load("sphere", lake.cohort().require("sphere/map").require("msme/t2"))
    xr.testing.assert_identical(made, stored.assign_attrs(made.attrs))
    assert {n: a.attrs for n, a in made.items()} == {n: a.attrs for n, a in stored.items()}
    for ds, kept in zip((dess, msme), before, strict=True):
        xr.testing.assert_identical(ds, kept)


@pytest.mark.slow
def test_session__one_exam_and_other_chunks(lake: ql.Lake) -> None:
    dess, msme = loaded(lake)
    whole = ql.spherical_maps(dess, msme).isel(exam=0)["map"].compute()
    one = ql.spherical_maps(dess.isel(exam=0), msme.isel(exam=0))["map"]
    assert one.dims == ("bone", "biomarker", "azimuth", "polar")
    np.testing.assert_array_equal(one, whole)
    cut = ql.spherical_maps(dess.chunk(slice=7, row=50), msme.chunk(column=30))
    np.testing.assert_array_equal(cut["map"].isel(exam=0), whole)
    np.testing.assert_array_equal(
        ql.spherical_maps(dess.isel(exam=[0]).compute(), msme.isel(exam=[0]).compute())["map"][0],
        whole,
    )


def test_session__computes_nothing_until_asked(lake: ql.Lake) -> None:
    def refuse(dsk, keys, **kwargs):
        raise AssertionError("computed")

    dess, msme = loaded(lake)
    with dask.config.set(scheduler=refuse):
        maps = ql.spherical_maps(dess, msme)
        ql.fusion.merge(maps["map"], "all")
        ql.articular_template(lake.cohort(), query="timepoint >= 0")
    assert len(maps["map"].data.dask) < 60 * dess.sizes["exam"]


@pytest.mark.slow
def test_session__without_t2(lake: ql.Lake) -> None:
    dess, msme = loaded(lake)
    alone = ql.spherical_maps(dess.isel(exam=0))["map"].compute()
    both = ql.spherical_maps(dess.isel(exam=0), msme.isel(exam=0))["map"].compute()
    assert np.isnan(alone.sel(biomarker="t2")).all()
    kept = ["bone_shape", "thickness"]
    xr.testing.assert_identical(alone.sel(biomarker=kept), both.sel(biomarker=kept))
    assert np.isfinite(both.sel(biomarker="t2")).any(("azimuth", "polar")).all()


def test_stock_xarray__knows_what_is_where(lake: ql.Lake) -> None:
    tree = xr.open_datatree(lake.store, engine="zarr", consolidated=False)
    ds = tree["sphere"].to_dataset()
    assert list(ds["bone"].values) == ["patella", "tibia", "femur"]
    assert "polar_angle" in ds.coords
    chosen = ds["map"].sel(bone="femur", biomarker="thickness").sel(azimuth=90, method="nearest")
    assert chosen.sizes["polar"] == 224
    assert lake.validate() == []


@pytest.mark.slow
def test_template__of_healthy_knees(lake: ql.Lake, tmp_path: Path) -> None:
    template = ql.articular_template(lake.cohort(), query="timepoint >= 0")
    assert template.dtype == bool
    assert template.dims == ("bone", "azimuth", "polar")
    status = lake.load("sphere")["surface_status"].compute()
    mapped = (status != NO_MASK).any(("azimuth", "polar"))
    covered = (status == ql.surface.SURFACE_STATUS["covered"]).sum("exam")
    np.testing.assert_array_equal(template, covered >= 0.5 * mapped.sum("exam"))
    path = tmp_path / "template.nc"
    template.to_netcdf(path)
    dess, _ = loaded(lake)
    maps = [
        ql.spherical_maps(dess.isel(exam=0), articular=given)
        for given in (template, path, template.values)
    ]
    for other in maps[1:]:
        xr.testing.assert_identical(maps[0].compute(), other.compute())
    articular = maps[0]["surface_status"] != ql.surface.SURFACE_STATUS["not_articular"]
    assert (articular.values >= template.values).all()
    # A run knows two templates by what is in them, and makes an exam stale by another one only.
    cohort = lake.cohort().require("msme/t2")
    plans = [
        lake.plan("sphere", cohort, articular=t)
        for t in (None, path, template.values, ~template.values)
    ]
    assert [len(plan.rows) for plan in plans] == [0, 4, 4, 4]
    recorded = [sphere.record(plan.parameters)["articular"] for plan in plans]
    assert recorded[1] == recorded[2] != recorded[3]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"method": "nearly"}, r"method 'nearly' \(expected normal or nearest"),
        ({"closing": -1.0}, "closing -1.0"),
        ({"with_t2": "yes"}, r"with_t2='yes' \(expected True or False"),
        ({"articular": "nowhere.nc"}, "no such file"),
        ({"articular": np.ones((3, 4, 4))}, r"an articular template of shape \(3, 4, 4\)"),
    ],
)
def test_plan__refuses_parameters(lake: ql.Lake, parameters: dict[str, object], words: str) -> None:
    with pytest.raises((RunError, InputError, NotFoundError), match=words):
        lake.plan("sphere", **parameters)


def test_template__of_nobody(lake: ql.Lake) -> None:
    with pytest.raises(NotFoundError, match="no exam with maps"):
        ql.articular_template(lake.cohort(), query="timepoint > 500")


def test_session__refuses(lake: ql.Lake) -> None:
    dess, msme = loaded(lake)
    with pytest.raises(InputError, match="which are not the same"):
        ql.spherical_maps(dess, msme.isel(exam=slice(None, None, -1)))
    with pytest.raises(InputError, match="a part of the DESS"):
        ql.spherical_maps(dess.isel(slice=slice(2, None)), msme)
    with pytest.raises(InputError, match="a part of the DESS"):  # which ends before its extent
        ql.spherical_maps(dess.isel(slice=slice(0, 20)), msme).compute()
    with pytest.raises(NotFoundError, match="no variable 't2' in msme"):
        ql.spherical_maps(dess, msme.drop_vars("t2"))
    never = dess.assign(bone=xr.full_like(dess["bone"], NO_MASK))
    with pytest.raises(InputError, match=r"255 \(never segmented\)") as caught:
        ql.spherical_maps(never).compute()
    assert caught.value.reason is Reason.ABSENT_EXAM
