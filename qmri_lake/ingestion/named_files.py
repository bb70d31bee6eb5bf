"""Files of a folder whose exams are stated by a pattern of their names, or by a CSV list.

Images and masks use the same patterns and lists.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from qmri_lake.core.text import counted, did_you_mean
from qmri_lake.errors import InputError, NotFoundError, Problem, Reason
from qmri_lake.ingestion.file_pattern import FilePattern
from qmri_lake.lake.study_ids import LONGEST, patient_number
from qmri_lake.lake.table_cells import is_missing, parse_knee, parse_timepoint
from qmri_lake.oai.delimited_text import read_text
from qmri_lake.schema.exam_index import KEYS, exam_key

__all__ = [
    "LIST_COLUMNS",
    "NamedFile",
    "NamedFiles",
    "find_by_pattern",
    "patient_number",
    "read_list",
    "without_doubled",
]

LIST_COLUMNS: Mapping[str, str] = {
    "file": "path of the file, or of a folder with a DICOM series, relative to the folder",
    "patient": "identifier of the patient, a number or a text such as P007",
    "timepoint": "months since baseline (24 or 24m), or visit of the OAI (V03)",
    "knee": "left, right, L, R, or the codes of the OAI, 1 (right) and 2 (left)",
    "group": "kind of series, such as dess or msme (optional)",
    "echo": "number of the echo, 1 for the first, for files of one echo (optional)",
    "time_ms": "echo time or spin-lock time [ms], for files of one echo (optional); times of all "
    "echoes of a file are separated by blanks",
}
"""Columns of a list of files."""

_SHOWN = 5
"""Number of names in a message."""
_WHERE = "the list"
_REASONS = {
    "patient": Reason.ABSENT_PATIENT,
    "timepoint": Reason.ABSENT_TIMEPOINT,
    "knee": Reason.ABSENT_SIDE,
}


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file, and what its name or a list says about it."""

    path: str
    """Path of the file."""
    where: str
    """Path relative to the folder, for messages."""
    patient: str
    """Identifier of the patient as written; see `patient_number`."""
    timepoint: int
    """Months since baseline."""
    knee: str
    """``left`` or ``right``."""
    group: str = ""
    """Kind of series; "" if not stated."""
    echo: int | None = None
    """Number of the echo, from 1; None if not stated."""
    times_ms: tuple[float, ...] = ()
    """Times of the echoes [ms]; empty if not stated."""
    listed: str = ""
    """Row of the list that states the exam; "" for a pattern."""

    @property
    def exam(self) -> str:
        """Exam key if the patient is a number; otherwise "", since the lake assigns a number."""
        number = patient_number(self.patient)
        return "" if number is None else exam_key(number, self.timepoint, self.knee)

    @property
    def label(self) -> str:
        """Patient as written, month and side, for messages."""
        return self.exam or f"{self.patient}-{self.timepoint:03d}m-{self.knee}"


@dataclass(slots=True)
class NamedFiles:
    """Files with an exam, problems, and files that do not match the pattern."""

    files: list[NamedFile] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    """Names of the files of the folder that the pattern or the list does not contain."""


def find_by_pattern(
    source: str | os.PathLike[str],
    pattern: FilePattern | str,
    *,
    patient: str | int | None = None,
    timepoint: int | None = None,
    knee: str | None = None,
) -> NamedFiles:
    """Find the files whose names match a pattern.

    Parameters
    ----------
    source : path
        A folder, which is searched recursively, or one file, whose name is matched.
    pattern : FilePattern or str
        Pattern of the paths relative to the folder. One that ends with ``/`` is compared with the
        paths of folders instead, each of which has the DICOM files of a series.
    patient, timepoint, knee : optional
        Parts of the exam that the pattern does not contain; they hold for all files.

    Returns
    -------
    NamedFiles
        Files that are the second one of an exam, group, echo and time are listed as problems, and
        neither of them is used.

    Raises
    ------
    InputError
        If a part of the exam is neither in the pattern nor given, or in both, or if no file
        matches. The message shows some of the names.
    """
    pattern = FilePattern(pattern) if isinstance(pattern, str) else pattern
    given = {"patient": patient, "timepoint": timepoint, "knee": knee}
    _check_complete(pattern, given)
    found, names = NamedFiles(), _names(Path(source), folders=pattern.text.endswith("/"))
    for where, path in names.items():
        try:
            # A sidecar may match the pattern of its image, and is read with the image.
            is_sidecar = where.lower().endswith(".json")
            fields = None if is_sidecar else pattern.match(where)
            if fields is None:
                found.unmatched.append(where)
                continue
            values = {name: getattr(fields, name) for name in KEYS}
            values = {name: given[name] if v is None else v for name, v in values.items()}
            found.files.append(
                NamedFile(
                    str(path),
                    where,
                    _checked_patient(str(values["patient"]), where),
                    int(values["timepoint"]),
                    str(values["knee"]),
                    fields.group or "",
                    fields.echo,
                    () if fields.time is None else (fields.time,),
                )
            )
        except InputError as error:
            found.problems.append(error.problem())
    if not (found.files or found.problems):
        raise _no_match(pattern, list(names), os.fspath(source))
    return without_doubled(found)


