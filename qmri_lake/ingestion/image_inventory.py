"""Inventory of images in files other than DICOM: usable scans, and problems of the others."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from qmri_lake.core.geometry import GRID_TOLERANCE_MM, corner_distance, voxel_spacing
from qmri_lake.core.json_types import JsonObject
from qmri_lake.core.text import counted, did_you_mean, format_shape
from qmri_lake.errors import InputError, Problem, Reason, printable
from qmri_lake.image_files.content import FileGeometry
from qmri_lake.image_files.formats import image_stem, is_image_name
from qmri_lake.image_files.lake_axes import check_side, lake_geometry
from qmri_lake.image_files.sidecar import acquisition_parameters, image_times, read_sidecar
from qmri_lake.ingestion.image_series import ImagePart, ImageSeries, file_uid
from qmri_lake.ingestion.named_files import NamedFile, NamedFiles
from qmri_lake.lake.study_ids import PatientNumbers
from qmri_lake.masks.content import Form
from qmri_lake.oai.header import PHANTOM_MANUFACTURER
from qmri_lake.oai.sequence import Sequence as ImagingSequence
from qmri_lake.schema.exam_index import exam_key
from qmri_lake.schema.groups import GROUPS, Group

__all__ = ["ImageInventory", "ImageOptions", "take_image_inventory"]

_SAME_TIME = 1e-3  # ms
_SHOWN = 5
Progress = Callable[[int, str], None]


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """How image files are read."""

    group: str | None = None
    """Kind of series of files that do not state one."""
    form: Form | None = None
    """Affine to use of NIfTI files whose sform and qform differ."""
    any_position: bool = False
    """Whether images on the side of the other knee are accepted."""
    bids_root: str = ""
    """Folder of a BIDS dataset, whose sidecars are inherited; "" for other folders."""


@dataclass(frozen=True, slots=True)
class ImageInventory:
    """Usable scans, and what was not used."""

    series: tuple[ImageSeries, ...]
    problems: tuple[Problem, ...]
    ignored: dict[str, int]
    """Number of files that the pattern or the list does not contain, by kind."""
    notes: tuple[str, ...]
    study_ids: dict[int, str]
    """Identifier of each patient whose number does not state it, by number."""


@dataclass(frozen=True, slots=True)
class _Read:
    """Header and sidecar of one file."""

    file: NamedFile
    geometry: FileGeometry
    sidecar: JsonObject
    times: tuple[float, ...]


def take_image_inventory(
    named: NamedFiles,
    numbers: PatientNumbers,
    options: ImageOptions,
    progress: Progress | None = None,
) -> ImageInventory:
    """Read the headers and sidecars of named files, and join the files of one scan.

    Parameters
    ----------
    named : NamedFiles
        Files and their exams.
    numbers : PatientNumbers
        Numbers of the patients of the lake.
    options : ImageOptions
    progress : callable, optional
        Called with the number of scans that were read, and the last file.

    Raises
    ------
    InputError
        If the group of the options is unknown, or stated twice.
    """
    if options.group is not None:
        _check_group(options.group, "group")
    problems = list(named.problems)
    found: list[ImageSeries] = []
    study_ids: dict[int, str] = {}
    known = numbers.add(file.patient for file in named.files)
    for count, files in enumerate(_by_scan(named.files, options), 1):
        first = files[0]
        number = known[first.patient]
        exam = "" if isinstance(number, InputError) else _exam_of(first, number)
        try:
            if isinstance(number, InputError):
                raise number
            found.append(_make_series(files, number, exam, options))
            if study_id := numbers.study_id(first.patient):
                study_ids[number] = study_id
        except InputError as error:
            problems.append(error.problem(error.where or first.where, exam))
        if progress is not None:
            progress(count, os.path.dirname(first.path))
    # Sidecars and files of values belong to an image.
    used = {image_stem(file.where) for file in named.files}
    ignored = Counter(
        f"{PurePath(name).suffix or 'other'} file"
        for name in named.unmatched
        if not (
            name.endswith("/")
            or is_image_name(name)
            or PurePath(name).with_suffix("").as_posix() in used
        )
    )
    return ImageInventory(
        tuple(sorted(found, key=lambda item: (item.exam, item.group))),
        tuple(sorted(problems, key=lambda problem: (problem.where, problem.reason))),
        dict(sorted(ignored.items())),
        tuple(_notes(named.unmatched)),
        study_ids,
    )


def _exam_of(file: NamedFile, number: int) -> str:
    return exam_key(number, file.timepoint, file.knee)


def _notes(unmatched: Iterable[str]) -> list[str]:
    images = [name for name in unmatched if is_image_name(name)]
    if not images:
        return []
    shown = ", ".join(images[:_SHOWN]) + ", ..." * (len(images) > _SHOWN)
    return [f"{counted(len(images), 'image file')} not named by the pattern or the list: {shown}"]


def _by_scan(files: Sequence[NamedFile], options: ImageOptions) -> list[list[NamedFile]]:
    """Return the files of each patient, visit, knee and group, in the order of their names."""
    scans: dict[object, list[NamedFile]] = {}
    for file in sorted(files, key=lambda file: file.where):
        person = file.patient.lstrip("0") if file.patient.isdigit() else file.patient
        key = (person, file.timepoint, file.knee, file.group or options.group)
        scans.setdefault(key, []).append(file)
    return list(scans.values())


def _make_series(
    files: Sequence[NamedFile], number: int, exam: str, options: ImageOptions
) -> ImageSeries:
    """Return the scan of files; raise an error if they are not one complete scan."""
    first = files[0]
    name = first.group or options.group or ""
    if not name:
        raise InputError(
            "no group",
            expected=" or ".join(GROUPS.series()),
            where=first.where,
            todo="Give --group, {group} in the pattern, or a column group in the list.",
            reason=Reason.UNKNOWN_SEQUENCE,
        )
    _check_group(name, first.where)
    group = GROUPS[name]
    read = [_read_file(file, group, options) for file in files]
    if not options.any_position:
        geometry = read[0].geometry
        check_side(first.knee, geometry.shape, geometry.affine, where=lambda: first.where)
    _check_one_grid(read)
    times = [time for item in read for time in item.times]
    _check_images(group, read, times)
    order = np.argsort(np.argsort(times, kind="stable")) if times else np.array([0])
    parts, start = [], 0
    for item in read:
        places = order[start : start + item.geometry.images]
        start += item.geometry.images
        path = os.path.abspath(item.file.path)
        parts.append(ImagePart(path, item.file.where, tuple(int(n) for n in places)))
    parts.sort(key=lambda part: part.places)
    volume = read[0].geometry
    stated = acquisition_parameters(read[0].sidecar)
    return ImageSeries(
        group=name,
        patient=number,
        timepoint=first.timepoint,
        knee=first.knee,
        exam=exam,
        shape=(*([len(order)] if group.has_several_images else []), *volume.shape),
        parts=tuple(parts),
        sequence=_sequence(volume, tuple(sorted(times)) or (np.nan,)),
        uid=file_uid([part.path for part in parts]),
        form=options.form,
        synthetic=_is_synthetic(read[0].sidecar),
        # Only some kinds of series declare parameters.
        parameters={name: stated[name] for name in group.parameters},
    )


def _is_synthetic(sidecar: JsonObject) -> bool:
    """Return whether a sidecar states it: one of dcm2niix, or one that an export wrote."""
    return sidecar.get("Manufacturer") == PHANTOM_MANUFACTURER or sidecar.get("synthetic") is True


def _check_group(name: str, where: str) -> None:
    if name not in GROUPS.series():
        raise InputError(
            f"group {name!r}",
            expected=" or ".join(GROUPS.series()),
            where=where,
            todo=did_you_mean(name, GROUPS.series()),
            reason=Reason.UNKNOWN_SEQUENCE,
        )


def _read_file(file: NamedFile, group: Group, options: ImageOptions) -> _Read:
    """Read the header and the sidecar of a file, and determine the times of its images."""
    try:
        geometry = lake_geometry(file.path, options.form)
        sidecar = read_sidecar(file.path, options.bids_root)
    except InputError as error:
        raise InputError(
            error.found,
            expected=error.expected,
            where=error.where.replace(printable(file.path), file.where),
            todo=error.todo,
            reason=error.reason,
        ) from None
    if not group.has_several_images:
        return _Read(file, geometry, sidecar, ())
    times = _times(file, geometry, sidecar, group)
    if len(times) != geometry.images:
        raise InputError(
            f"{counted(geometry.images, 'image')} and {counted(len(times), 'time')}",
            expected="one time for each image",
            where=file.where,
            todo="Correct the times in the list, the name or the sidecar.",
            reason=Reason.MISSING_ECHO,
        )
    return _Read(file, geometry, sidecar, times)


def _times(
    file: NamedFile, geometry: FileGeometry, sidecar: JsonObject, group: Group
) -> tuple[float, ...]:
    """Return the times [ms] of the images of a file, on which all sources agree."""
    axis = group.image_axis
    stated = image_times(sidecar, axis, file.where)
    if file.times_ms and stated and not _same(file.times_ms, stated):
        raise InputError(
            f"{_listed(file.times_ms)} ms in the name or the list, and {_listed(stated)} ms in the "
            "sidecar",
            expected="the same times",
            where=file.where,
            todo="Correct the name, the list or the sidecar.",
            reason=Reason.INCONSISTENT_GEOMETRY,
        )
    # A spin-lock time is often written as an echo time.
    found = file.times_ms or stated or geometry.times_ms
    found = found or image_times(sidecar, "echo", file.where)
    if found:
        return found
    words = axis.replace("_", "-")
    raise InputError(
        f"no {words} times of {counted(geometry.images, 'image')}",
        expected=f"times in {os.path.basename(image_stem(file.where))}.json, in the column "
        "time_ms of a list, or {time} in the pattern",
        where=file.where,
        todo="Write a sidecar with EchoTime or EchoTimes [s], or give a list.",
        reason=Reason.MISSING_ECHO,
    )


def _same(a: Sequence[float], b: Sequence[float]) -> bool:
    # Names and lists have rounded times.
    return len(a) == len(b) and bool(np.allclose(a, b, rtol=0.01, atol=0.1))


def _listed(times: Iterable[float]) -> str:
    return ", ".join(f"{time:g}" for time in times)


def _check_one_grid(read: Sequence[_Read]) -> None:
    first = read[0].geometry
    for item in read[1:]:
        other = item.geometry
        same = other.shape == first.shape
        distance = corner_distance(first.shape, other.affine, first.affine) if same else np.inf
        if distance > GRID_TOLERANCE_MM:
            how = f"{distance:.2f} mm off" if same else f"{format_shape(other.shape)} voxels"
            raise InputError(
                f"another grid than {read[0].file.where}: {how}",
                expected="all images of one scan on one grid",
                where=item.file.where,
                todo="Check that the files belong to one scan.",
                reason=Reason.INCONSISTENT_GEOMETRY,
            )


def _check_images(group: Group, read: Sequence[_Read], times: Sequence[float]) -> None:
    """Raise an error if files have too many images, too few, or two of one time."""
    where, count = read[0].file.where, sum(item.geometry.images for item in read)
    if not group.has_several_images:
        if count > 1:
            names = ", ".join(item.file.where for item in read[:_SHOWN])
            names += ", ..." * (len(read) > _SHOWN)
            raise InputError(
                f"{count} images in {names}",
                expected=f"one volume of a {group.name} series",
                where=where,
                todo="Give the group of series with several images, or save one volume.",
                reason=Reason.SEVERAL_VOLUMES,
            )
        return
    wanted = group.images
    if count < 2 or (wanted and count != wanted):
        raise InputError(
            f"{counted(count, 'image')} of a {group.name} series",
            expected=f"{wanted} images" if wanted else "at least two images",
            where=where,
            todo="Name all files of the scan with {echo} or {time}, or in the list.",
            reason=Reason.MISSING_ECHO,
        )
    ordered = np.sort(times)
    if (np.diff(ordered) <= _SAME_TIME).any():
        raise InputError(
            f"times {_listed(ordered)} ms",
            expected="a different time for each image",
            where=where,
            todo="Correct the times in the names, the list or the sidecars.",
            reason=Reason.DUPLICATE_POSITION,
        )
    _check_echo_numbers(read, where)


def _check_echo_numbers(read: Sequence[_Read], where: str) -> None:
    """Raise an error if an echo is missing, or if the numbers contradict the times."""
    numbered = [(item.file.echo, item.times[0]) for item in read if item.file.echo is not None]
    if not numbered:
        return
    numbers = [number for number, _ in sorted(numbered, key=lambda pair: pair[1])]
    # GE and some programs number echoes from 0.
    if numbers in (list(range(1, len(read) + 1)), list(range(len(read)))):
        return
    missing = numbers == sorted(set(numbers))
    raise InputError(
        f"echoes {', '.join(map(str, numbers))}" + ("" if missing else ", in the order of times"),
        expected=f"echoes 1 to {max(numbers)}" if missing else "numbers in the order of the times",
        where=where,
        todo="Give the files of all echoes." if missing else "Correct the names or the times.",
        reason=Reason.MISSING_ECHO if missing else Reason.INCONSISTENT_GEOMETRY,
    )


def _sequence(geometry: FileGeometry, times: tuple[float, ...]) -> ImagingSequence:
    """Return the geometry and the times, as of a DICOM series; files have no names of sequences."""
    affine = geometry.affine
    spacing = voxel_spacing(affine)
    x, y, z = ((float(a), float(b), float(c)) for a, b, c in (affine[:3, :3] / spacing).T)
    return ImagingSequence(
        description="",
        protocol_name="",
        sequence_name="",
        scanning=(),
        image_type=(),
        echo_times=times,
        repetition_time=np.nan,
        flip_angle=np.nan,
        axes=(x, y, z),
        spacing=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        origin=(float(affine[0, 3]), float(affine[1, 3]), float(affine[2, 3])),
        shape=geometry.shape,
    )
