"""Exams made from truth: equal to those of an archive, marked, resumable, kept apart."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.errors import InputError, Reason
from qmri_lake.execution.run import Committed
from qmri_lake.phantom import Archive, TruthResult, add_true_exams, exams
from qmri_lake.phantom.exam_truth import set_up
from tests.phantom.conftest import SHAPE

TRUE, DELIVERED = "made_from == 'truth'", "made_from == 'delivered'"


@pytest.fixture(scope="module")
def delivered(
    small_archive: Archive, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path], ql.Lake]:
    """Copies of a lake of the four exams of the archive."""
    folder = tmp_path_factory.mktemp("delivered") / "oai.lake"
    result = ql.ingest(small_archive.path, folder, masks=small_archive.truth)
    assert not result.problems

    def copied(path: Path) -> ql.Lake:
        return ql.open_lake(str(shutil.copytree(folder, path / "oai.lake")))

    return copied


@pytest.fixture(scope="module")
def same_knees(tmp_path_factory: pytest.TempPathFactory) -> TruthResult:
    """The archive's four exams, made from truth."""
    url = tmp_path_factory.mktemp("true") / "true.lake"
    return add_true_exams(url, exams=4, shape=SHAPE, first_patient=0)


def values(lake: ql.Lake, exam: str, path: str) -> np.ndarray[Any, Any]:
    group, name = path.split("/")
    return np.asarray(lake.load(group, exam=exam)[name].isel(exam=0).values)


def test_add_true_exams__masks_and_motion_equal_those_of_an_archive(
    same_knees: TruthResult, small_archive: Archive
) -> None:
    lake = same_knees.lake
    assert (same_knees.added, same_knees.present, same_knees.problems) == (4, 0, ())
    assert lake.exams["exam"].tolist() == list(small_archive.exams)
    for key in small_archive.exams:
        truth = np.load(small_archive.truth / f"{key}.npz")
        for name in ("bone", "cartilage", "affine"):
            np.testing.assert_array_equal(values(lake, key, f"dess/{name}"), truth[f"dess_{name}"])
        if "t2" not in truth:
            continue
        for name, theirs in (
            ("cartilage", "msme_cartilage"),
            ("affine", "msme_affine"),
            ("dess_to_msme", "dess_to_msme"),
        ):
            np.testing.assert_array_equal(values(lake, key, f"msme/{name}"), truth[theirs])
        t2, cartilage = values(lake, key, "msme/t2"), np.isin(truth["msme_cartilage"], (1, 2, 3))
        np.testing.assert_array_equal(np.isfinite(t2), cartilage)
        pure = cartilage & np.isfinite(truth["t2"])  # the rest of a voxel may be fluid or bone
        assert pure.sum() > 50
        np.testing.assert_allclose(t2[pure], truth["t2"][pure], rtol=1e-4)
        assert 25 < np.nanmin(t2) < np.nanmax(t2) < 55


def test_add_true_exams__clinical_rows_equal_those_of_an_archive(
    same_knees: TruthResult, delivered: Callable[[Path], ql.Lake], tmp_path: Path
) -> None:
    true, other = same_knees.lake, delivered(tmp_path)
    assert same_knees.visits == len(other.load("visit")["patient"])
    names = other.column_names()
    tables = [
        lake.cohort().table(names).sort_values("exam", ignore_index=True) for lake in (true, other)
    ]
    assert tables[0].equals(tables[1])
    assert "made_from" not in names
    for name, array in other.load("visit").items():
        np.testing.assert_array_equal(true.load("visit")[name].values, array.values)
    assert true.validate(deep=True) == []


@pytest.mark.accept
def test_add_true_exams__beside_delivered_exams(
    delivered: Callable[[Path], ql.Lake], tmp_path: Path
) -> None:
    before = delivered(tmp_path)
    clinical = before.cohort().table()
    made = add_true_exams(before, exams=5, shape=SHAPE)
    lake = made.lake
    assert len(lake) == 9
    assert made.added == 5
    true, real = lake.cohort(TRUE), lake.cohort(DELIVERED)
    assert (len(true), len(real)) == (5, 4)
    assert not set(true.exams["patient"]) & set(real.exams["patient"])
    assert real.table(list(clinical.columns)).equals(clinical)
    assert len(lake.cohort("not made_from == 'truth'")) == 4
    assert len(true.require("clinical/made_from")) == 5
    assert not len(true.require("dess/image"))
    state = lake.status()
    assert state.loc["ingest_truth", "pending"] == 4
    assert state.loc["ingest_dess", "pending"] == 5

    oa = ql.diagnosis.label_oa(true)
    kl = {exam.key: exam.knee.kl for exam in exams(5, first_patient=10_000)}
    assert oa.label.tolist() == [int(kl[key] >= 2) for key in oa.cohort.exams["exam"]]
    assert len(ql.diagnosis.label_pain(true)) > 0

    # Without an image there is nothing to segment, register or fit, whatever the parameters.
    for step, parameters in (("register", {"mask": "nearest"}), ("t2", {"r2_min": None})):
        plan = lake.plan(step, true, **parameters)
        assert len(plan.rows) == 0
    with_t2 = true.require("msme/t2")
    assert len(with_t2) == 4  # one left knee has no multi-echo series
    with_t2 = with_t2.where("timepoint == 0 or kl == 4")
    for step in ("sphere", "region"):
        assert lake.run(step, with_t2).counts["failed"] == 0
    maps = lake.load("sphere", lake.cohort(TRUE).require("sphere/map"))["map"]
    assert maps.sizes["exam"] == len(with_t2) == 2
    thickness = maps.sel(biomarker="thickness").mean(("azimuth", "polar")).values
    assert ((thickness > 0.5) & (thickness < 4.5)).all()
    t2 = maps.sel(biomarker="t2").mean(("azimuth", "polar")).values
    assert ((t2 > 30) & (t2 < 46)).all()


