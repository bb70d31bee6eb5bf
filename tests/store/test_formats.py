"""Lakes of version 0.1.0, in both formats of Icechunk, open for ever; upgrades keep all of them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.core.repository_format import is_repository
from qmri_lake.errors import NotALakeError, RunError
from qmri_lake.oai.walk import walk
from qmri_lake.relaxometry import FitStatus
from qmri_lake.store.repository import newest_format
from tests.store.fixtures.make import FOLDER, digest

FORMATS = (1, 2)
ARCHIVES = sorted(FOLDER.glob("*-format-*.tar.xz"))
READABLE = [path for path in ARCHIVES if int(path.name.split("-format-")[1][0]) <= newest_format()]
Capture = pytest.CaptureFixture[str]


def unpacked(archive: Path, folder: Path) -> tuple[str, dict[str, Any]]:
    """Unpack an archived lake; return its URL, and what was known of it when it was written."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    known = json.loads(archive.with_name(archive.name.replace(".tar.xz", ".json")).read_text())
    return str(folder / "a.lake"), known


def check(lake: ql.Lake, known: dict[str, Any]) -> None:
    assert lake.exams["exam"].tolist() == known["exams"]
    assert lake.history()["message"].tolist() == known["messages"]
    assert lake.tags() == ["v1"]
    assert digest(lake) == pytest.approx(known["sums"])
    assert "t2__epg" in lake.status().index
    assert "t2__epg" not in ql.open_lake(lake.url, ref="v1").status().index
    assert lake.validate(deep=True) == []


def test_archives__one_of_each_format() -> None:
    assert [path.name for path in ARCHIVES] == [f"0.1.0-format-{n}.tar.xz" for n in FORMATS]
    assert READABLE


@pytest.mark.parametrize("archive", READABLE, ids=lambda path: path.name)
def test_archive__read_written_and_read_again(archive: Path, tmp_path: Path) -> None:
    url, known = unpacked(archive, tmp_path)
    lake = ql.open_lake(url)
    kind = int(archive.name.split("-format-")[1][0])
    assert lake.storage_format == kind
    assert f"Icechunk format {kind}" in repr(lake)
    check(lake, known)
    # What was done then is known now, and the lake takes more.
    assert lake.run("t2").counts.get("done", 0) == 0
    before = lake.status().loc["t2", "done"]
    assert before
    assert lake.run("t2", variant="wide", bounds=[0, 90]).counts.get("done", 0) == before
    assert ql.open_lake(url).storage_format == kind


@pytest.mark.parametrize("archive", READABLE, ids=lambda path: path.name)
def test_archive__gains_the_values_of_a_later_version(archive: Path, tmp_path: Path) -> None:
    url, _ = unpacked(archive, tmp_path)
    lake = ql.open_lake(url)
    status = lake.root["msme/t2_status__epg"]
    assert "below_resolution" not in status.attrs["flag_meanings"]
    assert lake.root["msme/t2_b1__epg"].attrs["valid_max"] == 1
    before = lake.root["msme/t2__epg"][:]
    # Hard pulses are not recorded: the result of the earlier version is up to date.
    assert lake.run("t2", variant="epg", model="epg").counts.get("done", 0) == 0
    done = lake.run("t2", variant="epg", model="epg", pulse="sinc", r2_min=None).counts["done"]
    assert done == lake.status().loc["t2", "done"]
    assert not np.array_equal(lake.root["msme/t2__epg"][:], before, equal_nan=True)
    status = lake.root["msme/t2_status__epg"].attrs
    assert dict(zip(status["flag_meanings"].split(), status["flag_values"], strict=True)) == {
        kind.name.lower(): int(kind) for kind in FitStatus
    }
    assert lake.root["msme/t2_b1__epg"].attrs["valid_max"] == 1.4
    assert lake.validate(deep=True) == []
    # Arrays that the run does not write keep their declaration.
    assert "below_resolution" not in lake.root["msme/t2_status"].attrs["flag_meanings"]


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name)
def test_archive__is_a_lake_whatever_is_installed(archive: Path, tmp_path: Path) -> None:
    url, _ = unpacked(archive, tmp_path)
    (tmp_path / "001").write_bytes(b"a slice")
    assert is_repository(url)
    assert [entry.name for files in walk(tmp_path) for entry in files] == ["001"]


def test_open_lake__format_2_needs_icechunk_2(tmp_path: Path, capsys: Capture) -> None:
    if newest_format() > 1:
        url, _ = unpacked(ARCHIVES[1], tmp_path)
        assert ql.open_lake(url).storage_format == 2
        assert main(["info", url]) == 0
        assert "Icechunk format 2" in capsys.readouterr().out
        return
    url, _ = unpacked(ARCHIVES[1], tmp_path)
    said = r"Icechunk format 2 \(expected at most format 1, .*pip install 'icechunk>=2'"
    with pytest.raises(NotALakeError, match=said):
        ql.open_lake(url)
    files = {path: path.read_bytes() for path in Path(url).rglob("*") if path.is_file()}
    for command in (["info", url], ["doctor", url], ["doctor", url, "--restore", "newest"]):
        assert main(command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "pip install" in line
    assert files == {path: path.read_bytes() for path in Path(url).rglob("*") if path.is_file()}


def test_upgrade__keeps_all(tmp_path: Path, capsys: Capture) -> None:
    url, known = unpacked(ARCHIVES[0], tmp_path)
    before = ql.open_lake(url).history()
    if newest_format() == 1:
        with pytest.raises(RunError, match="supports format 1 only"):
            ql.open_lake(url).upgrade()
        assert main(["upgrade", url, "--yes"]) == 2
        assert "icechunk>=2" in capsys.readouterr().err
        check(ql.open_lake(url), known)
        return
    config = ql.open_lake(url).repo.config.manifest
    assert main(["upgrade", url, "--yes"]) == 0
    assert "converted from Icechunk format 1 to 2; it needs Icechunk 2" in capsys.readouterr().out
    lake = ql.open_lake(url)
    assert lake.storage_format == 2
    assert lake.history().equals(before)
    assert str(lake.repo.config.manifest) == str(config)
    check(lake, known)
    assert lake.run("t2").counts.get("done", 0) == 0
    assert lake.run("t2", variant="wide", bounds=[0, 90]).counts.get("done", 0)
    assert main(["upgrade", url]) == 0
    assert "already in Icechunk format 2" in capsys.readouterr().out


def test_upgrade__asks_first(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = unpacked(ARCHIVES[0], tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    if newest_format() == 1:  # nothing to upgrade to: an error instead of a question
        assert main(["upgrade", url]) == 2
        printed = capsys.readouterr()
        assert "Upgrade?" not in printed.out
        assert "icechunk>=2" in printed.err
        assert ql.open_lake(url).storage_format == 1
        return
    assert main(["upgrade", url]) != 0
    assert "an Icechunk older than 2 can't read it" in capsys.readouterr().out
    assert ql.open_lake(url).storage_format == 1
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert main(["upgrade", url]) == 0
    assert ql.open_lake(url).storage_format == 2
