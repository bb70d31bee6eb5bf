"""Errors of damaged mask files: cut off, changed, extended, or larger than any mask."""

from __future__ import annotations

from qmri_lake.core.text import format_bytes
from qmri_lake.errors import InputError, Reason

__all__ = ["LARGEST", "check_size", "checksum_mismatch", "trailing_bytes", "truncated"]

LARGEST = 2**31
"""Largest content of a file [bytes]. Twice a mask of 512 x 512 x 512 numbers of 8 bytes.
[assumption]"""

_AGAIN = "Copy or download it again."


def check_size(size: int, where: str) -> None:
    """Raise an error if a file declares more bytes than any mask has."""
    if size > LARGEST:
        raise InputError(
            f"a content of {format_bytes(size)}",
            expected=f"at most {format_bytes(LARGEST)}",
            where=where,
            todo="If the mask is that large, save it as 8-bit integers.",
            reason=Reason.OVERSIZED_MASK,
        )


def truncated(found: str, where: str) -> InputError:
    """Return the error for a file that ends too early."""
    return InputError(
        found, expected="a whole file", where=where, todo=_AGAIN, reason=Reason.TRUNCATED_FILE
    )


def trailing_bytes(found: str, where: str) -> InputError:
    """Return the error for a file that does not end where it should."""
    return InputError(
        found,
        expected="the end of the file",
        where=where,
        todo="The header or the content is damaged: copy or download it again.",
        reason=Reason.TRAILING_BYTES,
    )


def checksum_mismatch(found: str, where: str) -> InputError:
    """Return the error for a file whose content differs from its checksum."""
    return InputError(
        found,
        expected="an intact file",
        where=where,
        todo=_AGAIN,
        reason=Reason.CHECKSUM_MISMATCH,
    )
