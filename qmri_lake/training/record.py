"""Read the settings that a training stores in its folder. Resuming requires the same settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from qmri_lake.core.json_types import JsonMapping, JsonObject
from qmri_lake.errors import InputError, Reason, RunError

__all__ = ["read_training_record"]


def read_training_record(
    path: Path, expected: JsonMapping, *, needed: Sequence[str], what: str
) -> JsonObject:
    """Read the settings with which a training was started, and compare them with expected values.

    Parameters
    ----------
    path : Path
        A JSON file in the folder of the training.
    expected : mapping
        Settings that must be equal to those in the file. If empty, settings are not compared.
    needed : sequence of str
        Keys that the record must contain.
    what : str
        Noun for the error message, such as "an ensemble".

    Raises
    ------
    InputError
        If the file cannot be read or lacks a key.
    RunError
        If the training was started with other settings.
    """
    try:
        record: JsonObject = json.loads(path.read_text(encoding="utf-8"))
        for name in needed:
            record[name]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"a {path.name} that can't be read ({type(error).__name__})",
            expected="a file written by a training",
            where=path.parent.name,
            todo="Train into another folder.",
            reason=Reason.UNREADABLE_FILE,
        ) from error
    for name, value in expected.items():
        if record.get(name) != value:
            raise RunError(
                f"{what} with {name} {_format(record.get(name))}",
                expected=_format(value),
                where=path.parent.name,
                todo="Resume with the original settings, or train into another folder.",
            )
    return record


def _format(value: object) -> str:
    return " and ".join(value) if isinstance(value, list) else str(value)
