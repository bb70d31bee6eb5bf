"""Tables of clinical values and region averages: CSV or Parquet, wide and long, with a dictionary.

Tables are written in batches of exams, so that memory does not grow with the lake.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyarrow import Table as ArrowTable  # type: ignore[attr-defined]
from pyarrow.parquet import ParquetWriter

from qmri_lake.core.array_api import Values
from qmri_lake.core.atomic_write import atomic_write, atomic_write_text
from qmri_lake.core.json_types import JsonObject
from qmri_lake.exporting.format_declaration import Each, Format
from qmri_lake.exporting.table_dictionary import data_dictionary, long_dictionary
from qmri_lake.lake.cohort import Cohort
from qmri_lake.lake.reading import visits_of
from qmri_lake.lake.synthetic_exams import SYNTHETIC, is_synthetic
from qmri_lake.schema.exam_index import KEYS
from qmri_lake.schema.variable import Variable, decode_flags
from qmri_lake.store.arrays import Node

__all__ = ["CSV", "PARQUET", "TABLE_NAMES", "Column", "refuse_long_rows", "write_tables"]

_BATCH = 4096
"""Exams that are in memory at the same time, as in a chunk of small arrays."""
_MOST_VALUES = 256
"""Most values of one exam in a table."""

TABLE_NAMES = ("exams", "values", "visits")
"""Wide table with a row for each exam; long table with a row for each value; table of visits."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the wide table: one value of a variable."""

    name: str
    path: str
    variable: Variable
    index: tuple[int, ...]
    """Position of the value in the array of an exam."""
    place: Mapping[str, object]
    """Label of the position along each dimension, such as ``{"region": "cMF"}``."""

    @property
    def kind(self) -> str:
        """Type of the values: ``text``, ``integer`` or ``number``."""
        if self.variable.flags is not None or self.variable.dtype == "string":
            return "text"
        return "integer" if np.dtype(self.variable.dtype).kind in "iub" else "number"


def refuse_long_rows(variable: Variable) -> str:
    """Return why a table cannot hold a variable; "" if it can."""
    if variable.bulk:
        return "is a volume or a map"
    values = int(np.prod([variable.sizes.get(dim, 1) for dim in variable.dims], dtype=np.int64))
    return f"has {values} values for each exam" if values > _MOST_VALUES else ""


def write_tables(
    cohort: Cohort, chosen: Mapping[str, Variable], out: Path, suffix: str, about: JsonObject
) -> list[Path]:
    """Write ``exams``, ``values`` and, if chosen, ``visits``, with ``columns.json``.

    Parameters
    ----------
    cohort : Cohort
    chosen : mapping of path to Variable
        Variables of the tables.
    out : Path
        Folder of the files.
    suffix : {".csv", ".parquet"}
    about : mapping
        Lake, snapshot and version, which the dictionary repeats.

    Returns
    -------
    list of Path
        The files. ``exams`` has a row for each exam: its key, patient, timepoint and knee, and a
        column for each value. ``values`` has a row for each value. Missing values are empty cells
        of CSV and nulls of Parquet. Flags are written by name.
    """
    root = cohort.lake.root
    # Every row says whether the exam is synthetic.
    exams = {p: v for p, v in chosen.items() if v.first_axis == "exam" and p != SYNTHETIC.path}
    visits = {path: v for path, v in chosen.items() if v.first_axis == "visit"}
    columns = [column for path, v in exams.items() for column in _columns(root, path, v)]
    synthetic = is_synthetic(cohort.lake)
    tables: dict[str, list[JsonObject]] = {}
    files: list[Path] = []
    wide, long = (out / f"{name}{suffix}" for name in TABLE_NAMES[:2])
    if columns:
        with _table(wide, suffix) as write_wide, _table(long, suffix) as write_long:
            for first in range(0, len(cohort), _BATCH):
                rows = cohort.rows[first : first + _BATCH]
                keys = cohort.lake.keys_at(rows)[["exam", *KEYS]].reset_index(drop=True)
                keys["synthetic"] = synthetic[rows]
                read = _reader(root, rows)
                values = {
                    c.name: _series(np.moveaxis(read(c.path), 0, -1)[c.index], c) for c in columns
                }
                write_wide(pd.concat([keys, pd.DataFrame(values)], axis=1))
                for part in _long_rows(keys["exam"], columns, values):
                    write_long(part)
        tables[wide.name] = data_dictionary(columns)
        tables[long.name] = long_dictionary(columns)
        files += [wide, long]
    if visits:
        table, its_columns = _visit_table(cohort, root, visits)
        path = out / f"{TABLE_NAMES[2]}{suffix}"
        with _table(path, suffix) as write:
            write(table)
        tables[path.name] = data_dictionary(its_columns, exams=False)
        files.append(path)
    dictionary = out / f"columns.{suffix[1:]}.json"
    resources = [
        {"name": Path(name).stem, "path": name, "schema": {"fields": fields, "missingValues": [""]}}
        for name, fields in tables.items()
    ]
    text = {"profile": "data-package", "resources": resources, **about}
    atomic_write_text(dictionary, json.dumps(text, indent=2) + "\n")
    return [*files, dictionary]


