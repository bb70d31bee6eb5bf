"""Icechunk repositories of lakes: opening by URL, formats, commits and partial files.

A commit is atomic: readers always see the last complete commit, even if a writer fails. A local
lake has one committer at a time, which holds a lock of the operating system; the lock ends with the
process. An object store has no lock: if another writer commits first, the changes are applied again
on top of that commit.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import icechunk

from qmri_lake.core.disk_full import disk_full
from qmri_lake.core.repository_format import NEWER_FORMAT
from qmri_lake.errors import (
    CommitConflictError,
    NotALakeError,
    Reason,
    RunError,
    UnknownRefError,
)
from qmri_lake.schema.variable import EXAM_CHUNK
from qmri_lake.store.file_checksums import damaged_files
from qmri_lake.store.location import is_local, is_web, local_path, resolve
from qmri_lake.store.process import check_process

__all__ = [
    "BRANCH",
    "NewerFormatError",
    "commit",
    "create_repository",
    "first_line",
    "is_local",
    "local_path",
    "newest_format",
    "open_repository",
    "partial_files",
    "readonly_session",
    "repository_config",
    "resolve",
    "storage_format",
    "translated_errors",
    "upgrade_repository",
]

BRANCH = "main"

_log = logging.getLogger(__name__)

_COMMIT_TRIES = 20
_SHOWN = 3
"""Number of damaged files in a message."""
_MARK = "attempt"
"""Key of the metadata by which a writer recognises its own commit."""
_ABSENT = re.compile("repository doesn't exist")
"""Icechunk's message for a missing repository. The class is not enough to identify this error,
because Icechunk 1 has one class for all errors."""
_NOT_EMPTY = re.compile("can only be created in clean prefixes")
_SNAPSHOT_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{20}")  # Crockford base 32


def _storage(url: str) -> icechunk.Storage:
    """Return Icechunk's storage for a path or URL: ``s3://``, ``gs://``, ``az://``, ``https://``.

    Credentials come from the environment. For an S3-compatible server set ``AWS_ENDPOINT_URL``.
    """
    if is_local(url):
        return icechunk.local_filesystem_storage(str(local_path(url)))
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    if parts.scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        return icechunk.s3_storage(
            bucket=parts.netloc,
            prefix=prefix,
            from_env=True,
            region=os.environ.get("AWS_REGION"),
            endpoint_url=endpoint,
            allow_http=bool(endpoint and endpoint.startswith("http://")),
            force_path_style=endpoint is not None,
        )
    if parts.scheme == "gs":
        return icechunk.gcs_storage(bucket=parts.netloc, prefix=prefix, from_env=True)
    if parts.scheme == "az":
        account, _, container = parts.netloc.rpartition("@")
        return icechunk.azure_storage(
            account=account, container=container, prefix=prefix, from_env=True
        )
    if is_web(url):
        return _web_storage(url)
    raise NotALakeError(
        f"the URL scheme {parts.scheme}:// is not supported",
        expected="a folder, s3://, gs://, az://account@container/ or https://",
        where=url,
        reason=Reason.NOT_A_LAKE,
    )


def _web_storage(url: str) -> icechunk.Storage:
    """Return Icechunk's read-only storage for an ``http://`` or ``https://`` URL."""
    if not hasattr(icechunk, "http_storage"):  # since Icechunk 2
        raise NotALakeError(
            f"Icechunk {icechunk.__version__} cannot read a lake on a web server",
            expected="Icechunk 2 or later",
            where=url,
            todo="Run: pip install 'icechunk>=2'. Or copy the lake to this machine.",
            reason=Reason.NOT_A_LAKE,
        )
    storage: icechunk.Storage = icechunk.http_storage(url.rstrip("/"))
    return storage


def create_repository(url: str) -> icechunk.Repository:
    """Create an empty repository.

    Raises
    ------
    NotALakeError
        If the path exists and is not an empty folder, if it is not writable, or if the URL is
        invalid.
    """
    if is_web(url):
        raise NotALakeError(
            "a lake on a web server can only be read",
            expected="a folder or an object store for a new lake",
            where=url,
            reason=Reason.NOT_A_LAKE,
        )
    if is_local(url):
        path = local_path(url)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise NotALakeError(
                "the path exists and is not an empty folder",
                expected="a new folder",
                where=url,
                todo="Choose another path for the new lake.",
                reason=Reason.NOT_A_LAKE,
            )
        _make_folder(path, url)
    try:
        with translated_errors(url):
            return icechunk.Repository.create(_storage(url), repository_config())
    except icechunk.IcechunkError as error:
        if not _NOT_EMPTY.search(str(error)):
            raise
        raise NotALakeError(
            "the location is not empty, and contains no lake",
            expected="an empty location",
            where=url,
            todo="Choose another URL for the new lake. If the creation of a lake was interrupted "
            "here, its objects can be removed.",
            reason=Reason.NOT_A_LAKE,
        ) from error


