"""Masks by the hundred: patterns and lists, exams without images, parts, and the cost of a mask."""

from __future__ import annotations

import gzip
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.errors import InputError, Reason, RunError
from tests.conftest import Judge
from tests.masks import writers
from tests.masks.writers import (
    affine_of,
    dess_lake,
    label_map,
    write_iwoai,
    write_meta_image,
    write_nrrd,
)

MONTHS = (0, 24)
KNEES = ("left", "right")
FULL_SIZE = (384, 384, 160)


def write_nifti(path: Path, labels: np.ndarray, affine: np.ndarray, dtype: str = "uint8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return writers.write_nifti(path, labels, affine, dtype)


def write_study(folder: Path, patients: int, name: str) -> dict[str, np.ndarray]:
    """Masks of both knees of patients at two visits; return their labels by exam key."""
    written = {}
    for number in range(9000001, 9000001 + patients):
        for month in MONTHS:
            for knee in KNEES:
                labels = label_map(len(written))
                path = folder / name.format(patient=number, month=month, knee=knee)
                write_nifti(path, labels, affine_of(knee))
                written[f"{number}-{month:03d}m-{knee}"] = labels
    return written


def check_study(lake: ql.Lake, labels: dict[str, np.ndarray]) -> None:
    assert sorted(lake.exams["exam"]) == sorted(labels)
    ds = lake.load("dess")
    for index, exam in enumerate(ds["exam"].values):
        one = labels[str(exam)]
        np.testing.assert_array_equal(ds.reference_bone[index], np.array([0, 1, 0, 2, 0])[one])
        knee = str(ds.knee[index].values)
        np.testing.assert_allclose(ds.affine[index], affine_of(knee), atol=1e-4)
    assert lake.validate(deep=True) == []


def test_ingest_masks__a_folder_of_exams_without_images(tmp_path: Path, judge: Judge) -> None:
    labels = write_study(tmp_path / "masks", 5, "{patient}_{month:02d}m_{knee}.nii.gz")
    calls: list[tuple[int, int]] = []
    result = ql.ingest_masks(
        tmp_path / "masks",
        tmp_path / "l.lake",
        labels="oai-zib",
        create=True,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert result.problems == ()
    assert result.made == tuple(labels)
    assert "20 exams created from the grids of their masks, without images" in str(result)
    assert calls == [(n, 20) for n in range(1, 21)]
    messages = result.lake.history()["message"].tolist()
    made = [message for message in messages if message.startswith("Add ")]
    judge(
        "masks / commits that import 20 masks and create their exams",
        required="one commit creates all exams; commits of 16 masks",
        measured=f"{made[0]!r}; {len(messages)} commits with that of the empty lake",
        passed=made == ["Add 20 exams with masks and without an image"] and len(messages) <= 7,
    )
    check_study(result.lake, labels)
    again = ql.ingest_masks(tmp_path / "masks", result.lake, labels="oai-zib", create=True)
    assert (again.imported, again.present, again.made) == (0, 20, ())
    assert again.lake.snapshot == result.lake.snapshot


def test_ingest_masks__exams_are_created_only_on_request(tmp_path: Path) -> None:
    write_study(tmp_path / "masks", 1, "{patient}_{month:02d}m_{knee}.nii.gz")
    with pytest.raises(InputError, match=r"no lake for 4 masks .*--create"):
        ql.ingest_masks(tmp_path / "masks", tmp_path / "l.lake", labels="oai-zib")
    assert not (tmp_path / "l.lake").exists()
    lake = dess_lake(tmp_path / "one.lake", 1)
    result = ql.ingest_masks(tmp_path / "masks", lake, labels="oai-zib")
    assert (result.imported, len(result.lake)) == (1, 1)
    assert {problem.reason for problem in result.problems} == {Reason.ABSENT_EXAM}
    result = ql.ingest_masks(tmp_path / "masks", lake, labels="oai-zib", create=True)
    assert (result.imported, result.present, len(result.lake)) == (3, 1, 4)


def test_ingest_masks__a_pattern(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = write_study(tmp_path / "masks", 2, "site/P{patient}/{knee}-{month}-seg.nii.gz")
    write_nifti(tmp_path / "masks/other.nii.gz", label_map(), affine_of("left"))
    lake = str(tmp_path / "l.lake")
    command = ["ingest-masks", str(tmp_path / "masks"), "--lake", lake, "--labels", "oai-zib"]
    pattern = "site/P{patient}/{knee}-{timepoint}-seg.nii.gz"
    assert main([*command, "--pattern", pattern]) == 0
    printed = capsys.readouterr().out
    assert "imported masks of 8 exams; 8 exams created from the grids of their masks" in printed
    assert "note: 1 other file ignored (.gz)" in printed
    check_study(ql.open_lake(lake), labels)
    assert main([*command, "--pattern", "{patient}.nii.gz"]) == 2
    assert "no {knee} in the pattern" in capsys.readouterr().err


def test_ingest_masks__a_visit_of_the_source_completes_a_pattern(tmp_path: Path) -> None:
    write_nifti(tmp_path / "masks/9000001_right.nii", label_map(), affine_of("right"))
    result = ql.ingest_masks(
        tmp_path / "masks",
        tmp_path / "l.lake",
        labels="oai-zib-uq",
        pattern="{patient}_{knee}.nii",
    )
    assert result.made == ("9000001-000m-right",)


def test_ingest_masks__a_list(tmp_path: Path) -> None:
    labels = write_study(tmp_path / "masks", 1, "{month}{knee}{patient}.nii.gz")
    rows = ["file,patient,timepoint,knee"]
    for exam in labels:
        patient, month, knee = exam.split("-")
        rows.append(f"{int(month[:-1])}{knee}{patient}.nii.gz,{patient},{month},{knee[0].upper()}")
    rows.append("absent.nii.gz,9000009,0,left")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    result = ql.ingest_masks(
        tmp_path / "masks", tmp_path / "l.lake", labels="oai-zib", files=tmp_path / "list.csv"
    )
    (problem,) = result.problems
    assert problem.reason == Reason.UNREADABLE_FILE
    assert "absent.nii.gz" in problem.found
    check_study(result.lake, labels)


@pytest.mark.parametrize("pattern", [(), ("--pattern", "{timepoint}m_{knee}.nii.gz")])
def test_ingest_masks__the_identifier_of_a_patient_as_an_option(
    tmp_path: Path, pattern: tuple[str, ...]
) -> None:
    write_nifti(tmp_path / "m" / "24m_left.nii.gz", label_map(1), affine_of("left"))
    url = str(tmp_path / "l.lake")
    keys = ("--patient", "P007") if pattern else ("--patient", "P007", "--create")
    words = ["ingest-masks", str(tmp_path / "m"), "--lake", url, "--labels", "oai-zib"]
    assert main([*words, *keys, *pattern]) == 0
    lake = ql.open_lake(url, mode="r")
    assert lake.cohort("study_id == 'P007'").exams["timepoint"].tolist() == [24]
    assert main([*words, *keys, *pattern]) == 0  # the patient of the lake, and nothing new
    assert len(ql.open_lake(url, mode="r")) == 1


def test_ingest_masks__identifiers_that_are_no_numbers(tmp_path: Path) -> None:
    labels = label_map()
    for name in ("P007_bl_L.nii", "P007_fu_L.nii", "SKM-0042_bl_R.nii"):
        knee = "left" if "_L" in name else "right"
        write_nifti(tmp_path / "masks" / name, labels, affine_of(knee))
    result = ql.ingest_masks(
        tmp_path / "masks",
        tmp_path / "l.lake",
        labels="oai-zib",
        pattern="{patient}_{visit}_{knee}.nii",
        visits={"bl": 0, "fu": 24},
    )
    assert result.problems == ()
    exams = result.lake.exams
    stored = result.lake.root["clinical/study_id"][:].tolist()
    found = sorted(zip(stored, exams["timepoint"], exams["knee"], strict=True))
    assert found == [("P007", 0, "left"), ("P007", 24, "left"), ("SKM-0042", 0, "right")]
    assert exams["patient"].nunique() == 2
    # The other knee, later: the identifier has the number that it got before.
    write_nifti(tmp_path / "more/P007_bl_R.nii", labels, affine_of("right"))
    result = ql.ingest_masks(
        tmp_path / "more",
        result.lake,
        labels="oai-zib",
        pattern="{patient}_bl_{knee}.nii",
        timepoint=0,
    )
    assert result.lake.exams["patient"].nunique() == 2
    assert len(result.lake.select(patient=int(exams["patient"][stored.index("P007")])).rows) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "{patient}", "files": "a.csv"}, "both a pattern and a list"),
        ({"files": "a.csv", "knee": "left"}, "a list and a patient, timepoint or knee"),
    ],
)
def test_ingest_masks__options_that_contradict(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    write_nifti(tmp_path / "masks/a.nii", label_map(), affine_of("left"))
    with pytest.raises(RunError, match=message):
        ql.ingest_masks(tmp_path / "masks", tmp_path / "l.lake", labels="oai-zib", **options)


def test_ingest_masks__bad_files_make_no_exam(tmp_path: Path) -> None:
    labels = write_study(tmp_path / "masks", 2, "{patient}_{month:02d}m_{knee}.nii.gz")
    good, left = label_map(), affine_of("left")
    folder = tmp_path / "masks"
    write_nifti(folder / "9000005_00m_left.nii", good * 0, left)
    write_nifti(folder / "9000006_00m_left.nii", good + 90, left)
    write_nifti(folder / "9000007_00m_left.nii", good / 2, left, "float32")
    (folder / "9000008_00m_left.nii.gz").write_bytes(gzip.compress(bytes(800))[:20])
    write_iwoai(folder / "9000009_00m_left.seg", good)
    result = ql.ingest_masks(folder, tmp_path / "l.lake", labels="oai-zib", create=True)
    assert {problem.exam: str(problem.reason) for problem in result.problems} == {
        "9000005-000m-left": "empty_mask",
        "9000006-000m-left": "unknown_label",
        "9000007-000m-left": "fractional_labels",
        "9000008-000m-left": "truncated_file",
        "9000009-000m-left": "grid_mismatch",
    }
    assert result.lake.exams["exam"].tolist() == list(labels)
    assert all(str(tmp_path) not in str(problem) for problem in result.problems)
    # A new lake has arrays for the largest mask; later ones must fit.
    write_nifti(tmp_path / "large/9000010_00m_left.nii", label_map(shape=(7, 9, 8)), left)
    result = ql.ingest_masks(tmp_path / "large", result.lake, labels="oai-zib", create=True)
    assert [problem.reason for problem in result.problems] == [Reason.LARGER_THAN_LAKE]
    assert len(result.lake) == len(labels)
    for number in (9000001, 9000002):
        write_nifti(tmp_path / f"empty/{number}_00m_left.nii", good * 0, left)
    with pytest.raises(InputError, match=r"no voxel of any tissue .*, and 1 more file: no lake"):
        ql.ingest_masks(tmp_path / "empty", tmp_path / "new.lake", labels="oai-zib", create=True)
    assert not (tmp_path / "new.lake").exists()


def test_ingest_masks__on_workers(tmp_path: Path, workers: Any) -> None:
    labels = write_study(tmp_path / "masks", 1, "{patient}_{month:02d}m_{knee}.nii.gz")
    result = ql.ingest_masks(
        tmp_path / "masks", tmp_path / "l.lake", labels="oai-zib", create=True, cluster=workers
    )
    assert result.lake.exams["exam"].tolist() == list(labels)
    check_study(result.lake, labels)


# -- medial and lateral parts ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "numbers", "medial", "lateral"),
    [
        ("skm-tea", (1, 2, 3, 4, 5, 6), (3, 5), (4, 6)),
        ("oaizib-cm", (1, 2, 3, 4, 5), (4,), (5,)),
        ({1: "femoral", 7: "medial tibial", 9: "lateral meniscus"}, (1, 7, 9), (7,), (9,)),
    ],
)
def test_ingest_masks__parts_are_kept_where_the_source_tells_them(
    tmp_path: Path,
    table: Any,
    numbers: tuple[int, ...],
    medial: tuple[int, ...],
    lateral: tuple[int, ...],
) -> None:
    lake = dess_lake(tmp_path / "l.lake", 2)
    first, second = lake.exams["exam"]
    labels = label_map(numbers=numbers)
    path = write_meta_image(tmp_path / f"{first}.mha", labels, affine_of("right"))
    result = ql.ingest_masks(path, lake, labels=table)
    path = write_nrrd(tmp_path / f"{second}.nrrd", label_map(), affine_of("left"))
    result = ql.ingest_masks(path, result.lake, labels="oai-zib")
    chosen = result.lake.cohort().require("dess/reference_cartilage_part")
    assert chosen.exams["exam"].tolist() == [first], "oai-zib does not tell"
    ds = result.lake.load("dess", chosen).isel(exam=0)
    for side, own in (("medial", medial), ("lateral", lateral)):
        part = ql.tissue(ds.reference_cartilage_part, side)
        np.testing.assert_array_equal(part, np.isin(labels, own))
    both = ql.tissue(ds.reference_cartilage, "tibial") & ql.tissue(
        ds.reference_cartilage_part, "medial"
    )
    assert both.any()
    record = result.lake.runs().iloc[-2]["parameters"]
    assert set(record["sides"].values()) == {"medial", "lateral"}
    assert result.lake.validate(deep=True) == []
    with pytest.raises(InputError, match="an exam without a mask"):
        ql.tissue(result.lake.load("dess").reference_cartilage_part, "medial").compute()


