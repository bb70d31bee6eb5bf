"""Spherical maps as images of three channels."""

from __future__ import annotations

from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from scipy.io import savemat

from qmri_lake.errors import InputError, NotFoundError
from qmri_lake.fusion import STRATEGIES, merge, read_bone_sphere, write_bone_sphere

VALUE = {"bone_shape": 25.0, "thickness": 2.0, "t2": 48.0}
SCALED = {"bone_shape": 0.5, "thickness": 0.5, "t2": 0.6, None: 0.0}


@pytest.fixture
def maps() -> xr.DataArray:
    """Two exams, three bones; the first pixel has no value."""
    values = np.empty((2, 3, 3, 224, 224), np.float32)
    for k, value in enumerate(VALUE.values()):
        values[:, :, k] = value
    values[..., 0, 0] = np.nan
    return xr.DataArray(
        da.from_array(values, chunks=(1, 3, 3, 224, 224)),
        dims=("exam", "bone", "biomarker", "azimuth", "polar"),
        coords={"biomarker": list(VALUE), "bone": ["femur", "tibia", "patella"],
                "exam": ["a", "b"]},
    )  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_merge__each_strategy_fills_the_published_channels(
    maps: xr.DataArray, strategy: str
) -> None:
    image = merge(maps, strategy)
    assert image.dims == ("exam", "bone", "channel", "azimuth", "polar")
    assert image.shape == (2, 3, 3, 224, 224)
    assert image.dtype == np.float32
    assert image.chunks is not None  # nothing was computed
    here = image.sel(exam="b", bone="tibia").compute()
    for colour, name in zip(("red", "green", "blue"), STRATEGIES[strategy], strict=True):
        assert here.sel(channel=colour).values[5, 7] == pytest.approx(SCALED[name])
        assert here.sel(channel=colour).values[0, 0] == 0


def test_merge__scales_are_options_and_nothing_is_clipped(maps: xr.DataArray) -> None:
    image = merge(maps, "all", scale={"thickness": 0.5})
    assert image[0, 0, :, 5, 5].values.tolist() == pytest.approx([4.0, 0.5, 0.6])
    assert "thickness / 0.5" in image.attrs["channels"]


def test_merge__imagenet_is_what_torchvision_does(maps: xr.DataArray) -> None:
    plain, shifted = merge(maps, "all"), merge(maps, "all", imagenet=True)
    mean, sd = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    at = plain[0, 0, :, 5, 5].values
    assert shifted[0, 0, :, 5, 5].values == pytest.approx((at - mean) / sd, rel=1e-5)
    assert shifted.dtype == np.float32


def test_merge__keeps_its_input_and_takes_a_group(maps: xr.DataArray) -> None:
    before = maps.compute().copy()
    whole = merge(maps.to_dataset(name="map"), "thickness")
    xr.testing.assert_equal(whole, merge(maps, "thickness"))
    xr.testing.assert_equal(maps.compute(), before)


def test_merge__has_no_attributes_of_what_it_is_made_of(maps: xr.DataArray) -> None:
    image = merge(maps.assign_attrs(units="mm", fill_meaning="no value there"), "all")
    assert set(image.attrs) == {"long_name", "strategy", "channels", "imagenet"}


def test_merge__says_what_is_missing(maps: xr.DataArray) -> None:
    with pytest.raises(NotFoundError, match=r"no strategy 'al'.*Did you mean.*all"):
        merge(maps, "al")
    with pytest.raises(NotFoundError, match=r"no map of t2.*thickness, bone_shape, t2 for strat"):
        merge(maps.sel(biomarker=["bone_shape", "thickness"]), "all")
    with pytest.raises(NotFoundError, match=r"lake\.load"):
        merge(maps.isel(biomarker=0, drop=True), "all")
    with pytest.raises(InputError, match="scale t2=0"):
        merge(maps, "all", scale={"t2": 0})


def test_bone_sphere__there_and_back(tmp_path: Path) -> None:
    shape = np.random.default_rng(0).uniform(17, 42, (224, 224)).astype(np.float32)
    shape[100:, 100:] = np.nan
    write_bone_sphere(tmp_path / "tibia.mat", shape)
    np.testing.assert_array_equal(read_bone_sphere(tmp_path / "tibia.mat"), shape)


def test_bone_sphere__what_is_odd_is_refused(tmp_path: Path) -> None:
    def kept(**arrays: np.ndarray) -> Path:
        savemat(tmp_path / "odd.mat", arrays)
        return tmp_path / "odd.mat"

    with pytest.raises(InputError, match="no bone_sphere"):
        read_bone_sphere(kept(other=np.ones(3)))
    with pytest.raises(InputError, match=r"224 x 224 values.*224 x 224 x 3"):
        read_bone_sphere(kept(bone_sphere=np.ones((224, 224))))
    channels = np.ones((224, 224, 3))
    channels[3, 4, 1] = 2
    with pytest.raises(InputError, match="channels that differ"):
        read_bone_sphere(kept(bone_sphere=channels))
    (tmp_path / "text.mat").write_text("not MATLAB " * 20)
    with pytest.raises(InputError, match=r"no \.mat file"):
        read_bone_sphere(tmp_path / "text.mat")
    with pytest.raises(NotFoundError, match="no such file"):
        read_bone_sphere(tmp_path / "nobody.mat")
    with pytest.raises(InputError, match="0 mm"):
        write_bone_sphere(tmp_path / "x.mat", np.zeros((224, 224)))
    with pytest.raises(InputError, match="9 x 9 values"):
        write_bone_sphere(tmp_path / "x.mat", np.ones((9, 9)))
