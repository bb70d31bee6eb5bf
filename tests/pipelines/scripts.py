"""Run the pipelines as scripts."""

from __future__ import annotations

import io
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from unittest.mock import patch

PIPELINES = Path(__file__).parents[2] / "pipelines"


def run_script(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a pipeline in another process, and fail the test if its exit code is not 0."""
    done = subprocess.run(
        [sys.executable, PIPELINES / name, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done


def run_script_here(name: str, *arguments: str | Path) -> str:
    """Run a pipeline in this process, without a start of Python; return its output."""
    output = io.StringIO()
    script = str(PIPELINES / name)
    with patch.object(sys, "argv", [script, *map(str, arguments)]), redirect_stdout(output):
        runpy.run_path(script, run_name="__main__")
    return output.getvalue()