def test_validate__finds_a_part_outside_its_tissue(tmp_path: Path) -> None:
    from qmri_lake.store.arrays import open_root
    from qmri_lake.store.repository import commit

    lake = dess_lake(tmp_path / "l.lake", 1)
    path = write_nifti(
        tmp_path / "9000001-000m-right.nii", label_map(numbers=(1, 2, 3, 4)), affine_of("right")
    )
    lake = ql.ingest_masks(path, lake, labels="skm-tea", into="mask").lake

    def damage(session: Any) -> None:
        root = open_root(session.store, "r+")
        inside = root["dess/cartilage"][0]
        parts = root["dess/cartilage_part"][0]
        parts[(inside == 1) | (inside == 0)] = 1
        root["dess/cartilage_part"][0] = parts

    commit(lake.repo, damage, "Damage")
    (fault,) = lake.refresh().validate(deep=True)
    assert "dess/cartilage_part of 9000001-000m-right: " in fault
    assert "medial or lateral outside the tissues with parts" in fault


# -- the cost --------------------------------------------------------------------------------------


def write_knees(folder: Path, count: int, shape: tuple[int, int, int]) -> None:
    """NIfTI masks of bones and cartilages of a plausible shape: shells around ellipsoids."""
    folder.mkdir()
    axes = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij")

    def radius(centre: float, *widths: float) -> np.ndarray:
        moved = (axes[0], axes[1] - centre, axes[2])
        return np.sqrt(sum((a / w) ** 2 for a, w in zip(moved, widths, strict=True)))

    femur, tibia = radius(0.45, 0.5, 0.5, 0.8), radius(-0.6, 0.5, 0.45, 0.8)
    labels = np.zeros(shape, np.uint8)
    for number, values, low, high in (
        (2, femur, 1, 1.06),
        (1, femur, 0, 1),
        (4, tibia, 1, 1.06),
        (3, tibia, 0, 1),
    ):
        labels[(values >= low) & (values < high)] = number
    width = 0.7 * 160 / shape[2]
    affine = np.array([[0, 0, -width, 60], [0.36, 0, 0, -70], [0, 0.36, 0, -70], [0, 0, 0, 1.0]])
    affine[:2, :2] *= 384 / shape[0]
    affine[2, 1] *= 384 / shape[1]
    for number in range(count):
        image = nibabel.Nifti1Image(np.roll(labels, number % 9, axis=0), affine)
        nibabel.save(image, folder / f"{9000001 + number // 2}_V00_{KNEES[number % 2]}.nii.gz")


