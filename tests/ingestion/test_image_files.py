"""Ingest of image files other than DICOM: identity, echoes, repeated ingests, and problems."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import dcm2niix
import nibabel
import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.lake.synthetic_exams import is_synthetic
from tests.image_files.writers import TO_RAS, knee_affine, signal, write_image
from tests.oai.conftest import Written
from tests.oai.conftest import write_series as write_series  # a fixture

PATTERN = "{patient}_{timepoint}m_{knee}_dess.nii.gz"
ECHOES = "{patient}_{timepoint}m_{knee}_e{echo}.nii.gz"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two knees of one patient with DESS, one of another; never changed by a test."""
    folder = tmp_path_factory.mktemp("study")
    for seed, (patient, knee) in enumerate([("P007", "L"), ("P007", "R"), ("9000798", "L")]):
        side = "left" if knee == "L" else "right"
        path = folder / f"{patient}_024m_{knee}_dess.nii.gz"
        write_image(path, signal(seed), knee_affine(side))
    return folder


@pytest.fixture(scope="module")
def ingested(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("ingested") / "l.lake"
    result = ql.ingest(study, path, pattern=PATTERN, group="dess")
    assert not result.problems
    assert dict(result.added)["dess"] == 3
    return path


@pytest.fixture
def lake(ingested: Path, tmp_path: Path) -> ql.Lake:
    return ql.open_lake(str(shutil.copytree(ingested, tmp_path / "copy.lake")))


def test_ingest__stores_images_and_identifiers(lake: ql.Lake) -> None:
    assert "9000798-024m-left" in set(lake.exams["exam"])
    chosen = lake.cohort('study_id == "P007"')
    assert sorted(chosen.exams["knee"]) == ["left", "right"]
    numbers = set(chosen.exams["patient"])
    assert len(numbers) == 1
    assert 1_000_000_000 <= numbers.pop() <= 9_999_999_999
    assert len(lake.cohort("patient == 9000798 and not (study_id == 'P007')")) == 0  # unknown
    for seed, knee in enumerate(("left", "right")):
        ds = lake.load("dess", lake.cohort(f"study_id == 'P007' and knee == '{knee}'")).isel(exam=0)
        np.testing.assert_array_equal(ds.image, signal(seed)[0])
        np.testing.assert_allclose(ds.affine, knee_affine(knee), atol=1e-5)
        assert str(ds.series_uid.values).startswith("2.25.")
        assert len(str(ds.digest.values)) == 64
    assert lake.validate(deep=True) == []


def test_ingest__a_second_one_adds_only_new_images(
    lake: ql.Lake, study: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(study, tmp_path / "more"))
    write_image(folder / "P007_48m_L_dess.nii.gz", signal(9), knee_affine("left"))
    keys = set(lake.exams["exam"])
    result = ql.ingest(folder, lake, pattern=PATTERN, group="dess")
    assert (dict(result.added)["dess"], result.present, result.problems) == (1, 3, ())
    (new,) = set(lake.refresh().exams["exam"]) - keys
    assert new.endswith("-048m-left")
    assert len(lake.cohort("study_id == 'P007'")) == 3
    snapshot = lake.snapshot
    again = ql.ingest(folder, lake, pattern=PATTERN, group="dess")
    assert (sum(again.added.values()), again.present) == (0, 4)
    assert lake.refresh().snapshot == snapshot


def test_ingest__another_image_of_an_exam_needs_replace(
    lake: ql.Lake, study: Path, tmp_path: Path
) -> None:
    name = "P007_024m_L_dess.nii.gz"
    write_image(tmp_path / "new" / name, signal(50), knee_affine("left"))
    exam = str(lake.cohort("study_id == 'P007' and knee == 'left'").exams["exam"].iloc[0])
    refused = ql.ingest(tmp_path / "new", lake, pattern=PATTERN, group="dess")
    assert [p.reason for p in refused.problems] == [Reason.OTHER_SERIES]
    assert refused.problems[0].exam == exam
    done = ql.ingest(tmp_path / "new", lake, pattern=PATTERN, group="dess", replace=exam)
    assert (done.replaced, done.problems) == (1, ())
    np.testing.assert_array_equal(lake.refresh().load("dess", exam=exam).image[0], signal(50)[0])
    # The file of another exam, under this name.
    shutil.copy(study / "P007_024m_R_dess.nii.gz", tmp_path / "new" / "P9_0m_R_dess.nii.gz")
    twice = ql.ingest(tmp_path / "new", lake, pattern=PATTERN, group="dess")
    assert [p.found.partition("ingested as")[0] for p in twice.problems] == ["the series was "]


def test_ingest__numbers_do_not_depend_on_the_order(study: Path, tmp_path: Path) -> None:
    lake = None
    for name in ("P007_024m_R", "9000798_024m_L", "P007_024m_L"):
        one = tmp_path / name
        one.mkdir()
        shutil.copy(study / f"{name}_dess.nii.gz", one)
        lake = ql.ingest(one, tmp_path / "l.lake", pattern=PATTERN, group="dess").lake
    assert lake is not None
    whole = ql.ingest(study, tmp_path / "whole.lake", pattern=PATTERN, group="dess").lake
    assert set(lake.exams["exam"]) == set(whole.exams["exam"])


# -- echoes --------------------------------------------------------------------------------------


def write_echoes(folder: Path, count: int, *, sidecars: bool = True, patient: str = "P1") -> None:
    """Write one file an echo; the times are 10, 20 ... ms."""
    for echo in range(1, count + 1):
        fields = {"EchoTime": echo / 100} if sidecars else {}
        path = folder / f"{patient}_0m_L_e{echo}.nii.gz"
        write_image(path, signal(echo), knee_affine("left"), **fields)


def test_ingest__joins_files_of_echoes_by_their_sidecars(tmp_path: Path) -> None:
    write_echoes(tmp_path / "d", 3)
    # In the other order of axes, on the same grid.
    second = tmp_path / "d" / "P1_0m_L_e2.nii.gz"
    write_image(second, signal(2), knee_affine("left"), (0, 2, 1), (0,))
    result = ql.ingest(tmp_path / "d", tmp_path / "l.lake", pattern=ECHOES, group="msme")
    assert result.problems == ()
    assert dict(result.ignored) == {}
    ds = result.lake.load("msme").isel(exam=0)
    np.testing.assert_allclose(ds.echo_time, [10, 20, 30])
    np.testing.assert_array_equal(ds.image, np.concatenate([signal(e) for e in (1, 2, 3)]))


def test_ingest__times_of_a_list_order_the_echoes(tmp_path: Path) -> None:
    # One file of four echoes, and one patient with three files, in no order.
    write_image(tmp_path / "d" / "four.nrrd", signal(1, 4), knee_affine("right"))
    for time in (30, 10, 20):
        write_image(tmp_path / "d" / f"t{time}.mha", signal(time), knee_affine("left"))
    (tmp_path / "files.csv").write_text(
        "file,patient,timepoint,knee,group,time_ms\n"
        "four.nrrd,SKM-0042,V03,R,msme,5 10 15 20\n"
        "t20.mha,SKM-0042,0,L,msme,20\nt30.mha,SKM-0042,0,L,msme,30\nt10.mha,SKM-0042,0,L,msme,10\n"
    )
    result = ql.ingest(tmp_path / "d", tmp_path / "l.lake", files=tmp_path / "files.csv")
    assert result.problems == ()
    four = result.lake.load("msme", result.lake.cohort("knee == 'right'")).isel(exam=0)
    np.testing.assert_array_equal(four.image, signal(1, 4))
    np.testing.assert_allclose(four.echo_time, [5, 10, 15, 20])
    three = result.lake.load("msme", result.lake.cohort("knee == 'left'")).isel(exam=0)
    np.testing.assert_array_equal(three.image, np.concatenate([signal(t) for t in (10, 20, 30)]))
    assert set(result.lake.cohort("study_id == 'SKM-0042'").exams["timepoint"]) == {0, 24}


@pytest.mark.parametrize(
    ("spoil", "reason", "found"),
    [
        ("without times", Reason.MISSING_ECHO, "no echo times of 1 image"),
        ("missing echo", Reason.MISSING_ECHO, "echoes 1, 3"),
        ("other grid", Reason.INCONSISTENT_GEOMETRY, "another grid than P1_0m_L_e1.nii.gz: 1.00"),
        ("same time", Reason.DUPLICATE_POSITION, "times 10, 10, 30 ms"),
        ("swapped times", Reason.INCONSISTENT_GEOMETRY, "echoes 1, 3, 2, in the order of times"),
        ("milliseconds", Reason.IMPLAUSIBLE_VALUE, "EchoTime = 20: milliseconds?"),
        ("broken sidecar", Reason.UNREADABLE_FILE, "P1_0m_L_e2.json: JSONDecodeError"),
        ("one echo", Reason.MISSING_ECHO, "1 image of a msme series"),
        ("four dimensions", Reason.MISSING_ECHO, "2 images and 1 time"),
    ],
)
def test_ingest__lists_incomplete_echoes_and_ingests_the_others(
    tmp_path: Path, spoil: str, reason: Reason, found: str
) -> None:
    folder, affine = tmp_path / "d", knee_affine("left")
    write_echoes(folder, 3)
    write_echoes(folder, 2, patient="P2")
    second, sidecar = folder / "P1_0m_L_e2.nii.gz", folder / "P1_0m_L_e2.json"
    if spoil == "without times":
        sidecar.unlink()
    elif spoil == "missing echo":
        second.unlink()
    elif spoil == "other grid":
        moved = affine.copy()
        moved[1, 3] += 1
        write_image(second, signal(2), moved)
    elif spoil in ("same time", "swapped times", "milliseconds"):
        time = {"same time": 0.01, "swapped times": 0.04, "milliseconds": 20}[spoil]
        sidecar.write_text(json.dumps({"EchoTime": time}))
    elif spoil == "broken sidecar":
        sidecar.write_text("{")
    elif spoil == "one echo":
        for path in (second, folder / "P1_0m_L_e3.nii.gz"):
            path.unlink()
    else:
        write_image(second, signal(2, 2), affine)
    result = ql.ingest(folder, tmp_path / "l.lake", pattern=ECHOES, group="msme")
    assert dict(result.added)["msme"] == 1
    assert list(result.lake.cohort("study_id == 'P2'").exams["timepoint"]) == [0]
    (problem,) = result.problems
    assert (problem.reason, problem.found[: len(found)]) == (reason, found)
    assert problem.where.startswith("P1_0m_L_e")
    assert problem.exam.endswith("-000m-left")


def test_ingest__times_of_names_and_sidecars_must_agree(tmp_path: Path) -> None:
    for time in (10, 20):
        path = tmp_path / "d" / f"P1_0m_L_{time}ms.nii"
        write_image(
            path, signal(time), knee_affine("left"), EchoTime=0.0101 if time == 10 else 0.03
        )
    pattern = "{patient}_{timepoint}m_{knee}_{time}ms.nii"
    result = ql.ingest(tmp_path / "d", tmp_path / "l.lake", pattern=pattern, group="msme")
    assert [problem.found for problem in result.problems] == [
        "20 ms in the name or the list, and 30 ms in the sidecar"
    ]


# -- side, forms and files that cannot be used ---------------------------------------------------


def test_ingest__lists_an_image_on_the_other_side(tmp_path: Path) -> None:
    write_image(tmp_path / "d" / "P1_0m_L_dess.nii.gz", signal(1), knee_affine("right"))
    write_image(tmp_path / "d" / "P1_0m_R_dess.nii.gz", signal(2), knee_affine("right"))
    unknown = knee_affine("right")
    unknown[:3, 3] = 0  # a program that lost the position
    write_image(tmp_path / "d" / "P2_0m_L_dess.nii.gz", signal(3), unknown)
    result = ql.ingest(tmp_path / "d", tmp_path / "l.lake", pattern=PATTERN, group="dess")
    (problem,) = result.problems
    assert str(problem) == (
        "P1_0m_L_dess.nii.gz: side_conflict: a left knee whose centre is 70 mm to the right of the "
        "isocentre (expected at most 30 mm). Check the side in the name or the list. If the "
        "position in the file is not that of the scanner, use --any-position (any_position=True)."
    )
    assert dict(result.added)["dess"] == 2
    options = {"pattern": PATTERN, "group": "dess", "any_position": True}
    assert ql.ingest(tmp_path / "d", result.lake, **options).problems == ()


def test_ingest__lists_unusable_files_and_ingests_the_others(tmp_path: Path) -> None:
    folder, affine = tmp_path / "d", knee_affine("left")
    write_image(folder / "P1_0m_L_dess.nii.gz", signal(1), affine)
    cut = write_image(folder / "P2_0m_L_dess.nii.gz", signal(2), affine)
    cut.write_bytes(cut.read_bytes()[:-20])
    empty = signal(3).astype(np.float32)
    empty[0, 0, 0, 0] = np.nan
    write_image(folder / "P3_0m_L_dess.nii.gz", empty, affine)
    write_image(folder / "P4_0m_L_dess.nii.gz", signal(4, 2), affine)
    image = nibabel.Nifti1Image(signal(5)[0], TO_RAS @ affine)
    image.set_qform(np.diag([1.0, 1, 1, 1]) @ (TO_RAS @ affine) + 5 * np.eye(4, k=3), 1)
    image.set_sform(TO_RAS @ affine, 1)
    nibabel.save(image, folder / "P5_0m_L_dess.nii.gz")
    write_image(folder / "p1_12m_L_dess.nii.gz", signal(6), affine)
    result = ql.ingest(folder, tmp_path / "l.lake", pattern=PATTERN, group="dess")
    assert dict(result.added)["dess"] == 1
    assert {problem.where[:2]: problem.reason.value for problem in result.problems} == {
        "P2": "truncated_file",
        "P3": "unreadable_value",
        "P4": "several_volumes",
        "P5": "contradictory_affines",
        "p1": "patient_conflict",  # P1, written in another way
    }
    assert all("/" not in problem.where for problem in result.problems)
    failures = result.lake.failures()
    assert set(failures["step"]) == {"ingest_dess"}
    chosen = ql.ingest(folder, result.lake, pattern=PATTERN, group="dess", form="sform")
    assert dict(chosen.added)["dess"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "{patient}.nii", "group": "dess"}, "no {timepoint} in the pattern"),
        ({"pattern": PATTERN}, f"no group for the pattern '{PATTERN}' (expected one of dess or "),
        ({"pattern": PATTERN, "group": "des"}, "group 'des' (expected dess or "),
        ({"pattern": "{patient}_{group}_{knee}_{timepoint}", "group": "dess"}, "and --group"),
        ({"pattern": PATTERN.replace("dess", "x"), "group": "dess"}, "no file matches the pattern"),
        ({"pattern": PATTERN, "group": "dess", "bids": True}, "--pattern and --bids"),
        ({"pattern": PATTERN, "group": "dess", "series": "a"}, "--series without DICOM"),
        ({"form": "sform"}, "an option for image files, and neither --pattern, --list"),
        ({"pattern": PATTERN, "group": "dess", "form": "x"}, "form = 'x'"),
        ({"files": "absent.csv"}, "absent.csv: no such file (expected a CSV list of files)"),
        ({}, "no DICOM series, and 3 image files: 9000798_024m_L_dess.nii.gz, "),
    ],
)
def test_ingest__refuses_options_in_one_line(
    study: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises((InputError, NotFoundError)) as caught:
        ql.ingest(study, tmp_path / "l.lake", **options)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "l.lake").exists()


