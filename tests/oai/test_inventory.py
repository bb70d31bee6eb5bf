"""Inventory of a delivery: pairing, and one reason for each problem."""

from __future__ import annotations

import pickle
import random
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.inventory import inventory, read_series

T2 = {
    "series": "SAG_T2_MAP_RIGHT",
    "echo_times": tuple(10.0 * k for k in range(1, 8)),
    "spacing": 3.5,
}
BAD = "00m/0.C.2/9000002/20040901/10000020"


def folder(
    root: Path, patient: int = 9000001, barcode: int = 10000001, month="00m", release="0.C.2"
):
    return root / month / release / str(patient) / "20040824" / str(barcode)


@pytest.fixture
def delivery(tmp_path, write_series):
    """Two knees of one patient at baseline, the right one with T2, as OAI lays them out."""
    root = tmp_path / "oai"
    left = {"series": "SAG_3D_DESS_LEFT", "study": "OAI^MR^ENROLLMENT^LEFT"}
    return root, {
        ("9000001-000m-right", "dess"): write_series(folder(root, barcode=10000001)),
        ("9000001-000m-right", "msme"): write_series(folder(root, barcode=10000002), **T2, seed=1),
        ("9000001-000m-left", "dess"): write_series(folder(root, barcode=10000003), **left, seed=2),
    }


def contents(found):
    return {(s.exam, s.group): read_series(s) for s in found.series}


def assert_delivered(found, written):
    volumes = contents(found)
    assert set(volumes) == set(written)
    for key, volume in volumes.items():
        image = written[key].image
        expected = image[0] if key[1] == "dess" else image
        assert np.array_equal(volume.image, expected)
        np.testing.assert_allclose(volume.affine, written[key].affine, atol=1e-5)


def test_inventory__clean_delivery(delivery):
    root, written = delivery
    found = inventory(root)
    assert found.problems == ()
    assert found.repeats == ()
    assert found.ignored == {}
    assert_delivered(found, written)
    dess = found.exams()["9000001-000m-right"]["dess"]
    assert (dess.patient, dess.timepoint, dess.knee) == (9000001, 0, "right")
    assert dess.shape == (6, 8, 6)
    assert dess.where == "00m/0.C.2/9000001/20040824/10000001"
    assert found.exams()["9000001-000m-right"]["msme"].shape == (7, 6, 8, 6)


def test_inventory__pairs_by_side(delivery):
    root, _ = delivery
    exams = inventory(root).exams()
    assert sorted(exams["9000001-000m-right"]) == ["dess", "msme"]
    assert sorted(exams["9000001-000m-left"]) == ["dess"]


def test_read_series__in_another_process(delivery):
    series = inventory(delivery[0]).series[0]
    copy = pickle.loads(pickle.dumps(series))
    assert read_series(copy).digest == read_series(series).digest


def pack(root: Path, target: Path, mode: str) -> Path:
    with tarfile.open(target, mode) as tar:
        tar.add(root, arcname=".")
    return target


@pytest.mark.parametrize(("suffix", "mode"), [(".tar", "w"), (".tar.gz", "w:gz"), (".tgz", "w:gz")])
def test_inventory__one_tar(delivery, tmp_path, suffix, mode):
    root, written = delivery
    found = inventory(pack(root, tmp_path / f"oai{suffix}", mode))
    assert found.problems == ()
    assert_delivered(found, written)
    digests = {key: volume.digest for key, volume in contents(inventory(root)).items()}
    assert {key: volume.digest for key, volume in contents(found).items()} == digests


def test_inventory__one_tar_a_series(delivery, tmp_path):
    root, written = delivery
    for series in inventory(root).series:
        source = root / series.where
        pack(source, source.with_name(source.name + ".tar.gz"), "w:gz")
        shutil.rmtree(source)
    found = inventory(root)
    assert found.problems == ()
    assert_delivered(found, written)
    assert found.series[0].where.endswith(".tar.gz")


