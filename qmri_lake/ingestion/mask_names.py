"""Mask files of a folder, and what their names, a pattern or a list says about their exams."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from qmri_lake.errors import InputError, Problem, RunError
from qmri_lake.ingestion.file_pattern import FilePattern
from qmri_lake.ingestion.named_files import (
    NamedFile,
    NamedFiles,
    find_by_pattern,
    read_list,
)
from qmri_lake.lake.lake import Lake
from qmri_lake.lake.study_ids import PatientNumbers
from qmri_lake.masks.exam_match import PartialKey, read_partial_key
from qmri_lake.masks.recognition import find_mask_files

__all__ = ["MaskFiles", "find_files"]

_GROUPS = ("", "dess")
"""Kinds of series whose files can be masks: they lie on the grid of the DESS image."""


ReadKey = Callable[[], PartialKey]
"""Returns what is known of an exam, or raises an `InputError`."""


@dataclass(slots=True)
class MaskFiles:
    """Mask files with their exams, problems, and other files of the folder."""

    unnamed: list[tuple[str, str, ReadKey]] = field(default_factory=list)
    """Path, path relative to the folder, and what the name says about the exam."""
    named: list[NamedFile] = field(default_factory=list)
    """Files whose exam a pattern or a list states."""
    problems: list[Problem] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """Names of files that are no masks."""
    study_id: str = ""
    """Identifier of the patient of the unnamed files, if an option states one."""

    def __len__(self) -> int:
        return len(self.unnamed) + len(self.named)

    def with_keys(self, lake: Lake | None) -> Iterator[tuple[str, str, ReadKey, str]]:
        """Yield path, relative path, a function that returns the key, and the study identifier.

        The identifier is "" if the patient number says the same. `lake` is None for a new lake.
        """
        for path, where, read_key in self.unnamed:
            yield path, where, read_key, self.study_id
        numbers = PatientNumbers(lake)
        known = numbers.add(item.patient for item in self.named)
        for item in self.named:
            read_key = partial(_key_of, item, known[item.patient])
            yield item.path, item.where, read_key, numbers.study_id(item.patient)


def find_files(
    source: str | os.PathLike[str],
    options: PartialKey,
    timepoint: int | None,
    pattern: str | None,
    files: str | os.PathLike[str] | None,
    visits: Mapping[str, int] | None,
    study_id: str = "",
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
    pattern, files : optional
        Pattern of the paths, or CSV list of the files. By default, names are read as by
        `qmri_lake.masks.exam_match.read_partial_key`.
    visits : mapping of str to int, optional
        Months by the name of a visit, for ``{visit}`` in the pattern.
    study_id : str
        Identifier of the patient of `options`; "" if the number says the same.

    Raises
    ------
    InputError
        If there is no mask file, or if the pattern or list is invalid.
    RunError
        If options contradict one another.
    """
    if pattern is not None and files is not None:
        raise RunError("both a pattern and a list", expected="one of them", where="ingest_masks")
    if files is not None:
        if options != PartialKey():
            raise RunError(
                "a list and a patient, timepoint or knee",
                expected="a list that states all three",
                where="ingest_masks",
                todo="Add the columns to the list, and omit the options.",
            )
        return _of_named(read_list(files, source))
    if pattern is not None:
        parsed = FilePattern(pattern, visits)
        visit = options.timepoint
        if visit is None and "timepoint" not in parsed.keys:
            visit = timepoint
        found = find_by_pattern(
            source,
            parsed,
            patient=study_id or options.patient,
            timepoint=visit,
            knee=options.knee,
        )
        return _of_named(found)
    paths, others = find_mask_files(source)
    return MaskFiles(
        [
            (path, where, partial(read_partial_key, where, options, timepoint=timepoint))
            for path, where in paths
        ],
        others=others,
        study_id=study_id,
    )


def _of_named(found: NamedFiles) -> MaskFiles:
    masks = [item for item in found.files if item.group in _GROUPS]
    others = [item.where for item in found.files if item.group not in _GROUPS]
    return MaskFiles([], masks, list(found.problems), [*found.unmatched, *others])


def _key_of(item: NamedFile, number: int | InputError) -> PartialKey:
    if isinstance(number, InputError):
        raise InputError(
            number.found,
            expected=number.expected,
            where=item.where,
            todo=number.todo,
            reason=number.reason,
        )
    return PartialKey(number, item.timepoint, item.knee)
