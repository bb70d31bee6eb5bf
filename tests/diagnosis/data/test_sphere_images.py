"""Batches of images: what is in them, whatever reads them, and what can't be one."""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from torch.utils.data import DataLoader

import qmri_lake as ql
from qmri_lake.diagnosis.data.map_reader import with_maps
from qmri_lake.diagnosis.data.sphere_images import SphereImages
from qmri_lake.diagnosis.models.batches import (
    Batch,
    SeededOrder,
    class_weights,
    make_loader,
    on_device,
)
from qmri_lake.diagnosis.models.images import area_average
from qmri_lake.errors import InputError, NotFoundError, RunError
from qmri_lake.fusion import STRATEGIES
from tests.diagnosis.map_lake import ABSENT, NO_T2, labels_of, make_map_lake
from tests.test_laziness import CountingStore

torch.set_num_threads(1)
# Four workers are what is asked for here, however few cores there are.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> ql.Lake:
    return make_map_lake(tmp_path_factory.mktemp("loader") / "maps.lake")


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> ql.Lake:
    return make_map_lake(tmp_path_factory.mktemp("spoiled") / "maps.lake", 7, spoiled=True)


def images_of(lake: ql.Lake, query: str | None = None, **options: object) -> SphereImages:
    chosen = {"strategy": "all", "bone": "femur", **options}
    return SphereImages(lake.cohort(query), labels_of(lake), **chosen)


def epoch(loader: DataLoader[Batch]) -> tuple[list[list[int]], torch.Tensor, torch.Tensor]:
    """Positions by batch; images and labels in the dataset's order."""
    batches = list(loader)
    places = [batch.position.tolist() for batch in batches]
    order = np.argsort(np.concatenate(places))
    images, labels = (torch.cat([batch[k] for batch in batches])[order] for k in (0, 1))
    return places, images, labels


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("bone", ["patella", "femur"])
def test_images__are_those_of_fusion(lake: ql.Lake, strategy: str, bone: str) -> None:
    maps = lake.load("sphere").sel(bone=bone).isel(exam=[4, 0, 11])
    expected = ql.fusion.merge(maps, strategy).values
    batch = images_of(lake, strategy=strategy, bone=bone).__getitems__([4, 0, 11])
    assert batch.image.dtype == torch.float32
    np.testing.assert_array_equal(batch.image.numpy(), expected)
    assert batch.label.tolist() == [0, 1, 0]
    assert batch.position.tolist() == [4, 0, 11]


def test_images__of_a_cohort_are_its_exams(lake: ql.Lake) -> None:
    left, every = images_of(lake, "knee == 'left'"), images_of(lake)
    assert left.exams == tuple(lake.cohort("knee == 'left'").exams["exam"])
    assert torch.equal(left[2].image, every[5].image)
    assert torch.equal(left[-1].image, every[11].image)
    with pytest.raises(IndexError):
        left[len(left)]


def test_images__downsized_are_means_over_areas_with_0_for_no_value(lake: ql.Lake) -> None:
    whole = images_of(lake)[3].image.numpy().astype(np.float64)
    # 224 / 64 = 7 / 2: with each pixel twice, an area is 7 x 7 of them.
    expected = np.kron(whole, np.ones((1, 2, 2))).reshape(3, 64, 7, 64, 7).mean(axis=(2, 4))
    small = images_of(lake, size=64)[3].image.numpy()
    assert small.dtype == np.float32
    np.testing.assert_allclose(small, expected, atol=1e-6)
    assert 0 < expected[0, 0, 43] < 0.75 * expected[0, 0, 42]  # across the rim


@pytest.mark.parametrize("size", [1, 3, 64, 100, 223, 224])
def test_area_average__keeps_the_mean(size: int) -> None:
    image = np.random.default_rng(0).random((2, 224, 224)).astype(np.float32)
    averaged = area_average(image, size)
    assert averaged.shape == (2, size, size)
    np.testing.assert_allclose(averaged.mean((1, 2)), image.mean((1, 2)), rtol=1e-5)


