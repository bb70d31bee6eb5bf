"""The pipeline of a delivery, run as a script: what it prints is what a user sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import qmri_lake as ql
from qmri_lake.phantom import Archive

PIPELINES = Path(__file__).parents[2] / "pipelines"


def test_ingest__from_a_delivery_to_a_report(archive: Archive, tmp_path: Path) -> None:
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
