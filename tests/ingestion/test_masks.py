"""External masks in a lake: references, masks, and exams without an image."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.errors import InputError, NotALakeError, Reason, RunError
from qmri_lake.masks.grids import ExamGrid
from tests.conftest import Judge
from tests.masks.writers import (
    SHAPE,
    affine_of,
    cropped,
    dess_lake,
    label_map,
    turned,
    write_crop,
    write_imorphics,
    write_iwoai,
    write_nifti,
    write_nrrd,
)
from tests.oai.conftest import write as write_series

KEY = "9000001-000m-right"
BONE_OF_ZIB = np.array([0, 1, 0, 2, 0], np.uint8)
CARTILAGE_OF_ZIB = np.array([0, 0, 1, 0, 2], np.uint8)


@pytest.fixture(scope="module")
def without_masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of four exams of one patient; never changed by a test."""
    path: Path = tmp_path_factory.mktemp("lake") / "l.lake"
    dess_lake(path)
    return path


@pytest.fixture
def lake(without_masks: Path, tmp_path: Path) -> ql.Lake:
    """A copy of that lake to add to."""
    return ql.open_lake(str(shutil.copytree(without_masks, tmp_path / "copy.lake")))


def labels_of(lake: ql.Lake, exam: str, name: str) -> np.ndarray:
    return np.asarray(lake.load("dess", exam=exam)[name][0])


@pytest.mark.slow
def test_ingest_masks__round_trip_through_the_lake(
    lake: ql.Lake, tmp_path: Path, judge: Judge
) -> None:
    """Each exam from another format, its axes in another order."""
    folder = tmp_path / "masks"
    folder.mkdir()
    maps = {exam: label_map(seed) for seed, exam in enumerate(lake.exams["exam"])}
    right, left = affine_of("right"), affine_of("left")
    first, second, third, fourth = maps
    write_nifti(folder / f"{first}.nii.gz", *turned(maps[first], right, (2, 1, 0), (0, 1)))
    write_nrrd(folder / f"{second}.nrrd", *turned(maps[second], left, (1, 2, 0), (2,)), "RAS")
    write_nifti(folder / f"{third}.nii", maps[third], right, "float32")
    write_nrrd(folder / f"{fourth}.seg.nrrd", *turned(maps[fourth], left, (0, 2, 1), ()))
    result = ql.ingest_masks(folder, lake, labels="oai-zib")
    same = [
        np.array_equal(labels_of(result.lake, exam, f"reference_{name}"), table[labels])
        for exam, labels in maps.items()
        for name, table in (("bone", BONE_OF_ZIB), ("cartilage", CARTILAGE_OF_ZIB))
    ]
    judge(
        "masks / files of four formats and orders into a lake",
        required="8 arrays bitwise identical, 0 problems",
        measured=f"{sum(same)} of {len(same)} equal, {len(result.problems)} problems",
        passed=all(same) and not result.problems and result.imported == 4,
    )
    assert result.lake.validate(deep=True) == []
    assert result.notes == (
        "oai-zib has no patella, patellar, meniscus: background in these masks",
    )
    record = result.lake.runs().iloc[-1]
    assert record["parameters"]["labels"] == "oai-zib"
    again = ql.ingest_masks(folder, result.lake, labels="oai-zib")
    assert (again.imported, again.present, again.lake.snapshot) == (0, 4, result.lake.snapshot)


def test_ingest_masks__contours_and_channels(lake: ql.Lake, tmp_path: Path) -> None:
    labels = label_map(numbers=(1, 4, 5, 6))
    write_imorphics(tmp_path / f"{KEY}.mat", labels)
    seg = write_iwoai(tmp_path / "train_001_V00.seg", labels)
    result = ql.ingest_masks(tmp_path / f"{KEY}.mat", lake, labels="imorphics")
    result = ql.ingest_masks(
        seg, result.lake, labels="iwoai", into="mask", patient=9000001, timepoint=0, knee="left"
    )
    assert result.problems == ()
    expected = np.array([0, 1, 0, 0, 3, 4, 4], np.uint8)[labels]
    reference = labels_of(result.lake, KEY, "reference_cartilage")
    np.testing.assert_array_equal(reference, expected)
    mask = labels_of(result.lake, "9000001-000m-left", "cartilage")
    np.testing.assert_array_equal(mask, expected)
    # No bones were segmented: there is no array that says "background".
    assert not {"bone", "reference_bone"} & set(result.lake.load("dess"))
    failures = result.lake.failures("import_reference_cartilage")
    assert failures["message"].tolist() == [
        "slices in the order of the exam: the file does not define their direction"
    ]


