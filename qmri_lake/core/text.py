"""Numbers, sizes, times and errors formatted as text, and suggestions for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from datetime import UTC, datetime

from qmri_lake.errors import QmriLakeError, printable

__all__ = [
    "ago",
    "counted",
    "did_you_mean",
    "format_bytes",
    "format_shape",
    "in_one_line",
    "one_line",
    "status_message",
]

_LONGEST_MESSAGE = 1000
"""Maximum number of characters, because a chunk contains the messages of 4,096 exams."""


def one_line(error: BaseException) -> str:
    """Return an exception as one line, with its class name unless it is a `QmriLakeError`.

    A `MemoryError`, which often has no text, is described.
    """
    name, text = type(error).__name__, in_one_line(error)
    if isinstance(error, QmriLakeError):
        return text
    if isinstance(error, MemoryError):
        return f"too little memory ({text})" if text else "too little memory"
    return f"{name}: {text or name}"


def status_message(error: BaseException) -> str:
    """Return an exception as one line for a status, with the reason code of an input error first.

    A pseudonymised lake keeps the code and omits the text.
    """
    reason = getattr(error, "reason", None) if isinstance(error, QmriLakeError) else None
    return f"{reason}: {one_line(error)}" if reason else one_line(error)


def in_one_line(value: object) -> str:
    """Return the text of `value` for storage in a status: one line, shortened, valid Unicode."""
    try:
        text = " ".join(str(value)[: 2 * _LONGEST_MESSAGE].split())
    except Exception:  # __str__ of a user's exception may raise
        return ""
    if len(text) > _LONGEST_MESSAGE:
        text = text[:_LONGEST_MESSAGE] + " ..."
    return printable(text)


def counted(n: int, noun: str) -> str:
    """Return a number with its noun: ``1 exam``, ``2,000 exams``."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def format_bytes(n: float) -> str:
    """Return a number of bytes with a binary unit, as Dask formats it.

    >>> format_bytes(173_955_000_000), format_bytes(2_400_000)
    ('162.01 GiB', '2.29 MiB')
    """
    from dask import utils  # imported here to keep the import of qmri_lake fast

    return str(utils.format_bytes(int(n)))


def ago(moment: datetime) -> str:
    """Return the time since `moment` in words, for example ``5 min ago``."""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60), (129600, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds / 86400:.0f} days ago"


def format_shape(sizes: Iterable[int]) -> str:
    """Return the sizes of an array as text.

    >>> format_shape((160, 384, 384))
    '160 x 384 x 384'
    """
    return " x ".join(str(size) for size in sizes)


def did_you_mean(name: str, known: Iterable[str], *, n: int = 3, cutoff: float = 0.6) -> str:
    """Return a question that suggests the most similar known names, or "" if none is similar."""
    near = difflib.get_close_matches(name, list(known), n=n, cutoff=cutoff)
    return f"Did you mean {' or '.join(map(repr, near))}?" if near else ""
