"""A lake whose newest commit is damaged names the sound ones, and goes back to one of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qmri_lake.cli import main
from qmri_lake.errors import NotALakeError
from qmri_lake.lake.lake import Lake, open_lake
from tests.fixtures import array_lake

Capture = pytest.CaptureFixture[str]
DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "emptied": lambda path: path.write_bytes(b""),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "removed": lambda path: path.unlink(),
}


@pytest.fixture
def damaged(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Lake, list[str]]:
    """A lake before its newest snapshot was damaged, and its snapshots."""
    path = tmp_path / "x.lake"
    lake = array_lake(path, 3)
    lake.run("t2", within="all", commit_every=1)
    snapshots = lake.history()["snapshot"].tolist()
    before = open_lake(str(path), ref=snapshots[1])
    DAMAGE[request.param](path / "snapshots" / snapshots[0])
    return before, snapshots


@pytest.mark.parametrize("damaged", DAMAGE, indirect=True)
def test_restore__a_damaged_newest_commit(damaged: tuple[Lake, list[str]], capsys: Capture) -> None:
    before, snapshots = damaged
    with pytest.raises(NotALakeError) as caught:
        open_lake(before.url).doctor()
    message = str(caught.value)
    assert "\n" not in message
    assert f"the commit {snapshots[0]} is damaged" in message
    assert f"Sound commits: {snapshots[1]} of " in message
    assert "remove" not in message
    for command in ("info", "validate", "doctor"):
        assert main([command, before.url]) == 2
        assert snapshots[1] in capsys.readouterr().err
    assert main(["doctor", before.url, "--restore", snapshots[1]]) == 0
    capsys.readouterr()
    restored = open_lake(before.url)
    assert (
        restored.history()["message"].iloc[0] == f"Restore {snapshots[1]} instead of {snapshots[0]}"
    )
    assert restored.validate(deep=True) == []
    for name, array in before.root["msme"].arrays():
        np.testing.assert_array_equal(restored.root["msme"][name][...], array[...])
    restored.run("t2", within="all")
    assert restored.refresh().status().loc["t2", "done"] == 3


@pytest.mark.parametrize("damaged", ["cut"], indirect=True)
def test_restore__refuses_a_damaged_commit(
    damaged: tuple[Lake, list[str]], capsys: Capture
) -> None:
    before, snapshots = damaged
    assert main(["doctor", before.url, "--restore", snapshots[0]]) == 2
    assert f"'{snapshots[0]}' is not a sound commit (expected one of {snapshots[1]}" in (
        capsys.readouterr().err
    )
