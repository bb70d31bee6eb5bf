"""Return of a lake to a sound commit, if the newest one cannot be read."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import icechunk

from qmri_lake.errors import NotALakeError, Reason, UnknownRefError
from qmri_lake.store.arrays import open_root
from qmri_lake.store.file_checksums import accept_damage, damaged_files
from qmri_lake.store.head_files import open_damaged_repository
from qmri_lake.store.lake_properties import has_properties
from qmri_lake.store.lock import writer_lock
from qmri_lake.store.repository import (
    BRANCH,
    NewerFormatError,
    commit,
    first_line,
    is_local,
    local_path,
    open_repository,
    resolve,
)

__all__ = [
    "SoundCommit",
    "advice",
    "damaged_commit",
    "is_sound",
    "restore_commit",
    "sound_commits",
    "unreadable_commit",
]

NEWEST = "newest"
"""Name of the newest sound commit for `restore_commit`."""
_SHOWN = 3
"""Number of sound commits in a message."""


@dataclass(frozen=True, slots=True)
class SoundCommit:
    """A commit whose exams can be read."""

    snapshot: str
    written: datetime
    message: str

    def __str__(self) -> str:
        return f"{self.snapshot} of {self.written:%Y-%m-%d %H:%M} ({self.message})"


def unreadable_commit(
    repo: icechunk.Repository, snapshot: str, url: str, cause: Exception
) -> NotALakeError | None:
    """Return the error of a commit that cannot be read; see `damaged_commit`.

    `cause` is the error of reading it. None is returned if the commit is sound but has no root
    group, or if an object store cannot be read at all: then the commit may be sound.
    """
    if not isinstance(cause, icechunk.IcechunkError):
        # Zarr found no root. Icechunk 1 reports a missing commit in the same way.
        try:
            repo.lookup_snapshot(snapshot)
            return None
        except icechunk.IcechunkError as error:
            cause = error
    if not is_local(url) and next(sound_commits(repo, url), None) is None:
        return None
    return damaged_commit(repo, snapshot, url, first_line(cause))


def damaged_commit(repo: icechunk.Repository, snapshot: str, url: str, found: str) -> NotALakeError:
    """Return the error of a damaged commit, with the newest sound ones."""
    return NotALakeError(
        f"the commit {snapshot} is damaged ({found})",
        expected="a commit that can be read",
        where=url,
        todo=advice(repo, url),
        reason=Reason.NOT_A_LAKE,
    )


def advice(repo: icechunk.Repository, url: str) -> str:
    """Return what to do about a damaged commit: the newest sound commits and how to use them."""
    sound = [str(found) for found in itertools.islice(sound_commits(repo, url), _SHOWN)]
    if not sound:
        return "Restore the files of the lake from a copy. Keep the folder."
    return (
        f"Sound commits: {'; '.join(sound)}. Read one with ref=..., or go back to it with "
        "`qmri-lake doctor LAKE --restore SNAPSHOT`. Keep the folder."
    )


def sound_commits(repo: icechunk.Repository, url: str) -> Iterator[SoundCommit]:
    """Yield the commits whose exams can be read, the newest first.

    A damaged commit does not name the one before it. Therefore the commits of a local lake are
    found by their files. On an object store, only tagged commits are found.
    """
    infos = []
    for snapshot in _known_snapshots(repo, url):
        with contextlib.suppress(icechunk.IcechunkError):
            infos.append(repo.lookup_snapshot(snapshot))
    for info in sorted(infos, key=lambda info: info.written_at, reverse=True):
        if is_sound(repo, info.id, url):
            yield SoundCommit(info.id, info.written_at, info.message)


def _known_snapshots(repo: icechunk.Repository, url: str) -> set[str]:
    known = set()
    for tag in repo.list_tags():
        with contextlib.suppress(icechunk.IcechunkError):
            known |= {info.id for info in repo.ancestry(tag=tag)}
    with contextlib.suppress(icechunk.IcechunkError):
        known |= {info.id for info in repo.ancestry(branch=BRANCH)}
    if is_local(url):
        known |= {path.name for path in (local_path(url) / "snapshots").glob("*")}
    return known


def is_sound(repo: icechunk.Repository, snapshot: str, url: str) -> bool:
    """Return whether the exams of a commit can be read, and its files have their checksums."""
    try:
        if damaged_files(url, _files_of(repo, snapshot)):
            return False
        root = open_root(repo.readonly_session(snapshot_id=snapshot).store)
        root["exam"][:]
    except Exception:  # Zarr, its codecs and Icechunk have their own error classes
        return False
    return has_properties(root)


def _files_of(repo: icechunk.Repository, snapshot: str) -> list[str]:
    """Return the paths of the files that list the content of a commit."""
    found = repo.inspect_snapshot(snapshot)
    about = json.loads(found) if isinstance(found, str) else found  # since Icechunk 2, a dict
    return [
        f"snapshots/{snapshot}",
        *(f"manifests/{manifest['id']}" for manifest in about["manifests"]),
    ]


def restore_commit(url: str, snapshot: str) -> str:
    """Make a sound commit the newest one, and return the id of the new commit.

    `snapshot` is the id of a sound commit, or ``"newest"`` for the newest one. The new commit has
    its content; the message and the attribute ``restored`` of the lake name the commit that it
    replaces. No file is removed.

    Raises
    ------
    LakeLockedError
        If another writer holds the lock.
    NotALakeError
        If the lake cannot be opened, or needs a newer Icechunk.
    UnknownRefError
        If `snapshot` is not a sound commit.
    """
    try:
        open_repository(url)
    except NotALakeError as error:
        if isinstance(error, NewerFormatError):
            raise  # before the lock, whose release records checksums
    with writer_lock(resolve(url), url):
        return _restore(open_damaged_repository(url), snapshot, url)


def _restore(repo: icechunk.Repository, snapshot: str, url: str) -> str:
    before = repo.lookup_branch(BRANCH)
    if snapshot == NEWEST:
        newest = next(sound_commits(repo, url), None)
        snapshot = snapshot if newest is None else newest.snapshot
    if not is_sound(repo, snapshot, url):
        listed = [str(found) for found in sound_commits(repo, url)]
        raise UnknownRefError(
            f"{snapshot!r} is not a sound commit",
            expected=f"one of {'; '.join(listed[:_SHOWN]) or '(no commit can be read)'}",
            where=url,
            reason=Reason.UNKNOWN_REF,
        )
    repo.reset_branch(BRANCH, snapshot)

    def note(session: icechunk.Session) -> None:
        attributes = open_root(session.store, "r+").attrs
        now = datetime.now(UTC).isoformat(timespec="seconds")
        entry = {"snapshot": snapshot, "instead_of": before, "date": now}
        attributes["restored"] = [*attributes.get("restored", []), entry]

    restored = commit(repo, note, f"Restore {snapshot} instead of {before}")
    with contextlib.suppress(icechunk.IcechunkError):  # if an earlier commit is damaged too
        accept_damage(url, _needed_files(repo))
    return restored


def _needed_files(repo: icechunk.Repository) -> set[str]:
    """Return the paths of the files that the history and the tags need."""
    commits = [info.id for info in repo.ancestry(branch=BRANCH)]
    for tag in repo.list_tags():
        commits += [info.id for info in repo.ancestry(tag=tag)]
    needed = {f"transactions/{snapshot}" for snapshot in commits}
    for snapshot in set(commits):
        needed.update(_files_of(repo, snapshot))
    return needed
