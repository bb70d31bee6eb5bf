"""Check of scripts that start processes: each process imports the script again."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import FrameType

from qmri_lake.errors import RunError

__all__ = ["check_main_guard"]


def check_main_guard(what: str) -> None:
    """Raise an error if a script starts processes outside of ``if __name__ == "__main__"``.

    A new process imports the script. Without this condition, it would also start processes, and
    Python would print a long error from each of them.

    Parameters
    ----------
    what : str
        What starts the processes, for the message.

    Raises
    ------
    RunError
        If a line of the script outside of this condition calls the function.
    """
    script = _script_frame()
    if script is None or _is_guarded(Path(script.f_code.co_filename), script.f_lineno):
        return
    raise RunError(
        f"{what} starts processes, and each of them would run line {script.f_lineno} again",
        expected='this line inside `if __name__ == "__main__":`',
        where=script.f_code.co_filename,
    )


def _script_frame() -> FrameType | None:
    """Return the frame of the script that Python was started with, if a line of it is running."""
    main = sys.modules["__main__"]
    if getattr(main, "__file__", None) is None:  # a console, a notebook or python -c
        return None
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals is main.__dict__ and frame.f_code.co_name == "<module>":
            return frame if Path(frame.f_code.co_filename).is_file() else None
        frame = frame.f_back
    return None


def _is_guarded(script: Path, line: int) -> bool:
    """Return whether a line is inside an ``if`` statement whose condition uses ``__name__``."""
    for node in ast.walk(ast.parse(script.read_bytes())):
        if isinstance(node, ast.If) and node.lineno <= line <= (node.end_lineno or line):
            names = (n.id for n in ast.walk(node.test) if isinstance(n, ast.Name))
            if "__name__" in names:
                return True
    return False
