"""The packed cache: the same images, made once, whole or absent."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.diagnosis.data.sphere_images import SphereImages
from qmri_lake.errors import DiskFullError, InputError
from qmri_lake.fusion import STRATEGIES
from tests.diagnosis.map_lake import ABSENT, labels_of, make_map_lake
from tests.fixtures import add_clinical
from tests.segmentation.trainings import largest_file


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> ql.Lake:
    return make_map_lake(tmp_path_factory.mktemp("cache") / "maps.lake", 7, spoiled=True)


def images_of(lake: ql.Lake, query: str | None = None, **options: object) -> SphereImages:
    chosen = {"strategy": "all", "bone": "tibia", **options}
    return SphereImages(lake.cohort(query), labels_of(lake), **chosen)


def names(folder: Path) -> list[str]:
    return sorted(path.name.rpartition("-")[0] for path in folder.iterdir())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_cache__float32_is_the_lake_to_the_bit(lake, tmp_path: Path, strategy: str) -> None:
    plain, packed = (
        images_of(lake, strategy=strategy, cache=cache, dtype="float32").__getitems__([5, 0, 3])
        for cache in (None, tmp_path)
    )
    np.testing.assert_array_equal(packed.image.numpy(), plain.image.numpy())
    assert packed.label.tolist() == plain.label.tolist()


def test_cache__float16_rounds_by_less_than_a_two_thousandth(lake, tmp_path: Path) -> None:
    plain, packed = (images_of(lake, cache=cache)[2].image.numpy() for cache in (None, tmp_path))
    assert packed.dtype == np.float32
    np.testing.assert_allclose(packed, plain, rtol=2**-11)
    assert (packed != plain).any()


def test_cache__is_shared_by_strategies_and_read_without_the_lake(lake, tmp_path: Path) -> None:
    cache, copied = tmp_path / "cache", tmp_path / "copy.lake"
    shutil.copytree(lake.url, copied)
    copy = ql.open_lake(str(copied), mode="r")
    expected = images_of(copy)[6].image
    images_of(copy, strategy="thickness", cache=cache)
    assert names(cache) == ["tibia-thickness-224"]
    written = [path.stat().st_mtime_ns for path in cache.iterdir()]
    images_of(copy, cache=cache, dtype="float16")
    assert names(cache) == ["tibia-bone_shape-224", "tibia-t2-224", "tibia-thickness-224"]
    kept = [path.stat().st_mtime_ns for path in cache.glob("*thickness*")]
    assert kept == written
    images = images_of(copy, cache=cache)
    shutil.rmtree(copied / "chunks")
    np.testing.assert_allclose(images[6].image, expected, rtol=2**-11)


def test_cache__another_selection_size_or_snapshot_is_another_file(tmp_path: Path) -> None:
    lake, cache = make_map_lake(tmp_path / "maps.lake", 5), tmp_path / "cache"

    def count(query: str | None = None, **options: object) -> int:
        images_of(lake, query, strategy="t2", cache=cache, **options)
        return len(list(cache.iterdir()))

    assert count() == count() == 1
    assert count("knee == 'right'") == 2
    assert count(size=64) == 3
    assert count(dtype="float32") == 4
    assert count(bone="femur") == 5
    add_clinical(lake, age=np.full(5, 60.0))
    assert count() == 6


def test_cache__maps_without_a_value_leave_no_file(lake: ql.Lake, tmp_path: Path) -> None:
    exam = lake.exams["exam"][ABSENT]
    with pytest.raises(InputError, match="no T2 of the femur in 1 exam"):
        images_of(lake, f"exam != {exam!r}", bone="femur", cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
    images_of(lake, f"exam != {exam!r}", bone="femur", strategy="thickness", cache=tmp_path)


def test_cache__a_full_disk_raises_one_line_and_leaves_no_file(lake, tmp_path: Path) -> None:
    with largest_file(100_000), pytest.raises(DiskFullError, match="packed maps") as raised:
        images_of(lake, cache=tmp_path)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_cache__deletes_only_abandoned_files(lake, tmp_path) -> None:
    old, new = (tmp_path / f"part.ab.tibia-t2-224-{name}.npy" for name in ("old", "new"))
    for part in (old, new):
        part.touch()
    os.utime(old, (0, 0))
    images_of(lake, cache=tmp_path)
    assert new.exists()
    assert not old.exists()


def test_cache__values_beyond_float16_are_refused(tmp_path: Path) -> None:
    lake = make_map_lake(tmp_path / "maps.lake", 4, factor=2e5)
    with pytest.raises(InputError, match="expected values within the range of float16"):
        images_of(lake, cache=tmp_path / "cache")
    assert images_of(lake, cache=tmp_path / "cache", dtype="float32")[0].image.max() > 1e5