def test_ingest_masks__as_mask_counts_as_segmented(lake: ql.Lake, tmp_path: Path) -> None:
    labels = label_map()
    path = write_nifti(tmp_path / f"{KEY}.nii.gz", labels, affine_of("right"))
    result = ql.ingest_masks(path, lake, labels="oai-zib", into="mask")
    chosen = result.lake.cohort().require("dess/bone", "dess/cartilage")
    assert chosen.exams["exam"].tolist() == [KEY]
    femoral = ql.tissue(result.lake.load("dess", chosen).cartilage, "femoral")
    np.testing.assert_array_equal(femoral[0], labels == 2)
    assert result.lake.runs().iloc[-1]["step"] == "import"


def test_ingest_masks__a_later_image_keeps_the_mask(tmp_path: Path) -> None:
    dess = write_series(tmp_path / "oai/00m/0.C.2/9000001/20040824/1")
    path = write_nifti(tmp_path / "a.nii", label_map(shape=(6, 8, 6)), dess.affine)
    whose = {"patient": 9000001, "timepoint": 0, "knee": "right"}
    made = ql.ingest_masks(path, tmp_path / "l.lake", labels="oai-zib", into="mask", **whose)
    lake = ql.ingest(tmp_path / "oai", made.lake).lake
    network = ql.segmentation.OwnNetwork(
        lambda image: np.stack([np.ones_like(image), *3 * [np.zeros_like(image)]]),
        labels=["background", "femur", "tibia", "patella"],
        name="nothing",
    )
    plan = lake.plan("segment_bones", models=network)
    assert (len(plan.rows), plan.up_to_date) == (0, 1)


def test_ingest_masks__bones_and_cartilage_from_two_sources(lake: ql.Lake, tmp_path: Path) -> None:
    bones, cartilages = label_map(1, (1, 2)), label_map(2, (1,))
    write_nifti(tmp_path / f"{KEY}.nii", bones, affine_of("right"))
    result = ql.ingest_masks(tmp_path / f"{KEY}.nii", lake, labels={1: "femur", 2: "tibia"})
    cohort = result.lake.cohort()
    assert len(cohort.require("dess/reference_bone")) == 1
    assert len(cohort.require("dess/reference_cartilage")) == 0, "it was not segmented"
    write_nifti(tmp_path / f"{KEY}.nii", cartilages, affine_of("right"))
    result = ql.ingest_masks(tmp_path / f"{KEY}.nii", result.lake, labels={1: "femoral"})
    assert len(result.lake.cohort().require("dess/reference_cartilage")) == 1
    np.testing.assert_array_equal(labels_of(result.lake, KEY, "reference_bone"), bones)
    np.testing.assert_array_equal(labels_of(result.lake, KEY, "reference_cartilage"), cartilages)


def test_ingest_masks__bad_files_are_listed_and_the_others_imported(
    lake: ql.Lake, tmp_path: Path, judge: Judge
) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    good, right = label_map(), affine_of("right")
    first, second, third, fourth = lake.exams["exam"]
    write_nifti(folder / f"{first}.nii", good, right)
    write_nifti(folder / f"{second}.nii", good, right)  # a left knee
    write_nifti(folder / f"{third}.nii", np.zeros(SHAPE), right)
    strange = np.where(good == 4, 44, good)
    write_nifti(folder / f"{fourth}.nii", strange, affine_of("left"))
    write_nifti(folder / "9000009-000m-right.nii", good, right)
    write_nifti(folder / "unnamed.nii", good, right)
    (folder / f"{first}.nrrd").write_bytes(b"NRRD0004\nnothing")
    (folder / "readme.txt").write_text("x")
    (folder / f"._{fourth}.nii").write_bytes(b"left by a file system")
    result = ql.ingest_masks(folder, lake, labels="oai-zib")
    found = {problem.where: str(problem.reason) for problem in result.problems}
    expected = {
        f"{first}.nrrd": "other_series",
        f"{second}.nii": "grid_mismatch",
        f"{third}.nii": "empty_mask",
        f"{fourth}.nii": "unknown_label",
        "9000009-000m-right.nii": "absent_exam",
        "unnamed.nii": "absent_patient",
    }
    emptied = len([p for p in result.problems if p.reason == Reason.EMPTY_MASK])
    done = result.lake.cohort().require("dess/reference_bone", "dess/reference_cartilage")
    judge(
        "masks / another grid, an empty mask, unknown labels, and a correct mask",
        required="each listed with its reason; the correct mask imported",
        measured=f"{', '.join(sorted(found.values()))}; imported {', '.join(done.exams['exam'])}",
        passed=found == expected and done.exams["exam"].tolist() == [first],
    )
    assert emptied == 2, "bone and cartilage"
    assert result.notes[0] == "2 other files ignored (.nii, .txt)"
    for problem in result.problems:
        assert problem.found
        assert problem.todo
        assert "\n" not in str(problem)
        assert str(tmp_path) not in str(problem)
    assert list(result.table()["reason"]) == [str(p.reason) for p in result.problems]
    label = next(p for p in result.problems if p.reason == Reason.UNKNOWN_LABEL)
    assert label.found.startswith("unknown label 44 (")
    assert result.lake.validate(deep=True) == []


