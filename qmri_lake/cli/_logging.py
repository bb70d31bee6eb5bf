"""The log of the package on standard error, for ``--verbose``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from qmri_lake.errors import printable

__all__ = ["show_log"]


@contextmanager
def show_log(verbosity: int) -> Iterator[None]:
    """Print the messages of the logger ``qmri_lake`` and of its child loggers to standard error.

    Parameters
    ----------
    verbosity : int
        0 prints nothing, 1 prints messages of level INFO and above, 2 or more also DEBUG.

    Notes
    -----
    Only messages of this process are printed. Workers of a Dask cluster write separate logs.
    """
    logger = logging.getLogger("qmri_lake")
    # Without a handler, Python itself would print warnings.
    handler = _handler() if verbosity else logging.NullHandler()
    level = logger.level
    logger.addHandler(handler)
    if verbosity:
        logger.setLevel(logging.INFO if verbosity == 1 else logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _handler() -> logging.Handler:
    from rich.logging import RichHandler

    from qmri_lake.cli._progress import error_console

    if error_console.is_terminal:
        # This console also shows the progress bars, so that messages appear above the bars.
        return RichHandler(console=error_console, show_path=False)
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler


class _Formatter(logging.Formatter):
    """Format records; control characters, except the breaks of lines, are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n")
