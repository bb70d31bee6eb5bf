"""The command line as a user types it: output, errors of one line, exit codes."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import icechunk
import pandas as pd
import pytest

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.cli._machine import describe
from qmri_lake.execution.run import Committed, ExamDone, RunStarted
from qmri_lake.execution.step import find_step
from qmri_lake.phantom import Archive, write_archive
from qmri_lake.relaxometry.fit_status import FitStatus
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.transaction import Transaction
from qmri_lake.training.events import EpochDone
from tests.conftest import Judge
from tests.fixtures import array_lake, interruptible

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("QMRI_LAKE", raising=False)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return write_archive(tmp_path_factory.mktemp("oai") / "a", exams=3, shape=(16, 48, 48))


@pytest.fixture(scope="module")
def url(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A lake of three exams, with T2 and a tag; never changed by a test."""
    path = str(tmp_path_factory.mktemp("lake") / "oai.lake")
    lake = ql.ingest(archive.path, path, masks=archive.truth).lake
    lake.run("t2")
    lake.tag("v1")
    return path


@pytest.mark.accept
def test_phantom_ingest_run__computes_t2_of_a_synthetic_oai(
    tmp_path: Path, capsys: Capture
) -> None:
    out, lake = str(tmp_path / "oai"), str(tmp_path / "l.lake")
    assert main(["phantom", out, "--exams", "2", "--shape", "16x48x48", "--seed", "5"]) == 0
    assert f"--masks {out}/truth" in capsys.readouterr().out.replace("\n", "")
    assert main(["ingest", out, "--lake", lake, "--masks", f"{out}/truth"]) == 0
    assert "added 2 dess series, 2 msme series, masks of 2 exams" in capsys.readouterr().out
    assert main(["run", "t2", "--lake", lake]) == 0
    assert capsys.readouterr().out.startswith("t2: 2 done")
    assert main(["run", "t2", "-l", lake, "--set", "r2_min=none", "--set", "bounds=0,80"]) == 0
    record = ql.open_lake(lake).runs().iloc[-1]
    assert record["parameters"] == {
        "within": "cartilage",
        "model": "mono",
        "skip_first_echo": True,
        "bounds": [0, 80],
        "r2_min": None,
    }


@pytest.mark.slow
def test_ingest__lists_problems_and_returns_1(
    archive: Archive, tmp_path: Path, capsys: Capture
) -> None:
    dess = (f for f in archive.path.glob("00m/*/*/*/*") if len(list(f.iterdir())) == 16)
    folder = next(dess)
    (tmp_path / "one").mkdir()
    for path in folder.iterdir():
        (tmp_path / "one" / path.name).write_bytes(path.read_bytes())
    sorted((tmp_path / "one").iterdir())[0].write_bytes(b"")
    table = tmp_path / "problems.csv"
    lake = str(tmp_path / "l.lake")
    assert main(["ingest", str(tmp_path / "one"), "--lake", lake, "--problems", str(table)]) == 1
    printed = capsys.readouterr()
    assert "truncated_file" in printed.out
    assert "Traceback" not in printed.out + printed.err
    assert list(pd.read_csv(table)["reason"]) == ["truncated_file"]


def test_info__shows_exams_steps_and_commits(url: str, capsys: Capture) -> None:
    assert main(["info", url]) == 0
    printed = capsys.readouterr().out
    for word in ("3 exams", "16 x 48 x 48", "Steps", "of these imported", "Last commits", "v1"):
        assert word in printed
    assert main(["info", url, "--ref", "v1"]) == 0


