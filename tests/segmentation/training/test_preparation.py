"""Checks before a training: exams that lack a tissue, a full disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.core.disk_full import check_room
from qmri_lake.core.text import format_bytes
from qmri_lake.errors import DiskFullError, InputError, Reason
from qmri_lake.segmentation.models.network_view import NetworkView
from qmri_lake.segmentation.training import preparation
from qmri_lake.segmentation.training.dataset import SampleSet
from qmri_lake.segmentation.training.loop import train
from qmri_lake.segmentation.training.preparation import check_classes
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from tests.segmentation.scored_lake import lake_of
from tests.segmentation.trainings import split_of, tiny_recipe

RECIPE = tiny_recipe(frame=NetworkView(False, None), steps=1, epochs=1)
BONE = "reference_bone"


def lake_without(path: Path, tissue: int, rows: list[int], count: int = 9) -> ql.Lake:
    """Three patients; the references of some exams lack a tissue; the last exam has none."""
    lake = lake_of(path, count, ("bone",))

    def forget(session: Any) -> None:
        array = open_root(session.store, "r+")[f"dess/{BONE}"]
        for row in rows:
            values = array[row]
            array[row] = np.where(values == tissue, 0, values)

    commit(lake.repo, forget, "Forget a tissue")
    return lake.refresh()


def split_by_row(lake: ql.Lake) -> dict[str, list[str]]:
    keys = [str(key) for key in lake.exams["exam"]]
    return {"train": keys[:4], "validation": keys[4:8]}


def test_train__rejects_exams_that_lack_a_tissue(tmp_path: Path) -> None:
    lake = lake_without(tmp_path / "l.lake", 3, [1, 6])
    split = split_by_row(lake)
    lacking = [split["train"][1], split["validation"][2]]
    with pytest.raises(InputError) as caught:
        train(lake, RECIPE, split, tmp_path / "m" / "a")
    assert caught.value.reason is Reason.EMPTY_MASK
    assert f"no voxel of patella in 2 of 8 exams ({', '.join(lacking)})" in str(caught.value)
    assert "--allow-missing" in caught.value.todo
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "m").exists()
    network = train(lake, RECIPE, split, tmp_path / "m" / "a", allow_missing=True)
    assert network.card["without"] == {"patella": lacking}
    # What is prepared is known by its counts, and refused as well.
    with pytest.raises(InputError, match="no voxel of patella in 2 of 8 exams"):
        train(lake, RECIPE, split, tmp_path / "m" / "b")
    # An exam that is not validated on is none of its business.
    narrow = tiny_recipe(frame=NetworkView(False, None), steps=1, epochs=1, validation=2)
    with pytest.raises(InputError, match=f"in 1 of 6 exams .{lacking[0]}."):
        train(lake, narrow, split, tmp_path / "m" / "b")


def test_train__rejects_a_tissue_that_no_training_exam_has(tmp_path: Path) -> None:
    lake = lake_without(tmp_path / "l.lake", 3, [0, 1, 2, 3])
    for allow in (False, True):
        with pytest.raises(InputError) as caught:
            train(lake, RECIPE, split_by_row(lake), tmp_path / "a", allow_missing=allow)
        assert "no voxel of patella in the training exams" in str(caught.value)
        assert "--allow-missing" not in caught.value.todo


def test_check_classes__limits_the_number_of_named_exams(tmp_path: Path) -> None:
    lake = lake_without(tmp_path / "l.lake", 2, list(range(1, 26)), 28)
    exams = [str(exam) for exam in lake.exams["exam"][:27]]
    with pytest.raises(InputError) as caught:
        check_classes(SampleSet(lake, exams, RECIPE, BONE, tmp_path))
    assert "tibia in 25 of 27 exams" in str(caught.value)
    assert exams[20] in str(caught.value)
    assert f"{exams[20]} and 5 more)" in str(caught.value)


def test_check_room__compares_with_the_free_space(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet"
    assert 0 < check_room(folder, 1, "prepared volumes") <= shutil.disk_usage(tmp_path).total
    with pytest.raises(DiskFullError) as caught:
        check_room(folder, 10**18, "prepared volumes")
    assert " free (expected 888.18 PiB for prepared volumes" in str(caught.value)
    assert (caught.value.where, caught.value.reason) == (str(folder), Reason.DISK_FULL)
    assert not folder.exists()


def test_train__announces_how_much_it_writes(
    training_lake: ql.Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, recipe = split_of(training_lake), tiny_recipe(steps=1, epochs=1, copies=1)
    said: list[str] = []
    train(training_lake, recipe, split, tmp_path / "a", announce=said.append)
    assert said == []  # a few hundred kB
    monkeypatch.setattr(preparation, "_ANNOUNCED_BYTES", 6 * 16 * 24 * 24 * 9)
    train(training_lake, recipe, split, tmp_path / "b", announce=said.append)
    assert said == []  # it is there
    options = {"cache": tmp_path / "other", "announce": said.append}
    train(training_lake, recipe, split, tmp_path / "c", **options)
    assert len(said) == 1
    needed = format_bytes(6 * 16 * 24 * 24 * 9)
    other = tmp_path / "other"
    assert said[0].startswith(f"c: {needed} of prepared volumes are written to {other} (")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux' file system of no size")
def test_train__checks_the_free_space_before_it_writes(
    training_lake: ql.Lake, tmp_path: Path
) -> None:
    split, recipe = split_of(training_lake), tiny_recipe(steps=1, epochs=1)
    with pytest.raises(DiskFullError) as caught:
        train(training_lake, recipe, split, tmp_path / "a", cache="/proc/cache")
    assert str(caught.value).startswith("/proc/cache: 0 B free (expected 324.00 kiB for")
    assert not (tmp_path / "a").exists()
