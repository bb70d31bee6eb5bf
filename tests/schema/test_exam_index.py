"""Selection by patient, timepoint and knee, and what xarray does with such an index."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import xarray as xr

from qmri_lake.errors import InputError, NotFoundError
from qmri_lake.schema.exam_index import KEYS, ExamIndex, attach_index, exam_key
from tests.fixtures import array_lake, keys

N = 8
SIDE_NAMES = ("left", "right")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return array_lake(tmp_path_factory.mktemp("index") / "small.lake", N).load("msme")


@pytest.fixture
def ds():
    """Eight exams with a value each, in memory."""
    frame = keys(N)
    names = [exam_key(*row) for row in frame.itertuples(index=False)]
    coords = {name: ("exam", frame[name].to_numpy()) for name in KEYS}
    values = ("exam", np.arange(N))
    return attach_index(xr.Dataset({"x": values}, {"exam": ("exam", names), **coords}))


def _sound(ds, rows):
    """The dataset holds these rows, and all coordinates and both indexes agree on it."""
    assert ds.x.values.tolist() == rows
    assert isinstance(ds.xindexes["patient"], ExamIndex)
    assert [exam_key(*row) for row in ds.xindexes["knee"].frame.itertuples(index=False)] == (
        ds.exam.values.tolist()
    )
    for name in KEYS:
        assert ds[name].values.tolist() == ds.xindexes[name].frame[name].tolist()
    if rows:
        first = {name: ds[name].values[0] for name in KEYS}
        assert ds.sel(**first).x.item() == rows[0]


def test_sel__of_all_keys_drops_the_axis(ds):
    one = ds.sel(patient=9000002, timepoint=24, knee="left")
    assert one.x.shape == ()
    assert one.x.item() == 7
    assert one.exam.item() == "9000002-024m-left"
    assert [one[name].item() for name in KEYS] == [9000002, 24, "left"]


@pytest.mark.parametrize(
    ("labels", "rows"),
    [
        ({"patient": 9000001}, [0, 1, 2, 3]),
        ({"knee": "left"}, [1, 3, 5, 7]),
        ({"patient": 9000001, "knee": "left"}, [1, 3]),
        ({"timepoint": slice(12, None)}, [2, 3, 6, 7]),
        ({"timepoint": slice(None, 24)}, list(range(N))),
        ({"patient": slice(9000001, 9000001)}, [0, 1, 2, 3]),
        ({"patient": [9000002, 9000001], "timepoint": 0}, [0, 1, 4, 5]),
        ({"patient": [9000001], "timepoint": [0], "knee": ["right"]}, [0]),
        ({"patient": np.array([9000002, 77])}, [4, 5, 6, 7]),
        ({"patient": np.int64(9000001), "timepoint": np.int16(24)}, [2, 3]),
        ({"knee": np.array("right"), "timepoint": 0}, [0, 4]),
        ({"patient": 9000001, "timepoint": 0, "knee": slice("left", "right")}, [0, 1]),
    ],
)
def test_sel__of_some_keys_keeps_the_axis(ds, labels, rows):
    _sound(ds.sel(**labels), rows)


def test_sel__with_exam_and_with_other_dims(ds, loaded):
    assert ds.sel(exam="9000001-024m-left").x.item() == 3
    _sound(ds.sel(exam=["9000002-000m-left", "9000001-000m-right"]), [5, 0])
    assert loaded.sel(patient=9000001, slice=2).image.shape == (4, 7, 12, 10)
    assert loaded.image.sel(patient=9000001, timepoint=0, knee="left").shape == (7, 5, 12, 10)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"patient": 9000009}, r"no exam with patient=9000009 \(expected one of the 8 exams"),
        ({"patient": 9000001, "timepoint": 12}, r"no exam with patient=9000001, timepoint=12"),
        ({"knee": "middle"}, r"no exam with knee='middle'"),
        ({"knee": []}, r"no exam with knee=\[\]"),
        ({"patient": "9000001"}, r"no exam with patient='9000001'"),
    ],
)
def test_sel__says_what_is_missing(ds, labels, message):
    with pytest.raises(NotFoundError, match=message) as caught:
        ds.sel(**labels)
    assert isinstance(caught.value, KeyError)
    assert "ds.exam.values lists them" in str(caught.value)


def test_sel__has_no_nearest_exam(ds):
    with pytest.raises(NotFoundError, match=r"are not supported \(expected exact keys"):
        ds.sel(timepoint=13, method="nearest")


def test_isel__keeps_the_index(ds):
    _sound(ds.isel(exam=slice(2, 5)), [2, 3, 4])
    _sound(ds.isel(exam=slice(None, None, -1)), list(range(N))[::-1])
    _sound(ds.isel(exam=[6, 1]), [6, 1])
    _sound(ds.isel(exam=np.arange(N) % 2 == 0), [0, 2, 4, 6])
    _sound(ds.isel(exam=xr.DataArray([3, 4], dims="exam")), [3, 4])
    _sound(ds.isel(exam=[]), [])
    one = ds.isel(exam=3)
    assert one.knee.item() == "left"
    assert "patient" not in one.xindexes
    pointwise = ds.isel(exam=xr.DataArray([[0, 1], [2, 3]], dims=("a", "b")))
    assert pointwise.patient.dims == ("a", "b")
    _sound(ds.head(exam=2), [0, 1])


def test_where_drop_sort_and_shuffle__keep_the_index(ds):
    _sound(ds.where(ds.x > 5, drop=True).astype(int), [6, 7])
    _sound(ds.sortby("exam"), [1, 0, 3, 2, 5, 4, 7, 6])
    _sound(ds.sortby(["knee", "patient"]), [1, 3, 5, 7, 0, 2, 4, 6])
    _sound(ds.query(exam="x > 5"), [6, 7])
    _sound(ds.dropna("exam"), list(range(N)))


def test_concat__of_parts_is_the_whole(ds):
    parts = [ds.isel(exam=[0, 1]), ds.isel(exam=[2]), ds.isel(exam=slice(3, None))]
    whole = xr.concat(parts, dim="exam")
    _sound(whole, list(range(N)))
    assert whole.identical(ds)


def test_merge_and_align__join_by_exam(ds):
    other = ds.rename(x="y").isel(exam=[5, 1, 2])
    _sound(xr.merge([ds, other], join="left"), list(range(N)))
    inner = xr.merge([ds, other], join="inner")
    assert inner.x.values.tolist() == inner.y.values.tolist()
    assert sorted(inner.x.values.tolist()) == [1, 2, 5]
    left, right = xr.align(ds.isel(exam=[0, 1]), ds.isel(exam=[1, 2]), join="outer")
    assert left.exam.values.tolist() == right.exam.values.tolist()
    assert np.isnan(left.x.values).sum() == np.isnan(right.x.values).sum() == 1
    with pytest.raises(ValueError, match="exact"):
        xr.align(ds, other, join="exact")
    twice = ds.x + ds.isel(exam=slice(3, None)).x
    assert twice.values.tolist() == [6, 8, 10, 12, 14]
    assert isinstance(twice.xindexes["patient"], ExamIndex)
    assert ds.reindex_like(other).x.values.tolist() == [5, 1, 2]


VISITS = {"timepoint": 24}, {"timepoint": 0}
SIDES = {"knee": "left"}, {"knee": "right"}
ALL_AND_FIRST: tuple[dict[str, int], dict[str, int]] = {}, {"timepoint": 0}


@pytest.mark.parametrize(("first", "second"), [VISITS, VISITS[::-1], SIDES, ALL_AND_FIRST], ids=str)
@pytest.mark.parametrize(
    "combine",
    [
        lambda a, b: a - b,
        lambda a, b: a.x > b.x,
        lambda a, b: np.add(a.x, b.x),
        lambda a, b: xr.align(a, b),
        lambda a, b: a.where(b.x > 1),
        lambda a, b: xr.corr(a.x, b.x),
        lambda a, b: xr.merge([a, b.rename(x="y")], join="inner"),
    ],
)
def test_arithmetic__of_different_exams_is_refused(ds, first, second, combine):
    a, b = (ds.sel(**key) if key else ds for key in (first, second))
    with pytest.raises(InputError, match=r"arrays of different exams: \d exams at") as caught:
        combine(a, b)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "combine",
    [
        lambda a, b: xr.align(a, b, join="outer"),
        lambda a, b: xr.align(a, b, join="left"),
        lambda a, b: xr.align(a, b, join="right"),
        lambda a, b: xr.merge([a, b.rename(x="y")], join="outer"),
        lambda a, b: xr.concat([a, b], "visit", join="outer"),
        lambda a, b: xr.Dataset({"after": a.x, "before": b.x}),
        lambda a, b: xr.broadcast(a, b),
        lambda a, b: a.fillna(b),
        lambda a, b: a.combine_first(b),
        lambda a, b: a.reindex_like(b),
        lambda a, b: a.update(b.rename(x="y")),
        lambda a, b: a.assign_coords(before=b.x),
    ],
)
def test_alignment__without_a_common_exam_is_refused(ds, combine):
    with pytest.raises(InputError, match=r"4 exams at \d+ months .*; 0 in common"):
        combine(ds.sel(timepoint=24), ds.sel(timepoint=0))


def test_arithmetic__of_different_exams_works_as_the_error_says(ds):
    visits = [ds.sel(timepoint=month).set_index(exam=["patient", "knee"]) for month in (24, 0)]
    assert (visits[0] - visits[1].isel(exam=[3, 1, 2, 0])).x.values.tolist() == [2, 2, 2, 2]
    sides = [ds.sel(knee=knee).set_index(exam=["patient", "timepoint"]) for knee in SIDE_NAMES]
    assert (sides[0] - sides[1]).x.values.tolist() == [1, 1, 1, 1]
    part = ds.sel(timepoint=0)
    assert (ds.sel(exam=part.exam.values) - part).x.values.tolist() == [0, 0, 0, 0]
    joined = xr.concat([ds.sel(timepoint=24), part], "exam")
    _sound(joined, [2, 3, 6, 7, 0, 1, 4, 5])


def test_arithmetic__of_the_same_exams_of_scalars_and_of_parts(ds):
    assert (ds.x - ds.x[::-1]).values.tolist() == [0] * N
    assert (ds.x - ds.x.mean("exam")).values.tolist() == [k - 3.5 for k in range(N)]
    baseline = ds.x.sel(patient=9000001, timepoint=0, knee="left")
    assert (ds.x - baseline).values.tolist() == [k - 1 for k in range(N)]
    assert (ds.x - ds.x.isel(exam=5)).values.tolist() == [k - 5 for k in range(N)]
    assert ds.x.where(ds.x > 5).count() == 2
    some = ds.sel(patient=9000002)
    assert (ds + some).x.values.tolist() == [8, 10, 12, 14]
    assert (ds + ds.isel(exam=[])).sizes == {"exam": 0}


def test_groupby__by_a_key(ds):
    assert ds.groupby("knee").mean().x.to_series().to_dict() == {"left": 4.0, "right": 3.0}
    assert ds.x.groupby("patient").sum().values.tolist() == [6, 22]
    demeaned = ds.x.groupby("patient").map(lambda part: part - part.mean())
    assert demeaned.values.tolist() == [-1.5, -0.5, 0.5, 1.5] * 2
    assert isinstance(demeaned.xindexes["patient"], ExamIndex)
    back = ds.groupby("timepoint").map(lambda part: part - part.x.min())
    assert back.sel(patient=9000002, timepoint=24, knee="left").x.item() == 5


def test_assign__arrays_with_and_without_coordinates(ds):
    ds["twice"] = ds.x * 2
    ds["thrice"] = xr.DataArray(np.arange(N) * 3, dims="exam")
    ds["bare"] = ("exam", np.arange(N))
    ds["half"] = ds.x.isel(exam=slice(0, 4))
    _sound(ds, list(range(N)))
    assert ds.half.isnull().sum() == 4
    _sound(ds.assign(z=ds.x**2), list(range(N)))
    _sound(ds.assign_coords(age=("exam", np.arange(N))), list(range(N)))
    _sound(ds.drop_vars("twice").rename(half="h"), list(range(N)))
    _sound(ds.assign_attrs(a=1).copy(), list(range(N)))


def test_rename__of_keys(ds):
    renamed = ds.rename(patient="subject", timepoint="month")
    one = renamed.sel(subject=9000002, month=24, knee="left")
    assert one.x.item() == 7
    some = renamed.isel(exam=[6, 1])
    assert set(some.coords) == {"exam", "subject", "month", "knee"}
    assert some.sel(knee="left").subject.values.tolist() == [9000001]
    assert xr.concat([renamed, some], "exam").sizes == {"exam": N + 2}
    assert renamed.rename(subject="patient", month="timepoint").identical(ds)


def test_set_xindex__in_any_order(ds):
    plain = ds.drop_indexes(KEYS)
    again = plain.set_xindex(["knee", "timepoint", "patient"], ExamIndex)
    _sound(again, list(range(N)))


def test_rename__of_the_axis(ds):
    renamed = ds.rename_dims(exam="knees")
    assert renamed.sel(patient=9000002, timepoint=0, knee="right").x.item() == 4
    renamed = ds.rename(exam="knees")
    assert renamed.sel(patient=[9000002]).sizes == {"knees": 4}


def test_stack_and_pandas(ds):
    frame = ds.drop_indexes(KEYS).to_dataframe()
    assert frame.index.name == "exam"
    assert frame["knee"].tolist() == ["right", "left"] * 4
    assert ds.stack(sample=["exam"]).sizes == {"sample": N}
    long = ds.expand_dims(echo=[10, 20])
    assert long.sel(knee="left").sizes == {"exam": 4, "echo": 2}
    _sound(long.isel(echo=0, drop=True), list(range(N)))


def test_index__survives_copying_and_pickling(ds, loaded):
    for again in (pickle.loads(pickle.dumps(ds)), copy.deepcopy(ds), copy.copy(ds)):
        _sound(again, list(range(N)))
        assert again.identical(ds)
    again = pickle.loads(pickle.dumps(loaded))
    assert again.sel(patient=9000001, timepoint=0, knee="left").image.mean().compute() > 0


def test_index__compares(ds):
    assert ds.xindexes["patient"].equals(ds.copy().xindexes["patient"])
    assert not ds.xindexes["patient"].equals(ds.isel(exam=slice(0, 4)).xindexes["patient"])
    assert not ds.xindexes["patient"].equals(ds.isel(exam=[1, 0, *range(2, N)]).xindexes["patient"])
    assert repr(ds).count("ExamIndex(8 exams)") == 1


def test_exam_key__is_readable():
    assert exam_key(9000798, 24, "right") == "9000798-024m-right"
    assert exam_key(7, 0, "left") == "0000007-000m-left"