def test_images__without_labels_are_to_predict(lake: ql.Lake) -> None:
    images = SphereImages(lake.cohort(), strategy="t2", bone="tibia")
    assert images[0].label is None
    batch = next(iter(make_loader(images, batch=5, shuffle=False)))
    assert batch.label is None
    assert batch.position.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(RunError, match="images without labels"):
        class_weights(images)


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_loader__four_workers_give_what_none_gives(lake, tmp_path, start_method: str) -> None:
    images = images_of(lake, size=64, cache=tmp_path if start_method == "spawn" else None)
    images[0]  # the lake, or the cache, is open here
    alone = make_loader(images, batch=3, seed=5)
    four = make_loader(images, batch=3, seed=5, workers=4, start_method=start_method)
    seen = []
    for _ in range(2):
        (places, image, label), (same, again, of_workers) = epoch(alone), epoch(four)
        assert places == same
        assert sorted(chain(*places)) == list(range(len(images)))  # each one once
        assert torch.equal(image, again)
        assert torch.equal(label, of_workers)
        seen.append(places)
    assert seen[0] != seen[1]


def test_loader__same_image_in_whatever_batch(lake: ql.Lake) -> None:
    images = images_of(lake, size=64)
    alone = torch.stack([images[i].image for i in range(len(images))])
    for batch in (2, 5, 13):
        _, found, _ = epoch(make_loader(images, batch=batch, seed=batch))
        assert torch.equal(found, alone)


def test_loader__a_batch_is_one_read_of_its_own_chunks(lake: ql.Lake) -> None:
    images = images_of(lake)
    store = CountingStore(lake.store)
    images._reader._root = zarr.open_group(store, mode="r")
    images.__getitems__([7, 2, 9])
    chunks = store.take("sphere/map")
    assert len(store.reads) == 0
    assert sorted(key.partition("/c/")[2] for key in chunks) == [
        f"{row}/2/0/0/0" for row in (2, 7, 9)
    ]


def test_loader__orders_are_of_the_seed_and_the_epoch(lake: ql.Lake) -> None:
    torch.manual_seed(0)
    first = make_loader(images_of(lake), batch=4, seed=1)
    orders = [list(first.sampler) for _ in range(3)]
    torch.manual_seed(1)
    again = make_loader(images_of(lake), batch=4, seed=1)
    again.sampler.epoch = 2  # as a training that goes on does
    assert list(again.sampler) == orders[2]
    assert list(SeededOrder(13, 2)) != orders[0]
    assert list(SeededOrder(13, 2, shuffle=False)) == list(range(13))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_loader__a_fork_is_refused_and_detected(lake: ql.Lake) -> None:
    images = images_of(lake)
    with pytest.raises(RunError, match=r"start method 'fork' \(expected forkserver or spawn"):
        make_loader(images, batch=2, workers=1, start_method="fork")
    images[0]
    child = os.fork()
    if child == 0:  # leaves by _exit, whatever happens: it inherited pytest too
        status = 1
        try:
            images[0]
        except RunError as error:
            status = 0 if "the worker was forked" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_class_weights__give_both_classes_the_same_total(lake: ql.Lake) -> None:
    images = images_of(lake)
    weights = class_weights(images)
    assert weights.dtype == torch.float32
    assert np.bincount(images.label).tolist() == [8, 5]
    np.testing.assert_allclose(weights.numpy() * [8, 5], 6.5, rtol=1e-6)


def test_on_device__yields_the_same_batches(lake: ql.Lake) -> None:
    loader = make_loader(images_of(lake, size=64), batch=4, shuffle=False)
    for here, there in zip(loader, on_device(loader, "cpu"), strict=True):
        assert torch.equal(here.image, there.image)
        assert torch.equal(here.label, there.label)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_device__copies_ahead_to_a_gpu(lake: ql.Lake) -> None:
    loader = make_loader(images_of(lake), batch=4, shuffle=False)
    assert next(iter(loader)).image.is_pinned()
    for here, there in zip(loader, on_device(loader, "cuda"), strict=True):
        assert there.image.is_cuda
        assert torch.equal(here.image, there.image.cpu())


# --------------------------------------------------------------------------------- what can't be


