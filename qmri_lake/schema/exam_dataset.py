"""Datasets of exams: as tables they contain the keys, and other exams cannot be assigned.

Neither can be done by an index. xarray leaves all indexed coordinates out of a table, and before it
aligns an array that is assigned, it drops the coordinates that the Dataset has too.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Self

import pandas as pd
import xarray as xr

from qmri_lake.schema.exam_index import ExamIndex

__all__ = ["Dataset"]


class Dataset(xr.Dataset):  # type: ignore[no-untyped-call]  # its __init_subclass__
    """A Dataset with an `ExamIndex`; everything else is as in xarray.

    Selections and new variables keep the type. Functions that make a new Dataset of several, and
    arithmetic, return a plain one: compare the two by ``equals`` or ``identical``.
    """

    __slots__ = ()

    @classmethod
    def of(cls, ds: xr.Dataset) -> Self:
        """Return a Dataset with the same variables, coordinates, indexes and attributes."""
        made = cls({name: ds.variables[name] for name in ds.data_vars}, ds.coords, ds.attrs)
        made.encoding = ds.encoding
        return made

    def to_dataframe(self, dim_order: Sequence[Hashable] | None = None) -> pd.DataFrame:
        """Return a table as xarray does, with the columns patient, timepoint and knee first."""
        keys = [name for name, index in self.xindexes.items() if isinstance(index, ExamIndex)]
        table = super(Dataset, self.drop_indexes(keys)).to_dataframe(dim_order)
        return table[[*keys, *table.columns.difference(keys, sort=False)]]

    def where(self, *args: Any, **options: Any) -> Self:
        """Mask or drop values as xarray does."""
        return self.of(super().where(*args, **options))

    def update(self, other: Any) -> None:
        """Add or replace variables, also by ``ds[name] = array`` and ``ds.assign``.

        Raises
        ------
        InputError
            An array has none of the exams of this Dataset: all its values would be missing.
        """
        mine = _exams_of(self)
        if mine is not None and isinstance(other, Mapping):
            for value in other.values():
                theirs = _exams_of(value) if isinstance(value, xr.DataArray) else None
                if theirs is not None:
                    theirs.reindex_like(mine)
        super().update(other)


def _exams_of(array: xr.Dataset | xr.DataArray) -> ExamIndex | None:
    return next((i for i in array.xindexes.values() if isinstance(i, ExamIndex)), None)
