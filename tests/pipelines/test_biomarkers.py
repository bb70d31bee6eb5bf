"""The pipeline from masks to maps, run as a script."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

import qmri_lake as ql
from qmri_lake.phantom import Archive
from tests.pipelines.scripts import run_script


def test_biomarkers__from_masks_to_maps(archive: Archive, tmp_path: Path) -> None:
    lake, delivery = tmp_path / "oai.lake", tmp_path / "delivery"
    shutil.copytree(archive.path, delivery)
    # One of the two knees loses its multi-echo series: 7 echoes are more files than all else.
    series = {path.parent for path in delivery.rglob("0*") if path.is_file()}
    shutil.rmtree(max(sorted(series), key=lambda folder: len(list(folder.iterdir()))))
    ql.ingest(str(delivery), str(lake), masks=str(archive.truth))
    done = run_script("biomarkers.py", str(lake))
    assert done.stderr == ""
    assert done.stdout.count("sphere: 1 done") == 2  # with T2, and without
    # In so few voxels one of the femurs shows no groove between its condyles.
    assert "region: 1 done" in done.stdout
    assert "region: 1 flagged" in done.stdout
    assert len(pd.read_csv(f"{lake}.regions.csv")) == 2 * len(ql.surface.REGIONS)
    maps = ql.open_lake(str(lake), mode="r").load("sphere")["map"]
    there = maps.notnull().any(("azimuth", "polar")).compute()
    assert there.sel(biomarker=["bone_shape", "thickness"]).all()
    assert sorted(there.sel(biomarker="t2").all("bone").values.tolist()) == [False, True]
    assert Path(f"{lake}.report.html").is_file()