def test_inventory__tar_cut_off(delivery, tmp_path):
    root, _ = delivery
    source = folder(root, barcode=10000002)
    tar = pack(source, source.with_name("10000002.tar.gz"), "w:gz")
    shutil.rmtree(source)
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    found = inventory(root)
    assert [problem.reason for problem in found.problems] == [Reason.TRUNCATED_FILE]
    assert found.problems[0].where.startswith("00m/0.C.2/9000001/20040824/10000002.tar.gz")
    assert len(found.series) == 2


def test_inventory__shuffled_renamed_mixed(delivery, tmp_path):
    root, written = delivery
    paths = [path for series in written.values() for path in series.paths]
    random.Random(0).shuffle(paths)
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for number, path in enumerate(paths):
        shutil.copy(path, mixed / f"IM{number}.dcm")
    found = inventory(mixed)
    assert found.problems == ()
    assert_delivered(found, written)
    digests = {key: volume.digest for key, volume in contents(inventory(root)).items()}
    assert {key: volume.digest for key, volume in contents(found).items()} == digests


def test_inventory__series_in_several_folders(delivery, tmp_path):
    root, written = delivery
    source = folder(root, barcode=10000002)
    for path in written["9000001-000m-right", "msme"].paths:
        part = source / f"part{int(path.name) % 2}"
        part.mkdir(exist_ok=True)
        path.rename(part / path.name)
    found = inventory(root)
    assert found.problems == ()
    assert_delivered(found, written)


def test_inventory__copy_of_a_series_is_a_repeat(delivery):
    root, written = delivery
    shutil.copytree(folder(root), folder(root, barcode=10000009))
    found = inventory(root)
    assert_delivered(found, written)
    assert [repeat.exam for repeat in found.repeats] == ["9000001-000m-right"]


def test_inventory__keeps_and_reports_the_last_scan(delivery, write_series):
    root, written = delivery
    key = ("9000001-000m-right", "dess")
    again = write_series(folder(root, barcode=10000000), time="113000", seed=7)
    found = inventory(root)
    assert_delivered(found, written | {key: again})
    (repeat,) = found.repeats
    assert repeat.kept.endswith("10000000")
    assert repeat.dropped.endswith("10000001")
    assert found.problems == ()


def test_inventory__other_series_are_counted(delivery, write_series):
    root, written = delivery
    for number, name in enumerate(
        [
            "SAG_T2_CALC_RIGHT",
            "MP_LOCATOR_RIGHT",
            "COR_MPR_RIGHT",
            "AX_MPR_RIGHT",
            "COR_IW_TSE_RIGHT",
        ]
    ):
        bad = write_series(folder(root, barcode=20000000 + number), series=name)
        bad.paths[0].write_bytes(bad.paths[0].read_bytes()[:400])  # nobody needs these
    (root / "notes.doc").write_bytes(bytes(300))
    found = inventory(root)
    assert_delivered(found, written)
    assert found.problems == ()
    assert found.ignored == {
        "COR_IW_TSE": 1,
        "T2_CALC": 1,
        "localizer": 1,
        "reformat": 2,
        "not DICOM": 1,
    }


def spoil_absent_side(write, where):
    write(where, series="SAG_3D_DESS", study="OAI^MR^ENROLLMENT", patient="9000002")


def spoil_side_conflict(write, where):
    write(where, laterality="L", patient="9000002")


def spoil_one_file_of_the_other_side(write, where):
    write(where, patient="9000002", slices=3, uid="1.2.3.4")
    other = write(where.with_name("other"), patient="9000002", laterality="L", uid="1.2.3.4")
    for path in other.paths[3:]:
        path.rename(where / path.name)
    shutil.rmtree(other.folder)


def spoil_two_patients(write, where):
    write(where, patient="9000002", slices=3, uid="1.2.3.4")
    other = write(where.with_name("other"), patient="9000003", uid="1.2.3.4")
    for path in other.paths[3:]:
        path.rename(where / path.name)
    shutil.rmtree(other.folder)


