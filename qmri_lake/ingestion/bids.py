"""Images of a BIDS dataset: ``sub-*/[ses-*/]anat``, with side, visit and kind from the entities."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from qmri_lake.errors import InputError, Reason
from qmri_lake.image_files.formats import image_stem
from qmri_lake.image_files.sidecar import has_sidecar
from qmri_lake.ingestion.named_files import NamedFile, NamedFiles, without_doubled
from qmri_lake.lake.table_cells import parse_knee, parse_timepoint
from qmri_lake.schema.groups import GROUPS

__all__ = ["find_bids_files", "is_bids"]

_IMAGES = (".nii.gz", ".nii")
_KINDS = {
    "MESE": "msme",
    "MEGRE": "t2star",
    "T2starw": "t2star",
}
"""Group of each suffix of BIDS for several images of one scan."""
_SIDE = re.compile(r"(left|right)", re.IGNORECASE)
_SMALLEST_MONTH = 6
"""A session called by a smaller number, except 0, may be the first, second ... session."""


def is_bids(source: str | os.PathLike[str]) -> bool:
    """Return whether a folder is a BIDS dataset with images."""
    root = Path(source)
    if not root.is_dir():
        return False
    return any(
        next(root.glob(f"{folders}*{suffix}"), None) is not None
        for folders in ("sub-*/anat/", "sub-*/ses-*/anat/")
        for suffix in _IMAGES
    )


def find_bids_files(
    source: str | os.PathLike[str],
    *,
    timepoint: int | None = None,
    knee: str | None = None,
    group: str | None = None,
    visits: Mapping[str, int] | None = None,
) -> NamedFiles:
    """Find the images of a BIDS dataset that a lake stores.

    Parameters
    ----------
    source : path
        Folder of the dataset.
    timepoint : int, optional
        Months of images without a session.
    knee : {"left", "right"}, optional
        Side of images without an entity of the side.
    group : str, optional
        Kind of series of images whose name does not state it. Default: they are not used.
    visits : mapping of str to int, optional
        Months by the label of a session.

    Returns
    -------
    NamedFiles
        The patient is the label of ``sub``. The visit is the label of ``ses``: ``024m``, ``24``,
        ``V03``, ``baseline``, or a name in `visits`. The side is ``hemi-L`` or ``hemi-R``, or the
        word left or right in ``acq``. The kind is the suffix, or the name of a group in ``acq``
        or the suffix. Images of other kinds, and phase images, are listed as unmatched.

    Raises
    ------
    InputError
        If the dataset has no image in ``anat``, or none of a known kind.
    """
    root = Path(source)
    paths = sorted(
        path
        for folders in ("sub-*/anat", "sub-*/ses-*/anat")
        for folder in root.glob(folders)
        for path in folder.iterdir()
        if path.name.lower().endswith(_IMAGES)
    )
    found = NamedFiles()
    months = {name.casefold(): month for name, month in (visits or {}).items()}
    entities = {path: _entities(path) for path in paths}
    numbered = {e["ses"] for e in entities.values() if e.get("ses", "").isdigit()}
    unclear = {s for s in numbered if s.casefold() not in months}
    if not any(0 < int(session) < _SMALLEST_MONTH for session in unclear):
        unclear = set()
    for path, named in entities.items():
        where = path.relative_to(root).as_posix()
        kind = _kind(named) or group
        if kind is None or named.get("part", "mag") != "mag":
            found.unmatched.append(where)
            continue
        try:
            file = NamedFile(
                str(path),
                where,
                named.get("sub", ""),
                _months(named, months, unclear, timepoint, where),
                _side(named, knee, where),
                kind,
                int(named["echo"]) if named.get("echo", "").isdigit() else None,
            )
            _check_sidecar(file, str(root))
            found.files.append(file)
        except InputError as error:
            found.problems.append(error.problem())
    if not (found.files or found.problems):
        raise _nothing(paths, root)
    return without_doubled(found)


def _entities(path: Path) -> dict[str, str]:
    """Return the entities of a name, and its suffix as ``suffix``."""
    *words, suffix = Path(image_stem(path.name)).name.split("_")
    pairs = (word.partition("-") for word in words)
    return {**{name: label for name, dash, label in pairs if dash}, "suffix": suffix}


def _kind(named: Mapping[str, str]) -> str | None:
    """Return the group of an image, or None."""
    suffix, words = named["suffix"], named.get("acq", "").casefold()
    kind = _KINDS.get(suffix, "")
    if kind == "t2star" and suffix == "T2starw" and "echo" not in named:
        kind = ""  # one weighted image has no map
    if kind in GROUPS.series():
        return kind
    # The longest name first: qdess contains dess.
    known = sorted(GROUPS.series(), key=len, reverse=True)
    return next((g for g in known if suffix.casefold() == g or g in words), None)


def _months(
    named: Mapping[str, str],
    months: Mapping[str, int],
    unclear: set[str],
    timepoint: int | None,
    where: str,
) -> int:
    session = named.get("ses", "")
    if not session:
        if timepoint is not None:
            return timepoint
        raise _absent("no session", "an entity ses", where, "--timepoint", Reason.ABSENT_TIMEPOINT)
    if session.casefold() in months:
        return months[session.casefold()]
    parsed = parse_timepoint("baseline" if session.casefold() == "bl" else session)
    if parsed is not None and session not in unclear:
        return int(parsed[0])
    raise _absent(
        f"ses-{session}, which may be a month or the number of a session"
        if parsed is not None
        else f"ses-{session}",
        "months such as ses-024m, visits such as ses-V03",
        where,
        f"--visit {session}=MONTHS",
        Reason.ABSENT_TIMEPOINT,
    )


def _side(named: Mapping[str, str], knee: str | None, where: str) -> str:
    """Return the side of an image, on which all entities agree."""
    hemisphere = parse_knee(named["hemi"]) if "hemi" in named else None
    found = {str(hemisphere[0])} if hemisphere is not None else set()
    found |= {side.lower() for side in _SIDE.findall(named.get("acq", ""))}
    if len(found) > 1 or (knee is not None and found - {knee}):
        option = f", and {knee} by the option" if knee is not None else ""
        raise InputError(
            f"knee {' and '.join(sorted(found))} in the name{option}",
            expected="one side",
            where=where,
            todo="Rename the file, or omit --knee.",
            reason=Reason.SIDE_CONFLICT,
        )
    if found or knee is not None:
        return found.pop() if found else str(knee)
    raise _absent(
        "no side", "hemi-L, hemi-R, acq-left or acq-right", where, "--knee", Reason.ABSENT_SIDE
    )


def _check_sidecar(file: NamedFile, root: str) -> None:
    """Raise an error if an image of several has no sidecar, which BIDS requires."""
    has_times = file.group in GROUPS and GROUPS[file.group].has_several_images
    if has_times and not has_sidecar(file.path, root):
        name = f"{Path(image_stem(file.where)).name}.json"
        raise InputError(
            f"no JSON sidecar {name}",
            expected="a sidecar with EchoTime [s], as BIDS requires",
            where=file.where,
            todo="Convert the DICOM series again with dcm2niix -b y, or write the sidecar.",
            reason=Reason.MISSING_ECHO,
        )


def _nothing(paths: list[Path], root: Path) -> InputError:
    kinds = sorted({_entities(path)["suffix"] for path in paths})
    return InputError(
        f"no image of a known kind among {', '.join(kinds)}" if kinds else "no image",
        expected="sub-*/[ses-*/]anat/*.nii.gz with the suffix MESE or MEGRE, or with the name of "
        f"a group ({', '.join(GROUPS.series())}) in acq or the suffix",
        where=os.fspath(root),
        todo="Give --group for all images, or --pattern for other names.",
        reason=Reason.UNKNOWN_SEQUENCE,
    )


def _absent(found: str, expected: str, where: str, option: str, reason: Reason) -> InputError:
    return InputError(found, expected=expected, where=where, todo=f"Give {option}.", reason=reason)
