"""Ingest of a delivery: new series, problems, and resuming after a kill."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless

import qmri_lake as ql
from qmri_lake.errors import (
    InputError,
    LakeLockedError,
    NotALakeError,
    NotFoundError,
    Reason,
    RunError,
)
from qmri_lake.ingestion.images import IngestResult
from qmri_lake.phantom import Archive, write_archive
from tests.conftest import Judge
from tests.oai.conftest import write as write_series

SHAPE, COUNT = (16, 48, 48), 12


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """A clean delivery; never changed by a test."""
    return write_archive(tmp_path_factory.mktemp("oai") / "a", exams=COUNT, shape=SHAPE)


@pytest.fixture(scope="module")
def ingested(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive in a lake, without masks; never changed by a test."""
    path: Path = tmp_path_factory.mktemp("ingested") / "l.lake"
    ql.ingest(archive.path, path)
    return path


@pytest.fixture
def lake(ingested: Path, tmp_path: Path) -> ql.Lake:
    """A copy of that lake to add to."""
    return ql.open_lake(str(shutil.copytree(ingested, tmp_path / "copy.lake")))


@pytest.fixture
def copy(archive: Archive, tmp_path: Path) -> Path:
    """A copy of the archive to spoil."""
    return Path(shutil.copytree(archive.path, tmp_path / "delivery"))


@pytest.mark.slow
def test_ingest__clean_archive(archive: Archive, tmp_path: Path, judge: Judge) -> None:
    result = ql.ingest(archive.path, tmp_path / "l.lake", masks=archive.truth)
    lake = result.lake
    msme = sum("msme_affine" in np.load(archive.truth / f"{e}.npz") for e in archive.exams)
    assert result.added == {"dess": COUNT, "msme": msme}
    assert result.masks == COUNT
    assert sorted(lake.exams["exam"]) == sorted(archive.exams)
    judge(
        "ingest / clean phantom archive",
        required="0 problems",
        measured=f"{len(result.problems)} problems, {len(lake)} exams",
        passed=not result.problems,
    )
    assert lake.validate(deep=True) == []
    truth = np.load(archive.truth / f"{archive.exams[0]}.npz")
    for group, names in (("dess", ("bone", "cartilage")), ("msme", ("cartilage",))):
        ds = lake.load(group, exam=archive.exams[0]).isel(exam=0)
        for name in names:
            assert np.array_equal(ds[name], truth[f"{group}_{name}"])
        np.testing.assert_allclose(ds.affine, truth[f"{group}_affine"], atol=1e-5)
    np.testing.assert_array_equal(ds.dess_to_msme, truth["dess_to_msme"])


@pytest.mark.accept
def test_ingest__tars_give_the_same_lake(archive: Archive, tmp_path: Path) -> None:
    packed = write_archive(tmp_path / "p", exams=3, shape=SHAPE, compress=True)
    ours = ql.ingest(packed.path, tmp_path / "p.lake").lake
    folders = ql.ingest(archive.path, tmp_path / "f.lake").lake
    cohort = [exam in set(packed.exams) for exam in folders.exams["exam"]]
    expected = folders.load("dess").isel(exam=np.flatnonzero(cohort))
    assert np.array_equal(ours.load("dess").digest, expected.digest)


@pytest.mark.slow
def test_ingest__second_adds_only_what_is_new(lake: ql.Lake, copy: Path, tmp_path: Path) -> None:
    before, series = lake.snapshot, int(lake.status()["done"].filter(like="ingest_").sum())
    write_series(
        copy / "24m/3.C.2/9000900/20061111/1",
        patient="9000900",
        series="SAG_3D_DESS_LEFT",
        study="OAI^MR^24 MONTH^LEFT",
        visit="V03",
    )
    more = ql.ingest(copy, lake)
    assert more.added == {"dess": 1, "msme": 0}
    assert more.present == series - COUNT  # the clinical join is no series
    assert more.problems == ()
    assert more.lake.exams["exam"].iloc[-1] == "9000900-024m-left"
    old = ql.open_lake(lake.url, ref=before)
    assert old.exams.equals(more.lake.exams.iloc[:-1])


@pytest.mark.slow
def test_ingest__again_commits_nothing(archive: Archive, lake: ql.Lake) -> None:
    before = lake.snapshot
    again = ql.ingest(archive.path, lake)
    assert (sum(again.added.values()), again.visits) == (0, 0)
    assert again.lake.snapshot == before


