"""Spherical maps as images of three channels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from scipy.io import savemat

from qmri_lake.errors import InputError, NotFoundError
from qmri_lake.fusion import (
    BIOMARKER_TABLE,
    STRATEGIES,
    merge,
    read_bone_sphere,
    strategy_title,
    write_bone_sphere,
)
from qmri_lake.surface.spherical_grid import BIOMARKERS

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
        coords={
            "biomarker": list(VALUE),
            "bone": ["femur", "tibia", "patella"],
            "exam": ["a", "b"],
        },
    )


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


def test_merge__drops_the_attributes_of_maps(maps: xr.DataArray) -> None:
    image = merge(maps.assign_attrs(units="mm", fill_meaning="no value there"), "all")
    assert set(image.attrs) == {"long_name", "strategy", "channels", "imagenet"}


def test_merge__names_what_is_missing(maps: xr.DataArray) -> None:
    with pytest.raises(NotFoundError, match=r"no strategy 'al'.*Did you mean.*all"):
        merge(maps, "al")
    with pytest.raises(NotFoundError, match=r"no map of t2.*thickness, bone_shape, t2 for strat"):
        merge(maps.sel(biomarker=["bone_shape", "thickness"]), "all")
    with pytest.raises(NotFoundError, match=r"lake\.load"):
        merge(maps.isel(biomarker=0, drop=True), "all")
    with pytest.raises(InputError, match="scale t2=0"):
        merge(maps, "all", scale={"t2": 0})


def test_bone_sphere__round_trip(tmp_path: Path) -> None:
    shape = np.random.default_rng(0).uniform(17, 42, (224, 224)).astype(np.float32)
    shape[100:, 100:] = np.nan
    write_bone_sphere(tmp_path / "tibia.mat", shape)
    np.testing.assert_array_equal(read_bone_sphere(tmp_path / "tibia.mat"), shape)


def test_bone_sphere__invalid_files_are_refused(tmp_path: Path) -> None:
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
    with pytest.raises(InputError, match=r"not a \.mat file"):
        read_bone_sphere(tmp_path / "text.mat")
    with pytest.raises(NotFoundError, match="no such file"):
        read_bone_sphere(tmp_path / "nobody.mat")
    with pytest.raises(InputError, match="0 mm"):
        write_bone_sphere(tmp_path / "x.mat", np.zeros((224, 224)))
    with pytest.raises(InputError, match="9 x 9 values"):
        write_bone_sphere(tmp_path / "x.mat", np.ones((9, 9)))


def test_tables__are_in_the_order_of_the_lake() -> None:
    assert tuple(BIOMARKER_TABLE) == BIOMARKERS
    assert {name for channels in STRATEGIES.values() for name in channels} <= {*BIOMARKERS, None}
    assert [strategy_title(name) for name in STRATEGIES] == [
        "T2",
        "Thickness",
        "Bone shape",
        "Bone shape + thickness",
        "Thickness + T2",
        "All",
    ]


SEVENTH = """
from types import MappingProxyType
from qmri_lake import fusion
fusion.STRATEGIES = MappingProxyType(
    {**fusion.STRATEGIES, "bone_shape+t2": (None, "bone_shape", "t2")}
)
import numpy as np
import pandas as pd
from qmri_lake.diagnosis.evaluation.classifier_tables import PREDICTORS, classifier_table
from qmri_lake.diagnosis.models.prediction import predict_maps
from qmri_lake.diagnosis.training.search import COLUMNS, SearchResult, search_size, search_space
from qmri_lake.report import figure_s4
from qmri_lake.steps.predict import predict_oa

assert search_size() == len(search_space()) * 7 * 3 == 714
assert [v.sizes["strategy"] for v in predict_oa.writes] == [7, 7]
assert predict_oa.writes[0].coordinates[0].values == tuple(fusion.STRATEGIES)
assert predict_maps(np.zeros((1, 3, 3, 8, 8), np.float32), []).status.shape == (1, 7, 5)

row = ("bone_shape+t2", "femur", "auc", 0.913, 0.9, 0.92)
names = ["strategy", "predictor", "metric", "mean", "low", "high"]
table = classifier_table(pd.DataFrame([row], columns=names), "oa")
assert len(table.numbers) == 7 * 3 * 5
for shown in (table.text(), table.html(), table.latex()):
    assert "Bone shape + T2" in shown and "91.3" in shown, shown

model = ("bone_shape+t2", "femur", "random", 18, 1e-4, "none", 0.8, 0.5, 1, "")
result = SearchResult(pd.DataFrame([model], columns=list(COLUMNS)))
assert result.coverage == "1 of 714"
labels = [label.get_text() for label in figure_s4(result).axes[0].get_yticklabels()]
assert labels[-1] == "Bone shape + T2" and len(labels) == 7
"""


@pytest.mark.slow
def test_strategies__a_seventh_one_is_declared_in_one_place() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SEVENTH], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
