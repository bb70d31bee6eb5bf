"""Damage of any file of a local lake is reported, and sound commits come back."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.errors import QmriLakeError
from qmri_lake.lake.summary import storage
from qmri_lake.store import file_checksums
from qmri_lake.store.file_checksums import (
    LIST_NAME,
    FileRecorder,
    damaged_files,
    record_files,
    unlisted_files,
)
from qmri_lake.store.repository import newest_format
from tests.conftest import Judge
from tests.execution.killable_run import RunServer
from tests.fixtures import array_lake
from tests.store.test_formats import READABLE, unpacked

Capture = pytest.CaptureFixture[str]
DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 3]),
    "emptied": lambda path: path.write_bytes(b""),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "removed": lambda path: path.unlink(),
}
HEADS = ("refs", "config.yaml") if newest_format() == 1 else ("repo",)
KINDS = ("manifests", "snapshots", "transactions", "chunks", LIST_NAME, *HEADS)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of two exams with a tag, a variant and several commits."""
    path = tmp_path_factory.mktemp("damage") / "x.lake"
    lake = array_lake(path, 2)
    lake.tag("v1")
    lake.run("t2", within="all", commit_every=1)
    return path


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    """A copy that a test damages."""
    return Path(shutil.copytree(original, tmp_path / "x.lake"))


def files_of(path: Path) -> list[Path]:
    found = (file for file in path.rglob("*") if file.is_file() and file.stat().st_size)
    # Nothing reads the replaced versions of `repo`.
    return sorted(file for file in found if file.parent.name != "overwritten")


def kind_of(path: Path, file: Path) -> str:
    return file.relative_to(path).parts[0]


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def values(lake: ql.Lake) -> dict[str, np.ndarray]:
    return {name: lake.root[name][...] for name in lake.variables()}


def is_reported(path: Path) -> bool:
    """Return whether `validate --deep`, or reading all commits, reports damage."""
    try:
        lake = ql.open_lake(str(path), mode="r")
        if damaged_files(str(path)):  # which `validate --deep` lists first
            return True
        if lake.validate(deep=True):
            return True
        for snapshot in lake.history()["snapshot"][:-1]:  # the first one has no content
            values(ql.open_lake(str(path), ref=snapshot))
    except Exception:
        return True
    return False


def flips(path: Path, choose: Callable[[np.random.Generator], Path], seed: int) -> Counter[str]:
    """Flip 100 bits one at a time; count by kind of file those that are not reported."""
    rng, silent = np.random.default_rng(seed), Counter[str]()
    for _ in range(100):
        file = choose(rng)
        bit = int(rng.integers(8 * file.stat().st_size))
        flip(file, bit)
        silent[kind_of(path, file)] += not is_reported(path)
        flip(file, bit)
    assert not is_reported(path)
    return silent


@pytest.mark.accept
def test_flips__each_is_reported(path: Path, judge: Judge) -> None:
    files = files_of(path)
    sizes = np.array([file.stat().st_size for file in files])

    def any_bit(rng: np.random.Generator) -> Path:
        return files[rng.choice(len(files), p=sizes / sizes.sum())]

    def any_file(rng: np.random.Generator) -> Path:
        return files[rng.integers(len(files))]

    bits, each = flips(path, any_bit, 0), flips(path, any_file, 1)
    judge(
        "damage / 100 flipped bits over all bytes of a lake, and 100 over all its files",
        required="`validate --deep` or the read reports 200",
        measured=f"{100 - bits.total()} and {100 - each.total()} reported; silent: "
        + (str(dict(+(bits + each))) if bits + each else "none"),
        passed=not +(bits + each),
    )


def outputs(path: Path, capsys: Capture) -> dict[str, tuple[int, str]]:
    """Return the exit code and the text of each command that inspects a lake."""
    found = {}
    for command in (["info"], ["validate"], ["validate", "--deep"], ["doctor"]):
        code = main([command[0], str(path), *command[1:]])
        out, err = capsys.readouterr()
        text = out + err
        assert "Traceback" not in text
        assert "bug" not in text
        assert not re.search(r"\b(delete|remove|rm)\b", text.replace("repair=True removes", ""))
        assert code in (0, 1, 2)
        if code == 2:
            assert len(err.splitlines()) == 1, err
        found[" ".join(command)] = code, text
    return found


