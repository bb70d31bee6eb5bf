"""Pseudonymised lakes: equal values under new numbers, and nothing that identifies a patient."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.errors import InputError, RunError
from qmri_lake.execution.run import Committed
from qmri_lake.lake.cohort import AddedColumn
from qmri_lake.lake.deidentification import NO_CODE, clean_parameters, message_code
from qmri_lake.schema.privacy import Privacy
from qmri_lake.schema.variable import Variable
from qmri_lake.segmentation.models.recipes import recipes
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.runs import read_runs
from qmri_lake.store.status import read_messages, read_status
from qmri_lake.store.transaction import Transaction, declare
from tests.fixtures import add_clinical, add_dess, add_maps, add_visits, array_lake

EXAMS = 16
PRODUCTS = ["msme", "dess", "sphere", "clinical", "visit"]
SECRET = "Jane Doe"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> ql.Lake:
    """Sixteen exams with dates, notes, UIDs and own columns; never changed by a test."""
    lake = array_lake(tmp_path_factory.mktemp("source") / f"{SECRET}.lake", EXAMS)
    add_clinical(lake, kl=np.arange(EXAMS) % 5, age=np.arange(50.0, 50 + EXAMS))
    add_maps(add_dess(add_visits(lake)))
    seen = Variable("clinical", "seen", (), "string", "Day", privacy=Privacy.DATE, step="mine")
    note = Variable("clinical", "note", (), "string", SECRET, step="mine")

    def build(session):
        root = open_root(session.store, "r+")
        root.attrs["note"] = root["dess"].attrs["note"] = root["dess/image"].attrs["note"] = SECRET
        root["msme/image"].attrs["long_name"] = SECRET
        declare(root, [seen, note])
        days = np.datetime64("2004-03-01") + np.arange(EXAMS)
        root["clinical/seen"][:] = days.astype(str).astype(object)
        root["clinical/note"][:] = np.full(EXAMS, SECRET, object)
        root["msme/series_uid"][:] = np.array([f"1.2.3.4.5.{n}" for n in range(EXAMS)], object)
        change = Transaction()
        change.runs[3] = {
            "step": "t2__all",
            "parameters": {"within": "all", "r2_min": 0.5, "model": SECRET, SECRET: 1},
            "version": "1",
            "code": "t2 1, qmri_lake 0.2.0",
            "host": SECRET,
            "snapshot": "x",
        }
        change.set_state("t2", 0, "failed", 3, f"missing_slice: {SECRET}: no slice")
        change.set_state("t2", 1, "flagged", 3, f"{SECRET} moved")
        change(session)

    commit(lake.repo, build, f"Add {SECRET}")
    lake.refresh()
    lake.run("t2", "knee == 'left'", within="all")
    table = lake.exams[["patient", "timepoint", "knee"]].assign(width=1.5, site=SECRET.split()[0])
    lake.add_table(
        table, patient="patient", timepoint="timepoint", knee="knee", name=f"{SECRET}.csv"
    )
    return lake


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def study(lake: ql.Lake, folder: Path) -> ql.Lake:
    return lake.derive(
        str(folder / "s.lake"), "timepoint >= 0", PRODUCTS, pseudonymise=folder / "key.json"
    )


@pytest.fixture(scope="module")
def old_rows(lake: ql.Lake, study: ql.Lake, folder: Path) -> np.ndarray:
    """Row of the source of each exam of the study, by the key file."""
    patients = json.loads((folder / "key.json").read_text())["patients"]
    old = {entry["number"]: int(patient) for patient, entry in patients.items()}
    keys = study.exams.assign(patient=study.exams["patient"].map(old))
    merged = keys.drop(columns="exam").merge(
        lake.exams.reset_index(names="row"), on=["patient", "timepoint", "knee"], how="left"
    )
    return merged["row"].to_numpy()


def test_exams__have_new_numbers_and_their_order(lake: ql.Lake, study: ql.Lake) -> None:
    assert not {*study.exams["patient"]} & {*lake.exams["patient"]}
    assert study.exams["patient"].nunique() == lake.exams["patient"].nunique()
    columns = ["patient", "timepoint", "knee"]
    pd.testing.assert_frame_equal(study.exams, study.exams.sort_values(columns))
    visits = study.load("visit")[columns].to_dataframe()[columns]
    pd.testing.assert_frame_equal(visits, visits.sort_values(columns))
    assert {*visits["patient"]} == {*study.exams["patient"]}
    assert study.validate(deep=True) == []


def test_values__are_those_of_the_source(
    lake: ql.Lake, study: ql.Lake, old_rows: np.ndarray
) -> None:
    kept = [p for p in study.variables() if not p.startswith("visit/") and p != "clinical/seen"]
    assert {"msme/image", "dess/image", "sphere/map", "msme/t2", "clinical/age"} <= {*kept}
    for path in kept:
        np.testing.assert_array_equal(study.root[path][...], lake.root[path][...][old_rows], path)
    for step in ("t2", "ingest_clinical"):
        ours, theirs = (read_status(one.root, step, len(one)) for one in (study, lake))
        np.testing.assert_array_equal(ours.state, theirs.state[old_rows])
        np.testing.assert_array_equal(ours.run, theirs.run[old_rows])


def test_identifiers__are_removed(lake: ql.Lake, study: ql.Lake) -> None:
    chosen = {path for path in lake.variables() if path.split("/")[0] in PRODUCTS}
    removed = chosen - {*study.variables()}
    texts = {f"{group}/{name}" for group in ("dess", "msme") for name in ("digest", "series_uid")}
    own = {f"{group}/{name}" for group in ("clinical", "visit") for name in ("width", "site")}
    assert removed == texts | own | {"clinical/note"}
    groups = [study.root, *(study.root[group] for group in study.groups())]
    arrays = [array for group in groups for _, array in group.arrays()]
    stored = json.dumps([dict(node.attrs) for node in (*groups, *arrays)])
    stored += json.dumps(read_runs(study.root)) + study.history().to_string() + repr(study)
    for word in (*SECRET.split(), *map(str, lake.exams["patient"].unique())):
        assert word not in stored
    assert study.root["msme/image"].attrs["long_name"].startswith("Multi-echo")


def test_dates__keep_the_intervals_of_a_patient(
    lake: ql.Lake, study: ql.Lake, old_rows: np.ndarray
) -> None:
    old = np.array(lake.root["clinical/seen"][...].tolist(), "datetime64[D]")[old_rows]
    new = np.array(study.root["clinical/seen"][...].tolist(), "datetime64[D]")
    shift = (new - old).astype(int)
    by_patient = pd.Series(shift).groupby(study.exams["patient"])
    assert (by_patient.nunique() == 1).all()
    assert by_patient.first().nunique() > 1
    assert (shift <= -30).all()


def test_messages__become_reason_codes(study: ql.Lake, old_rows: np.ndarray) -> None:
    messages = pd.Series(read_messages(study.root, "t2"), index=old_rows)
    assert messages[0] == "missing_slice"
    assert messages[2] == ""
    assert set(messages) <= {"missing_slice", NO_CODE, ""}
    assert message_code("ValueError: of Jane") == "ValueError"
    assert message_code("Jane: moved") == NO_CODE
    assert message_code("") == ""


def test_runs__keep_declared_parameters_only(lake: ql.Lake, study: ql.Lake) -> None:
    (record,) = [r for r in read_runs(study.root).values() if r["step"] == "t2__all"]
    assert record["parameters"] == {"within": "all", "r2_min": 0.5, "model": "removed"}
    assert {*record} == {"step", "parameters", "version", "code"}
    # The run of the step itself has the parameters of the source, so that nothing is stale.
    assert study.plan("t2", "knee == 'left'", within="all").rows.size == 0
    assert lake.plan("t2", "knee == 'left'", within="all").rows.size == 0


def test_runs__keep_digests_and_the_names_of_models_of_this_package() -> None:
    names = [f"{r.name}-3" for task in ("bones", "cartilage") for r in recipes(task)]
    known = [f"{name}@{'0a' * 4}-{'1b' * 4}" for name in names]
    known += ["thickness/femur@00112233", f"{names[0]}@{'0a' * 4}-{'1b' * 4} in bfloat16"]
    given = {"models": [*known, f"{SECRET}@00112233", SECRET, "/data/x"], "remove_small": True}
    kept = clean_parameters("segment_bones", given)
    assert kept["models"] == [*known, "model@00112233", "removed", "removed"]
    assert kept["remove_small"] is True
    assert clean_parameters("import", given) == {}


def test_lineage__names_the_snapshot_and_no_source(lake: ql.Lake, study: ql.Lake) -> None:
    origin = study.origin
    assert (origin.lake, origin.snapshot) == ("", lake.snapshot)
    assert origin.flow["condition"].tolist() == ["all exams", "timepoint >= 0"]
    assert "derived from a lake that is not named" in repr(study)
    codes = [option["code"] for option in study.deidentification["options"]]
    assert codes == ["113107", "113108"]
    assert study.deidentification["values"]["UID"] == "removed"
    assert lake.deidentification is None


def test_lineage__omits_conditions_with_keys_lists_and_own_words(
    lake: ql.Lake, folder: Path
) -> None:
    chosen = lake.cohort("patient >= 9000001 and kl >= 0 and knee == 'left'")
    chosen = chosen.of_ids(lake.exams["exam"].tolist()[1:9]).exclude("kl > 4", reason=SECRET)
    chosen = chosen.where("site == 'Jane'").require("msme/t2")
    url = str(folder / "flow.lake")
    made = lake.derive(url, chosen, ["clinical"], pseudonymise=folder / "key.json")
    flow = made.origin.flow
    assert flow["condition"].tolist() == [
        "all exams",
        "condition 1",
        "kl >= 0",
        "knee == 'left'",
        "condition 4",
        "exclude kl > 4",
        "condition 6",
        "has msme/t2",
    ]
    assert flow["exams"].tolist() == chosen.flow()["exams"].tolist()
    assert (flow["why"] == "").all()
    again = made.derive(str(folder / "plain.lake"), None, ["clinical"])
    assert again.deidentification == made.deidentification
    assert made.derive(again.url, None, ["clinical"]).snapshot == again.snapshot


def test_own_columns__are_copied_if_they_are_named(lake: ql.Lake, folder: Path) -> None:
    made = lake.derive(
        str(folder / "own.lake"),
        None,
        ["clinical/age", "clinical/width"],
        pseudonymise=folder / "key.json",
    )
    assert {"clinical/age", "clinical/width"} <= {*made.variables()}
    assert "clinical/site" not in made.variables()
    width = made.variables()["clinical/width"]
    assert (width.description, width.step, width.valid_range) == ("width", "ingest_table_1", None)
    assert "ingest_table_1" in made.status().index
    with pytest.raises(InputError, match="clinical/note is a free text"):
        lake.derive(
            str(folder / "x.lake"), None, ["clinical/note"], pseudonymise=folder / "key.json"
        )
    assert not (folder / "x.lake").exists()


def test_matched_sets__are_numbered_in_the_new_order(lake: ql.Lake, folder: Path) -> None:
    rule = ql.reaches("kl", 2, within=48)
    chosen = lake.cohort().keep(np.ones(EXAMS, bool), "all", "none")
    values = np.arange(EXAMS) // 2 + 1
    column = AddedColumn(f"{SECRET} {rule}", values, (1, EXAMS // 2))
    chosen = chosen._with("matched_set", column)
    made = lake.derive(
        str(folder / "sets.lake"), chosen, ["clinical"], pseudonymise=folder / "key.json"
    )
    sets = made.root["clinical/matched_set"][...]
    assert pd.unique(sets).tolist() == list(range(1, EXAMS // 2 + 1))
    assert SECRET not in made.variables()["clinical/matched_set"].description
    assert pd.Series(sets).value_counts().eq(2).all()
    same = lake.derive(made.url, chosen, ["clinical"], pseudonymise=folder / "key.json")
    assert same.snapshot == made.snapshot


def test_later_derivation__gives_the_same_numbers(
    lake: ql.Lake, study: ql.Lake, folder: Path
) -> None:
    half = lake.derive(
        str(folder / "half.lake"), "kl >= 2", ["clinical"], pseudonymise=folder / "key.json"
    )
    assert {*half.exams["exam"]} <= {*study.exams["exam"]}
    other = lake.derive(
        str(folder / "other.lake"), None, ["clinical"], pseudonymise=folder / "other.json"
    )
    assert {*other.exams["exam"]} != {*study.exams["exam"]}


def test_derivation__resumes_with_the_same_key_file_only(lake: ql.Lake, folder: Path) -> None:
    url, key = str(folder / "resumed.lake"), folder / "key.json"

    class Stop(Exception):
        pass

    def stop(event: object) -> None:
        if isinstance(event, Committed):
            raise Stop

    with pytest.raises(Stop):
        lake.derive(url, None, ["msme/image"], pseudonymise=key, commit_every=4, listeners=[stop])
    with pytest.raises(RunError, match="a lake derived with new patient numbers"):
        lake.derive(url, None, ["msme/image"])
    with pytest.raises(RunError, match="with other exams"):
        lake.derive(url, None, ["msme/image"], pseudonymise=folder / "other.json")
    whole = lake.derive(url, None, ["msme/image"], pseudonymise=key)
    assert whole.origin.finished
    assert whole.status().loc["derive", "done"] == EXAMS
    plain = lake.derive(str(folder / "as_is.lake"), None, ["clinical"])
    with pytest.raises(RunError, match="a lake derived without new patient numbers"):
        lake.derive(plain.url, None, ["clinical"], pseudonymise=key)


def test_key_file__is_refused_inside_either_lake(lake: ql.Lake, folder: Path) -> None:
    url = str(folder / "inside.lake")
    for file in (Path(lake.url) / "key.json", Path(url) / "key.json"):
        with pytest.raises(RunError, match="the key file is inside a lake"):
            lake.derive(url, None, ["clinical"], pseudonymise=file)
    assert not Path(url).exists()


def test_command_line__writes_lake_catalog_and_key(
    lake: ql.Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, key = tmp_path / "out.lake", tmp_path / "key.json"
    words = ["derive", str(out), "--lake", lake.url, "--product", "clinical"]
    assert main([*words, "--pseudonymise", str(key)]) == 0, capsys.readouterr()
    assert key.stat().st_mode & 0o777 == 0o600
    assert SECRET not in (tmp_path / "out.yaml").read_text()
    assert main(["info", str(out)]) == 0
    assert "pseudonymised" in capsys.readouterr().out
