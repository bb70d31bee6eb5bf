"""Repositories by URL, refs, locks, conflicts, and stock xarray on what is stored."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr

from qmri_lake.core.disk_full import disk_full
from qmri_lake.core.repository_format import is_repository
from qmri_lake.errors import (
    CommitConflictError,
    LakeLockedError,
    NotALakeError,
    RunError,
    UnknownRefError,
)
from qmri_lake.lake.lake import create_lake, existing_lake, open_lake
from qmri_lake.store.arrays import open_root
from qmri_lake.store.lock import is_locked, lock_owner
from qmri_lake.store.repository import commit, is_local
from qmri_lake.store.runs import next_run
from qmri_lake.store.status import STATE, declare_status, read_status
from qmri_lake.store.transaction import Transaction, append_exams, initialise
from tests.fixtures import array_lake, keys
from tests.object_store import ObjectStore, Stored

# -- URLs and what is there ------------------------------------------------------------------------


def test_is_local__by_scheme() -> None:
    assert all(map(is_local, ["a.lake", "/data/a.lake", "~/a.lake", "file:///data/a.lake"]))
    assert not any(map(is_local, ["s3://bucket/a", "gs://bucket/a", "az://account@box/a"]))


def test_create_lake__by_url(tmp_path: Path) -> None:
    assert len(create_lake(f"file://{tmp_path}/a.lake")) == 0
    assert open_lake(str(tmp_path / "a.lake")).groups() == []
    assert create_lake(str(tmp_path / "b.lake"), profile="oai").profile == "oai"


def test_create_lake__in_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    create_lake("~/a.lake")
    assert is_repository(tmp_path / "a.lake")
    assert len(open_lake("~/a.lake")) == 0
    # An ingest asks whether there is a lake before it makes one.
    for url in ("~/a.lake", f"file://{tmp_path}/a.lake"):
        assert existing_lake(url).url == url


def test_create_lake__over_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted creation leaves objects, but no lake."""
    with ObjectStore() as store:
        store.set_environment(monkeypatch)
        create_lake("s3://first/a.lake")
        assert len(open_lake("s3://second/a.lake")) == 0
        store.objects = {"b.lake/snapshots/x": Stored(b"x")}
        with pytest.raises(NotALakeError, match=r"^s3://first/b\.lake: the location is not empty"):
            create_lake("s3://first/b.lake")


def test_open_lake__quoted_url(tmp_path: Path) -> None:
    create_lake(f"file://{tmp_path}/a%20lake%23")
    assert is_repository(tmp_path / "a lake#")
    assert len(open_lake(f"file://localhost{tmp_path}/a%20lake%23")) == 0
    with pytest.raises(NotALakeError, match=r"with the host 'a\.lake' \(expected file:///folder"):
        open_lake("file://a.lake")


def test_open_lake__then_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    array_lake(Path("a.lake"), 2)
    lake = open_lake("a.lake")
    cohort = lake.cohort("knee == 'left'")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert lake.run("t2").counts["done"] == 2
    assert repr(lake).startswith("<Lake a.lake:")
    same = open_lake("../a.lake")
    assert len(same.load("msme", cohort).exam) == 1
    with same.writing(), pytest.raises(LakeLockedError, match=r"^a\.lake: another writer"):
        lake.run("t2")
    assert not list(Path().iterdir())


def test_create_lake__over_something(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotALakeError, match=r"\(expected a new folder\)\. Choose"):
        create_lake(str(tmp_path / "notes"))
    with pytest.raises(NotALakeError, match="not an empty folder"):
        create_lake(str(tmp_path / "notes" / "a.txt"))
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["a.txt"]
    create_lake(str(tmp_path / "empty"))
    with pytest.raises(NotALakeError, match="not an empty folder"):
        create_lake(str(tmp_path / "empty"))
    with pytest.raises(RunError, match=r"profile = 'oia' \(expected one of oai"):
        create_lake(str(tmp_path / "c"), profile="oia")


