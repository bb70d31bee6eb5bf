"""Room on disk for what a training writes: asked for before, and told in one line when it ends."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qmri_lake.errors import DiskFullError, Reason
from qmri_lake.storage import disk_full

__all__ = ["check_room", "spelled", "told_when_full"]


def check_room(folder: Path, needed: int, what: str) -> int:
    """Return the free bytes of a folder's file system, or refuse to write more than that.

    Parameters
    ----------
    folder : Path
        It need not exist yet.
    needed : int
        Bytes that will be written there.
    what : str
        What they are, for the error.

    Raises
    ------
    DiskFullError
        Less room than is needed.
    """
    there = folder.absolute()
    free = shutil.disk_usage(next(p for p in (there, *there.parents) if p.exists())).free
    if needed > free:
        raise DiskFullError(
            f"{spelled(free)} free",
            expected=f"{spelled(needed)} for {what}",
            where=str(folder),
            todo="Free some space, choose fewer exams, or train into a folder of a larger disk.",
            reason=Reason.DISK_FULL,
        )
    return free


def spelled(size: int) -> str:
    """Return bytes as people say them.

    >>> spelled(173_955_000_000), spelled(2_400_000)
    ('174.0 GB', '2.4 MB')
    """
    return f"{size / 1e9:,.1f} GB" if size >= 10**9 else f"{size / 1e6:,.1f} MB"


@contextmanager
def told_when_full(folder: Path, what: str) -> Iterator[None]:
    """Turn "no space" from the file system into one clear error."""
    try:
        yield
    except OSError as error:
        full = disk_full(error, str(folder))
        if full is None:
            raise
        raise DiskFullError(
            full.found,
            expected=f"room for {what}",
            where=str(folder),
            todo="Free some space and go on with --resume: what was finished is kept.",
            reason=Reason.DISK_FULL,
        ) from error
