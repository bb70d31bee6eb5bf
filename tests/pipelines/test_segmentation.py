"""The pipelines that train segmentation networks and apply them, run as scripts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import qmri_lake as ql
from qmri_lake.phantom import Archive
from tests.pipelines.scripts import run_script, run_script_here
from tests.segmentation.networks import tiny, write_network
from tests.segmentation.trainings import few_steps


@pytest.mark.accept
def test_segment__flags_implausible_masks_and_writes_a_report(
    archive: Archive, tmp_path: Path
) -> None:
    lake = tmp_path / "oai.lake"
    ql.ingest(str(archive.path), str(lake))
    for task in ("bones", "cartilage"):
        for seed in (0, 1):
            write_network(tmp_path / task / f"{seed}", tiny(task), seed)
    arguments = [str(lake), str(tmp_path / "bones"), str(tmp_path / "cartilage")]
    done = run_script("segment.py", *arguments)
    assert "Traceback" not in done.stderr
    # Untrained networks segment no knee: the exams are flagged, not failed.
    for step in ("segment_bones", "segment_cartilage", "check_masks"):
        assert f"{step}: 2 flagged" in done.stdout
    opened = ql.open_lake(str(lake), mode="r")
    dess = opened.load("dess")
    assert dess.bone.shape == dess.cartilage_uncertainty.shape == (2, 16, 48, 48)
    assert opened.load("msme").t2.shape[0] == 2
    assert Path(f"{lake}.report.html").is_file()


@pytest.mark.accept
def test_train_segmentation__segments_only_test_exams(
    training_lake: ql.Lake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("qmri_lake.segmentation.training.ensemble.recipes", few_steps)
    lake = str(shutil.copytree(training_lake.url, tmp_path / "oai.lake"))
    arguments = [lake, str(tmp_path / "models"), "small", "1", "1"]
    printed = run_script_here("train_segmentation.py", *arguments)
    assert "Traceback" not in capsys.readouterr().err
    assert "bone_3d-1 1/1 loss" in printed
    assert "cartilage_2d-1 validation DSC" in printed
    for task, name in (("bones", "bone"), ("cartilage", "cartilage")):
        split = json.loads((tmp_path / "models" / task / "split.json").read_text())
        test = next(iter(split["members"].values()))["test"]
        opened = ql.open_lake(lake, mode="r")
        assert set(opened.cohort().require(f"dess/{name}").exams["exam"]) == set(test)
    assert "Table S1" in (tmp_path / "models" / "report.html").read_text()
