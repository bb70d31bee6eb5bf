"""Data of a patient outside a lake: derived lakes, and models trained with the patient's exams."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from qmri_lake.core.model_folder import CARD
from qmri_lake.core.patient_traces import PatientTraces
from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.lake.lineage import origin_of
from qmri_lake.store.exam_removal import find_patient
from qmri_lake.store.repository import open_repository
from qmri_lake.store.snapshot import Snapshot

__all__ = ["Copy", "find_in_lakes", "find_in_models"]

_LISTS = ("split.json", "split.csv", "training.json", CARD)
"""Files of a model's folder that may list exams."""
_TEST = "test"


@dataclass(frozen=True, slots=True)
class Copy:
    """A derived lake or a model folder, and the data of a patient that it contains."""

    place: str
    found: str
    """Description of the patient's data in one phrase; empty if there is none."""
    todo: str = ""
    """What to do, as a sentence."""

    def __str__(self) -> str:
        return f"{self.place}: {self.found or 'nothing of the patient'}. {self.todo}".rstrip()


def find_in_lakes(urls: Sequence[str], traces: PatientTraces) -> Iterator[Copy]:
    """Look for a patient in derived lakes, which are not changed."""
    for url in urls:
        lake = Snapshot(url, open_repository(url), None, "r")
        present, origin = find_patient(lake.root, traces), origin_of(lake.root)
        parts = [counted(present.rows.size, "exam")] if present.rows.size else []
        parts += [counted(present.visits, "visit row")] if present.visits else []
        parts += [counted(present.mentions, "mention")] if present.mentions else []
        found = " and ".join(parts)
        if found and origin is not None:
            found += f" (derived from {origin.lake} at {origin.snapshot[:8]})"
        yield Copy(url, found, "Run `qmri-lake forget` on this lake too." if found else "")


def find_in_models(
    folders: Sequence[str | os.PathLike[str]], traces: PatientTraces
) -> Iterator[Copy]:
    """Look for a patient in the lists of exams of trained models, which are not changed.

    Raises
    ------
    NotFoundError
        If there is no such folder, or if it has no file that lists exams.
    InputError
        If a list cannot be read.
    """
    for folder in map(Path, folders):
        files = sorted(path for name in _LISTS for path in folder.rglob(name))
        if not files:
            raise NotFoundError(
                "not a model folder",
                expected=f"a folder with {', '.join(_LISTS[:-1])} or {CARD}",
                where=str(folder),
            )
        sets: Counter[str] = Counter()
        for path in files:
            for name in {name for name, text in _texts(path) if traces.in_text(text)}:
                sets[name] += 1
        listed = [path for path in files if path.name != CARD]
        if sets:
            yield _of_sets(str(folder), sets)
        elif listed:
            yield Copy(str(folder), "")
        else:
            yield Copy(
                str(folder),
                f"only {CARD}, which does not list exams",
                "Check with the author of the training whether the patient was included.",
            )


def _of_sets(folder: str, sets: Counter[str]) -> Copy:
    named = ", ".join(f"{name} ({n} times)" if n > 1 else name for name, n in sorted(sets.items()))
    if set(sets) == {_TEST}:
        todo = (
            "The weights did not learn from a test set. Remove the keys from the files, and "
            "evaluate again before you publish results."
        )
    else:
        todo = (
            "A trained model cannot unlearn a patient: stop using and sharing it, and train again "
            "without the patient. The files of the folder list the keys."
        )
    return Copy(folder, f"the patient is listed in {named}", todo)


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each text of a file with the name of its list, such as ``train``."""
    try:
        if path.suffix == ".csv":
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
            for name in table:
                yield from ((str(name), str(text)) for text in table[name])
        else:
            yield from _values(json.loads(path.read_text(encoding="utf-8")), path.name)
    except ValueError as error:
        raise InputError(
            f"cannot be read ({type(error).__name__})",
            expected="a file written by a training",
            where=str(path),
            reason=Reason.UNREADABLE_FILE,
        ) from error


def _values(value: object, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield name, str(key)
            yield from _values(item, str(key))
    elif isinstance(value, list):
        for item in value:
            yield from _values(item, name)
    else:
        yield name, str(value)
