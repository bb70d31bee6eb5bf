"""A delivery of images: DICOM, or other files whose exams are stated by names, a list or BIDS."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, Problem, Reason
from qmri_lake.image_files.formats import is_image_name
from qmri_lake.ingestion.bids import find_bids_files, is_bids
from qmri_lake.ingestion.file_pattern import FilePattern
from qmri_lake.ingestion.image_inventory import ImageOptions, take_image_inventory
from qmri_lake.ingestion.named_dicom import take_named_inventory
from qmri_lake.ingestion.named_files import NamedFiles, find_by_pattern, read_list
from qmri_lake.lake.study_ids import PatientNumbers
from qmri_lake.masks.content import Form
from qmri_lake.oai.table_names import find_tables
from qmri_lake.schema.groups import GROUPS

if TYPE_CHECKING:
    from qmri_lake.ingestion.delivered import DeliveredSeries
    from qmri_lake.oai.repeats import Repeat
    from qmri_lake.store.snapshot import Snapshot

__all__ = ["Delivery", "Found"]

Progress = Callable[[int, str], None]


@dataclass(frozen=True, slots=True)
class Found:
    """Content of a delivery."""

    series: tuple[DeliveredSeries, ...]
    problems: tuple[Problem, ...]
    repeats: tuple[Repeat, ...] = ()
    ignored: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    study_ids: Mapping[int, str] = field(default_factory=dict)
    """Identifiers of patients whose number does not state them, by number."""
    dates: Mapping[tuple[int, int], str] = field(default_factory=dict)
    """Study date of each patient and timepoint, of DICOM series."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What to ingest, and how; see `qmri_lake.ingestion.images.ingest`."""

    source: str | os.PathLike[str]
    patient: int | str | None = None
    timepoint: int | None = None
    knee: str | None = None
    group: str | None = None
    series: str | Iterable[str] | None = None
    pattern: str | None = None
    files: str | os.PathLike[str] | None = None
    bids: bool | None = None
    visits: Mapping[str, int] | None = None
    form: Form | None = None
    any_position: bool = False

    @property
    def is_named(self) -> bool:
        """Whether exams are stated by names, a list or BIDS, and the files are not DICOM."""
        return self.pattern is not None or self.files is not None or self._is_bids

    @property
    def _is_bids(self) -> bool:
        if self.pattern is not None or self.files is not None:
            return False
        return self.bids if self.bids is not None else is_bids(self.source)

    def check(self) -> None:
        """Raise an error if options contradict each other.

        Raises
        ------
        InputError
            With the option that has no effect or an invalid value.
        """
        given = [
            name
            for name, value in (
                ("pattern", self.pattern),
                ("list", self.files),
                ("bids", self.bids),
            )
            if value not in (None, False)
        ]
        if len(given) > 1:
            raise _invalid(f"--{given[0]} and --{given[1]}", "one of them", "Omit one.")
        if self.form not in (None, *get_args(Form)):
            raise _invalid(f"form = {self.form!r}", "sform or qform", "Correct it.")
        if self.files is not None and (
            unused := [n for n in ("patient", "timepoint", "knee") if getattr(self, n) is not None]
        ):
            raise _invalid(f"--{unused[0]} with a list", "the columns of the list", "Omit it.")
        if self._is_bids and self.patient is not None:
            raise _invalid("--patient with a BIDS folder", "the label of sub", "Omit it.")
        if self.is_named and self.series is not None:
            raise _invalid("--series without DICOM", "a narrower pattern", "Omit --series.")
        if not self.is_named and (self.form or self.visits or self.any_position):
            raise _invalid(
                "an option for image files, and neither --pattern, --list nor a BIDS folder",
                "DICOM without --form, --visit and --any-position",
                "Give --pattern, or omit it.",
            )

    def take_inventory(self, lake: Snapshot | None, progress: Progress | None) -> Found:
        """Read all headers, but no values.

        Parameters
        ----------
        lake : Snapshot or None
            Lake whose patients are known; None for a new lake.
        progress : callable, optional
            Called with the number of files or scans read, and the folder.

        Raises
        ------
        InputError
            If nothing matches, or if an option has an invalid value.
        """
        numbers = PatientNumbers(lake)
        if not self.is_named:
            return self._dicom(numbers, progress)
        named = self._named_files()
        folders = [file for file in named.files if Path(file.path).is_dir()]
        named.files = [file for file in named.files if not Path(file.path).is_dir()]
        dicom = take_named_inventory(folders, numbers, self.group, progress)
        options = ImageOptions(
            self.group,
            self.form,
            self.any_position,
            os.fspath(self.source) if self._is_bids else "",
        )
        found = take_image_inventory(named, numbers, options, progress)
        return Found(
            (*dicom.series, *found.series),
            (*dicom.problems, *found.problems),
            tuple(dicom.repeats),
            {**found.ignored, **dicom.ignored},
            (*dicom.notes, *found.notes),
            found.study_ids | dicom.study_ids,
        )

    def _named_files(self) -> NamedFiles:
        if self.files is not None:
            return read_list(self.files, self.source)
        if self.pattern is None:
            return find_bids_files(
                self.source,
                timepoint=self.timepoint,
                knee=self.knee,
                group=self.group,
                visits=self.visits,
            )
        pattern = FilePattern(self.pattern, self.visits)
        if self.group is not None and "group" in pattern.placeholders:
            raise _invalid("{group} in the pattern, and --group", "one of them", "Omit --group.")
        is_dicom = pattern.text.endswith("/")  # whose headers state the kind of series
        if self.group is None and "group" not in pattern.placeholders and not is_dicom:
            groups = " or ".join(GROUPS.series())
            raise _invalid(
                f"no group for the pattern {self.pattern!r}",
                f"one of {groups}",
                "Give --group, or {group} in the pattern.",
            )
        return find_by_pattern(
            self.source,
            pattern,
            patient=self.patient,
            timepoint=self.timepoint,
            knee=self.knee,
        )

    def _dicom(self, numbers: PatientNumbers, progress: Progress | None) -> Found:
        from qmri_lake.oai.inventory import inventory

        number, study_ids = self.patient, dict[int, str]()
        if isinstance(number, str):
            text = number.strip()
            found = numbers.add([text])[text]
            if isinstance(found, InputError):
                raise found
            number = found
            study_ids = {found: study_id} if (study_id := numbers.study_id(text)) else {}
        taken = inventory(
            self.source,
            patient=number,
            timepoint=self.timepoint,
            knee=self.knee,
            group=self.group,
            series=self.series,
            progress=progress,
        )
        if not (taken.series or taken.problems or find_tables(Path(self.source)).known):
            self._refuse_unnamed()
        return Found(
            taken.series,
            taken.problems,
            taken.repeats,
            taken.ignored,
            taken.notes,
            study_ids,
            {(s.patient, s.timepoint): s.scan_order[0] for s in taken.series},
        )

    def _refuse_unnamed(self) -> None:
        """Raise an error that names `--pattern` if a folder without DICOM has image files."""
        root = Path(self.source)
        if not root.is_dir():
            names = [root.name] if is_image_name(root.name) else []
        else:
            found = (path for path in root.rglob("*") if is_image_name(path.name))
            names = sorted(path.relative_to(root).as_posix() for path in found)
        if names:
            shown = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
            raise InputError(
                f"no DICOM series, and {counted(len(names), 'image file')}: {shown}",
                expected="a pattern that says whose images they are",
                where=os.fspath(self.source),
                todo="Give --pattern '{patient}_{timepoint}m_{knee}_dess.nii.gz' and --group, or "
                "--list FILES.csv.",
                reason=Reason.ABSENT_PATIENT,
            )


def _invalid(found: str, expected: str, todo: str) -> InputError:
    return InputError(
        found, expected=expected, where="ingest", todo=todo, reason=Reason.UNREADABLE_VALUE
    )
