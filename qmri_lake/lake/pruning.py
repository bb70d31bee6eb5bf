"""Removal of old commits of a lake, with the values that only they contain."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import icechunk

from qmri_lake.core.text import counted, format_bytes
from qmri_lake.errors import RunError
from qmri_lake.store.file_checksums import rewriting_files
from qmri_lake.store.repository import BRANCH, is_local, local_path

if TYPE_CHECKING:
    from qmri_lake.store.snapshot import Snapshot

__all__ = ["Pruning", "expire_commits", "prune_lake"]

_SHORTEST_ON_OBJECT_STORE = timedelta(days=1)
"""Minimum age of removed commits on an object store, where active writers may still use younger
ones."""

_CHUNKS = "chunks"
"""Folder of a local repository that contains the chunks. Manifests give the sizes of the chunks."""


@dataclass(frozen=True, slots=True)
class Pruning:
    """Commits that were removed, or would be removed. Print it to see them."""

    url: str
    older_than: timedelta
    removed: tuple[str, ...]
    """Ids of the removed commits, the newest first."""
    kept: int
    """Number of kept commits of the history."""
    tags: tuple[str, ...]
    """Names of the tags. Their commits are kept."""
    size: int | None
    """Number of bytes that are no longer needed; None if unknown, for lakes on an object store."""
    done: bool
    """Whether the commits were removed."""

    def __str__(self) -> str:
        if not self.removed:
            return f"{self.url}: no commit is older than {_days(self.older_than)}"
        verb = "removed" if self.done else "would remove"
        size = "" if self.size is None else f" ({format_bytes(self.size)})"
        tags = f" and {counted(len(self.tags), 'tag')} ({', '.join(self.tags)})"
        return (
            f"{self.url}: {verb} {counted(len(self.removed), 'commit')} older than "
            f"{_days(self.older_than)}{size}; {counted(self.kept, 'commit')}"
            f"{tags if self.tags else ''} {'are' if self.done else 'would be'} kept"
        )


def prune_lake(lake: Snapshot, older_than: timedelta, *, dry_run: bool) -> Pruning:
    """Remove old commits; see `Lake.prune`."""
    if older_than < timedelta(0):
        raise RunError(f"older_than = {older_than}", expected="at least 0", where=lake.url)
    if not is_local(lake.location) and older_than < _SHORTEST_ON_OBJECT_STORE:
        raise RunError(
            f"older_than = {older_than}",
            expected="at least one day on an object store, where other writers may be active",
            where=lake.url,
        )
    if dry_run:
        return _prune(lake, older_than, dry_run=True)
    with lake.writing(), rewriting_files(lake.location):
        return _prune(lake, older_than, dry_run=False)


def _prune(lake: Snapshot, older_than: timedelta, *, dry_run: bool) -> Pruning:
    limit = datetime.now(UTC) - older_than
    repo = lake.reopened()
    history = list(repo.ancestry(branch=BRANCH))
    tags = {name: repo.lookup_tag(name) for name in sorted(repo.list_tags())}
    # Icechunk keeps the newest commit, the one that created the repository, and tagged commits.
    kept = {history[0].id, history[-1].id, *tags.values()}
    removed = [info.id for info in history if info.written_at < limit and info.id not in kept]
    size = _freed(lake, limit) if removed and is_local(lake.location) else None
    if not dry_run:
        # Remove objects even if no commit expires: an earlier pruning may have been killed here.
        expire_commits(lake, limit if removed else None, limit)
    return Pruning(
        url=lake.url,
        older_than=older_than,
        removed=tuple(removed),
        kept=len(history) - len(removed),
        tags=tuple(tags),
        size=size,
        done=not dry_run,
    )


def expire_commits(lake: Snapshot, limit: datetime | None, unneeded: datetime) -> int:
    """Remove commits written before `limit`, and objects that no commit needs from then on.

    Only objects written before `unneeded` are removed. Return the total size of the removed objects
    in bytes.
    """
    repo = lake.reopened()
    if limit is not None:
        repo.expire_snapshots(limit)
    size = repo.garbage_collect(unneeded).bytes_deleted
    lake.refresh()
    return int(size)


def _freed(lake: Snapshot, limit: datetime) -> int:
    """Return the number of bytes that only old commits need.

    Icechunk cannot report this number in advance. Therefore the commits are removed from a
    temporary copy of the repository without its chunks, whose sizes are stored in the manifests.
    """
    folder = local_path(lake.location)
    with tempfile.TemporaryDirectory(prefix="qmri-lake-") as temporary:
        copy = Path(temporary) / folder.name
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(_CHUNKS))
        repo = icechunk.Repository.open(icechunk.local_filesystem_storage(str(copy)))
        repo.expire_snapshots(limit)
        metadata = repo.garbage_collect(limit, dry_run=True).bytes_deleted
        after = repo.chunk_storage_stats().native_bytes
    return int(lake.repo.chunk_storage_stats().native_bytes - after + metadata)


def _days(span: timedelta) -> str:
    days = span / timedelta(days=1)
    return "a day" if days == 1 else f"{days:g} days"
