"""Names of exported files, from the keys of an exam and a pattern."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from qmri_lake.errors import InputError, Reason
from qmri_lake.exporting.format_declaration import Each, Format

__all__ = ["check_pattern", "file_stem", "refuse_repeated_names"]

_KEYS = ("exam", "patient", "timepoint", "knee")
_FIELDS = {
    Each.VARIABLE: (*_KEYS, "group", "variable"),
    Each.GROUP: (*_KEYS, "group"),
    Each.EXAM: _KEYS,
}


def check_pattern(form: Format, pattern: str | None) -> str:
    """Return the pattern of the names of a format's files.

    Raises
    ------
    InputError
        If the pattern has an unknown field or leaves the folder, or if the format prescribes names.
    """
    if pattern is None:
        return form.pattern
    known = _FIELDS[form.each]
    where, listed = "pattern", ", ".join(f"{{{name}}}" for name in known)
    if form.fixed_names:
        raise _refusal(f"a pattern for {form.name}", "none: the format prescribes the names", where)
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None]
        unknown = [name for name in fields if name not in known]
        example = dict.fromkeys(known, "x") | {"patient": 1, "timepoint": 0}
        stem = PurePosixPath("x") if unknown else PurePosixPath(pattern.format(**example))
    except (ValueError, KeyError, IndexError) as error:
        raise _refusal(
            f"{pattern!r} ({error})", f"text with fields such as {listed}", where
        ) from None
    if unknown:
        raise _refusal(f"field {{{unknown[0]}}} in {pattern!r}", f"one of {listed}", where)
    if stem.is_absolute() or ".." in stem.parts or not stem.name or pattern.endswith("/"):
        raise _refusal(repr(pattern), "a name inside the folder of the export", where)
    return pattern


def file_stem(pattern: str, keys: Mapping[str, object], path: str = "", group: str = "") -> str:
    """Return the path of a file in the folder of an export, without its suffix."""
    name = path.partition("/")[2]
    return pattern.format(**keys, group=group or path.partition("/")[0], variable=name)


def refuse_repeated_names(stems: Iterable[tuple[str, str]], pattern: str) -> None:
    """Raise an error if a pattern gives two files one name; `stems` come with their content.

    Raises
    ------
    InputError
        The message names both.
    """
    seen: dict[str, str] = {}
    for stem, what in stems:
        other = seen.setdefault(stem.casefold(), what)  # some file systems ignore the case
        if other != what:
            raise _refusal(
                f"{pattern!r} gives {other} and {what} the name {stem!r}",
                "another name for each file, such as {exam}_{variable}",
                "pattern",
            )


def _refusal(found: str, expected: str, where: str) -> InputError:
    return InputError(found, expected=expected, where=where, reason=Reason.UNREADABLE_VALUE)
