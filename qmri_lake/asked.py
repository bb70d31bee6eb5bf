"""What a training was started with, kept beside what it made: whoever goes on must ask the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qmri_lake.errors import InputError, Reason, RunError

__all__ = ["read_asked"]


def read_asked(
    path: Path, asked: Mapping[str, Any], *, needed: Sequence[str], what: str
) -> dict[str, Any]:
    """Return a record of what a training was started with, if it is what is asked for now.

    Parameters
    ----------
    path : Path
        A JSON file in the folder of the training.
    asked : mapping
        What must be the same; empty to read alone.
    needed : sequence of str
        Keys without which it is no such record.
    what : str
        Whose record, for the error: "an ensemble".

    Raises
    ------
    InputError
        A file that can't be read.
    RunError
        It was started with something else.
    """
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for name in needed:
            known[name]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"a {path.name} that can't be read ({type(error).__name__})",
            expected="one that a training wrote",
            where=path.parent.name,
            todo="Train into another folder.",
            reason=Reason.UNREADABLE_FILE,
        ) from error
    for name, value in asked.items():
        if known.get(name) != value:
            raise RunError(
                f"{what} of {name} {_spelled(known.get(name))}",
                expected=_spelled(value),
                where=path.parent.name,
                todo="Resume with what it was started with, or train into another folder.",
            )
    return known


def _spelled(value: Any) -> str:
    return " and ".join(value) if isinstance(value, list) else str(value)
