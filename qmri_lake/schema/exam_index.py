"""Selection by patient, timepoint and knee: one index over three coordinates of the `exam` axis.

``exam`` itself keeps xarray's default index. A pandas MultiIndex would rename the dimension on a
partial selection and cannot be written to Zarr. One index over all four coordinates would make
``ds["x"] = array`` fail, since xarray drops the coordinates of `array` that are not dimensions.

Arrays of different exams are not combined: `t2.sel(timepoint=24) - t2.sel(timepoint=0)` would be
empty, since xarray pairs equal exams. Such an alignment raises an error that says what to write.

Two functions of xarray do not support an index over several coordinates. Use these alternatives:

- ``ds.groupby("patient").map(...)`` instead of ``ds.groupby("patient") - means``;
- ``ds.sel(exam=[...])`` instead of ``ds.reindex(exam=...)``.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from xarray.core.indexing import IndexSelResult

from qmri_lake.core.array_api import Values
from qmri_lake.errors import InputError, NotFoundError

__all__ = ["KEYS", "ExamIndex", "attach_index", "exam_key"]

KEYS = ("patient", "timepoint", "knee")
"""The three coordinates that identify an exam."""


def exam_key(patient: int, timepoint: int, knee: str) -> str:
    """Return the readable key of an exam.

    >>> exam_key(9000798, 24, "right")
    '9000798-024m-right'
    """
    return f"{patient:07d}-{timepoint:03d}m-{knee}"


class ExamIndex(xr.Index):
    """Index over the coordinates `patient`, `timepoint` and `knee`, all on one dimension.

    ``ds.sel(patient=9000001, timepoint=24, knee="right")`` drops the dimension, as any scalar
    selection of one element does. A selection by fewer keys keeps the dimension. The columns of
    `frame` are in the order of `KEYS`, also after a rename.
    """

    def __init__(self, frame: pd.DataFrame, dim: str = "exam") -> None:
        self.frame = frame
        self.dim = dim

    @property
    def _keys(self) -> pd.Index[str]:
        """Exam keys. With them, joins give the same order as the joins of the index of `exam`."""
        return pd.Index([exam_key(*row) for row in self.frame.itertuples(index=False)])

    @classmethod
    def from_variables(
        cls, variables: Mapping[Hashable, xr.Variable], *, options: Mapping[str, object]
    ) -> Self:
        """Build the index from the three coordinate variables."""
        (dim,) = next(iter(variables.values())).dims
        columns = {str(name): _column(variable.values) for name, variable in variables.items()}
        return cls(pd.DataFrame(columns)[list(KEYS)], str(dim))

    @classmethod
    def concat(
        cls,
        indexes: Sequence[Self],
        dim: Hashable,
        positions: Iterable[Iterable[int]] | None = None,
    ) -> Self:
        """Join the indexes of datasets that are concatenated along `exam`."""
        frame = pd.concat([index.frame for index in indexes], ignore_index=True)
        if positions is not None:
            order = np.argsort(np.concatenate([np.asarray(list(p)) for p in positions]))
            frame = frame.iloc[order].reset_index(drop=True)
        return cls(frame, indexes[0].dim)

    def create_variables(
        self, variables: Mapping[Hashable, xr.Variable] | None = None
    ) -> dict[Hashable, xr.Variable]:
        """Return the coordinate variables of this index."""
        known = variables or {}
        return {
            name: xr.Variable(
                (self.dim,), self.frame[name].to_numpy(), known[name].attrs if name in known else {}
            )
            for name in self.frame.columns
        }

    def isel(self, indexers: Mapping[Hashable, Any]) -> Self | None:
        """Select by position. A selection by one scalar position has no index."""
        indexer = indexers.get(self.dim)
        if isinstance(indexer, xr.Variable):
            indexer = indexer.values if indexer.dims == (self.dim,) else None
        if indexer is None or (np.ndim(indexer) != 1 and not isinstance(indexer, slice)):
            return None
        return type(self)(self.frame.iloc[indexer].reset_index(drop=True), self.dim)

    def sel(
        self, labels: dict[Hashable, Any], method: object = None, tolerance: object = None
    ) -> IndexSelResult:
        """Select by any of the three coordinates, each a value, a list or a slice of values."""
        if method is not None or tolerance is not None:
            raise NotFoundError(
                "method= and tolerance= are not supported",
                expected="exact keys",
                where="exam",
                todo="Leave out method= and tolerance=.",
            )
        mask = np.ones(len(self.frame), dtype=bool)
        for name, label in labels.items():
            mask &= _matches(self.frame[name], label)
        found = np.flatnonzero(mask)
        wanted = ", ".join(f"{name}={label!r}" for name, label in labels.items())
        if not found.size:
            raise NotFoundError(
                f"no exam with {wanted}",
                expected=f"one of the {len(self.frame):,} exams of this Dataset",
                where="sel",
                todo="ds.exam.values lists them.",
            )
        scalar = all(
            np.ndim(label) == 0 and not isinstance(label, slice) for label in labels.values()
        )
        if scalar and set(self.frame.columns) <= set(labels) and found.size == 1:
            return IndexSelResult({self.dim: int(found[0])})
        return IndexSelResult({self.dim: found})

    def equals(self, other: xr.Index, *, exclude: frozenset[Hashable] | None = None) -> bool:
        """Return whether both indexes have the same exams in the same order."""
        return (
            isinstance(other, ExamIndex)
            and self.dim == other.dim
            and list(self.frame.columns) == list(other.frame.columns)
            and all(np.array_equal(self.frame[name], other.frame[name]) for name in self.frame)
        )

    def join(self, other: Self, how: str = "inner") -> Self:
        """Combine with the exams of another object, for alignment by xarray.

        Raises
        ------
        InputError
            The exams differ: none in common; or, for the inner join of arithmetic, each has exams
            that the other lacks, or one lacks a visit or a side that the other has of its patients.
        """
        if how in ("left", "right"):
            return self if how == "left" else other
        own, others = self._keys, other._keys
        shared = own.isin(others)
        if how == "inner" and len(self) and len(other):
            _refuse_different(self.frame, other.frame, shared, others.isin(own))
        elif len(self) and len(other) and not shared.any():
            raise _different(self.frame, other.frame, 0)
        keep = own.intersection(others) if how == "inner" else own.union(others)
        frame = pd.concat([self.frame, other.frame]).set_index(own.append(others))
        frame = frame[~frame.index.duplicated()]
        return type(self)(frame.loc[keep].reset_index(drop=True), self.dim)

    def reindex_like(self, other: Self, **_: object) -> dict[Hashable, NDArray[np.intp]]:
        """Return the positions of the exams of `other` in this index, -1 for a missing exam.

        Raises
        ------
        InputError
            No exam in common: the result would have no value.
        """
        found = self._keys.get_indexer(other._keys)
        if len(self) and len(other) and (found < 0).all():
            raise _different(other.frame, self.frame, 0)
        return {self.dim: found}

    def rename(
        self, name_dict: Mapping[Hashable, Hashable], dims_dict: Mapping[Hashable, Hashable]
    ) -> Self:
        """Return the index with renamed coordinates or dimension."""
        names = {str(old): str(new) for old, new in name_dict.items()}
        return type(self)(self.frame.rename(columns=names), str(dims_dict.get(self.dim, self.dim)))

    def to_pandas_index(self) -> pd.MultiIndex:
        """Return the keys as a MultiIndex, for functions of xarray that require pandas."""
        return pd.MultiIndex.from_frame(self.frame)

    def copy(self, deep: bool = True) -> Self:
        """Return a copy."""
        return type(self)(self.frame.copy() if deep else self.frame, self.dim)

    def __len__(self) -> int:
        return len(self.frame)

    def _repr_inline_(self, max_width: int) -> str:
        return f"ExamIndex({len(self)} exams)"


def _refuse_different(
    first: pd.DataFrame,
    second: pd.DataFrame,
    in_second: NDArray[np.bool_],
    in_first: NDArray[np.bool_],
) -> None:
    """Raise an error where an inner join would silently leave out exams that were meant.

    A part of a dataset may be combined with the whole, such as a mask that only some patients have.
    It may not if the part lacks a visit or a side that the whole has of the same patients:
    ``t2 - t2.sel(timepoint=0)`` would be 0 at the first visit, and nothing else.
    """
    shared = int(in_second.sum())
    if not shared or not (in_second.all() or in_first.all()):
        raise _different(first, second, shared)
    part, left_out = (second, first[~in_second]) if in_first.all() else (first, second[~in_first])
    left_out = left_out[left_out["patient"].isin(part["patient"])]
    for name in ("timepoint", "knee"):
        if not left_out[name].isin(part[name]).all():
            raise _different(first, second, shared)


def _different(first: pd.DataFrame, second: pd.DataFrame, shared: int) -> InputError:
    """Return the error for two sets of exams, with the way to combine what was meant."""
    return InputError(
        f"arrays of different exams: {_described(first)}, and {_described(second)}; "
        f"{shared:,} in common",
        expected="the same exams: values are paired by exam, not by position",
        where="exam",
        todo="Pair two visits by knee: a.set_index(exam=['patient', 'knee']) - "
        "b.set_index(exam=['patient', 'knee']); two sides by ['patient', 'timepoint']. Reduce to "
        "the same exams: a.sel(exam=b.exam.values). Join all exams: xr.concat([a, b], 'exam').",
    )


def _described(frame: pd.DataFrame) -> str:
    count = f"{len(frame):,} exam" + "s" * (len(frame) != 1)
    visits, sides = (frame[name].unique().tolist() for name in ("timepoint", "knee"))
    months = ", ".join(map(str, sorted(visits)[:4])) + ", ..." * (len(visits) > 4)
    return f"{count} at {months} months ({' and '.join(sorted(map(str, sides)))})"


def _column(values: Values) -> Values:
    """Convert strings to objects, the only type that NumPy, pandas and xarray index correctly."""
    return values.astype(object) if values.dtype.kind in "TUO" else values


def _matches(column: pd.Series, label: Any) -> NDArray[np.bool_]:
    if isinstance(label, slice):
        mask = np.ones(len(column), dtype=bool)
        if label.start is not None:
            mask &= (column >= label.start).to_numpy()
        if label.stop is not None:  # inclusive, like every label slice
            mask &= (column <= label.stop).to_numpy()
        return mask
    wanted = label.values if hasattr(label, "values") else label
    if np.ndim(wanted) == 0:
        value = wanted.item() if isinstance(wanted, np.ndarray) else wanted
        return np.asarray(column == value)
    return np.asarray(column.isin(list(wanted)))


def attach_index(ds: xr.Dataset) -> xr.Dataset:
    """Return `ds` with one `ExamIndex` over its coordinates patient, timepoint and knee."""
    return ds.set_xindex(list(KEYS), ExamIndex)