@pytest.mark.slow
def test_ingest__corrected_tables_replace_the_rows(copy: Path, lake: ql.Lake) -> None:
    path = copy / "clinical/AllClinical00.txt"
    head, row, *_ = path.read_text().splitlines()
    cells = row.split("|")
    cells[head.split("|").index("P01BMI")] = "44.5"
    replace_in(path, row, "|".join(cells))
    before = lake.snapshot
    again = ql.ingest(copy, lake)
    assert again.visits > 0
    patient = int(cells[0])
    bmi = again.lake.load("clinical", patient=patient, timepoint=0, knee="right").bmi
    assert float(bmi.isel(exam=0)) == 44.5
    old = ql.open_lake(lake.url, ref=before)
    assert float(old.load("clinical", patient=patient, timepoint=0, knee="right").bmi[0]) != 44.5


def clinical_tables(root: Path, enrollees: str, **tables: str) -> Path:
    """A delivery of clinical tables alone."""
    root.mkdir()
    for name, text in {"Enrollees": enrollees, **tables}.items():
        (root / f"{name}.txt").write_text(text)
    return root


@pytest.mark.slow
def test_ingest__tables_of_a_second_delivery_add_to_the_first(tmp_path: Path) -> None:
    both, one, sex_only = (
        clinical_tables(
            tmp_path / "a",
            "ID|P02SEX\n9000001|1\n9000002|2\n",
            AllClinical00="ID|V00AGE|P01BMI\n9000001|60|27\n9000002|50|30\n",
            OUTCOMES99="ID|V99ERKBLRP\n9000001|1: Yes\n",
        ),
        clinical_tables(
            tmp_path / "b",
            "ID|P02SEX\n9000002|2\n9000003|1\n",
            AllClinical00="ID|V00AGE|P01BMI\n9000002|.M|31\n9000003|55|22\n",
        ),
        clinical_tables(tmp_path / "c", "ID|P02SEX\n9000001|1\n"),
    )
    first = ql.ingest(both, tmp_path / "l.lake")
    assert first.visits == 4  # two knees each
    second = ql.ingest(one, tmp_path / "l.lake")
    assert "2 stored values were corrected: bmi 2" in second.notes
    visit = second.lake.load("visit").to_dataframe().query("knee == 'right'")
    assert visit["patient"].tolist() == [9000001, 9000002, 9000003]
    assert visit["bmi"].tolist() == [27, 31, 22]
    assert visit["age"].tolist() == [60, 50, 55]
    assert visit["replaced"].tolist() == [1, 0, 255], "of the third patient nobody told"
    before = second.lake.snapshot
    third = ql.ingest(sex_only, tmp_path / "l.lake")
    assert (third.visits, third.notes, third.lake.snapshot) == (0, (), before)


@pytest.mark.slow
def test_ingest__unreadable_replacements_are_unknown(tmp_path: Path) -> None:
    source = clinical_tables(
        tmp_path / "a",
        "ID|P02SEX\n9000001|1\n9000002|2\n9000003|2\n9000004|2\n",
        OUTCOMES99="ID|V99ERKDAYS\n9000001|soon\n9000002|10\n9000002|20\n9000003|.A\n9000004|0\n",
    )
    visit = ql.ingest(source, tmp_path / "l.lake").lake.load("visit").to_dataframe()
    replaced = visit.query("knee == 'right'").set_index("patient")["replaced"].to_dict()
    assert replaced == {9000001: 255, 9000002: 255, 9000003: 0, 9000004: 1}


# -- what is wrong, each with its own reason -----------------------------------------------------


def series_folders(root: Path, name: str) -> list[Path]:
    """Folders of the series called so, one a knee and visit; repeated scans are left alone."""
    found: dict[tuple[Path, str], list[Path]] = {}
    for first in sorted(root.glob("*m/*/*/*/*/001")):
        description = str(pydicom.dcmread(first, stop_before_pixels=True).SeriesDescription)
        if name in description:
            found.setdefault((first.parents[1], description), []).append(first.parent)
    return [folders[0] for folders in found.values() if len(folders) == 1]


def edit(folder: Path, **elements: object) -> None:
    for path in folder.iterdir():
        header = pydicom.dcmread(path)
        for keyword, value in elements.items():
            setattr(header, keyword, value)
        header.save_as(path)


def truncate(folder: Path) -> None:
    path = sorted(folder.iterdir())[3]
    path.write_bytes(path.read_bytes()[:-100])


def lose_a_slice(folder: Path) -> None:
    sorted(folder.iterdir())[7].unlink()