def test_add_true_exams__accepts_a_later_delivery(small_archive: Archive, tmp_path: Path) -> None:
    lake = add_true_exams(tmp_path / "l", exams=1, shape=SHAPE).lake
    result = ql.ingest(small_archive.path, lake)
    assert (result.added["dess"], result.added["msme"], result.problems) == (4, 4, ())
    assert len(result.lake.cohort(f"{DELIVERED} and not missing(kl)")) == 4
    assert len(result.lake.cohort(f"{TRUE} and not missing(age)")) == 1


def test_add_true_exams__resumes_after_an_interruption(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(event: Any) -> None:
        if isinstance(event, Committed):
            raise Stopped

    options: dict[str, Any] = {"exams": 3, "shape": SHAPE, "seed": 4}
    with pytest.raises(Stopped):
        add_true_exams(tmp_path / "l", commit_every=1, listeners=[stop], **options)
    lake = ql.open_lake(str(tmp_path / "l"))
    assert len(lake.cohort(TRUE)) == 3  # marked before their data are written
    assert len(lake.cohort().require("dess/bone")) == 1
    again = add_true_exams(tmp_path / "l", **options)
    assert (again.present, again.added, again.visits) == (1, 2, 0)
    assert len(again.lake.cohort().require("dess/bone", "clinical/kl")) == 3
    snapshot = again.lake.snapshot
    assert add_true_exams(again.lake, **options).present == 3
    assert again.lake.snapshot == snapshot
    more = add_true_exams(again.lake, **{**options, "exams": 4})
    assert (more.present, more.added) == (3, 1)
    assert str(more).startswith("added 1 exam made from truth")


def test_add_true_exams__rejects_patients_of_other_origin(
    same_knees: TruthResult, delivered: Callable[[Path], ql.Lake], tmp_path: Path
) -> None:
    lake = delivered(tmp_path)
    with pytest.raises(InputError, match=r"patients? with delivered exams in the lake, such as 9"):
        add_true_exams(lake, exams=2, shape=SHAPE, first_patient=1)
    with pytest.raises(
        InputError, match=r"9000001-.* exists with seed 0 .* \(expected the given seed 1 "
    ):
        add_true_exams(same_knees.lake, exams=2, shape=SHAPE, seed=1, first_patient=0)
    with pytest.raises(InputError, match=r"dess of 40 x 96 x 96 \(expected at most 24 x 64 x 64"):
        add_true_exams(lake, exams=2, shape=(40, 96, 96))
    assert len(lake.refresh()) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exams": 0}, "exams = 0"),
        ({"first_patient": -1}, "first_patient = -1"),
        ({"first_patient": 999_999}, "patient number 1000"),
        ({"shape": (8, 8, 8)}, "shape"),
    ],
)
def test_add_true_exams__invalid_arguments_create_no_lake(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        add_true_exams(tmp_path / "l", **{"exams": 1, **options})
    assert not (tmp_path / "l").exists()


def test_add_true_exams__lists_a_series_with_too_many_slices(
    delivered: Callable[[Path], ql.Lake], tmp_path: Path
) -> None:
    lake = delivered(tmp_path)
    most = lake.root["msme/cartilage"].shape[1]
    wide = next(
        exam
        for index in range(20_088, 30_000)  # the first of the widest knees behind 20,000
        if (exam := exams(1, first_patient=index)[0]).has_msme
        and set_up(exam, SHAPE).msme_shape[0] > most
    )
    made = add_true_exams(lake, exams=1, shape=SHAPE, first_patient=wide.patient.index)
    assert [p.reason for p in made.problems] == [Reason.LARGER_THAN_LAKE]
    assert len(lake.cohort(TRUE).require("dess/bone")) == 1
    assert not len(lake.cohort(TRUE).require("msme/t2"))
    assert "without T2" in lake.failures("ingest_truth")["message"].item()


def test_phantom_truth__by_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "phantom-truth",
        "--lake",
        str(tmp_path / "l"),
        "--exams",
        "1",
        "--shape",
        "16x48x48",
    ]
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("added 1 exam made from truth and ")
    assert main(command) == 0
    assert "1 already present" in capsys.readouterr().out


@pytest.mark.accept
def test_add_true_exams__works_in_a_new_worker_process(tmp_path: Path) -> None:
    """A process that has only just started knows no variable of any step."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as workers:
        made = add_true_exams(str(tmp_path / "l"), exams=1, shape=(16, 48, 48), cluster=workers)
    assert (made.added, made.failed) == (1, 0), made.lake.failures().to_string()
