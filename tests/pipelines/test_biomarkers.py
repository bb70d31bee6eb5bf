"""The pipeline of spherical maps and region averages, run as a script."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

import qmri_lake as ql
from qmri_lake.phantom import Archive
from tests.pipelines.scripts import run_script


@pytest.mark.accept
def test_biomarkers__maps_knees_with_and_without_t2(archive: Archive, tmp_path: Path) -> None:
    lake, delivery = tmp_path / "oai.lake", tmp_path / "delivery"
    shutil.copytree(archive.path, delivery)
    # Remove the multi-echo series of one knee: with 7 echoes, it has the most files.
    series = {path.parent for path in delivery.rglob("0*") if path.is_file()}
    shutil.rmtree(max(sorted(series), key=lambda folder: len(list(folder.iterdir()))))
    ql.ingest(str(delivery), str(lake), masks=str(archive.truth))
    done = run_script("biomarkers.py", str(lake))
    assert done.stderr == ""
    assert done.stdout.count("sphere: 1 done") == 2  # with T2, and without
    # At this resolution, no notch between the condyles is found in one of the femurs.
    assert "region: 1 done" in done.stdout
    assert "region: 1 flagged" in done.stdout
    assert len(pd.read_csv(f"{lake}.regions.csv")) == 2 * len(ql.surface.REGIONS)
    maps = ql.open_lake(str(lake), mode="r").load("sphere")["map"]
    mapped = maps.notnull().any(("azimuth", "polar")).compute()
    assert mapped.sel(biomarker=["bone_shape", "thickness"]).all()
    assert sorted(mapped.sel(biomarker="t2").all("bone").values.tolist()) == [False, True]
    assert Path(f"{lake}.report.html").is_file()