def read_list(
    file: str | os.PathLike[str], source: str | os.PathLike[str] | None = None
) -> NamedFiles:
    """Read a CSV list of files.

    Parameters
    ----------
    file : path
        Text with comma, semicolon or tab, and the columns `LIST_COLUMNS`.
    source : path, optional
        Folder of the files. Default: the folder of the list.

    Returns
    -------
    NamedFiles
        Rows without a file, with a missing or unreadable value, or that repeat the exam, group,
        echo and time of another row, are listed as problems.

    Raises
    ------
    InputError
        If the list cannot be read, has no rows, or lacks a column or has an unknown one.
    """
    path = Path(file)
    if not path.is_file():
        raise NotFoundError("no such file", expected="a CSV list of files", where=os.fspath(file))
    folder = path.parent if source is None else Path(source)
    try:
        raw = read_text(path.read_bytes(), lambda _: True)
    except InputError as error:
        raise InputError(
            error.found,
            expected=error.expected,
            where=path.name,
            todo=error.todo,
            reason=error.reason,
        ) from None
    columns = [column.strip().lower() for column in raw.columns]
    _check_columns(columns, path.name)
    table = raw.cells.set_axis(columns, axis="columns")
    if table.empty:
        raise InputError(
            "no rows",
            expected="one row for each file",
            where=path.name,
            todo="Add the files.",
            reason=Reason.EMPTY_TABLE,
        )
    found = NamedFiles()
    for number, row in zip(table.index, table.to_dict("records"), strict=True):
        cells = {str(name): str(cell).strip() for name, cell in row.items()}
        try:
            found.files.append(_read_row(cells, folder, f"{path.name} row {number}"))
        except InputError as error:
            found.problems.append(error.problem())
    listed = {item.where.rstrip("/") for item in found.files}
    found.unmatched = [
        name
        for name in _names(folder)
        if not ({name, *map(str, Path(name).parents)} & listed or name == path.name)
    ]
    return without_doubled(found)


def _check_complete(pattern: FilePattern, given: Mapping[str, object]) -> None:
    for name, value in given.items():
        in_pattern = name in pattern.keys
        if in_pattern == (value is not None):
            raise InputError(
                f"{name} both in the pattern {pattern.text!r} and as an option"
                if in_pattern
                else f"no {{{name}}} in the pattern {pattern.text!r}",
                expected=f"{name} in the pattern or as an option",
                where="pattern",
                todo=f"Omit --{name}." if in_pattern else f"Add {{{name}}}, or give --{name}.",
                reason=_REASONS[name],
            )


def _names(source: Path, *, folders: bool = False) -> dict[str, Path]:
    """Return the files of a folder by their relative paths, without hidden ones; or the folders.

    The path of a folder ends with ``/``.
    """
    if source.is_file():
        return {source.name: source}
    if not source.is_dir():
        raise NotFoundError("no such folder", expected="a folder of files", where=str(source))
    found: dict[str, Path] = {}
    for folder, below, files in os.walk(source):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in below if folders else sorted(files):
            if not name.startswith("."):
                path = Path(folder, name)
                found[path.relative_to(source).as_posix() + "/" * folders] = path
    return found


def _checked_patient(text: str, where: str) -> str:
    """Return an identifier of a patient, which is one line of printable text."""
    if text and text.isprintable() and len(text) <= LONGEST and text.strip("0"):
        return text
    raise InputError(
        "no identifier of the patient" if not text.strip("0") else "an unusable patient identifier",
        expected=f"a number above 0, or printable text of up to {LONGEST} characters",
        where=where,
        todo="Correct the name or the row.",
        reason=Reason.ABSENT_PATIENT if not text else Reason.UNREADABLE_VALUE,
    )


def _no_match(pattern: FilePattern, names: Sequence[str], where: str) -> InputError:
    shown = ", ".join(names[:_SHOWN]) + ", ..." * (len(names) > _SHOWN)
    todo = "Correct the pattern."
    deeper = FilePattern(f"**/{pattern.text}", pattern.visits)
    if any("/" in name and deeper.matches(name) for name in names):
        todo = f"Files in subfolders need '**/' first: {deeper.text!r}."
    return InputError(
        f"no file matches the pattern {pattern.text!r} among {counted(len(names), 'file')}"
        + (f": {shown}" if names else ""),
        expected="a pattern of the paths relative to the folder",
        where=where,
        todo=todo,
        reason=Reason.UNREADABLE_FILE,
    )


