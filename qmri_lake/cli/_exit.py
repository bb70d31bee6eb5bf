"""Exit codes of the commands, and the exception of a command that was stopped."""

from __future__ import annotations

__all__ = ["FINISHED", "NOT_DONE", "SOME_FAILED", "STOPPED", "Stopped"]

FINISHED, SOME_FAILED, NOT_DONE, STOPPED = 0, 1, 2, 130
"""Exit codes. 0: success. 1: finished, but some exams or files failed and are listed. 2: an error
prevented the command from running. 130: stopped by Ctrl-C or SIGTERM."""


class Stopped(Exception):
    """A command was stopped by Ctrl-C. The message lists the kept results and how to resume."""
