"""Ingest of a BIDS dataset: side, visit and kind from the entities, and inherited sidecars."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.errors import InputError
from qmri_lake.ingestion.bids import find_bids_files, is_bids
from tests.image_files.writers import knee_affine, signal, write_image

LEFT, RIGHT = knee_affine("left"), knee_affine("right")


def write_dataset(root: Path) -> Path:
    """Write two subjects: a multi-echo scan with a file an echo, a DESS, and other images."""
    for echo in (1, 2, 3):
        write_image(
            root / f"sub-P007/ses-V03/anat/sub-P007_ses-V03_hemi-L_echo-{echo}_MESE.nii.gz",
            signal(echo),
            LEFT,
            EchoTime=echo / 100,
        )
    anat = root / "sub-P007/ses-024m/anat"
    write_image(anat / "sub-P007_ses-024m_acq-dessRight_DESS.nii.gz", signal(7), RIGHT)
    write_image(anat / "sub-P007_ses-024m_acq-right_T1w.nii.gz", signal(8), RIGHT)
    write_image(root / "sub-9000798/anat/sub-9000798_acq-left_MESE.nii.gz", signal(9, 2), LEFT)
    # The sidecar of the dataset applies to all MESE images that have none of their own.
    (root / "acq-left_MESE.json").write_text(json.dumps({"EchoTime": [0.01, 0.02]}))
    (root / "dataset_description.json").write_text(
        json.dumps({"Name": "knees", "BIDSVersion": "1.10.0"})
    )
    return root


def test_ingest__reads_a_bids_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_dataset(tmp_path / "d")
    assert is_bids(root)
    lake = str(tmp_path / "l.lake")
    assert main(["ingest", str(root), "--lake", lake, "--timepoint", "0"]) == 0
    printed = capsys.readouterr().out
    assert "added 1 dess series, 2 msme series; 0 problems" in printed
    assert "1 image file not named by the pattern or the list: sub-P007/ses-024m/anat/" in printed
    opened = ql.open_lake(lake)
    assert sorted(opened.cohort("study_id == 'P007'").exams["knee"]) == ["left", "right"]
    assert set(opened.cohort("study_id == 'P007'").exams["timepoint"]) == {24}
    one = opened.load("msme", opened.cohort("study_id == 'P007' and knee == 'left'")).isel(exam=0)
    np.testing.assert_allclose(one.echo_time, [10, 20, 30])
    np.testing.assert_array_equal(one.image, np.concatenate([signal(e) for e in (1, 2, 3)]))
    two = opened.load("msme", exam="9000798-000m-left").isel(exam=0)
    np.testing.assert_allclose(two.echo_time, [10, 20])
    np.testing.assert_array_equal(two.image, signal(9, 2))
    assert main(["ingest", str(root), "--lake", lake, "--timepoint", "0"]) == 0
    assert "3 series already present" in capsys.readouterr().out


def test_ingest__lists_a_bids_image_without_json(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "d")
    for path in root.rglob("*MESE.json"):
        path.unlink()
    result = ql.ingest(root, tmp_path / "l.lake", timepoint=0)
    assert dict(result.added)["dess"] == 1
    assert [problem.where for problem in result.problems] == [
        "sub-9000798/anat/sub-9000798_acq-left_MESE.nii.gz",
        *(
            f"sub-P007/ses-V03/anat/sub-P007_ses-V03_hemi-L_echo-{echo}_MESE.nii.gz"
            for echo in (1, 2, 3)
        ),
    ]
    assert str(result.problems[0]) == (
        "sub-9000798/anat/sub-9000798_acq-left_MESE.nii.gz: missing_echo: no JSON sidecar "
        "sub-9000798_acq-left_MESE.json (expected a sidecar with EchoTime [s], as BIDS requires). "
        "Convert the DICOM series again with dcm2niix -b y, or write the sidecar."
    )


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("sub-1/ses-1/anat/sub-1_ses-1_acq-left_DESS", "ses-1, which may be a month or the number"),
        ("sub-1/ses-x/anat/sub-1_ses-x_acq-left_DESS", "ses-x"),
        ("sub-1/anat/sub-1_acq-left_DESS", "no session"),
        ("sub-1/ses-24/anat/sub-1_ses-24_DESS", "no side"),
        ("sub-1/ses-24/anat/sub-1_ses-24_hemi-R_acq-left_DESS", "knee left and right in the name"),
    ],
)
def test_find_bids_files__lists_what_the_name_does_not_say(
    tmp_path: Path, name: str, found: str
) -> None:
    for stem in (name, "sub-2/ses-baseline/anat/sub-2_ses-baseline_hemi-L_DESS"):
        (tmp_path / stem).parent.mkdir(parents=True)
        (tmp_path / f"{stem}.nii.gz").touch()
    result = find_bids_files(tmp_path)
    assert [file.label for file in result.files] == ["0000002-000m-left"]
    (problem,) = result.problems
    assert problem.found.startswith(found)
    assert problem.todo


def test_find_bids_files__sessions_runs_and_options(tmp_path: Path) -> None:
    for name in (
        "sub-1/ses-1/anat/sub-1_ses-1_acq-left_DESS",
        "sub-1/ses-2/anat/sub-1_ses-2_acq-left_DESS",
        "sub-1/ses-48/anat/sub-1_ses-48_acq-left_run-1_DESS",
        "sub-1/ses-48/anat/sub-1_ses-48_acq-left_run-2_DESS",
        "sub-1/ses-36m/anat/sub-1_ses-36m_acq-left_part-phase_DESS",
        "sub-1/ses-36m/anat/sub-1_ses-36m_acq-left_PDw",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.nii").touch()
    found = find_bids_files(tmp_path, visits={"1": 0, "2": 24, "48": 48})
    assert [file.timepoint for file in found.files] == [0, 24]
    assert [problem.found for problem in found.problems] == [
        "2 dess files of 0000001-048m-left: sub-1/ses-48/anat/sub-1_ses-48_acq-left_run-1_DESS.nii,"
        " sub-1/ses-48/anat/sub-1_ses-48_acq-left_run-2_DESS.nii"
    ]
    assert len(found.unmatched) == 2
    grouped = find_bids_files(tmp_path, group="dess", visits={"1": 0, "2": 24, "48": 48})
    assert [file.timepoint for file in grouped.files] == [0, 24, 36]


def test_ingest__refuses_a_bids_dataset_without_known_images(tmp_path: Path) -> None:
    (tmp_path / "d/sub-1/anat").mkdir(parents=True)
    (tmp_path / "d/sub-1/anat/sub-1_T1w.nii.gz").touch()
    with pytest.raises(InputError, match="no image of a known kind among T1w"):
        ql.ingest(tmp_path / "d", tmp_path / "l.lake")
    with pytest.raises(InputError, match="--patient with a BIDS folder"):
        ql.ingest(tmp_path / "d", tmp_path / "l.lake", patient=1)
