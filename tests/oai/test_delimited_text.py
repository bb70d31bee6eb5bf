"""Delimited text is read exactly, or refused."""

from __future__ import annotations

import pytest

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.delimited_text import read_text

ROWS = [["ID", "SIDE", "V00XRKL"], ["9000001", "1: Right", "2"], ["9000002", "2: Left", ""]]


def text(delimiter: str = "|", quote: str = "", end: str = "\n") -> str:
    return "".join(delimiter.join(f"{quote}{cell}{quote}" for cell in row) + end for row in ROWS)


def read(content: bytes | str) -> list[list[str]]:
    content = content.encode() if isinstance(content, str) else content
    table = read_text(content, lambda _: True)
    return [table.columns, *table.cells.to_numpy().tolist()]


@pytest.mark.parametrize("delimiter", ["|", "\t", ",", ";"])
@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_read_text__delimiters_quotes_and_line_ends(delimiter, quote, end):
    assert read(text(delimiter, quote, end)) == ROWS
    assert read(text(delimiter, quote, end).removesuffix(end)) == ROWS


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]
)
def test_read_text__encodings(encoding):
    changed = text().replace("2: Left", "2: Öffnung–links")
    assert read(changed.encode(encoding))[2][1] == "2: Öffnung–links"


def test_read_text__quotes_protect_delimiters_and_line_breaks():
    assert read('ID,X\n1,"a,b"\n2,"c\nd"\n3,"say ""e"""\n')[1:] == [
        ["1", "a,b"],
        ["2", "c\nd"],
        ["3", 'say "e"'],
    ]


def test_read_text__quotes_of_the_oai_are_literal():
    assert read('ID|X\n1|5" wide\n2|"odd\n')[1:] == [["1", '5" wide'], ["2", '"odd']]


def test_read_text__rows_are_numbered_by_their_lines():
    table = read_text(b"\n\nID|X\n\n9|1\n   \n8|2\n", lambda name: name == "X")
    assert table.cells.index.tolist() == [5, 7]
    quoted = read_text(b'ID,X\n1,"a\nb"\n\n2,c\n', lambda _: True)
    assert quoted.cells.index.tolist() == [2, 5]


@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("delimiter", ["|", "\t", ",", ";"])
@pytest.mark.parametrize(
    "change",
    [
        lambda cells: cells[:1] + cells[2:],
        lambda cells: [*cells[:1], "", *cells[1:]],
        lambda cells: [*cells, ""],
        lambda cells: cells[:1],
    ],
    ids=["lost", "inserted", "trailing", "first_only"],
)
def test_read_text__row_of_another_length(delimiter, quote, change):
    lines = [delimiter.join(f"{quote}{cell}{quote}" for cell in row) for row in ROWS]
    lines[1] = delimiter.join(f"{quote}{cell}{quote}" for cell in change(ROWS[1]))
    with pytest.raises(InputError, match=r"row 2 has \d cells \(expected 3 cells") as error:
        read("\n".join(lines) + "\n")
    assert error.value.reason is Reason.RAGGED_TABLE


@pytest.mark.parametrize(
    "content",
    [
        "ID|X\n1|a|b\n",  # a delimiter within a cell
        "ID,X\n1,27,5\n",  # a decimal comma
        "ID;X\n1,2\n2,3\n",  # another delimiter than in the header
        "ID\n1|2\n2|3\n",
        "ID|X\n1|2\n2|\n3\n",  # a line break within a cell
    ],
)
def test_read_text__shifted_cells(content):
    with pytest.raises(InputError) as error:
        read(content)
    assert error.value.reason is Reason.RAGGED_TABLE


@pytest.mark.parametrize("end", [1, 8, 12, 15])
def test_read_text__ends_within_a_row(end):
    content = text().encode()
    last = content.rindex(b"9000002")
    with pytest.raises(InputError) as error:
        read(content[: last + end])
    assert error.value.reason is Reason.TRUNCATED_FILE


def test_read_text__ends_within_quotes():
    with pytest.raises(InputError, match="quote that opens in row 3") as error:
        read(text(",", '"')[:-7])
    assert error.value.reason is Reason.TRUNCATED_FILE


@pytest.mark.parametrize(
    "content",
    [
        '"ID","X"\n"1","a"b"\n',  # a quote within quotes
        '"ID","X"\n"1",a"\n',  # a lost opening quote
        'ID|X|Y\n1|2"a|b"\n',  # a lost delimiter before quotes
        'ID,X,Y\n1,"c",\n2,2"a,b"\n',
        'ID,X\n1,"a\n2,b\n3,c"\n',  # whole rows between two quotes
    ],
)
def test_read_text__quotes_that_do_not_match(content):
    with pytest.raises(InputError) as error:
        read(content)
    assert error.value.reason is Reason.UNREADABLE_FILE


@pytest.mark.parametrize(
    "content",
    [
        text().encode().replace(b"Left", b"\0\0\0\0"),
        text().encode("utf-16")[:-1],
        b"ID|X\n1|\x81\xfe\n",
        "ID|X\n1|äöüß\n2|".encode() + b"\xe4\n",  # UTF-8 with a damaged byte
        bytes(range(256)),
    ],
)
def test_read_text__not_text(content):
    with pytest.raises(InputError, match="not text") as error:
        read(content)
    assert error.value.reason is Reason.UNREADABLE_FILE


def test_read_text__long_header_without_delimiter():
    with pytest.raises(InputError, match="unreadable header"):
        read(b"x" * 200_000)
