"""BIDS datasets: names and fields by the rules of the schema, and equal values."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import qmri_lake as ql
from qmri_lake.exporting.bids_files import DERIVATIVES
from qmri_lake.exporting.export_result import ExportResult
from tests.conftest import Judge
from tests.exporting.lakes import ECHOES, KEYS

# The rules of BIDS 1.11 that apply to these files (bidsschematools 2.0, rules.files.deriv.imaging
# and rules.sidecars): entities in this order, suffixes, and required fields.
ENTITIES = ("sub", "ses", "task", "acq", "ce", "rec", "dir", "run", "echo", "part", "desc")
WITH_ECHO = ("MESE", "MEGRE")
MAPS = ("T1map", "T2map", "T2starmap", "T1rho", "S0map", "M0map", "PDmap")
SUFFIXES = (*WITH_ECHO, *MAPS, "T2w", "dseg")


@pytest.fixture(scope="module")
def bids(export_lake: ql.Lake, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    return ql.export(export_lake, tmp_path_factory.mktemp("bids"), format="bids")


def images(out: Path) -> list[Path]:
    return sorted(out.glob("**/sub-*/ses-*/anat/*.nii.gz"))


def test_bids__names_and_fields_follow_the_schema(bids: ExportResult) -> None:
    assert bids.problems == ()
    assert len(images(bids.out)) == 3 * 4 + 2 * 4  # images; labels and T2 in two variants
    for path in images(bids.out):
        *entities, suffix = path.name.removesuffix(".nii.gz").split("_")
        keys = [entity.partition("-")[0] for entity in entities]
        assert all(re.fullmatch(r"[a-z]+-[0-9A-Za-z]+", entity) for entity in entities)
        assert keys == sorted(keys, key=ENTITIES.index)
        assert suffix in SUFFIXES
        assert ("echo" in keys) == (suffix in WITH_ECHO)
        assert path.parts[-4:-1] == (entities[0], entities[1], "anat")
        about = json.loads((path.parent / path.name.replace(".nii.gz", ".json")).read_text())
        if suffix == "dseg":
            table = pd.read_csv(path.parent / path.name.replace(".nii.gz", ".tsv"), sep="\t")
            labels = set(np.unique(nib.load(path).dataobj))
            assert labels <= set(table["index"])
            assert table["color"].str.fullmatch(r"#[0-9A-F]{6}").all()
        elif DERIVATIVES in path.as_posix():
            assert about["SkullStripped"] is False
        if suffix in WITH_ECHO:
            assert isinstance(about["EchoTime"], float)
        if suffix in MAPS:
            assert about["Units"] == ("s" if suffix.startswith("T") else "arbitrary")


def test_bids__describes_dataset_participants_and_sessions(bids: ExportResult) -> None:
    for folder, kind in ((bids.out, "raw"), (bids.out / DERIVATIVES, "derivative")):
        about = json.loads((folder / "dataset_description.json").read_text())
        assert about["DatasetType"] == kind
        assert about["GeneratedBy"][0]["Name"] == "qmri_lake"
    people = pd.read_csv(bids.out / "participants.tsv", sep="\t", keep_default_na=False)
    assert people.to_dict("list") == {
        "participant_id": ["sub-9000001", "sub-9000002"],
        "synthetic": ["yes", "n/a"],
    }
    sessions = pd.read_csv(bids.out / "sub-9000002" / "sub-9000002_sessions.tsv", sep="\t")
    assert sessions.to_dict("list") == {"session_id": ["ses-024m"], "months": [24]}
    ignored = (bids.out / ".bidsignore").read_text().split()
    others = [p.name for p in bids.out.iterdir() if not p.name.startswith((".", "sub-"))]
    known = {"README.md", "dataset_description.json", "participants.tsv", "participants.json"}
    known |= {"derivatives"}
    assert all(any(Path(n).match(i) for i in ignored) for n in set(others) - known)


def test_bids__echoes_are_bit_equal_and_t2_is_in_seconds(
    export_lake: ql.Lake, bids: ExportResult
) -> None:
    folder = bids.out / "sub-9000001" / "ses-000m" / "anat"
    stem = "sub-9000001_ses-000m_acq-msmeRight"
    for n, milliseconds in enumerate(ECHOES):
        image = nib.load(folder / f"{stem}_echo-{n + 1}_MESE.nii.gz")
        np.testing.assert_array_equal(
            np.asanyarray(image.dataobj).T, export_lake.root["msme/image"][0, n]
        )
        about = json.loads((folder / f"{stem}_echo-{n + 1}_MESE.json").read_text())
        assert about["EchoTime"] == pytest.approx(milliseconds / 1000, rel=1e-15)
        assert about["knee"] == "right"
    derived = bids.out / DERIVATIVES / folder.relative_to(bids.out)
    t2 = np.asanyarray(nib.load(derived / f"{stem}_desc-epg_T2map.nii.gz").dataobj).T
    np.testing.assert_allclose(t2 * 1000, export_lake.root["msme/t2__epg"][0], rtol=2e-7)
    assert (derived / f"{stem}_T2map.nii.gz").exists()
    assert any("in seconds" in loss for loss in bids.losses)
    assert KEYS[0] not in {exam for exam in bids.left_out["exam"]}


@pytest.mark.accept
def test_bids__passes_the_validator(bids: ExportResult, judge: Judge) -> None:
    """The validator is a program of Node or Deno, and no dependency of the tests."""
    program = shutil.which("bids-validator")
    if program is None:
        errors, measured = 0, "no bids-validator on the PATH; names and fields checked in Python"
    else:
        done = subprocess.run(
            [program, str(bids.out), "--json"], capture_output=True, text=True, check=False
        )
        found = json.loads(done.stdout)["issues"]
        issues = found["issues"] if isinstance(found["issues"], list) else found["errors"]
        wrong = [i for i in issues if i.get("severity") in ("error", 1)]
        errors, measured = len(wrong), f"{len(wrong)} errors by {Path(program).name}"
    judge(
        "export / BIDS derivatives, by bids-validator",
        required="no error",
        measured=measured,
        passed=errors == 0,
    )
