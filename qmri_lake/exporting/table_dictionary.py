"""The data dictionary of exported tables: Frictionless fields with units and label names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from qmri_lake.core.json_types import JsonObject
from qmri_lake.schema.exam_index import KEYS
from qmri_lake.schema.variable import Variable

__all__ = ["data_dictionary", "long_dictionary"]


class DescribedColumn(Protocol):
    """A column with the declaration of its variable."""

    @property
    def name(self) -> str:
        """Name in the table."""

    @property
    def path(self) -> str:
        """Path of the variable in the lake."""

    @property
    def variable(self) -> Variable:
        """Declaration of the variable."""

    @property
    def kind(self) -> str:
        """``text``, ``integer`` or ``number``."""


_TYPES = {"text": "string", "integer": "integer", "number": "number"}
_KEYS: list[JsonObject] = [
    {"name": "exam", "type": "string", "description": "Key of the exam"},
    {"name": KEYS[0], "type": "integer", "description": "Patient number"},
    {"name": KEYS[1], "type": "integer", "description": "Months after enrolment", "unit": "month"},
    {
        "name": KEYS[2],
        "type": "string",
        "description": "Side of the knee",
        "constraints": {"enum": ["left", "right"]},
    },
    {
        "name": "synthetic",
        "type": "boolean",
        "description": "Whether the exam is marked as synthetic",
    },
]


def data_dictionary(columns: Sequence[DescribedColumn], *, exams: bool = True) -> list[JsonObject]:
    """Return the fields of a wide table, with description, unit, range, labels and missing value.

    Parameters
    ----------
    columns : sequence of Column
    exams : bool
        Whether the columns with the keys of exams come first.
    """
    return [*(_KEYS if exams else []), *map(_field, columns)]


def long_dictionary(columns: Sequence[DescribedColumn]) -> list[JsonObject]:
    """Return the fields of the long table."""
    named = sorted({column.path for column in columns})
    return [
        _KEYS[0],
        {
            "name": "variable",
            "type": "string",
            "description": "Variable of the lake",
            "constraints": {"enum": named},
        },
        {"name": "place", "type": "string", "description": "Label in the array, such as a region"},
        {"name": "value", "type": "number", "description": "Value of a number, in `unit`"},
        {"name": "text", "type": "string", "description": "Value of a text, or name of a label"},
        {"name": "unit", "type": "string", "description": "Unit of the number"},
    ]


def _field(column: DescribedColumn) -> JsonObject:
    variable = column.variable
    field: JsonObject = {
        "name": column.name,
        "type": _TYPES[column.kind],
        "description": variable.description,
        "variable": column.path,
    }
    if variable.unit:
        field["unit"] = variable.unit
    if variable.fill_meaning:
        field["missing"] = variable.fill_meaning
    constraints: JsonObject = {}
    if variable.flags is not None:
        field["flags"] = {name: int(value) for name, value in variable.flags.items()}
        constraints["enum"] = list(variable.flags)
    elif variable.valid_range is not None:
        constraints["minimum"], constraints["maximum"] = variable.valid_range
    if constraints:
        field["constraints"] = constraints
    if variable.step:
        field["step"] = variable.step
    return field
