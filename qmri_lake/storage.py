"""Icechunk under the lake: repositories by URL, the writers' lock, encodings, and commits.

A commit is atomic: a reader sees the last one, whatever happens to a writer. A local lake has one
committer at a time, held by an OS lock that dies with its process. On an object store there is no
lock: a commit that finds another one ahead of it is applied again on top of that.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import icechunk
import numpy as np
import psutil
import zarr
from filelock import FileLock, Timeout
from zarr.codecs import BloscCodec, BloscShuffle, ZstdCodec

from qmri_lake.errors import (
    CommitConflictError,
    DiskFullError,
    LakeLockedError,
    NotALakeError,
    Reason,
    UnknownRefError,
)
from qmri_lake.variables import EXAM_CHUNK, Coordinate, Variable

__all__ = [
    "BRANCH",
    "Node",
    "commit",
    "create_array",
    "create_coordinate",
    "create_repository",
    "disk_full",
    "first_line",
    "is_local",
    "is_locked",
    "local_path",
    "lock_owner",
    "open_repository",
    "open_root",
    "partial_files",
    "readonly_session",
    "resolve",
    "translated_errors",
    "writer_lock",
]

BRANCH = "main"

Node = Any
"""A Zarr group or array. Zarr types every item as either; the path tells which it is."""

LOCK_NAME = "writer.lock"
OWNER_NAME = "writer.json"
_COMMIT_TRIES = 20
_SNAPSHOT_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{20}")  # Crockford base 32

# Our own lock makes local commits safe, so Icechunk's warning about them would only alarm.
icechunk.set_logs_filter("error")


def is_local(url: str) -> bool:
    """Tell whether `url` is a path of this machine."""
    return urlsplit(url).scheme in ("", "file")


def local_path(url: str) -> Path:
    """Return the absolute path of a local `url`; a later change of folder leaves it alone."""
    if not url.startswith("file://"):
        return Path(url).expanduser().resolve()
    host, slash, path = url.removeprefix("file://").partition("/")
    if host not in ("", "localhost"):
        raise NotALakeError(
            f"the host {host!r}",
            expected="file:///folder/name.lake, with three slashes",
            where=url,
            todo="Give a path that is not absolute without file://.",
            reason=Reason.NOT_A_LAKE,
        )
    return Path(unquote(slash + path))


def resolve(url: str) -> str:
    """Return where `url` points to now, wherever this process goes later."""
    return str(local_path(url)) if is_local(url) else url


def _storage(url: str) -> icechunk.Storage:
    """Map a path or an ``s3://``, ``gs://``, ``az://`` URL to storage.

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
    raise NotALakeError(
        f"a URL that starts with {parts.scheme}://",
        expected="a folder, s3://, gs:// or az://account@container/",
        where=url,
        reason=Reason.NOT_A_LAKE,
    )


def create_repository(url: str) -> icechunk.Repository:
    """Create an empty repository whose manifests are split along the exam axis.

    Without the split every commit rewrites the manifest of all exams, and commits slow down as
    the lake grows.
    """
    if is_local(url):
        path = local_path(url)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise NotALakeError(
                "a file or a folder that is not empty",
                expected="a new folder",
                where=url,
                todo="Choose another path for the new lake.",
                reason=Reason.NOT_A_LAKE,
            )
    by_exam = icechunk.ManifestSplittingConfig.from_dict(
        {
            icechunk.ManifestSplitCondition.AnyArray(): {
                icechunk.ManifestSplitDimCondition.Axis(0): EXAM_CHUNK
            }
        }
    )
    config = icechunk.RepositoryConfig.default()
    config.manifest = icechunk.ManifestConfig(splitting=by_exam)
    with translated_errors(url):
        return icechunk.Repository.create(_storage(url), config)


def open_repository(url: str) -> icechunk.Repository:
    """Open an existing repository; needs no write permission."""
    if is_local(url) and not (local_path(url) / "refs").is_dir():
        path = local_path(url)
        found = "an ordinary file" if path.is_file() else "no such folder"
        raise NotALakeError(
            "a folder without a lake in it" if path.is_dir() else found,
            expected="a folder made by `qmri-lake ingest` or ql.create_lake()",
            where=url,
            todo="Check the path.",
            reason=Reason.NOT_A_LAKE,
        )
    try:
        return icechunk.Repository.open(_storage(url))
    except icechunk.IcechunkError as error:
        raise NotALakeError(
            f"something that can't be opened ({first_line(error)})",
            expected="a lake",
            where=url,
            todo="Check the URL and the credentials.",
            reason=Reason.NOT_A_LAKE,
        ) from error


