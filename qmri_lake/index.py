"""Selection by patient, timepoint and knee: one index over three coordinates of the `exam` axis.

``exam`` itself keeps xarray's ordinary index. A pandas MultiIndex would rename the dimension on a
partial selection and can't be written to Zarr; one index over all four coordinates would make
``ds["x"] = array`` fail, since xarray drops the coordinates of `array` that are not dimensions.

Three functions of xarray do not follow any index over several coordinates. Instead of
``ds.groupby("patient") - means`` write ``ds.groupby("patient").map(...)``, instead of
``ds.reindex(exam=...)`` ``ds.sel(exam=[...])``, and for the keys as columns
``ds.drop_indexes(["patient", "timepoint", "knee"]).to_dataframe()``.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import xarray as xr
from xarray.core.indexing import IndexSelResult

from qmri_lake.errors import NotFoundError

__all__ = ["KEYS", "KeyIndex", "attach_index", "exam_key"]

KEYS = ("patient", "timepoint", "knee")
"""The three coordinates that together name an exam."""


def exam_key(patient: int, timepoint: int, knee: str) -> str:
    """Return the readable key of an exam.

    >>> exam_key(9000798, 24, "right")
    '9000798-024m-right'
    """
    return f"{patient:07d}-{timepoint:03d}m-{knee}"


class KeyIndex(xr.Index):
    """Index over the coordinates `patient`, `timepoint` and `knee`, all on one dimension.

    ``ds.sel(patient=9000001, timepoint=24, knee="right")`` drops the dimension, as any scalar
    selection that finds one element does; a selection by fewer keys keeps it. The columns of
    `frame` are in the order of `KEYS`, whatever a user has renamed them to.
    """

    def __init__(self, frame: pd.DataFrame, dim: str = "exam") -> None:
        self.frame = frame
        self.dim = dim

    @property
    def _keys(self) -> pd.Index[Any]:
        """Exam keys: joins then agree with those of the index of `exam`, order included."""
        return pd.Index([exam_key(*row) for row in self.frame.itertuples(index=False)])

    @classmethod
    def from_variables(
        cls, variables: Mapping[Any, xr.Variable], *, options: Mapping[str, Any]
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
        self, variables: Mapping[Any, xr.Variable] | None = None
    ) -> dict[Any, xr.Variable]:
        """Return the coordinate variables that this index stands for."""
        known = variables or {}
        return {
            name: xr.Variable(
                (self.dim,), self.frame[name].to_numpy(), known[name].attrs if name in known else {}
            )
            for name in self.frame.columns
        }

    def isel(self, indexers: Mapping[Any, Any]) -> Self | None:
        """Select by position; one scalar position leaves no index."""
        indexer = indexers.get(self.dim)
        if isinstance(indexer, xr.Variable):
            indexer = indexer.values if indexer.dims == (self.dim,) else None
        if indexer is None or (np.ndim(indexer) != 1 and not isinstance(indexer, slice)):
            return None
        return type(self)(self.frame.iloc[indexer].reset_index(drop=True), self.dim)

    def sel(self, labels: dict[Any, Any], method: Any = None, tolerance: Any = None) -> Any:
        """Select by any of the three coordinates, each a value, a list or a slice of values."""
        if method is not None or tolerance is not None:
            raise NotFoundError(
                "a nearest-neighbour selection",
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
        """Tell whether both stand for the same exams in the same order."""
        return (
            isinstance(other, KeyIndex)
            and self.dim == other.dim
            and list(self.frame.columns) == list(other.frame.columns)
            and all(np.array_equal(self.frame[name], other.frame[name]) for name in self.frame)
        )

    def join(self, other: Self, how: str = "inner") -> Self:
        """Combine with the exams of another object, as xarray's alignment asks for."""
        if how in ("left", "right"):
            return self if how == "left" else other
        mine, theirs = self._keys, other._keys
        keep = mine.intersection(theirs) if how == "inner" else mine.union(theirs)
        frame = pd.concat([self.frame, other.frame]).set_index(mine.append(theirs))
        frame = frame[~frame.index.duplicated()]
        return type(self)(frame.loc[keep].reset_index(drop=True), self.dim)

    def reindex_like(self, other: Self, **_: Any) -> dict[Hashable, Any]:
        """Return the positions of the other index' exams here, -1 where there is none."""
        return {self.dim: self._keys.get_indexer(other._keys)}

    def rename(self, name_dict: Mapping[Any, Hashable], dims_dict: Mapping[Any, Hashable]) -> Self:
        """Follow a rename of coordinates or of the dimension."""
        names = {str(old): str(new) for old, new in name_dict.items()}
        return type(self)(self.frame.rename(columns=names), str(dims_dict.get(self.dim, self.dim)))

    def to_pandas_index(self) -> pd.Index[Any]:
        """Return the keys as a MultiIndex, for the functions of xarray that want pandas."""
        return pd.MultiIndex.from_frame(self.frame)

    def copy(self, deep: bool = True) -> Self:
        """Return a copy."""
        return type(self)(self.frame.copy() if deep else self.frame, self.dim)

    def __len__(self) -> int:
        return len(self.frame)

    def _repr_inline_(self, max_width: int) -> str:
        return f"KeyIndex({len(self)} exams)"


def _column(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Strings as objects, which NumPy, pandas and xarray all index without surprises."""
    return values.astype(object) if values.dtype.kind in "TUO" else values


def _matches(column: pd.Series[Any], label: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
    if isinstance(label, slice):
        mask = np.ones(len(column), dtype=bool)
        if label.start is not None:
            mask &= (column >= label.start).to_numpy()
        if label.stop is not None:  # inclusive, as every label slice
            mask &= (column <= label.stop).to_numpy()
        return mask
    wanted = label.values if hasattr(label, "values") else label
    if np.ndim(wanted) == 0:
        value = wanted.item() if isinstance(wanted, np.ndarray) else wanted
        return np.asarray(column == value)
    return np.asarray(column.isin(list(wanted)))


def attach_index(ds: xr.Dataset) -> xr.Dataset:
    """Return `ds` with its coordinates patient, timepoint and knee under one `KeyIndex`."""
    return ds.set_xindex(list(KEYS), KeyIndex)
