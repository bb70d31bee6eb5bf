"""Rebuild the files of a local lake that name its newest commit, if they are damaged."""

from __future__ import annotations

import contextlib
from pathlib import Path

import icechunk

from qmri_lake.core.atomic_write import atomic_write_bytes
from qmri_lake.errors import NotALakeError
from qmri_lake.store.location import is_local, local_path
from qmri_lake.store.repository import (
    BRANCH,
    NewerFormatError,
    open_repository,
    repository_config,
)

__all__ = ["earlier_heads", "open_damaged_repository"]

_EARLIER = "overwritten"
"""Folder in which Icechunk 2 keeps the earlier versions of the file ``repo``."""


def open_damaged_repository(url: str) -> icechunk.Repository:
    """Open a repository; if this fails on a local lake, rebuild the files that name its commits.

    Damaged files are kept as ``damaged-NAME`` in the folder of the lake. In format 1, these are the
    configuration and the reference to the newest commit; the latter then names the newest snapshot.
    In format 2, it is the file ``repo``, of which Icechunk keeps the earlier versions.

    Raises
    ------
    NotALakeError
        If the repository still cannot be opened, or if it needs a newer Icechunk. In the latter
        case, nothing is rebuilt.
    """
    try:
        return open_repository(url)
    except NewerFormatError:
        raise
    except NotALakeError:
        if not is_local(url) or not any((local_path(url) / "snapshots").glob("*")):
            raise
    folder = local_path(url)
    if (folder / _EARLIER).is_dir():
        return _open_earlier(url, folder)
    return _open_newest(url, folder)


def earlier_heads(url: str) -> list[Path]:
    """Return the earlier versions of the file ``repo`` of a local lake, the newest first.

    They list commits that may have expired since then, with their messages. Lakes of format 1 have
    none.
    """
    return sorted((local_path(url) / _EARLIER).glob("repo.*")) if is_local(url) else []


def _open_earlier(url: str, folder: Path) -> icechunk.Repository:
    """Replace the file ``repo`` by its newest earlier version that can be read."""
    repo = folder / "repo"
    _set_aside(repo, folder)
    for earlier in earlier_heads(url):
        atomic_write_bytes(repo, earlier.read_bytes())
        with contextlib.suppress(NotALakeError):
            return open_repository(url)
    return open_repository(url)


def _open_newest(url: str, folder: Path) -> icechunk.Repository:
    """Let the branch refer to the newest snapshot, and write the configuration of new lakes."""
    reference = folder / "refs" / f"branch.{BRANCH}" / "ref.json"
    snapshots = {path.name: path.stat().st_mtime_ns for path in (folder / "snapshots").iterdir()}
    if not reference.exists() or reference.read_bytes() not in map(_line, snapshots):
        _set_aside(reference, folder)
        reference.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(reference, _line(max(snapshots, key=lambda name: snapshots[name])))
    with contextlib.suppress(NotALakeError):
        return open_repository(url)
    _set_aside(folder / "config.yaml", folder)
    repo = open_repository(url).reopen(repository_config())
    repo.save_config()
    return repo


def _line(snapshot: str) -> bytes:
    return b'{"snapshot":"%s"}' % snapshot.encode()


def _set_aside(path: Path, folder: Path) -> None:
    if path.exists():
        path.replace(folder / f"damaged-{path.name}")
