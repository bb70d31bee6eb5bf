"""Datasets of exams as tables, and what may be assigned to them."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import xarray as xr

from qmri_lake.errors import InputError
from qmri_lake.schema.exam_dataset import Dataset
from qmri_lake.schema.exam_index import KEYS, ExamIndex, attach_index, exam_key
from tests.fixtures import keys


@pytest.fixture
def ds():
    frame = keys(8)
    names = [exam_key(*row) for row in frame.itertuples(index=False)]
    coords = {name: ("exam", frame[name].to_numpy()) for name in KEYS}
    values = {"x": ("exam", np.arange(8.0)), "v": (("exam", "echo"), np.ones((8, 2)))}
    made = xr.Dataset(values, {"exam": ("exam", names), **coords}, {"lake": "a"})
    return Dataset.of(attach_index(made))


def test_to_dataframe__has_the_keys_as_columns(ds):
    table = ds[["x"]].to_dataframe()
    assert table.columns.tolist() == ["patient", "timepoint", "knee", "x"]
    assert table.index.name == "exam"
    assert table.loc["9000002-024m-left"].tolist() == [9000002, 24, "left", 7]
    assert table.dtypes["patient"] == np.int64
    long = ds.sel(knee="left").to_dataframe()
    assert long.index.names == ["exam", "echo"]
    assert long["timepoint"].tolist() == [0, 0, 24, 24] * 2
    kept = ds.where(ds.x > 5, drop=True)[["x"]].to_dataframe()
    assert kept["patient"].tolist() == [9000002] * 2
    assert ds.mean("exam").to_dataframe().columns.tolist() == ["x", "v"]
    assert isinstance(ds.xindexes["knee"], ExamIndex), "the Dataset keeps its index"


def test_assign__of_arrays_without_a_common_exam_is_refused(ds):
    later, first = ds.sel(timepoint=24), ds.sel(timepoint=0)
    with pytest.raises(InputError, match="arrays of different exams"):
        later["before"] = first.x
    with pytest.raises(InputError, match="arrays of different exams"):
        later.assign(before=first.x, y=later.x)
    assert "before" not in later


def test_assign__pairs_common_exams(ds):
    later = ds.sel(timepoint=24)
    later["all"] = ds.x
    later["bare"] = xr.DataArray(np.arange(4), dims="exam")
    later["one"] = ds.x.isel(exam=0)
    assert later["all"].values.tolist() == [2, 3, 6, 7]
    ds["later"] = later.x
    assert ds.later.count() == 4
    by_key = xr.DataArray([1.0, 2.0], dims="exam", coords={"exam": ds.exam.values[[3, 1]]})
    ds["series"] = by_key
    assert ds.series.values[[1, 3]].tolist() == [2, 1]


def test_of__copies_nothing_and_loses_nothing(ds):
    plain = xr.merge([ds])
    assert type(plain) is xr.Dataset
    assert Dataset.of(plain).identical(ds)
    assert np.shares_memory(Dataset.of(plain).x.values, plain.x.values)
    for again in (pickle.loads(pickle.dumps(ds)), copy.deepcopy(ds), ds.chunk(exam=2).compute()):
        assert again.identical(ds)
        assert type(again) is Dataset
    assert repr(ds).startswith("<xarray.Dataset>")
