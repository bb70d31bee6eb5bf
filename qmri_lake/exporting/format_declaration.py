"""The declaration of a format: what it holds, what it loses, and the function that writes it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias

from qmri_lake.core.json_types import JsonObject
from qmri_lake.errors import RunError
from qmri_lake.exporting.exam_content import ExamContent, is_volume
from qmri_lake.lake.cohort import Cohort
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.groups import GROUPS
from qmri_lake.schema.privacy import Privacy
from qmri_lake.schema.variable import Variable

__all__ = [
    "NAMED_ONLY",
    "Each",
    "Finished",
    "Format",
    "TableWriter",
    "Writer",
    "Written",
    "refuse_other_than_volumes",
]


NAMED_ONLY = (Privacy.UID, Privacy.TEXT, Privacy.DATE, Privacy.PATIENT)
"""Kinds of values that can identify a person, and are exported only if a variable is named."""


class Each(StrEnum):
    """Which values one file contains; the files of a format are named after it."""

    VARIABLE = "variable"
    """One variable of one exam."""
    GROUP = "group"
    """The variables of one group of one exam."""
    EXAM = "exam"
    """All variables of one exam."""


@dataclass(slots=True)
class Written:
    """Files that a writer made for one exam, and what they don't contain."""

    files: list[Path] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    """What this exam lost, in words that do not depend on the exam: they are counted."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Reasons why variables were not written, by path."""


@dataclass(frozen=True, slots=True)
class Finished:
    """What a format may need to write files that concern all exams."""

    out: Path
    exams: Sequence[str]
    """Keys of the exams of the export that have files."""
    patients: Sequence[int]
    timepoints: Sequence[int]
    synthetic: Sequence[bool]
    about: JsonObject
    """The lake, its snapshot and the version of this package."""


Writer: TypeAlias = Callable[[ExamContent, Sequence[str], Path], Written]
"""Function that writes variables of an exam: ``writer(content, paths, stem)``. `stem` is the path
of the file without its suffix; its folder exists."""


TableWriter: TypeAlias = Callable[
    [Cohort, Mapping[str, Variable], Path, str, JsonObject], list[Path]
]
"""Function that writes all exams: ``writer(cohort, variables, folder, suffix, about)``."""


def refuse_other_than_volumes(variable: Variable) -> str:
    """Return why a format of images cannot hold a variable; "" if it can."""
    if not is_volume(variable):
        return "is no volume"
    if len(variable.dims) > 4:
        return f"has {len(variable.dims)} dimensions; at most 4 fit"
    if variable.dtype == "string":
        return "has texts"
    return ""


@dataclass(frozen=True)
class Format:
    """A format of an export."""

    name: str
    suffix: str
    """Suffix of the main file."""
    each: Each
    content: str
    """What a file contains, for the documentation."""
    loses: str
    """What the format cannot hold, for the documentation."""
    readers: str
    """Programs that read it, for the documentation."""
    refuse: Callable[[Variable], str]
    """Return why the format cannot hold a variable, as in "is no volume"; "" if it can."""
    writer: Writer | None
    pattern: str = "{exam}/{exam}_{group}_{variable}"
    """Default name of a file, without its suffix."""
    memory_factor: float = 3.0
    """Memory of a task, as a multiple of the arrays that it holds at the same time."""
    together: bool = False
    """Whether the variables of a file are in memory together, and not one after another."""
    package: tuple[str, str] | None = None
    """Package that the writer imports, and the extra that installs it."""
    finish: Callable[[Finished], list[Path]] | None = None
    """Write the files that concern all exams."""
    fixed_names: bool = False
    """Whether the format prescribes the names of files, so that a pattern is an error."""
    write_all: TableWriter | None = None
    """Write all exams at once instead of one file for each, in batches: tables."""

    def check_package(self) -> None:
        """Raise `RunError` if the package that the writer needs is not installed."""
        if self.package is None or importlib.util.find_spec(self.package[0]) is not None:
            return
        name, extra = self.package
        raise RunError(
            f"no {name}",
            expected=f"the packages of the extra `{extra}`",
            where=f"export {self.name}",
            todo=f"Install the extra: pip install 'qmri-lake[{extra}]'.",
        )

    def by_default(self, variable: Variable) -> bool:
        """Return whether a variable is exported if the user names none.

        UIDs, texts, dates and, except in tables, clinical values are exported only if named.
        """
        if self.write_all is not None:
            # Tables are exported for their clinical values. Own columns need their name.
            with_arrays = variable.group in GROUPS.series() or any(
                other.bulk for other in REGISTRY.group(variable.group)
            )
            return (
                not self.refuse(variable)
                and not with_arrays
                and variable.first_axis == "exam"
                and variable.privacy_kind not in (*NAMED_ONLY, Privacy.OWN)
            )
        return (
            not self.refuse(variable)
            and variable.group not in ("clinical", "visit")
            and variable.privacy_kind in (Privacy.MEASUREMENT, Privacy.WORD)
        )
