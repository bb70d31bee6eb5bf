"""Kinds of values by what they say about a person. A variable declares its kind.

`qmri_lake.lake.deidentification` treats each kind as stated here, and `qmri_lake.lake.identifiers`
lists where they are stored.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["OWN_TABLE", "Privacy", "Treatment"]

OWN_TABLE = "ingest_table_"
"""Start of the name of the step of a user's own table; the name of the table follows."""


class Treatment(StrEnum):
    """What a pseudonymised lake contains instead of a value."""

    KEEP = "kept"
    REPLACE = "replaced by the new number"
    SHIFT = "shifted by the offset of the patient"
    REMOVE = "removed"
    NAMED = "removed, unless the variable is named as a product"


class Privacy(StrEnum):
    """Kind of the values of a variable."""

    PATIENT = "patient number"
    EXAM = "exam key"
    DATE = "date"
    UID = "UID"
    TEXT = "free text"
    OWN = "own column"
    CHARACTERISTIC = "patient characteristic"
    INTERVAL = "time since enrolment"
    WORD = "word of a closed list"
    MEASUREMENT = "measurement"

    @property
    def treatment(self) -> Treatment:
        """How a pseudonymised lake treats such values."""
        return _TREATMENTS.get(self, Treatment.KEEP)

    @property
    def identifies(self) -> bool:
        """Whether the values can identify a person, alone or together with others."""
        return self not in (Privacy.WORD, Privacy.MEASUREMENT)

    @property
    def purpose(self) -> str:
        """What a lake needs such values for."""
        return _PURPOSES[self]


_TREATMENTS = {
    Privacy.PATIENT: Treatment.REPLACE,
    Privacy.EXAM: Treatment.REPLACE,
    Privacy.DATE: Treatment.SHIFT,
    Privacy.UID: Treatment.REMOVE,
    Privacy.TEXT: Treatment.REMOVE,
    Privacy.OWN: Treatment.NAMED,
}

_PURPOSES = {
    Privacy.PATIENT: "joins knees and visits of a patient; splits keep patients together",
    Privacy.EXAM: "identifies a knee at a visit, in selections and messages",
    Privacy.DATE: "orders events; only intervals are needed",
    Privacy.UID: "recognises a series that is delivered again; analysis does not need it",
    Privacy.TEXT: "explains to people; analysis does not need it",
    Privacy.OWN: "column of your own table, whose meaning only you know",
    Privacy.CHARACTERISTIC: "matching, models and Table 1; rare combinations can identify a person",
    Privacy.INTERVAL: "follow-up and outcomes; contains no date",
    Privacy.WORD: "says which of a few declared words holds",
    Privacy.MEASUREMENT: "image, map or measured value",
}
