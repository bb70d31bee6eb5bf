"""Arrangement of one series: the order of slices and echoes, and the affine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, Reason
from qmri_lake.oai import plausible
from qmri_lake.oai.agreement import check_agreement, check_numbers, find_volumes
from qmri_lake.oai.enhanced import kept_components
from qmri_lake.oai.header import Header
from qmri_lake.oai.protocol import formation_time

__all__ = ["Stack", "arrange", "ignored_images"]

_ECHO_TOLERANCE = 1e-3  # ms
_DIRECTION_TOLERANCE = 1e-4
_ORIENTATION_TOLERANCE = (1e-3, 1e-3, 2e-4)
"""Tolerances of the squared lengths and the dot product of the vectors, rounded to 4 digits."""
_POSITION_TOLERANCE = 0.01  # mm, between the positions of one slice in different echoes
_DUPLICATE_TOLERANCE = 1e-3  # mm
_GAP_TOLERANCE = 0.1  # relative to the median gap; errors of rounded headers are far smaller
_SHEAR_TOLERANCE = 0.01  # relative to the gap; stacks of MR are perpendicular to their slices
_THICKNESS_FACTOR = 9
"""Largest ratio of distance and thickness of slices, in either direction: sparse localizers have 8,
interpolated volumes 1/4. [assumption]"""


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Arrangement of the files of a series in one array."""

    order: NDArray[np.intp]
    """(echo, slice): index of the header of the file of each image."""
    frame: NDArray[np.intp]
    """(echo, slice): index of each image in its file; 0 for classic files."""
    rows: int
    columns: int
    affine: NDArray[np.float64]
    """(4, 4) matrix from voxel indices (slice, row, column, 1) to LPS positions of centres, mm."""
    echo_time: NDArray[np.float64]
    """(echo,) echo times, ms, ascending; NaN if the headers have none."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Extents (echo, slice, row, column)."""
        echoes, slices = self.order.shape
        return echoes, slices, self.rows, self.columns


def arrange(headers: Sequence[Header], where: str = "") -> Stack:
    """Order the slices and echoes of one series. The order of the files has no effect.

    Slices ascend along the normal n = (direction of increasing column) x (direction of
    increasing row), so that (column, row, slice) is right-handed, like the DICOM frame. Echoes
    ascend by EchoTime. File names and InstanceNumber are not used. The slice step is the slope of
    the least-squares line through the positions. For a single slice, the step is
    SpacingBetweenSlices, or SliceThickness if SpacingBetweenSlices is absent. Of the frames of
    enhanced files, only magnitude is used, if there is any.

    Parameters
    ----------
    headers : sequence of Header
        Headers of all files of one series.
    where : str
        Location of the series, for messages.

    Returns
    -------
    Stack
        Order of the files, and the affine. Column k of the affine is the step along array axis k
        (slice, row, column), LPS mm.

    Raises
    ------
    InputError
        If the images are stored in different ways (``mixed_pixels``), are several volumes
        (``several_volumes``) or do not form a regular grid (``inconsistent_geometry``,
        ``duplicate_position``, ``mixed_echo_counts``, ``missing_slice``, ``implausible_value``).
    """
    every = [(k, image) for k, header in enumerate(headers) for image in header.images]
    keep = kept_components([image.component for _, image in every])
    used = [pair for pair, kept in zip(every, keep, strict=True) if kept]
    images = [image for _, image in used]
    check_agreement(images, where)
    try:
        stack = _arrange_images(images, where)
    except InputError as error:
        raise find_volumes(images, _is_volume, where) or error from None
    file = np.array([k for k, _ in used])
    frame = np.array([image.pixels.frame for image in images])
    return replace(stack, order=file[stack.order], frame=frame[stack.order])


def ignored_images(headers: Sequence[Header]) -> Counter[str]:
    """Return the number of images of a series that `arrange` ignores, by kind."""
    images = [image for header in headers for image in header.images]
    keep = kept_components([image.component for image in images])
    return Counter(
        f"{image.component} frame" for image, kept in zip(images, keep, strict=True) if not kept
    )


