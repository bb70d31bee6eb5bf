"""The pipelines, run as scripts: what they print is what a user sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import qmri_lake as ql
from qmri_lake.phantom import write_archive

PIPELINES = Path(__file__).parents[1] / "pipelines"


def test_ingest__from_a_delivery_to_a_report(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "delivery", exams=2, shape=(16, 48, 48))
    lake = tmp_path / "oai.lake"
    arguments = [str(archive.path), str(lake), str(archive.truth)]
    done = subprocess.run(
        [sys.executable, PIPELINES / "ingest.py", *arguments],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "t2: 2 done" in done.stdout
    assert done.stderr == ""
    opened = ql.open_lake(str(lake), mode="r")
    assert opened.profile == "oai"
    assert opened.load("msme").t2.shape[0] == 2
    assert opened.load("dess").image.shape == (2, 16, 48, 48)
    assert Path(f"{lake}.report.html").is_file()
