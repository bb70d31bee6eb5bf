from __future__ import annotations

import csv
import hashlib
import tarfile
from pathlib import Path

import numpy as np
import pydicom
import pytest

from qmri_lake.errors import InputError
from qmri_lake.phantom import Archive, write_archive

SHAPE = (24, 64, 64)


def digests(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def inventory(archive: Archive) -> list[dict[str, str]]:
    with (archive.path / "contents.csv").open(encoding="utf-8-sig", newline="") as file:
        return [{k: v.strip() for k, v in row.items()} for row in csv.DictReader(file)]


def folders(archive: Archive, series: str) -> list[Path]:
    return [
        archive.path / r["Folder"]
        for r in inventory(archive)
        if r["SeriesDescription"].startswith(series)
    ]


@pytest.mark.accept
def test_write_archive__same_seed_gives_the_same_bytes_and_longer_extends_shorter(
    tmp_path: Path,
) -> None:
    calls = []
    first = write_archive(
        tmp_path / "a", exams=2, shape=(16, 48, 48), progress=lambda d, n: calls.append((d, n))
    )
    write_archive(tmp_path / "b", exams=2, shape=(16, 48, 48))
    longer = write_archive(tmp_path / "c", exams=3, shape=(16, 48, 48))
    one, two, three = (digests(tmp_path / k) for k in "abc")
    assert one == two
    assert calls == [(1, 2), (2, 2)]
    assert longer.exams[:2] == first.exams
    others = ("contents.csv", "phantom.json", "clinical", "truth")
    images = {k for k in one if k.split("/")[0] not in others}
    images |= {f"truth/{e}.npz" for e in first.exams}
    assert all(one[k] == three[k] for k in images)


def test_write_archive__other_seed_gives_another_knee(tmp_path: Path) -> None:
    a = write_archive(tmp_path / "a", exams=1, shape=(16, 48, 48), seed=1)
    b = write_archive(tmp_path / "b", exams=1, shape=(16, 48, 48), seed=2)
    one = np.load(a.truth / f"{a.exams[0]}.npz")["dess_bone"]
    two = np.load(b.truth / f"{b.exams[0]}.npz")["dess_bone"]
    assert (one != two).mean() > 0.01


def test_write_archive__compressed_holds_the_same_files(
    tmp_path: Path, small_archive: Archive
) -> None:
    packed = write_archive(
        tmp_path / "c", exams=1, shape=SHAPE, signal="mono", msme_noise=0, compress=True
    )
    tars = sorted(packed.path.rglob("*.tar.gz"))
    assert len(tars) == len(inventory(packed))
    for path in tars:
        plain = small_archive.path / path.relative_to(packed.path).parent
        with tarfile.open(path) as archive:
            for member in archive.getmembers():
                content = archive.extractfile(member)
                assert content is not None
                assert content.read() == (plain / member.name).read_bytes()


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"exams": 0}, "at least 1"),
        ({"signal": "bloch"}, "'epg' or 'mono'"),
        ({"shape": (4, 8, 8)}, "three numbers"),
    ],
)
def test_write_archive__refuses_what_it_cannot_make(
    tmp_path: Path, keywords: dict[str, object], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        write_archive(tmp_path / "x", **keywords)  # type: ignore[arg-type]


def test_inventory__has_mark_blanks_repeats_and_localizers(small_archive: Archive) -> None:
    raw = (small_archive.path / "contents.csv").read_bytes()
    assert raw.startswith(b"\xef\xbb\xbfFolder,ParticipantID,StudyDate,Barcode,")
    assert b" \r\n" in raw
    rows = inventory(small_archive)
    names = [r["SeriesDescription"] for r in rows]
    assert names.count("LOCALIZER") == 4
    assert len([n for n in names if n.startswith("SAG_3D_DESS")]) > 4  # one was scanned twice
    assert len({r["Folder"] for r in rows}) == len(rows)
    assert {r["StudyDescription"] for r in rows} >= {
        "OAI^MR^ENROLLMENT^RIGHT",
        "OAI^MR^ENROLLMENT^LEFT",
    }
    for row in rows:
        month, _, patient, date, barcode = row["Folder"].split("/")
        assert (patient, date, barcode) == (
            row["ParticipantID"],
            row["StudyDate"],
            row["Barcode"],
        )
        first = pydicom.dcmread(small_archive.path / row["Folder"] / "001")
        assert first.SeriesDescription == row["SeriesDescription"]
        assert first.StudyDescription == row["StudyDescription"]
        assert first.PatientID == patient
        assert int(patient) >= 9000001
        assert first.Manufacturer == "qmri_lake phantom"
        assert month.endswith("m")


def test_header__is_like_the_real_ones(small_archive: Archive) -> None:
    for folder in folders(small_archive, "SAG_T2_MAP"):
        files = sorted(folder.iterdir())
        headers = [pydicom.dcmread(f) for f in files]
        slices = len(files) // 7
        assert len(files) == 7 * slices
        assert 21 <= slices <= 33
        assert {f.suffix for f in files} == {""}
        assert len({h.SeriesInstanceUID for h in headers}) == 1
        assert len({h.SOPInstanceUID for h in headers}) == len(files)
        assert sorted({int(h.EchoNumbers) for h in headers}) == list(range(7))
        for h in headers:
            place = int(h.InstanceNumber) - 1 - slices * int(h.EchoNumbers)
            assert 0 <= place < slices
            assert float(h.EchoTime) == 10 * (int(h.EchoNumbers) + 1)
        h = headers[0]
        assert (0x0008, 0x0000) in h
        assert (float(h.SliceThickness), float(h.SpacingBetweenSlices)) == (3.0, 3.5)
        assert h.ClinicalTrialTimePointID[0] == "V"
        assert list(h.ImageType) == ["ORIGINAL", "PRIMARY", "M", "DIS2D"]
        assert h.SequenceName == "se2d7"
        assert float(h.RescaleSlope) > 0
        assert h.pixel_array.dtype == np.int16


def test_header__group_lengths_are_right(
    small_archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folders(small_archive, "SAG_3D_DESS")[0]
    content = (folder / "001").read_bytes()
    # Reads without a warning (they are errors here), with every element decoded and validated.
    with monkeypatch.context() as patch:
        patch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
        data = pydicom.dcmread(folder / "001")
        assert len(str(data)) > 1000
    assert len(data.PixelData) == 2 * data.Rows * data.Columns
    # Walk from group to group by their lengths alone: the last must end with the file.
    at, groups = 132, []
    while at < len(content):
        group, element = np.frombuffer(content[at : at + 4], "<u2")
        assert element == 0
        assert content[at + 4 : at + 6] == b"UL"
        groups.append(int(group))
        at += 12 + int(np.frombuffer(content[at + 8 : at + 12], "<u4")[0])
    assert at == len(content)
    assert groups == sorted(groups)
    assert groups[-1] == 0x7FE0


def test_header__every_file_says_that_it_is_synthetic(small_archive: Archive) -> None:
    files = [path for path in small_archive.path.rglob("[0-9][0-9][0-9]") if path.is_file()]
    assert len(files) > 100
    for path in files:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        assert (header.SyntheticData, header.ContentQualification) == ("YES", "RESEARCH")
        assert header.ImageComments.startswith("Synthetic image")
        # Readers use these values to recognise a series.
        assert header.ImageType[:2] == ["ORIGINAL", "PRIMARY"]
        assert "ynthetic" not in header.SeriesDescription + header.StudyDescription


def test_header__affine_and_voxels_come_back(small_archive: Archive) -> None:
    for folder in folders(small_archive, "SAG_3D_DESS"):
        headers = [pydicom.dcmread(f) for f in folder.iterdir()]
        month = int(headers[0].StudyDescription.split("^")[2].split()[0].replace("ENROLLMENT", "0"))
        side = headers[0].StudyDescription.rsplit("^", 1)[1].lower()
        truth = np.load(small_archive.truth / f"{headers[0].PatientID}-{month:03d}m-{side}.npz")
        along, down = np.array(headers[0].ImageOrientationPatient, float).reshape(2, 3)
        normal = np.cross(along, down)
        headers.sort(key=lambda h: float(np.dot(np.array(h.ImagePositionPatient, float), normal)))
        affine = truth["dess_affine"]
        for k, h in enumerate(headers):
            expected = affine[:3, 3] + k * affine[:3, 0]
            np.testing.assert_allclose(np.array(h.ImagePositionPatient, float), expected, atol=1e-6)
        np.testing.assert_allclose(affine[:3, 1], down * float(h.PixelSpacing[0]), atol=1e-6)
        np.testing.assert_allclose(affine[:3, 2], along * float(h.PixelSpacing[1]), atol=1e-6)
        assert truth["dess_bone"].shape == (len(headers), h.Rows, h.Columns)
        # Instance numbers of left knees run the other way: position alone orders slices.
        rising = int(headers[0].InstanceNumber) < int(headers[1].InstanceNumber)
        assert rising == (side == "right")


def test_msme__mono_is_exactly_the_truth(small_archive: Archive) -> None:
    folder = folders(small_archive, "SAG_T2_MAP_RIGHT")[0]
    headers = [pydicom.dcmread(f) for f in sorted(folder.iterdir())]
    slices = len(headers) // 7
    image = np.stack([h.pixel_array for h in headers]).reshape(7, slices, *SHAPE[1:])
    truth = np.load(small_archive.truth / f"{small_archive.exams[0]}.npz")
    t2 = truth["t2"]
    usable = np.isfinite(t2) & (t2 > 25) & (image[6] > 100)
    assert usable.sum() > 1000
    slope = np.log(image[0][usable] / image[6][usable])
    np.testing.assert_allclose(60 / slope, t2[usable], rtol=0.02)
    cartilage = t2[(truth["msme_cartilage"] > 0) & np.isfinite(t2) & (t2 > 25)]
    assert cartilage.size
    assert 30 < cartilage.min()
    assert cartilage.max() < 50


def test_truth__table_matches_its_arrays(small_archive: Archive) -> None:
    with (small_archive.truth / "exams.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(r["exam"] for r in rows) == small_archive.exams
    assert sum(int(r["msme"]) for r in rows) >= 1
    for row in rows:
        truth = np.load(small_archive.truth / f"{row['exam']}.npz")
        assert ("t2" in truth) == (row["msme"] == "1")
        here = truth["surface_region"] == 3
        mean = np.average(truth["surface_thickness"][here], weights=truth["surface_area"][here])
        assert float(row["thickness_tibia_medial"]) == pytest.approx(mean, abs=1e-3)
        assert not (truth["dess_bone"].astype(bool) & truth["dess_cartilage"].astype(bool)).any()


def test_write_archive__whole_is_left_and_other_files_are_refused(tmp_path: Path) -> None:
    shape = (16, 48, 48)
    first = write_archive(tmp_path / "a", exams=1, shape=shape)
    seen: list[tuple[int, int]] = []
    again = write_archive(
        tmp_path / "a", exams=1, shape=shape, progress=lambda *count: seen.append(count)
    )
    assert (again, seen) == (first, [])
    with pytest.raises(InputError, match="an archive of other settings"):
        write_archive(tmp_path / "a", exams=1, shape=(16, 48, 50))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="other files"):
        write_archive(tmp_path / "b", exams=1, shape=shape)
    (tmp_path / "a" / "truth" / "exams.csv").unlink()  # as if stopped before its end
    mark = tmp_path / "a" / "phantom.json"
    mark.write_text(mark.read_text().replace('"exams": 1', '"exams": 0'))
    write_archive(tmp_path / "a", exams=1, shape=shape)
    assert (tmp_path / "a" / "truth" / "exams.csv").is_file()