def test_ingest_masks__nothing_of_a_damaged_file_is_stored(lake: ql.Lake, tmp_path: Path) -> None:
    """Renamed files and unfinished downloads are masks as well."""
    folder = tmp_path / "masks"
    folder.mkdir()
    first, second, third, fourth = lake.exams["exam"]
    maps = {exam: label_map(seed) for seed, exam in enumerate(lake.exams["exam"])}
    right, left = affine_of("right"), affine_of("left")
    packed = write_nifti(tmp_path / "a.nii.gz", maps[first], right).read_bytes()
    (folder / f"{first}.nii (1).gz").write_bytes(packed)
    content = bytearray(write_nifti(tmp_path / "b.nii.gz", maps[second], left).read_bytes())
    content[-8] ^= 1  # the checksum
    (folder / f"{second}.nii.gz").write_bytes(content)
    path = write_nrrd(tmp_path / "c.nrrd", maps[third], right)
    (folder / f"{third}.nrrd.part").write_bytes(path.read_bytes()[:-9])
    (folder / f"{fourth}").write_bytes(packed + b"garbage")
    (folder / f"{fourth}.json").write_text("{}")
    result = ql.ingest_masks(folder, lake, labels="oai-zib")
    assert {problem.where: str(problem.reason) for problem in result.problems} == {
        f"{second}.nii.gz": "checksum_mismatch",
        f"{third}.nrrd.part": "truncated_file",
        fourth: "trailing_bytes",
    }
    assert result.notes[0] == "1 other file ignored (.json)"
    done = result.lake.cohort().require("dess/reference_bone").exams["exam"]
    assert done.tolist() == [first]
    for problem in result.problems:
        assert str(tmp_path) not in str(problem)
    assert result.lake.validate(deep=True) == []