def double_a_slice(folder: Path) -> None:
    shutil.copy(sorted(folder.iterdir())[7], folder / "copy")


def hide_the_side(folder: Path) -> None:
    edit(folder, SeriesDescription="SAG_3D_DESS", StudyDescription="OAI^MR^ENROLLMENT")


def contradict_the_side(folder: Path) -> None:
    right = "RIGHT" in str(pydicom.dcmread(next(folder.iterdir())).SeriesDescription)
    edit(folder, Laterality="L" if right else "R")


def unknown_release(folder: Path) -> None:
    month = folder.parents[3]
    target = month / "7.Z.9" / folder.parents[1].name / folder.parents[0].name
    target.mkdir(parents=True)
    folder.rename(target / folder.name)


def damage_pixels(folder: Path) -> None:
    path = sorted(folder.iterdir())[5]
    header = pydicom.dcmread(path)
    header.compress(JPEG2000Lossless, generate_instance_uid=False)
    header.save_as(path)
    content = bytearray(path.read_bytes())
    start = content.index(b"\xff\x4f\xff\x51")
    content[start : start + 60] = bytes(60)
    path.write_bytes(content)


SPOILERS: dict[Reason, Callable[[Path], None]] = {
    Reason.TRUNCATED_FILE: truncate,
    Reason.MISSING_SLICE: lose_a_slice,
    Reason.DUPLICATE_POSITION: double_a_slice,
    Reason.ABSENT_SIDE: hide_the_side,
    Reason.SIDE_CONFLICT: contradict_the_side,
    Reason.UNKNOWN_RELEASE: unknown_release,
    Reason.UNDECODABLE_PIXELS: damage_pixels,
}


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.slow
def test_ingest__each_fault_has_its_reason_and_the_rest_is_ingested(
    archive: Archive, copy: Path, ingested: Path, tmp_path: Path, judge: Judge
) -> None:
    whole = ql.open_lake(str(ingested), mode="r")
    (copy / "contents.csv").unlink()  # it would know the side that a header does not say
    dess, msme = series_folders(copy, "DESS"), series_folders(copy, "T2_MAP")
    for spoil, folder in zip(SPOILERS.values(), dess, strict=False):
        spoil(folder)
    lose_a_slice(msme[-1])
    replace_in(copy / "clinical/AllClinical03.txt", "id|", "who|")
    readings = copy / "clinical/kxr_sq_bu00.txt"
    row = next(r for r in readings.read_text().splitlines()[1:] if "|15|" in r)
    cells = row.split("|")
    replace_in(readings, row, "|".join([*cells[:4], ".P", *cells[5:]]))

    result = ql.ingest(copy, tmp_path / "l.lake", masks=archive.truth)
    expected = Counter(
        [*SPOILERS, Reason.MIXED_ECHO_COUNTS, Reason.TABLE_WITHOUT_KEY, Reason.KL_PROSTHESIS]
    )
    found = Counter(problem.reason for problem in result.problems)
    added = {
        "dess": COUNT - len(SPOILERS),
        "msme": len(whole.cohort().require("msme/image")) - 1,
    }
    judge(
        "ingest / faulty and correct input together",
        required=f"{expected.total()} faults, each with its reason; all other data ingested",
        measured=f"{found.total()} listed: {', '.join(sorted(found))}; "
        f"{result.added['dess']} + {result.added['msme']} series ingested of "
        f"{added['dess']} + {added['msme']} good ones",
        passed=found == expected and result.added == added,
    )
    for problem in result.problems:
        assert problem.found
        assert problem.todo
        assert "\n" not in str(problem)
        assert "Traceback" not in str(problem)
    # What was ingested is what a clean delivery gives, exam by exam.
    clean = whole.load("dess")
    theirs = dict(zip(clean.exam.values, clean.digest.values, strict=True))
    ours = result.lake.load("dess", result.lake.cohort().require("dess/image"))
    assert len(ours.exam) == added["dess"]
    for exam, digest in zip(ours.exam.values, ours.digest.values, strict=True):
        assert digest == theirs[exam]
    assert result.lake.validate(deep=True) == []


