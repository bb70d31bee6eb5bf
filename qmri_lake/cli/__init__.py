"""The command line, ``qmri-lake``: thin commands over the functions of a session."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["Stopped", "entry", "main"]

FINISHED, SOME_FAILED, NOT_DONE, STOPPED = 0, 1, 2, 130
"""Exit codes: all well; finished, but some exams or files failed and are listed; could not run;
stopped by Ctrl-C or SIGTERM."""


class Stopped(Exception):
    """A command was stopped by Ctrl-C, and knows itself what is kept and how to go on."""


def entry() -> NoReturn:
    """Run the command of this process and end it."""
    # Batch systems stop a job by SIGTERM: treat it as Ctrl-C, so that what has arrived is kept.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Without the interpreter's shutdown: storage threads that outlive it have crashed there, and
    # turned exit code 2 into 134. Clusters and locks have been closed by their context managers.
    os._exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code. Every error is one line, unless ``--debug``."""
    # Threads of OpenMP that wait for each other would spin, on a busy machine five times the work.
    # Read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given  # wherever it stands, so that it can be added to a failed command
    given = [word for word in given if word != "--debug"]

    from typer.exceptions import Abort, TyperException

    from qmri_lake.cli.app import command
    from qmri_lake.errors import QmriLakeError

    try:
        code = command().main(given or ["--help"], prog_name="qmri-lake", standalone_mode=False)
    except TyperException as error:
        where = getattr(getattr(error, "ctx", None), "command_path", "qmri-lake")
        said = _one_line(error.format_message()).rstrip(".")
        if getattr(error, "option_name", "") in ("--lake", "-l"):
            said += f"; the lake stands by itself: {where} LAKE"
        _say(f"error: {said}. See `{where} --help`.")
        return NOT_DONE
    except Stopped as stop:
        _say(_one_line(stop))
        return STOPPED
    except (Abort, KeyboardInterrupt):
        code = STOPPED
    except BrokenPipeError:
        return FINISHED  # the reader, such as `head`, has seen enough
    except (QmriLakeError, OSError) as error:
        if debug:
            raise
        _say(f"error: {_one_line(error)}")
        return NOT_DONE
    except Exception as error:
        if debug:
            raise
        _say(
            f"error: {type(error).__name__}: {_one_line(error)}. This is a fault of qmri_lake; "
            "--debug shows where."
        )
        return NOT_DONE
    if code == STOPPED:  # which is also how the command line library reports Ctrl-C
        _say("stopped; what was committed is safe, and the same command goes on from there")
    return int(code or FINISHED)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


def _say(text: str) -> None:
    print(text, file=sys.stderr)