def without_doubled(found: NamedFiles) -> NamedFiles:
    """Replace files that share an exam, group, echo and time by a problem, and repeated files."""
    for key_of in (_content, lambda item: item.path):
        groups: dict[object, list[NamedFile]] = {}
        for item in found.files:
            groups.setdefault(key_of(item), []).append(item)
        found.files = [items[0] for items in groups.values() if len(items) == 1]
        found.problems += [_doubled(items) for items in groups.values() if len(items) > 1]
    return found


def _content(item: NamedFile) -> object:
    number = patient_number(item.patient)
    person = item.patient.casefold() if number is None else number
    if not item.group and Path(item.path).is_dir():
        return item.path  # the headers state the kind of series
    return person, item.timepoint, item.knee, item.group, item.echo, item.times_ms


def _doubled(items: Sequence[NamedFile]) -> Problem:
    first = items[0]
    names = [f"{item.where} ({item.listed})" if item.listed else item.where for item in items]
    found = f"{len(items)} {first.group} files of {first.label}: {', '.join(names)}"
    expected, todo = "one file for each exam", "Make the pattern narrower, or remove a file."
    if len({item.path for item in items}) == 1:
        exams = ", ".join(dict.fromkeys(item.label for item in items))
        rows = " and ".join(item.listed for item in items)
        found, expected, todo = f"{rows} name one file, as {exams}", "one row", "Correct the list."
    return Problem(
        Reason.AMBIGUOUS_SERIES,
        first.where,
        found.replace("  ", " "),
        expected,
        f"{todo} None of them was used.",
        first.exam,
    )


def _check_columns(columns: Sequence[str], where: str) -> None:
    needed = list(LIST_COLUMNS)[:4]
    wrong = [column for column in columns if column not in LIST_COLUMNS]
    doubled = [column for column in LIST_COLUMNS if list(columns).count(column) > 1]
    missing = [column for column in needed if column not in columns]
    if not (wrong or missing or doubled):
        return
    found = [
        (f"unknown column {', '.join(map(repr, wrong))}", wrong),
        (f"repeated column {', '.join(doubled)}", doubled),
        (f"no column {', '.join(missing)}", missing),
    ]
    hint = did_you_mean(wrong[0], missing or LIST_COLUMNS) if wrong else ""
    raise InputError(
        "; ".join(text for text, names in found if names),
        expected=f"{', '.join(needed)}, and optionally {', '.join(list(LIST_COLUMNS)[4:])}",
        where=where,
        todo=hint or "Rename the columns.",
        reason=Reason.TABLE_WITHOUT_KEY if missing else Reason.RAGGED_TABLE,
    )


def _read_row(cells: Mapping[str, str], folder: Path, where: str) -> NamedFile:
    name = cells["file"].replace("\\", "/").removeprefix("./")
    path = folder / name
    if not name or not path.exists():
        raise InputError(
            f"no file {name!r}" if name else "no file",
            expected=f"a file or folder, relative to {folder.name or folder}",
            where=where,
            todo="Correct the row. It was not used.",
            reason=Reason.UNREADABLE_FILE,
        )
    timepoint = _parsed(parse_timepoint(cells["timepoint"]), "timepoint", cells, where)
    knee = _parsed(parse_knee(cells["knee"]), "knee", cells, where)
    return NamedFile(
        str(path),
        name,
        _checked_patient("" if is_missing(cells["patient"]) else cells["patient"], where),
        int(str(timepoint)),
        str(knee),
        "" if is_missing(cells.get("group", "")) else cells["group"].lower(),
        next((int(number) for number in _numbers("echo", cells, where)), None),
        tuple(_numbers("time_ms", cells, where)),
        where,
    )


def _parsed(
    parsed: tuple[object, str] | None, name: str, cells: Mapping[str, str], where: str
) -> object:
    if parsed is not None:
        return parsed[0]
    missing = is_missing(cells[name])
    raise InputError(
        f"no {name}" if missing else f"{name} {cells[name]!r}",
        expected=LIST_COLUMNS[name],
        where=where,
        todo="Correct the row. It was not used.",
        reason=_REASONS[name] if missing else Reason.UNREADABLE_VALUE,
    )


def _numbers(name: str, cells: Mapping[str, str], where: str) -> Iterable[float]:
    """Return the numbers of an optional cell."""
    text = cells.get(name, "")
    words = [] if is_missing(text) else text.split()
    numbers = pd.to_numeric(pd.Series(words, dtype=str), errors="coerce").tolist()
    whole = name != "echo" or (len(words) <= 1 and all(n == int(n) for n in numbers if n == n))
    if whole and all(0 < number < float("inf") for number in numbers):
        return numbers
    raise InputError(
        f"{name} {text!r}",
        expected="a whole number from 1" if name == "echo" else "times above 0 ms",
        where=where,
        todo="Correct the row. It was not used.",
        reason=Reason.UNREADABLE_VALUE,
    )
