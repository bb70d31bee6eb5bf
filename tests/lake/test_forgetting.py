"""`forget` removes everything of a patient from a lake and its history, and nothing else."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.core.patient_traces import REMOVED, PatientTraces
from qmri_lake.core.text import format_bytes
from qmri_lake.errors import LakeLockedError, NotFoundError, RunError, UnknownRefError
from qmri_lake.execution.events import ExamDone
from qmri_lake.lake import forgetting
from qmri_lake.phantom import write_archive
from qmri_lake.store import lock, snapshot
from qmri_lake.store.arrays import open_root
from qmri_lake.store.lock import writer_lock
from qmri_lake.store.repository import commit
from qmri_lake.store.trace_search import search_objects
from qmri_lake.store.transaction import Transaction, append_exams
from tests.conftest import Judge
from tests.fixtures import add_clinical, add_visits, array_lake
from tests.store.test_formats import READABLE, unpacked

Capture = pytest.CaptureFixture[str]
PATIENT = 9000002
"""Has both knees at two visits, rows 4 to 7 of 14; the last four exams must fill them or move."""
EXAMS = 14


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake after import, tables, two runs, a failed exam, and two tags."""
    path = tmp_path_factory.mktemp("forget") / "x.lake"
    lake = array_lake(path, EXAMS)
    lake.repo.create_tag("empty", lake.history()["snapshot"].iloc[1])
    add_clinical(lake, age=50.0 + np.arange(EXAMS), kl=np.arange(EXAMS) % 5)
    add_visits(lake)
    lake.run("t2", within="all", commit_every=5)
    lake.tag("v1")

    def mention(session: Any) -> None:
        root = open_root(session.store, "r+")
        change = Transaction()
        key = f"{PATIENT}-000m-left"
        change.set_state("t2", 0, "failed", 2, f"same images as {key} in /oai/{PATIENT}/1")
        change.set_state("t2", 5, "failed", 2, "no signal")
        change.runs[9] = {
            "step": "t2",
            "parameters": {"exams": [key], "but": PATIENT, "n": 7},
            "version": "1",
        }
        change(session)
        root["msme/t2"].attrs["note"] = f"without {PATIENT}"

    commit(lake.repo, mention, f"Repair {PATIENT}-000m-left")
    return path


