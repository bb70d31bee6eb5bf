"""Free disk space, and errors of a full disk."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import icechunk

from qmri_lake.core.text import format_bytes
from qmri_lake.errors import DiskFullError, Reason

__all__ = ["check_room", "disk_full", "disk_full_errors"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_RUST_ERRNO = re.compile(r"\(os error (\d+)\)")
"""Error number in the text of a system error of Rust, as contained in Icechunk's messages."""


def check_room(folder: Path, needed: int, what: str) -> int:
    """Return the free bytes of a folder's file system, or raise an error if they are too few.

    Parameters
    ----------
    folder : Path
        The folder. It need not exist yet.
    needed : int
        Number of bytes that will be written to the folder.
    what : str
        What will be written, for the error message.

    Raises
    ------
    DiskFullError
        If less than `needed` is free.
    """
    absolute = folder.absolute()
    existing = next(p for p in (absolute, *absolute.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise DiskFullError(
            f"{format_bytes(free)} free",
            expected=f"{format_bytes(needed)} for {what}",
            where=str(folder),
            todo="Free some space, choose fewer exams, or train into a folder on a larger disk.",
            reason=Reason.DISK_FULL,
        )
    return free


@contextmanager
def disk_full_errors(folder: Path, what: str) -> Iterator[None]:
    """Turn errors of a full disk into `DiskFullError`; `what` was being written to `folder`."""
    try:
        yield
    except OSError as error:
        full = disk_full(error, str(folder))
        if full is None:
            raise
        raise DiskFullError(
            full.found,
            expected=f"space for {what}",
            where=str(folder),
            todo="Free some space and resume with --resume: finished work is kept.",
            reason=Reason.DISK_FULL,
        ) from error


def disk_full(error: BaseException, where: str) -> DiskFullError | None:
    """Return the `DiskFullError` to raise if `error` reports a full disk, else None.

    The error number is compared, not the text, because the text of an exception that a step raises
    may also contain "File too large".
    """
    number = next((n for e in (error, error.__cause__) if (n := _errno(e)) in _FULL), None)
    if number is None:
        return None
    return DiskFullError(
        "a limit on file size" if number == errno.EFBIG else "no space left",
        expected="space for the next exams",
        where=where,
        todo="Free some space and start again: committed exams are safe and will be skipped.",
        reason=Reason.DISK_FULL,
    )


def _errno(error: BaseException | None) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if not isinstance(error, (OSError, icechunk.IcechunkError, ValueError)):
        return None
    try:
        match = _RUST_ERRNO.search(str(error))
    except Exception:  # __str__ of a user's exception may raise
        return None
    return int(match[1]) if match else None
