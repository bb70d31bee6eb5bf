"""Tables of any format are read as the same text."""

from __future__ import annotations

import datetime
import gzip
import zipfile
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pyreadstat
import pytest

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.table_formats import read_table
from tests.oai.sas7bdat import WINDOWS_1252, missing, write_sas7bdat

EXPECTED = [["9000001", "27.5", "2004-08-24", "é"], ["9000002", np.nan, np.nan, "b"]]
COLUMNS = ["ID", "v00BMI", "V00EVDATE", "NOTE"]


def write_workbook(path: Path, rows: list[list[object]], *, edit=lambda sheet: None) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    edit(book.active)
    book.save(path)
    return path


def write(path: Path) -> Path:
    day = datetime.date(2004, 8, 24)
    if path.suffix == ".sas7bdat":
        columns = {
            "ID": [9000001.0, 9000002.0],
            "v00BMI": [27.5, missing("")],
            "V00EVDATE": [16307.0, missing("")],
            "NOTE": ["é", "b"],
        }
        write_sas7bdat(path, columns, {"V00EVDATE": "MMDDYY"}, WINDOWS_1252)
    elif path.suffix == ".xpt":
        frame = pd.DataFrame(
            {
                "ID": [9000001.0, 9000002.0],
                "v00BMI": [27.5, np.nan],
                "V00EVDATE": [day, None],
                "NOTE": ["é", "b"],
            }
        )
        pyreadstat.write_xport(frame, path, file_format_version=8)
    elif path.suffix == ".xlsx":
        write_workbook(path, [COLUMNS, [9000001.0, 27.5, day, "é"], [9000002, None, None, "b"]])
    else:
        mark = {".csv": ",", ".tsv": "\t", ".txt": "|"}[path.suffix.lower()]
        rows = [COLUMNS, ["9000001", "27.5", "2004-08-24", "é"], ["9000002", "NA", " ", "b"]]
        path.write_text("\n".join(mark.join(row) for row in rows), encoding="utf-8-sig")
    return path


def refused(path: Path) -> InputError:
    with pytest.raises(InputError) as error:
        read_table(path)
    assert error.value.where == path.name
    return error.value


@pytest.mark.parametrize("suffix", [".txt", ".TXT", ".csv", ".tsv", ".sas7bdat", ".xpt", ".xlsx"])
def test_read_table__formats_give_the_same_text(tmp_path, suffix):
    table = read_table(write(tmp_path / f"table{suffix}"))
    assert table.columns.tolist() == COLUMNS
    np.testing.assert_equal(table.to_numpy(object).tolist(), EXPECTED)
    assert all(dtype == "str" for dtype in table.dtypes)


@pytest.mark.parametrize("suffix", [".txt", ".sas7bdat", ".xpt", ".xlsx"])
def test_read_table__format_is_determined_by_the_content(tmp_path, suffix):
    path = write(tmp_path / f"table{suffix}").rename(tmp_path / "table.csv")
    np.testing.assert_equal(read_table(path).to_numpy(object).tolist(), EXPECTED)


@pytest.mark.parametrize("suffix", [".txt", ".sas7bdat", ".xpt", ".xlsx"])
def test_read_table__only_the_columns_that_are_used(tmp_path, suffix):
    path = write(tmp_path / f"table{suffix}")
    table = read_table(path, use=lambda name: name in ("NOTE", "v00BMI"))
    assert table.columns.tolist() == ["v00BMI", "NOTE"]
    assert len(read_table(path, use=lambda name: False)) == 2


def test_read_table__missing_codes_of_sas(tmp_path):
    values = [2.0, missing(""), missing("P"), missing("A")]
    path = tmp_path / "kxr_sq_bu00_SAS.sas7bdat"
    write_sas7bdat(path, {"ID": ["9000001"] * 4, "V00XRKL": values, "LETTER": list("MPAX")})
    table = read_table(path)
    np.testing.assert_equal(table["V00XRKL"].tolist(), ["2", np.nan, ".P", ".A"])
    assert table["LETTER"].tolist() == list("MPAX")
    assert table.index.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("version", [5, 8])
def test_read_table__missing_codes_of_a_transport_file(tmp_path, version):
    path = tmp_path / "t.xpt"
    frame = pd.DataFrame({"ID": ["9000001", "9000002", "9000003"], "KL": [2.0, np.nan, np.nan]})
    pyreadstat.write_xport(frame, path, file_format_version=version)
    content = path.read_bytes()
    at = content.rindex(b"." + bytes(7))
    path.write_bytes(content[:at] + b"P" + content[at + 1 :])
    np.testing.assert_equal(read_table(path)["KL"].tolist(), ["2", np.nan, ".P"])


def test_read_table__tables_of_several_pages(tmp_path):
    ids = [9000001.0 + k for k in range(1500)]
    write_sas7bdat(tmp_path / "t.sas7bdat", {"ID": ids, "X": ids})
    assert read_table(tmp_path / "t.sas7bdat")["X"].tolist() == [f"{k:.0f}" for k in ids]


