"""Files of a delivery, on disk or inside a tar."""

from __future__ import annotations

import tarfile

import pytest

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.packing import archive_stem
from qmri_lake.oai.walk import walk


def names(source):
    return [entry.name for container in walk(source) for entry in container]


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "root"
    for name in ("b/2", "b/1", "a/c/1", "top"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def test_walk__folder_sorted(tree):
    assert names(tree) == ["top", "a/c/1", "b/1", "b/2"]


def test_walk__link_to_itself_ends(tree):
    (tree / "a" / "again").symlink_to(tree)
    assert names(tree) == ["top", "a/c/1", "b/1", "b/2"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_walk__tar_inside_a_folder(tree, mode):
    path = tree / "b" / ("x.tar" if mode == "w" else "x.tar.gz")
    with tarfile.open(path, mode) as tar:
        tar.add(tree / "a", arcname="./a")
    assert f"b/{path.name}/a/c/1" in names(tree)
    (container,) = walk(path)
    assert [entry.open().read() for entry in container] == [b"a/c/1"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_walk__truncated_tar_is_an_error(tree, tmp_path, mode):
    (tree / "b" / "3").write_bytes(bytes(range(256)) * 40)
    path = tmp_path / ("x.tar" if mode == "w" else "x.tar.gz")
    with tarfile.open(path, mode) as tar:
        tar.add(tree, arcname=".")
    content = path.read_bytes()
    end = 15_000 if mode == "w" else len(content) - 30
    assert end < len(content)
    path.write_bytes(content[:end])
    (container,) = walk(path)
    with pytest.raises(InputError, match="truncated archive") as error:
        list(container)
    assert error.value.reason is Reason.TRUNCATED_FILE


def test_walk__neither_folder_nor_archive(tree):
    with pytest.raises(InputError, match="not an archive"):
        list(walk(tree / "top"))


@pytest.mark.parametrize(
    "name",
    [
        "9000001.tar",
        "9000001.tar.gz",
        "9000001.TGZ",
        "9000001.zip",
        "9000001.tar (1).gz",
        "9000001 (2).tar.gz",
        "9000001.gz_1",
        "9000001.tar.gz.part",
        "9000001.tar.xz",
        "9000001",
    ],
)
def test_archive_stem__is_the_name_without_endings(name):
    assert archive_stem(name) == "9000001"


@pytest.mark.parametrize("name", ["0.C.2", "1.2.840.113", "scan.dcm", ".tar"])
def test_archive_stem__keeps_other_names(name):
    assert archive_stem(name) == name
