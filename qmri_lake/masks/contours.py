"""Contours of iMorphics (``.mat``), drawn as voxels of the exam that they belong to.

The file has a struct array ``datastruct`` (1, slice) with a field a tissue, each a cell of
contours (point, 2 or more): x counts columns from the left edge of the image, y counts rows from
its **bottom** edge [G]. Points are on the edges of pixels, whose centres lie at half numbers, and a
voxel belongs to a contour if its centre lies inside [A].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
"""Number of each tissue in the label map that is drawn."""


def read_contours(path: str, rows: int, columns: int) -> tuple[NDArray[np.uint8], int]:
    """Draw all contours of a file.

    Parameters
    ----------
    path : str
    rows, columns : int
        Of the image that they were drawn on.

    Returns
    -------
    labels : array of uint8, (slice, row, column)
        Numbers of `FIELDS`; slices in the order of the file.
    shared : int
        Voxels inside contours of two tissues; they got the smaller number [A].

    Raises
    ------
    InputError
        The file has no ``datastruct``, or contours that are not lists of points.
    """
    from scipy.io import loadmat

    content = loadmat(path, struct_as_record=False, variable_names=["datastruct"])
    structs = np.asarray(content.get("datastruct", ()), dtype=object).ravel()
    if not structs.size or not any(hasattr(structs[0], name) for name in FIELDS):
        raise InputError(
            "no struct array named datastruct with contours",
            expected=f"fields {', '.join(FIELDS)}",
            where=path,
            todo="Give the .mat files as iMorphics delivered them.",
            reason=Reason.UNREADABLE_FILE,
        )
    labels = np.zeros((len(structs), rows, columns), np.uint8)
    shared = 0
    for index, struct in enumerate(structs):
        for name, number in FIELDS.items():
            inside = np.zeros((rows, columns), dtype=bool)
            for points in _contours(getattr(struct, name, None)):
                inside |= fill_contour(_checked(points, f"{path}, slice {index + 1}, {name}"),
                                       rows, columns)  # fmt: skip
            free = labels[index] == 0
            shared += int((inside & ~free).sum())
            labels[index][inside & free] = number
    return labels, shared


def fill_contour(points: NDArray[Any], rows: int, columns: int) -> NDArray[np.bool_]:
    """Return the pixels whose centres lie inside a closed contour, by the even-odd rule.

    Parameters
    ----------
    points : array, (point, 2)
        x from the left edge, y from the bottom edge, in pixels. The last point joins the first.
    rows, columns : int

    Returns
    -------
    array of bool, (row, column)
    """
    x = points[:, 0].astype(np.float64)
    y = rows - points[:, 1].astype(np.float64)
    x_next, y_next = np.roll(x, -1), np.roll(y, -1)
    # An edge crosses the rows whose centres lie between its ends, the upper end included: so a row
    # through a corner is crossed once, and neighbours share no pixel.
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


def _contours(field: Any) -> list[Any]:
    if field is None or not np.size(field):
        return []
    values = np.asarray(field)
    return [one for one in values.ravel() if np.size(one)] if values.dtype == object else [values]


def _checked(points: Any, where: str) -> NDArray[Any]:
    values = np.asarray(points)
    if values.ndim != 2 or values.shape[1] < 2 or values.dtype.kind not in "fiu":
        found = f"a contour of shape {values.shape} and type {values.dtype}"
    elif not np.isfinite(values[:, :2]).all():
        found = "a contour with points that are not finite"
    else:
        return values[:, :2]
    raise InputError(
        found,
        expected="points (x, y)",
        where=where,
        todo="Ask for the file again: this one is damaged.",
        reason=Reason.UNREADABLE_VALUE,
    )
