"""Prepared volumes: agreement with the lake, completeness, and reuse."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.errors import DiskFullError, InputError, Reason
from qmri_lake.segmentation.models.distance_maps import distance_maps
from qmri_lake.segmentation.models.network_view import NetworkView
from qmri_lake.segmentation.training import dataset_cache as sample_cache
from qmri_lake.segmentation.training.dataset import SampleSet
from tests.segmentation.scored_lake import lake_of
from tests.segmentation.trainings import largest_file, tiny_recipe

BONE, CARTILAGE = "reference_bone", "reference_cartilage"
FLAT = tiny_recipe("cartilage", 2, augment=False, batch=3, steps=None)


def made(
    lake: ql.Lake,
    cache: Path,
    recipe=None,
    target: str = BONE,
    n: int = 2,
    progress=None,
    **options,
) -> SampleSet:
    exams = list(lake.exams["exam"][:n])
    found = SampleSet(lake, exams, recipe or tiny_recipe(), target, cache, **options)
    found.prepare(progress)
    return found


def ages(cache: Path) -> dict[str, int]:
    """Modification time of each file."""
    return {str(p): p.stat().st_mtime_ns for p in cache.rglob("*.npy")}


def within(cache: Path) -> list[Path]:
    """Files of a cache without its locks."""
    return sorted(path for path in cache.iterdir() if path.suffix != ".lock")


def test_sample__is_the_transformed_exam(training_lake: ql.Lake, tmp_path: Path) -> None:
    found = made(training_lake, tmp_path)
    frame = found.recipe.frame
    for exam, sample in zip(found.exams, found.samples, strict=True):
        ds = training_lake.load("dess", exam=exam).isel(exam=0).compute()
        where = ds.affine.values, str(ds.knee.item())
        image, labels, phi = sample.open()
        assert np.array_equal(image, frame.transform(ds.image.values, *where))
        assert np.array_equal(labels, frame.transform_labels(ds.reference_bone.values, *where))
        assert np.array_equal(sample.counts(), np.bincount(labels.ravel(), minlength=4))
        step = np.linalg.norm(ds.affine.values[:3, :3], axis=0) * frame.shrink
        assert sample.spacing == pytest.approx(step)
        exact = distance_maps(np.asarray(labels), 4, sample.spacing)
        assert np.abs(phi / 255 - exact).max() <= 0.5 / 255 + 1e-6
        assert isinstance(image, np.memmap)


def test_sample__phi_of_a_flat_network_is_slice_by_slice(
    training_lake: ql.Lake, tmp_path: Path
) -> None:
    (sample,) = made(training_lake, tmp_path, FLAT, CARTILAGE, 1).samples
    _, labels, phi = sample.open()
    for s, slice_ in enumerate(labels):
        exact = distance_maps(np.asarray(slice_), 5, sample.spacing[1:])
        assert np.abs(phi[:, s] / 255 - exact).max() <= 0.5 / 255 + 1e-6


def test_batches__of_volumes_are_padded_and_in_order(
    training_lake: ql.Lake, tmp_path: Path
) -> None:
    recipe = tiny_recipe(frame=NetworkView(True, (15, 21, 20)), architecture=FLAT.architecture)
    recipe = replace(recipe, architecture=replace(FLAT.architecture, rank=3, classes=4))
    found = made(training_lake, tmp_path, recipe)
    batches = list(found.batches(None))
    assert len(batches) == 2
    for (image, target), sample in zip(batches, found.samples, strict=True):
        assert image.shape == (1, 16, 22, 20, 1)
        assert target.shape == (1, 16, 22, 20, 5)
        assert image.dtype == target.dtype == np.float32
        seen, labels, phi = sample.open()
        assert np.array_equal(image[0, :15, :21, :, 0], seen)
        assert np.array_equal(target[0, :15, :21, :, 0], labels)
        assert np.allclose(target[0, :15, :21, :, 1:], np.moveaxis(phi, 0, -1) / 255, atol=1e-6)
        # What lies beyond is the edge once more, in image and target alike.
        assert np.array_equal(image[0, 15], image[0, 14])
        assert np.array_equal(target[0, 15], target[0, 14])


def test_batches__of_slices_from_exams_of_two_sizes(training_lake: ql.Lake, tmp_path: Path) -> None:
    found = made(training_lake, tmp_path, replace(FLAT, batch=32), CARTILAGE)
    smaller = found.samples[1].folder
    for name in ("image", "labels", "phi"):
        array = np.load(smaller / f"{name}.npy")
        np.save(smaller / f"{name}.npy", array[..., :-4])
    ((image, target),) = found.batches(None)
    assert image.shape[:3] == target.shape[:3] == (32, 24, 24)
    assert np.array_equal(image[-1, :, -4:], np.repeat(image[-1, :, 19:20], 4, axis=1))


def test_batches__of_slices_visit_each_once(training_lake: ql.Lake, tmp_path: Path) -> None:
    found = made(training_lake, tmp_path, FLAT, CARTILAGE)
    images, targets = zip(*found.batches(None), strict=True)
    assert [len(batch) for batch in images] == [3] * 10 + [2]
    assert images[0].shape[1:] == (24, 24, 1)
    assert targets[0].shape[1:] == (24, 24, 6)
    whole = np.concatenate([sample.open()[0] for sample in found.samples])
    assert np.array_equal(np.concatenate(images)[..., 0], whole)
    labels = np.concatenate([sample.open()[1] for sample in found.samples])
    assert np.array_equal(np.concatenate(targets)[..., 0], labels)


def test_batches__in_random_order_visit_each_once_an_epoch(
    training_lake: ql.Lake, tmp_path: Path
) -> None:
    found = made(training_lake, tmp_path, replace(FLAT, batch=4), CARTILAGE)
    assert found.steps == 8
    seen = np.concatenate([image for image, _ in found.batches(np.random.default_rng(1))])
    whole = np.concatenate([sample.open()[0] for sample in found.samples])[..., None]
    assert not np.array_equal(seen, whole)
    assert sorted(map(np.ndarray.tobytes, seen)) == sorted(map(np.ndarray.tobytes, whole))


def test_batches__the_same_state_gives_the_same_epoch(
    training_lake: ql.Lake, tmp_path: Path
) -> None:
    found = made(training_lake, tmp_path, tiny_recipe(steps=5))

    def epoch(seed: int) -> list[np.ndarray]:
        return [x for pair in found.batches(np.random.default_rng(seed)) for x in pair]

    first, again, other = epoch(0), epoch(0), epoch(1)
    assert len(first) == 10
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    # Five steps of two volumes: all of them augmented differently, labels still whole numbers.
    assert len({image.tobytes() for image in first[::2]}) == 5
    assert set(np.unique(np.concatenate(first[1::2])[..., 0])) == {0, 1, 2, 3}


def test_sample_set__is_reused(training_lake: ql.Lake, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    made(training_lake, tmp_path, progress=lambda *done: calls.append(done))
    assert calls == [(1, 2), (2, 2)]
    before = ages(tmp_path)
    assert len(before) == 8
    # Another loss, other steps: the same volumes.
    made(training_lake, tmp_path, tiny_recipe(loss="dice", steps=1, learning_rate=1.0))
    assert ages(tmp_path) == before
    # Another frame, other labels: others.
    made(training_lake, tmp_path, tiny_recipe(frame=NetworkView(False, None)))
    made(training_lake, tmp_path, tiny_recipe("cartilage"), CARTILAGE)
    assert len(ages(tmp_path)) == 24
    assert before.items() <= ages(tmp_path).items()


def test_sample_set__another_image_is_another_sample(tmp_path: Path) -> None:
    # These lakes know no digest of their images, and the first exams have the same labels.
    recipe = tiny_recipe(frame=NetworkView(False, None))
    lake = lake_of(tmp_path / "a.lake", 2)
    (first,) = made(lake, tmp_path / "c", recipe, n=1).samples
    from qmri_lake.store.arrays import open_root
    from qmri_lake.store.repository import commit

    def brighten(session) -> None:
        array = open_root(session.store, "r+")["dess/image"]
        array[0] = array[0] ** 2

    commit(lake.repo, brighten, "Brighten")
    lake = lake.refresh()
    (second,) = made(lake, tmp_path / "c", recipe, n=1).samples
    assert second.folder != first.folder
    assert not np.array_equal(first.open()[0], second.open()[0])


def test_sample_set__another_version_computes_new_samples(
    training_lake: ql.Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = made(training_lake, tmp_path, n=1).samples
    monkeypatch.setattr(sample_cache, "_SAMPLES_VERSION", sample_cache._SAMPLES_VERSION + 1)
    (second,) = made(training_lake, tmp_path, n=1).samples
    assert second.folder != first.folder
    assert second.folder.is_dir()


def test_sample_set__missing_bytes_is_what_prepare_writes(
    training_lake: ql.Lake, tmp_path: Path
) -> None:
    recipe, cache = tiny_recipe("cartilage"), tmp_path / "cache"
    exams = [str(exam) for exam in training_lake.exams["exam"][:2]]

    def planned(copies: int) -> SampleSet:
        return SampleSet(training_lake, exams, recipe, CARTILAGE, cache, copies=copies)

    found = planned(2)
    assert not cache.exists()
    assert found.missing_bytes == 6 * 16 * 24 * 24 * (4 + 1 + 5)
    planned(0).prepare()
    assert found.missing_bytes == planned(2).missing_bytes == 4 * 16 * 24 * 24 * 10
    found.prepare()
    assert found.missing_bytes == 0
    headers = 4 * 128 + 5 * 8  # and the counts
    written = sum(path.stat().st_size for path in cache.rglob("*.npy"))
    assert written == 6 * (16 * 24 * 24 * 10 + headers)
    with pytest.raises(InputError, match="19 copies"):
        planned(19)


def test_sample_set__full_disk_raises(training_lake: ql.Lake, tmp_path: Path) -> None:
    whole = 16 * 24 * 24 * 4  # the image, and phi: no file is larger
    for limit in (whole // 2, whole):  # within an image, and in its last bytes
        with largest_file(limit), pytest.raises(DiskFullError) as caught:
            made(training_lake, tmp_path / "cache")
        assert caught.value.reason is Reason.DISK_FULL
        assert caught.value.where == str(tmp_path / "cache")
        assert "expected space for prepared volumes" in str(caught.value)
        assert "--resume" in caught.value.todo
        assert not within(tmp_path / "cache")
    made(training_lake, tmp_path / "cache")


def test_sample_set__copies_differ_and_follow_the_original(
    training_lake: ql.Lake, tmp_path: Path
) -> None:
    recipe = tiny_recipe("cartilage")
    found = made(training_lake, tmp_path, recipe, CARTILAGE, copies=4)
    plain = made(training_lake, tmp_path, recipe, CARTILAGE)
    assert len(found) == 10
    assert [found.samples[0], found.samples[5]] == plain.samples
    images = [sample.open()[0].tobytes() for sample in found.samples]
    assert len(set(images)) == 10
    assert np.array_equal(found.counts(), sum(sample.counts() for sample in found.samples))
    before = ages(tmp_path)
    again = made(training_lake, tmp_path, recipe, CARTILAGE, copies=2)
    assert again.samples[:3] == found.samples[:3]
    assert ages(tmp_path) == before
    other = made(training_lake, tmp_path, recipe, CARTILAGE, copies=1, seed=1)
    assert other.samples[0] == found.samples[0]
    assert not np.array_equal(other.samples[1].open()[0], found.samples[1].open()[0])


def test_sample_set__half_written_samples_are_never_used(
    training_lake: ql.Lake, tmp_path: Path
) -> None:
    (sample,) = made(training_lake, tmp_path / "first", n=1).samples
    cache = tmp_path / "second"
    young, old = (cache / f"{sample.folder.name}.{word}.part" for word in ("young", "old"))
    for part in (young, old):
        part.mkdir(parents=True)
        (part / "image.npy").write_bytes(b"half")
    day = 24 * 3600
    os.utime(old, (time.time() - 2 * day,) * 2)
    (again,) = made(training_lake, cache, n=1).samples
    assert again.folder.name == sample.folder.name
    assert np.array_equal(again.open()[0], sample.open()[0])
    # Somebody may still be writing the young one.
    assert within(cache) == sorted([again.folder, young])


def test_sample_set__two_writers_may_write_the_same_sample(
    training_lake: ql.Lake, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(2) as both:
        futures = [both.submit(made, training_lake, tmp_path) for _ in range(2)]
        first, second = (future.result() for future in futures)
    assert first.samples == second.samples
    assert len(within(tmp_path)) == 2
    # And the one who comes last of all, after the other's sample is in place.
    zeros = np.zeros((4, 4, 4), np.float32)
    sample_cache._write(first.samples[0], zeros, zeros.astype(np.uint8), 2, flat=False)
    assert len(within(tmp_path)) == 2
    assert first.samples[0].open()[0].shape == (16, 24, 24)


def test_sample_set__a_failure_leaves_nothing(training_lake: ql.Lake, tmp_path: Path) -> None:
    (sample,) = made(training_lake, tmp_path / "first", n=1).samples
    cache = tmp_path / "second"
    cache.mkdir()
    (cache / sample.folder.name).write_text("a file where the folder should be")
    with pytest.raises(OSError, match=sample.folder.name):
        made(training_lake, cache, n=1)
    assert [p.name for p in within(cache)] == [sample.folder.name]


def test_sample_set__errors_name_what_an_exam_lacks(tmp_path: Path) -> None:
    lake = lake_of(tmp_path / "l.lake", 3)
    recipe = tiny_recipe(frame=NetworkView(False, None))
    last = str(lake.exams["exam"].iloc[-1])

    def refused(target: str, recipe=recipe, exam: str = last) -> InputError:
        with pytest.raises(InputError) as caught:
            SampleSet(lake, [exam], recipe, target, tmp_path / "cache")
        assert caught.value.where == exam
        return caught.value

    error = refused(BONE)
    assert error.reason is Reason.ABSENT_EXAM
    assert "no dess/reference_bone" in str(error)
    assert "cohort.require('dess/reference_bone')" in str(error)
    assert refused("nonsense").reason is Reason.ABSENT_EXAM
    error = refused("cartilage")
    assert error.reason is Reason.UNKNOWN_LABEL
    assert "label 4 in dess/cartilage" in str(error)


def test_sample_set__a_volume_smaller_than_the_stride_is_refused(
    training_lake: ql.Lake, tmp_path: Path
) -> None:
    deep = replace(tiny_recipe().architecture, convolutions=(1,) * 5)
    with pytest.raises(InputError) as caught:
        made(training_lake, tmp_path, tiny_recipe(architecture=deep))
    assert caught.value.reason is Reason.TOO_SMALL
    assert not list(tmp_path.iterdir())
    made(
        training_lake,
        tmp_path,
        tiny_recipe("cartilage", architecture=replace(FLAT.architecture, convolutions=(1,) * 4)),
        CARTILAGE,
        1,
    )  # a slice is large enough
