"""Atomic writes: readers see the whole old content of a file or the whole new content."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

__all__ = ["atomic_write", "atomic_write_bytes", "atomic_write_text"]


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, unique: bool = False) -> Iterator[Path]:
    """Replace a file atomically: readers see the whole old content or the whole new content.

    Write to the yielded path inside the ``with`` block. At the end of the block, the file is
    flushed to the disk and renamed to `path`; then the folder is flushed, so that the new content
    also survives a loss of power. If the block raises an error, the unfinished file is removed and
    `path` keeps its old content. `path` also keeps its old content if the process is killed.

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
