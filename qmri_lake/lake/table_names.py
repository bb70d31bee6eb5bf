"""Names of the columns of a user's table, which queries can use."""

from __future__ import annotations

import keyword
import re
import unicodedata

from qmri_lake.errors import InputError, Reason
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.exam_index import KEYS

__all__ = ["column_name"]


def column_name(source: str, prefix: str = "", table: str = "", new: str = "") -> str:
    """Return the name of a column in a lake, which a query can use.

    Characters that are not letters, digits or underscores become single underscores. A `new` name
    is used as it is.

    >>> column_name("WOMAC total (0-96)")
    'WOMAC_total_0_96'

    Raises
    ------
    InputError
        If the name would be a number, a word of the query language, a key, or a dimension.
    """
    text = unicodedata.normalize("NFKC", new or source)
    plain = re.sub(r"[\W_]+", "_", text).strip("_")
    name = unicodedata.normalize("NFKC", prefix) + (text if new else plain)
    if not plain or not name.isidentifier() or "__" in name:
        raise _refused_name(source, name, table, "letters, digits and single underscores", plain)
    if keyword.iskeyword(name) or name in _reserved():
        expected = "a name that the lake or a query does not use"
        raise _refused_name(source, name, table, expected, plain)
    return name


def _reserved() -> set[str]:
    dims = {dim for variable in REGISTRY for dim in variable.dims}
    return {*KEYS, *dims, "exam", "visit", "missing"}


def _refused_name(source: str, name: str, table: str, expected: str, plain: str) -> InputError:
    other = f"own_{plain or 'column'}"
    key = f"If it is the {source.lower()}, give --{source.lower()} {source!r}. "
    return InputError(
        f"the name {name!r} of column {source!r}",
        expected=expected,
        where=table,
        todo=f"{key if source.lower() in KEYS else ''}To store it under another name, give "
        f"--columns {other}={source!r} or --prefix own_.",
        reason=Reason.UNREADABLE_VALUE,
    )