def readonly_session(repo: icechunk.Repository, ref: str | None, url: str) -> icechunk.Session:
    """Open a tag, a branch or a snapshot for reading; the newest commit by default."""
    if ref is None or ref == BRANCH:
        return repo.readonly_session(branch=BRANCH)
    tags, branches = sorted(repo.list_tags()), sorted(repo.list_branches())
    if ref in tags:
        return repo.readonly_session(tag=ref)
    if ref in branches:
        return repo.readonly_session(branch=ref)
    if _SNAPSHOT_ID.fullmatch(ref):
        # Without a match the name itself is wrong, and is reported as such below.
        with contextlib.suppress(icechunk.IcechunkError):
            repo.lookup_snapshot(ref)
            return repo.readonly_session(snapshot_id=ref)
    raise UnknownRefError(
        f"no tag, branch or snapshot {ref!r}",
        expected=f"a tag ({', '.join(tags) or 'none yet'}), a branch ({', '.join(branches)}) "
        "or a snapshot id",
        where=url,
        todo="`lake.history()` lists the snapshots; `lake.tag(name)` makes a tag.",
        reason=Reason.UNKNOWN_REF,
    )


def open_root(store: Any, mode: Literal["r", "r+"] = "r") -> Node:
    """Open the root group of a session's store."""
    return zarr.open_group(store, mode=mode)


def create_array(
    group: Node, variable: Variable, name: str, length: int, sizes: Mapping[str, int]
) -> None:
    """Create the array of a variable with `length` exams (or visits), all of them fill."""
    chunks, shards = variable.chunks(sizes)
    text = variable.dtype == "string"
    codec = BloscCodec(cname="zstd", clevel=3, shuffle=BloscShuffle.bitshuffle)
    group.create_array(
        name,
        shape=(length, *variable.shape(sizes)),
        dtype=np.dtypes.StringDType() if text else variable.dtype,
        chunks=chunks,
        shards=shards,
        fill_value=variable.fill,
        # Bit shuffling needs fixed-size items; xarray refuses nothing but reads strings slower.
        compressors=ZstdCodec(level=3) if text else codec,
        dimension_names=(variable.first_axis, *variable.dims),
        attributes=variable.attributes(),
    )


def create_coordinate(group: Node, coordinate: Coordinate) -> None:
    """Store what the places along a dimension are called, and let stock xarray know it."""
    values = np.asarray(coordinate.values)
    text = values.dtype.kind == "U"
    array = group.create_array(
        coordinate.name,
        shape=values.shape,
        dtype=np.dtypes.StringDType() if text else values.dtype,
        dimension_names=coordinate.dims,
        attributes=coordinate.attributes,
    )
    array[...] = values.astype(object) if text else values
    if coordinate.dims != (coordinate.name,):  # those named as their dimension are known anyway
        known = str(group.attrs.get("coordinates", "")).split()
        group.attrs["coordinates"] = " ".join([*known, coordinate.name])


def commit(
    repo: icechunk.Repository,
    change: Callable[[icechunk.Session], None],
    message: str,
    metadata: Mapping[str, Any] | None = None,
) -> str:
    """Apply `change` to the newest commit and commit it, atomically; return the snapshot id.

    A change that changes nothing makes no commit: an ingest that goes on has no exams to add.
    `change` must be able to run again: when another committer was faster, it is applied on top
    of what that one committed. A merge of overlapping chunks by Icechunk's own solvers would keep
    one side and erase the other's marks.
    """
    for _ in range(_COMMIT_TRIES):
        session = repo.writable_session(BRANCH)
        change(session)
        if not session.has_uncommitted_changes:
            return session.snapshot_id
        try:
            return session.commit(message, metadata=dict(metadata or {}))
        except icechunk.ConflictError:
            continue
    raise CommitConflictError(
        f"another commit ahead of ours {_COMMIT_TRIES} times in a row",
        expected="a quieter lake",
        where=message,
        todo="Nothing was lost; start again to resume.",
    )