def cpu_of(command: list[str]) -> float:
    """Return the CPU-seconds of a command of qmri-lake in another process, start included."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "qmri_lake.cli", *command], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_ingest_masks__a_mask_is_read_once(tmp_path: Path, monkeypatch: Any) -> None:
    """The stand-in of many masks: files are opened once, also to create their exams."""
    import builtins

    write_knees(tmp_path / "masks", 6, (32, 32, 16))
    opened: list[str] = []
    real = builtins.open

    def counting(file: Any, *arguments: Any, **options: Any) -> Any:
        opened.append(str(file))
        return real(file, *arguments, **options)

    monkeypatch.setattr(builtins, "open", counting)
    result = ql.ingest_masks(tmp_path / "masks", tmp_path / "l.lake", labels="oai-zib", create=True)
    assert result.problems == ()
    times = [opened.count(str(path)) for path in sorted((tmp_path / "masks").iterdir())]
    assert times == [2] * 6, "the first bytes, to recognise the format, and the content"


@pytest.mark.accept
def test_ingest_masks__68_masks_of_full_size(tmp_path: Path, judge: Judge) -> None:
    write_knees(tmp_path / "masks", 68, FULL_SIZE)
    lake = str(tmp_path / "l.lake")
    started = time.monotonic()
    command = ["ingest-masks", str(tmp_path / "masks"), "--lake", lake, "--labels", "oai-zib"]
    seconds = cpu_of([*command, "--as", "mask", "--create"])
    elapsed = time.monotonic() - started
    stored = ql.open_lake(lake)
    done = len(stored.cohort().require("dess/bone", "dess/cartilage"))
    commits = len(stored.history())
    judge(
        "masks / one command imports 68 masks of 384 x 384 x 160 voxels without images",
        required="68 exams in at most 70 CPU-seconds",
        measured=f"{done} exams, {seconds:.0f} CPU-s, {elapsed:.0f} s, {commits} commits",
        passed=done == 68 and seconds <= 70,
    )
    exam = str(stored.exams["exam"].iloc[7])
    mask = ql.read_mask(tmp_path / "masks/9000004_V00_right.nii.gz", "oai-zib")
    ds = stored.load("dess", exam=exam).isel(exam=0)
    np.testing.assert_array_equal(ds.bone, mask.bone)
    np.testing.assert_array_equal(ds.cartilage, mask.cartilage)
    again = cpu_of(command)
    judge(
        "masks / one command imports 68 references of full size onto the grids of exams",
        required="at most 70 CPU-seconds",
        measured=f"{again:.0f} CPU-s",
        passed=again <= 70,
    )