def spoil_absent_patient(write, where):
    write(where.parents[4] / "x" / "y", patient="anon")


def spoil_absent_timepoint(write, where):
    write(where.parents[4] / "x" / "y", patient="9000002", visit="", study="OAI^MR^RIGHT")


def spoil_two_timepoints(write, where):
    write(where, patient="9000002", visit="V03")


def spoil_unknown_release(write, where):
    write(where.parents[4] / "00m" / "7.Z.9" / "9000002" / "20040901" / "1", patient="9000002")


def spoil_nameless_release(write, where):
    write(where.parents[4] / "00m" / "latest" / "9000002" / "20040901" / "1", patient="9000002")


def spoil_missing_slice(write, where):
    write(where, patient="9000002").paths[2].unlink()


def spoil_duplicate(write, where):
    path = write(where, patient="9000002").paths[2]
    shutil.copy(path, path.with_name("again"))


def spoil_echo_counts(write, where):
    write(where, patient="9000002", **T2).paths[2].unlink()


def spoil_truncated(write, where):
    for path in write(where, patient="9000002").paths[2:4]:
        path.write_bytes(path.read_bytes()[:-20])


def spoil_header(write, where):
    path = write(where, patient="9000002").paths[2]
    path.write_bytes(path.read_bytes()[:300])


def spoil_stub(write, where):
    write(where, patient="9000002").paths[2].write_bytes(b"")


def spoil_geometry(write, where):
    write(where, patient="9000002", slices=4, uid="1.2.3.4")
    write(where, patient="9000002", slices=2, uid="1.2.3.4", shape=(8, 8), start=50)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_absent_side, Reason.ABSENT_SIDE),
        (spoil_side_conflict, Reason.SIDE_CONFLICT),
        (spoil_one_file_of_the_other_side, Reason.SIDE_CONFLICT),
        (spoil_two_patients, Reason.PATIENT_CONFLICT),
        (spoil_absent_patient, Reason.ABSENT_PATIENT),
        (spoil_absent_timepoint, Reason.ABSENT_TIMEPOINT),
        (spoil_two_timepoints, Reason.TIMEPOINT_CONFLICT),
        (spoil_unknown_release, Reason.UNKNOWN_RELEASE),
        (spoil_nameless_release, Reason.UNKNOWN_RELEASE),
        (spoil_missing_slice, Reason.MISSING_SLICE),
        (spoil_duplicate, Reason.DUPLICATE_POSITION),
        (spoil_echo_counts, Reason.MIXED_ECHO_COUNTS),
        (spoil_truncated, Reason.TRUNCATED_FILE),
        (spoil_header, Reason.TRUNCATED_FILE),
        (spoil_stub, Reason.TRUNCATED_FILE),
        (spoil_geometry, Reason.INCONSISTENT_GEOMETRY),
    ],
)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar.gz"])
def test_inventory__one_reason_for_each_bad_series(
    delivery, write_series, tmp_path, spoil, reason, packed
):
    root, written = delivery
    spoil(write_series, root / BAD)
    found = inventory(pack(root, tmp_path / "oai.tar.gz", "w:gz") if packed else root)
    assert [problem.reason for problem in found.problems] == [reason], found.problems
    assert "\n" not in str(found.problems[0])
    assert_delivered(found, written)


def test_read_series__undecodable_pixels(delivery, write_series):
    root, _ = delivery
    bad = write_series(root / BAD, patient="9000002", shape=(64, 48), syntax=JPEG2000Lossless)
    content = bytearray(bad.paths[0].read_bytes())
    start = content.index(b"\xff\x4f\xff\x51")
    content[start : start + 60] = bytes(60)
    bad.paths[0].write_bytes(content)
    found = inventory(root)
    outcomes = []
    for series in found.series:
        try:
            read_series(series)
        except InputError as error:
            outcomes.append(error.problem(series.where, series.exam))
    (problem,) = outcomes
    assert problem.reason is Reason.UNDECODABLE_PIXELS
    assert (problem.where, problem.exam) == (BAD, "9000002-000m-right")
    assert found.problems == ()


