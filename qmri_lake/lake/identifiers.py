"""Places where a lake, model folders and catalogs store what can identify a patient.

Texts are classified by patterns, and searched for the patient numbers of the lake. Values are
counted and never returned.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from qmri_lake.core.json_types import JsonMapping
from qmri_lake.errors import NotFoundError, printable
from qmri_lake.execution.step import load_steps
from qmri_lake.lake.deidentification import clean_parameters, message_code
from qmri_lake.lake.history import list_commits
from qmri_lake.lake.study_ids import read_study_ids
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.privacy import Privacy
from qmri_lake.schema.variable import Variable
from qmri_lake.store.lake_properties import PROPERTIES, read_properties
from qmri_lake.store.location import OWNER_NAME
from qmri_lake.store.lock import lock_owner
from qmri_lake.store.runs import LEARNED_FROM, read_runs
from qmri_lake.store.status import read_messages, status_steps
from qmri_lake.store.transaction import KEY_VARIABLES

if TYPE_CHECKING:
    from qmri_lake.store.snapshot import Snapshot

__all__ = ["find_identifiers"]

HOST, PATH, COMMITS = "host name", "path", "earlier values"

_PURPOSES = {
    HOST: "names the process that writes, for other writers",
    PATH: "finds a file again",
    COMMITS: "earlier versions of the lake, with values that have been replaced since then",
}
_KEY = re.compile(r"\b\d{7,10}-\d{3}m-(?:left|right)\b")
_NUMBER = re.compile(r"\d+")
_WORD = re.compile(r"[^\W_]+")
_SHORTEST_ID = 4
"""Smallest number of characters of an identifier of the study that is searched in texts."""
_UID = re.compile(r"\b[0-2](?:\.\d+){5,}\b|\b2\.25\.\d{20,39}\b")
_DATE = re.compile(
    r"\b(?:19|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])(?!\d)"
    r"|\b(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\b"
)
_PATH = re.compile(r"(?:^|[\s\"'=(])(?:~|\.{1,2})?/[^\s/]+/|[A-Za-z]:[\\/]|\w+://|\\\\\w+\\")
_TEXT_FILES = (".json", ".csv", ".txt", ".log", ".yaml", ".yml", ".md", ".html", ".tsv")
_RUN = {
    "step",
    "parameters",
    "code",
    "version",
    "snapshot",
    "started",
    "finished",
    "process",
    "exams",
    "counts",
    LEARNED_FROM,
}
"""Entries of the record of a run that the package writes."""
_LARGEST_FILE = 2**26
"""Size [bytes] up to which a file of a model folder is read."""


@dataclass(frozen=True)
class _Scanner:
    """Find kinds of identifiers in texts."""

    patients: Collection[int]
    hosts: Collection[str]
    study_ids: Collection[str] = ()

    @cached_property
    def _words(self) -> dict[int, set[tuple[str, ...]]]:
        """Identifiers of the study that occur in texts by no chance, by their number of words."""
        found: dict[int, set[tuple[str, ...]]] = {}
        for text in self.study_ids:
            words = tuple(_WORD.findall(text))
            if len(text) >= _SHORTEST_ID and any(map(str.isdigit, text)):
                found.setdefault(len(words), set()).add(words)
        return found

    def _names_patient(self, text: str) -> bool:
        words = _WORD.findall(text) if self._words else []
        return any(
            tuple(words[start : start + length]) in known
            for length, known in self._words.items()
            for start in range(len(words) - length + 1)
        )

    def kinds(self, text: str) -> set[str]:
        """Return the kinds of identifiers in a text; empty if no pattern matches."""
        found: set[str] = set()
        without_keys = _KEY.sub(" ", text)
        if without_keys != text:
            found.add(Privacy.EXAM)
        if any(
            int(word) in self.patients for word in _NUMBER.findall(without_keys) if len(word) <= 12
        ):
            found.add(Privacy.PATIENT)
        if self._names_patient(text):
            found.add(Privacy.PATIENT)
        if _UID.search(text):
            found.add(Privacy.UID)
        if _DATE.search(text):
            found.add(Privacy.DATE)
        if _PATH.search(text):
            found.add(PATH)
        if any(host in text for host in self.hosts):
            found.add(HOST)
        return found

    def masked(self, name: str) -> str:
        """Return the name of a place with its patient numbers replaced."""
        return printable(
            _NUMBER.sub(lambda m: "#" if len(m[0]) > 5 else m[0], name)
            if self.kinds(name) & {Privacy.PATIENT, Privacy.EXAM, Privacy.UID, Privacy.DATE}
            else name
        )


class _Places:
    """Rows of the table."""

    def __init__(self, scanner: _Scanner) -> None:
        self.scanner = scanner
        self.rows: dict[tuple[str, str], tuple[int, str]] = {}

    def add(self, place: str, kind: str, count: int, purpose: str = "") -> None:
        """Add values of a kind."""
        if count:
            where = self.scanner.masked(place)
            before = self.rows.get((where, str(kind)), (0, ""))[0]
            why = purpose or _PURPOSES.get(kind, "") or Privacy(kind).purpose
            self.rows[where, str(kind)] = (before + count, why)

    def add_texts(self, place: str, texts: Iterable[str], purpose: str, *, free: bool) -> None:
        """Add the identifiers in texts; if `free`, each other text counts as free text."""
        counts: Counter[str] = Counter()
        for text in texts:
            if not text:
                continue
            kinds = self.scanner.kinds(text)
            counts.update(kinds or ({str(Privacy.TEXT)} if free else ()))
        for kind, count in sorted(counts.items()):
            self.add(place, kind, count, purpose)

    def table(self) -> pd.DataFrame:
        """Return the table."""
        rows = [(place, kind, count, why) for (place, kind), (count, why) in self.rows.items()]
        return pd.DataFrame(rows, columns=["place", "kind", "count", "needed for"])


def find_identifiers(
    lake: Snapshot,
    models: Sequence[str | os.PathLike[str]] = (),
    catalogs: Sequence[str | os.PathLike[str]] = (),
) -> pd.DataFrame:
    """List the places of a lake that store identifiers; see `Lake.identifiers`."""
    load_steps()
    owner = lock_owner(lake.location)
    hosts = {socket.gethostname(), *([owner["host"]] if owner else [])} - {"", "localhost"}
    study_ids = {*read_study_ids(lake.root).values()}
    places = _Places(_Scanner(lake.all_patients(), hosts, study_ids))
    _arrays(lake, places)
    _records(lake, places)
    _attributes(lake, places)
    _history(lake, places)
    if owner is not None:
        places.add(OWNER_NAME, HOST, 1)
    for folder in models:
        _model_files(Path(folder), places)
    for file in catalogs:
        path = Path(file)
        if not path.is_file():
            raise NotFoundError("no such file", expected="a catalog", where=str(file))
        places.add_texts(
            path.name, _lines(path), "finds the lake; a relative path is shared with it", free=False
        )
    return places.table()


def _arrays(lake: Snapshot, places: _Places) -> None:
    """Add the arrays by their declared kind, with the number of values that are not empty."""
    for variable in KEY_VARIABLES:
        kind = variable.privacy_kind
        if kind.identifies:
            places.add(variable.name, kind, len(lake))
    for path, variable in sorted(lake.variables().items()):
        kind = REGISTRY.privacy_of(variable)
        if kind.identifies:
            values = lake.root[path][...]
            missing = (values == variable.fill) | (values != values)
            places.add(path, kind, int((~missing).sum()))


def _records(lake: Snapshot, places: _Places) -> None:
    """Add messages of statuses, records of runs, and the lineage of a derived lake."""
    for step in status_steps(lake.root):
        messages = [str(text) for text in read_messages(lake.root, step)]
        free = [text for text in messages if text != message_code(text)]
        why = "says why an exam failed, was skipped or flagged"
        places.add_texts(f"status/{step}/message", free, why, free=True)
    known = {*lake.variables(), *lake.groups()}
    runs = read_runs(lake.root).values()
    learned = sum(
        len(record[LEARNED_FROM]["patients"]) for record in runs if LEARNED_FROM in record
    )
    why = "finds test patients who were used to train the networks that made their masks"
    places.add("status/runs", Privacy.PATIENT, learned, why)
    texts = [t for record in runs for t in _run_texts(record)]
    why = "detects stale results, and documents them"
    places.add_texts("status/runs", (t for t in texts if t not in known), why, free=True)
    origin = read_properties(lake.root).get("origin")
    if origin is not None:
        why = "documents the source and the selection of a derived lake"
        places.add_texts("origin of the lake", _texts(origin), why, free=False)


def _run_texts(record: JsonMapping) -> Iterator[str]:
    """Yield the texts of a run that neither the package nor the declaration of a step contains."""
    parameters = record.get("parameters", {})
    declared = {*_texts(clean_parameters(str(record.get("step", "")), parameters))}
    for value in dict(parameters).values():
        yield from (text for text in _texts(value) if text not in declared)
    for name, value in record.items():
        if name not in _RUN:
            yield from (name, *_texts(value))


def _texts(value: object) -> Iterator[str]:
    """Yield all texts of JSON, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _attributes(lake: Snapshot, places: _Places) -> None:
    """Add attributes of the lake, its groups and arrays that no declaration explains."""
    root = lake.root
    why = "note of a user or a program"
    own = {PROPERTIES, "coordinates", "deidentification", "restored", "sizes"}
    others = [value for name, value in root.attrs.items() if name not in own]
    places.add_texts("attributes of the lake", _texts(others), why, free=True)
    for group in lake.groups():
        noted = [value for name, value in root[group].attrs.items() if name not in own]
        places.add_texts(f"attributes of {group}", _texts(noted), why, free=True)
        for name, array in root[group].arrays():
            known = Variable.from_array(group, name, array).attributes()
            extra = [value for n, value in array.attrs.items() if n not in known]
            place = f"attributes of {group}/{name}"
            places.add_texts(place, _texts(extra), why, free=True)
            declared = "describes the values"
            places.add_texts(place, _texts([*known.values()]), declared, free=False)