def test_labels__a_patient_without_one(lake: ql.Lake) -> None:
    given = pd.Series(labels_of(lake), dtype="Int64")
    given.iloc[4] = pd.NA
    labels = given.drop(given.index[5])
    with pytest.raises(InputError, match="1 patient without a label, exams ") as raised:
        SphereImages(lake.cohort(), labels, strategy="t2", bone="femur")
    assert all(exam in str(raised.value) for exam in given.index[4:6])
    assert SphereImages(
        lake.cohort(f"exam != {given.index[4]!r} and exam != {given.index[5]!r}"),
        labels,
        strategy="t2",
        bone="femur",
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda label: dict.fromkeys(label, 1), "the label of all 13 exams is present"),
        (
            lambda label: {e: 2 * v for e, v in label.items()},
            r"label 2 of .* \(expected 0 \(absent",
        ),
        (lambda label: {e: "yes" for e in label}, "label 'yes' of"),
        (lambda label: pd.concat([pd.Series(label)] * 2), "two labels of"),
        (lambda _: {}, "4 patients without a label, exams .* and 3 more"),
    ],
)
def test_labels__invalid_ones_are_refused(lake: ql.Lake, change, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SphereImages(lake.cohort(), change(labels_of(lake)), strategy="t2", bone="femur")


def test_images__an_empty_cohort_is_refused(lake: ql.Lake) -> None:
    with pytest.raises(InputError, match="empty cohort"):
        images_of(lake, "timepoint == 96")


def test_images__unknown_names(lake: ql.Lake, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no strategy 'thicknes'.*Did you mean 'thickness'"):
        images_of(lake, strategy="thicknes")
    with pytest.raises(NotFoundError, match=r"no bone 'fibula' \(expected one of patella"):
        images_of(lake, bone="fibula")
    with pytest.raises(InputError, match=r"448 pixels \(expected 1 to 224"):
        images_of(lake, size=448)
    from tests.fixtures import array_lake

    with pytest.raises(NotFoundError, match="no group 'sphere'"):
        images_of(array_lake(tmp_path / "bare.lake", 4))


def test_images__maps_without_a_value_are_listed_by_exam(spoiled: ql.Lake) -> None:
    exams = list(spoiled.exams["exam"])
    with pytest.raises(InputError, match=f"no map of the femur in 1 exam: {exams[ABSENT]}"):
        images_of(spoiled)
    images = images_of(spoiled, f"exam != {exams[ABSENT]!r}")
    for workers in (0, 1):
        with pytest.raises(
            InputError, match=f"no T2 of the femur in 1 exam: {exams[NO_T2]}"
        ) as got:
            list(make_loader(images, batch=3, workers=workers))
        assert "\n" not in str(got.value)
    assert len(epoch(make_loader(images_of(spoiled, bone="tibia"), batch=3))[1]) == 7


def test_with_maps__keeps_those_that_have_a_value_and_says_so(spoiled: ql.Lake) -> None:
    kept = with_maps(spoiled.cohort(), "thickness+t2", "femur")
    assert kept.rows.tolist() == [0, 1, 3, 4, 6]
    assert kept.flow().iloc[-1]["condition"] == "thickness+t2 maps of the femur have values"
    images = SphereImages(kept, labels_of(spoiled), strategy="thickness+t2", bone="femur")
    assert len(epoch(make_loader(images, batch=2))[1]) == 5
    assert with_maps(spoiled.cohort(), "thickness", "femur").rows.tolist() == [0, 1, 2, 3, 4, 6]


@pytest.mark.accept
def test_memory__is_flat_over_ten_epochs(tmp_path: Path, judge, monkeypatch) -> None:
    import gc

    import psutil

    # Else workers keep what they have freed, up to some 100 MB: counted is what they use.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    count = 100
    lake = make_map_lake(tmp_path / "maps.lake", count)
    used = {}
    for name, cache in (("lake", None), ("cache", tmp_path / "cache")):
        images = images_of(lake, cache=cache)
        loader = make_loader(images, batch=4, workers=2, start_method="spawn")
        sizes = []
        for _ in range(1 + 10):  # the first one opens the lake and starts threads
            assert sum(len(batch.position) for batch in loader) == count
            gc.collect()
            workers = psutil.Process().children(recursive=True)
            assert len(workers) >= 2
            sizes.append(sum(process.memory_full_info().uss for process in workers))
        used[name] = (sizes[-1] - sizes[0]) / 2**20
        del loader
    judge(
        "loader / memory over 10 epochs of 57 MB, two workers that release freed memory",
        required="at most 8 MB more",
        measured=", ".join(f"{name} {grown:+.1f} MB" for name, grown in used.items()),
        passed=max(used.values()) < 8,
    )
