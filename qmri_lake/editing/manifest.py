"""The manifest of an export for editing: the exams, and the masks that were exported."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.atomic_write import atomic_write_text
from qmri_lake.editing.edit_files import Program
from qmri_lake.errors import InputError, Reason

__all__ = ["MANIFEST", "ExportedExam", "Manifest", "digest_of", "read_manifest", "write_manifest"]

MANIFEST = "manifest.json"
"""Name of the manifest in the folder of an export."""

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ExportedExam:
    """The exported masks of one exam."""

    exam: str
    image: str
    """Name of the file of the image; "" if the exam has none."""
    files: Mapping[str, str]
    """Name of the file of each kind of mask."""
    runs: Mapping[str, int]
    """Run that wrote the mask of each kind."""
    digests: Mapping[str, str]
    """SHA-256 of the labels of each kind, as in the lake."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was exported, and from which commit of which lake."""

    lake: str
    """Name of the lake, without its folder."""
    snapshot: str
    """Commit that was exported."""
    program: Program
    masks: str
    """``mask`` or ``reference``."""
    variant: str
    """Variant of the exported masks; "" for none."""
    exams: tuple[ExportedExam, ...]


def digest_of(labels: NDArray[np.uint8]) -> str:
    """Return the SHA-256 of a label map: its shape and its values in C order."""
    content = hashlib.sha256(repr(labels.shape).encode())
    content.update(np.ascontiguousarray(labels).tobytes())
    return content.hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into the folder of an export."""
    content = {"format": _FORMAT, **asdict(manifest)}
    atomic_write_text(folder / MANIFEST, json.dumps(content, indent=1) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of an export.

    Raises
    ------
    InputError
        If there is none, or if it cannot be read or names files elsewhere (``unreadable_file``).
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(
            f"no {MANIFEST}",
            expected="the folder that `qmri-lake export-for-editing` has written",
            where=str(folder),
            todo="Keep the manifest with the files.",
            reason=Reason.UNREADABLE_FILE,
        )
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = content.pop("format")
        exams = tuple(ExportedExam(**exam) for exam in content.pop("exams"))
        manifest = Manifest(**content, exams=exams)
        names = [name for exam in exams for name in exam.files.values()]
        sound = version == _FORMAT and manifest.program in get_args(Program)
        sound &= all(Path(name).name == name for name in names)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _unreadable(path, type(error).__name__) from error
    if not sound:
        raise _unreadable(path, f"format {version}, or file names with folders")
    return manifest


def _unreadable(path: Path, found: str) -> InputError:
    return InputError(
        f"unreadable manifest ({found})",
        expected=f"a manifest of format {_FORMAT}",
        where=str(path),
        todo="Export again, or restore the manifest.",
        reason=Reason.UNREADABLE_FILE,
    )