def _history(lake: Snapshot, places: _Places) -> None:
    """Add messages of commits, names of tags, and the number of earlier commits."""
    commits = list_commits(lake, None)
    places.add_texts("commit messages", commits["message"], "lists what was done", free=False)
    places.add_texts("names of tags", lake.repo.list_tags(), "names a version", free=False)
    places.add("earlier commits", COMMITS, len(commits) - 1)


def _model_files(folder: Path, places: _Places) -> None:
    """Add the text files of a model folder, at any depth."""
    if not folder.is_dir():
        raise NotFoundError("no such folder", expected="a folder of models", where=str(folder))
    for file in sorted(folder.rglob("*")):
        if file.suffix not in _TEXT_FILES or not file.is_file():
            continue
        if file.stat().st_size > _LARGEST_FILE:
            places.add(f"{folder.name}/{file.relative_to(folder)}", Privacy.TEXT, 1, "not read")
            continue
        why = {
            "split.json": "keeps test patients out of the training, also when it is resumed",
            "split.csv": "Table S1: counts of the sets",
            "card.json": "documents the training data, so that evaluation can exclude it",
        }.get(file.name, "documents the training")
        place = f"{folder.name}/{file.relative_to(folder).as_posix()}"
        places.add_texts(place, _lines(file), why, free=False)


def _lines(file: Path) -> list[str]:
    """Return the texts of a file: the strings of JSON, or the lines of another file."""
    text = file.read_text(encoding="utf-8", errors="replace")
    if file.suffix == ".json":
        try:
            return list(_texts(json.loads(text)))
        except ValueError:
            pass
    return text.splitlines()