@pytest.mark.slow
def test_ingest__a_series_larger_than_the_lake(lake: ql.Lake, tmp_path: Path, judge: Judge) -> None:
    large = tmp_path / "large"
    write_series(large / "00m/0.C.2/9000800/20040824/1", patient="9000800", slices=30)
    write_series(large / "00m/0.C.2/9000801/20040824/1", patient="9000801", slices=10)
    result = ql.ingest(large, lake)
    reasons = [str(problem.reason) for problem in result.problems]
    judge(
        "ingest / a series larger than the lake",
        required="larger_than_lake, the other series ingested",
        measured=f"{', '.join(reasons)}; {result.added['dess']} ingested",
        passed=reasons == [Reason.LARGER_THAN_LAKE] and result.added["dess"] == 1,
    )
    assert "30 x 8 x 6" in result.problems[0].found
    assert "9000800-000m-right" not in set(result.lake.exams["exam"])


@pytest.mark.slow
def test_ingest__another_series_of_a_known_exam_replaces_nothing(
    lake: ql.Lake, tmp_path: Path
) -> None:
    exam = lake.exams.iloc[0]
    assert exam["timepoint"] == 0
    side = exam["knee"].upper()
    write_series(
        tmp_path / f"again/00m/0.C.2/{exam['patient']}/20040824/1",
        patient=str(exam["patient"]),
        series=f"SAG_3D_DESS_{side}",
        visit="V00",
        study=f"OAI^MR^ENROLLMENT^{side}",
    )
    digest = lake.load("dess", exam=exam["exam"]).digest.values[0]
    result = ql.ingest(tmp_path / "again", lake)
    assert [problem.reason for problem in result.problems] == [Reason.OTHER_SERIES]
    assert result.lake.load("dess", exam=exam["exam"]).digest.values[0] == digest


@pytest.mark.slow
def test_ingest__folder_names_in_another_encoding(tmp_path: Path) -> None:
    written = write_series(tmp_path / "oai/1/9000001", syntax=JPEG2000Lossless, shape=(64, 48))
    content = bytearray(written.paths[2].read_bytes())
    start = content.index(b"\xff\x4f\xff\x51")
    content[start : start + 60] = bytes(60)
    written.paths[2].write_bytes(content)
    (tmp_path / "oai/1").rename(os.fsdecode(os.fsencode(tmp_path / "oai") + b"/caf\xe9"))
    result = ql.ingest(tmp_path / "oai", tmp_path / "l.lake")
    (problem,) = result.problems
    assert problem.where == r"caf\udce9/9000001"
    assert (
        result.lake.failures()["message"]
        .iloc[0]
        .startswith(rf"{problem.reason}: caf\udce9/9000001/003: ")
    )


@pytest.mark.slow
def test_ingest__one_series_is_of_one_knee(real_data: Path, tmp_path: Path) -> None:
    series = real_data / "knee_mese"
    lake = ql.ingest(series, tmp_path / "l.lake", **WHOSE).lake
    result = ql.ingest(series, lake, **{**WHOSE, "knee": "left"})
    assert [problem.reason for problem in result.problems] == [Reason.OTHER_SERIES]
    assert "ingested as 0000001-000m-right" in result.problems[0].found
    assert len(result.lake) == 1


