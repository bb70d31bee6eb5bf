"""The whole chain by the command line: DICOM, T2, maps, regions, and a valid derived lake."""

from __future__ import annotations

from pathlib import Path

import pytest

import qmri_lake as ql
from qmri_lake.cli import main


def test_chain__from_dicom_to_a_derived_lake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, lake, study = (str(tmp_path / name) for name in ("oai", "a.lake", "study.lake"))
    assert main(["phantom", out, "--exams", "2", "--shape", "40x96x96"]) == 0
    assert main(["ingest", out, "--lake", lake, "--masks", f"{out}/truth"]) == 0
    for step in ("t2", "sphere", "region"):
        assert main(["run", step, "--lake", lake]) == 0, capsys.readouterr()
    products = ["--product", "clinical", "--product", "sphere/map", "--product", "msme/t2"]
    assert main(["derive", study, "--lake", lake, *products, "--require", "msme/t2"]) == 0
    for url in (lake, study):
        assert main(["validate", url, "--deep"]) == 0
        assert main(["info", url]) == 0
        assert f"Icechunk format {ql.open_lake(url).storage_format}" in capsys.readouterr().out
    assert ql.open_lake(lake).status().loc[["t2", "sphere", "region"], "failed"].eq(0).all()
    assert len(ql.open_lake(study)) >= 1
