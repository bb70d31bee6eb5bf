"""The lock that allows one writer at a time on a local lake."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

import psutil
from filelock import FileLock, Timeout

from qmri_lake.core.atomic_write import atomic_write_text
from qmri_lake.errors import LakeLockedError
from qmri_lake.store.chunk_errors import check_folder
from qmri_lake.store.file_checksums import record_files
from qmri_lake.store.location import OWNER_NAME, is_local, local_path
from qmri_lake.store.repository import translated_errors

__all__ = ["is_locked", "lock_owner", "writer_lock"]

LOCK_NAME = "writer.lock"

_log = logging.getLogger(__name__)


class Owner(TypedDict):
    """The process that holds a lock, or that was killed while it held the lock."""

    host: str
    process: int
    program: str
    since: str


@contextlib.contextmanager
def writer_lock(url: str, shown: str | None = None) -> Iterator[None]:
    """Hold the exclusive right to commit to a local lake.

    The operating system releases the lock when the process ends, even if it is killed. Error
    messages show `shown`, the URL that the user gave; default: `url`.

    Raises
    ------
    NotALakeError
        If the folder no longer exists.
    LakeLockedError
        If another process holds the lock (the message names the process), or if the folder is not
        writable.
    """
    where = shown or url
    if not is_local(url):
        yield
        return
    check_folder(url)  # the lock would create the folder
    folder = local_path(url)
    lock, owner = FileLock(folder / LOCK_NAME), folder / OWNER_NAME
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise LakeLockedError(
            f"another writer holds the lock ({_owner(owner)})",
            expected="one writer at a time",
            where=where,
            todo="Wait until it ends, or stop it. Reading is possible meanwhile.",
        ) from None
    except OSError as error:
        raise LakeLockedError(
            f"the folder is not writable ({error.strerror})",
            expected="write permission",
            where=where,
            todo='Open it with mode="r" to read.',
        ) from error
    try:
        record = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "program": Path(sys.argv[0]).name or "python",
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with translated_errors(where):
            atomic_write_text(owner, json.dumps(record))
        _log.debug("locked %s", where)
        yield
    finally:
        try:
            record_files(url)
        finally:
            owner.unlink(missing_ok=True)
            lock.release()


def lock_owner(url: str) -> Owner | None:
    """Return the writer that has not released the lock: it is running, or it was killed."""
    path = local_path(url) / OWNER_NAME if is_local(url) else None
    if path is None or not path.exists():
        return None
    unknown = Owner(host="unknown", process=-1, program="unknown", since="unknown")
    return _read_owner(path) or unknown


def is_locked(url: str) -> bool:
    """Return whether a writer holds the lock of a local lake."""
    path = local_path(url) / LOCK_NAME
    if not is_local(url) or not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # no permission: check whether the recorded process exists
        owner = lock_owner(url)
        return owner is not None and psutil.pid_exists(owner["process"])
    lock.release()
    return False


def _owner(path: Path) -> str:
    record = _read_owner(path)
    if record is None:
        return "a process that has not written its record yet"
    return "process {process} of {program} on {host}, since {since}".format(**record)


def _read_owner(path: Path) -> Owner | None:
    """Return the record of a writer; None if it is absent, incomplete or not ours."""
    try:
        record = json.loads(path.read_text())
        return Owner(
            host=str(record["host"]),
            process=int(record["process"]),
            program=str(record["program"]),
            since=str(record["since"]),
        )
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return None