@pytest.mark.slow
def test_ingest__nothing_to_ingest_leaves_no_lake(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no series and no table \(expected"):
        ql.ingest(tmp_path / "empty", tmp_path / "l.lake")
    assert not (tmp_path / "l.lake").exists()


@pytest.mark.slow
def test_ingest__ignores_lakes_next_to_a_delivery(copy: Path, ingested: Path) -> None:
    shutil.copytree(ingested, copy / "old.lake")
    result = ql.ingest(copy, copy / "new.lake")
    assert result.problems == ()
    assert result.added["dess"] == COUNT


@pytest.mark.slow
def test_ingest__source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        ql.ingest(tmp_path / "nowhere", tmp_path / "l.lake")
    assert not (tmp_path / "l.lake").exists()


@pytest.mark.slow
def test_ingest__refuses_a_lake_opened_for_reading(archive: Archive, ingested: Path) -> None:
    with pytest.raises(LakeLockedError, match="open for reading only"):
        ql.ingest(archive.path, ql.open_lake(str(ingested), mode="r"))


@pytest.mark.slow
def test_ingest__refuses_another_profile(archive: Archive, ingested: Path) -> None:
    with pytest.raises(RunError, match="expected profile 'oai'"):
        ql.ingest(archive.path, ingested, profile="oai")


@pytest.mark.slow
def test_ingest__refuses_a_folder_that_is_no_lake(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(NotALakeError, match="contains no lake"):
        ql.ingest(archive.path, tmp_path)


# -- masks -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ingest__masks_that_do_not_fit_are_listed(archive: Archive, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    first, second, third = archive.exams[:3]
    good = dict(np.load(archive.truth / f"{first}.npz"))
    np.savez(masks / f"{first}.npz", **good)
    shifted = dict(np.load(archive.truth / f"{second}.npz"))
    shifted["dess_affine"][0, 3] += 3.0
    np.savez(masks / f"{second}.npz", **shifted)
    (masks / f"{third}.npz").write_bytes(b"not an archive")
    result = ql.ingest(archive.path, tmp_path / "l.lake", masks=masks)
    reasons = Counter((p.exam, p.reason) for p in result.problems)
    assert reasons == {
        (second, Reason.GRID_MISMATCH): 2,  # bone and cartilage
        (third, Reason.UNREADABLE_FILE): 1,
    }
    lake = result.lake
    assert list(lake.cohort().require("dess/bone").exams["exam"]) == [first]
    with pytest.raises(InputError, match="without a mask"):
        ql.tissue(lake.load("dess", exam=third).cartilage, "femoral").compute()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, np.ndarray]]:
    """One knee with DESS and MSME: delivery, lake, and arrays of masks that fit."""
    root = tmp_path_factory.mktemp("small")
    visit = root / "oai/00m/0.C.2/9000001/20040824"
    dess = write_series(visit / "1")
    echoes = tuple(10.0 * k for k in range(1, 8))
    msme = write_series(visit / "2", series="SAG_T2_MAP_RIGHT", echo_times=echoes, slices=3)
    ql.ingest(root / "oai", root / "l.lake")
    arrays = {
        "dess_bone": np.ones((6, 8, 6), np.uint8),
        "dess_affine": dess.affine,
        "msme_cartilage": np.ones((3, 8, 6), np.uint8),
        "msme_affine": msme.affine,
        "dess_to_msme": np.eye(4),
    }
    return root / "oai", root / "l.lake", arrays


MaskImport = Callable[[Callable[[Path], object]], IngestResult]


@pytest.fixture
def import_file(small: tuple[Path, Path, dict[str, np.ndarray]], tmp_path: Path) -> MaskImport:
    """Import one mask file, made by a function of its path, into a copy of the small lake."""
    copied = shutil.copytree(small[1], tmp_path / "copy.lake")
    masks = tmp_path / "masks"
    masks.mkdir()

    def run(make: Callable[[Path], object]) -> IngestResult:
        make(masks / "9000001-000m-right.npz")
        return ql.ingest(small[0], copied, masks=masks)

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"dess_affine": np.full((4, 4), np.nan)}, "dess_affine with values that are not finite"),
        ({"dess_affine": np.eye(3)}, r"dess_affine of shape (3, 3)"),
        ({"dess_affine": None}, "no dess_affine for a mask"),
        ({"dess_bone": np.full((6, 8, 6), 255, np.uint8)}, "288 voxels of dess bone are 255"),
        ({"msme_cartilage": None}, "dess_to_msme without msme_cartilage"),
        ({"dess_to_msme": np.eye(3)}, "dess_to_msme of shape (3, 3)"),
        ({"dess_bone": np.zeros((6, 8, 6), np.uint8)}, "no voxel of any tissue in dess bone"),
        ({"dess_bone": np.full((6, 8, 6), 0.5)}, "288 voxels with fractions, such as 0.5"),
        ({"dess_bone": np.full((6, 8, 6), 300)}, "label 300 (288 voxels)"),
    ],
)
def test_import_masks__arrays_that_can_not_be_used(
    small: tuple[Path, Path, dict[str, np.ndarray]],
    import_file: MaskImport,
    changed: dict[str, np.ndarray | None],
    found: str,
) -> None:
    given = {k: v for k, v in {**small[2], **changed}.items() if v is not None}
    result = import_file(lambda path: np.savez(path, **given))
    (problem,) = result.problems
    assert problem.found.startswith(found)
    again = import_file(lambda path: np.savez(path, **small[2]))
    assert (again.problems, again.masks) == ((), 1)


@pytest.mark.slow
def test_import_masks__mask_without_a_transform_is_flagged(
    small: tuple[Path, Path, dict[str, np.ndarray]], import_file: MaskImport
) -> None:
    given = {name: values for name, values in small[2].items() if name != "dess_to_msme"}
    result = import_file(lambda path: np.savez(path, **given))
    assert (result.problems, result.masks) == ((), 1)
    assert result.lake.status()["flagged"]["register"] == 1