@contextlib.contextmanager
def writer_lock(url: str, shown: str | None = None) -> Iterator[None]:
    """Hold the right to commit to a local lake; a second process gets an error naming the first.

    The lock is the operating system's: it goes when its process ends, however it ends. Errors call
    the lake as its user does, which is `shown`.
    """
    where = shown or url
    if not is_local(url):
        yield
        return
    folder = local_path(url)
    lock, owner = FileLock(folder / LOCK_NAME), folder / OWNER_NAME
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise LakeLockedError(
            f"another writer ({_owner(owner)})",
            expected="one writer at a time",
            where=where,
            todo="Wait for it to end, or stop it; reading is possible meanwhile.",
        ) from None
    except OSError as error:
        raise LakeLockedError(
            f"a folder that can't be written ({error.strerror})",
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
            owner.write_text(json.dumps(record))
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def lock_owner(url: str) -> dict[str, Any] | None:
    """Return who wrote last without having finished: a running writer, or one that was killed."""
    path = local_path(url) / OWNER_NAME if is_local(url) else None
    if path is None or not path.exists():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):  # killed while it wrote its name
        return {"host": "unknown", "process": -1, "program": "unknown", "since": "unknown"}
    return record


def is_locked(url: str) -> bool:
    """Tell whether a writer holds the lock of a local lake right now."""
    path = local_path(url) / LOCK_NAME
    if not is_local(url) or not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # no right to try it: ask for the process that left its name
        owner = lock_owner(url)
        return owner is not None and psutil.pid_exists(owner["process"])
    lock.release()
    return False


_PARTIAL = re.compile(
    rf"(chunks|manifests|snapshots|transactions|attributes)/{_SNAPSHOT_ID.pattern}#\d+"
    r"|refs/[^/]+/ref\.json#\d+"
)
"""A local object is written under such a path, then renamed. Icechunk lists no such files, and
whatever else is there is its owner's."""


def partial_files(url: str, before: datetime) -> Iterator[Path]:
    """Yield the files of a local lake whose writer was killed while it wrote them."""
    if not is_local(url):
        return
    folder = local_path(url)
    for path in folder.rglob("*#*"):
        ours = _PARTIAL.fullmatch(path.relative_to(folder).as_posix())
        if ours and path.is_file() and path.stat().st_mtime < before.timestamp():
            yield path


def _owner(path: Path) -> str:
    try:
        record = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return "which has not written its name yet"
    return "process {process} of {program} on {host}, since {since}".format(**record)


@contextlib.contextmanager
def translated_errors(url: str) -> Iterator[None]:
    """Turn "no space" from the file system, Zarr or Icechunk into one clear error."""
    try:
        yield
    except (OSError, icechunk.IcechunkError, ValueError) as error:
        full = disk_full(error, url)
        if full is None:
            raise
        raise full from error


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_RUST_ERRNO = re.compile(r"\(os error (\d+)\)")
"""How Rust's standard library ends an error of the system, in the texts of Icechunk's errors."""


def disk_full(error: BaseException, where: str) -> DiskFullError | None:
    """Return the error to raise when `error` says that there is no room, else None.

    The number of the system's error decides. Words do not: a step may well find a "File too large".
    """
    number = next((n for e in (error, error.__cause__) if (n := _errno(e)) in _FULL), None)
    if number is None:
        return None
    return DiskFullError(
        "a limit on file size" if number == errno.EFBIG else "no space left",
        expected="room for the next exams",
        where=where,
        todo="Free some space and start again: what was committed is safe and will be skipped.",
        reason=Reason.DISK_FULL,
    )


def _errno(error: BaseException | None) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if not isinstance(error, (OSError, icechunk.IcechunkError, ValueError)):
        return None
    try:
        match = _RUST_ERRNO.search(str(error))
    except Exception:  # the text of somebody's exception may raise one itself
        return None
    return int(match[1]) if match else None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text without the drawing that Icechunk puts around."""
    lines = [line.strip(" |─╰▶×") for line in str(error).splitlines() if line.strip(" |─╰▶×")]
    return (lines[0] if lines else type(error).__name__)[:200]
