"""Slices of one series stacked: their order, echoes and affine, from positions and echo times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.header import Header

__all__ = ["Stack", "arrange"]

_ECHO_TOLERANCE = 1e-3  # ms
_DIRECTION_TOLERANCE = 1e-4
_POSITION_TOLERANCE = 0.01  # mm, of one slice between echoes
_DUPLICATE_TOLERANCE = 1e-3  # mm
_GAP_TOLERANCE = 0.1  # of the median gap; rounded headers stay far below


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """How the files of a series make one array."""

    order: NDArray[np.intp]
    """(echo, slice) -> index of the header."""
    rows: int
    columns: int
    affine: NDArray[np.float64]
    """(4, 4) voxel (slice, row, column) -> LPS mm, at voxel centres."""
    echo_time: NDArray[np.float64]
    """(echo,) ms, ascending; NaN where the headers have none."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Extents (echo, slice, row, column)."""
        echoes, slices = self.order.shape
        return echoes, slices, self.rows, self.columns


def arrange(headers: Sequence[Header], where: str = "") -> Stack:
    """Order the slices of one series, whatever the order of its files.

    Slices ascend along the normal n = (direction of increasing column) x (direction of
    increasing row), so that (column, row, slice) is right-handed, as DICOM's own frame is; echoes
    ascend by EchoTime. File names, InstanceNumber and SliceThickness play no part. The slice step
    is the least-squares line through the positions; a single slice takes SpacingBetweenSlices,
    then SliceThickness.

    Parameters
    ----------
    headers : sequence of Header
        Of all files of one series.
    where : str
        The series, for messages.

    Returns
    -------
    Stack
        Column k of its affine is the step along array axis k (slice, row, column), LPS mm.

    Raises
    ------
    InputError
        ``inconsistent_geometry``, ``duplicate_position``, ``mixed_echo_counts`` or
        ``missing_slice``, in this order.
    """
    first = headers[0]
    _check_planes(headers, where)
    column_direction = np.array(first.orientation[:3])
    row_direction = np.array(first.orientation[3:])
    normal = np.cross(column_direction, row_direction)
    position = np.array([header.position for header in headers])
    height = position @ normal
    times = np.array([header.echo_time for header in headers])
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
            f"{_per_echo(counts)} slices in the echoes",
            expected="the same number of slices in every echo",
            where=where,
            todo="Copy or download the series again.",
            reason=Reason.MIXED_ECHO_COUNTS,
        )
    order = np.stack(lines)
    mean_position = position[order].mean(axis=0)
    if np.abs(position[order] - mean_position).max() > _POSITION_TOLERANCE:
        raise _inconsistent("slices that lie elsewhere in each echo", where)
    step, origin = _fit_line(mean_position, height[order].mean(axis=0), normal, first, where)

    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = row_direction * first.pixel_spacing[0]  # PixelSpacing: between rows first
    affine[:3, 2] = column_direction * first.pixel_spacing[1]
    affine[:3, 3] = origin
    return Stack(order, first.rows, first.columns, affine, echo_time)


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
        raise _inconsistent("slices of several sizes", where)
    orientation = np.array([header.orientation for header in headers])
    spacing = np.array([header.pixel_spacing for header in headers])
    if np.ptp(orientation, axis=0).max() > _DIRECTION_TOLERANCE:
        raise _inconsistent("slices in several orientations", where)
    if np.ptp(spacing, axis=0).max() > _DIRECTION_TOLERANCE or spacing.min() <= 0:
        raise _inconsistent("several pixel spacings, or one that is not above 0", where)
    columns, rows = orientation[0, :3], orientation[0, 3:]
    lengths = np.array([columns @ columns, rows @ rows, columns @ rows])
    if np.abs(lengths - (1, 1, 0)).max() > 1e-3:
        raise _inconsistent("an orientation that is not two perpendicular unit vectors", where)


def _check_echo_times(times: NDArray[np.float64], where: str) -> None:
    absent = int(np.isnan(times).sum())
    if 0 < absent < len(times):
        raise InputError(
            f"no EchoTime in {absent} of {len(times)} files",
            expected="one in every file of a series, or in none",
            where=where,
            todo="Restore the header element, or export the series again.",
            reason=Reason.INCONSISTENT_GEOMETRY,
        )


def _group_echoes(
    times: NDArray[np.float64],
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the echo of each file and the time of each echo; absent times make one echo."""
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
    same = np.flatnonzero(gaps < _DUPLICATE_TOLERANCE)
    if same.size:
        a, b = headers[members[same[0]]].name, headers[members[same[0] + 1]].name
        raise InputError(
            f"{same.size} slice positions more than once (first: {a} and {b})",
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
    """Return the step between slices and the position of the first one."""
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
        raise _inconsistent("slices side by side in one plane", where)
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
        raise _inconsistent("slice positions that are not on one line", where)
    return step, centre - (count - 1) / 2 * step


def _per_echo(counts: list[int]) -> str:
    return ", ".join(map(str, counts[:12])) + (" ..." if len(counts) > 12 else "")


def _inconsistent(found: str, where: str) -> InputError:
    return InputError(
        found,
        expected="parallel slices of one grid",
        where=where,
        todo="Give the files of one volume, without localizers or reformats.",
        reason=Reason.INCONSISTENT_GEOMETRY,
    )