@pytest.fixture(scope="module")
def small_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with few arrays and the same exams and tags."""
    path = tmp_path_factory.mktemp("small") / "x.lake"
    lake = array_lake(path, EXAMS)
    lake.repo.create_tag("empty", lake.history()["snapshot"].iloc[1])
    lake.run("t2", within="all", commit_every=5)
    lake.tag("v1")
    return path


@pytest.fixture
def small(small_source: Path, tmp_path: Path) -> ql.Lake:
    return ql.open_lake(str(shutil.copytree(small_source, tmp_path / "x.lake")))


@pytest.fixture
def lake(source: Path, tmp_path: Path) -> ql.Lake:
    return ql.open_lake(str(shutil.copytree(source, tmp_path / "x.lake")))


def content(lake: ql.Lake) -> dict[tuple[str, str], Any]:
    """Return each value of each exam and visit, by the path of the array and the key."""
    found: dict[tuple[str, str], Any] = {}

    def walk(group: Any, path: str) -> None:
        for name, array in group.arrays():
            axis = array.metadata.dimension_names[0]
            if axis == "exam":
                keys = lake.root["exam"][:].tolist()
            elif axis == "visit":
                columns = [group[key][:].tolist() for key in ("patient", "timepoint", "knee")]
                keys = ["visit-{}-{}-{}".format(*row) for row in zip(*columns, strict=True)]
            else:
                keys = [str(n) for n in range(array.shape[0])]
            values = array[...]
            for key, value in zip(keys, values, strict=True):
                found[f"{path}{name}", key] = np.asarray(value)
        for name, child in group.groups():
            walk(child, f"{path}{name}/")

    walk(lake.root, "")
    return found


def of_patient(key: str, patient: int = PATIENT) -> bool:
    return str(patient) in key


def different(lake: ql.Lake, before: dict[tuple[str, str], Any], patient: int = PATIENT) -> list:
    """Return what differs of the other exams; texts that named the patient may."""
    after = content(lake)
    expected = {
        place: value for place, value in before.items() if not of_patient(place[1], patient)
    }
    assert after.keys() == expected.keys()
    return [place for place, value in expected.items() if not same(value, after[place], patient)]


def same(value: np.ndarray, other: np.ndarray, patient: int) -> bool:
    if value.dtype.kind == "U":
        return value == other or (of_patient(str(value), patient) and REMOVED in str(other))
    equal = value.tobytes() == other.tobytes()
    return equal and (value.dtype, value.shape) == (other.dtype, other.shape)


def traces(lake: ql.Lake, patient: int = PATIENT) -> int:
    return len(search_objects(lake.location, PatientTraces(patient)).found)


def test_forget__removes_every_trace_and_keeps_all_other_values(lake: ql.Lake) -> None:
    before, objects = content(lake), traces(lake)
    assert objects >= 6  # keys, ids of exams and visits, messages, runs, attributes
    with pytest.raises(RunError, match=r"the tag v1 contains the patient .*--delete-tags"):
        lake.forget(PATIENT)
    assert traces(lake) == objects

    planned = lake.forget(PATIENT, dry_run=True)
    assert traces(lake) == objects
    assert planned.exams == tuple(key for key in lake.exams["exam"] if of_patient(key))
    assert len(planned.exams) == 4
    assert (planned.visits, planned.tags, planned.kept_tags) == (4, ("v1",), ("empty",))
    assert planned.size > 0
    assert not planned.done
    history = lake.history()["snapshot"].tolist()
    assert planned.commits == len(history) - 2  # the first, and the one of the kept tag

    done = lake.forget(PATIENT, delete_tags=True)
    assert done.search is not None
    assert done.search.found == ()
    files = sum(path.is_file() for path in Path(lake.url).rglob("*"))
    assert done.search.objects >= files - 1  # checksums.txt may be written afterwards
    assert (done.exams, done.commits) == (planned.exams, planned.commits)
    assert traces(lake) == 0

    assert len(lake) == EXAMS - 4
    assert different(lake, before) == []
    assert lake.history()["snapshot"].tolist()[1:] == history[-1:]
    assert lake.tags() == ["empty"]
    assert len(ql.open_lake(lake.url, ref="empty")) == 0
    with pytest.raises(UnknownRefError):
        ql.open_lake(lake.url, ref=history[0])
    again = ql.open_lake(lake.url)
    assert again.validate(deep=True) == []
    assert again.doctor().unfinished_removal is False
    assert again.run("t2", within="all").up_to_date == EXAMS - 4 - 1  # one exam failed
    assert again.load("msme", patient=9000004).t2.notnull().any().compute()


def test_forget__replaces_mentions_in_texts_of_other_exams(lake: ql.Lake) -> None:
    assert lake.forget(PATIENT, dry_run=True).mentions == 3
    lake.forget(PATIENT, delete_tags=True)
    message = lake.failures("t2").set_index("exam")["message"]
    assert message.tolist() == [f"same images as {REMOVED} in /oai/{REMOVED}/1"]
    parameters = lake.runs().loc[9, "parameters"]
    assert parameters == {"exams": [REMOVED], "but": REMOVED, "n": 7}
    assert lake.root["msme/t2"].attrs["note"] == f"without {REMOVED}"
    assert lake.root["msme/t2"].attrs["units"] == "ms"


@pytest.mark.accept
@pytest.mark.parametrize("patient", [9000001, 9000004])
def test_forget__first_and_last_patients(lake: ql.Lake, patient: int) -> None:
    """The last patient has one visit, and no exam needs to move."""
    before = content(lake)
    lake.forget(patient, delete_tags=True)
    assert different(lake, before, patient) == []
    assert traces(lake, patient) == 0


def test_forget__the_only_patient_leaves_an_empty_lake(tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "x.lake", 3)
    lake.forget(9000001)
    assert len(lake) == 0
    assert lake.validate(deep=True) == []


def test_forget__exams_added_later_begin_empty(small: ql.Lake) -> None:
    """The values of removed rows must not come back when the arrays become longer again."""
    small.forget(PATIENT, delete_tags=True)
    new = pd.DataFrame({"patient": [9000009] * 4, "timepoint": [0, 12, 24, 36], "knee": "left"})
    commit(small.repo, lambda session: append_exams(session, new), "Add exams")
    small.refresh()
    filled = []
    for (path, key), value in content(small).items():
        if key.startswith("9000009") and "/" in path:
            fill = np.asarray(small.root[path].fill_value, value.dtype)
            same = np.array_equal(
                value, np.broadcast_to(fill, value.shape), equal_nan=value.dtype.kind == "f"
            )
            if not same:
                filled.append(path)
    assert filled == []


def test_forget__again_says_so_in_one_line(small: ql.Lake) -> None:
    small.forget(PATIENT, delete_tags=True)
    snapshot_before = small.snapshot
    text = str(small.forget(PATIENT))
    assert "\n" not in text
    assert (
        f"no exam, visit or mention of patient {PATIENT}: removed before "
        "(1 removal in this lake), or never ingested; 0 of " in text
    )
    assert small.refresh().snapshot == snapshot_before
    small.forget(9000001)
    assert len(small) == EXAMS - 8
    assert small.removals == 2


def test_forget__unknown_patient_reveals_no_other_number(small: ql.Lake) -> None:
    numbers = {str(number) for number in small.patients}
    for patient, hint in ((9000055, "Check the number"), (900002, "a number with 7 digits")):
        with pytest.raises(NotFoundError, match=hint) as error:
            small.forget(patient)
        text = str(error.value)
        assert "\n" not in text
        assert not [number for number in numbers if number in text]
    with pytest.raises(RunError, match="expected a patient number"):
        small.forget("9000002")  # type: ignore[arg-type]
    with pytest.raises(RunError, match="expected a patient number"):
        small.forget(0)


@pytest.mark.accept
def test_forget__patient_with_visits_only(lake: ql.Lake) -> None:
    before = content(lake)
    done = lake.forget(9999999, delete_tags=True)
    assert (done.exams, done.visits) == ((), EXAMS)
    assert "removed no exam, 14 visit rows" in str(done)
    assert different(lake, before, 9999999) == []


def test_forget__while_another_writer_works(small: ql.Lake) -> None:
    with writer_lock(small.location), pytest.raises(LakeLockedError):
        ql.open_lake(small.url).forget(PATIENT)
    with pytest.raises(LakeLockedError, match="reading only"):
        ql.open_lake(small.url, mode="r").forget(PATIENT)


def test_forget__a_branch_with_the_patient_is_refused(small: ql.Lake) -> None:
    small.repo.create_branch("draft", small.snapshot)
    with pytest.raises(RunError, match="the branch draft contains the patient"):
        small.forget(PATIENT, delete_tags=True)
    assert len(small.refresh()) == EXAMS


def test_forget__a_variant_named_after_the_patient_is_refused(small: ql.Lake) -> None:
    small.run("t2", "knee == 'left'", within="all", variant=f"of_{PATIENT}")
    with pytest.raises(RunError, match=f"__of_{PATIENT} contains the number"):
        small.forget(PATIENT, delete_tags=True)
    assert len(small.refresh()) == EXAMS
    assert small.tags() == ["empty", "v1"]


def test_forget__removes_files_of_killed_writers(small: ql.Lake) -> None:
    chunk = next((Path(small.url) / "chunks").iterdir())
    partial = chunk.with_name(f"{chunk.name}#1")
    partial.write_bytes(f"{PATIENT}-000m-left".encode())
    assert small.forget(PATIENT, delete_tags=True).done
    assert not partial.exists()


def test_forget__a_trace_that_is_left_is_an_error_that_names_the_object(small: ql.Lake) -> None:
    (Path(small.url) / "notes.txt").write_text(f"ask {PATIENT} again")
    with pytest.raises(RunError, match=r"1 object still contains the number .*: notes\.txt"):
        small.forget(PATIENT, delete_tags=True)


@pytest.mark.accept
@pytest.mark.parametrize("stage", ["expire_snapshots", "garbage_collect"])
def test_forget__interrupted_after_the_commit_is_completed_by_a_second_call(
    small: ql.Lake, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(small)

    def interrupted(small: ql.Lake, limit: Any, unneeded: Any) -> int:
        if stage == "garbage_collect":
            small.repo.expire_snapshots(limit)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(forgetting, "expire_commits", interrupted)
        with pytest.raises(KeyboardInterrupt):
            small.forget(PATIENT, delete_tags=True)
    opened = ql.open_lake(small.url)
    assert len(opened) == EXAMS - 4
    assert traces(opened) >= 2
    if stage == "expire_snapshots":
        assert "Repeat `qmri-lake forget PATIENT`" in str(opened.doctor())
        assert opened.forget(PATIENT, dry_run=True).commits > 3
    opened.forget(PATIENT)
    assert traces(opened) == 0
    assert different(opened, before) == []


@pytest.mark.accept
def test_forget__damaged_volumes_of_other_exams_stay_what_they_are(small: ql.Lake) -> None:
    """Volumes are moved without decoding, so a damaged one does not prevent the removal."""
    damaged = [p for p in (Path(small.url) / "chunks").iterdir() if p.stat().st_size > 10_000]
    assert len(damaged) >= EXAMS
    for path in damaged:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    small.forget(np.int64(PATIENT), delete_tags=True)
    assert len(small) == EXAMS - 4
    faults = small.validate(deep=True)
    assert len([fault for fault in faults if "msme/image" in fault]) == EXAMS - 4


@pytest.mark.accept
@pytest.mark.parametrize("archive", READABLE, ids=lambda path: path.name)
def test_forget__lakes_of_earlier_versions(archive: Path, tmp_path: Path) -> None:
    lake = ql.open_lake(unpacked(archive, tmp_path)[0])
    before, patient = content(lake), int(lake.patients[0])
    lake.forget(patient, delete_tags=True)
    assert different(lake, before, patient) == []
    assert traces(lake, patient) == 0
    assert lake.validate(deep=True) == []


@contextlib.contextmanager
def like_an_object_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let several writers work at the same time, as on an object store, which has no lock."""
    with monkeypatch.context() as patch:
        patch.setattr(lock, "is_local", lambda url: False)
        patch.setattr(forgetting, "is_local", lambda url: False)
        patch.setattr(snapshot, "check_folder", lambda url: None)
        yield