def test_open_lake__not_a_lake(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for name, said in [
        ("folder", "the folder contains no lake"),
        ("file", "the path is a file"),
        ("nothing", "no such folder"),
    ]:
        with pytest.raises(NotALakeError, match=said) as caught:
            open_lake(str(tmp_path / name))
        assert isinstance(caught.value, FileNotFoundError)
        assert "\n" not in str(caught.value)
    with pytest.raises(NotALakeError, match=r"ftp:// is not supported \(expected a folder, s3://"):
        open_lake("ftp://host/a.lake")


def test_open_lake__damaged(tmp_path: Path) -> None:
    create_lake(str(tmp_path / "a.lake"))
    for name in ("config.yaml", "repo"):  # of format 1, of format 2
        if (tmp_path / "a.lake" / name).exists():
            (tmp_path / "a.lake" / name).write_text("storage: [")
    with pytest.raises(NotALakeError, match=r"cannot be opened \(.*\) \(expected ") as caught:
        open_lake(str(tmp_path / "a.lake"))
    assert "\n" not in str(caught.value)


def plain_repository(path: Path) -> icechunk.Repository:
    return icechunk.Repository.create(icechunk.local_filesystem_storage(str(path)))


def test_open_lake__repository_without_the_mark(tmp_path: Path) -> None:
    repo = plain_repository(tmp_path / "a")
    with pytest.raises(NotALakeError, match="an Icechunk repository that is not a lake"):
        len(open_lake(str(tmp_path / "a")))
    session = repo.writable_session("main")
    zarr.create_group(session.store)
    session.commit("a group")
    with pytest.raises(NotALakeError, match="an Icechunk repository that is not a lake"):
        len(open_lake(str(tmp_path / "a")))


def test_open_lake__newer_format(tmp_path: Path) -> None:
    lake = create_lake(str(tmp_path / "a.lake"))

    def raise_format(session: icechunk.Session) -> None:
        about = {"format": 99, "version": "7.0", "profile": ""}
        open_root(session.store, "r+").attrs["qmri_lake"] = about

    commit(lake.repo, raise_format, "From the future")
    with pytest.raises(NotALakeError, match=r"format 99, written by qmri_lake 7.0 \(.*\)\. Update"):
        len(open_lake(lake.url))


# -- refs ------------------------------------------------------------------------------------------


def test_open_lake__refs(tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "a.lake", 3)
    first = lake.tag("v1")
    lake.run("t2")
    lake.repo.create_branch("trial", first)

    for ref in ("v1", first, "trial"):
        then = open_lake(lake.url, ref=ref)
        assert then.snapshot == first
        assert then.mode == "r"
        assert "t2" not in then.status().index
        assert then.refresh().snapshot == first
    assert open_lake(lake.url, ref="main").status().loc["t2", "done"] == 3

    with pytest.raises(UnknownRefError, match=r"'v2' \(expected a tag \(v1\), .*\(main, trial\)"):
        open_lake(lake.url, ref="v2")
    with pytest.raises(UnknownRefError, match=r"no tag, branch or snapshot '0{20}'"):
        open_lake(lake.url, ref="0" * 20)
    with pytest.raises(UnknownRefError, match=r"tag 'v1' exists, at .*a tag cannot be moved"):
        lake.tag("v1")


def test_history__tags_and_limit(tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "a.lake", 2)
    lake.tag("v1")
    lake.run("t2")
    history = lake.history()
    assert history["message"].tolist()[:4] == [
        "End run 2: t2",
        "Start run 2: t2",
        "Add exams",
        "Create the lake",
    ]
    assert history["tags"].tolist()[:4] == ["", "", "v1", ""]
    assert history["time"].is_monotonic_decreasing
    assert len(lake.history(2)) == 2
    assert lake.tags() == ["v1"]
    # An older lake knows nothing of what came later.
    assert open_lake(lake.url, ref="v1").history()["message"].tolist()[0] == "Add exams"


# -- one writer ------------------------------------------------------------------------------------


def test_writer_lock__released_after_an_exception(tmp_path: Path) -> None:
    lake = create_lake(str(tmp_path / "a.lake"))

    def fail_while_writing() -> None:
        with lake.writing():
            assert is_locked(lake.url)
            assert lock_owner(lake.url)["process"] == os.getpid()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_while_writing()
    assert not is_locked(lake.url)
    assert lock_owner(lake.url) is None
    with lake.writing():
        pass


READER = """
import sys
import qmri_lake as ql
lake = ql.open_lake(sys.argv[1], mode="r")
print(int(lake.status().loc["t2", "done"]), repr(lake).count("exams"))
print(int(lake.load("msme").t2.isel(exam=0).notnull().sum().compute()))
print(lake.doctor())
try:
    ql.open_lake(sys.argv[1]).run("t2", r2_min=0.1)
except ql.errors.LakeLockedError as error:
    print(error)
"""


def test_open_lake__without_write_permission(tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "a.lake", 2)
    lake.run("t2")
    fitted = int(np.isfinite(lake.root["msme/t2"][0]).sum())
    paths = [tmp_path / "a.lake", *(tmp_path / "a.lake").rglob("*")]
    for path in paths:
        path.chmod(path.stat().st_mode & 0o555)
    # Root may write everywhere, unless it gives that up.
    prefix = ["setpriv", "--bounding-set", "-dac_override"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*prefix, sys.executable, "-c", READER, lake.url],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    for path in paths:
        path.chmod(path.stat().st_mode | 0o200)
    assert done.returncode == 0, done.stderr
    states, values, doctor, refused = done.stdout.splitlines()
    assert states.startswith("2 ")
    assert int(values) == fitted
    assert doctor.endswith("nothing to do")
    assert "the folder is not writable" in refused
    assert 'Open it with mode="r" to read.' in refused


def test_create_lake__folder_that_is_not_writable() -> None:
    with pytest.raises(NotALakeError, match=r"/proc/x\.lake: the folder is not writable") as caught:
        create_lake("/proc/x.lake")
    assert "\n" not in str(caught.value)


# -- conflicts -------------------------------------------------------------------------------------


def in_memory() -> icechunk.Repository:
    """A lake of ten exams in memory, where no lock keeps two committers apart."""
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    commit(repo, lambda session: initialise(session, "1", None), "Create the lake")

    def build(session: icechunk.Session) -> None:
        append_exams(session, keys(10))
        declare_status(open_root(session.store, "r+"), "t2", 10)

    commit(repo, build, "Add exams")
    return repo


def marks(rows: list[int]) -> Transaction:
    change = Transaction()
    for row in rows:
        change.set_state("t2", row, "done", 2, f"row {row}")
    return change


def test_commit__applied_again_after_a_conflict() -> None:
    repo = in_memory()
    bases = []

    def overtaken(session: icechunk.Session) -> None:
        bases.append(session.snapshot_id)
        if len(bases) < 3:  # another committer is faster, twice, on the very same chunks
            commit(repo, marks([len(bases)]), "The other")
        marks([8, 9])(session)

    snapshot = commit(repo, overtaken, "Ours")
    assert len(set(bases)) == 3
    root = open_root(repo.readonly_session("main").store)
    assert np.flatnonzero(read_status(root, "t2", 10).state).tolist() == [1, 2, 8, 9]
    assert root["status/t2/message"][:][[1, 2, 8, 9]].tolist() == [
        "row 1",
        "row 2",
        "row 8",
        "row 9",
    ]
    messages = [info.message for info in repo.ancestry(snapshot_id=snapshot)]
    assert messages[:4] == ["Ours", "The other", "The other", "Add exams"]


def test_commit__merges_the_same_forks_again(tmp_path: Path) -> None:
    repo = array_lake(tmp_path / "a.lake", 10).repo

    def declare_maps(session: icechunk.Session) -> None:
        root = open_root(session.store, "r+")
        declare_status(root, "t2", 10)
        group = root.create_group("maps")
        group.create_array("a", shape=(10, 2), chunks=(1, 2), dtype="f4", fill_value=np.nan)

    commit(repo, declare_maps, "Declare maps")
    base = repo.writable_session("main")
    changes = []
    for row in (3, 4):  # two committers, whose forks have one base
        fork = base.fork()
        open_root(fork.store, "r+")["maps/a"][row] = row
        change = marks([row])
        change.forks.append(fork)
        changes.append(change)
    calls = 0

    def overtaken(session: icechunk.Session) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            commit(repo, changes[0], "The other")
        changes[1](session)

    commit(repo, overtaken, "Ours")
    assert calls == 2
    root = open_root(repo.readonly_session("main").store)
    assert np.flatnonzero(np.isfinite(root["maps/a"][:, 0])).tolist() == [3, 4]
    assert np.flatnonzero(read_status(root, "t2", 10).state == STATE["done"]).tolist() == [3, 4]


@pytest.mark.slow
def test_commit__gives_up() -> None:
    repo = in_memory()
    other = iter(range(100))

    def always_late(session: icechunk.Session) -> None:
        commit(repo, marks([next(other) % 8]), "The other")
        marks([9])(session)

    with pytest.raises(CommitConflictError, match="other commits were faster 20 times in a row"):
        commit(repo, always_late, "Ours")


def test_commit__nothing_to_commit() -> None:
    repo = in_memory()
    before = repo.lookup_branch("main")
    assert commit(repo, lambda session: append_exams(session, keys(10)), "Again") == before
    assert repo.lookup_branch("main") == before


def test_disk_full__by_number() -> None:
    assert disk_full(OSError(28, "No space left on device"), "a").found == "no space left"
    assert disk_full(OSError(27, "File too large"), "a").found == "a limit on file size"
    assert disk_full(ValueError("x (os error 122)"), "a") is not None
    assert disk_full(ValueError("os error 2"), "a") is None
    assert disk_full(icechunk.IcechunkError("no (os error 28)"), "a").found == "no space left"
    wrapped = ValueError("wrapped")
    wrapped.__cause__ = OSError(28, "No space left on device")
    assert disk_full(wrapped, "a") is not None
    for text in ("File too large for model", "No space left in the joint", "Errno 28"):
        assert disk_full(ValueError(text), "a") is None


# -- stock xarray ----------------------------------------------------------------------------------

STOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "qmri_lake":
            raise ImportError("blocked")

sys.meta_path.insert(0, Blocked())
try:
    import qmri_lake
except ImportError:
    pass
else:
    raise SystemExit("qmri_lake can be imported")
import icechunk, numpy as np, xarray as xr
storage = icechunk.local_filesystem_storage(sys.argv[1])
session = icechunk.Repository.open(storage).readonly_session("main")
tree = xr.open_datatree(session.store, engine="zarr", consolidated=False)
msme = tree["msme"]
found = {name: msme[name].values for name in ("image", "cartilage", "t2", "t2_status", "affine")}
found["kl"], found["sex"] = tree["clinical/kl"].values, tree["clinical/sex"].values
found["patient"] = tree["patient"].values
found["knee"] = tree["knee"].values.astype(object).astype("U")
found["state"] = tree["status/t2/state"].values
found["inherited"] = msme["exam"].values.astype(object).astype("U")
assert msme["image"].dims == ("exam", "echo", "slice", "row", "column"), msme["image"].dims
assert msme["t2"].attrs["units"] == "ms"
assert "femoral" in msme["cartilage"].attrs["flag_meanings"]
np.savez(sys.argv[2], **found)
"""


def test_stock_xarray__same_values(tmp_path: Path) -> None:
    from qmri_lake.schema.builtin import REGISTRY
    from qmri_lake.store.transaction import declare

    lake = array_lake(tmp_path / "a.lake", 4)
    lake.run("t2")

    def add_clinical(session: icechunk.Session) -> None:
        root = open_root(session.store, "r+")
        declare(root, REGISTRY.group("clinical"))
        root["clinical/kl"][:2] = [0, 3]
        root["clinical/sex"][:2] = [1, 2]

    commit(lake.repo, add_clinical, "Add clinical columns")
    lake.refresh()
    out = tmp_path / "found.npz"
    done = subprocess.run(
        [sys.executable, "-c", STOCK, lake.url, str(out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    with np.load(out) as found:
        for name in ("image", "cartilage", "t2", "t2_status", "affine"):
            stored = lake.root[f"msme/{name}"]
            np.testing.assert_array_equal(found[name], stored[:], err_msg=name)
            assert found[name].dtype == stored.dtype, name
        np.testing.assert_array_equal(found["kl"], [0, 3, np.nan, np.nan])
        np.testing.assert_array_equal(found["sex"], np.array([1, 2, 255, 255], np.uint8))
        assert found["state"].dtype == found["sex"].dtype == np.uint8
        assert found["patient"].tolist() == lake.exams["patient"].tolist()
        assert found["knee"].tolist() == lake.exams["knee"].tolist()
        assert found["inherited"].tolist() == lake.exams["exam"].tolist()


def test_commit__with_a_lost_response(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client repeats the request, and the commit is made once, whichever response is lost."""
    with ObjectStore() as store:
        store.set_environment(monkeypatch)
        lake, client = create_lake("s3://writer/a.lake"), store.client("writer")

        def start_run(session: icechunk.Session) -> None:
            root = open_root(session.store, "r+")
            Transaction(runs={next_run(root): {"step": "t2"}})(session)

        before = client.requests
        commits = [commit(lake.repo, start_run, "Start a run")]
        for request in range(1, client.requests - before + 1):
            client.loses = {client.requests + request}
            commits.append(commit(lake.repo, start_run, "Start a run"))
        lake.refresh()
        assert sorted(lake.runs().index) == list(range(1, len(commits) + 1))
        assert lake.history()["snapshot"].tolist()[: len(commits)] == commits[::-1]
