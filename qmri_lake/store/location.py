"""Locations of lakes: paths on this machine, and URLs of object stores."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from qmri_lake.errors import NotALakeError, Reason

__all__ = ["OWNER_NAME", "is_local", "is_web", "local_path", "resolve"]

OWNER_NAME = "writer.json"
"""Name of the file in a local lake that names the host and the process of its writer."""


def is_local(url: str) -> bool:
    """Return whether `url` is a path on this machine."""
    return urlsplit(url).scheme in ("", "file")


def is_web(url: str) -> bool:
    """Return whether `url` is on a web server, which can only be read."""
    return urlsplit(url).scheme in ("http", "https")


def local_path(url: str) -> Path:
    """Return the absolute path of a local `url`, which does not depend on the working folder."""
    if not url.startswith("file://"):
        return Path(url).expanduser().resolve()
    host, slash, path = url.removeprefix("file://").partition("/")
    if host not in ("", "localhost"):
        raise NotALakeError(
            f"a file URL with the host {host!r}",
            expected="file:///folder/name.lake, with three slashes",
            where=url,
            todo="Write a relative path without file://.",
            reason=Reason.NOT_A_LAKE,
        )
    return Path(unquote(slash + path))


def resolve(url: str) -> str:
    """Return the absolute form of `url`, which does not depend on the working folder."""
    return str(local_path(url)) if is_local(url) else url