def check_damage(path: Path, capsys: Capture, expected: dict[str, dict[str, np.ndarray]]) -> bool:
    """Check the answers of all commands; restore a lake whose newest commit is damaged.

    `expected` has the values of all commits. Returns whether the lake was restored.
    """
    found = outputs(path, capsys)
    assert found["validate --deep"][0], found
    if "--restore" not in found["doctor"][1]:
        assert found["info"][0] == 0
        return False
    assert main(["doctor", str(path), "--restore", "newest"]) in (0, 1)
    capsys.readouterr()
    restored = ql.open_lake(str(path))
    assert restored.validate() == []
    # A manifest that earlier commits of the history need stays reported.
    assert all(fault.startswith("manifests/") for fault in restored.validate(deep=True))
    snapshot = restored.root.attrs["restored"][-1]["snapshot"]
    for name, array in expected[snapshot].items():
        np.testing.assert_array_equal(restored.root[name][...], array)
    return True


def all_values(path: Path) -> dict[str, dict[str, np.ndarray]]:
    history = ql.open_lake(str(path)).history()["snapshot"][:-1]
    return {snapshot: values(ql.open_lake(str(path), ref=snapshot)) for snapshot in history}


def newest(path: Path, kind: str) -> Path:
    """Return the newest file of a kind."""
    files = [file for file in files_of(path) if kind_of(path, file) == kind]
    if kind == "refs":
        return path / "refs" / "branch.main" / "ref.json"
    if kind in ("snapshots", "transactions"):
        return path / kind / ql.open_lake(str(path)).snapshot
    return max(files, key=lambda file: (file.stat().st_mtime_ns, file.name))


@pytest.mark.parametrize(
    ("kind", "how"),
    [(kind, list(DAMAGE)[(at + turn) % 4]) for at, kind in enumerate(KINDS) for turn in (0, 2)],
)
def test_damage__is_answered_in_a_line(path: Path, kind: str, how: str, capsys: Capture) -> None:
    if (kind, how) == (LIST_NAME, "removed"):
        pytest.skip("a lake without a list has no checksums; see the test of early lakes")
    expected = all_values(path)
    DAMAGE[how](newest(path, kind))
    restored = check_damage(path, capsys, expected)
    assert restored or kind not in ("manifests", "snapshots", "refs", "repo")