def repository_config() -> icechunk.RepositoryConfig:
    """Return the configuration of new repositories, with manifests split along the exam axis.

    Without the split, each commit would rewrite the manifest of all exams, and commits would become
    slower as the lake grows.
    """
    by_exam = icechunk.ManifestSplittingConfig.from_dict(
        {
            icechunk.ManifestSplitCondition.AnyArray(): {
                icechunk.ManifestSplitDimCondition.Axis(0): EXAM_CHUNK
            }
        }
    )
    config = icechunk.RepositoryConfig.default()
    config.manifest = icechunk.ManifestConfig(splitting=by_exam)
    return config


def _make_folder(path: Path, url: str) -> None:
    """Create the folder of a lake; Icechunk would panic if it is not writable."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise NotALakeError(
            f"the folder is not writable ({error.strerror})",
            expected="a folder with write permission",
            where=url,
            todo="Choose another folder for the new lake, or change its permissions.",
            reason=Reason.NOT_A_LAKE,
        ) from error


class NewerFormatError(NotALakeError):
    """The lake is sound, but the installed Icechunk cannot read its format."""


def open_repository(url: str) -> icechunk.Repository:
    """Open an existing repository. No write permission is needed.

    Raises
    ------
    NotALakeError
        If there is no repository, or if the installed Icechunk cannot read it.
    """
    if is_local(url) and not local_path(url).is_dir():
        # This check comes first, because Icechunk would create the folder.
        raise _no_lake("the path is a file" if local_path(url).is_file() else "no such folder", url)
    if is_local(url) and not os.access(local_path(url), os.R_OK | os.X_OK):
        raise _no_lake("the folder is not readable", url, "Check its permissions.")
    check_process(url)
    try:
        return icechunk.Repository.open(_storage(url))
    except icechunk.IcechunkError as error:
        newer = NEWER_FORMAT.search(str(error))
        if newer is not None:
            raise NewerFormatError(
                f"Icechunk format {newer[1]}",
                expected=f"at most format {newest_format()}, the newest that Icechunk "
                f"{icechunk.__version__} supports",
                where=url,
                todo=f"Install Icechunk {newer[1]} or later: pip install 'icechunk>={newer[1]}'.",
                reason=Reason.NOT_A_LAKE,
            ) from error
        if is_local(url) and _is_damaged(url):
            raise _damaged(url, error) from error
        if is_local(url) and _ABSENT.search(str(error)):
            raise _no_lake("the folder contains no lake", url) from None
        raise NotALakeError(
            f"cannot be opened ({first_line(error)})",
            expected="a lake",
            where=url,
            todo="Check the URL. A web server needs a lake of format 2: qmri-lake upgrade LAKE."
            if is_web(url)
            else "Check the URL and the credentials.",
            reason=Reason.NOT_A_LAKE,
        ) from error


def _is_damaged(url: str) -> bool:
    """Return whether a local folder that cannot be opened contains commits or damaged files."""
    return bool(damaged_files(url)) or any((local_path(url) / "snapshots").glob("*"))


def _damaged(url: str, error: icechunk.IcechunkError) -> NotALakeError:
    names = [line.partition(":")[0] for line in damaged_files(url)]
    more = ", ..." if len(names) > _SHOWN else ""
    files = f": {', '.join(names[:_SHOWN])}{more}" if names else ""
    return NotALakeError(
        f"the lake cannot be opened ({first_line(error)})",
        expected="undamaged files",
        where=url,
        todo=f"Restore the damaged files from a copy of the lake{files}. Without a copy, "
        "`qmri-lake doctor LAKE --restore newest` returns to the newest sound commit. Keep "
        "the folder.",
        reason=Reason.NOT_A_LAKE,
    )


def _no_lake(found: str, url: str, todo: str = "Check the path.") -> NotALakeError:
    return NotALakeError(
        found,
        expected="a folder created by `qmri-lake ingest` or ql.create_lake()",
        where=url,
        todo=todo,
        reason=Reason.NOT_A_LAKE,
    )


def newest_format() -> int:
    """Return the newest storage format that the installed Icechunk supports."""
    versions = getattr(icechunk, "SpecVersion", None)  # since Icechunk 2
    return 1 if versions is None else int(versions.current())


def storage_format(repo: icechunk.Repository) -> int:
    """Return the storage format of a repository."""
    return int(getattr(repo, "spec_version", 1))  # since Icechunk 2


def upgrade_repository(repo: icechunk.Repository, url: str) -> icechunk.Repository:
    """Convert a repository to the newest storage format, and return the reopened repository.

    Snapshots keep their ids, so the history, tags and references to snapshots stay valid.

    Raises
    ------
    RunError
        If the installed Icechunk supports format 1 only.
    """
    if newest_format() == 1:
        raise RunError(
            f"Icechunk {icechunk.__version__} supports format 1 only",
            expected="Icechunk 2 or later",
            where=url,
            todo="Run: pip install 'icechunk>=2'.",
        )
    if storage_format(repo) == newest_format():
        return repo
    with translated_errors(url):
        upgrade = icechunk.upgrade_icechunk_repository  # type: ignore[attr-defined,unused-ignore]
        upgraded: icechunk.Repository = upgrade(repo, dry_run=False)
    return upgraded


def readonly_session(repo: icechunk.Repository, ref: str | None, url: str) -> icechunk.Session:
    """Open a tag, a branch or a snapshot for reading; by default, the newest commit.

    Raises
    ------
    UnknownRefError
        If `ref` is not a tag, branch or snapshot.
    """
    if ref is None or ref == BRANCH:
        return repo.readonly_session(branch=BRANCH)
    tags, branches = sorted(repo.list_tags()), sorted(repo.list_branches())
    if ref in tags:
        return repo.readonly_session(tag=ref)
    if ref in branches:
        return repo.readonly_session(branch=ref)
    if _SNAPSHOT_ID.fullmatch(ref):
        # If no snapshot has this id, the error below reports the name.
        with contextlib.suppress(icechunk.IcechunkError):
            repo.lookup_snapshot(ref)
            return repo.readonly_session(snapshot_id=ref)
    raise UnknownRefError(
        f"no tag, branch or snapshot {ref!r}",
        expected=f"a tag ({', '.join(tags) or 'none yet'}), a branch ({', '.join(branches)}) "
        "or a snapshot id",
        where=url,
        todo="`lake.history()` lists the snapshots; `lake.tag(name)` creates a tag.",
        reason=Reason.UNKNOWN_REF,
    )


def commit(
    repo: icechunk.Repository,
    change: Callable[[icechunk.Session], None],
    message: str | Callable[[], str],
    metadata: Mapping[str, object] | Callable[[], Mapping[str, object]] | None = None,
) -> str:
    """Apply `change` to the newest commit and commit it atomically; return the snapshot id.

    If `message` or `metadata` is a function, it is called after `change`.

    If `change` has no effect, nothing is committed. This happens, for example, if an ingest resumes
    and has no exams to add. `change` must be repeatable: if another writer commits first, `change`
    is applied again on top of that commit. If both commits changed the same chunk, Icechunk's own
    conflict solvers would keep one version and discard the statuses in the other.

    Raises
    ------
    CommitConflictError
        If other writers committed first 20 times in a row.
    """
    for attempt in range(1, _COMMIT_TRIES + 1):
        session = repo.writable_session(BRANCH)
        change(session)
        if not session.has_uncommitted_changes:
            return session.snapshot_id
        try:
            text = message() if callable(message) else message
            about = metadata() if callable(metadata) else metadata
            mark = uuid4().hex
            snapshot: str = session.commit(text, metadata={**(about or {}), _MARK: mark})
        except icechunk.ConflictError:
            if (made := _find_commit(repo, session.snapshot_id, mark)) is not None:
                _log.info("committed %s: %s; the response was lost", made, text)
                return made
            _log.warning(
                "another commit was faster: applying %r again (%d of %d)",
                text,
                attempt,
                _COMMIT_TRIES,
            )
            continue
        _log.info("committed %s: %s", snapshot, text)
        return snapshot
    raise CommitConflictError(
        f"other commits were faster {_COMMIT_TRIES} times in a row",
        expected="fewer concurrent writers",
        where=text,
        todo="Nothing was lost. Start again to resume.",
    )


def _find_commit(repo: icechunk.Repository, parent: str, mark: str) -> str | None:
    """Return the commit after `parent` with this mark, if there is one.

    If the response of an object store to a commit is lost, the client of Icechunk repeats the
    request, and finds that the branch has moved: to its own commit.
    """
    for info in repo.ancestry(branch=BRANCH):
        if info.id == parent:
            return None
        if info.metadata.get(_MARK) == mark:
            return str(info.id)
    return None


_PARTIAL = re.compile(
    rf"(chunks|manifests|snapshots|transactions|attributes)/{_SNAPSHOT_ID.pattern}#\d+"
    r"|(refs/[^/]+/ref\.json|config\.yaml)#\d+"  # of format 1
    rf"|(repo|overwritten/repo\.\d+\.{_SNAPSHOT_ID.pattern})#\d+"  # of format 2
)
"""Names of the temporary files of Icechunk: it writes a local object to such a file and then
renames the file. Icechunk has no function that lists them. Files with other names are never
touched. Apart from the damage of local lakes (`file_checksums`, `recovery`), no other code depends
on names inside a repository."""


def partial_files(url: str, before: datetime) -> Iterator[Path]:
    """Yield the unfinished files of killed writers in a local lake that are older than `before`."""
    if not is_local(url):
        return
    folder = local_path(url)
    for path in folder.rglob("*#*"):
        ours = _PARTIAL.fullmatch(path.relative_to(folder).as_posix())
        if ours and path.is_file() and path.stat().st_mtime < before.timestamp():
            yield path


@contextlib.contextmanager
def translated_errors(url: str) -> Iterator[None]:
    """Turn full-disk errors of the file system, Zarr and Icechunk into `DiskFullError`."""
    try:
        yield
    except (OSError, icechunk.IcechunkError, ValueError) as error:
        full = disk_full(error, url)
        if full is None:
            raise
        raise full from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, without Icechunk's box drawing characters."""
    lines = [line.strip(" |─╰▶×") for line in str(error).splitlines() if line.strip(" |─╰▶×")]
    return (lines[0].removeprefix("x ") if lines else type(error).__name__)[:200]
