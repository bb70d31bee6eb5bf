"""Tables of the OAI are found by the names under which they are handed on."""

from __future__ import annotations

import gzip
import zipfile

import pytest

from qmri_lake.errors import Reason
from qmri_lake.oai.table_names import find_tables


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("AllClinical00.txt", "AllClinical##"),
        ("allclinical00_SAS.sas7bdat", "AllClinical##"),
        ("sub/oai_ALLCLINICAL10 (1).CSV", "AllClinical##"),
        ("OAIAllClinical03.xlsx", "AllClinical##"),
        ("kXR_SQ_BU00.csv", "kxr_sq_bu##"),
        ("kxr_sq_bu00_v2.xpt", "kxr_sq_bu##"),
        ("ENROLLEES.TSV", "Enrollees"),
        ("Enrollees25.txt", "Enrollees"),
        ("OUTCOMES99.txt", "OUTCOMES99"),
        ("Outcomes99.sas7bdat", "OUTCOMES99"),
    ],
)
def test_find_tables__names_in_use(tmp_path, name, kind):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("ID|X\n1|2\n")
    found = find_tables(tmp_path)
    assert found.used[kind] == [path]
    assert (found.unused, found.problems) == ({}, [])


def test_find_tables__names_what_is_not_used(tmp_path):
    texts = {
        "kxr_sq_rel_bu00.txt": "readings of another project",
        "kXR_QJSW_Duryea00.csv": "readings of another project",
        "moaks.csv": "unknown name",
        "JointSx00.txt": "unknown name",
        "AllClinicalGuide.xlsx": "unknown name",
    }
    for name in [*texts, "._AllClinical00.txt", "~$AllClinical00.xlsx", "contents.csv"]:
        (tmp_path / name).write_text("ID|X\n1|2\n")
    (tmp_path / "README.txt").write_text("Tables, as delivered.\n")
    found = find_tables(tmp_path)
    assert found.unused == texts
    assert not found.known


def test_find_tables__packed_tables_are_problems(tmp_path):
    (tmp_path / "AllClinical00.txt.gz").write_bytes(gzip.compress(b"ID|X\n1|2\n"))
    (tmp_path / "AllClinical01.sav").write_bytes(b"$FL2")
    with zipfile.ZipFile(tmp_path / "Clinical_ASCII.zip", "w") as archive:
        archive.writestr("ASCII/AllClinical00.txt", "ID|X\n1|2\n")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("001.dcm", "x")
    problems = find_tables(tmp_path).problems
    assert [problem.where for problem in problems] == [
        "AllClinical00.txt.gz",
        "AllClinical01.sav",
        "Clinical_ASCII.zip",
    ]
    assert {problem.reason for problem in problems} == {Reason.UNREADABLE_FILE}


def test_find_tables__links_are_followed_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Enrollees.txt").write_text("ID|X\n1|2\n")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert len(find_tables(tmp_path).used["Enrollees"]) == 1