def test_ingest__command(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lake = str(tmp_path / "l.lake")
    command = ["ingest", str(study), "--lake", lake, "--group", "dess", "--pattern"]
    assert main([*command, PATTERN]) == 0
    assert "added 3 dess series; 0 problems" in capsys.readouterr().out
    assert main([*command, "{patient}_{visit}_{knee}_dess.nii.gz", "--visit", "024m=24"]) == 0
    assert "3 series already present; 0 problems" in capsys.readouterr().out
    assert main([*command, "x{patient}_{timepoint}m_{knee}"]) == 2
    assert "no file matches the pattern" in capsys.readouterr().err
    assert main([*command, PATTERN, "--visit", "a"]) == 2
    assert "--visit: 'a' (expected NAME=MONTHS, such as followup=24)" in capsys.readouterr().err


def test_ingest__dicom_of_a_patient_without_a_number(
    lake: ql.Lake, write_series: Callable[..., Written], tmp_path: Path
) -> None:
    folder = tmp_path / "dicom"
    write_series(folder / "1", patient="P007", series="x DESS RIGHT", study="", visit="")
    result = ql.ingest(folder, lake, patient="P007", timepoint=48)
    assert (result.problems, result.added["dess"]) == ((), 1)
    chosen = lake.refresh().cohort("study_id == 'P007' and knee == 'right'")
    assert sorted(chosen.exams["timepoint"]) == [24, 48]
    assert chosen.exams["patient"].nunique() == 1
    assert (
        main(["ingest", str(folder), "-l", lake.url, "--patient", "P008", "--timepoint", "0"]) == 1
    )
    assert len(lake.refresh().cohort("study_id == 'P008'")) == 0  # the series is that of P007


def test_ingest__dicom_folders_by_pattern_and_list(
    write_series: Callable[..., Written], tmp_path: Path
) -> None:
    for patient in ("P1", "P2"):
        for month in (0, 24):
            folder = tmp_path / "d" / patient / f"{month}m_R"
            write_series(folder, patient="x", series="x DESS RIGHT", study="", visit="")
    left = tmp_path / "d/P3/0m_L"
    write_series(left, patient="x", series="x DESS RIGHT", study="", visit="")  # contradicts
    (tmp_path / "d/P4/0m_L").mkdir(parents=True)
    result = ql.ingest(
        tmp_path / "d", tmp_path / "l.lake", pattern="{patient}/{timepoint}m_{knee}/"
    )
    assert dict(result.added)["dess"] == 4
    assert [(p.where, p.reason.value) for p in result.problems] == [
        ("P3/0m_L", "side_conflict"),
        ("P4/0m_L/", "unreadable_file"),
    ]
    assert sorted(result.lake.cohort("study_id == 'P1'").exams["timepoint"]) == [0, 24]
    (tmp_path / "files.csv").write_text(
        "file,patient,timepoint,knee\nP1/0m_R,P1,0,R\nP1/24m_R,P1,24,R\nP2/0m_R,P1,24,R\n"
    )
    again = ql.ingest(tmp_path / "d", tmp_path / "m.lake", files=tmp_path / "files.csv")
    assert dict(again.added)["dess"] == 1
    (problem,) = again.problems
    assert problem.reason == Reason.AMBIGUOUS_SERIES
    assert problem.found.endswith(": P1/24m_R, P2/0m_R")


@pytest.mark.slow
def test_ingest__nifti_of_dcm2niix_equals_the_dicom_series(real_data: Path, tmp_path: Path) -> None:
    """The NIfTI and JSON that dcm2niix writes for a real multi-echo series."""
    command = [dcm2niix.bin, "-z", "y", "-f", "P007_24m_R_e%e", "-o", str(tmp_path)]
    subprocess.run([*command, str(real_data / "knee_mese")], check=True, capture_output=True)
    result = ql.ingest(tmp_path, tmp_path / "n.lake", pattern=ECHOES, group="msme")
    assert (result.problems, dict(result.added)["msme"]) == ((), 1)
    whose = {"patient": "P007", "timepoint": 24, "knee": "right", "group": "msme"}
    dicom = ql.ingest(real_data / "knee_mese", tmp_path / "d.lake", **whose)  # type: ignore[arg-type]
    assert dicom.problems == ()
    assert dicom.lake.exams.equals(result.lake.exams)
    assert list(dicom.lake.cohort("study_id == 'P007'").exams["exam"])
    mine, theirs = (one.lake.load("msme").isel(exam=0) for one in (result, dicom))
    np.testing.assert_array_equal(mine.image, theirs.image)
    np.testing.assert_allclose(mine.echo_time, theirs.echo_time, atol=1e-9)
    # The affine is the one that dcm2niix wrote: from the first and the last position. Ours of the
    # DICOM series is a least-squares line through positions that are rounded to 0.001 mm.
    stored = nibabel.load(tmp_path / "P007_24m_R_e1.nii.gz")
    index = np.array([[0, 0, 0], [23, 255, 255], [11, 3, 200]])
    places = index @ mine.affine.values[:3, :3].T + mine.affine.values[:3, 3]
    ijk = np.linalg.solve(stored.affine, np.c_[places * [-1, -1, 1], np.ones(3)].T)[:3]
    np.testing.assert_allclose(ijk, np.rint(ijk), atol=1e-4)
    np.testing.assert_allclose(mine.affine, theirs.affine, atol=5e-4)


@pytest.mark.parametrize("mark", [{"synthetic": True}, {"Manufacturer": "qmri_lake phantom"}, {}])
def test_ingest__marks_images_whose_sidecar_states_that_they_are_synthetic(
    tmp_path: Path, mark: dict[str, object]
) -> None:
    path = tmp_path / "s" / "P1_00m_right_dess.nii.gz"
    write_image(path, signal(1), knee_affine("right"), **(mark or {"EchoTime": 0.005}))
    pattern = "{patient}_{timepoint}m_{knee}_{group}.nii.gz"
    lake = ql.ingest(tmp_path / "s", tmp_path / "x.lake", pattern=pattern).lake
    assert is_synthetic(lake).tolist() == [bool(mark)]