def _is_volume(images: Sequence[Header]) -> bool:
    try:
        _arrange_images(images, "")
    except InputError:
        return False
    return True


def _arrange_images(headers: Sequence[Header], where: str) -> Stack:
    """Return the stack of images; its order is their index."""
    first = headers[0]
    _check_planes(headers, where)
    column_direction = np.array(first.orientation[:3])
    row_direction = np.array(first.orientation[3:])
    normal = np.cross(column_direction, row_direction)
    position = np.array([header.position for header in headers])
    height = position @ normal
    times = np.array([formation_time(header) for header in headers])
    _check_echo_times(times, where)
    echo, echo_time = _group_echoes(times)

    lines = []
    for k in range(len(echo_time)):
        members = np.flatnonzero(echo == k)
        members = members[np.argsort(height[members], kind="stable")]
        _check_duplicates(headers, members, position, where)
        lines.append(members)
    counts = [len(members) for members in lines]
    if len(set(counts)) > 1:
        raise InputError(
            f"echoes of {_per_echo(counts)} slices",
            expected="the same number of slices in every echo",
            where=where,
            todo="Copy or download the series again.",
            reason=Reason.MIXED_ECHO_COUNTS,
        )
    order = np.stack(lines)
    mean_position = position[order].mean(axis=0)
    if np.abs(position[order] - mean_position).max() > _POSITION_TOLERANCE:
        raise _inconsistent("slice positions differ between echoes", where)
    check_numbers([[headers[k] for k in line] for line in order.tolist()], where)
    step, origin = _fit_line(mean_position, height[order].mean(axis=0), normal, first, where)

    affine = np.eye(4)
    affine[:3, 0] = step
    # The first value of PixelSpacing is the distance between rows.
    affine[:3, 1] = row_direction * first.pixel_spacing[0]
    affine[:3, 2] = column_direction * first.pixel_spacing[1]
    affine[:3, 3] = origin
    return Stack(order, np.zeros_like(order), first.rows, first.columns, affine, echo_time)


def _check_planes(headers: Sequence[Header], where: str) -> None:
    first = headers[0]
    for header in headers:
        if not (header.position and header.orientation and header.pixel_spacing):
            raise _inconsistent(
                f"no position, orientation or pixel spacing in {header.name}", where
            )
    if first.rows < 1 or first.columns < 1:
        raise _inconsistent("no rows or no columns", where)
    if len({(header.rows, header.columns) for header in headers}) > 1:
        raise _inconsistent("slices with different sizes", where)
    orientation = np.array([header.orientation for header in headers])
    spacing = np.array([header.pixel_spacing for header in headers])
    if np.ptp(orientation, axis=0).max() > _DIRECTION_TOLERANCE:
        raise _inconsistent("slices with different orientations", where)
    if np.ptp(spacing, axis=0).max() > _DIRECTION_TOLERANCE or spacing.min() <= 0:
        raise _inconsistent("different pixel spacings, or a spacing that is not above 0", where)
    columns, rows = orientation[0, :3], orientation[0, 3:]
    lengths = np.array([columns @ columns, rows @ rows, columns @ rows])
    if (np.abs(lengths - (1, 1, 0)) > _ORIENTATION_TOLERANCE).any():
        raise _inconsistent("the orientation is not two perpendicular unit vectors", where)


def _check_echo_times(times: NDArray[np.float64], where: str) -> None:
    absent = int(np.isnan(times).sum())
    if 0 < absent < len(times):
        raise InputError(
            f"no EchoTime in {absent} of {len(times)} files",
            expected="an EchoTime in every file of a series, or in none",
            where=where,
            todo="Restore the header element, or export the series again.",
            reason=Reason.INCONSISTENT_GEOMETRY,
        )