@pytest.mark.accept
def test_forget__other_writers_without_a_lock_stop_and_can_start_again(
    lake: ql.Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(lake)

    def remove(event: object) -> None:
        if isinstance(event, ExamDone) and event.exam == "9000001-024m-left":
            ql.open_lake(lake.url).forget(PATIENT, delete_tags=True)

    with like_an_object_store(monkeypatch):
        with pytest.raises(RunError, match="another process has removed a patient"):
            lake.run("t2", within="all", variant="c", listeners=[remove], commit_every=3)
        lake.refresh()
        kept = {place: v for place, v in content(lake).items() if "__c" not in place[0]}
        assert {p for p in before if not of_patient(p[1])} <= kept.keys()
        lake.run("t2", within="all", variant="c")
        lake.run("t2", within="all", retry_failed=True)
        assert lake.validate(deep=True) == []
        same = lake.load("msme", "knee == 'left'")
        np.testing.assert_array_equal(same.t2__c.values, same.t2.values)
        lake.forget(PATIENT)
    assert traces(lake) == 0


def test_cohort__of_before_the_removal_is_refused(small: ql.Lake) -> None:
    cohort, listed = small.cohort("knee == 'left'"), small.cohort().exams["exam"].tolist()
    other = ql.open_lake(small.url).cohort()
    small.forget(PATIENT, delete_tags=True)
    for use in (
        lambda: cohort.exams,
        lambda: cohort.load("msme"),
        lambda: cohort.where("timepoint == 0"),
        lambda: small.run("t2", cohort),
        lambda: small.status(other),
    ):
        with pytest.raises(RunError, match="removed from the lake after the cohort was selected"):
            use()
    assert len(small.cohort(ids=[key for key in listed if not of_patient(key)])) == EXAMS - 4


@pytest.mark.accept
def test_forget__lists_derived_lakes_and_models_and_changes_neither(
    small: ql.Lake, tmp_path: Path
) -> None:
    study = small.derive(
        str(tmp_path / "s.lake"), f"patient == {PATIENT} or knee == 'left'", ["msme/t2"]
    )
    other = small.derive(str(tmp_path / "o.lake"), "patient == 9000001", ["msme/t2"])
    key, elsewhere = f"{PATIENT}-000m-left", "9000001-000m-left"
    folders = {}
    for name, record in {
        "trained": {"members": {"a-1": {"train": [key], "test": [elsewhere]}}},
        "tested": {"train": [elsewhere], "test": [key]},
        "clean": {"train": [elsewhere], "test": []},
    }.items():
        folders[name] = tmp_path / name
        folders[name].mkdir()
        (folders[name] / "split.json").write_text(json.dumps(record))
    folders["card"] = tmp_path / "card"
    folders["card"].mkdir()
    (folders["card"] / "card.json").write_text(json.dumps({"small": {"name": "x.lake"}}))
    files = {p: p.read_bytes() for folder in folders.values() for p in folder.iterdir()}

    done = small.forget(
        PATIENT,
        delete_tags=True,
        derived=[study.url, other.url],
        models=list(folders.values()),
    )
    lines = {line.split(": ")[0]: line for line in done.lines()}
    assert "4 exams and 1 mention (derived from x.lake at " in lines[study.url]
    assert "Run `qmri-lake forget` on this lake too" in lines[study.url]
    assert "nothing of the patient" in lines[other.url]
    assert (
        "listed in train. A trained model cannot unlearn a patient"
        in lines[str(folders["trained"])]
    )
    assert "train again without the patient" in lines[str(folders["trained"])]
    assert "did not learn from a test set" in lines[str(folders["tested"])]
    assert "nothing of the patient" in lines[str(folders["clean"])]
    assert "does not list exams" in lines[str(folders["card"])]
    assert files == {path: path.read_bytes() for path in files}
    assert len(ql.open_lake(study.url)) == len(study)
    with pytest.raises(NotFoundError, match="not a model folder"):
        small.forget(9000001, models=[tmp_path / "absent"])
    assert len(small.refresh()) == EXAMS - 4

    before = content(study)
    forgotten = study.forget(PATIENT)
    assert "x.lake: the source of this lake may contain the patient" in str(forgotten)
    assert different(study, before) == []
    assert traces(study) == 0
    assert REMOVED in study.origin.flow["condition"].iloc[-1]


def test_forget_command__shows_asks_and_removes(
    small: ql.Lake, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["forget", str(PATIENT), "--lake", small.url]
    assert main([*command, "--dry-run"]) == 0
    out = capsys.readouterr().out.replace("\n", " ")
    assert "would remove 4 exams (9000002-000m-right," in out
    assert "1 tag with the patient must be deleted (--delete-tags): v1" in out
    assert main(command) == 2
    assert "Remove?" not in capsys.readouterr().out
    command.append("--delete-tags")
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert main(command) != 0
    assert "This can't be undone. Remove? [y/N]" in capsys.readouterr().out
    assert len(ql.open_lake(small.url)) == EXAMS
    assert main([*command, "--yes"]) == 0
    out = capsys.readouterr().out.replace("\n", " ")
    assert "removed 4 exams" in out
    assert "contain the number of the patient or a key of an exam" in out
    assert main(command) == 0  # nothing to ask
    assert "removed before (1 removal in this lake), or never ingested" in " ".join(
        capsys.readouterr().out.split()
    )
    assert main(["forget", "9000001-000m-left", "--lake", small.url]) == 2
    captured = capsys.readouterr()
    assert "Did you mean 9000001?" in " ".join((captured.out + captured.err).split())


KILLS = 25
FORGET = """
import sys
import qmri_lake as ql
lake = ql.open_lake(sys.argv[1])
print("ready", flush=True)
lake.forget(int(sys.argv[2]), delete_tags=True)
print("done", flush=True)
"""


def killed_forget(url: str, after: float) -> tuple[float, bool]:
    """Start to remove the patient and kill the process; return its seconds and if it had ended."""
    command = [sys.executable, "-c", FORGET, url, str(PATIENT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        start = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(after)
        process.send_signal(signal.SIGKILL)
        return time.monotonic() - start, process.stdout.read() == "done\n"


@pytest.mark.accept
@pytest.mark.timeout(1800)
def test_forget__killed_at_any_moment(small: ql.Lake, tmp_path: Path, judge: Judge) -> None:
    before = content(small)
    seconds, ended = killed_forget(str(shutil.copytree(small.url, tmp_path / "0.lake")), 300)
    assert ended
    rng = np.random.default_rng(0)
    partly = wrong = left = complete = removed = 0
    for number in range(1, KILLS + 1):
        url = str(shutil.copytree(small.url, tmp_path / f"{number}.lake"))
        complete += killed_forget(url, rng.uniform(0, seconds))[1]
        opened = ql.open_lake(url)
        partly += len(opened) not in (EXAMS, EXAMS - 4)
        removed += len(opened) == EXAMS - 4
        if len(opened) == EXAMS:
            partly += content(opened).keys() != before.keys()
        opened.forget(PATIENT, delete_tags=True)
        left += traces(opened)
        wrong += len(different(opened, before))
        assert ql.open_lake(url).doctor().healthy
        shutil.rmtree(url)
    judge(
        f"forget / killed {KILLS} times, and called again",
        required="0 lakes in between; then 0 traces, and 0 values of other exams differ",
        measured=f"{partly} in between, {left} traces, {wrong} differ; after the kill, {removed} "
        f"had committed and {complete} had ended",
        passed=not (partly or left or wrong),
    )


@pytest.mark.accept
@pytest.mark.timeout(1800)
def test_forget__a_patient_of_an_ingested_delivery(tmp_path: Path, judge: Judge) -> None:
    archive = write_archive(tmp_path / "oai", exams=12, shape=(16, 48, 48))
    lake = ql.ingest(archive.path, tmp_path / "x.lake", masks=archive.path / "truth").lake
    lake.run("check_masks")
    lake.tag("masks")
    lake.run("t2", within="all")
    lake.tag("v1")
    counts = lake.exams["patient"].value_counts()
    patient = int(counts.index[0])
    study = lake.derive(str(tmp_path / "s.lake"), None, ["msme/t2", "clinical", "visit"])
    found = traces(lake, patient), traces(study, patient)
    missed = changed = values = 0
    searches = []
    for one in (lake, study):
        before = content(one)
        done = one.forget(patient, delete_tags=True)
        assert done.search is not None
        searches.append(done.search)
        missed += len(done.search.found) + len(named_in_values(one, patient))
        changed += len(different(one, before, patient))
        values += len(content(one))
    judge(
        "forget / a patient of a delivery, and of a lake derived from it",
        required="a search of all objects, also decompressed, finds neither the number nor a key "
        "of the patient; the other exams are bit-equal",
        measured=f"{found[0]} and {found[1]} objects with traces before, {missed} after, in "
        f"{sum(s.objects for s in searches):,} objects of "
        f"{format_bytes(sum(s.stored for s in searches))} "
        f"({format_bytes(sum(s.decompressed for s in searches))} decompressed); {changed} of "
        f"{values:,} values differ, {counts.iloc[0]} exams removed",
        passed=missed == 0 and changed == 0 and min(found) > 0,
    )


def named_in_values(lake: ql.Lake, patient: int) -> list[str]:
    """Return the arrays and commits that name a patient, as read by Zarr and Icechunk."""
    named = [path for (path, _), value in content(lake).items() if str(patient) in str(value)]
    named += [info.id for info in lake.repo.ancestry(branch="main") if str(patient) in str(info)]
    return named
