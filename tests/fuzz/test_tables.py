"""Damaged clinical tables give the values that they had, missing values, or nothing."""

from __future__ import annotations

import functools
import io
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from hypothesis import strategies as st

from qmri_lake.oai.clinical import ClinicalTables, read_tables
from tests.conftest import Judge
from tests.fuzz.fuzzing import Described, Draw, Outcome, few_or_many, judge_tally, read_damaged
from tests.oai.sas7bdat import write_sas7bdat

Rows = list[list[str]]
PATIENTS = range(9000001, 9000007)
TABLES: dict[str, Rows] = {
    "Enrollees": [
        "ID VERSION P02SEX P02RACE V00COHORT V00SITE".split(),
        *([str(p), "25", "1: Male", "2: Black", "1: Progression", "C"] for p in PATIENTS),
    ],
    "AllClinical00": [
        "ID V00AGE P01BMI V00VISDYS V00EVDATE V00WOMKPR V00WOMKPL V00KPNR12M V00KOOSKPL".split(),
        *(
            [str(p), str(50 + k), f"2{k}.5", "0", "08/24/2004", str(k), str(6 + k), str(k), f"8{k}"]
            for k, p in enumerate(PATIENTS)
        ),
    ],
    "AllClinical03": [
        "ID V03VISDYS V03BMI V03WOMKPR V03WOMKPL".split(),
        *([str(p), str(730 + k), f"3{k}.25", str(12 + k), "19"] for k, p in enumerate(PATIENTS)),
    ],
    "kxr_sq_bu00": [
        "ID SIDE READPRJ V00XRKL".split(),
        *(
            [str(p), side, "15", str((k + (side == "2: Left")) % 5)]
            for k, p in enumerate(PATIENTS)
            for side in ("1: Right", "2: Left")
        ),
    ],
}
"""Rows of each table, its header first. No value is derived from one of another table."""
READ = ["womac_pain", "koos_pain", "pain_months_12m", "kl", "sex", "race", "cohort", "site", "days"]
"""Columns of values that are read; the age and the BMI of a visit depend on other visits."""
JUNK = ["??", "yes", "9.00E+06", "-3", "1,5", "777", "\u00bd", "0x3", "3 mm"]
BAD_IDS = ["9.00E+06", "", "ABC", "9000001.5", "-9000001", "90 00 001", "0"]


@dataclass(frozen=True)
class DamagedTable(Described):
    """The tables of a delivery; one of them has one kind of damage."""

    kind: str
    table: str
    """Name of the damaged file."""
    note: str
    content: bytes = field(repr=False)


Mutation = Callable[[Draw, str, Rows], tuple[bytes, str, str]]
"""Function that returns the content of the damaged table, its suffix and a description."""
MUTATIONS: dict[str, Mutation] = {}


def _mutation(function: Mutation) -> Mutation:
    MUTATIONS[function.__name__.replace("_", " ")] = function
    return function


@st.composite
def damaged_tables(draw: Draw) -> DamagedTable:
    table, kind = draw(st.sampled_from(sorted(TABLES))), draw(st.sampled_from(sorted(MUTATIONS)))
    rows = [list(row) for row in TABLES[table]]
    content, suffix, note = MUTATIONS[kind](draw, table, rows)
    return DamagedTable(kind, table + suffix, note, content)


@_mutation
def lost_cell(draw: Draw, table: str, rows: Rows) -> tuple[bytes, str, str]:
    row, column = _place(draw, rows)
    del rows[row][column]
    return (*_written(draw, rows), f"row {row}, column {column}")


@_mutation
def added_cell(draw: Draw, table: str, rows: Rows) -> tuple[bytes, str, str]:
    row, column = _place(draw, rows)
    rows[row].insert(column, draw(st.sampled_from(["1", "", "9000001"])))
    return (*_written(draw, rows), f"row {row}, column {column}")


@_mutation
def invalid_cell(draw: Draw, table: str, rows: Rows) -> tuple[bytes, str, str]:
    row, column = draw(st.integers(1, len(rows) - 1)), draw(st.integers(1, len(rows[0]) - 1))
    value = draw(st.sampled_from(JUNK))
    if not _has_any_value(rows[0][column]):
        rows[row][column] = value
    return (*_written(draw, rows), f"row {row}, column {rows[0][column]}: {value!r}")


