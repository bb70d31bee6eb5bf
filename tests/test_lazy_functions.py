"""Every public function that returns lazy arrays: one exam a block, and nothing is computed."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr

import qmri_lake as ql
from qmri_lake.schema.exam_index import KEYS
from qmri_lake.schema.variable import VOLUME_DIMS
from tests.fixtures import add_clinical, add_dess, add_maps, array_lake

EXAMS = 5
DESS_BYTES = 176 * 384 * 384 * 4


def threshold(image):
    return np.stack([image < 1, image >= 1, image > np.inf, image > np.inf])


NETWORK = ql.segmentation.OwnNetwork(threshold, labels=["background", "femur", "tibia", "patella"])


def as_series(msme, name, axis="echo"):
    """Another series with the images of the multi-echo series."""
    times = {"echo_time": f"{axis}_time"} if axis != "echo" else {}
    other = msme.rename({"dess_to_msme": f"dess_to_{name}", **times})
    return other.rename_dims(echo=axis) if axis != "echo" else other


def as_qdess(msme):
    both = as_series(msme.isel(echo=[0, 1]), "qdess")
    return both.assign(repetition_time=60.0, flip_angle=20.0)


LAZY = {
    "fit_qdess_t2": lambda dess, msme, sphere: ql.fit_qdess_t2(as_qdess(msme), within="all"),
    "fit_t1rho": lambda dess, msme, sphere: ql.fit_t1rho(
        as_series(msme, "t1rho", "spin_lock"), within="all"
    ),
    "fit_t2star": lambda dess, msme, sphere: ql.fit_t2star(msme, within="all"),
    "map_means": lambda dess, msme, sphere: ql.map_means(dess, as_qdess(msme), "qdess_t2"),
    "project_map": lambda dess, msme, sphere: ql.project_map(dess, as_qdess(msme), "qdess_t2"),
    "fit_t2": lambda dess, msme, sphere: ql.fit_t2(msme, within="all"),
    "fusion.merge": lambda dess, msme, sphere: ql.fusion.merge(sphere, "all"),
    "inside": lambda dess, msme, sphere: ql.inside(dess),
    "region_means": lambda dess, msme, sphere: ql.region_means(dess, msme),
    "register": lambda dess, msme, sphere: ql.register(dess, msme),
    "segment": lambda dess, msme, sphere: ql.segment(dess, NETWORK),
    "spherical_maps": lambda dess, msme, sphere: ql.spherical_maps(dess, msme),
    "tissue": lambda dess, msme, sphere: ql.tissue(msme.cartilage, "femoral"),
}

# Classes, modules, and functions that return arrays in memory, tables or lakes. `predict`, which
# needs a trained classifier, is in tests/steps/test_predict.py.
OTHERS = set(
    "Cohort Lake Privacy Skip Variable __version__ articular_template catalog cluster create_lake "
    "dess_from_qdess errors diagnosis export export_for_editing falls_to fusion import_edits "
    "ingest ingest_masks ingest_table oai open_catalog open_lake phantom predict reaches read_mask "
    "read_dicom region_table relaxometry report segmentation split statistics step surface "
    "tissues".split()
)


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    path = tmp_path_factory.mktemp("lazy") / "small.lake"
    return add_maps(add_dess(add_clinical(array_lake(path, EXAMS), kl=np.arange(EXAMS))))


@pytest.fixture
def nothing_computed():
    def refuse(*_args, **_kwargs):
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=refuse):
        yield


def large(ds: xr.Dataset | xr.DataArray) -> dict[str, xr.DataArray]:
    """Volumes and maps by name."""
    arrays = {"array": ds} if isinstance(ds, xr.DataArray) else dict(ds.data_vars)
    return {name: a for name, a in arrays.items() if {"row", "azimuth"} & {*a.dims}}


def test_every_public_name_is_known_here():
    assert {name for name in LAZY if "." not in name} == set(ql.__all__) - OTHERS


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_computed")
@pytest.mark.parametrize("name", LAZY)
def test_lazy_function__has_one_exam_a_block(lake, name):
    dess, msme = lake.load("dess"), ql.fit_t2(lake.load("msme"), within="all")
    dess = dess.assign(bone=dess.cartilage)
    sphere = lake.load("sphere")
    sphere["map"] = sphere["map"].copy(data=sphere["map"].variable.chunk(exam=1).data)
    made = LAZY[name](dess, msme, sphere)
    arrays = [made] if isinstance(made, xr.DataArray) else list(made.data_vars.values())
    lazy = [array for array in arrays if array.chunks is not None]
    assert lazy
    for array in lazy:
        assert array.variable.chunksizes["exam"] == (1,) * EXAMS, array.name
        assert all(array[key].variable.chunks is None for key in KEYS if key in array.coords)
    assert not [a.name for a in large(made).values() if a.chunks is None]


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_computed")
@pytest.mark.parametrize("group", ["clinical", "dess", "msme", "sphere", "region", "prediction"])
def test_load__volumes_are_lazy_and_small_variables_in_memory(lake, group):
    for ds in (lake.load(group), lake.tree()[group].to_dataset()):
        found = large(ds)
        assert bool(found) == (group in ("dess", "msme", "sphere"))
        for name, array in ds.data_vars.items():
            assert (array.chunks is not None) == (name in found), name
            if "row" in array.dims:
                assert array.chunksizes["exam"] == (1,) * EXAMS, name


def test_load__a_block_of_maps_is_about_as_large_as_a_volume(lake):
    from qmri_lake.lake.reading import _MAP_BLOCK

    exam = lake.load("sphere")["map"].isel(exam=0)
    assert _MAP_BLOCK * exam.nbytes <= 1.2 * DESS_BYTES


@pytest.mark.usefixtures("nothing_computed")
def test_inside__of_forty_exams_holds_one_at_a_time():
    sizes = dict(zip(VOLUME_DIMS, (176, 384, 384), strict=True))
    extent = xr.DataArray(np.tile([*sizes.values()], (40, 1)), dims=("exam", "axis"))
    ds = xr.Dataset({"extent": extent}, coords={d: np.arange(n) for d, n in sizes.items()})
    inside = ql.inside(ds)
    assert inside.chunks == ((1,) * 40, (176,), (384,), (384,))
    assert ql.inside(ds.chunk()).chunks == inside.chunks, "also of lazy extents in one block"
