"""Every array has checksums, so that a changed bit is an error and never another value."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.errors import UnreadableChunkError
from qmri_lake.lake.summary import storage
from qmri_lake.store.arrays import Node, has_checksum
from tests.fixtures import array_lake
from tests.store.test_formats import READABLE, unpacked

FLIPS = 40


@pytest.fixture
def lake(tmp_path: Path) -> ql.Lake:
    """Three exams in one commit, so that the newest commit refers to every file."""
    return array_lake(tmp_path / "x.lake", 3)


def chunk_files(lake: ql.Lake) -> list[Path]:
    files = sorted((Path(lake.url) / "chunks").iterdir())
    assert len(files) == 3  # the images; small arrays are stored in manifests
    return files


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def all_arrays(node: Node) -> list[Node]:
    return [array for _, array in node.arrays()] + [
        array for name in node.group_keys() for array in all_arrays(node[name])
    ]


def test_arrays__all_have_checksums(lake: ql.Lake) -> None:
    lake.run("t2", within="all")
    arrays = all_arrays(lake.root)
    assert len(arrays) > 20
    assert all(has_checksum(array) for array in arrays)
    assert "of chunks, with checksums, Icechunk format" in repr(lake)


@pytest.mark.slow
def test_validate__finds_every_flipped_bit(lake: ql.Lake) -> None:
    generator = np.random.default_rng(0)
    files = chunk_files(lake)
    sizes = [path.stat().st_size for path in files]
    for _ in range(FLIPS):
        path = files[generator.choice(len(files), p=np.array(sizes) / sum(sizes))]
        bit = int(generator.integers(8 * path.stat().st_size))
        flip(path, bit)
        faults = ql.open_lake(lake.url).validate(deep=True)
        assert any("unreadable chunk" in fault for fault in faults), (path, bit)
        flip(path, bit)
    assert ql.open_lake(lake.url).validate(deep=True) == []


def test_load__names_the_array_and_the_exam(lake: ql.Lake) -> None:
    largest = max(chunk_files(lake), key=lambda path: path.stat().st_size)
    flip(largest, 8 * 100)
    opened = ql.open_lake(lake.url)
    (fault,) = opened.validate(deep=True)
    match = re.match(r"(msme/image) of (\S+): unreadable chunk", fault)
    assert match is not None
    path, exam = match.groups()
    image = opened.load("msme")["image"]
    with pytest.raises(UnreadableChunkError) as caught:
        image.compute()
    assert f"{path} of {exam} cannot be read (Stored and computed checksum do not match" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)
    others = [other for other in opened.exams["exam"] if other != exam]
    assert np.isfinite(image.sel(exam=others).compute()).any()


def test_run__an_unreadable_exam_fails_and_the_others_are_computed(lake: ql.Lake) -> None:
    flip(max(chunk_files(lake), key=lambda path: path.stat().st_size), 8 * 100)
    opened = ql.open_lake(lake.url)
    counts = opened.run("t2", within="all").counts
    assert (counts["done"], counts["failed"]) == (2, 1)
    (failure,) = opened.refresh().failures("t2").itertuples()
    assert failure.message.startswith(f"msme/image of {failure.exam} cannot be read")


@pytest.mark.parametrize("archive", READABLE[:1], ids=lambda path: path.name)
def test_lake_of_an_early_version__has_no_checksums(archive: Path, tmp_path: Path) -> None:
    url, _ = unpacked(archive, tmp_path)
    lake = ql.open_lake(url)
    assert "without checksums" in storage(lake)
    lake.run("t2", variant="new", within="all")
    assert re.search(r"\d of \d+ arrays with checksums", storage(lake.refresh()))