def test_lake__is_read_from_the_environment(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("QMRI_LAKE", url)
    assert main(["info"]) == 0
    assert main(["cohort", "knee == 'right'"]) == 0


def test_cohort__shows_the_flow_and_writes_a_table(
    url: str, tmp_path: Path, capsys: Capture
) -> None:
    csv = tmp_path / "c.csv"
    arguments = ["cohort", "knee == 'right'", "--lake", url, "--require", "msme/t2"]
    assert main([*arguments, "--csv", str(csv)]) == 0
    printed = capsys.readouterr().out
    assert "has msme/t2" in printed
    table = pd.read_csv(csv)
    assert set(table["knee"]) == {"right"}
    assert {"exam", "age", "kl"} <= set(table.columns)


def test_run__plan_computes_nothing(url: str, capsys: Capture) -> None:
    before = ql.open_lake(url).snapshot
    assert main(["run", "t2", "--lake", url, "--plan", "--set", "within=all"]) == 0
    assert "to compute" in capsys.readouterr().out
    assert ql.open_lake(url).snapshot == before


def test_run__reports_failed_exams(tmp_path: Path, capsys: Capture) -> None:
    lake = array_lake(tmp_path / "l.lake")

    def remove_masks(session: icechunk.Session) -> None:
        cartilage = open_root(session.store, "r+")["msme/cartilage"]
        cartilage[:] = cartilage.fill_value

    commit(lake.repo, remove_masks, "Remove masks")
    assert main(["run", "t2", "--lake", lake.url]) == 1
    printed = capsys.readouterr().out
    assert "6 failed" in printed
    assert main(["failures", lake.url, "--step", "t2"]) == 1
    assert "9000001-000m-right" in capsys.readouterr().out


def test_failures__shows_brackets_in_a_message(tmp_path: Path, capsys: Capture) -> None:
    lake = array_lake(tmp_path / "old [x] [/y].lake")
    change = Transaction(runs={2: {"step": "t2", "parameters": {}, "version": "1"}})
    change.set_state("t2", 0, "failed", 2, "index [3] of [/b] is wrong")
    commit(lake.repo, change, "Fail")
    assert main(["failures", lake.url]) == 1
    assert "index [3] of [/b] is wrong" in capsys.readouterr().out
    assert main(["info", lake.url]) == 0
    assert "old [x] [/y].lake" in capsys.readouterr().out


def test_validate_doctor_tag_failures__on_a_sound_lake(tmp_path: Path, capsys: Capture) -> None:
    url = array_lake(tmp_path / "l.lake").url
    assert main(["validate", url, "--deep"]) == 0
    assert "no faults" in capsys.readouterr().out
    assert main(["failures", url]) == 0
    assert "no failures" in capsys.readouterr().out
    assert main(["doctor", url]) == 0
    assert main(["tag", "v2", "--lake", url]) == 0
    assert ql.open_lake(url).tags() == ["v2"]


def test_catalog__is_written(url: str, tmp_path: Path, capsys: Capture) -> None:
    import intake

    path = str(tmp_path / "c.yaml")
    assert main(["catalog", path, "--lake", url]) == 0
    assert intake.open_catalog(path)(query="knee == 'left'").msme.read().sizes["exam"] >= 1


@pytest.mark.slow
def test_run__names_the_step_that_exams_wait_for(
    archive: Archive, tmp_path: Path, capsys: Capture
) -> None:
    lake = str(tmp_path / "l.lake")
    ql.ingest(archive.path, lake)
    assert main(["run", "t2", "--lake", lake]) == 0
    printed = capsys.readouterr().out
    assert "3 waiting for register" in printed
    assert "--set within=all" in printed
    assert main(["run", "t2", "--lake", lake, "--cohort", "timepoint == 7"]) == 0
    assert "no exam matches timepoint == 7" in capsys.readouterr().out


@pytest.mark.accept
def test_run__counts_imported_and_flagged_exams(
    archive: Archive, tmp_path: Path, capsys: Capture
) -> None:
    lake = str(tmp_path / "l.lake")
    ql.ingest(archive.path, lake, masks=archive.truth)
    assert main(["run", "register", "--lake", lake]) == 0
    printed = capsys.readouterr().out
    assert "3 already done" in printed
    assert "3 of them were imported, not computed" in printed
    assert main(["run", "t2", "--lake", lake]) == 0
    assert main(["run", "t2", "--lake", lake]) == 0
    assert "imported" not in capsys.readouterr().out
    assert (
        main(["run", "region", "--lake", lake]) == 0
    )  # too coarse to find the notch of some knees
    printed = capsys.readouterr().out
    assert "flagged" in printed
    assert "--step region" in printed


def test_run__help_names_every_step_and_parameter(capsys: Capture) -> None:
    assert main(["run", "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    names = "segment_bones segment_cartilage check_masks register t2 sphere region predict_oa"
    for name in (*names.split(), "predict_pain"):
        assert name in printed
        for parameter in inspect.signature(find_step(name).function).parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY:
                assert f"{parameter.name}=" in printed, (name, parameter.name)


@pytest.mark.slow
def test_output__without_a_terminal_has_unbroken_lines(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.delenv("COLUMNS")
    lake = str(tmp_path / "l.lake")
    assert main(["ingest", str(archive.path), "--lake", lake]) == 0
    assert main(["run", "t2", "--lake", lake]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("added")).endswith("; 0 problems")
    assert next(line for line in lines if line.startswith("waiting for register:")).endswith(
        "or use `--set within=all`."
    )


def test_progress__without_a_terminal_prints_lines(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    from qmri_lake.cli import _progress as progress

    with progress.counting("exams") as count:
        count(1, 3)
    assert capsys.readouterr().err == ""  # shorter than the interval
    monkeypatch.setattr(progress, "_INTERVAL", 0.0)
    with progress.counting("exams") as count:
        count(1, 3)
    assert capsys.readouterr().err == "exams 1/3\n"
    with progress.run_bar() as listen:
        listen(RunStarted("t2", 1, 2))
        listen(ExamDone("9000001-000m-right", "flagged", "odd"))
        listen(Committed("ABC", 1))
    first, last = capsys.readouterr().err.splitlines()
    assert first == "t2 1/2 1 flagged"
    assert last == "t2 1/2 1 flagged 1 committed"


def test_progress__lines_of_a_log_have_at_most_120_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    from qmri_lake.cli import _progress as progress

    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(progress, "_INTERVAL", 0.0)
    progress.console.rule("1. a part")
    progress.console.print("word " * 60)  # results are not broken
    rule, text = capsys.readouterr().out.splitlines()
    assert len(rule) == 120
    assert " 1. a part " in rule
    assert len(text.split()) == 60
    with progress.console.as_log():
        progress.console.print("word " * 60)
        progress.console.print("w" * 200)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert max(map(len, lines)) <= 120
    with progress.run_bar() as listen:
        listen(RunStarted("a_step_with_" + "a_long_name_" * 20, 1, 2))
        listen(ExamDone("9000001-000m-right", "done", ""))
    (line,) = capsys.readouterr().err.splitlines()
    assert len(line) == 120
    assert line.endswith(" ...")


def test_progress__time_left_counts_the_time_since_the_last_exam(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    from qmri_lake.cli import _progress as progress

    monkeypatch.setattr(progress, "_INTERVAL", 0.0)
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def remaining(line: str) -> str:
        match = re.search(r"(\S+) left", line)
        return match.group(1) if match else ""

    with progress.counting("exams") as count:
        # An exam takes longer than the 30 seconds that rich uses for its rate.
        for done, wanted in ((1, ""), (2, "0:10:40"), (3, "0:09:20")):
            now[0] += 80
            count(done, 10)
            assert remaining(capsys.readouterr().err) == wanted
        now[0] += 600
        count(3, 10)  # the fourth takes much longer
        assert remaining(capsys.readouterr().err) == "0:32:40"
    with progress.counting("exams") as count:
        now[0] += 60
        count(1, 10)
        capsys.readouterr()
        count(2, 10)  # by another worker, at the same time
        assert remaining(capsys.readouterr().err) == "0:04:00"
    with progress.training_bar() as bar:
        # The first epoch includes compilation and earlier epochs: no remaining time yet.
        now[0] += 40
        bar.epoch(EpochDone("bone_3d-1", 5, 8, 0.5, 0.4, True))
        assert remaining(capsys.readouterr().err) == ""
        now[0] += 40
        bar.epoch(EpochDone("bone_3d-1", 6, 8, 0.5, 0.4, True))
        assert remaining(capsys.readouterr().err) == "0:01:20"


def test_errors__a_lake_given_as_an_option_instead_of_an_argument(
    url: str, capsys: Capture
) -> None:
    assert main(["failures", "--lake", url]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "the lake is an argument, not an option: qmri-lake failures LAKE. See" in error


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_run__stopped_by_a_signal_commits_finished_exams(tmp_path: Path, name: str) -> None:
    # Enough exams that the run is not finished when the signal arrives.
    lake = array_lake(tmp_path / "l.lake", 100, (6, 160, 160))
    command = [sys.executable, "-m", "qmri_lake.cli", "run", "t2", "--lake", lake.url]
    with interruptible():
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    started = len(lake.history())
    while process.poll() is None and len(lake.refresh().history()) == started:
        time.sleep(0.1)
    time.sleep(0.3)
    process.send_signal(getattr(signal, name))
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert printed.splitlines()[-1].startswith("stopped; committed results are safe")
    done = int(lake.refresh().status()["done"].get("t2", 0))
    assert done < 100
    assert len(lake.plan("t2").rows) == 100 - done


@pytest.mark.slow
def test_report__is_written(url: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(["report", str(tmp_path / "r.html"), "--lake", url, "--exams", "1"]) == 0
    assert (tmp_path / "r.html").stat().st_size > 50_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["info", "nowhere.lake"], "no such folder"),
        (["info", "{url}", "--ref", "v7"], "a tag (v1)"),
        (["cohort", "kll >= 2", "--lake", "{url}"], "Did you mean 'kl'?"),
        (["cohort", "__import__('os')", "--lake", "{url}"], "expected comparisons"),
        (["run", "t3", "--lake", "{url}"], "no step 't3'"),
        (["run", "t2", "--lake", "{url}", "--set", "withn=all"], "parameter 'withn'"),
        (["run", "t2", "--lake", "{url}", "--set", "within"], "name=value"),
        (["run", "t2"], "--lake"),
        (
            [
                "run",
                "t2",
                "--lake",
                "{url}",
                "--cluster",
                "tcp://127.0.0.1:9",
                "--set",
                "within=all",
            ],
            "no answer",
        ),
        (["tag", "v1", "--lake", "{url}"], "a tag cannot be moved"),
        (["phantom", "x", "--shape", "64"], "slices x rows x columns"),
        (["ingest", "nowhere", "--lake", "new.lake"], "no such file"),
        (["ingest", ".", "--lake", "new.lake", "--knee", "both"], "'left' or 'right'"),
        (["nosuch"], "No such command"),
        (["validate", "/"], "the folder contains no lake"),
    ],
)
def test_errors__are_one_line_with_advice(
    url: str,
    arguments: list[str],
    words: str,
    capsys: Capture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([word.replace("{url}", url) for word in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert words in printed.err


def test_debug__shows_the_traceback(capsys: Capture) -> None:
    with pytest.raises(FileNotFoundError):
        main(["info", "nowhere.lake", "--debug"])


@pytest.mark.slow
def test_help__of_every_command_shows_its_usage(capsys: Capture) -> None:
    from qmri_lake.cli.app import command

    for name in command().commands:
        assert main([name, "--help"]) == 0
        assert "Usage: qmri-lake " + name in capsys.readouterr().out
    assert main([]) == 0
    assert "qmri-lake demo" in capsys.readouterr().out


HEAVY = ("torch", "tensorflow", "keras", "monai", "SimpleITK", "cupy", "intake")
HELP = f"""
import sys, time, json
import qmri_lake
start = time.process_time()
from qmri_lake.cli import main
main(["--help"])
loaded = [name for name in {HEAVY} if name in sys.modules]
print(json.dumps([time.process_time() - start, loaded]), file=sys.stderr)
"""


@pytest.mark.slow
def test_help__is_fast_and_imports_nothing_heavy(judge: Judge) -> None:
    found = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, check=True)
        found.append(json.loads(done.stderr))
    seconds = min(s for s, _ in found)
    loaded = sorted({name for _, names in found for name in names})
    judge(
        "imports / qmri-lake --help",
        required="under 1.5 CPU-seconds beyond the import; nothing heavy imported",
        measured=f"{seconds:.2f} s; heavy: {', '.join(loaded) or 'none'}",
        passed=seconds < 1.5 and not loaded,
    )


@pytest.mark.slow
def test_run__t2_of_a_real_knee(
    real_data: Path, tmp_path: Path, judge: Judge, capsys: Capture
) -> None:
    lake = str(tmp_path / "l.lake")
    start = time.process_time()
    identity = ["--patient", "1", "--timepoint", "0", "--knee", "right"]
    assert main(["ingest", str(real_data / "knee_mese"), "--lake", lake, *identity]) == 0
    assert main(["run", "t2", "--lake", lake, "--set", "within=all"]) == 0
    seconds = time.process_time() - start
    ds = ql.open_lake(lake).load("msme").isel(exam=0).compute()
    spacing = (ds.affine[:3, :3] ** 2).sum("world") ** 0.5
    median, count = float(ds.t2.median()), int(ds.t2.notnull().sum())
    below = int((ds.t2_status == FitStatus.BELOW_RESOLUTION).sum())
    judge(
        "T2 / real knee by the command line",
        required="24 x 256 x 256, 0.625 x 0.625 x 4.000 mm, median 35.5 +- 0.3 ms, "
        "about 496,000 voxels with T2 or below resolution",
        measured=f"{' x '.join(map(str, ds.t2.shape))}, "
        f"{spacing[1]:.3f} x {spacing[2]:.3f} x {spacing[0]:.3f} mm, median {median:.2f} ms, "
        f"{count:,} voxels and {below:,} below resolution ({seconds:.1f} CPU-s)",
        passed=ds.t2.shape == (24, 256, 256)
        and abs(median - 35.5) <= 0.3
        and abs(count + below - 496_000) < 2_000
        and bool(abs(spacing - [4.0, 0.625, 0.625]).max() < 5e-4),
    )


@pytest.mark.accept
@pytest.mark.timeout(600)
def test_demo__small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    # Enough true exams that every set has both classes, whichever delivered exams have a mask.
    small = ["demo", "d", "--epochs", "1", "--truth", "40", "--strategy", "thickness", "--shape"]
    assert main([*small, "16x48x48", "--exams", "8"]) in (
        0,
        1,
    )  # after one epoch, networks segment nothing useful
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == describe()
    for name in ("d/report.html", "d/paper/report.html", "d/oai.lake", "d/catalog.yaml", "next:"):
        assert name in printed
    assert "added 40 exams made from truth" in printed
    assert "8 of 612 models" in printed
    of = {kind: printed.split(f"made_from == '{kind}': ")[1] for kind in ("delivered", "truth")}
    assert of["delivered"].index("oa: ") < of["delivered"].index("pain: ")
    assert re.search(r"oa: [0-9]+ test exams of [0-9]+ patients, [0-9]+ cases; AUC", of["truth"])
    parts = [float(minutes) for minutes in re.findall(r"^ +([0-9.]+)  [0-9]+\. ", printed, re.M)]
    assert len(parts) == len(re.findall(r"─ [0-9]+\. ", printed)) == 13
    # The three suggested commands work.
    lines = printed.splitlines()
    for line in lines[lines.index("next:") + 1 :]:
        assert main(shlex.split(line)[1:]) == 0
    capsys.readouterr()
    assert len(list(Path("d/models").rglob("card.json"))) == 4 + 3 + 3 + 8
    assert main([*small, "16x48x50", "--exams", "9"]) == 2
    assert "Choose another folder" in capsys.readouterr().err
