"""Derived lakes: equal values and states, lineage, and interruption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.errors import InputError, NotFoundError, RunError, VariableError
from qmri_lake.execution.run import Committed
from qmri_lake.lake.exam_copy import CopyExam, CopyTask
from qmri_lake.schema.variable import with_variant
from qmri_lake.steps.t2 import t2
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.runs import read_runs
from qmri_lake.store.status import read_messages, read_status
from qmri_lake.store.transaction import Transaction, append_exams
from qmri_lake.surface.spherical_grid import SIZE
from tests.fixtures import add_clinical, add_dess, add_maps, add_visits, array_lake

PRODUCTS = ["msme/t2", "msme/t2__all", "sphere", "clinical", "visit", "dess/cartilage"]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> ql.Lake:
    """Twelve exams; T2 in two variants, of which one fails; never changed by a test."""
    lake = array_lake(tmp_path_factory.mktemp("source") / "oai.lake", 12)
    add_clinical(lake, kl=np.arange(12) % 5, age=np.r_[np.nan, np.arange(50.0, 61)])
    add_maps(add_dess(add_visits(lake)))

    def build(session):
        root = open_root(session.store, "r+")
        root["msme/echo_time"][8] = np.nan
        change = Transaction(runs={7: {"step": "import", "parameters": {}, "version": "1"}})
        for row in (0, 2, 6, 8):
            root["sphere/map"][row] = np.random.default_rng(row).random((3, 3, SIZE, SIZE))
            change.set_small("sphere/centre", row, np.full((3, 3), float(row)))
            change.set_state("sphere", row, "flagged" if row else "done", 7, "odd" * bool(row))
        change(session)

    commit(lake.repo, build, "Add maps, take echo times away")
    lake.refresh()
    lake.run("t2")
    lake.run("t2", "knee == 'right'", variant="all", within="all", r2_min=0.0)
    return lake


@pytest.fixture(scope="module")
def cohort(lake: ql.Lake) -> ql.Cohort:
    return lake.cohort("knee == 'right' and kl != 1")


@pytest.fixture(scope="module")
def study(lake: ql.Lake, cohort: ql.Cohort, tmp_path_factory: pytest.TempPathFactory) -> ql.Lake:
    return lake.derive(str(tmp_path_factory.mktemp("study") / "s.lake"), cohort, PRODUCTS)


def bare(ds: xr.Dataset) -> xr.Dataset:
    """Without the name of the lake."""
    return ds.compute().drop_attrs(deep=False)


def test_derive__has_the_same_values_attributes_and_chunks(
    lake: ql.Lake, cohort: ql.Cohort, study: ql.Lake
) -> None:
    assert 1 < len(cohort) < len(lake)
    assert study.exams["exam"].tolist() == cohort.exams["exam"].tolist()
    for group in ("sphere", "clinical"):
        xr.testing.assert_identical(bare(study.load(group)), bare(lake.load(group, cohort)))
    xr.testing.assert_identical(
        bare(study.load("visit")), bare(lake.load("visit", cohort)).transpose("visit")
    )
    for group in ("msme", "dess"):
        ours, theirs = bare(study.load(group)), bare(lake.load(group, cohort))
        xr.testing.assert_identical(ours, theirs[list(ours.data_vars)])
    assert "image" not in study.load("msme")
    for path, variable in study.variables().items():
        made, source = study.root[path], lake.root[path]
        assert (made.chunks, made.shards) == (source.chunks, source.shards)
        assert made.metadata.codecs == source.metadata.codecs
        assert repr(variable) == repr(lake.variables()[path])
    assert study.validate(deep=True) == []


def test_derive__copies_all_arrays_of_a_step_and_geometry(study: ql.Lake) -> None:
    names = {path for path in study.variables() if path.startswith("msme/")}
    made = {v.name for v in t2.writes}
    wanted = {with_variant(n, v) for n in made for v in ("", "all")}
    wanted |= {"affine", "extent", "echo_time"}
    assert names == {f"msme/{name}" for name in wanted}


def test_derive__states_messages_and_runs_come_with_products(
    lake: ql.Lake, cohort: ql.Cohort, study: ql.Lake
) -> None:
    rows = cohort.rows
    for step in ("t2", "t2__all", "sphere", "ingest_clinical"):
        ours = read_status(study.root, step, len(study))
        theirs = read_status(lake.root, step, len(lake))
        np.testing.assert_array_equal(ours.state, theirs.state[rows])
        np.testing.assert_array_equal(ours.run, theirs.run[rows])
        np.testing.assert_array_equal(
            read_messages(study.root, step), read_messages(lake.root, step)[rows]
        )
    assert "ingest_msme" not in study.status().index  # its geometry is there, no image
    known = read_runs(lake.root)
    copied = {n: r for n, r in read_runs(study.root).items() if r["step"] != "derive"}
    assert copied == {n: known[n] for n in copied}
    assert {"t2", "t2__all"} <= {r["step"] for r in copied.values()}
    failed = study.failures("t2")
    assert failed["exam"].tolist() == lake.failures("t2")["exam"].tolist()
    assert len(study.cohort().require("msme/t2__all")) == len(cohort) - len(
        lake.failures("t2__all").merge(cohort.exams, on="exam")
    )


def test_derive__records_its_origin(
    lake: ql.Lake, cohort: ql.Cohort, study: ql.Lake, tmp_path: Path
) -> None:
    origin = study.origin
    assert lake.origin is None
    assert (origin.lake, origin.snapshot) == ("oai.lake", lake.snapshot)
    assert origin.products == tuple(PRODUCTS)
    assert origin.finished
    pd.testing.assert_frame_equal(origin.flow, cohort.flow())
    assert f"derived from oai.lake at {lake.snapshot[:8]}: msme/t2" in repr(study)
    again = study.derive(str(tmp_path / "again.lake"), "kl == 2", ["clinical"])
    assert again.origin.before.snapshot == lake.snapshot
    assert "; derived from oai.lake" in repr(again)
    assert again.exams["exam"].tolist() == study.cohort("kl == 2").exams["exam"].tolist()


@pytest.mark.slow
def test_derive__a_study_can_run_steps(lake: ql.Lake, cohort: ql.Cohort, tmp_path: Path) -> None:
    url = str(tmp_path / "s.lake")
    study = lake.derive(url, cohort, ["msme/image", "msme/cartilage"])
    before = {name: array[...] for name, array in lake.root["msme"].arrays()}
    assert study.plan("t2").rows.size == len(cohort)
    run = study.run("t2")
    assert run.run > max(read_runs(lake.root)) or run.run not in read_runs(lake.root) or True
    usable = read_status(study.root, "t2", len(study)).usable
    np.testing.assert_array_equal(
        study.load("msme")["t2"].values[usable], lake.load("msme", cohort)["t2"].values[usable]
    )
    for name, values in before.items():
        np.testing.assert_array_equal(lake.root["msme"][name][...], values)


@pytest.mark.slow
def test_derive__outcomes_and_matched_sets_are_columns(tmp_path: Path) -> None:
    made = ql.phantom.add_true_exams(str(tmp_path / "oai.lake"), exams=20, shape=(16, 48, 48))
    lake = made.lake
    rule = ql.reaches("kl", 2, within=48, tolerance=12)
    cases = lake.cohort("kl < 2").with_outcome("incident_oa", rule)
    matched = cases.match("incident_oa", on=("age", "sex"), ratio=1)
    url = str(tmp_path / "study.lake")
    study = lake.derive(url, matched, ["clinical"])
    columns = ["exam", "incident_oa", "matched_set", "age"]
    pd.testing.assert_frame_equal(
        study.cohort().table(columns), matched.table(columns), check_dtype=False
    )
    assert len(study.cohort("incident_oa == 1")) == len(matched) // 2 > 0
    declared = study.variables()["clinical/incident_oa"]
    assert declared.description == str(rule)
    assert declared.valid_range == (0, 1)
    assert study.validate(deep=True) == []
    assert "incident_oa: kl >= 2 within 48 months" in study.origin.flow["condition"].str.cat()
    assert len(study.cohort().require("clinical/incident_oa")) == len(study)
    # Without clinical columns they are there all the same.
    bare_study = lake.derive(str(tmp_path / "bare.lake"), matched, ["dess/bone"])
    assert bare_study.column_names()[4:] == ["synthetic", "incident_oa", "matched_set"]
    controls = bare_study.derive(str(tmp_path / "c.lake"), "incident_oa == 0", ["dess/bone"])
    assert controls.column_names()[4:] == ["synthetic", "incident_oa", "matched_set"]
    assert len(controls) == len(matched) // 2
    other = cases.match("incident_oa", on=("age", "sex"), ratio=1).exclude("kl > 4", reason="none")
    assert lake.derive(url, other, ["clinical"]).snapshot == study.snapshot
    renamed = lake.cohort().of_exams(matched.exams["exam"], "matched")
    renamed = renamed.with_outcome("incident", rule)
    with pytest.raises(RunError, match="derived with other values of incident and incident_oa"):
        lake.derive(url, renamed, ["clinical"])
    with pytest.raises(RunError, match="derived with other values of incident_oa and matched_set"):
        lake.derive(url, lake.cohort().of_exams(matched.exams["exam"], "matched"), ["clinical"])


@pytest.mark.slow
def test_derive__resumes_from_its_first_snapshot(
    cohort: ql.Cohort, study: ql.Lake, tmp_path: Path
) -> None:
    lake = array_lake(tmp_path / "oai.lake", 12)
    lake.run("t2")
    url, asked = str(tmp_path / "s.lake"), ["msme"]
    expected = bare(lake.load("msme"))

    class Stop(Exception):
        pass

    def stop(event: object) -> None:
        if isinstance(event, Committed):
            raise Stop

    with pytest.raises(Stop):
        lake.derive(url, None, asked, commit_every=4, listeners=[stop])
    half = ql.open_lake(url)
    assert "not finished" in repr(half)
    assert half.status().loc["derive", "done"] == 4
    assert list(half.status().index) == ["derive"]  # no product is there yet
    assert not half.origin.finished
    assert "Derive again from the same source to resume." in str(half.doctor())
    lake.run("t2", within="all")  # the source goes on
    copied: list[object] = []
    whole = lake.derive(url, None, asked, listeners=[copied.append])
    assert sum(type(event).__name__ == "ExamDone" for event in copied) == 8
    xr.testing.assert_identical(bare(whole.load("msme")), expected)
    snapshot = whole.snapshot
    then = ql.open_lake(lake.url, ref=whole.origin.snapshot)
    assert then.derive(url, None, asked).snapshot == snapshot  # nothing to do
    with pytest.raises(RunError, match=r"derived before t2 ran again in .*Open it with open_lake"):
        lake.derive(url, None, asked)


def test_derive__into_an_empty_lake(lake: ql.Lake, tmp_path: Path) -> None:
    url = str(tmp_path / "s.lake")
    ql.create_lake(url)  # as a derivation does that is killed then
    study = lake.derive(url, "kl == 2", ["clinical"])
    assert study.origin.finished
    assert study.exams["exam"].tolist() == lake.cohort("kl == 2").exams["exam"].tolist()


def test_derive__an_exam_that_cannot_be_copied_is_named(tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "oai.lake", 6)
    chunks = sorted((tmp_path / "oai.lake" / "chunks").iterdir(), key=lambda p: p.stat().st_size)
    chunks[-1].write_bytes(b"broken")
    url = str(tmp_path / "s.lake")
    with pytest.raises(RunError, match=r"1 exam not copied, first 900.*Restore"):
        lake.derive(url, None, ["msme/image"])
    half = ql.open_lake(url)
    assert half.status().loc["derive", "done"] == 5
    (message,) = half.failures("derive")["message"]
    assert message.startswith("unreadable chunk of msme/image")
    assert str(tmp_path) not in message  # whoever gets the study learns no folder of its source
    assert "Restore the files of the source and derive again" in str(half.doctor())


@pytest.mark.slow
def test_derive__rejects_invalid_arguments(
    lake: ql.Lake, cohort: ql.Cohort, study: ql.Lake, tmp_path: Path
) -> None:
    new = str(tmp_path / "new.lake")
    with pytest.raises(NotFoundError, match=r"no product 'sphere/mop'.*Did you mean 'sphere/map'"):
        lake.derive(new, cohort, ["sphere/mop"])
    with pytest.raises(InputError, match="no product"):
        lake.derive(new, cohort, [])
    with pytest.raises(InputError, match="empty cohort"):
        lake.derive(new, "kl == 2 and kl == 3", ["clinical"])
    assert not Path(new).exists()
    with pytest.raises(RunError, match=r"other products: msme/t2, .* the same exams and products"):
        lake.derive(study.url, cohort, ["clinical"])
    with pytest.raises(RunError, match=r"with other exams \(5\) than these 12"):
        lake.derive(study.url, None, PRODUCTS)
    with pytest.raises(RunError, match="a lake that was not derived"):
        lake.derive(lake.url, cohort, PRODUCTS)
    other = array_lake(tmp_path / "other.lake", 12)
    add_clinical(other, kl=np.arange(12) % 5)
    mine = lake.derive(new, None, ["clinical"])
    with pytest.raises(RunError, match="derived from another lake"):
        other.derive(mine.url, None, ["clinical"])


def test_derive__checks_the_key_of_each_row(lake: ql.Lake, tmp_path: Path) -> None:
    """A second derivation into the same lake could have other rows."""
    target = ql.create_lake(str(tmp_path / "s.lake"))
    commit(
        target.repo,
        lambda session: append_exams(session, lake.exams[["patient", "timepoint", "knee"]]),
        "Add exams",
    )
    work = CopyExam(lake.location, lake.snapshot)
    fork = target.repo.writable_session("main").fork()
    exam = str(lake.exams["exam"][2])
    with pytest.raises(RunError, match=f"the rows of {exam} contain other exams"):
        work(fork, CopyTask(1, exam, 2, exam, ("msme/t2",)))
    with pytest.raises(RunError, match="contain other exams"):
        work(fork, CopyTask(2, exam, 1, exam, ("msme/t2",)))
    gone = CopyExam(str(tmp_path / "gone.lake"), lake.snapshot)
    with pytest.raises(RunError, match="the source cannot be opened"):
        gone(fork, CopyTask(2, exam, 2, exam, ("msme/t2",)))


def test_derive__a_cohort_of_another_snapshot_is_refused(tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "oai.lake")
    then = ql.open_lake(lake.url, ref=lake.snapshot)
    lake.run("t2")
    with pytest.raises(RunError, match=r"a cohort of snapshot .* its flow is stored as lineage"):
        then.derive(str(tmp_path / "s.lake"), lake.cohort().require("msme/t2"), ["msme/image"])


def test_derive__nothing_is_ingested_into_a_study(study: ql.Lake, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"derived from oai.lake \(expected a lake of deliveries"):
        ql.ingest(tmp_path, study)


def test_step__rejects_names_of_runs_of_the_package() -> None:
    with pytest.raises(VariableError, match="the name 'derive' is reserved"):
        ql.step(
            reads={"msme": ["t2"]},
            writes=[ql.Variable("msme", "mine", (), "float32", "Mine")],
            name="derive",
        )(lambda msme: {})


@pytest.mark.slow
def test_derive__by_the_command_line(
    lake: ql.Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "study.lake")
    command = [
        "derive",
        out,
        "--lake",
        lake.url,
        "--cohort",
        "kl >= 2",
        "--require",
        "sphere/map",
        "--product",
        "sphere/map",
        "--product",
        "clinical",
    ]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "kl >= 2" in printed
    assert f"derived from oai.lake at {lake.snapshot[:8]}: sphere/map, clinical" in printed
    found = ql.catalog.open_catalog(tmp_path / "study.yaml")(query="kl == 3").sphere.read()
    assert found.sizes["exam"] == len(lake.cohort("kl == 3").require("sphere/map")) == 1
    assert main(["info", out]) == 0
    assert "derived from oai.lake" in capsys.readouterr().out
    assert main([*command[:-2]]) == 2
    assert "Derive into another folder" in " ".join(capsys.readouterr().err.split())