def test_read_series__changed_since_the_inventory(delivery):
    root, written = delivery
    series = inventory(root).exams()["9000001-000m-left"]["dess"]
    path = written["9000001-000m-left", "dess"].paths[0]
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(InputError, match="of pixels"):
        read_series(series)


def test_inventory__options_fill_in(tmp_path, write_series):
    nameless = {"patient": "anon", "series": "T2MAP", "study": "", "visit": ""}
    write_series(tmp_path / "s", **nameless, echo_times=(6.3, 12.6), laterality="")
    found = inventory(tmp_path, patient=1, timepoint=12, knee="left")
    assert [(s.exam, s.group) for s in found.series] == [("0000001-012m-left", "msme")]
    reasons = [problem.reason for problem in inventory(tmp_path).problems]
    assert reasons == [Reason.ABSENT_PATIENT]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"knee": "left"}, Reason.SIDE_CONFLICT),
        ({"patient": 1}, Reason.PATIENT_CONFLICT),
        ({"timepoint": 12}, Reason.TIMEPOINT_CONFLICT),
    ],
)
def test_inventory__options_never_override(tmp_path, write_series, options, reason):
    write_series(folder(tmp_path))
    (problem,) = inventory(tmp_path, **options).problems
    assert problem.reason is reason
    assert "according to the option" in problem.found


@pytest.mark.parametrize(
    "options",
    [
        {"timepoint": 100_000},
        {"timepoint": -1},
        {"timepoint": 12.5},
        {"patient": 2**70},
        {"patient": 0},
    ],
)
def test_inventory__options_out_of_range(tmp_path, options):
    with pytest.raises(InputError, match="a whole number from"):
        inventory(tmp_path, **options)


def test_inventory__unknown_options(tmp_path):
    with pytest.raises(InputError, match="'left' or 'right'"):
        inventory(tmp_path, knee="both")
    with pytest.raises(InputError, match="no such file"):
        inventory(tmp_path / "absent")


def test_inventory__group_of_foreign_series(tmp_path, write_series):
    options = {"patient": 1, "timepoint": 0, "knee": "right"}
    foreign = {"patient": "", "series": "knee", "study": "", "visit": ""}
    write_series(tmp_path / "a", **foreign)
    found = inventory(tmp_path, **options)
    assert ([p.reason for p in found.problems], found.series) == ([Reason.UNKNOWN_SEQUENCE], ())
    assert [s.group for s in inventory(tmp_path, **options, group="dess").series] == ["dess"]
    write_series(tmp_path / "a", **foreign, echo_times=(10.0, 20.0))
    found = inventory(tmp_path, **options, group="msme")
    assert [(s.group, s.shape) for s in found.series] == [("msme", (2, 6, 8, 6))]


@pytest.mark.parametrize("name", ["contents.0C2.csv", "image03.txt"])
def test_inventory__listing_completes_headers(tmp_path, write_series, name):
    nameless = {"patient": "", "series": "", "study": "", "visit": ""}
    source = folder(tmp_path)
    write_series(source, **nameless)
    relative = source.relative_to(tmp_path).as_posix()
    if name.endswith(".csv"):
        short = relative.removeprefix("00m/")
        text = (
            ",Folder ,ParticipantID,StudyDate,Barcode,StudyDescription,seriesdescription\n"
            f"0,{short} ,9000001,20040824,10000001,OAI^MR^ENROLLMENT^LEFT ,SAG_3D_DESS_LEFT \n"
        )
        (tmp_path / name).write_text("\ufeff" + text, encoding="utf-8")
    else:
        text = (
            '"src_subject_id"\t"image_file"\t"image_description"\n"Subject"\t"File"\t"Words"\n'
            f'"9000001"\t"s3://bucket/{relative}.tar.gz"\t"SAG_3D_DESS_LEFT"\n'
        )
        (tmp_path / name).write_text(text)
    found = inventory(tmp_path)
    assert [(s.exam, s.group) for s in found.series] == [("9000001-000m-left", "dess")]
    assert found.problems == ()


