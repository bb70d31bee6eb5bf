"""Values of header elements: texts, and numbers read strictly."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from pydicom.datadict import keyword_for_tag
from pydicom.tag import BaseTag

from qmri_lake.errors import InputError, Reason

__all__ = ["Values", "parse_number"]

_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""Numbers of DICOM. Python also accepts ``1_0`` and digits of other scripts."""
_SHOWN = 40
"""Maximum number of characters of a value in a message. [assumption]"""


@dataclass(slots=True)
class Values:
    """Values of one header by key, and the errors of invalid values.

    A number that is absent is NaN or the default. A number that is present but invalid is also
    returned as absent, and is added to `faults`.
    """

    name: str
    """Name of the file, for messages."""
    texts: Mapping[str, str]
    tags: Mapping[str, BaseTag]
    faults: list[InputError] = field(default_factory=list)

    def __getitem__(self, key: str) -> str:
        return self.texts[key]

    def number(self, key: str, absent: float = math.nan) -> float:
        """Return one number."""
        numbers = self.numbers(key, 1)
        return numbers[0] if numbers else absent

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        """Return `count` numbers, or an empty tuple."""
        text = self.texts[key]
        if not text:
            return ()
        numbers = tuple(parse_number(part) for part in text.split("\\"))
        if len(numbers) == count and not any(map(math.isnan, numbers)):
            return numbers
        comma = "," in text
        self.fault(
            key,
            f"{'one number' if count == 1 else f'{count} numbers'}"
            + (" with a decimal point" if comma else ""),
            "Replace the decimal commas by points, or export the series again." if comma else "",
        )
        return ()

    def whole(self, key: str, absent: int) -> int:
        """Return one whole number."""
        number = self.number(key, float(absent))
        if number == int(number):
            return int(number)
        self.fault(key, "a whole number")
        return absent

    def fault(self, key: str, expected: str, todo: str = "") -> None:
        """Add an invalid value to the faults."""
        text = self.texts[key]
        shown = repr(text[:_SHOWN]) + (" ..." if len(text) > _SHOWN else "")
        self.faults.append(
            InputError(
                f"{_keyword(self.tags[key])} = {shown}",
                expected=expected,
                where=self.name,
                todo=todo or "Correct the header, or export the series again.",
                reason=Reason.UNREADABLE_VALUE,
            )
        )


def parse_number(text: str) -> float:
    """Return a finite number, or NaN for any other text.

    >>> parse_number(" 3.5 "), parse_number("0,5"), parse_number("1_0"), parse_number("1e999")
    (3.5, nan, nan, nan)
    """
    text = text.strip(" \0")
    if not _DECIMAL.fullmatch(text):
        return math.nan
    value = float(text)
    return value if math.isfinite(value) else math.nan


@cache
def _keyword(tag: BaseTag) -> str:
    return keyword_for_tag(tag)
