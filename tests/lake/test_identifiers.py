"""Where a lake, model folders and catalogs store what identifies a patient, without the values."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import qmri_lake as ql
from qmri_lake.catalog import write_catalog
from qmri_lake.cli import main
from qmri_lake.errors import NotFoundError
from qmri_lake.lake.identifiers import _Scanner
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.transaction import Transaction
from tests.fixtures import add_clinical, add_dess, add_visits, array_lake

SECRET = "Jane Doe"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> ql.Lake:
    """Eight exams with planted identifiers."""
    lake = array_lake(tmp_path_factory.mktemp("source") / "oai.lake", 8)
    add_dess(add_visits(add_clinical(lake, age=np.r_[np.nan, np.arange(7.0) + 50])))

    def build(session):
        root = open_root(session.store, "r+")
        root.attrs["note"] = SECRET
        root["dess/image"].attrs["source"] = "/data/jane/scan"
        root["dess/series_uid"][:2] = np.array(["1.2.840.1.2.3", "1.2.840.1.2.4"], object)
        change = Transaction()
        change.runs[9] = {"step": "mine", "parameters": {"file": "/data/jane/x"}, "version": "1"}
        change.set_state("mine", 0, "failed", 9, "patient 9000001 moved on 2004-03-01")
        change.set_state("mine", 1, "failed", 9, SECRET)
        change(session)

    commit(lake.repo, build, "Add 9000001-000m-right")
    lake.refresh()
    lake.tag("for_9000001")
    return lake


def rows(table: pd.DataFrame) -> dict[tuple[str, str], int]:
    return table.set_index(["place", "kind"])["count"].to_dict()


def test_identifiers__of_a_lake_are_counted_by_place(lake: ql.Lake) -> None:
    table = lake.identifiers()
    found = rows(table)
    expected = {
        ("exam", "exam key"): 8,
        ("patient", "patient number"): 8,
        ("clinical/age", "patient characteristic"): 7,
        ("dess/series_uid", "UID"): 2,
        ("visit/patient", "patient number"): 16,
        ("status/mine/message", "patient number"): 1,
        ("status/mine/message", "date"): 1,
        ("status/mine/message", "free text"): 1,
        ("status/runs", "path"): 1,
        ("attributes of the lake", "free text"): 1,
        ("attributes of dess/image", "path"): 1,
        ("commit messages", "exam key"): 1,
        ("names of tags", "patient number"): 1,
        ("earlier commits", "earlier values"): len(lake.history()) - 1,
    }
    assert expected.items() <= found.items()
    others = {place for place, _ in found} - {place for place, _ in expected}
    assert others == {"timepoint", "visit/timepoint"}
    assert (table["needed for"] != "").all()


def test_identifiers__are_never_printed(lake: ql.Lake, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", lake.url, "--privacy"]) == 0
    shown = capsys.readouterr().out
    assert "dess/series_uid" in shown
    for value in ("Jane", "jane", "9000001", "2004-03-01", "1.2.840.1.2.3"):
        assert value not in shown


def test_identifiers__of_models_and_catalogs(
    lake: ql.Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models"
    (models / "patient_9000001").mkdir(parents=True)
    (models / "split.json").write_text(json.dumps({"train": ["1234567-000m-left"], "n": 1}))
    (models / "patient_9000001" / "card.json").write_text(json.dumps({"lake": "/data/oai.lake"}))
    (models / "log.csv").write_text(f"epoch,loss\n1,0.5\n2,{socket.gethostname()}\n")
    catalog = write_catalog(lake, tmp_path / "a.yaml")
    found = rows(lake.identifiers(models=[models], catalogs=[catalog]))
    assert found["models/split.json", "exam key"] == 1
    assert found["models/patient_#/card.json", "path"] == 1
    assert found["models/log.csv", "host name"] == 1
    assert found["a.yaml", "path"] == 1
    words = ["doctor", lake.url, "--privacy", "--models", str(models), "--catalog", str(catalog)]
    assert main(words) == 0
    assert "9000001" not in capsys.readouterr().out
    with pytest.raises(NotFoundError, match="no such folder"):
        lake.identifiers(models=[tmp_path / "none"])
    with pytest.raises(NotFoundError, match="no such file"):
        lake.identifiers(catalogs=[tmp_path / "none.yaml"])


def test_identifiers__of_a_pseudonymised_lake_are_its_new_numbers(
    lake: ql.Lake, tmp_path: Path
) -> None:
    url, key = str(tmp_path / "s.lake"), tmp_path / "key.json"
    study = lake.derive(url, None, ["dess", "clinical", "visit"], pseudonymise=key)
    kinds = {"exam key", "patient number", "patient characteristic", "time since enrolment"}
    assert {kind for _, kind in rows(study.identifiers())} == {*kinds, "earlier values"}


def test_doctor__changes_nothing_with_privacy(
    lake: ql.Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--privacy", "--repair"], ["--models", "x"], ["--catalog", "x"]):
        assert main(["doctor", lake.url, *words]) == 2
        assert "--privacy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("9000001", {"patient number"}),
        ("90000011", set()),
        ("9000001-024m-left", {"exam key"}),
        ("taken on 20040301", {"date"}),
        ("20041301 20040132", set()),
        ("2.25.329800735698586629295641978511506172918", {"UID"}),
        ("1.3.12.2.1107.5.2.13.20561", {"UID"}),
        ("see /home/jane/x", {"path"}),
        ("C:\\data", {"path"}),
        ("s3://bucket/x", {"path"}),
        ("{CATALOG_DIR}/a.lake and t2/maps", set()),
        ("run on scanner7", {"host name"}),
        ("1.5 mm, 0.2.0, 3/4", set()),
    ],
)
def test_scanner__recognises_patterns(text: str, kinds: set[str]) -> None:
    assert _Scanner({9000001}, {"scanner7"}).kinds(text) == kinds
