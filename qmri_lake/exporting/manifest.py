"""The manifest of an export: a line for each finished exam, with the digests of its files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qmri_lake.core.atomic_write import atomic_write_text
from qmri_lake.core.digest import sha256_of
from qmri_lake.core.json_types import JsonObject
from qmri_lake.errors import InputError, Reason, RunError

__all__ = ["Manifest", "digest_of", "is_intact", "manifest_name", "refuse_foreign", "remove_files"]


def manifest_name(form: str) -> str:
    """Return the file name of the manifest of a format."""
    return f"manifest.{form}.jsonl"


@dataclass
class Manifest:
    """Records of finished exams in a folder of exports.

    The first line is the request: format, variables and names. The others are the records of exams,
    of which the last counts. A line that a killed process left unfinished is dropped, so that its
    exam is exported again.
    """

    path: Path
    records: dict[str, JsonObject]
    """Last record of each exam, by its key."""

    @classmethod
    def open(cls, out: Path, form: str, request: JsonObject) -> Manifest:
        """Open the manifest of a folder, or begin one.

        Raises
        ------
        RunError
            If the folder has an export of other variables or names.
        """
        path = out / manifest_name(form)
        if not path.exists():
            atomic_write_text(path, json.dumps({"request": request}) + "\n")
            return cls(path, {})
        lines = path.read_bytes().split(b"\n")
        whole = [json.loads(line) for line in lines[:-1]]  # after the last newline: unfinished
        if lines[-1]:
            atomic_write_text(path, "".join(json.dumps(line) + "\n" for line in whole))
        begun = whole[0].get("request") if whole else None
        if begun != request:
            changed = [n for n in request if not begun or begun.get(n) != request[n]]
            raise RunError(
                f"the folder has an export with other {' and '.join(changed) or 'options'}",
                expected="the same variables and pattern, to go on with it, or a new folder",
                where=str(out),
                todo="Export into another folder.",
            )
        return cls(path, {record["exam"]: record for record in whole[1:]})

    def add(self, record: JsonObject) -> None:
        """Append the record of a finished exam."""
        with open(self.path, "ab") as stream:
            stream.write(json.dumps(record).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.records[record["exam"]] = record


def refuse_foreign(out: Path) -> None:
    """Raise an error if a folder has files that no export wrote.

    Raises
    ------
    InputError
        An export never replaces files of others.
    """
    if out.exists() and not out.is_dir():
        found = "a file"
    elif (
        out.is_dir()
        and any(not path.name.endswith(".lock") for path in out.iterdir())
        and not any(out.glob("manifest.*.jsonl"))
    ):
        found = "a folder with other files"
    else:
        return
    raise InputError(
        found,
        expected="a new or empty folder, or the folder of an earlier export",
        where=str(out),
        todo="Choose another folder: an export never replaces files of others.",
        reason=Reason.UNREADABLE_VALUE,
    )


def digest_of(path: Path) -> JsonObject:
    """Return size and SHA-256 of a file, or of all files in a folder with their names."""
    if not path.is_dir():
        return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    total, size = hashlib.sha256(), 0
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        total.update(f"{file.relative_to(path).as_posix()}\0{sha256_of(file)}\n".encode())
        size += file.stat().st_size
    return {"bytes": size, "sha256": total.hexdigest()}


def is_intact(out: Path, files: Mapping[str, JsonObject]) -> bool:
    """Return whether all files exist with the recorded sizes and digests."""
    return all((out / name).exists() for name in files) and all(
        digest_of(out / name) == wanted for name, wanted in files.items()
    )


def remove_files(out: Path, names: Iterable[str]) -> None:
    """Remove files or folders of an earlier record that the new record does not have."""
    for name in names:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
