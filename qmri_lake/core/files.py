"""Atomic writes, digests, free disk space and errors of a full disk."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import icechunk

from qmri_lake.core.text import format_bytes
from qmri_lake.errors import DiskFullError, Reason

__all__ = [
    "NEWER_FORMAT",
    "atomic_write",
    "atomic_write_bytes",
    "atomic_write_text",
    "check_room",
    "disk_full",
    "disk_full_errors",
    "is_repository",
    "sha256_of",
]

# The lock of lakes makes local commits safe, so Icechunk's warning about them does not apply. This
# module is below all others that use Icechunk.
icechunk.set_logs_filter("error")


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, unique: bool = False) -> Iterator[Path]:
    """Replace a file atomically: readers see the whole old content or the whole new content.

    Write to the yielded path inside the ``with`` block. At the end of the block, the file is
    flushed to the disk and renamed to `path`; then the folder is flushed, so that the new content
    also survives a loss of power. If the block raises an error, the unfinished file is removed and
    `path` keeps its old content. It also does so if the process is killed.

    Parameters
    ----------
    path : path
        The file to create or replace. Its folder must exist.
    unique : bool
        Use a separate unfinished file for each call, so that several processes can write the same
        file at the same time; the last rename wins. If a process is killed, its unfinished file
        remains. Without `unique`, the next write replaces the unfinished file.

    Yields
    ------
    Path
        The unfinished file, ``part.<name>`` in the same folder (``part.<hex>.<name>`` if `unique`).
        It has the suffix of `path`, which ``numpy.savez`` and Keras require.

    Examples
    --------
    >>> with atomic_write(folder / "values.npz") as unfinished:  # doctest: +SKIP
    ...     np.savez(unfinished, values=values)

    `atomic_write_text` and `atomic_write_bytes` write text and bytes in the same way.
    """
    final = Path(path)
    token = f"{uuid4().hex[:12]}." if unique else ""
    unfinished = final.with_name(f"part.{token}{final.name}")
    try:
        yield unfinished
        _flush(unfinished)
        unfinished.replace(final)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    if os.name != "nt":  # Windows cannot open a folder; its rename is flushed with the file
        _flush(final.parent)


def atomic_write_text(path: str | os.PathLike[str], text: str, *, unique: bool = False) -> None:
    """Replace a file atomically by UTF-8 text; see `atomic_write`."""
    with atomic_write(path, unique=unique) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes, *, unique: bool = False) -> None:
    """Replace a file atomically by bytes; see `atomic_write`."""
    with atomic_write(path, unique=unique) as unfinished:
        unfinished.write_bytes(data)


def _flush(path: Path) -> None:
    """Flush a file or the entries of a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_RUST_ERRNO = re.compile(r"\(os error (\d+)\)")
"""Error number in the text of a system error of Rust, as contained in Icechunk's messages."""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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


NEWER_FORMAT = re.compile(r"uses Icechunk v(\d+) format")
"""Part of Icechunk's message for a repository that only a newer version can read."""


def is_repository(folder: str | os.PathLike[str]) -> bool:
    """Return whether a local folder contains an Icechunk repository of any format.

    Icechunk is queried, because the file names inside a repository are not documented. It is not
    queried for a missing folder, which it would create, nor for a folder without read permission.
    """
    path = os.fspath(folder)
    if not os.path.isdir(path) or not os.access(path, os.R_OK | os.X_OK):
        return False
    try:
        storage = icechunk.local_filesystem_storage(path)
        if icechunk.Repository.exists(storage):
            return True
        # Icechunk 1 does not find a repository of format 2, but its error on opening one names
        # the format.
        icechunk.Repository.open(storage)
    except UnicodeEncodeError:  # Icechunk accepts no names in other encodings
        return False
    except icechunk.IcechunkError as error:
        return NEWER_FORMAT.search(str(error)) is not None
    return True
