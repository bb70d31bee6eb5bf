"""Recognition of Icechunk repositories, and of formats that need a newer Icechunk."""

from __future__ import annotations

import os
import re

import icechunk

__all__ = ["NEWER_FORMAT", "is_repository"]

# The lock of lakes makes local commits safe, so Icechunk's warning about them does not apply. The
# warning is silenced here, because all modules that open repositories import this one.
icechunk.set_logs_filter("error")

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
