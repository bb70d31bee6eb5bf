"""Errors of chunks that cannot be read: damaged or missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from qmri_lake.errors import NotALakeError, QmriLakeError, Reason, UnreadableChunkError
from qmri_lake.store.repository import first_line, is_local, local_path

__all__ = ["check_folder", "named_chunk_errors"]


@contextmanager
def named_chunk_errors(path: str, exams: Callable[[], str], url: str = "") -> Iterator[None]:
    """Turn errors of Zarr, its codecs and Icechunk into `UnreadableChunkError`.

    Parameters
    ----------
    path : str
        Path of the array that is read.
    exams : callable
        Returns the keys of the exams that are read. It is called only if there is an error.
    url : str, optional
        The lake.

    Raises
    ------
    NotALakeError
        If the folder of the lake no longer exists.
    UnreadableChunkError
        If the values cannot be read for another reason.
    """
    try:
        yield
    except (QmriLakeError, MemoryError):
        raise
    except Exception as error:  # each codec has its own error classes
        if url:
            check_folder(url)
        raise UnreadableChunkError(
            f"{path} of {exams()} cannot be read ({first_line(error)})",
            expected="a readable chunk",
            where=url,
            todo="Restore the files of the lake from a copy, or read an earlier commit with "
            "ref=...; `qmri-lake validate LAKE --deep` lists all damaged chunks.",
        ) from error


def check_folder(url: str) -> None:
    """Raise an error if the folder of a local lake no longer exists.

    Raises
    ------
    NotALakeError
        If the folder was moved or removed while the lake was open.
    """
    if is_local(url) and not local_path(url).is_dir():
        raise NotALakeError(
            "the folder no longer exists",
            expected="the folder of the open lake",
            where=url,
            todo="It was moved, renamed or removed. Open the lake at its new location.",
            reason=Reason.NOT_A_LAKE,
        )
