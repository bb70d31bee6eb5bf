"""The command line, ``qmri-lake``, whose commands call the public functions."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from qmri_lake.cli._exit import FINISHED, NOT_DONE, STOPPED, Stopped

if TYPE_CHECKING:
    from typer.exceptions import TyperException

__all__ = ["Stopped", "entry", "main"]


def entry() -> NoReturn:
    """Run the command of this process and end the process with its exit code."""
    # Batch systems stop a job with SIGTERM. It is treated like Ctrl-C, so that finished exams are
    # committed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code = _escaped_main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Skip the shutdown of the interpreter: storage threads that were still alive have crashed
    # during it, which turned exit code 2 into 134. Context managers have already closed clusters
    # and locks.
    os._exit(code)


def _escaped_main() -> int:
    """Run a command; print tracebacks of ``--debug``, and warnings, without control characters.

    Names of files and of series, which are untrusted, can be part of both.
    """
    import traceback
    import warnings

    from qmri_lake.errors import printable

    write = warnings.formatwarning

    def formatted(*arguments: Any, **options: Any) -> str:
        return printable(write(*arguments, **options), keep="\n")

    warnings.formatwarning = formatted
    try:
        return main()
    except Exception:
        print(printable(traceback.format_exc().rstrip("\n"), keep="\n"), file=sys.stderr)
        return NOT_DONE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Every error is printed as one line, unless ``--debug`` is given. ``--debug`` and ``--verbose``
    are accepted anywhere, so that they can be appended to a command that failed.
    """
    # By default, idle threads of OpenMP spin. On a busy machine, this takes five times the CPU
    # time.
    # torch reads the variable when it is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    verbosity = sum(_verbosity(word) for word in given)
    words = [word for word in given if word != "--debug" and not _verbosity(word)]

    from qmri_lake.cli._logging import show_log

    with show_log(verbosity):
        return _run(words or ["--help"], debug=debug)


def _run(words: list[str], *, debug: bool) -> int:
    from typer.exceptions import Abort, TyperException

    from qmri_lake.cli.app import command
    from qmri_lake.errors import QmriLakeError

    try:
        code = command().main(words, prog_name="qmri-lake", standalone_mode=False)
    except TyperException as error:
        _print_error(f"error: {_usage_error(error)}")
        return NOT_DONE
    except Stopped as stop:
        _print_error(_one_line(stop))
        return STOPPED
    except (Abort, KeyboardInterrupt):
        code = STOPPED
    except BrokenPipeError:
        return FINISHED  # the reader, such as `head`, has closed the pipe
    except (QmriLakeError, OSError) as error:
        if debug:
            raise
        _print_error(f"error: {_one_line(error)}")
        return NOT_DONE
    except MemoryError as error:
        if debug:
            raise
        _print_error(
            f"error: too little memory ({_one_line(error) or 'an allocation failed'}). Committed "
            "results are safe. Use fewer workers, or a machine with more memory."
        )
        return NOT_DONE
    except Exception as error:
        if debug:
            raise
        if _is_damage(error):
            _print_error(
                f"error: the lake cannot be read ({_one_line(error).lstrip(' x')[:200]}). "
                "`qmri-lake doctor LAKE` lists damaged files. Keep the folder."
            )
            return NOT_DONE
        _print_error(
            f"error: {type(error).__name__}: {_one_line(error)}. This is a bug in qmri_lake; "
            "--debug prints the traceback."
        )
        return NOT_DONE
    if code == STOPPED:  # typer also returns this code after Ctrl-C
        _print_error("stopped; committed results are safe. Resume: run the same command again")
    return int(code or FINISHED)


def _is_damage(error: Exception) -> bool:
    """Return whether an error is from Icechunk, or from the checksum of a chunk."""
    names = {kind.__name__ for kind in type(error).__mro__}  # Icechunk is slow to import
    return "IcechunkError" in names or "computed checksum" in str(error)


def _verbosity(word: str) -> int:
    """Return the number of levels that a word of the command line adds to the log's verbosity."""
    if word == "--verbose":
        return 1
    return len(word) - 1 if re.fullmatch("-v+", word) else 0


def _usage_error(error: TyperException) -> str:
    """Return the one-line message for an invalid command line."""
    where = getattr(getattr(error, "ctx", None), "command_path", "qmri-lake")
    message = _one_line(error.format_message()).rstrip(".")
    if getattr(error, "option_name", "") in ("--lake", "-l"):
        message += f"; the lake is an argument, not an option: {where} LAKE"
    return f"{message}. See `{where} --help`."


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


def _print_error(text: str) -> None:
    from qmri_lake.errors import printable

    print(printable(text), file=sys.stderr)
