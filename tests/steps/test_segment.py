"""Segmentation of a lake: the lazy session function, the steps, and their agreement."""

from __future__ import annotations

import pickle

import dask
import h5py
import numpy as np
import pytest
import xarray as xr

import qmri_lake as ql
from qmri_lake.core.devices import gpu_count
from qmri_lake.core.model_folder import CARD
from qmri_lake.errors import InputError, NotFoundError, RunError
from qmri_lake.execution.step import find_step
from qmri_lake.segmentation.models import network as network_module
from qmri_lake.segmentation.models.ensemble import segment_exam
from qmri_lake.segmentation.models.members import open_members
from qmri_lake.segmentation.models.memory import projected_bytes
from qmri_lake.segmentation.models.network import WEIGHTS
from qmri_lake.segmentation.models.network_view import NetworkView
from qmri_lake.segmentation.models.weights import shapes
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.runs import read_runs
from qmri_lake.tissues import BONE
from tests.segmentation.networks import tiny, write_network
from tests.segmentation.scored_lake import SHAPE, lake_of

MEDIAL = NetworkView(medial_first=True, crop=(12, 40, 36))
BONE_MAPS = ["bone", "bone_uncertainty", "bone_removed"]
MAPS = [*BONE_MAPS, "cartilage", "cartilage_removed"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two members for bones, one for cartilage."""
    root = tmp_path_factory.mktemp("models")
    write_network(root / "bones" / "a", tiny(), 1)
    write_network(root / "bones" / "b", tiny(frame=MEDIAL), 2)
    write_network(root / "cartilage" / "c", tiny("cartilage", rank=2), 3)
    return root


@pytest.fixture(scope="module")
def segmented(tmp_path_factory, models):
    """Six DESS exams, the odd ones a slice smaller, with masks of a run; read only."""
    lake = lake_of(tmp_path_factory.mktemp("segment") / "exams.lake", 6, kinds=())
    bones = lake.run("segment_bones", models=models / "bones")
    cartilage = lake.run("segment_cartilage", models=[models / "cartilage"])
    return lake, bones, cartilage


@pytest.fixture(scope="module")
def dess(segmented):
    return segmented[0].load("dess")[["image", "affine", "extent"]]


@pytest.fixture
def lake(tmp_path):
    return lake_of(tmp_path / "exams.lake", 3, kinds=())


def refuse(*_args, **_options):
    raise AssertionError("something was computed")


def both(models):
    return [models / "bones", models / "cartilage"]


def same(a: xr.Dataset, b: xr.Dataset, names=MAPS) -> bool:
    return all(
        np.array_equal(a[name], b[name], equal_nan=a[name].dtype.kind == "f") for name in names
    )


# -- the session function ------------------------------------------------------------------------


def test_segment__is_lazy_and_does_not_modify_its_input(dess, models):
    before = dess.copy()
    with dask.config.set(scheduler=refuse):
        found = ql.segment(dess, both(models))
        assert all(found[name].chunks is not None for name in MAPS)
    assert list(dess) == list(before)
    assert set(found) == {*dess, *MAPS}
    xr.testing.assert_identical(found[list(dess)].compute(), dess.compute())
    with pytest.raises(AssertionError, match="was computed"), dask.config.set(scheduler=refuse):
        found.bone.compute()


def test_segment__attributes_and_dims(dess, models):
    found = ql.segment(dess, both(models))
    for step, names in (("segment_bones", BONE_MAPS), ("segment_cartilage", MAPS[3:])):
        for variable in (v for v in find_step(step).writes if v.name in names):
            array = found[variable.name]
            assert array.dims == ("exam", *variable.dims)
            assert array.dtype == variable.dtype
            assert array.attrs == variable.attributes()
    assert found.bone.flag_meanings.split() == list(BONE)
    assert found.bone_uncertainty.attrs["step"] == "segment_bones"


def test_segment__equals_the_run(segmented, dess, models):
    lake, bones, cartilage = segmented
    stored = lake.load("dess")
    found = ql.segment(dess, both(models)).compute()
    assert same(found, stored.compute())
    assert bones.counts["flagged"] + bones.counts["done"] == 6
    assert cartilage.counts["flagged"] + cartilage.counts["done"] == 6
    assert len(np.unique(found.bone.isel(exam=0))) > 1
    assert (stored.cartilage_uncertainty.isnull()).all()  # a single member
    inside = ql.inside(stored).values
    assert (~inside).sum() == 3 * SHAPE[1] * SHAPE[2]
    assert (found.bone.values[~inside] == 255).all()
    assert not (found.bone.values[inside] == 255).any()
    assert np.isnan(found.bone_uncertainty.values[~inside]).all()
    assert np.isfinite(found.bone_uncertainty.values[inside]).all()
    assert set(np.unique(found.bone_uncertainty.values[inside])) <= {0.0, 0.5, 1.0}
    assert lake.validate(deep=True) == []


def test_segment__equals_the_kernel(dess, models):
    found = ql.segment(dess, models / "bones", remove_small=False)
    assert "bone_removed" not in found
    assert "cartilage" not in found
    members = open_members(models / "bones")
    for row in (0, 1):
        exam = dess.isel(exam=row)
        image = exam.image.values[: int(exam.extent[0])]
        labels, uncertainty = segment_exam(image, exam.affine.values, exam.knee.item(), members)
        assert np.array_equal(found.bone[row, : len(image)], labels)
        assert np.array_equal(found.bone_uncertainty[row, : len(image)], uncertainty)


def test_segment__small_pieces_are_counted(dess, models):
    kept = ql.segment(dess, models / "bones", remove_small=False).isel(exam=0).compute()
    clean = ql.segment(dess, models / "bones").isel(exam=0).compute()
    changed = kept.bone != clean.bone
    assert int(clean.bone_removed) == int(changed.sum()) > 0
    assert (clean.bone.values[changed.values] == 0).all()


@pytest.mark.parametrize(
    "chunks", [{"exam": 3}, {"exam": -1}, {"row": 7}, {"exam": 2, "slice": 5, "column": 3}], ids=str
)
def test_segment__does_not_depend_on_chunks(dess, models, chunks):
    part = dess.isel(exam=slice(0, 3))
    names = ["bone", "bone_uncertainty", "bone_removed"]
    there = ql.segment(part.chunk(chunks), models / "bones").compute()
    assert same(there, ql.segment(part.compute(), models / "bones").compute(), names)


def test_segment__one_exam_without_the_axis(dess, models):
    whole = ql.segment(dess, models / "bones").isel(exam=2).compute()
    alone = ql.segment(dess.isel(exam=2), models / "bones")
    assert alone.bone.dims == ("slice", "row", "column")
    assert same(alone.compute(), whole, BONE_MAPS)


def test_segment__a_function_of_your_own(dess):
    def bright(image):
        tibia = image > 2.5
        return np.stack([~tibia, np.zeros_like(tibia), tibia, np.zeros_like(tibia)])

    network = ql.segmentation.OwnNetwork(bright, labels=list(BONE))
    found = ql.segment(dess, network, remove_small=False).compute()
    inside = ql.inside(dess).values
    assert np.array_equal(found.bone.values[inside] == 2, (dess.image > 2.5).values[inside])
    assert "bone_uncertainty" not in found


def test_segment__removes_variables_of_other_networks(dess, models):
    several = ql.segment(dess, models / "bones")
    assert {"bone_uncertainty", "bone_removed"} <= set(several.data_vars)
    one = ql.segmentation.find_networks(models / "bones")[0]
    again = ql.segment(several, one, remove_small=False)
    assert "bone" in again
    assert not {"bone_uncertainty", "bone_removed"} & set(again.data_vars)


def test_segment__refuses_a_multi_echo_series(dess, models):
    msme = dess.assign(image=dess.image.expand_dims(echo=7, axis=1))
    with pytest.raises(InputError, match=r"an image along exam, echo, slice.*Load group dess"):
        ql.segment(msme, models / "bones")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda ds: ds.drop_vars("affine"), NotFoundError, "no variable 'affine'"),
        (lambda ds: ds.isel(exam=0).drop_vars("knee"), NotFoundError, "ds.assign_coords"),
        (
            lambda ds: ds.assign_coords(slice=np.arange(SHAPE[0])).isel(slice=slice(2, None)),
            InputError,
            r"a part of the DESS along slice \(expected whole volumes",
        ),
    ],
    ids=["affine", "knee", "part"],
)
def test_segment__errors_for_missing_inputs(dess, models, change, kind, message):
    with pytest.raises(kind, match=message):
        ql.segment(change(dess), models / "bones")


# -- steps ---------------------------------------------------------------------------------------


def test_steps__require_a_gpu_and_record_no_paths(segmented, models):
    assert find_step("segment_bones").gpu
    assert find_step("segment_cartilage").gpu
    runs = [run for run in read_runs(segmented[0].root).values() if "segment" in run["step"]]
    assert [run["step"] for run in runs] == ["segment_bones", "segment_cartilage"]
    identities = [member.identity for member in open_members(models / "bones")]
    assert runs[0]["parameters"] == {"models": identities, "remove_small": True}
    assert str(models) not in str(runs)


def test_run__stale_after_retraining_not_after_moving_networks(lake, models, tmp_path):
    moved = tmp_path / "moved"
    for name in ("a", "b"):
        (moved / name).mkdir(parents=True)
        for file in (CARD, WEIGHTS):
            (moved / name / file).write_bytes((models / "bones" / name / file).read_bytes())
    lake.run("segment_bones", models=models / "bones")
    assert lake.run("segment_bones", models=[moved / "b", moved / "a"]).up_to_date == 3
    write_network(tmp_path / "new" / "a", tiny(), 7)
    (moved / "a" / WEIGHTS).write_bytes((tmp_path / "new" / "a" / WEIGHTS).read_bytes())
    plan = lake.plan("segment_bones", models=moved)
    assert (len(plan.rows), plan.stale) == (3, 3)
    assert lake.plan("segment_bones", models=models / "bones", dtype="bfloat16").stale == 3
    assert lake.plan("segment_bones", models=models / "bones", remove_small=False).stale == 3


@pytest.mark.parametrize(
    ("parameters", "kind", "message"),
    [
        ({}, RunError, "no value for parameter 'models'"),
        ({"models": "nowhere"}, NotFoundError, "no card.json"),
        ({"models": "bones", "dtype": "half"}, InputError, "dtype='half'"),
        ({"models": "bones", "remove_small": "no"}, RunError, "remove_small='no'"),
        (
            {"models": "cartilage"},
            InputError,
            r"a network for cartilage \(expected a network for bones",
        ),
    ],
    ids=["none", "nowhere", "dtype", "remove_small", "task"],
)
def test_run__wrong_parameters_are_refused_when_planned(
    lake, models, parameters, kind, message, monkeypatch
):
    monkeypatch.chdir(models)
    with pytest.raises(kind, match=message):
        lake.plan("segment_bones", **parameters)


def test_run__more_memory_than_there_is(lake, models, monkeypatch):
    folder, wide = models.parent / "wide", tiny(channels=500_000)
    write_network(folder, tiny())
    text = (folder / CARD).read_text()
    (folder / CARD).write_text(
        text.replace('"channels": 2', f'"channels": {wide.architecture.channels}')
    )
    with h5py.File(folder / WEIGHTS, "w") as file:  # arrays that are declared, and never written
        for n, shape in enumerate(shapes(wide.architecture)):
            file.create_dataset(f"{n}", shape, np.float32)
    with pytest.raises(RunError, match=r"[GM]iB projected for one exam"):
        lake.run("segment_bones", models=folder)


def test_run__only_bad_exams_fail(tmp_path, models):
    lake = lake_of(tmp_path / "exams.lake", 5, kinds=())

    def spoil(session):
        root = open_root(session.store, "r+")
        root["dess/image"][0, 3, 2, 1] = np.nan
        root["dess/image"][1] = np.float32(0)
        extent = root["dess/extent"][:]
        extent[2] = (1, SHAPE[1], SHAPE[2])
        root["dess/extent"][:] = extent

    commit(lake.repo, spoil, "Spoil three exams")
    result = lake.refresh().run("segment_bones", models=models / "bones")
    assert (result.failed, sum(result.counts.values())) == (3, 5)
    messages = lake.failures("segment_bones")["message"].tolist()
    assert "1 voxels that are not finite" in messages[0]
    assert "0 as percentile 85 of the image" in messages[1]
    assert "a volume of 1 x 40 x 36 voxels (expected at least 2 along each axis" in messages[2]
    assert (lake.load("dess").bone.isel(exam=[3]).values[:, :13] != 255).all()


def test_run__weights_changed_after_opening(lake, models, tmp_path):
    folder = write_network(tmp_path / "a", tiny(), 1)
    members = open_members(folder)
    (folder / WEIGHTS).write_bytes((models / "bones" / "b" / WEIGHTS).read_bytes())
    before = lake.snapshot
    with pytest.raises(InputError, match="as when the network was opened"):
        lake.run("segment_bones", models=members)
    assert lake.refresh().snapshot == before


def test_run__implausible_masks_are_flagged_and_kept(segmented):
    lake, bones, _ = segmented
    assert bones.counts["flagged"] == 6  # random weights draw no knee
    status = lake.load("dess").bone
    assert status.sizes["exam"] == 6


# -- check_masks ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_check_masks__flags_a_knee_of_the_other_side(tmp_path):
    from qmri_lake.phantom import write_archive

    archive = write_archive(tmp_path / "delivery", exams=2, shape=(24, 64, 64))
    ql.ingest(str(archive.path), str(tmp_path / "oai.lake"), masks=str(archive.truth))
    lake = ql.open_lake(str(tmp_path / "oai.lake"))
    lake.run("check_masks")
    ds = lake.load("dess")
    assert ds.anatomical_knee.values.tolist() == ds.knee.values.tolist()
    assert (ds.anatomical_margin > 0.25).all()

    def mirror(session):
        root = open_root(session.store, "r+")
        for name in ("bone", "cartilage"):
            root[f"dess/{name}"][0] = root[f"dess/{name}"][0][::-1]

    commit(lake.repo, mirror, "Mirror the masks of one exam")
    found = find_step("check_masks")(lake.refresh().load("dess").isel(exam=0).compute())
    assert found.anatomical_knee.item() != ds.knee.values[0]
    assert f"stored as a {ds.knee.values[0]} knee" in found.attrs["flag"]


def test_check_masks__waits_for_both(lake, models):
    lake.run("segment_bones", models=models / "bones")
    assert lake.plan("check_masks").waiting == {"segment_cartilage": 3}


# -- memory --------------------------------------------------------------------------------------


def test_projected_bytes__increases_with_members_and_size(models):
    one = open_members(models / "bones" / "a")
    shape = (160, 384, 384)
    small, large = projected_bytes(one, (80, 384, 384)), projected_bytes(one, shape)
    assert 1.8 < (large - 2**30) / (small - 2**30) < 2.2
    narrow = projected_bytes(open_members(models / "bones" / "a", dtype="bfloat16"), shape)
    assert narrow < large
    assert projected_bytes(open_members(models / "bones"), shape) > large


def test_plan__contains_the_projection(lake, models):
    plan = lake.plan("segment_bones", models=models / "bones")
    assert plan.projected_bytes == projected_bytes(open_members(models / "bones"), SHAPE)


# -- clusters ------------------------------------------------------------------------------------


def _loaded() -> int:
    return len(network_module._MODELS)


def _on(cluster, dess, models):
    """Segment on two workers; each has read each network once, and nothing large was sent."""
    from distributed import Client

    with cluster, Client(cluster) as client:
        found = ql.segment(dess, both(models))
        sent = len(pickle.dumps(found.drop_vars(list(dess)).__dask_graph__()))
        there = found[MAPS].compute()
        return there, sent, client.run(_loaded)


@pytest.mark.accept
def test_segment__on_a_cluster(segmented, dess, models):
    from distributed import LocalCluster

    cluster = LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0
    )
    there, sent, loaded = _on(cluster, dess, models)
    assert set(loaded.values()) == {3}
    assert sent < 100_000
    assert dess.image.nbytes > 400_000
    local = segmented[0].load("dess").compute()
    assert (there.bone.values == local.bone.values).mean() > 0.9999
    assert (there.cartilage.values == local.cartilage.values).mean() > 0.9999


@pytest.mark.gpu
def test_segment__on_a_gpu_cluster(segmented, dess, models):
    if not gpu_count():
        pytest.skip("no GPU")
    from dask_cuda import LocalCUDACluster

    there, sent, loaded = _on(LocalCUDACluster(dashboard_address=None), dess, models)
    assert set(loaded.values()) == {3}
    assert sent < 100_000
    local = segmented[0].load("dess").compute()
    assert (there.bone.values == local.bone.values).mean() > 0.99
