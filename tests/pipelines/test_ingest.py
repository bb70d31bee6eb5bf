"""The pipeline that ingests a delivery, run as a script."""

from __future__ import annotations

from pathlib import Path

import pytest

import qmri_lake as ql
from qmri_lake.phantom import Archive
from tests.pipelines.scripts import run_script


@pytest.mark.accept
def test_ingest__computes_t2_and_writes_a_report(archive: Archive, tmp_path: Path) -> None:
    lake = tmp_path / "oai.lake"
    arguments = [str(archive.path), str(lake), str(archive.truth)]
    done = run_script("ingest.py", *arguments)
    assert "t2: 2 done" in done.stdout
    assert done.stderr == ""
    opened = ql.open_lake(str(lake), mode="r")
    assert opened.profile == "oai"
    assert opened.load("msme").t2.shape[0] == 2
    assert opened.load("dess").image.shape == (2, 16, 48, 48)
    assert Path(f"{lake}.report.html").is_file()
