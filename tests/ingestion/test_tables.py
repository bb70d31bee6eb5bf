"""Files of users' own tables: the command, formats, and a folder of them given to `ingest`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.core.digest import sha256_of
from qmri_lake.errors import InputError, Reason
from tests.lake.test_tables import bare_lake

KEYED = ["--patient", "ID", "--timepoint", "VISIT", "--knee", "SIDE"]
TEXT = """ID,VISIT,SIDE,score,width
9000001,V00,1,1,1.5
9000001,V00,2,2,
9000001,V03,1,-9,2.5
9000001,V03,2,4,2.5
9.00E+06,V00,1,5,2.5
"""
OAI = {
    "Enrollees.txt": "ID|P02SEX\n9000001|1: Male\n9000002|2: Female\n",
    "AllClinical00.txt": "ID|V00AGE|V00VISDYS|V00WOMKPR\n9000001|60|0|3\n9000002|55|0|2\n",
    "AllClinical01.txt": "ID|V01VISDYS|V01WOMKPR\n9000001|370|4\n9000002|365|1\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    bare_lake(tmp_path / "own.lake")
    (tmp_path / "scores.csv").write_text(TEXT, encoding="utf-8")
    return tmp_path


def test_command__stores_prints_the_join_and_lists_rows(folder, capsys):
    command = ["ingest-table", "scores.csv", "--lake", "own.lake", *KEYED]
    options = ["--unit", "width=mm", "--missing", "-9", "--problems", "problems.csv"]
    assert main([*command, *options]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    for text in (
        "stored 2 columns of scores.csv: 4 exams and 4 visits matched; 0 rows unmatched; "
        "2 exams without a row; 1 problem",
        "timepoint = VISIT (V00 = 0, V03 = 24 months)",
        "knee = SIDE (2 = left, 1 = right)",
        "score: number from 1 to 5, 1 missing cell",
        "width: number from 1.5 to 2.5 mm, 1 missing cell",
        "without a row: 2 exams: 9000002-000m-right; 9000002-000m-left",
        "scores.csv row 6 column ID",
    ):
        assert text in printed
    assert pd.read_csv("problems.csv")["reason"].tolist() == ["unreadable_value"]
    lake = ql.open_lake("own.lake")
    record = lake.runs().iloc[-1].parameters
    assert (record["source"], record["sha256"]) == ("scores.csv", sha256_of(Path("scores.csv")))
    (folder / "scores.csv").unlink()
    np.testing.assert_array_equal(
        ql.open_lake("own.lake").load("clinical").score, [1, 2, np.nan, 4, np.nan, np.nan]
    )


def test_command__replaces_only_on_request(folder, capsys):
    command = ["ingest-table", "scores.csv", "--lake", "own.lake", *KEYED]
    assert main([*command, "--columns", "score"]) == 1
    assert main([*command, "--columns", "score,width"]) == 2
    assert "--replace" in capsys.readouterr().err
    assert main([*command, "--columns", "score,width", "--replace"]) == 1


@pytest.mark.parametrize("setting", ["width", "=mm", "width="])
def test_command__unit_without_a_column_or_a_unit(folder, setting, capsys):
    command = ["ingest-table", "scores.csv", "--lake", "own.lake", *KEYED, "--unit", setting]
    assert main(command) == 2
    assert "COLUMN=UNIT" in capsys.readouterr().err


def test_ingest_table__excel_and_a_table_with_a_lost_cell(folder):
    pd.read_csv("scores.csv").iloc[:4].to_excel("scores.xlsx", index=False)
    keyed = {"patient": "ID", "timepoint": "VISIT", "knee": "SIDE"}
    assert ql.ingest_table("scores.xlsx", "own.lake", **keyed).matched == 4
    (folder / "lost.csv").write_text(TEXT.replace("V03,1,-9", "V03,-9"), encoding="utf-8")
    with pytest.raises(InputError) as error:
        ql.ingest_table("lost.csv", "own.lake", **keyed, prefix="lost_")
    assert error.value.reason is Reason.RAGGED_TABLE


@pytest.mark.parametrize("source", ["tables", "scores.csv"])
@pytest.mark.parametrize("lake", ["own.lake", "new.lake"])
def test_ingest__of_own_tables_names_the_command(folder, source, lake, capsys):
    (folder / "tables").mkdir()
    for name in ("a.csv", "b.tsv"):
        (folder / "tables" / name).write_text(TEXT, encoding="utf-8")
    assert main(["ingest", source, "--lake", lake]) == 2
    assert "qmri-lake ingest-table" in capsys.readouterr().err
    assert not (folder / "new.lake").exists()


def test_ingest__of_clinical_tables_keeps_own_columns(folder):
    lake = ql.open_lake("own.lake")
    lake.add_table(pd.DataFrame({"ID": [9000001, 9000002], "score": [1, 2]}), patient="ID")
    (folder / "oai").mkdir()
    for name, text in OAI.items():
        (folder / "oai" / name).write_text(text, encoding="utf-8")
    result = ql.ingest(folder / "oai", lake)
    assert (result.visits, result.problems) == (8, ())
    visits = lake.load("visit").load().to_dataframe()
    assert len(visits) == 10  # the visit at 24 months is that of exams only
    at_12 = visits["timepoint"] == 12
    assert visits.loc[at_12, "score"].isna().all()
    assert (visits.loc[~at_12, "score"] == visits.loc[~at_12, "patient"] - 9000000).all()
    assert lake.status().loc["ingest_clinical", "done"] == 4
    np.testing.assert_array_equal(lake.load("clinical").score, [1, 1, 1, 1, 2, 2])
    assert lake.validate() == []
