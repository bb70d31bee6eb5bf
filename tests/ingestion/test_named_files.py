"""Patterns of file names and lists of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from qmri_lake.errors import InputError, Reason
from qmri_lake.ingestion.file_pattern import FilePattern, NameFields
from qmri_lake.ingestion.named_files import find_by_pattern, patient_number, read_list

PATTERN = "{patient}_{timepoint}m_{knee}_dess.nii.gz"


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        (PATTERN, "P007_024m_L_dess.nii.gz", NameFields("P007", 24, "left")),
        (PATTERN, "SKM-0042_0m_right_dess.nii.gz", NameFields("SKM-0042", 0, "right")),
        # An underscore in the identifier does not end it.
        (PATTERN, "P_08_12m_RIGHT_dess.nii.gz", NameFields("P_08", 12, "right")),
        (PATTERN, "P007_024m_L_dess.nii", None),
        (PATTERN, "sub/P007_024m_L_dess.nii.gz", None),
        ("**/" + PATTERN, "a/b/P007_024m_L_dess.nii.gz", NameFields("P007", 24, "left")),
        ("**/" + PATTERN, "P007_024m_L_dess.nii.gz", NameFields("P007", 24, "left")),
        ("{patient}_{visit}_{knee}.nrrd", "9000798_V03_1.nrrd", NameFields("9000798", 24, "right")),
        ("{patient}_BL_{knee}.nrrd", "9000798_BL_2.nrrd", NameFields("9000798", None, "left")),
        ("{patient}_{visit}_{knee}.nrrd", "9000798_BL_2.nrrd", NameFields("9000798", 0, "left")),
        ("{patient:7}{knee}.mha", "9000798L.mha", NameFields("9000798", None, "left")),
        ("{patient}{knee}.mha", "9000798L.mha", NameFields("9000798", None, "left")),
        ("knee{knee}_{patient}", "kneeR_x", NameFields("x", None, "right")),
        # The l of "smaller" is not a side.
        ("{patient:2}_*{knee}*.nii", "P1_smaller_right.nii", NameFields("P1", None, "right")),
        (
            "{patient}/{patient}_{group}_e{echo}_{time}ms.nii",
            "P1/P1_MSME_e2_20.5ms.nii",
            NameFields("P1", group="msme", echo=2, time=20.5),
        ),
        ("a[1]{{x}}_{patient}.nii", "a[1]{x}_P1.nii", NameFields("P1")),
        ("{patient}_t?.nii", "P1_t2.nii", NameFields("P1")),
    ],
)
def test_pattern__reads_the_parts_of_an_exam(
    pattern: str, name: str, expected: NameFields | None
) -> None:
    assert FilePattern(pattern).match(name) == expected


def test_pattern__reads_the_names_of_visits_that_are_given() -> None:
    pattern = FilePattern("{patient}_{visit}.nii", {"year2": 24, "screening": 0})
    assert pattern.match("P1_Year2.nii") == NameFields("P1", 24)
    assert pattern.match("P1_screening.nii") == NameFields("P1", 0)
    assert pattern.match("P1_year3.nii") is None


@pytest.mark.parametrize(
    ("pattern", "name", "message"),
    [
        (
            "{patient}/{patient}_*.nii",
            "P1/P2_a.nii",
            "P1/P2_a.nii: patient P1 and P2 in one name (expected one patient). Rename the file, "
            "or correct the pattern.",
        ),
        (
            "{patient}_{group}.nii",
            "P1_a_dess.nii",
            "P1_a_dess.nii: the pattern reads patient as P1 or P1_a (expected a name that the "
            "pattern reads in one way). Separate the placeholders by text, or give a length, as in "
            "{patient:7}.",
        ),
        (
            "{patient}_{timepoint}m.nii",
            "P1_1300m.nii",
            "P1_1300m.nii: timepoint 1300 (expected months up to 1200). Rename the file, or "
            "correct the pattern.",
        ),
    ],
)
def test_pattern__refuses_a_name_without_one_meaning(pattern: str, name: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        FilePattern(pattern).match(name)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{patiant}.nii", "the placeholder {patiant} in the pattern"),
        ("{patiant}.nii", "Did you mean 'patient'?"),
        ("{patient.nii", "in the pattern '{patient.nii'"),
        ("{patient:x}.nii", "{patient:x} in the pattern"),
        ("{knee:1}.nii", "{knee:1} in the pattern"),
        ("/{patient}.nii", "an absolute path in the pattern"),
        (" ", "nothing in the pattern"),
        ("{visit}_{timepoint}.nii", "both {timepoint} and {visit} in the pattern"),
    ],
)
def test_pattern__refuses_an_unusable_pattern(pattern: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        FilePattern(pattern)
    assert message in str(error.value)


def make_files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def test_find_by_pattern__lists_two_files_of_one_exam_and_keeps_the_others(tmp_path: Path) -> None:
    make_files(
        tmp_path,
        "P007_024m_L_dess.nii.gz",
        "P007_24m_left_dess.nii.gz",
        "9000798_024m_R_dess.nii.gz",
        "P007_024m_R_dess.nii.gz",
        "P9_1300m_R_dess.nii.gz",
        "notes.txt",
        ".hidden/P1_024m_R_dess.nii.gz",
    )
    found = find_by_pattern(tmp_path, PATTERN)
    assert {file.label for file in found.files} == {"P007-024m-right", "9000798-024m-right"}
    assert {file.exam for file in found.files} == {"", "9000798-024m-right"}
    assert found.unmatched == ["notes.txt"]
    (month, doubled) = found.problems
    assert month.reason == Reason.UNREADABLE_VALUE
    assert str(doubled) == (
        "P007_024m_L_dess.nii.gz: ambiguous_series: 2 files of P007-024m-left: "
        "P007_024m_L_dess.nii.gz, P007_24m_left_dess.nii.gz (expected one file for each exam). "
        "Make the pattern narrower, or remove a file. None of them was used."
    )


def test_find_by_pattern__options_complete_a_pattern(tmp_path: Path) -> None:
    make_files(tmp_path, "P007.nii")
    (file,) = find_by_pattern(tmp_path, "{patient}.nii", timepoint=24, knee="left").files
    assert (file.label, file.where) == ("P007-024m-left", "P007.nii")
    with pytest.raises(InputError) as error:
        find_by_pattern(tmp_path, "{patient}.nii", knee="left")
    assert str(error.value) == (
        "pattern: no {timepoint} in the pattern '{patient}.nii' (expected timepoint in the pattern "
        "or as an option). Add {timepoint}, or give --timepoint."
    )
    with pytest.raises(InputError, match=r"patient both in the pattern .* Omit --patient"):
        find_by_pattern(tmp_path, "{patient}.nii", patient=1, timepoint=0, knee="left")


def test_find_by_pattern__suffixes_and_sidecars_are_no_group(tmp_path: Path) -> None:
    for name in ("P1_R_dess.nii.gz", "P1_R_dess.json", "P1_L_t1rho.nii"):
        (tmp_path / name).touch()
    found = find_by_pattern(tmp_path, "{patient}_{knee}_{group}.*", timepoint=0)
    assert [(file.knee, file.group) for file in found.files] == [
        ("left", "t1rho"),
        ("right", "dess"),
    ]
    assert (found.problems, found.unmatched) == ([], ["P1_R_dess.json"])


def test_find_by_pattern__shows_names_if_nothing_matches(tmp_path: Path) -> None:
    make_files(tmp_path, *(f"sub-{n}/P{n}_0m_L_dess.nii.gz" for n in range(7)))
    with pytest.raises(InputError) as error:
        find_by_pattern(tmp_path, PATTERN)
    assert str(error.value) == (
        f"{tmp_path}: no file matches the pattern '{PATTERN}' among 7 files: "
        "sub-0/P0_0m_L_dess.nii.gz, sub-1/P1_0m_L_dess.nii.gz, sub-2/P2_0m_L_dess.nii.gz, "
        "sub-3/P3_0m_L_dess.nii.gz, sub-4/P4_0m_L_dess.nii.gz, ... (expected a pattern of the "
        "paths relative to the folder). Files in subfolders need '**/' first: "
        f"'**/{PATTERN}'."
    )


def test_read_list__reads_rows_and_lists_unusable_ones(tmp_path: Path) -> None:
    make_files(tmp_path, "a.nii", "b.nii", "c.nii", "sub/d.nii", "e.nii")
    (tmp_path / "files.csv").write_text(
        "file;patient;timepoint;knee;group;time_ms\n"
        "a.nii;P1;24m;L;DESS;\n"
        "b.nii;P1;V03;1;msme;10 20.5\n"
        "no.nii;P1;0;L;dess;\n"
        "c.nii;P1;soon;L;dess;\n"
        "c.nii;;0;L;dess;\n"
        "c.nii;0;0;L;dess;\n"
        "c.nii;P1;0;L;dess;-1\n"
        "sub/d.nii;P2;0;L;dess;\n"
        "sub/d.nii;P3;0;L;dess;\n"
    )
    found = read_list(tmp_path / "files.csv")
    assert [(f.where, f.label, f.group, f.times_ms) for f in found.files] == [
        ("a.nii", "P1-024m-left", "dess", ()),
        ("b.nii", "P1-024m-right", "msme", (10.0, 20.5)),
    ]
    assert found.unmatched == ["c.nii", "e.nii"]
    assert [(p.where, p.reason.value, p.found) for p in found.problems] == [
        ("files.csv row 4", "unreadable_file", "no file 'no.nii'"),
        ("files.csv row 5", "unreadable_value", "timepoint 'soon'"),
        ("files.csv row 6", "absent_patient", "no identifier of the patient"),
        ("files.csv row 7", "unreadable_value", "no identifier of the patient"),
        ("files.csv row 8", "unreadable_value", "time_ms '-1'"),
        (
            "sub/d.nii",
            "ambiguous_series",
            "files.csv row 9 and files.csv row 10 name one file, as P2-000m-left, P3-000m-left",
        ),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "file,patient,time,knee\na,b,c,d\n",
            "files.csv: unknown column 'time'; no column timepoint (expected file, patient, "
            "timepoint, knee, and optionally group, echo, time_ms). Did you mean 'timepoint'?",
        ),
        (
            "file,patient,timepoint,knee,tim_ms\na,b,c,d,e\n",
            "files.csv: unknown column 'tim_ms' (expected file, patient, timepoint, knee, and "
            "optionally group, echo, time_ms). Did you mean 'time_ms'?",
        ),
        ("file,patient,timepoint,knee\n", "files.csv: no rows (expected one row for each file)."),
        ("file,patient,timepoint,knee\na,b\n", "files.csv: row 2 has 2 cells (expected 4 cells"),
    ],
)
def test_read_list__refuses_an_unusable_list(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "files.csv").write_text(text)
    with pytest.raises(InputError) as error:
        read_list(tmp_path / "files.csv")
    assert str(error.value).startswith(message)


def test_patient_number__accepts_up_to_ten_digits() -> None:
    assert patient_number("9000798") == 9000798
    assert patient_number("9999999999") == 9_999_999_999
    for text in ("P007", "0", "00", "19999999999", "", "-1", "1.0", "١٢"):
        assert patient_number(text) is None