@_mutation
def invalid_id(draw: Draw, table: str, rows: Rows) -> tuple[bytes, str, str]:
    row, value = draw(st.integers(1, len(rows) - 1)), draw(st.sampled_from(BAD_IDS))
    rows[row][0] = value
    return (*_written(draw, rows), f"row {row}: {value!r}")


@_mutation
def header_only(draw: Draw, table: str, rows: Rows) -> tuple[bytes, str, str]:
    return (*_written(draw, rows[:1]), "")


@_mutation
def without_header(draw: Draw, table: str, rows: Rows) -> tuple[bytes, str, str]:
    return (*_written(draw, rows[1:]), "")


@_mutation
def column_twice(draw: Draw, table: str, rows: Rows) -> tuple[bytes, str, str]:
    """Two columns of one name, with other values."""
    column = draw(st.integers(1, len(rows[0]) - 1))
    rows[0].append(rows[0][column])
    for row in rows[1:]:
        row.append("1")
    return (*_written(draw, rows), rows[0][column])


@_mutation
def row_twice(draw: Draw, table: str, rows: Rows) -> tuple[bytes, str, str]:
    row, column = draw(st.integers(1, len(rows) - 1)), draw(st.integers(1, len(rows[0]) - 1))
    other = list(rows[row])
    if draw(st.booleans()):
        other[column] = draw(st.sampled_from([rows[1][column], "", "3"]))
    rows.insert(draw(st.integers(1, len(rows))), other)
    return (*_written(draw, rows), f"row {row}, column {column}")


@_mutation
def other_order(draw: Draw, table: str, rows: Rows) -> tuple[bytes, str, str]:
    order = draw(st.permutations(range(len(rows[0]))))
    body = draw(st.permutations(rows[1:]))
    return (*_written(draw, [[row[k] for k in order] for row in [rows[0], *body]]), str(order))


@_mutation
def cut(draw: Draw, table: str, rows: Rows) -> tuple[bytes, str, str]:
    """The end of a row or of a packed file is lost; the loss of whole rows can't be seen."""
    content, suffix = _written(draw, rows)
    at = draw(st.integers(1, len(content) - 1))
    if suffix not in (".xlsx", ".sas7bdat", ".xpt"):
        row = draw(st.integers(1, len(rows) - 1))
        text = "\n".join("|".join(cells) for cells in rows[:row])
        rest = "|".join(rows[row])
        content = f"{text}\n{rest[: draw(st.integers(1, rest.rindex('|')))]}".encode()
        at, suffix = len(content), ".txt"
    return content[:at], suffix, f"after {at} bytes"


@_mutation
def bits(draw: Draw, table: str, rows: Rows) -> tuple[bytes, str, str]:
    """Bits of a workbook, which has checksums."""
    content = bytearray(_workbook(rows))
    at = draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(content), ".xlsx", f"at {at} of {len(content)} bytes"


@_mutation
def binary_noise(draw: Draw, table: str, rows: Rows) -> tuple[bytes, str, str]:
    content, suffix = _text(rows, draw(st.sampled_from("|,\t")), "utf-8"), ".txt"
    at = draw(st.integers(0, len(content)))
    noise = draw(st.sampled_from([b"\0" * 40, b"\xff\xfe\x00\x81", b"\x1a", b'"', b"\n\n", b"\r"]))
    return content[:at] + noise + content[at:], suffix, f"{noise!r} at {at} of {len(content)}"


@_mutation
def zeroed(draw: Draw, table: str, rows: Rows) -> tuple[bytes, str, str]:
    content = _text(rows, "|", "utf-8")
    at, length = draw(st.integers(0, len(content) - 1)), draw(st.integers(1, 200))
    length = min(length, len(content) - at)
    damaged = content[:at] + b"\0" * length + content[at + length :]
    return damaged, ".txt", f"{length} bytes at {at} of {len(content)}"


@_mutation
def other_content(draw: Draw, table: str, rows: Rows) -> tuple[bytes, str, str]:
    suffix = draw(st.sampled_from([".txt", ".csv", ".xlsx", ".sas7bdat", ".xpt"]))
    content = draw(
        st.sampled_from([b"", b"\n", b"<html><body>404</body></html>", b"PK\x03\x04" + b"\0" * 80])
    )
    return content, suffix, repr(content[:12])