def _group_echoes(
    times: NDArray[np.float64],
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the echo of each file and the time of each echo; one echo if there are no times."""
    if np.isnan(times).all():
        return np.zeros(len(times), np.intp), np.array([np.nan])
    known = np.unique(times)
    starts = known[np.diff(known, prepend=-np.inf) > _ECHO_TOLERANCE]
    return np.searchsorted(starts, times, side="right") - 1, starts


def _check_duplicates(
    headers: Sequence[Header],
    members: NDArray[np.intp],
    position: NDArray[np.float64],
    where: str,
) -> None:
    gaps = np.linalg.norm(np.diff(position[members], axis=0), axis=1)
    if gaps.size and 0 < np.median(gaps) < _DUPLICATE_TOLERANCE:
        # These are not copies: the positions are in a larger unit.
        _check_range(float(np.median(gaps)), where)
    same = np.flatnonzero(gaps < _DUPLICATE_TOLERANCE)
    if same.size:
        a, b = headers[members[same[0]]].name, headers[members[same[0] + 1]].name
        raise InputError(
            f"{counted(same.size, 'slice position')} repeated, first in {a} and {b}",
            expected="one file for each position and echo",
            where=where,
            todo="Remove the copies, or the slices of another scan.",
            reason=Reason.DUPLICATE_POSITION,
        )


def _fit_line(
    position: NDArray[np.float64],
    height: NDArray[np.float64],
    normal: NDArray[np.float64],
    first: Header,
    where: str,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the step between slices and the position of the first slice."""
    count = len(position)
    if count == 1:
        spacing = first.spacing_between_slices
        if not spacing > 0:
            spacing = first.slice_thickness
        if not spacing > 0:
            raise _inconsistent("a single slice without SpacingBetweenSlices", where)
        return normal * spacing, position[0]
    gaps = np.diff(height)
    usual = float(np.median(gaps))
    worst = int(np.argmax(np.abs(gaps - usual)))
    if usual < _DUPLICATE_TOLERANCE:
        raise _inconsistent("several slices in one plane", where)
    if abs(gaps[worst] - usual) > _GAP_TOLERANCE * usual:
        raise InputError(
            f"a gap of {gaps[worst]:.3f} mm after slice {worst + 1} of {count}",
            expected=f"{usual:.3f} mm between all slices",
            where=where,
            todo="Copy or download the series again: slices are missing.",
            reason=Reason.MISSING_SLICE,
        )
    index = np.arange(count) - (count - 1) / 2
    centre = position.mean(axis=0)
    step = index @ (position - centre) / (index @ index)
    if np.abs(position - centre - index[:, None] * step).max() > _GAP_TOLERANCE * usual:
        raise _inconsistent("slice positions are not on one line", where)
    sideways = float(np.linalg.norm(step - (step @ normal) * normal))
    if sideways > _SHEAR_TOLERANCE * usual:
        raise _inconsistent(f"each slice is shifted sideways by {sideways:.3g} mm", where)
    _check_step(float(np.linalg.norm(step)), first, where)
    return step, centre - (count - 1) / 2 * step


def _check_step(step: float, first: Header, where: str) -> None:
    """Raise an error if positions are in another unit than spacing and thickness.

    The distance of slices is never much smaller than SpacingBetweenSlices. It is larger if slices
    are missing, which other checks detect.
    """
    _check_range(step, where)
    for name, stated, low, high in (
        ("SpacingBetweenSlices", abs(first.spacing_between_slices), 0.2, np.inf),
        ("SliceThickness", first.slice_thickness, 1 / _THICKNESS_FACTOR, _THICKNESS_FACTOR),
    ):
        if stated > 0 and not low <= step / stated <= high:
            raise InputError(
                f"slices {step:.4g} mm apart, with {name} = {stated:.4g}",
                expected="the same unit of positions and distances",
                where=where,
                todo="Correct the header, or export the series again.",
                reason=Reason.IMPLAUSIBLE_VALUE,
            )


def _check_range(step: float, where: str) -> None:
    fault = plausible.check_ranges([(plausible.SLICE_STEP, step)], where)
    if fault is not None:
        raise fault


def _per_echo(counts: list[int]) -> str:
    return ", ".join(map(str, counts[:12])) + (" ..." if len(counts) > 12 else "")


def _inconsistent(found: str, where: str) -> InputError:
    return InputError(
        found,
        expected="parallel slices on one grid",
        where=where,
        todo="Provide the files of one volume, without localizers or reformats.",
        reason=Reason.INCONSISTENT_GEOMETRY,
    )
