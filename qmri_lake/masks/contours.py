"""Contours of iMorphics (``.mat``), filled on the voxel grid of their exam.

The file has a struct array ``datastruct`` (1, slice) with a field for each tissue. Each field is a
cell of contours (point, 2 or more). x counts columns from the left edge of the image, and y counts
rows from its **bottom** edge [group]. Pixel edges have integer coordinates, and pixel centres have
half-integer coordinates. A voxel belongs to a contour if its centre is inside [assumption].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.errors import InputError, Reason

__all__ = ["FIELDS", "fill_contour", "read_contours"]

FIELDS = {
    "FemoralCartilage": 1,
    "LateralTibialCartilage": 2,
    "MedialTibialCartilage": 3,
    "PatellarCartilage": 4,
    "LateralMeniscus": 5,
    "MedialMeniscus": 6,
}
"""Label number of each tissue in the resulting label map."""

_MARGIN = 2.0
"""Voxels by which a contour may leave the image, because a hand is not exact. [assumption]"""


def read_contours(path: str, rows: int, columns: int) -> tuple[NDArray[np.uint8], int]:
    """Fill all contours of a file.

    Parameters
    ----------
    path : str
    rows, columns : int
        Size of the image on which the contours were drawn.

    Returns
    -------
    labels : array of uint8, (slice, row, column)
        Label numbers of `FIELDS`; the slices have the order of the file.
    shared : int
        Number of voxels inside contours of two tissues. They get the smaller label number
        [assumption].

    Raises
    ------
    InputError
        If the file has no ``datastruct``, or if a contour is not a list of points or leaves the
        image.
    """
    from scipy.io import loadmat

    content = loadmat(path, struct_as_record=False, variable_names=["datastruct"])
    structs = np.asarray(content.get("datastruct", ()), dtype=object).ravel()
    if not structs.size or not any(hasattr(structs[0], name) for name in FIELDS):
        raise InputError(
            "no struct array named datastruct with contours",
            expected=f"fields {', '.join(FIELDS)}",
            where=path,
            todo="Use the original .mat files of iMorphics.",
            reason=Reason.UNREADABLE_FILE,
        )
    labels = np.zeros((len(structs), rows, columns), np.uint8)
    shared = 0
    for index, struct in enumerate(structs):
        for name, number in FIELDS.items():
            inside = np.zeros((rows, columns), dtype=bool)
            for points in _contours(getattr(struct, name, None)):
                where = f"{path}, slice {index + 1}, {name}"
                checked = _check_points(points, where)
                _check_inside(checked, rows, columns, where)
                inside |= fill_contour(checked, rows, columns)
            free = labels[index] == 0
            shared += int((inside & ~free).sum())
            labels[index][inside & free] = number
    return labels, shared


def fill_contour(points: Values, rows: int, columns: int) -> NDArray[np.bool_]:
    """Return the pixels whose centres are inside a closed contour, by the even-odd rule.

    Parameters
    ----------
    points : array, (point, 2)
        x from the left edge, y from the bottom edge, in pixels. The contour is closed.
    rows, columns : int

    Returns
    -------
    array of bool, (row, column)
    """
    x = points[:, 0].astype(np.float64)
    y = rows - points[:, 1].astype(np.float64)
    x_next, y_next = np.roll(x, -1), np.roll(y, -1)
    # An edge crosses the rows whose centres are between its ends, including the upper end. Thus a
    # row through a corner is crossed once, and adjacent contours share no pixel.
    first = np.clip(np.ceil(np.minimum(y, y_next) - 0.5), 0, rows).astype(int)
    stop = np.clip(np.ceil(np.maximum(y, y_next) - 0.5), 0, rows).astype(int)
    count = stop - first
    edge = np.repeat(np.arange(len(x)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    share = (row + 0.5 - y[edge]) / (y_next - y)[edge]
    crossing = x[edge] + share * (x_next - x)[edge]
    column = np.clip(np.ceil(crossing - 0.5), 0, columns).astype(int)
    inside = np.zeros((rows, columns), dtype=bool)
    if len(row):
        top, bottom = row.min(), row.max() + 1
        changes = np.zeros((bottom - top, columns + 1), np.int32)
        np.add.at(changes, (row - top, column), 1)
        inside[top:bottom] = np.cumsum(changes[:, :columns], axis=1) % 2 == 1
    return inside


def _contours(field: ArrayLike | None) -> list[Values]:
    if field is None or not np.size(field):
        return []
    values = np.asarray(field)
    return [one for one in values.ravel() if np.size(one)] if values.dtype == object else [values]


def _check_points(points: ArrayLike, where: str) -> Values:
    values = np.asarray(points)
    if values.ndim != 2 or values.shape[1] < 2 or values.dtype.kind not in "fiu":
        found = f"a contour of shape {values.shape} and dtype {values.dtype}"
    elif not np.isfinite(values[:, :2]).all():
        found = "a contour with points that are not finite"
    else:
        return values[:, :2]
    raise InputError(
        found,
        expected="points (x, y)",
        where=where,
        todo="The file is damaged: copy or download it again.",
        reason=Reason.UNREADABLE_VALUE,
    )


def _check_inside(points: Values, rows: int, columns: int, where: str) -> None:
    """Raise an error for a contour that was drawn on a larger image."""
    for name, values, size in (("x", points[:, 0], columns), ("y", points[:, 1], rows)):
        low, high = float(values.min()), float(values.max())
        if low < -_MARGIN or high > size + _MARGIN:
            raise InputError(
                f"a contour with {name} from {low:.1f} to {high:.1f}",
                expected=f"0 to {size}, in an image of {rows} x {columns} voxels",
                where=where,
                todo="Check that the contours belong to this series.",
                reason=Reason.GRID_MISMATCH,
            )
