"""Names of folders and texts of DICOM headers cannot control a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qmri_lake.cli._logging import show_log
from qmri_lake.cli._progress import console, counting
from qmri_lake.errors import InputError, Problem, Reason, printable
from qmri_lake.phantom.dicom_files import Series, write_series

TITLE = "\x1b]0;owned\x07"
CLIPBOARD = "\x1b]52;c;QUJD\x07"
REVERSED = "\u202e"
UNTRUSTED = (TITLE, CLIPBOARD, REVERSED, "\x9b2J")


def delivery(folder: Path) -> Path:
    """Write a DESS series without a patient, and a series of another kind."""
    for name, description in (
        (f"no patient {TITLE}{REVERSED}", "SAG_3D_DESS_RIGHT"),
        ("other", f"SPECIAL {CLIPBOARD}\x9b2J"),
    ):
        values = {
            "Modality": "MR",
            "SeriesDescription": description,
            "SpecificCharacterSet": "ISO_IR 100",
            "StudyDate": "20040101",
        }
        if name == "other":
            values |= {
                "PatientID": "9000001",
                "StudyDescription": "OAI^MR^ENROLLMENT^RIGHT KNEE",
                "ScanningSequence": "SE",
            }
        image = np.ones((1, 3, 8, 8), np.int16)
        affine = np.array([[1.5, 0, 0, 0], [0, 0, 0.5, 0], [0, -0.5, 0, 0], [0, 0, 0, 1.0]])
        write_series(folder / name / "scan", Series(values, image, affine, (10.0,), name))
    return folder


def in_terminal(command: list[str]) -> bytes:
    """Run a command whose output is a terminal; return all that it wrote."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs) as process:
        os.close(theirs)
        parts = []
        while True:
            try:
                parts.append(os.read(ours, 65536))
            except OSError:  # the other end is closed
                break
            if not parts[-1]:
                break
        process.wait()
    os.close(ours)
    return b"".join(parts)


def test_command_line__escapes_names_of_folders_and_series(tmp_path: Path) -> None:
    source = delivery(tmp_path / f"from{TITLE}")
    command = [sys.executable, "-m", "qmri_lake.cli", "ingest", str(source), "-vv", "--lake"]
    piped = subprocess.run(
        [*command, str(tmp_path / "a.lake")],
        capture_output=True,
        check=False,
        env={**os.environ, "COLUMNS": "400"},
    )
    shown = piped.stdout + piped.stderr
    assert b"absent_patient" in shown
    assert rb"no patient \x1b]0;owned" in shown  # rich removes a bell
    assert rb"\x1b]52;c;qujd" in shown.lower()
    assert b"\x1b" not in shown
    assert b"\x07" not in shown
    shown = in_terminal([*command, str(tmp_path / "b.lake")])
    assert b"absent_patient" in shown
    assert b"\x1b[" in shown, "a terminal gets styles"
    for text in UNTRUSTED:
        assert text.encode() not in shown
        assert text.lower().encode() not in shown


def test_errors_and_problems__are_printable() -> None:
    for text in UNTRUSTED:
        error = InputError(f"a{text}", expected=text, where=text, todo=text)
        problem = Problem(Reason.NOT_DICOM, text, text, text, text, text)
        assert str(error).isprintable()
        assert str(problem).isprintable()
        assert problem.exam.isprintable()
    assert printable("µm – Ä\n", keep="\n") == "µm – Ä\n"


def test_console__escapes_lines_cells_bars_and_logs(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    from rich.table import Table

    table = Table()
    table.add_column(f"head{TITLE}")
    table.add_row(f"cell{TITLE}")
    console.print(table)
    console.print(f"line{TITLE}", style="bold")
    console.rule(f"rule{TITLE}")
    with counting(f"bar{TITLE}"), show_log(1):
        logging.getLogger("qmri_lake").warning("log%s", TITLE)
    shown = "".join(capsys.readouterr())
    assert "\x1b" not in shown
    for name in ("head", "cell", "line", "rule", "log"):
        assert f"{name}\\x1b]0;" in shown