def damaged(path: Path) -> None:
    np.savez_compressed(path, dess_bone=np.random.default_rng(0).integers(0, 3, (6, 8, 6)))
    content = bytearray(path.read_bytes())
    content[100:112] = b"\xff" * 12
    path.write_bytes(content)


def array_alone(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(b""), Reason.UNREADABLE_FILE),
        (lambda path: np.savez(path, labels=np.zeros(3)), Reason.UNREADABLE_FILE),
        (array_alone, Reason.UNREADABLE_FILE),
        (damaged, Reason.CHECKSUM_MISMATCH),
    ],
    ids=["empty", "unknown names", "npy", "damaged"],
)
def test_import_masks__file_that_can_not_be_read(
    import_file: MaskImport, make: Callable[[Path], object], reason: Reason
) -> None:
    (problem,) = import_file(make).problems
    assert (problem.reason, problem.where) == (reason, "9000001-000m-right.npz")


@pytest.mark.slow
def test_ingest__masks_folder_that_is_not_there(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such folder"):
        ql.ingest(archive.path, tmp_path / "l.lake", masks=tmp_path / "nowhere")


@pytest.mark.slow
def test_ingest__imported_masks_are_not_replaced_by_default(
    archive: Archive, lake: ql.Lake
) -> None:
    result = ql.ingest(archive.path, lake, masks=archive.truth)
    again = ql.ingest(archive.path, lake, masks=archive.truth)
    assert (result.masks, again.masks) == (COUNT, 0)


# -- killed and resumed ----------------------------------------------------------------------------

INGEST_AND_DIE = """
import os, signal, sys
import qmri_lake as ql
from qmri_lake.execution.run import Committed

commits = 0
def die(event):
    global commits
    if isinstance(event, Committed):
        commits += 1
        if commits == 3:
            os.killpg(os.getpgid(0), signal.SIGKILL)

ql.ingest(sys.argv[1], sys.argv[2], commit_every=2, listeners=[die])
"""


@pytest.mark.slow
def test_ingest__a_killed_one_resumes(
    archive: Archive, ingested: Path, tmp_path: Path, judge: Judge
) -> None:
    url = tmp_path / "l.lake"
    done = subprocess.run(
        [sys.executable, "-c", INGEST_AND_DIE, archive.path, url],
        start_new_session=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL
    committed = len(ql.open_lake(str(url)).cohort().require("dess/image"))
    result = ql.ingest(archive.path, url)
    whole = ql.open_lake(str(ingested))
    same = np.array_equal(result.lake.load("dess").image, whole.load("dess").image)
    judge(
        "ingest / killed and resumed",
        required="committed exams kept, the rest added, arrays equal an uninterrupted ingest's",
        measured=f"{committed} of {COUNT} committed before the kill, {result.added['dess']} added, "
        f"arrays {'equal' if same else 'different'}",
        passed=committed == 6 and result.added["dess"] == COUNT - 6 and same,
    )
    assert result.lake.exams.equals(whole.exams)


# -- a real knee -----------------------------------------------------------------------------------

WHOSE = {"patient": 1, "timepoint": 0, "knee": "right"}


@pytest.mark.slow
def test_ingest__real_knee_in_any_order(real_data: Path, tmp_path: Path, judge: Judge) -> None:
    plain = ql.ingest(real_data / "knee_mese", tmp_path / "plain.lake", **WHOSE)
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    paths = sorted((real_data / "knee_mese").iterdir())
    random.Random(7).shuffle(paths)
    for number, path in enumerate(paths):
        shutil.copy(path, mixed / f"IM{number}")
    for path in (real_data / "dicom_geometry/sagittal_gre").iterdir():
        shutil.copy(path, mixed / f"other_{path.name}")
    shuffled = ql.ingest(mixed, tmp_path / "mixed.lake", **WHOSE)
    for result in (plain, shuffled):
        result.lake.run("t2", within="all")
    ours, theirs = (r.lake.load("msme").compute() for r in (plain, shuffled))
    different = [
        name
        for name in ours.data_vars
        if not np.array_equal(ours[name], theirs[name], equal_nan=ours[name].dtype.kind == "f")
    ]
    shape = "x".join(str(ours.sizes[d]) for d in ("echo", "slice", "row", "column"))
    judge(
        "ingest / real knee, files shuffled, renamed, in one folder with another series",
        required="0 problems; bitwise identical arrays",
        measured=f"{len(plain.problems)} problems, {shape}; different: {different or 'none'}",
        passed=not plain.problems and not shuffled.problems and not different,
    )
