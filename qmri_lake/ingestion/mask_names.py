"""Mask files of a folder, and what their names, a pattern or a list says about their exams."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from qmri_lake.errors import InputError, Problem, Reason, RunError
from qmri_lake.ingestion.file_pattern import FilePattern
from qmri_lake.ingestion.named_files import (
    NamedFile,
    NamedFiles,
    find_by_pattern,
    patient_number,
    read_list,
)
from qmri_lake.masks.exam_match import PartialKey, read_partial_key
from qmri_lake.masks.recognition import find_mask_files

__all__ = ["MaskFiles", "find_files"]

_GROUPS = ("", "dess")
"""Kinds of series whose files can be masks: they lie on the grid of the DESS image."""


@dataclass(slots=True)
class MaskFiles:
    """Mask files with their exams, problems, and other files of the folder."""

    files: list[tuple[str, str, Callable[[], PartialKey]]] = field(default_factory=list)
    """Path, path relative to the folder, and a function that returns what is known of the exam."""
    problems: list[Problem] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """Names of files that are no masks."""


def find_files(
    source: str | os.PathLike[str],
    options: PartialKey,
    timepoint: int | None,
    pattern: str | None,
    listing: str | os.PathLike[str] | None,
) -> MaskFiles:
    """Find the mask files of a folder.

    Parameters
    ----------
    source : path
        A file, or a folder that is searched recursively.
    options : PartialKey
        Parts of the exam that hold for all files.
    timepoint : int or None
        Visit of all masks of the source of labels, if there is only one.
    pattern, listing : optional
        Pattern of the paths, or CSV list of the files. By default, names are read as by
        `qmri_lake.masks.exam_match.read_partial_key`.

    Raises
    ------
    InputError
        If there is no mask file, or if the pattern or list is invalid.
    RunError
        If options contradict one another.
    """
    if pattern is not None and listing is not None:
        raise RunError("both a pattern and a list", expected="one of them", where="ingest_masks")
    if listing is not None:
        if options != PartialKey():
            raise RunError(
                "a list and a patient, timepoint or knee",
                expected="a list that states all three",
                where="ingest_masks",
                todo="Add the columns to the list, and omit the options.",
            )
        return _of_named(read_list(listing, source))
    if pattern is not None:
        parsed = FilePattern(pattern)
        visit = options.timepoint
        if visit is None and "timepoint" not in parsed.keys:
            visit = timepoint
        found = find_by_pattern(
            source, parsed, patient=options.patient, timepoint=visit, knee=options.knee
        )
        return _of_named(found)
    paths, others = find_mask_files(source)
    return MaskFiles(
        [
            (path, where, partial(read_partial_key, where, options, timepoint=timepoint))
            for path, where in paths
        ],
        [],
        others,
    )


def _of_named(found: NamedFiles) -> MaskFiles:
    masks = [item for item in found.files if item.group in _GROUPS]
    others = [item.where for item in found.files if item.group not in _GROUPS]
    return MaskFiles(
        [(item.path, item.where, partial(_key_of, item)) for item in masks],
        list(found.problems),
        [*found.unmatched, *others],
    )


def _key_of(item: NamedFile) -> PartialKey:
    number = patient_number(item.patient)
    if number is None:
        raise InputError(
            f"patient {item.patient!r}",
            expected="a patient number of the lake",
            where=item.where,
            todo="Give the number of the patient in a list.",
            reason=Reason.ABSENT_PATIENT,
        )
    return PartialKey(number, item.timepoint, item.knee)
