"""The driver of session functions: one kernel for exams, lazy, chunked, and of any extent."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr

from qmri_lake.execution.session import exam_box, exam_coords, map_exams
from qmri_lake.schema.variable import VOLUME_DIMS, Variable

COPY = Variable("dess", "copy", VOLUME_DIMS, "uint8", "Copy inside the extent")
TOTAL = Variable("dess", "total", (), "float64", "Sum inside the extent")
WEIGHTED = Variable("dess", "weighted", ("axis",), "float32", "Three multiples of the sum")


def kernel(image, factor, extent=None):
    inside = image[exam_box(extent)]
    return inside, inside.sum() * factor, np.arange(3) * inside.sum()


@pytest.fixture
def ds() -> xr.Dataset:
    image = np.random.default_rng(0).integers(0, 200, (4, 3, 5, 6)).astype(np.uint8)
    extent = np.array([[3, 5, 6], [2, 4, 5], [-1, -1, -1], [1, 1, 1]], np.int32)
    return xr.Dataset(
        {"image": (("exam", *VOLUME_DIMS), image), "extent": (("exam", "axis"), extent)},
        coords={"exam": list("abcd"), "factor": ("exam", np.arange(4.0)), "slice": [5, 6, 7]},
    )


def run(ds: xr.Dataset, function=kernel, variables=(COPY, TOTAL, WEIGHTED), **options):
    inputs = {
        "image": (VOLUME_DIMS, ds["image"]),
        "factor": ((), ds["factor"]),
        "extent": (("axis",), ds["extent"]),
    }
    return map_exams(function, inputs, variables, **options)


def refuse(**_arrays):
    raise AssertionError("something was computed")


def test_map_exams__computes_each_exam_inside_its_extent(ds):
    made = {name: value.compute() for name, value in run(ds).items()}
    image = ds["image"].values
    for row, (n, m, k) in enumerate([(3, 5, 6), (2, 4, 5), (3, 5, 6), (1, 1, 1)]):
        expected = np.full((3, 5, 6), 255, np.uint8)
        expected[:n, :m, :k] = image[row, :n, :m, :k]
        assert np.array_equal(made["copy"][row], expected)
        assert made["total"][row].item() == image[row, :n, :m, :k].sum() * row
    assert made["weighted"].dims == ("exam", "axis")
    assert made["weighted"].dtype == np.float32
    assert made["copy"].attrs == COPY.attributes()


@pytest.mark.parametrize("chunks", [{"exam": 3}, {"exam": -1}, {"slice": 1, "row": 2}], ids=str)
def test_map_exams__does_not_depend_on_chunks(ds, chunks):
    expected, made = run(ds), run(ds.chunk(chunks))
    for name, values in expected.items():
        assert np.array_equal(made[name].compute(), values.compute())


def test_map_exams__is_lazy_and_one_exam_is_one_block(ds):
    made = run(ds, refuse)
    assert all(dask.is_dask_collection(values) for values in made.values())
    assert made["copy"].chunks[0] == (1, 1, 1, 1)
    with pytest.raises(AssertionError, match="something was computed"):
        made["copy"].compute()


def test_map_exams__one_exam_without_the_axis_and_none_at_all(ds):
    one = run(ds.isel(exam=1))
    for name, values in run(ds).items():
        assert one[name].dims == values.dims[1:]
        assert np.array_equal(one[name].compute(), values[1].compute())
    none = run(ds.isel(exam=slice(0, 0)))
    assert none["copy"].compute().shape == (0, 3, 5, 6)
    assert none["weighted"].compute().shape == (0, 3)


def test_map_exams__an_input_without_exams_is_the_same_for_all(ds):
    same = run(ds.assign_coords(factor=2.0))["total"].compute()
    assert np.array_equal(same[1:], (run(ds)["total"].compute() / np.arange(4))[1:] * 2)


def test_map_exams__dims_of_an_input_come_in_the_declared_order(ds):
    turned = run(ds.transpose("column", "exam", "row", "slice", "axis"))
    assert np.array_equal(turned["copy"].compute(), run(ds)["copy"].compute())


def test_map_exams__batches_are_blocks_of_exams(ds):
    sizes = []

    def sums(image, factor, extent):
        sizes.append((len(image), factor.shape, extent.shape))
        return [image.sum(axis=(1, 2, 3)) * factor]

    with dask.config.set(scheduler="synchronous"):
        made = run(ds, sums, [TOTAL], batch=3)["total"].compute()
        one = run(ds.isel(exam=3), sums, [TOTAL], batch=3)["total"].compute()
    assert sorted(sizes) == [(1, (1,), (1, 3)), (1, (1,), (1, 3)), (3, (3,), (3, 3))]
    assert made.values.tolist() == [ds["image"].values[k].sum() * k for k in range(4)]
    assert one.item() == made[3].item()


def test_exam_coords__keeps_exams_and_their_keys_only(ds):
    assert set(exam_coords(ds).variables) == {"exam", "factor"}
    assert exam_coords(ds).sel(exam="c")["factor"].item() == 2