@pytest.mark.accept
def test_damage__a_hundred_files(
    original: Path, tmp_path: Path, capsys: Capture, judge: Judge
) -> None:
    rng = np.random.default_rng(2)
    names = [file.relative_to(original) for file in files_of(original)]
    by_kind = {kind: [name for name in names if name.parts[0] == kind] for kind in KINDS}
    restored, kinds, expected = 0, Counter[str](), all_values(original)
    for at in range(100):
        kind = KINDS[at % len(KINDS)]
        how = list(DAMAGE)[at // len(KINDS) % 4]
        if (kind, how) == (LIST_NAME, "removed"):
            kind = "snapshots"
        path = Path(shutil.copytree(original, tmp_path / f"{at}.lake"))
        DAMAGE[how](path / by_kind[kind][rng.integers(len(by_kind[kind]))])
        restored += check_damage(path, capsys, expected)
        kinds[kind] += 1
        shutil.rmtree(path)
    judge(
        "damage / 100 cut, emptied, zeroed or removed files of all kinds",
        required="100 reported by `validate --deep`; no traceback; each lake that cannot be opened "
        "restored to its newest sound commit",
        measured=f"{kinds.total()} reported, {restored} restored; "
        + ", ".join(f"{kind} {count}" for kind, count in kinds.items()),
        passed=kinds.total() == 100 and restored > 0,
    )


def test_manifest__changed_entry_of_the_newest_commit(path: Path, capsys: Capture) -> None:
    """Without the list, most of these changes are other values, or no error."""
    for file in sorted((path / "manifests").iterdir()):
        flip(file, 8 * 60)
        (fault,) = damaged_files(str(path))
        assert fault == (
            f"manifests/{file.name}: the content has changed (expected its checksum when it was "
            "written). Restore this file from a copy of the lake."
        )
        flip(file, 8 * 60)
    assert damaged_files(str(path)) == []


def test_snapshot__changed_bit_is_found_on_opening(path: Path) -> None:
    lake = ql.open_lake(str(path))
    file = path / "snapshots" / lake.snapshot
    for bit in range(8 * 50, 8 * file.stat().st_size, 4001):
        flip(file, bit)
        with pytest.raises(QmriLakeError, match=f"the commit {lake.snapshot} is damaged"):
            len(ql.open_lake(str(path)))
        flip(file, bit)


def test_doctor__names_damaged_files_and_sound_commits(path: Path, capsys: Capture) -> None:
    lake = ql.open_lake(str(path))
    before = set((path / "manifests").iterdir())
    lake.run("t2", within="all", variant="b")
    new = max(set((path / "manifests").iterdir()) - before)
    flip(new, 8 * 60)
    assert main(["doctor", str(path)]) == 1
    text = capsys.readouterr().out
    assert f"manifests/{new.name}: the content has changed" in text
    sound = re.search(r"the newest commit needs damaged files. Sound commits: (\S+) of", text)
    assert sound is None or main(["doctor", str(path), "--restore", sound[1]]) == 0


def test_maintenance__keeps_the_list_complete(path: Path) -> None:
    from datetime import timedelta

    lake = ql.open_lake(str(path))
    for change in (
        lambda: lake.run("t2", within="all", variant="b"),
        lambda: lake.tag("v2"),
        lambda: lake.doctor(repair=True, older_than=timedelta(0)),
        lambda: lake.prune(older_than=timedelta(0)),
        lambda: lake.run("t2", within="all", variant="c"),
        lambda: newest_format() > 1 and lake.upgrade(),
    ):
        change()
        assert unlisted_files(str(path)) == 0
        assert damaged_files(str(path)) == []
    moved = path.with_name("y.lake")
    path.rename(moved)
    assert ql.open_lake(str(moved)).validate(deep=True) == []


def test_maintenance__damage_stays_reported(path: Path) -> None:
    from datetime import timedelta

    lake = ql.open_lake(str(path))
    file = path / "transactions" / lake.snapshot
    flip(file, 8 * file.stat().st_size - 1)
    lake.run("t2", within="all", variant="b")
    lake.doctor(repair=True, older_than=timedelta(0))
    (fault,) = lake.validate(deep=True)
    assert fault.startswith(f"transactions/{file.name}: the content has changed")
    flip(file, 8 * file.stat().st_size - 1)
    assert lake.validate(deep=True) == []


def test_killed_run__is_no_damage(run_server: RunServer, path: Path) -> None:
    process = run_server.start(path, variant="b", within="all", commit_every=1)
    process.wait_for("committed")
    process.kill()
    assert damaged_files(str(path)) == []
    assert unlisted_files(str(path)) > 0
    ql.open_lake(str(path)).run("t2", within="all", variant="b")
    assert unlisted_files(str(path)) == 0
    assert damaged_files(str(path)) == []


@pytest.mark.parametrize("archive", READABLE, ids=lambda path: path.name)
def test_early_lake__has_no_checksums_until_it_is_written(
    archive: Path, tmp_path: Path, capsys: Capture
) -> None:
    url, _ = unpacked(archive, tmp_path)
    assert main(["validate", url, "--deep"]) == 0
    assert "files of Icechunk without a checksum, not checked" in capsys.readouterr().out
    assert "without checksums" in storage(ql.open_lake(url))
    ql.open_lake(url).run("t2", variant="new", within="all")
    assert unlisted_files(url) == 0
    assert ql.open_lake(url).validate(deep=True) == []


def test_list__incomplete_last_line_of_a_killed_writer(path: Path) -> None:
    file = path / LIST_NAME
    whole = file.read_bytes()
    file.write_bytes(whole + b"0123abcd 4567")
    (path / "writer.json").write_text("{}")
    assert damaged_files(str(path)) == []
    record_files(str(path))
    assert file.read_bytes() == whole


def test_recorder__waits_between_records(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = FileRecorder(str(path))
    lake = ql.open_lake(str(path), mode="r+")
    lake.repo.create_tag("v3", lake.snapshot)  # as another program does
    recorder.record_if_due()
    assert newest_format() > 1 or unlisted_files(str(path)) == 1
    monkeypatch.setattr(file_checksums, "_INTERVAL", 0.0)
    FileRecorder(str(path)).record_if_due()
    assert unlisted_files(str(path)) == 0
