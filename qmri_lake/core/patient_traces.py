"""Traces of one patient in texts, JSON values and bytes: number, exam keys, identifier."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from qmri_lake.core.compressed_parts import Part

__all__ = ["REMOVED", "PatientTraces"]

REMOVED = "(removed)"
"""Text that replaces the number or an exam key of a removed patient."""

_SHORTEST = 1_000_000
"""Smallest number that is searched as an integer. Smaller numbers occur with other meanings."""
_DIGEST = 12
"""Length of the shortest hexadecimal digest. Digits in a digest must not be changed."""
_HEXADECIMAL = frozenset("0123456789abcdef")
_MARGIN = 80
"""Number of bytes beside a number that are read to recognise keys and digests."""
_SHORTEST_TEXT = 4
"""Smallest number of characters of an identifier that is searched in texts."""
_INTEGERS = {4: "<u4", 8: "<u8"}
"""Types of integers by their size in bytes."""


@dataclass(frozen=True)
class PatientTraces:
    """The ways in which a patient is named: the number with at least 7 digits, alone or in a key.

    A number below 1,000,000 is found in texts only with leading zeros, as in exam keys, and not as
    an integer, because small numbers have other meanings. Digits in a digest, and digits after a
    point in decimals and DICOM UIDs, are ignored.

    An identifier of the study, such as ``P007``, is found in texts if it has at least 4 characters
    and a digit, because other words have other meanings. In bytes, it is found as a stored text.
    """

    patient: int
    study_id: str = ""
    """Identifier of the patient in the study; "" if it is the number."""

    @property
    def number(self) -> str:
        """The number as text with at least 7 digits, as at the start of exam keys."""
        return f"{self.patient:07d}"

    @property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(rf"(?<!\d)(?<!\d\.)0*{self.number}(?!\d)(?:-\d+m-(?:left|right))?")

    @cached_property
    def _identifier(self) -> re.Pattern[str] | None:
        text = self.study_id
        if len(text) < _SHORTEST_TEXT or not any(map(str.isdigit, text)):
            return None
        return re.compile(rf"(?<![^\W_]){re.escape(text)}(?![^\W_])")

    def in_text(self, text: str) -> bool:
        """Return whether a text names the patient."""
        if self._identifier is not None and self._identifier.search(text):
            return True
        return self.number in text and any(
            not _in_digest(found) for found in self._pattern.finditer(text)
        )

    def in_value(self, value: object) -> bool:
        """Return whether a JSON value names the patient, at any depth."""
        return bool(self.without(value) != value)

    def without(self, value: Any) -> Any:
        """Return a text or JSON value in which `REMOVED` replaces the number and the exam keys."""
        if isinstance(value, str):
            if self._identifier is not None:
                value = self._identifier.sub(REMOVED, value)
            return self._pattern.sub(_replacement, value) if self.number in value else value
        if isinstance(value, (list, tuple)):
            return [self.without(item) for item in value]
        if isinstance(value, dict):
            return {self.without(name): self.without(item) for name, item in value.items()}
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return REMOVED if self.patient >= _SHORTEST and value == self.patient else value
        return value

    def in_part(self, part: Part) -> bool:
        """Return whether bytes contain the number as text, or as an element of an integer array.

        Integers are searched only in compressed arrays, whose size of elements is known.
        """
        return (
            self._has_text(part.data)
            or self._has_integer(part)
            or any(written in part.data for written in self._written)
        )

    @cached_property
    def _written(self) -> tuple[bytes, ...]:
        """The identifier as arrays of texts and JSON store it: with its length, or in quotes.

        The bytes of a short identifier alone would occur in images by chance.
        """
        text = self.study_id.encode()
        return (len(text).to_bytes(4, "little") + text, b'"' + text + b'"') if text else ()

    def _has_text(self, data: bytes) -> bool:
        number = self.number.encode()
        at = data.find(number)
        while at >= 0:
            beside = data[max(at - _MARGIN, 0) : at + len(number) + _MARGIN]
            if self.in_text(beside.decode("latin-1")):
                return True
            at = data.find(number, at + 1)
        return False

    def _has_integer(self, part: Part) -> bool:
        kind = _INTEGERS.get(part.item_size) if part.compressed else None
        if kind is None or not _SHORTEST <= self.patient < 2 ** (8 * part.item_size - 1):
            return False
        items = np.frombuffer(part.data, kind, len(part.data) // part.item_size)
        return bool((items == self.patient).any())


def _in_digest(found: re.Match[str]) -> bool:
    """Return whether a number is a part of a hexadecimal digest."""
    text, start, end = found.string, found.start(), found.end()
    while start > 0 and text[start - 1] in _HEXADECIMAL:
        start -= 1
    while end < len(text) and text[end] in _HEXADECIMAL:
        end += 1
    return end - start >= max(_DIGEST, len(found[0]) + 1)


def _replacement(found: re.Match[str]) -> str:
    return found[0] if _in_digest(found) else REMOVED