@pytest.mark.parametrize("suffix", [".sas7bdat", ".xpt", ".xlsx"])
@pytest.mark.parametrize("share", [0.999, 0.7, 0.4])
def test_read_table__file_that_ends_too_early(tmp_path, suffix, share):
    path = write(tmp_path / f"table{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert refused(path).reason in (Reason.TRUNCATED_FILE, Reason.UNREADABLE_FILE)


def test_read_table__transport_file_without_its_last_rows(tmp_path):
    path = tmp_path / "t.xpt"
    frame = pd.DataFrame({"ID": [9000001.0 + k for k in range(40)]})
    pyreadstat.write_xport(frame, path, file_format_version=8)
    path.write_bytes(path.read_bytes()[:-80])
    assert refused(path).reason is Reason.TRUNCATED_FILE


def test_read_table__several_tables_in_a_transport_file(tmp_path):
    path = write(tmp_path / "t.xpt")
    content = path.read_bytes()
    path.write_bytes(content + content[content.index(b"HEADER RECORD*******MEM") :])
    assert "2 tables in one file" in str(refused(path))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda sheet: sheet.parent.create_sheet().append(["codes"]), "2 sheets"),
        (lambda sheet: sheet.merge_cells("A2:A3"), "merged cells"),
        (lambda sheet: sheet.append([9000003, "=B2"]), "formulas without values"),
        (lambda sheet: sheet.append([9000003, 1, 2, 3, 4]), "row 4 has 5 cells"),
    ],
)
def test_read_table__ambiguous_workbook(tmp_path, edit, message):
    rows = [COLUMNS, [9000001, 27.5], [9000002, 30]]
    assert message in str(refused(write_workbook(tmp_path / "t.xlsx", rows, edit=edit)))


def test_read_table__workbook_with_blank_rows_and_sheets(tmp_path):
    path = tmp_path / "t.xlsx"
    rows = [[], ["ID", "X"], [], [9000001, True]]
    write_workbook(path, rows, edit=lambda sheet: sheet.parent.create_sheet("empty"))
    table = read_table(path)
    assert table.to_dict("index") == {4: {"ID": "9000001", "X": "TRUE"}}


def test_read_table__workbook_with_wrong_dimensions(tmp_path):
    path, source = tmp_path / "t.xlsx", write_workbook(tmp_path / "s.xlsx", [["ID"], [9000001]])
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b'ref="A1:A2"', b'ref="A1"'))
    assert read_table(path)["ID"].tolist() == ["9000001"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"ID|X\n1|2\n", mtime=0), "a gzip file"),
        (b"PK\x03\x04" + bytes(30), "a ZIP file"),
        (bytes.fromhex("d0cf11e0") + bytes(30), "Excel 97"),
        (b"PAR1" + bytes(30), "Parquet"),
        (bytes(200), "not text"),
    ],
)
def test_read_table__not_a_table(tmp_path, content, message):
    (tmp_path / "t.txt").write_bytes(content)
    error = refused(tmp_path / "t.txt")
    assert (error.reason, message in str(error)) == (Reason.UNREADABLE_FILE, True)


@pytest.mark.parametrize("content", ["", "\n\n", "ID|X\n", "ID|X", "ID,X\r\n\r\n"])
def test_read_table__no_rows(tmp_path, content):
    (tmp_path / "t.txt").write_text(content)
    assert refused(tmp_path / "t.txt").reason is Reason.EMPTY_TABLE


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_read_table__repeated_column(tmp_path, suffix):
    rows: list[list[object]] = [["ID", "X", "x"], [9000001, 1, 2]]
    path = tmp_path / f"t{suffix}"
    if suffix == ".csv":
        path.write_text("\n".join(",".join(map(str, row)) for row in rows))
    else:
        write_workbook(path, rows)
    assert "repeated column X" in str(refused(path))
    assert read_table(path, use=lambda name: name == "ID")["ID"].tolist() == ["9000001"]


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        (["src_subject_id\tage", "Subject ID\tAge in months", "9000001\t.M"], ["9000001"]),
        (["ID\tV00AGE", "Participant\tAge at visit", "9000001\t60"], ["9000001"]),
        (["ID\tV00AGE", "Participant\t61", "9000001\t60"], ["Participant", "9000001"]),
        (["name\tside", "Ann\tright", "Bob\tleft"], ["Ann", "Bob"]),
    ],
)
def test_read_table__row_of_descriptions(tmp_path, rows, kept):
    (tmp_path / "t.tsv").write_text("\n".join(rows) + "\n")
    assert read_table(tmp_path / "t.tsv").iloc[:, 0].tolist() == kept


def test_read_table__absent_file(tmp_path):
    assert "unreadable table" in str(refused(tmp_path / "none.txt"))