def test_inventory__listing_is_checked_against_headers(delivery):
    root, _ = delivery
    (root / "contents.csv").write_text(
        "Folder,ParticipantID,StudyDescription,SeriesDescription\n"
        "0.C.2/9000001/20040824/10000003,9000001,OAI^MR^ENROLLMENT^RIGHT,SAG_3D_DESS_RIGHT\n"
        "0.C.2/9000001/20040824/19999999,9000001,OAI^MR^ENROLLMENT^RIGHT,SAG_3D_DESS_RIGHT\n"
    )
    found = inventory(root)
    (problem,) = found.problems
    assert problem.reason is Reason.SIDE_CONFLICT
    assert "the series name in the listing" in problem.found
    assert len(found.series) == 2


def test_inventory__listing_without_key(delivery):
    root, written = delivery
    (root / "contents.csv").write_text("ParticipantID,StudyDate\n9000001,20040824\n")
    found = inventory(root)
    assert [problem.reason for problem in found.problems] == [Reason.TABLE_WITHOUT_KEY]
    assert_delivered(found, written)


def test_inventory__never_contains_a_name(delivery):
    root, _ = delivery
    text = repr(inventory(root)) + str(contents(inventory(root)))
    assert "Doe" not in text
    assert "19500101" not in text


def test_inventory__progress(delivery):
    root, _ = delivery
    calls = []
    inventory(root, progress=lambda count, where: calls.append((count, where)))
    assert [count for count, _ in calls] == [6, 48, 54]


def test_inventory__real_knee(real_data, tmp_path):
    options = {"patient": 1, "timepoint": 0, "knee": "right"}
    found = inventory(real_data / "knee_mese", **options)
    assert found.problems == ()
    (series,) = found.series
    assert (series.group, series.shape) == ("msme", (8, 24, 256, 256))
    # The same files shuffled, renamed, in one folder with another series.
    paths = sorted((real_data / "knee_mese").iterdir())
    random.Random(1).shuffle(paths)
    for number, path in enumerate(paths):
        shutil.copy(path, tmp_path / f"{number}")
    for path in (real_data / "dicom_geometry" / "sagittal_gre").iterdir():
        shutil.copy(path, tmp_path / f"other{path.name}")
    (again,) = [s for s in inventory(tmp_path, **options).series if s.group == "msme"]
    first, second = read_series(series), read_series(again)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.affine, second.affine)
    assert first.digest == second.digest


def test_inventory__link_to_nothing_among_the_slices(delivery):
    root, written = delivery
    last = written["9000001-000m-left", "dess"].paths[-1]
    last.unlink()
    last.symlink_to(root / "nowhere")
    found = inventory(root)
    assert [(p.reason, p.exam) for p in found.problems] == [
        (Reason.UNREADABLE_FILE, "9000001-000m-left")
    ]
    assert len(found.series) == 2


def test_inventory__listing_with_an_open_quote(delivery):
    root, _ = delivery
    rows = "a/b,9000001,x,y\n" * 20_000  # longer than the largest cell that csv takes
    (root / "contents.csv").write_text(f'Folder,ParticipantID\n"a/b,9000001\n{rows}')
    found = inventory(root)
    assert [(p.reason, p.where) for p in found.problems] == [
        (Reason.UNREADABLE_FILE, "contents.csv")
    ]
    assert len(found.series) == 3


def test_inventory__listing_that_is_not_there(delivery):
    root, _ = delivery
    (root / "contents.csv").symlink_to(root / "nowhere")
    found = inventory(root)
    assert [p.reason for p in found.problems] == [Reason.UNREADABLE_FILE]
    assert len(found.series) == 3