def test_ingest_masks__the_affine_is_chosen_by_an_option(
    lake: ql.Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ras = np.diag([-1, -1, 1, 1]) @ affine_of("right")
    image = nibabel.Nifti1Image(label_map(), ras)
    image.set_sform(ras @ np.array([[1, 0, 0, 9], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), 1)
    image.set_qform(ras, 1)
    path = tmp_path / f"{KEY}.nii.gz"
    nibabel.save(image, path)
    command = ["ingest-masks", str(path), "--lake", lake.url, "--labels", "oai-zib"]
    assert main(command) == 1
    assert "contradictory_affines" in capsys.readouterr().out
    assert main([*command, "--form", "qform"]) == 0
    stored = ql.open_lake(lake.url)
    np.testing.assert_array_equal(
        labels_of(stored, KEY, "reference_bone"), BONE_OF_ZIB[label_map()]
    )
    assert stored.runs().iloc[-1]["parameters"]["form"] == "qform"
    with pytest.raises(RunError, match=r"form = 'best' \(expected sform or qform\)"):
        ql.ingest_masks(path, lake, labels="oai-zib", form="best")  # type: ignore[arg-type]


def test_ingest_masks__a_crop_needs_the_image_of_its_exam(lake: ql.Lake, tmp_path: Path) -> None:
    labels = label_map()
    path = write_crop(tmp_path / f"{KEY}.seg.nrrd", labels, affine_of("right"))
    result = ql.ingest_masks(path, lake, labels="oai-zib")
    assert result.problems == ()
    expected = BONE_OF_ZIB[cropped(labels)]
    np.testing.assert_array_equal(labels_of(result.lake, KEY, "reference_bone"), expected)
    whose = {"patient": 9000007, "timepoint": 0, "knee": "right"}
    alone = write_crop(tmp_path / "a.seg.nrrd", labels, affine_of("right"))
    with pytest.raises(InputError, match="does not store the size of its image"):
        ql.ingest_masks(alone, tmp_path / "new.lake", labels="oai-zib", **whose)
    assert not (tmp_path / "new.lake").exists()


def test_ingest_masks__one_empty_array_of_two(lake: ql.Lake, tmp_path: Path) -> None:
    labels = np.where(label_map() == 1, 1, 0)
    write_nifti(tmp_path / f"{KEY}.nii", labels, affine_of("right"))
    result = ql.ingest_masks(tmp_path / f"{KEY}.nii", lake, labels="oai-zib")
    (problem,) = result.problems
    assert problem.reason == Reason.EMPTY_MASK
    assert "reference_cartilage" in problem.found
    cohort = result.lake.cohort()
    assert len(cohort.require("dess/reference_bone")) == 1
    assert len(cohort.require("dess/reference_cartilage")) == 0


@pytest.mark.slow
def test_ingest_masks__an_exam_made_from_its_mask(tmp_path: Path) -> None:
    labels, affine = label_map(), affine_of("left")
    path = write_nrrd(tmp_path / "knee.nrrd", *turned(labels, affine, (1, 2, 0), (0,)))
    whose = {"patient": 9000007, "timepoint": 24, "knee": "left"}
    result = ql.ingest_masks(path, tmp_path / "l.lake", labels="oai-zib", into="mask", **whose)
    lake = result.lake
    assert result.made == ("9000007-024m-left",)
    assert "9000007-024m-left created from the grid of its mask, without an image" in str(result)
    history = result.lake.history()["message"]
    assert "Add an exam with a mask and without an image" in history.tolist()
    assert not history.str.contains("9000007").any()
    assert lake.validate(deep=True) == []
    assert len(lake.cohort().require("dess/bone", "dess/cartilage")) == 1
    assert len(lake.cohort().require("dess/image")) == 0, "no image is claimed"
    ds = lake.load("dess", **whose).isel(exam=0)
    np.testing.assert_array_equal(ds.bone, BONE_OF_ZIB[labels])
    np.testing.assert_allclose(ds.affine, affine, atol=1e-12)
    assert ds.extent.values.tolist() == list(SHAPE)
    assert np.isnan(ds.image).all()
    # The other knee, and what else there is of this one, go beside it; a larger one does not.
    write_nifti(tmp_path / "other.nii", labels[:-2], affine_of("right"))
    result = ql.ingest_masks(
        tmp_path / "other.nii", lake, labels="oai-zib", **{**whose, "knee": "right"}
    )
    assert result.made == ("9000007-024m-right",)
    result = ql.ingest_masks(path, result.lake, labels="oai-zib", **whose)
    assert (result.made, result.imported) == ((), 1)
    write_nifti(tmp_path / "large.nii", label_map(shape=(7, 9, 8)), affine)
    result = ql.ingest_masks(
        tmp_path / "large.nii", result.lake, labels="oai-zib", **{**whose, "timepoint": 0}
    )
    assert [p.reason for p in result.problems] == [Reason.LARGER_THAN_LAKE]
    assert len(result.lake) == 2
    assert result.lake.validate(deep=True) == []


@pytest.mark.slow
def test_ingest_masks__a_later_image_must_match_the_grid(tmp_path: Path) -> None:
    dess = write_series(tmp_path / "oai/00m/0.C.2/9000001/20040824/1")
    whose = {"patient": 9000001, "timepoint": 0, "knee": "right"}
    labels = label_map(shape=(6, 8, 6))
    path = write_nifti(tmp_path / "a.nii", labels, dess.affine)
    fits = ql.ingest_masks(path, tmp_path / "fits.lake", labels="oai-zib", **whose)
    result = ql.ingest(tmp_path / "oai", fits.lake)
    assert (result.problems, result.added["dess"]) == ((), 1)
    assert len(result.lake.cohort().require("dess/image", "dess/reference_bone")) == 1
    moved = dess.affine.copy()
    moved[1, 3] += 5
    write_nifti(tmp_path / "a.nii", labels, moved)
    other = ql.ingest_masks(tmp_path / "a.nii", tmp_path / "o.lake", labels="oai-zib", **whose)
    result = ql.ingest(tmp_path / "oai", other.lake)
    (problem,) = result.problems
    assert problem.reason == Reason.GRID_MISMATCH
    assert "5.00 mm off" in problem.found
    np.testing.assert_allclose(result.lake.load("dess").affine[0], moved, atol=1e-4)
    assert result.lake.validate(deep=True) == []


# -- whose a file is -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "exam"),
    [
        ("9000001-024m-left.nii", {}, "9000001-024m-left"),
        ("9000001-024m-left/mask.nii", {}, "9000001-024m-left"),
        ("9000001_V03_LEFT.nii", {}, "9000001-024m-left"),
        ("24m/9000001/seg_left.nii", {}, "9000001-024m-left"),
        ("9000001_V03.nii", {"knee": "left"}, "9000001-024m-left"),
        ("9000001_left.nii", {}, "9000001-000m-left"),  # all of OAI-ZIB is of the baseline
        ("mask.nii", {"patient": 9000001, "timepoint": 0, "knee": "left"}, "9000001-000m-left"),
    ],
)
def test_ingest_masks__identifies_the_exam_by_name_and_options(
    lake: ql.Lake, tmp_path: Path, name: str, options: dict[str, Any], exam: str
) -> None:
    path = tmp_path / "masks" / name
    path.parent.mkdir(parents=True)
    write_nifti(path, label_map(), affine_of("left"))
    result = ql.ingest_masks(tmp_path / "masks", lake, labels="oai-zib", **options)
    assert result.problems == ()
    done = result.lake.cohort().require("dess/reference_bone")
    assert done.exams["exam"].tolist() == [exam]


@pytest.mark.parametrize(
    ("name", "options", "reason", "found"),
    [
        ("train_001_V00.nii", {}, Reason.ABSENT_PATIENT, "no patient number in the file name"),
        ("9000001_V00.nii", {}, Reason.ABSENT_SIDE, "may belong to 9000001-000m-right, "),
        ("9000002_V00.nii", {}, Reason.ABSENT_SIDE, "no such exam of patient 9000002"),
        ("9000001_V00_left.nii", {"knee": "right"}, Reason.SIDE_CONFLICT, "knee left in the name"),
        ("9000001_V00_V01_left.nii", {}, Reason.TIMEPOINT_CONFLICT, "timepoint 0 and 12 in one"),
        ("9000001_9000002.nii", {}, Reason.PATIENT_CONFLICT, "patient 9000001 and 9000002 in one"),
    ],
)
def test_ingest_masks__an_ambiguous_name_is_listed(
    lake: ql.Lake, tmp_path: Path, name: str, options: dict[str, Any], reason: Reason, found: str
) -> None:
    path = write_nifti(tmp_path / name, label_map(), affine_of("right"))
    result = ql.ingest_masks(path, lake, labels="oai-zib", **options)
    (problem,) = result.problems
    assert problem.reason == reason
    assert found in problem.found
    assert result.lake.snapshot == lake.snapshot


def test_ingest_masks__the_only_candidate_needs_a_position(tmp_path: Path) -> None:
    lake = dess_lake(tmp_path / "l.lake", 1)
    seg = write_iwoai(tmp_path / "9000001_V00.seg", label_map())
    result = ql.ingest_masks(seg, lake, labels="iwoai")
    assert [problem.reason for problem in result.problems] == [Reason.ABSENT_SIDE]
    path = write_nifti(tmp_path / "9000001_V00.nii", label_map(), affine_of("right"))
    assert ql.ingest_masks(path, lake, labels="oai-zib").imported == 1


# -- what is refused -------------------------------------------------------------------------------


def test_ingest_masks__nothing_to_import_leaves_no_lake(tmp_path: Path) -> None:
    url, good = tmp_path / "l.lake", label_map()
    whose = {"patient": 9000007, "timepoint": 24, "knee": "left"}
    (tmp_path / "empty").mkdir()
    path = write_nifti(tmp_path / "9000001-000m-right.nii", good, affine_of("right"))
    bad = write_nifti(tmp_path / "bad.nii", good + 90, affine_of("right"))
    none = write_nifti(tmp_path / "none.nii", good * 0, affine_of("right"))
    with pytest.raises(InputError, match="no mask among 0 files"):
        ql.ingest_masks(tmp_path / "empty", url, labels="oai-zib")
    with pytest.raises(InputError, match="no such file"):
        ql.ingest_masks(tmp_path / "nowhere", url, labels="oai-zib")
    with pytest.raises(InputError, match="no lake for 1 mask"):
        ql.ingest_masks(path, url, labels="oai-zib")
    with pytest.raises(InputError, match="label 90"):
        ql.ingest_masks(bad, url, labels="oai-zib", **whose)
    with pytest.raises(InputError, match="no voxel of any tissue of bone and cartilage"):
        ql.ingest_masks(none, url, labels="oai-zib", **whose)
    with pytest.raises(NotALakeError):
        ql.ingest_masks(path, tmp_path, labels="oai-zib", **whose)
    assert not url.exists()


@pytest.mark.parametrize("option", [{"into": "masks"}, {"knee": "RIGHT"}, {"patient": -1}])
def test_ingest_masks__invalid_options(
    lake: ql.Lake, tmp_path: Path, option: dict[str, Any]
) -> None:
    path = write_nifti(tmp_path / f"{KEY}.nii", label_map(), affine_of("right"))
    with pytest.raises(RunError, match="ingest_masks: "):
        ql.ingest_masks(path, lake, labels="oai-zib", **option)


# -- the command line, and a real knee -------------------------------------------------------------


def test_command__imports_and_returns_an_exit_code(
    lake: ql.Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    write_nifti(folder / f"{KEY}.nii", label_map(), affine_of("right"))
    command = ["ingest-masks", str(folder), "--lake", lake.url, "--labels"]
    assert main([*command, "1=femur,2=femoral,3=tibia,4=tibial", "--as", "mask"]) == 0
    assert "imported masks of 1 exam; 0 problems" in capsys.readouterr().out
    write_nifti(folder / "9000001-000m-left.nii", label_map(), affine_of("right"))
    csv = tmp_path / "problems.csv"
    assert main([*command, "oai-zib", "--as", "mask", "--problems", str(csv)]) == 1
    assert "grid_mismatch" in capsys.readouterr().out
    assert list(pd.read_csv(csv)["reason"]) == ["grid_mismatch"]
    assert main([*command, "oai-zip"]) == 2
    assert "Did you mean 'oai-zib'" in capsys.readouterr().err


def test_ingest_masks__on_the_grid_that_dcm2niix_writes(
    real_data: Path, tmp_path: Path, judge: Judge
) -> None:
    """A mask on the NIfTI of a DICOM series matches the grid of its image in the lake."""
    whose = {"patient": 1, "timepoint": 0, "knee": "right"}
    folder = real_data / "dicom_geometry"
    lake = ql.ingest(folder / "sagittal_gre", tmp_path / "l.lake", group="dess", **whose).lake
    image = nibabel.load(folder / "sagittal_gre_reference.nii")
    bright = (np.asanyarray(image.dataobj) > 300).astype(np.uint8)
    path = tmp_path / "0000001-000m-right.nii.gz"
    nibabel.save(nibabel.Nifti1Image(bright, image.affine), path)
    result = ql.ingest_masks(path, lake, labels={1: "femur"})
    ds = result.lake.load("dess").isel(exam=0)
    wrong = int(((ds.image > 300) != ql.tissue(ds.reference_bone, "femur")).sum())
    judge(
        "masks / drawn on dcm2niix's NIfTI of real slices, imported onto the lake's image",
        required="every voxel at the correct pixel, 0 problems",
        measured=f"{wrong} of {bright.size:,} elsewhere, {len(result.problems)} problems",
        passed=wrong == 0 and not result.problems and 0 < bright.sum() < bright.size,
    )
    alone = ql.read_mask(path, {1: "femur"})
    np.testing.assert_array_equal(alone.labels, ds.reference_bone)
    np.testing.assert_allclose(alone.affine, ds.affine, atol=1e-5)


@pytest.mark.slow
def test_ingest_masks__real_knee(real_data: Path, tmp_path: Path, judge: Judge) -> None:
    path = real_data / "knee_segmentation/right_knee_labels.nrrd"
    whose = {"patient": 1, "timepoint": 0, "knee": "right"}
    lake = ql.ingest_masks(path, tmp_path / "l.lake", labels="pymskt", **whose).lake
    ds = lake.load("dess", lake.cohort().require("dess/reference_cartilage")).isel(exam=0)
    femoral = ql.tissue(ds.reference_cartilage, "femoral").sum().compute()
    volume = float(femoral * abs(np.linalg.det(ds.affine.values[:3, :3])))
    judge(
        "masks / real knee through a lake: femoral cartilage",
        required="11,845.6 mm3 to 1 %",
        measured=f"{volume:,.1f} mm3",
        passed=abs(volume / 11845.6 - 1) < 0.01,
    )
    mask = ql.read_mask(path, "pymskt", like=ExamGrid((160, 384, 384), ds.affine.values))
    np.testing.assert_array_equal(ds.reference_bone, mask.bone)
    assert lake.validate() == []
