"""Patterns of file names, such as ``{patient}_{timepoint}m_{knee}_dess.nii.gz``.

A pattern is compiled to a regular expression. The placeholders are those of `PLACEHOLDERS`; ``*``
stands for any text within a name, ``**`` for any text with folders, and ``?`` for one character.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qmri_lake.core.text import did_you_mean
from qmri_lake.errors import InputError, Reason
from qmri_lake.lake.table_cells import LAST_MONTH, parse_knee, parse_timepoint

__all__ = ["PLACEHOLDERS", "FilePattern", "NameFields"]

_BASELINE = "[Bb]aseline|BASELINE|BL"
_VISIT = r"[Vv]\d{1,2}"
_WORD = r"[^\W_]"
"""A letter or a digit, with which identifiers of patients begin and end."""

PLACEHOLDERS: Mapping[str, str] = {
    "patient": "identifier of the patient, a number or a text such as P007",
    "timepoint": "months since baseline, such as 24 or 024",
    "visit": "visit of the OAI, such as V03, or a name of the option for visits",
    "knee": "left, right, L, R, or the codes of the OAI, 1 (right) and 2 (left)",
    "group": "kind of series, such as dess or msme",
    "echo": "number of the echo, 1 for the first",
    "time": "echo time or spin-lock time [ms], such as 10.5",
}
"""Placeholders of a pattern, and what they stand for."""


@dataclass(frozen=True, slots=True)
class NameFields:
    """What a pattern has read from one name. Parts that the pattern lacks are None."""

    patient: str | None = None
    """Identifier as written."""
    timepoint: int | None = None
    """Months since baseline."""
    knee: str | None = None
    """``left`` or ``right``."""
    group: str | None = None
    """Kind of series, in lower case."""
    echo: int | None = None
    """Number of the echo, from 1."""
    time: float | None = None
    """Time [ms]."""


class FilePattern:
    """A pattern of the names of files, relative to their folder.

    Parameters
    ----------
    text : str
        The pattern. ``/`` separates folders; a pattern without ``/`` matches only files directly
        in the folder, and ``**/`` stands for any folders. ``{patient:7}`` is a patient of exactly 7
        characters. Braces of a name are doubled.
    visits : mapping of str to int, optional
        Months by the name of a visit, for ``{visit}``, in addition to V00 ... V11 of the OAI.

    Raises
    ------
    InputError
        If the pattern is empty or absolute, or has an unknown placeholder.

    Examples
    --------
    >>> pattern = FilePattern("{patient}_{timepoint}m_{knee}_dess.nii.gz")
    >>> found = pattern.match("P007_024m_L_dess.nii.gz")
    >>> found.patient, found.timepoint, found.knee
    ('P007', 24, 'left')
    """

    def __init__(self, text: str, visits: Mapping[str, int] | None = None) -> None:
        self.text = text
        self.visits = {name.casefold(): months for name, months in (visits or {}).items()}
        self._parts = self._parse(text)
        self.placeholders = frozenset(name for kind, name, _ in self._parts if kind == "field")
        if {"timepoint", "visit"} <= self.placeholders:
            raise _invalid("both {timepoint} and {visit}", "one of them", text)
        self._shortest, self._longest = (
            re.compile(self._expression(lazy)) for lazy in (True, False)
        )

    def __repr__(self) -> str:
        return f"FilePattern({self.text!r})"

    @property
    def keys(self) -> frozenset[str]:
        """Which of patient, timepoint and knee the pattern states."""
        found = {"timepoint" if name == "visit" else name for name in self.placeholders}
        return frozenset(found & {"patient", "timepoint", "knee"})

    def matches(self, where: str) -> bool:
        """Return whether a name matches, whatever values it has."""
        return self._shortest.fullmatch(where) is not None

    def match(self, where: str) -> NameFields | None:
        """Read the fields of a name; None if the name does not match.

        Parameters
        ----------
        where : str
            Path relative to the folder, with ``/`` between folders.

        Raises
        ------
        InputError
            If a placeholder has an invalid value, if it occurs twice with two values, or if the
            name can be read in two ways.
        """
        shortest = self._shortest.fullmatch(where)
        if shortest is None:
            return None
        longest = self._longest.fullmatch(where)
        fields = self._read(shortest, where)
        other = self._read(longest, where) if longest is not None else fields
        if fields != other:
            name = next(n for n in NameFields.__slots__ if getattr(fields, n) != getattr(other, n))
            raise InputError(
                f"the pattern reads {name} as {getattr(fields, name)} or {getattr(other, name)}",
                expected="a name that the pattern reads in one way",
                where=where,
                todo="Separate the placeholders by text, or give a length, as in {patient:7}.",
                reason=Reason.UNREADABLE_VALUE,
            )
        return fields

    def _parse(self, text: str) -> list[tuple[str, str, str]]:
        """Split a pattern into ("text", text, "") and ("field", name, length)."""
        if not text.strip() or text.startswith("/"):
            raise _invalid("an absolute path" if text.strip() else "nothing", "a pattern", text)
        parts: list[tuple[str, str, str]] = []
        try:
            split = list(string.Formatter().parse(text))
        except ValueError as error:
            todo = "Double the braces that belong to a name: {{ and }}."
            raise _invalid(str(error), "{patient}", text, todo) from None
        for literal, name, length, conversion in split:
            if literal:
                parts.append(("text", literal, ""))
            if name is None:
                continue
            if name not in PLACEHOLDERS:
                known = ", ".join(f"{{{n}}}" for n in PLACEHOLDERS)
                todo = did_you_mean(name, PLACEHOLDERS)
                raise _invalid(f"the placeholder {{{name}}}", f"one of {known}", text, todo)
            has_length = name in ("patient", "group") and re.fullmatch(r"[1-9]\d?", length or "")
            if conversion or (length and not has_length):
                found = f"{{{name}!{conversion}}}" if conversion else f"{{{name}:{length}}}"
                raise _invalid(found, "a number of characters, as in {patient:7}", text)
            parts.append(("field", name, length or ""))
        return parts

    def _expression(self, lazy: bool) -> str:
        expression = ""
        for position, (kind, value, length) in enumerate(self._parts):
            if kind == "text":
                expression += _literal(value, lazy)
                continue
            # Beside text of the pattern, the text itself is the boundary.
            before, after = ("", ""), ("", "")
            if not self._is_text(position - 1, -1):
                before = ("(?<![A-Za-z])", r"(?<!\d)")
            if not self._is_text(position + 1, 0):
                after = ("(?![A-Za-z])", r"(?!\d)")
            body = f"[^/]{{{length}}}" if length else self._field(value, lazy, before, after)
            expression += f"(?P<{value}_{position}>{body})"
        return expression

    def _is_text(self, position: int, end: int) -> bool:
        if not 0 <= position < len(self._parts):
            return False
        kind, value, _ = self._parts[position]
        return kind == "text" and value[end] not in "*?"

    def _field(self, name: str, lazy: bool, before: tuple[str, str], after: tuple[str, str]) -> str:
        letters, digits = before
        letters_end, digits_end = after
        if name == "knee":
            words = f"{letters}(?i:left|right|l|r){letters_end}"
            return f"{words}|{digits}[12]{digits_end}"
        if name == "timepoint":
            return rf"{digits}\d{{1,4}}{digits_end}|{letters}(?:{_BASELINE}){letters_end}"
        if name == "visit":
            names = sorted(self.visits, key=len, reverse=True)
            own = "|".join(f"(?i:{re.escape(n)})" for n in names)
            return "|".join(filter(None, (own, f"{_VISIT}{digits_end}", _BASELINE)))
        if name == "echo":
            return rf"{digits}\d{{1,3}}{digits_end}"
        if name == "time":
            return rf"{digits}\d{{1,4}}(?:[.]\d{{1,6}})?{digits_end}"
        some = "*?" if lazy else "*"
        inside = "[^/.]" if name == "group" else "[^/]"  # the suffix is no part of a group
        return f"{_WORD}(?:{inside}{some}{_WORD})?"

    def _read(self, found: re.Match[str], where: str) -> NameFields:
        values: dict[str, Any] = {}
        for group, text in found.groupdict().items():
            name = group.rpartition("_")[0]
            value = self._value(name, text, where)
            name = "timepoint" if name == "visit" else name
            if values.setdefault(name, value) != value:
                raise InputError(
                    f"{name} {values[name]} and {value} in one name",
                    expected=f"one {name}",
                    where=where,
                    todo="Rename the file, or correct the pattern.",
                    reason=_CONFLICTS.get(name, Reason.UNREADABLE_VALUE),
                )
        return NameFields(**values)

    def _value(self, name: str, text: str, where: str) -> str | int | float:
        if name in _PLAIN:
            return _PLAIN[name](text)
        if name == "visit" and text.casefold() in self.visits:
            return self.visits[text.casefold()]
        parsed = parse_knee(text) if name == "knee" else parse_timepoint(_spelled(text))
        if parsed is None:
            months = f"months up to {LAST_MONTH}"
            raise InputError(
                f"{name} {text}",
                expected=months if name == "timepoint" else PLACEHOLDERS[name],
                where=where,
                todo="Rename the file, or correct the pattern.",
                reason=Reason.UNREADABLE_VALUE,
            )
        value: str | int = parsed[0]
        return value


_PLAIN: Mapping[str, Callable[[str], str | int | float]] = {
    "patient": str.strip,
    "group": str.lower,
    "echo": int,
    "time": float,
}
_CONFLICTS = {
    "patient": Reason.PATIENT_CONFLICT,
    "timepoint": Reason.TIMEPOINT_CONFLICT,
    "knee": Reason.SIDE_CONFLICT,
}


def _spelled(text: str) -> str:
    return "baseline" if text == "BL" else text


def _literal(text: str, lazy: bool) -> str:
    """Translate the text of a pattern with its wildcards."""
    some = "?" if lazy else ""
    words = {"**/": f"(?:.*{some}/)?", "**": f".*{some}", "*": f"[^/]*{some}", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", text)
    return "".join(words.get(piece, re.escape(piece)) for piece in pieces)


def _invalid(found: str, expected: str, text: str, todo: str = "") -> InputError:
    return InputError(
        f"{found} in the pattern {text!r}",
        expected=expected,
        where="pattern",
        todo=todo or "Example: {patient}_{timepoint}m_{knee}_dess.nii.gz.",
        reason=Reason.UNREADABLE_VALUE,
    )