@pytest.mark.parametrize("kept", [0, 50, 300, 600])
def test_inventory__tar_cut_off_in_its_last_member(delivery, kept):
    root, _ = delivery
    source = folder(root, barcode=10000003)
    tar = pack(source, source.with_name("10000003.tar"), "w")
    shutil.rmtree(source)
    with tarfile.open(tar) as opened:
        start = opened.getmembers()[-1].offset_data
    tar.write_bytes(tar.read_bytes()[: start + kept])
    found = inventory(root)
    assert [p.reason for p in found.problems] == [Reason.TRUNCATED_FILE]
    assert len(found.series) == 2


def test_inventory__hard_link_in_a_tar_is_a_problem(delivery, tmp_path):
    root, written = delivery
    last = written["9000001-000m-left", "dess"].paths[-1]
    (root / "00m/0.C.2/0").mkdir()
    (root / "00m/0.C.2/0/first").hardlink_to(last)  # packed first: the slice is then a link
    with tarfile.open(tmp_path / "oai.tar", "w") as tar:
        tar.add(root / "00m/0.C.2/0", "0")
        tar.add(root / "00m", "00m")
    found = inventory(tmp_path / "oai.tar")
    assert "a link in an archive" in {problem.found for problem in found.problems}
    assert "9000001-000m-left" not in found.exams()


def test_inventory__absolute_names_in_a_tar(delivery, tmp_path):
    root, written = delivery
    written["9000001-000m-left", "dess"].paths[2].unlink()
    with tarfile.open(tmp_path / "oai.tar", "w") as tar:
        for path in sorted(root.rglob("*")):
            if path.is_file():
                member = tar.gettarinfo(path)
                member.name = "/home/jane/" + path.relative_to(root).as_posix()
                with path.open("rb") as stream:
                    tar.addfile(member, stream)
    found = inventory(tmp_path / "oai.tar")
    assert [p.where for p in found.problems] == [f"oai.tar/{folder(Path(), barcode=10000003)}"]
    assert len(found.series) == 2


def test_inventory__archives_of_other_kinds(delivery):
    root, _ = delivery
    inner = pack(root, root.parent / "inner.tar", "w")
    with tarfile.open(root / "outer.tar", "w") as tar:
        tar.add(inner, "inner.tar")
    (root / "more.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(100))
    with zipfile.ZipFile(root / "other.zip", "w") as zipped:
        zipped.writestr("notes.doc", "y")
    found = inventory(root)
    assert [(p.reason, p.where) for p in found.problems] == [
        (Reason.UNREADABLE_FILE, "more.7z"),
        (Reason.UNREADABLE_FILE, "outer.tar/inner.tar"),
    ]
    assert found.ignored == {"not DICOM": 1}
    assert len(found.series) == 3


def test_inventory__short_file_beside_slices(delivery):
    root, written = delivery
    (written["9000001-000m-right", "dess"].folder / "MD5SUMS").write_text("abc")
    found = inventory(root)
    assert found.problems == ()
    assert found.ignored == {"not DICOM": 1}
    (written["9000001-000m-right", "dess"].folder / "007").write_text("abc")
    assert [p.reason for p in inventory(root).problems] == [Reason.NOT_DICOM]


def test_read_series__messages_contain_no_uid_and_no_absolute_path(delivery):
    root, written = delivery
    series = {(s.exam, s.group): s for s in inventory(root).series}
    right, left = (f"9000001-000m-{side}" for side in ("right", "left"))
    written[right, "dess"].paths[2].unlink()
    for mine, other in zip(written[left, "dess"].paths, written[right, "msme"].paths, strict=False):
        shutil.copy(other, mine)
    shutil.copy(written[right, "dess"].paths[0], written[right, "msme"].paths[0])
    for key in written:
        with pytest.raises(InputError) as error:
            read_series(series[key])
        assert str(root) not in str(error.value)
        assert not any(item.uid in str(error.value) for item in written.values())


@pytest.mark.slow
def test_inventory__prints_nothing(delivery):
    """A new process: here, other modules have set the level of Icechunk's messages."""
    root, _ = delivery
    code = f"import qmri_lake as ql; ql.oai.inventory({str(root)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
