"""A listing identifies series; a damaged one identifies none."""

from __future__ import annotations

import pytest

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.listing import ListingRow, read_listing

HEADER = "Folder,ParticipantID,StudyDescription,SeriesDescription"
ROW = "0.C.2/9000001/20040824/10000001,9000001,OAI^MR^ENROLLMENT^LEFT,SAG_3D_DESS_LEFT"
EXPECTED = ListingRow(
    ("0.C.2", "9000001", "20040824", "10000001"),
    "9000001",
    "OAI^MR^ENROLLMENT^LEFT",
    "SAG_3D_DESS_LEFT",
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_read_listing__encodings(encoding):
    assert read_listing(f"{HEADER}\r\n{ROW}\r\n".encode(encoding), "contents.csv") == [EXPECTED]


def test_read_listing__definitions_are_not_a_row():
    names = "image_file\tsrc_subject_id\tcomments_misc\timage_description"
    row = ROW.replace(",", "\t")
    defined = f"{names}\nFile\tSubject ID\tComments\tDescription\n{row}\n"
    assert read_listing(defined.encode(), "image03.txt") == [EXPECTED]
    assert read_listing(f"{names}\n{row}\n".encode(), "image03.txt") == [EXPECTED]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (ROW.replace(",9000001", "", 1) + "\n", Reason.RAGGED_TABLE),
        (ROW.replace(",9000001", ",,9000001", 1) + "\n", Reason.RAGGED_TABLE),
        (f"{ROW}\n{ROW[:40]}", Reason.TRUNCATED_FILE),
        (f'{ROW}\n"{ROW}', Reason.TRUNCATED_FILE),
    ],
)
def test_read_listing__rows_that_may_be_shifted(rows, reason):
    with pytest.raises(InputError, match="unreadable listing") as error:
        read_listing(f"{HEADER}\n{rows}".encode(), "contents.csv")
    assert error.value.reason is reason