def _columns(root: Node, path: str, variable: Variable) -> Iterator[Column]:
    """Yield a column for each value of an exam, named by the labels of its position."""
    group, _, name = path.partition("/")
    labels = {}
    for dim in variable.dims:
        size, coordinate = variable.sizes[dim], f"{group}/{dim}"
        known = coordinate in root and root[coordinate].ndim == 1
        labels[dim] = root[coordinate][...].tolist() if known else list(range(size))
    for index in itertools.product(*(range(variable.sizes[dim]) for dim in variable.dims)):
        place = {dim: labels[dim][n] for dim, n in zip(variable.dims, index, strict=True)}
        plain = name if group == "clinical" else f"{group}_{name}"
        yield Column("_".join([plain, *map(str, place.values())]), path, variable, index, place)


def _reader(root: Node, rows: NDArray[np.intp]) -> Callable[[str], Values]:
    """Return a function that reads an array for a batch of exams, once."""
    known: dict[str, Values] = {}

    def read(path: str) -> Values:
        if path not in known:
            known.clear()  # columns of one array follow one another
            known[path] = root[path].oindex[rows]
        return known[path]

    return read


def _series(values: Values, column: Column) -> pd.Series[Any]:
    """Return values with a nullable type; missing ones are NA, and flags have their names."""
    variable = column.variable
    if variable.flags is not None:
        return pd.Series(decode_flags(values, variable.flags), dtype="string")
    if column.kind == "text":
        return pd.Series(values.astype(object), dtype="string").replace("", pd.NA)
    if column.kind == "integer":
        numbers = pd.Series(values.astype(np.int64), dtype="Int64")
        return numbers.mask(numbers == int(variable.fill))
    # float32 keeps its type: CSV then has its shortest digits, and Parquet its bits.
    return pd.Series(values, dtype="Float32" if values.dtype == np.float32 else "Float64").mask(
        pd.Series(np.isnan(values))
    )


def _long_rows(
    exams: pd.Series[Any], columns: Sequence[Column], values: Mapping[str, pd.Series[Any]]
) -> Iterator[pd.DataFrame]:
    """Yield the rows of the long table, a column of the wide one at a time; no missing values."""
    for column in columns:
        there = values[column.name].notna().to_numpy()
        numeric = column.kind != "text"
        mine = values[column.name][there]
        yield pd.DataFrame(
            {
                "exam": exams[there].astype("string"),
                "variable": pd.Series(column.path, mine.index, dtype="string"),
                "place": pd.Series(
                    " ".join(str(label) for label in column.place.values()) or pd.NA,
                    mine.index,
                    dtype="string",
                ),
                "value": mine.astype("Float64")
                if numeric
                else pd.Series(pd.NA, mine.index, dtype="Float64"),
                "text": pd.Series(pd.NA, mine.index, dtype="string") if numeric else mine,
                "unit": pd.Series(column.variable.unit or pd.NA, mine.index, dtype="string"),
            }
        )


def _visit_table(
    cohort: Cohort, root: Node, chosen: Mapping[str, Variable]
) -> tuple[pd.DataFrame, list[Column]]:
    """Return the visits of the patients of a cohort; they are few numbers for each visit."""
    at = visits_of(root["visit/patient"][...], cohort.lake.patients[cohort.rows])
    names = list(dict.fromkeys([*(f"visit/{key}" for key in KEYS), *chosen]))
    columns = []
    for path in names:
        variable = chosen.get(path) or Variable.from_array("visit", path[6:], root[path])
        columns.append(Column(path.partition("/")[2], path, variable, (), {}))
    return (
        pd.DataFrame({c.name: _series(root[c.path].oindex[at], c) for c in columns}),
        columns,
    )


@contextmanager
def _table(path: Path, suffix: str) -> Iterator[Callable[[pd.DataFrame], None]]:
    """Write a table atomically in parts; yield the function that writes one."""
    with ExitStack() as stack:
        unfinished = stack.enter_context(atomic_write(path))
        if suffix == ".csv":
            stream = stack.enter_context(open(unfinished, "w", encoding="utf-8", newline=""))
            header = True

            def write_csv(part: pd.DataFrame) -> None:
                nonlocal header
                if header or len(part):
                    part.to_csv(stream, index=False, header=header, quoting=csv.QUOTE_MINIMAL)
                header = False

            yield write_csv
            return
        writer: Any = None

        def write_parquet(part: pd.DataFrame) -> None:
            nonlocal writer
            table = ArrowTable.from_pandas(part, preserve_index=False)
            if writer is None:
                made: Any = ParquetWriter
                writer = stack.enter_context(made(unfinished, table.schema))
            writer.write_table(table.cast(writer.schema))

        yield write_parquet


def _table_format(name: str, readers: str, loses: str) -> Format:
    return Format(
        name=name,
        suffix=f".{name}",
        each=Each.EXAM,
        content=f"`exams.{name}`, a row for each exam; `values.{name}`, a row for each value; "
        f"`visits.{name}`, if you name `visit`; `columns.{name}.json`, a data dictionary with "
        "description, unit, range, labels and missing value",
        loses=loses,
        readers=readers,
        refuse=refuse_long_rows,
        writer=None,
        pattern="exams",
        fixed_names=True,
        write_all=write_tables,
    )


_ONLY = "volumes and maps don't fit"
PARQUET = _table_format("parquet", "pandas, R `arrow`, DuckDB, MATLAB `parquetread`, Polars", _ONLY)
CSV = _table_format("csv", "everything", _ONLY + "; types are in the dictionary only")
