"""Processes that cannot read a lake, since they were forked after a lake had been opened."""

from __future__ import annotations

import os

from qmri_lake.errors import RunError

__all__ = ["check_process"]

_process: int | None = None
"""The process that opened a lake first: this one, or the one from which it was forked."""


def check_process(url: str) -> None:
    """Raise an error in a process that was forked after a lake had been opened.

    The threads of Icechunk do not exist in such a process, so every call would wait forever.

    Raises
    ------
    RunError
        If this process was forked after a lake had been opened.
    """
    global _process
    if _process is None:
        _process = os.getpid()
    if _process != os.getpid():
        raise RunError(
            "this process was forked after a lake had been opened",
            expected="a process with start method forkserver or spawn",
            where=url,
            todo="Use multiprocessing.get_context('forkserver'), or open the first lake after the "
            "fork.",
        )
