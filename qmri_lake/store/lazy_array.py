"""Lazy arrays of exams, whose errors name the array and the exams that cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.schema.exam_index import KEYS, exam_key
from qmri_lake.store.chunk_errors import named_chunk_errors
from qmri_lake.store.process import check_process

if TYPE_CHECKING:
    from qmri_lake.store.snapshot import Snapshot

__all__ = ["ExamKeys", "lazy_variable"]

Index = int | slice | NDArray[np.integer]

_SHOWN = 3
"""Number of exams in a message."""


class ExamKeys:
    """Keys of the exams of lazy arrays, in few bytes: they are sent to workers with each graph."""

    def __init__(self, keys: pd.DataFrame) -> None:
        patient, timepoint, knee = (keys[name].to_numpy() for name in KEYS)
        self._numbers = np.asarray(patient, np.int64), np.asarray(timepoint, np.int32)
        self._right = np.asarray(knee == "right", np.bool_)

    @cached_property
    def token(self) -> str:
        """Token of the exams, for the names of Dask arrays."""
        return str(tokenize(*self._numbers, self._right))

    def names(self, selection: Index) -> str:
        """Return the keys of the first selected exams, for messages."""
        columns = (*self._numbers, self._right)
        patient, timepoint, right = (np.atleast_1d(column[selection]) for column in columns)
        shown = [
            exam_key(int(p), int(t), "right" if r else "left")
            for p, t, r in zip(patient[:_SHOWN], timepoint[:_SHOWN], right[:_SHOWN], strict=True)
        ]
        more = len(patient) - len(shown)
        return ", ".join(shown) + (f" or {more:,} others" if more else "")


class _LazyArray:
    """Source of a Dask array: reads the selected values of a variable, with named errors."""

    def __init__(self, variable: xr.Variable, path: str, keys: ExamKeys, url: str) -> None:
        self.variable, self.path, self.keys, self.url = variable, path, keys, url
        self.shape, self.dtype, self.ndim = variable.shape, variable.dtype, variable.ndim

    def __getitem__(self, selection: tuple[Index, ...]) -> Values:
        check_process(self.url)
        with named_chunk_errors(self.path, lambda: self.keys.names(selection[0]), self.url):
            return np.asarray(self.variable[selection].values)


def lazy_variable(
    lake: Snapshot, path: str, variable: xr.DataArray, keys: ExamKeys, chunks: Mapping[str, int]
) -> xr.Variable:
    """Return a variable as a Dask array whose blocks are read from the lake.

    Parameters
    ----------
    lake : Snapshot
        The lake, for messages.
    path : str
        Path of the stored array, for messages.
    variable : DataArray
        Variable that xarray reads from the lake; its first dimension is `exam`.
    keys : ExamKeys
        Keys of its exams.
    chunks : mapping from str to int
        Number of elements of one block along each dimension; -1 for all.
    """
    source: Any = _LazyArray(variable.variable, path, keys, lake.location)
    sizes = tuple(chunks[str(dim)] for dim in variable.dims)
    meta = np.empty((0,) * source.ndim, source.dtype)
    token = tokenize(lake.location, lake.snapshot, path, source.shape, keys.token)
    array = da.from_array(  # type: ignore[no-untyped-call]
        source, sizes, name=f"{path}-{token}", asarray=True, meta=meta
    )
    return xr.Variable(variable.dims, array, variable.attrs, variable.encoding)
