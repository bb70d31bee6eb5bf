"""Ingest of T1rho, T2*, qDESS and a kind of one's own from DICOM, and the DESS of a qDESS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.execution.step import temporary_steps
from qmri_lake.ingestion.dess_from_qdess import combine_echoes
from qmri_lake.schema.builtin import declare_series
from qmri_lake.schema.groups import VOLUME_DIMS, Group
from qmri_lake.steps.exponential_maps import Relaxation, exponential_step
from tests.oai.conftest import Written
from tests.oai.test_other_series import STEADY, TRAIN, set_spoiler
from tests.oai.test_sequence import acquire, acquire_dess

WHOSE = {"patient": 42, "timepoint": 0, "knee": "right"}
EXAM = "0000042-000m-right"
LATER = {**WHOSE, "timepoint": 12}


def write_qdess(folder: Path, **elements: object) -> Written:
    written = acquire(folder, "qDESS", echo_times=(6.4, 33.6), **{**STEADY, **elements})
    set_spoiler(written, "3132", "1904")
    return written


@pytest.fixture
def study(tmp_path: Path) -> tuple[Path, dict[str, Written]]:
    """A knee with all kinds of series, without a DESS of its own."""
    root = tmp_path / "study"
    names = {"t1rho": "T1rho", "t2star": "T2*_ME-GRE"}
    written = {
        kind: acquire(root / kind, name, echo_times=TRAIN, seed=k, number=k, **STEADY)
        for k, (kind, name) in enumerate(names.items(), 1)
    }
    return root, {**written, "qdess": write_qdess(root / "qdess", seed=9, number=9)}


def test_ingest__stores_images_times_and_parameters(
    study: tuple[Path, dict[str, Written]], tmp_path: Path
) -> None:
    root, written = study
    result = ql.ingest(root, tmp_path / "a.lake", **WHOSE)
    assert result.problems == ()
    assert {name: n for name, n in result.added.items() if n} == dict.fromkeys(written, 1)
    lake = result.lake
    for name, axis in (("t1rho", "spin_lock"), ("t2star", "echo"), ("qdess", "echo")):
        ds = lake.load(name).isel(exam=0).compute()
        assert ds["image"].dims == (axis, *VOLUME_DIMS)
        np.testing.assert_array_equal(ds["image"], written[name].image)
        np.testing.assert_allclose(ds["affine"], written[name].affine, atol=1e-5)
        times = TRAIN if name != "qdess" else (6.4, 33.6)
        np.testing.assert_array_equal(ds[f"{axis}_time"], times)
    found = [float(ds[n]) for n in ("repetition_time", "flip_angle")]
    assert found == [20, 20]
    assert float(ds["gradient_area"]) == pytest.approx(31.32)
    assert float(ds["gradient_duration"]) == pytest.approx(1.904)
    assert lake.validate(deep=True) == []
    again = ql.ingest(root, lake, **WHOSE)
    assert (again.present, sum(again.added.values()), again.problems) == (3, 0, ())


def test_ingest__a_shorter_scan_has_fewer_times(tmp_path: Path) -> None:
    lake = None
    for k, times in enumerate((TRAIN, TRAIN[:2])):
        acquire(tmp_path / f"{k}", "T1rho", echo_times=times, seed=k, **STEADY)
        whose = {**WHOSE, "timepoint": 12 * k}
        lake = ql.ingest(tmp_path / f"{k}", lake or tmp_path / "a.lake", **whose).lake
    assert lake is not None
    ds = lake.load("t1rho").compute()
    assert np.isnan(ds["spin_lock_time"]).sum(axis=1).values.tolist() == [0, 1]
    assert np.isnan(ds["image"][1, 2]).all()
    assert lake.load("t1rho", exam=lake.exams["exam"][1]).sizes["spin_lock"] == 2
    assert lake.run("t1rho", within="all", r2_min=None).counts["done"] == 2


def test_ingest__a_kind_of_ones_own_by_its_group(tmp_path: Path) -> None:
    times = (1.0, 5.0, 10.0)
    written = acquire(tmp_path / "ute", "knee cones", echo_times=times, **STEADY)
    with temporary_steps():
        declare_series(
            Group("ute", 48, "Ultrashort echoes", dims=("echo", *VOLUME_DIMS), title="UTE")
        )
        kind = Relaxation("ute_t2", "ute", "UTE T2*", "T2* of UTE", (0.0, 50.0), "fit_ute")
        step = exponential_step(kind)
        assert ql.ingest(tmp_path / "ute", tmp_path / "b.lake", **WHOSE).problems[0].reason is (
            Reason.UNKNOWN_SEQUENCE
        )
        lake = ql.ingest(tmp_path / "ute", tmp_path / "a.lake", group="ute", **WHOSE).lake
        np.testing.assert_array_equal(lake.load("ute")["image"][0], written.image)
        assert lake.run(step, within="all", r2_min=None, bounds=(0, 1e6)).failed == 0
        ds = lake.load("ute").isel(exam=0).compute()
        fit = ql.relaxometry.fit_mono_exponential(written.image, times, bounds=(0, 1e6))
        np.testing.assert_array_equal(ds["ute_t2"], fit.t2)
        np.testing.assert_array_equal(ds["ute_t2_status"], fit.status)


# -- the DESS of a qDESS ---------------------------------------------------------------------------


@pytest.fixture
def lake(tmp_path: Path) -> ql.Lake:
    """The first visit has only a qDESS, the second both, the third only a DESS."""
    write_qdess(tmp_path / "0" / "q", seed=1)
    write_qdess(tmp_path / "12" / "q", seed=2)
    acquire_dess(tmp_path / "12" / "d", "sag DESS", seed=3, slices=2, shape=(4, 3))
    acquire_dess(tmp_path / "24" / "d", "sag DESS", seed=4, slices=2, shape=(4, 3))
    url = tmp_path / "a.lake"
    for month in (0, 12, 24):
        result = ql.ingest(tmp_path / f"{month}", url, **{**WHOSE, "timepoint": month})
        assert result.problems == ()
    return ql.open_lake(url)


def test_dess_from_qdess__makes_what_is_missing(lake: ql.Lake, tmp_path: Path) -> None:
    before = lake.load("dess").compute()
    made = ql.dess_from_qdess(lake)
    assert (made.written, made.own, made.without, made.unchanged) == (1, 1, 1, 0)
    assert str(made) == (
        "DESS of 1 exam made from qDESS; 1 with a DESS of their own, kept; 1 without qDESS; "
        "0 problems"
    )
    ds, qdess = lake.load("dess").compute(), lake.load("qdess").compute()
    echoes = qdess["image"][0].values.astype(np.float64)
    np.testing.assert_array_equal(ds["image"][0], np.hypot(*echoes).astype(np.float32))
    np.testing.assert_array_equal(ds["affine"][0], qdess["affine"][0])
    np.testing.assert_array_equal(ds["image"][1:], before["image"][1:])
    assert ds["digest"][0].item() not in qdess["digest"].values.tolist()
    assert lake.validate(deep=True) == []
    again = ql.dess_from_qdess(lake)
    assert (again.written, again.unchanged) == (0, 1)
    other = ql.dess_from_qdess(lake.cohort("timepoint == 0"), combine="echo1")
    assert (other.written, other.own) == (1, 0)
    np.testing.assert_array_equal(lake.load("dess")["image"][0], echoes[0])
    # A qDESS that replaces the first one makes another DESS.
    replaced = write_qdess(tmp_path / "new" / "q", seed=7)
    ql.ingest(tmp_path / "new", lake, replace=EXAM, **WHOSE)
    assert ql.dess_from_qdess(lake, combine="echo1").written == 1
    np.testing.assert_array_equal(lake.load("dess")["image"][0], replaced.image[0])


def test_dess_from_qdess__command(lake: ql.Lake, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["dess-from-qdess", "--lake", lake.url, "--cohort", "timepoint == 0"]
    assert main(command) == 0
    assert "DESS of 1 exam made from qDESS" in " ".join(capsys.readouterr().out.split())
    assert main([*command, "--combine", "mean"]) == 2
    assert "combine='mean'" in " ".join(capsys.readouterr().err.split())


def test_dess_from_qdess__larger_than_the_lake_is_a_problem(tmp_path: Path) -> None:
    acquire_dess(tmp_path / "d" / "d", "sag DESS", slices=2, shape=(3, 3))
    write_qdess(tmp_path / "q" / "q")
    url = tmp_path / "a.lake"
    ql.ingest(tmp_path / "d", url, **LATER)
    lake = ql.ingest(tmp_path / "q", url, **WHOSE).lake
    made = ql.dess_from_qdess(lake)
    (problem,) = made.problems
    assert (made.written, problem.reason) == (0, Reason.LARGER_THAN_LAKE)
    assert lake.failures("ingest_dess")["exam"].tolist() == [EXAM]


def test_dess_from_qdess__needs_a_qdess(tmp_path: Path) -> None:
    acquire_dess(tmp_path / "d", "sag DESS")
    lake = ql.ingest(tmp_path / "d", tmp_path / "a.lake", **WHOSE).lake
    with pytest.raises(NotFoundError, match="no group 'qdess'"):
        ql.dess_from_qdess(lake)
    with pytest.raises(InputError, match="combine='sum'"):
        ql.dess_from_qdess(lake, combine="sum")  # type: ignore[arg-type]


def test_combine_echoes__does_not_overflow() -> None:
    large = np.full((2, 1, 1, 1), 3e20, np.float32)
    np.testing.assert_allclose(combine_echoes(large, "rss"), 3e20 * np.sqrt(2), rtol=1e-6)
