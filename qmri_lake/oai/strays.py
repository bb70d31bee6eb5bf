"""Assignment of files that cannot be read as slices to the series of their folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.files import Entry, Files
from qmri_lake.oai.header import is_dicom
from qmri_lake.oai.slices import SliceNames, combine, is_document, is_slice_name, not_dicom
from qmri_lake.oai.walk import list_folder

__all__ = ["Strays", "list_series"]


class Strays:
    """Files of one folder that are not slices. Some may be damaged slices."""

    def __init__(self) -> None:
        self._damaged: list[tuple[Entry, InputError]] = []
        self._others: list[Entry] = []
        self._without_image: list[Entry] = []

    def damaged(self, entry: Entry, error: InputError) -> None:
        """Add a file that cannot be read."""
        self._damaged.append((entry, error))

    def without_image(self, entry: Entry) -> None:
        """Add a DICOM file without an image, such as a report."""
        self._without_image.append(entry)

    def other(self, entry: Entry) -> None:
        """Add a file that is not DICOM."""
        self._others.append(entry)

    def assign(
        self, series: Mapping[str, list[tuple[str, int]]]
    ) -> tuple[dict[str, InputError], list[InputError], Counter[str]]:
        """Return one error for each affected series, the other errors, and ignored files.

        Parameters
        ----------
        series : mapping of str to list of (str, int)
            Names and sizes of the slices of each series of the folder.
        """
        slices = {uid: SliceNames(files) for uid, files in series.items()}
        of_series: dict[str, list[InputError]] = {}
        loose: list[InputError] = []
        ignored: Counter[str] = Counter()

        def spoil(entry: Entry, fault: InputError) -> bool:
            owners = [uid for uid, names in slices.items() if names.include(entry)]
            same_size = [uid for uid in owners if slices[uid].has_size(entry.size)]
            for uid in same_size or owners:
                of_series.setdefault(uid, []).append(fault)
            return bool(owners)

        for entry, fault in self._damaged:
            if not spoil(entry, fault):
                if slices and fault.reason is not Reason.OVERSIZED_FILE:
                    for uid in slices:  # any of these series may have lost a slice
                        of_series.setdefault(uid, []).append(fault)
                else:
                    loose.append(fault)
        for entry in self._others:
            fault = not_dicom(entry)
            if spoil(entry, fault):
                continue
            if not slices and not entry.is_archive and is_slice_name(entry):
                loose.append(fault)
            elif not entry.is_archive and not is_document(entry):
                ignored["not DICOM"] += 1
        for entry in self._without_image:
            # If only its class is damaged, a slice still has the size of the other slices.
            owners = [uid for uid, names in slices.items() if names.has_size(entry.size)]
            for uid in owners:
                of_series.setdefault(uid, []).append(_no_image(entry))
            ignored["DICOM without an image"] += not owners
        by_kind: dict[tuple[str, Reason | None], list[InputError]] = {}
        for fault in loose:
            by_kind.setdefault((fault.found, fault.reason), []).append(fault)
        return (
            {uid: combine(faults) for uid, faults in of_series.items()},
            [combine(faults) for faults in by_kind.values()],
            +ignored,
        )


def list_series(source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Files:
    """Return the DICOM files of a folder, or of a list of paths.

    Raises
    ------
    InputError
        If a listed file, or a file in the place of a slice, cannot be read as DICOM.
    """
    if isinstance(source, (str, os.PathLike)) and Path(source).is_dir():
        folder, listed = os.fspath(source), False
        # A listed path that does not exist is a broken link, which may have been a slice.
        paths = sorted(p for p in Path(source).iterdir() if not p.is_dir())
    else:
        listed = True
        paths = [Path(p) for p in ([source] if isinstance(source, (str, os.PathLike)) else source)]
        folder = os.fspath(source) if isinstance(source, (str, os.PathLike)) else ""
    strays = Strays()
    slices = []
    for path in paths:
        (entry,) = list_folder(str(path.absolute().parent), [path.name])
        if entry.error is not None and not entry.is_archive:
            if listed:
                raise entry.error
            strays.damaged(entry, entry.error)
        elif is_dicom(entry.start):
            slices.append((path, entry.size))
        elif listed:
            raise not_dicom(entry)
        else:
            strays.other(entry)
    faults, problems, _ = strays.assign(
        {"": [(p.name, size) for p, size in slices]} if slices else {}
    )
    for fault in [*faults.values(), *problems]:
        raise fault
    return Files(folder, tuple(str(path.absolute()) for path, _ in slices))


def _no_image(entry: Entry) -> InputError:
    return InputError(
        "DICOM without an image in the place of a slice",
        expected="an image",
        where=entry.name,
        todo="Copy or download the file again, or remove it if it is not a slice.",
        reason=Reason.NOT_DICOM,
    )
