"""Return of a lake to a sound commit, if the newest one cannot be read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import icechunk

from qmri_lake.errors import NotALakeError, Reason, UnknownRefError
from qmri_lake.store.arrays import open_root
from qmri_lake.store.lock import writer_lock
from qmri_lake.store.repository import (
    BRANCH,
    commit,
    first_line,
    is_local,
    local_path,
    open_repository,
    resolve,
)

__all__ = ["SoundCommit", "damaged_commit", "restore_commit", "sound_commits"]

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


def damaged_commit(
    repo: icechunk.Repository, snapshot: str, url: str, cause: Exception
) -> NotALakeError | None:
    """Return the error of a commit that cannot be read, with the newest sound ones.

    `cause` is the error of reading it. None is returned if the commit is sound but has no root
    group, or if an object store cannot be read at all: then the commit may be sound.
    """
    if not isinstance(cause, icechunk.IcechunkError):
        # Zarr found no root. Icechunk 1 reports a commit that is not there in the same way.
        try:
            repo.lookup_snapshot(snapshot)
            return None
        except icechunk.IcechunkError as error:
            cause = error
    sound = [str(found) for found, _ in zip(sound_commits(repo, url), range(_SHOWN), strict=False)]
    if sound:
        todo = (
            f"Sound commits: {'; '.join(sound)}. Read one with ref=..., or go back to it with "
            "`qmri-lake doctor LAKE --restore SNAPSHOT`. Keep the folder."
        )
    elif is_local(url):
        todo = "Restore the files of the lake from a copy. Keep the folder."
    else:
        return None
    return NotALakeError(
        f"the commit {snapshot} is damaged ({first_line(cause)})",
        expected="a commit that can be read",
        where=url,
        todo=todo,
        reason=Reason.NOT_A_LAKE,
    )


def sound_commits(repo: icechunk.Repository, url: str) -> Iterator[SoundCommit]:
    """Yield the commits whose exams can be read, the newest first.

    A damaged commit does not name the one before it. Therefore the commits of a local lake are
    found by their files, and those of an object store by tags.
    """
    infos = []
    for snapshot in _known_snapshots(repo, url):
        with contextlib.suppress(icechunk.IcechunkError):
            infos.append(repo.lookup_snapshot(snapshot))
    for info in sorted(infos, key=lambda info: info.written_at, reverse=True):
        if _is_sound(repo, info.id):
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


def _is_sound(repo: icechunk.Repository, snapshot: str) -> bool:
    try:
        root = open_root(repo.readonly_session(snapshot_id=snapshot).store)
        root["exam"][:]
    except Exception:  # Zarr, its codecs and Icechunk have their own error classes
        return False
    return "qmri_lake" in root.attrs


def restore_commit(url: str, snapshot: str) -> str:
    """Make a sound commit the newest one, and return the id of the new commit.

    The new commit has the content of `snapshot`; its message and the attribute ``restored`` of the
    lake name the commit that it replaces. No file is removed.

    Raises
    ------
    LakeLockedError
        If another writer holds the lock.
    UnknownRefError
        If `snapshot` is not a sound commit.
    """
    with writer_lock(resolve(url), url):
        return _restore(open_repository(url), snapshot, url)


def _restore(repo: icechunk.Repository, snapshot: str, url: str) -> str:
    before = repo.lookup_branch(BRANCH)
    if not _is_sound(repo, snapshot):
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

    return commit(repo, note, f"Restore {snapshot} instead of {before}")