def _place(draw: Draw, rows: Rows) -> tuple[int, int]:
    """Return the indices of a cell of any row, the header among them."""
    row = draw(st.integers(0, len(rows) - 1))
    return row, draw(st.integers(0, len(rows[row]) - 1))


def _has_any_value(column: str) -> bool:
    """Return whether a cell may hold any of `JUNK`: texts, days, readings of another project."""
    text_or_days = ("V00SITE", "VERSION", "READPRJ", "V00VISDYS", "V03VISDYS")
    return column in text_or_days


def _written(draw: Draw, rows: Rows) -> tuple[bytes, str]:
    """Return content and suffix of the rows in a format that can hold them."""
    regular = len(rows) > 1 and len({len(row) for row in rows}) == 1
    # Rows of a workbook have no length; empty cells complete them.
    formats = ["text", "text", "workbook", "sas"] if regular else ["text"]
    chosen = draw(st.sampled_from(formats))
    if chosen == "workbook":
        return _workbook(rows), ".xlsx"
    if chosen == "sas" and len(set(rows[0])) == len(rows[0]):
        return _sas(rows), ".sas7bdat"
    suffix = draw(st.sampled_from([".txt", ".csv", ".tsv"]))
    delimiter = {".txt": "|", ".csv": ",", ".tsv": "\t"}[suffix]
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]))
    return _text(rows, delimiter, encoding), suffix


def _text(rows: Rows, delimiter: str, encoding: str) -> bytes:
    quoted = [[f'"{c}"' if delimiter in c else c for c in row] for row in rows]
    return "".join(delimiter.join(row) + "\n" for row in quoted).encode(encoding)


def _workbook(rows: Rows) -> bytes:
    """Return a workbook without the time at which it was written, so that each run has the same."""
    written, stream = io.BytesIO(), io.BytesIO()
    pd.DataFrame(rows).to_excel(written, header=False, index=False)
    with (
        zipfile.ZipFile(written) as source,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as out,
    ):
        for name in source.namelist():
            part = source.read(name)
            if name == "docProps/core.xml":
                part = re.sub(rb"\d{4}-\d\d-\d\dT[\d:]+Z", b"2004-08-24T00:00:00Z", part)
            out.writestr(zipfile.ZipInfo(name), part)
    return stream.getvalue()


def _sas(rows: Rows) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder, "table.sas7bdat")
        write_sas7bdat(path, {name: cells for name, *cells in zip(*rows, strict=True)})
        return path.read_bytes()


def read_with(name: str, content: bytes) -> ClinicalTables:
    with TemporaryDirectory() as folder:
        for table, rows in TABLES.items():
            if table != name.partition(".")[0]:
                Path(folder, f"{table}.txt").write_bytes(_text(rows, "|", "utf-8"))
        Path(folder, name).write_bytes(content)
        return read_tables(folder)


@functools.cache
def undamaged() -> pd.DataFrame:
    found = read_with("Enrollees.txt", _text(TABLES["Enrollees"], "|", "utf-8"))
    assert found.problems == ()
    assert len(found.visits) == 2 * 2 * len(PATIENTS)
    return _by_exam(found)


def _by_exam(found: ClinicalTables) -> pd.DataFrame:
    return found.visits.set_index(["patient", "timepoint", "knee"])[READ]


def read(damage: DamagedTable) -> Outcome:
    """Compare the values. A missing value without a listed problem is silent."""
    found = read_with(damage.table, damage.content)
    whole, now = undamaged(), _by_exam(found)
    if not now.index.isin(whole.index).all():
        return Outcome.SILENT
    before = whole.reindex(now.index)
    missing = now.isna() | (now == "")
    equal = (now == before) | (missing & (before.isna() | (before == "")))
    if not (equal | missing).to_numpy().all():
        return Outcome.SILENT
    if equal.to_numpy().all() and len(now) == len(whole):
        return Outcome.SAME
    return Outcome.LISTED if found.problems else Outcome.SILENT


@few_or_many(30, 2000)
def test_read_tables__damaged_tables(count: int, judge: Judge) -> None:
    tally = read_damaged(damaged_tables(), read, count)
    judge_tally(
        judge, f"{count:,} damaged clinical tables, {len(MUTATIONS)} kinds of damage", tally
    )
