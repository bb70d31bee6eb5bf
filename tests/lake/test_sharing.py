"""Acceptance of pseudonymised lakes: planted identifiers are nowhere in what is shared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numcodecs.blosc
import numpy as np
import pandas as pd
import pyarrow as pa
import pydicom
import pytest

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.report import write_report
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.transaction import Transaction
from tests.conftest import Judge

HEADER = {
    "PatientName": "ZYXWVUT^QUINTESSA",
    "PatientBirthDate": "19470313",
    "AccessionNumber": "ACC7731904",
    "StudyInstanceUID": "1.2.826.0.1.7777.31415",
    "FrameOfReferenceUID": "1.2.826.0.1.7777.2718",
    "ImageComments": "limps after a skiing accident",
    "PatientComments": "daughter of Balthasar",
    "ReferringPhysicianName": "PHYSICIANOV^PIOTR",
    "OperatorsName": "OPERATRIX^OLGA",
    "InstitutionName": "Zauberberg Sanatorium",
    "StationName": "scanhost-zq9",
    "PatientID": "",
}
"""Values planted in the headers of all DICOM files, except the PatientID, which stays."""

SERIES = "1.2.826.0.1.8888"
"""Start of the SeriesInstanceUIDs."""

OTHER = {
    "folder": "ward-17-east",
    "host": "cn042.zauberberg.local",
    "user": "u-quackenbush",
    "table": "appointments_of_quintessa",
    "free text": "saw Dr Nightingale",
    "path": "/mnt/zauberberg/private",
    "lake": "zauberberg-master",
}
_ZSTD = b"\x28\xb5\x2f\xfd"


def plant(delivery: Path) -> set[str]:
    """Change the headers of all DICOM files, damage a series; return the patient numbers."""
    patients = set()
    folders = sorted({path.parent for path in delivery.rglob("001")})
    for number, folder in enumerate(folders):
        for file in sorted(folder.iterdir()):
            header = pydicom.dcmread(file)
            patients.add(str(header.PatientID))
            for keyword, value in HEADER.items():
                if value:
                    setattr(header, keyword, value)
            header.SeriesInstanceUID = f"{SERIES}.{number}"
            header.StudyDate = header.StudyDate
            header.save_as(file)
    (folders[-1] / "005").unlink()
    return patients


def make_source(folder: Path) -> tuple[ql.Lake, dict[str, str]]:
    """Ingest a delivery with planted identifiers; plant more in notes, runs, tables and tags."""
    delivery = folder / OTHER["folder"]
    size = ["--exams", "3", "--shape", "40x96x96"]
    assert main(["phantom", str(delivery), *size]) == 0
    patients = plant(delivery)
    url = str(folder / f"{OTHER['lake']}.lake")
    assert main(["ingest", str(delivery), "--lake", url, "--masks", f"{delivery}/truth"]) in (0, 1)
    lake = ql.open_lake(url)
    table = lake.exams[["patient", "timepoint", "knee"]].assign(
        note=[f"{OTHER['free text']} {n}, a text of several words" for n in range(len(lake))],
        accession=7731904.0,
    )
    file = folder / f"{OTHER['table']}.csv"
    table.to_csv(file, index=False)
    keys = ["--patient", "patient", "--timepoint", "timepoint", "--knee", "knee"]
    assert main(["ingest-table", str(file), "--lake", url, *keys]) == 0
    for step in ("t2", "sphere", "region"):
        assert main(["run", step, "--lake", url]) in (0, 1)
    lake.refresh()

    def note(session):
        root = open_root(session.store, "r+")
        planted_text = " ".join(OTHER.values())
        root.attrs["note"] = root["dess"].attrs["note"] = planted_text
        root["dess/image"].attrs["note"] = root["clinical/age"].attrs["long_name"] = planted_text
        change = Transaction()
        change.runs[max(_runs(lake)) + 1] = {
            "step": "t2",
            "parameters": {"within": OTHER["path"], "file": OTHER["path"]},
            "version": "1",
            "host": OTHER["host"],
            "user": OTHER["user"],
        }
        change.set_state("t2", 0, "flagged", max(_runs(lake)) + 1, planted_text)
        change(session)

    commit(lake.repo, note, f"By {OTHER['user']} on {OTHER['host']}")
    lake.refresh().tag(OTHER["table"])
    planted = {name: value for name, value in (HEADER | OTHER).items() if value}
    planted |= {f"part of {name}": value.split("^")[0] for name, value in planted.items()}
    planted |= {f"patient {number}": number for number in sorted(patients)}
    planted |= {"series": SERIES, "source": str(folder)}
    dates = {path.name for path in delivery.rglob("2*") if path.is_dir() and len(path.name) == 8}
    planted |= {f"visit of {date}": date for date in sorted(dates)}
    return lake, planted


def _runs(lake: ql.Lake) -> list[int]:
    return lake.runs().index.tolist()


def contents(data: bytes, depth: int = 3) -> Iterator[bytes]:
    """Yield bytes as they are, and all that is compressed in them by Zstandard or Blosc."""
    yield data
    if depth == 0:
        return
    at = data.find(_ZSTD)
    while at >= 0:
        stream = pa.CompressedInputStream(pa.BufferReader(data[at:]), "zstd")
        parts = []
        try:
            while part := stream.read(65536):
                parts.append(part)
        except OSError:  # other bytes follow the frame, or these bytes are no frame
            pass
        if parts:
            yield from contents(b"".join(parts), depth - 1)
        at = data.find(_ZSTD, at + 1)
    try:
        yield numcodecs.blosc.decompress(data[:-4])  # without the checksum
    except (RuntimeError, ValueError):
        pass


def forms(value: str) -> list[bytes]:
    """Return the bytes of a text, in both encodings, and those of a number as it is stored."""
    found = [value.encode(), value.encode("utf-16-le"), value.lower().encode()]
    if value.isdigit() and len(value) > 6:
        number = int(value)
        found += [np.array(number, kind).tobytes() for kind in ("<i8", "<i4", "<f8")]
    return found


def search(folder: Path, planted: Mapping[str, str]) -> tuple[int, int, list[str]]:
    """Return the numbers of files and of searched contents, and where planted values are."""
    words = {name: forms(value) for name, value in planted.items()}
    files = searched = 0
    found = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        files += 1
        name = str(file.relative_to(folder)).encode()
        for content in (name, *contents(file.read_bytes())):
            searched += 1
            found += [
                f"{what} in {file.relative_to(folder)}"
                for what, texts in words.items()
                if any(text in content for text in texts)
            ]
    return files, searched, found


@pytest.mark.accept
def test_sharing__planted_identifiers_are_nowhere(tmp_path: Path, judge: Judge) -> None:
    source = tmp_path / "hospital"
    source.mkdir()
    lake, planted = make_source(source)
    assert len(lake) >= 2
    lost = [name for name in ("series", "free text", "host", "path") if name]
    _, _, found = search(Path(lake.url), planted)
    assert {name for name in lost if any(f"{name} in" in one for one in found)} == {*lost}
    shared = tmp_path / "shared"
    shared.mkdir()
    out, key = shared / "study.lake", tmp_path / "key.json"
    words = ["derive", str(out), "--lake", lake.url, "--pseudonymise", str(key)]
    for group in lake.groups():
        words += ["--product", group]
    assert main(words) == 0
    study = ql.open_lake(str(out))
    assert study.validate(deep=True) == []
    write_report(study, shared / "report.html")
    planted |= {"user name of the test": tmp_path.parts[2]} if len(tmp_path.parts[2]) > 5 else {}
    files, searched, found = search(shared, planted)
    judge(
        "sharing / planted identifiers in a pseudonymised lake, its catalog and report",
        required="0 found",
        measured=f"{len(found)} found of {len(planted)} planted, in {files} files "
        f"({searched:,} contents, compressed ones included)",
        passed=found == [] and files > 10 and searched > 2 * files,
    )
    old = {e["number"]: int(p) for p, e in json.loads(key.read_text())["patients"].items()}
    keys = study.exams.assign(patient=study.exams["patient"].map(old)).drop(columns="exam")
    rows = keys.merge(
        lake.exams.reset_index(names="row"), on=["patient", "timepoint", "knee"], how="left"
    )["row"].to_numpy()
    equal, count = 0, 0
    for path, variable in study.variables().items():
        if variable.group != "visit":
            ours, theirs = study.root[path][...], lake.root[path][...][rows]
            count += 1
            equal += ours.tobytes() == theirs.tobytes() or ours.tolist() == theirs.tolist()
    judge(
        "sharing / arrays of a pseudonymised lake, by the mapping of its key file",
        required="bitwise equal to the source",
        measured=f"{equal} of {count} arrays of {len(study)} exams",
        passed=equal == count > 20,
    )
    shutil.rmtree(source)
    moved = shutil.move(shared, tmp_path / "recipient")
    images = ql.open_lake(str(Path(moved) / "study.lake")).load("sphere")
    assert np.isfinite(images["map"].values).any()
    assert len(ql.open_catalog(Path(moved) / "study.yaml").clinical.read().exam) == len(rows)


def write_key(file: Path, lake: ql.Lake) -> None:
    """Write a key file with the same numbers in each run, as the split depends on their order."""
    patients = lake.exams["patient"].unique().tolist()
    numbers = np.random.default_rng(0).permutation(len(patients)) + 1_000_000
    entries = {
        str(p): {"number": int(n), "days": -99} for p, n in zip(patients, numbers, strict=True)
    }
    file.write_text(json.dumps({"format": 1, "patients": entries}))
    file.chmod(0o600)


@pytest.mark.accept
def test_sharing__splits_and_classifiers_work(
    case_control_lake: ql.Lake, tmp_path: Path, judge: Judge
) -> None:
    from qmri_lake.diagnosis.training.train_classifiers import train_classifiers

    key = tmp_path / "key.json"
    write_key(key, case_control_lake)
    study = case_control_lake.derive(
        str(tmp_path / "s.lake"),
        None,
        ["sphere", "clinical", "visit"],
        pseudonymise=key,
    )
    sets = ql.split(study.cohort().where("kl >= 0"))
    parts = [set(part.exams["patient"]) for part in (sets.train, sets.validation, sets.test)]
    (model,) = train_classifiers(
        study,
        "oa",
        out=tmp_path / "oa",
        preset="small",
        epochs=1,
        strategies=["thickness"],
        bones=["femur"],
    )
    run = study.run("predict_oa", models=str(tmp_path / "oa"))
    found = study.load("prediction")["oa"].values
    kl = pd.Series(study.load("clinical")["kl"].values)
    judge(
        "sharing / split, training and prediction on a pseudonymised lake",
        required="separate patients, a trained classifier, predictions of all exams with maps",
        measured=f"{sum(map(len, parts))} of {study.exams['patient'].nunique()} patients, "
        f"{model.bone}, {run.counts['done'] + run.counts['flagged']} of {len(study)} exams",
        passed=not (parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2])
        and np.isfinite(found).any(axis=(1, 2)).sum() >= len(study) - 2
        and kl.notna().sum() == len(study) - 2,
    )
